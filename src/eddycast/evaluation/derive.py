"""Quantities that are scored in the place of fields: the vorticity of a velocity in the plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.verification import Verification
from eddycast.metrics import published_vorticity, vorticity

Quantity = Literal["vorticity", "vorticity-published"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)


@dataclass(frozen=True)
class Derivation:
    """The truth as it is scored, how a forecast's fields become what is scored, and a remark for the reader.

    Args:
        truth: With the derived fields and their units.
        apply: Takes the chosen fields (*batch, channel, *space), returns the derived ones, likewise.
        note: One sentence on the convention.
    """

    truth: Verification
    apply: Callable[[Tensor], Tensor]
    note: str


def derivation(name: str, truth: Verification, channels: list[int]) -> Derivation:
    """The vorticity in the place of the two components of a velocity; other fields stay.

    The components are `velocity_x` and `velocity_y` (with the names of the axes), or `u` and `v`, or the only two fields,
    in the order of the axes.

    Args:
        name: `vorticity`, dv/dx - du/dy in physical units, by spectral derivatives; or `vorticity-published`, du/dy - dv/dx
            by centred differences per grid step.
        truth: What the forecast is verified against.
        channels: Fields of the truth that the forecast has.

    Raises: InputError for an unknown name, a grid that is not periodic in two directions, land, or without a velocity.
    """
    if name not in QUANTITIES:
        raise InputError(f"Nothing called {name!r} can be derived: use {' or '.join(QUANTITIES)}.")
    grid = truth.grid
    if len(grid.axes) != 2 or not all(grid.periodic) or truth.valid is not None:
        came = [f"{axis.name} ({'periodic' if axis.periodic else 'bounded'})" for axis in grid.axes]
        land = "" if truth.valid is None else ", and points without values"
        raise InputError(
            f"A vorticity needs a velocity at every point of two periodic axes, this grid has {', '.join(came)}{land}: leave "
            "--derive out."
        )
    names = [truth.names[channel] for channel in channels]
    pair = _components(names, grid.names)
    curl = vorticity if name == "vorticity" else published_vorticity
    others = [place for place in range(len(names)) if place not in pair]

    def apply(states: Tensor) -> Tensor:
        velocity = states[..., list(pair), :, :]
        return torch.cat([curl(velocity, grid).unsqueeze(-3), states[..., others, :, :]], dim=-3)

    def fetch(trajectory: int, frames: np.ndarray) -> Tensor:
        return apply(truth.fetch(trajectory, frames)[:, channels])

    speed = truth.units[channels[pair[0]]]
    length = grid.axes[0].units
    physical = "1" if speed == length == "1" else f"{speed} ({length})-1"
    kept = [channels[place] for place in others]
    derived = replace(
        truth,
        names=(name.replace("-", "_"), *(truth.names[channel] for channel in kept)),
        units=(physical if name == "vorticity" else speed, *(truth.units[channel] for channel in kept)),
        fetch=fetch,
    )
    return Derivation(derived, apply, _NOTES[name].format(" and ".join(names[place] for place in pair)))


_NOTES = {
    "vorticity": "Scored is the vorticity dv/dx - du/dy of {}, by spectral derivatives, in physical units.",
    "vorticity-published": "Scored is du/dy - dv/dx of {} by centred differences per grid step, as published: minus the "
    "vorticity times the grid spacing.",
}


def _components(names: list[str], axes: tuple[str, ...]) -> tuple[int, int]:
    """Places of the components along the first and the second axis."""
    known = [tuple(f"velocity_{axis}" for axis in axes)]
    letters = {"x": "u", "y": "v"}
    if set(axes) == set(letters):
        known.append(tuple(letters[axis] for axis in axes))
    for first, second in known:
        if first in names and second in names:
            return names.index(first), names.index(second)
    if len(names) == 2:
        return 0, 1
    raise InputError(
        f"A vorticity needs the two components of a velocity, {' and '.join(known[0])}; the forecast has "
        f"{', '.join(names)}: rename them, or leave --derive out."
    )
