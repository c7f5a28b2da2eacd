"""Other views of a state that the equation allows: flips, permutations of axes, rolls.

A flip of an axis turns the sign of the vector components along it and swaps the boundary codes of its sides; a permutation of axes permutes
space, the components of each vector, and the codes; a roll shifts periodic axes. Latents follow none of these, so states
are changed before they are encoded, never their latents. Whether the *dynamics* allow them is another question: a flipped layer of
convection falls upwards, which does not matter to an autoencoder.

Source of the set: The Well's own augmentations, used by arXiv:2507.02608.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["flip", "permute", "roll"]
KINDS: tuple[Kind, ...] = ("flip", "permute", "roll")


@dataclass(frozen=True)
class Components:
    """Which channels are components of vectors: `axis[channel]` is the space axis along which a channel points, None for a scalar.

    `vector[channel]` tells the vectors apart, None for a scalar; `axes` is the number of space axes.
    """

    axis: tuple[int | None, ...]
    vector: tuple[str | None, ...]
    axes: int

    @classmethod
    def of(cls, names: Sequence[str], vectors: Sequence[str], axes: Sequence[str]) -> Components:
        """From field names (`velocity_x`), names of their vectors ("" for scalars) and names of the axes."""
        found: list[int | None] = []
        for name, vector in zip(names, vectors, strict=True):
            suffix = name.removeprefix(vector).strip("_") if vector else ""
            found.append(list(axes).index(suffix) if suffix in axes else None)
        kept = [vector if axis is not None else None for axis, vector in zip(found, vectors, strict=True)]
        return cls(tuple(found), tuple(kept), len(axes))


def flip(x: Tensor, axis: int, components: Components) -> Tensor:
    """Mirror one space axis of (..., channel, *space); components along it change sign."""
    axes = components.axes
    sign = x.new_tensor([-1.0 if along == axis else 1.0 for along in components.axis])
    return x.flip(axis - axes) * sign[(...,) + (None,) * axes]


def permute(x: Tensor, order: Sequence[int], components: Components) -> Tensor:
    """New space axis i is old axis `order[i]`, of (..., channel, *space); components follow."""
    axes = len(order)
    lead = x.ndim - axes
    moved = x.permute(*range(lead), *(lead + axis for axis in order))
    known = list(zip(components.axis, components.vector, strict=True))
    source = [
        channel if along is None else known.index((order[along], vector))
        for channel, (along, vector) in enumerate(known)
    ]
    return moved[(..., source) + (slice(None),) * axes]


def roll(x: Tensor, shifts: Sequence[int]) -> Tensor:
    """Shift each space axis of (..., *space) by so many points, round the end; 0 for axes that are not periodic."""
    axes = len(shifts)
    return x.roll(tuple(shifts), dims=tuple(range(-axes, 0)))


@dataclass(frozen=True)
class View:
    """One drawn augmentation: first the flips, then the permutation, then the roll."""

    flips: tuple[bool, ...]
    order: tuple[int, ...]
    shifts: tuple[int, ...]

    def __call__(self, x: Tensor, components: Components) -> Tensor:
        """Of states (..., channel, *space)."""
        for axis, mirrored in enumerate(self.flips):
            if mirrored:
                x = flip(x, axis, components)
        if self.order != tuple(range(len(self.order))):
            x = permute(x, self.order, components)
        return roll(x, self.shifts) if any(self.shifts) else x

    def codes(self, boundary: Tensor) -> Tensor:
        """Of boundary codes (..., axis, side)."""
        parts = [
            boundary[..., axis, :].flip(-1) if flag else boundary[..., axis, :] for axis, flag in enumerate(self.flips)
        ]
        return torch.stack([parts[axis] for axis in self.order], dim=-2)


def draw_view(kinds: Sequence[str], shape: Sequence[int], periodic: Sequence[bool], generator: torch.Generator) -> View:
    """A random view: each axis flipped or not, any order of the axes, any shift of periodic axes.

    Axes of different length, or of different boundaries where a network pads by them, are not exchanged: only orders are drawn
    that keep shape and periodicity.
    """
    axes = len(shape)
    flips = (False,) * axes
    order, shifts = tuple(range(axes)), (0,) * axes
    device = generator.device
    if "flip" in kinds:
        flips = tuple((torch.rand(axes, generator=generator, device=device) < 0.5).tolist())
    if "permute" in kinds:
        alike = [(size, wraps) for size, wraps in zip(shape, periodic, strict=True)]
        drawn = torch.randperm(axes, generator=generator, device=device).tolist()
        free = {kind: [axis for axis in drawn if alike[axis] == kind] for kind in set(alike)}
        order = tuple(free[kind].pop(0) for kind in alike)
    if "roll" in kinds:
        drawn = torch.rand(axes, generator=generator, device=device).tolist()
        shifts = tuple(int(u * size) if wraps else 0 for u, size, wraps in zip(drawn, shape, periodic, strict=True))
    return View(flips, order, shifts)
