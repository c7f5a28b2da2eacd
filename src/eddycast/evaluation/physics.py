"""Physics checks: quantities that a law of nature rules, of members and of the truth side by side, lead by lead.

A quantity is one number per state. `energy` follows a law of its own (it decays as the damping says); `divergence` and `slip` are
residuals, which the truth has close to zero. To add one: a function `_name(setting)` that returns the function of the states, or
None where the fields do not fit; a row in `QUANTITIES`; a row in `docs/scores.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.resampling import Resampling
from eddycast.evaluation.verification import Verification
from eddycast.metrics import mask_weights, relative_divergence, slip, weighted_mean
from eddycast.simulators import spring_mesh

Measure = Callable[[Tensor, int], Tensor]
"""Takes states (*batch, channel, *space), 0 where there is none, and their trajectory; returns (*batch), float64."""
ENDS = ("", "_low", "_high")


@dataclass(frozen=True, eq=False)
class Setting:
    """What is scored: field names in the order of the channels, and the truth with its grid, parameters and static fields."""

    names: tuple[str, ...]
    truth: Verification

    def places(self, *choices: Sequence[str]) -> list[int] | None:
        """Channels of the first choice of names that are all there."""
        for names in choices:
            if set(names) <= set(self.names):
                return [self.names.index(name) for name in names]
        return None

    def velocity(self) -> list[int] | None:
        """Channels of the components along the axes: `velocity_x`, ..., or `u`, `v`, `w` along x, y, z."""
        letters = dict(zip("xyz", "uvw", strict=True))
        axes = self.truth.grid.names
        return self.places([f"velocity_{axis}" for axis in axes], [letters.get(axis, "") for axis in axes])

    def parameter(self, name: str, trajectory: int, default: float) -> float:
        """A scalar parameter of a trajectory; the default where the data have none of that name."""
        data = self.truth.dataset
        if data is None or name not in data.parameter_names:
            return default
        return float(data.parameters(trajectory)[data.parameter_names.index(name)])

    def static(self, name: str, trajectory: int) -> Tensor | None:
        """A static field of a trajectory as a mask, bool (*space)."""
        data = self.truth.dataset
        if data is None or name not in data.static_names:
            return None
        fields = data.conditions([trajectory], [0]).static_fields()
        assert fields is not None, "named static fields are there"
        return fields.reshape(-1, *data.grid.shape)[data.static_names.index(name)] > 0.5


@dataclass(frozen=True)
class Quantity:
    """One check.

    Args:
        title: In words.
        needs: What fields it takes, for who asks in vain.
        of: The function of the states, or None where the fields do not fit.
        residual: True where nature has zero: then members are held against that, and not told as a share of the truth.
        unasked: Whether it is computed wherever it fits.
    """

    title: str
    needs: str
    of: Callable[[Setting], Measure | None]
    residual: bool = False
    unasked: bool = True


def _energy(setting: Setting) -> Measure | None:
    """sum |p|^2 / (2 m) + k sum (|q_a - q_b| - L)^2 / 2 of a mesh of springs, k and m from the parameters of the data or 1."""
    channels = setting.places(
        ("momentum_x", "momentum_y", "position_x", "position_y"), ("p_x", "p_y", "q_x", "q_y"), ("px", "py", "qx", "qy")
    )
    if channels is None or len(setting.truth.grid.shape) != 2:
        return None

    def measure(states: Tensor, trajectory: int) -> Tensor:
        numbers = [setting.parameter(name, trajectory, 1.0) for name in ("spring_constant", "mass")]
        mesh = states[..., channels, :, :].to(torch.float64)
        return spring_mesh.energy(mesh, torch.tensor([*numbers, 0.0], dtype=torch.float64))

    return measure


def _kinetic_energy(setting: Setting) -> Measure | None:
    """Mean of |u|^2 / 2 over the points, with the weights of the grid."""
    channels, grid = setting.velocity(), setting.truth.grid
    if channels is None:
        return None
    weights, space = mask_weights(grid.weights(), setting.truth.valid), len(grid.axes)

    def measure(states: Tensor, trajectory: int) -> Tensor:
        velocity = states.index_select(-space - 1, torch.tensor(channels)).to(torch.float64)
        return weighted_mean(velocity.square().sum(dim=-space - 1), weights) / 2

    return measure


def _divergence(setting: Setting) -> Measure | None:
    channels, grid = setting.velocity(), setting.truth.grid
    if channels is None or len(channels) < 2 or min(grid.shape) < 2:
        return None

    def measure(states: Tensor, trajectory: int) -> Tensor:
        return relative_divergence(states.index_select(-len(grid.axes) - 1, torch.tensor(channels)), grid)

    return measure


def _slip(setting: Setting) -> Measure | None:
    """Solid are the obstacles, and prescribed nodes but for the first along the first axis, through which the flow comes in."""
    channels, data = setting.velocity(), setting.truth.dataset
    if channels is None or data is None or "obstacle_mask" not in data.static_names:
        return None
    space = len(setting.truth.grid.axes)

    def measure(states: Tensor, trajectory: int) -> Tensor:
        bodies, prescribed = (setting.static(name, trajectory) for name in ("obstacle_mask", "dirichlet_mask"))
        assert bodies is not None, "asked for above"
        solid, fluid = bodies, ~bodies
        if prescribed is not None:
            walls = prescribed.clone()
            walls[0] = False
            solid, fluid = bodies | walls, ~(bodies | prescribed)
        return slip(states.index_select(-space - 1, torch.tensor(channels)), solid, fluid)

    return measure


QUANTITIES: dict[str, Quantity] = {
    "energy": Quantity(
        "Energy of the springs",
        "momentum_x, momentum_y, position_x, position_y (or p_x, p_y, q_x, q_y) on two axes",
        _energy,
    ),
    "kinetic-energy": Quantity(
        "Kinetic energy",
        "a velocity component for each axis (velocity_x, ... or u, v, w)",
        _kinetic_energy,
        unasked=False,
    ),
    "divergence": Quantity(
        "Divergence over velocity gradient",
        "a velocity component for each of two or three axes (velocity_x, ... or u, v, w)",
        _divergence,
        residual=True,
        unasked=False,
    ),
    "slip": Quantity(
        "Slip: speed on bodies over speed of the fluid",
        "a velocity component for each axis, and the static field obstacle_mask",
        _slip,
        residual=True,
    ),
}


class PhysicsChecks:
    """Per case and lead, so that pieces and processes join.

    Args:
        measures: By name.
        shape: (case, lead).
    """

    def __init__(self, measures: dict[str, Measure], shape: tuple[int, int]) -> None:
        self.measures = measures
        self.member, self.truth, self.error = (
            torch.zeros(len(measures), *shape, dtype=torch.float64) for _ in range(3)
        )
        self.begin = torch.zeros(len(measures), shape[0], dtype=torch.float64)

    def add(
        self, case: int, part: slice, ensemble: Tensor, truth: Tensor, trajectory: int, start: Tensor | None
    ) -> None:
        """One case: ensemble (member, lead, channel, *space), truth (lead, channel, *space); with the first piece the truth at lead 0.

        Points that are NaN in the state of the truth are bodies or land, and 0 for everyone.
        """
        nowhere = truth.isnan()
        for row, measure in enumerate(self.measures.values()):
            values = measure(torch.where(nowhere, 0.0, ensemble), trajectory)
            known = measure(torch.where(nowhere, 0.0, truth), trajectory)
            self.truth[row, case, part] = known
            self.member[row, case, part] = values.mean(dim=0)
            self.error[row, case, part] = (values - known).abs().mean(dim=0)
            if start is not None:
                self.begin[row, case] = (
                    measure(start.nan_to_num(0.0), trajectory) if start.isfinite().any() else torch.nan
                )

    def stores(self) -> list[Tensor]:
        """Zero for the cases of other processes: to be summed over processes in place."""
        return [self.member, self.truth, self.error, self.begin]

    def finish(self, available: Tensor, resampling: Resampling) -> xr.Dataset:
        """Means over cases: `physics_member`, with `_low` and `_high`, and `physics_truth` (quantity, lead_time); `physics_error`,
        the mean of |member - truth| over the mean of |truth|, NaN for residuals; `physics_start` (quantity), the truth at lead 0.
        """
        shown = available.all(dim=-1)
        count = shown.sum(dim=0)
        means = [torch.where(shown, part, 0.0).sum(dim=1) / count for part in (self.member, self.truth, self.error)]
        sizes = torch.where(shown, self.truth.abs(), 0.0).sum(dim=1) / count
        residual = torch.tensor([QUANTITIES[name].residual for name in self.measures])
        share = torch.where(residual[:, None], torch.nan, means[2] / sizes)
        intervals = [resampling.interval(part, available=shown) for part in self.member]
        ends = {"": means[0]} | {end: torch.stack([getattr(one, end[1:]) for one in intervals]) for end in ENDS[1:]}
        dims = ("quantity", "lead_time")
        variables: dict[str, Any] = {f"physics_member{end}": (dims, value.numpy()) for end, value in ends.items()}
        variables |= {"physics_truth": (dims, means[1].numpy()), "physics_error": (dims, share.numpy())}
        variables["physics_start"] = ("quantity", self.begin.mean(dim=1).numpy())
        return xr.Dataset(variables, {"quantity": np.asarray(list(self.measures), dtype=np.str_)})


def physics_summary(data: xr.Dataset) -> dict[str, Any]:
    """Plain and nested: by quantity, the truth at lead 0, then members and truth at the first and the last lead."""
    content: dict[str, Any] = {}
    for name in data["quantity"].values:
        one = data.sel(quantity=name)
        content[str(name)] = {"start": float(one["physics_start"])} | {
            f"{label}_lead": {
                "lead_time": float(one["lead_time"].values[place]),
                **{part: float(one[f"physics_{part}"].values[place]) for part in ("member", "truth", "error")},
            }
            for place, label in ((0, "first"), (-1, "last"))
        }
    return content


def physics_checks(
    asked: Sequence[str] | None, truth: Verification, channels: list[int], *, cases: int, leads: int
) -> PhysicsChecks | None:
    """The quantities that were asked for; with None those that the fields are plainly meant for. None where there are none.

    Where there is an obstacle mask, `divergence` needs no asking either.
    Raises: InputError for an unknown name, or fields that do not fit.
    """
    setting = Setting(tuple(truth.names[channel] for channel in channels), truth)
    if asked is None:
        names = [name for name, one in QUANTITIES.items() if one.unasked and one.of(setting) is not None]
        names += ["divergence"] if "slip" in names else []
    else:
        names = list(dict.fromkeys(asked))
    measures: dict[str, Measure] = {}
    for name in names:
        if name not in QUANTITIES:
            raise InputError(f"There is no quantity {name!r}: use {', '.join(QUANTITIES)}, or leave --quantity out.")
        measure = QUANTITIES[name].of(setting)
        if measure is None:
            raise InputError(
                f"The quantity {name!r} needs {QUANTITIES[name].needs}; here are {', '.join(setting.names)} on "
                f"{', '.join(truth.grid.names)}: rename fields, or leave it out."
            )
        measures[name] = measure
    return PhysicsChecks(measures, (cases, leads)) if measures else None
