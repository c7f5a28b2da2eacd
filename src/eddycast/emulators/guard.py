"""Keep long rollouts within what the data show to be conserved and resolved.

A network trained on smooth fields knows nothing of modes that are empty in its training data: whatever it leaves there is
not damped, feeds back at each step, and ends a long stochastic rollout. Two facts about the system are visible in any
training set and cure it: spatial means that do not change along a trajectory are conserved, and every mode has a largest
amplitude, zero for those beyond the resolved band.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.grid import Grid


@dataclass(frozen=True)
class SpectralGuard:
    """Projection of states onto the conserved means and the band of amplitudes seen in training.

    Args:
        conserved: Channels whose spatial mean is constant along trajectories, (channel,) bool.
        ceiling: Largest amplitude allowed to each mode of a real FFT (norm "forward") along the periodic axes, (channel, *modes);
            0 removes the mode. Empty when no axis is periodic.
        periodic: Which space axes are periodic.
        lengths: Length of each axis of the grid on which it was measured (the period of a periodic one); empty for a guard of one grid.

    Applied to model space that is an affine map of the physical fields with one scale per channel; anything else has other modes.
    """

    conserved: Tensor
    ceiling: Tensor
    periodic: tuple[bool, ...]
    lengths: tuple[float, ...] = ()

    @classmethod
    def fit(cls, x: Tensor, periodic: tuple[bool, ...], *, floor: float = 1e-10, margin: float = 1.2) -> SpectralGuard:
        """Measure on windows of training data (batch, time, channel, *space).

        Args:
            floor: Modes with less than this part of the largest mean power of their channel are empty: float32 noise, or beyond a solver's
                dealiasing cut.
            margin: Factor on the largest amplitude seen, since the data are finite.
        """
        space = tuple(range(-len(periodic), 0))
        mean = x.mean(dim=space)
        wander = (mean - mean[:, :1]).square().mean(dim=(0, 1)).sqrt()
        std = x.std(dim=(0, 1, *space)).clamp_min(1e-12)
        conserved = wander < 1e-4 * std
        dims = _wrapped(periodic)
        if not dims:
            return cls(conserved, x.new_zeros(0), periodic)
        amplitude = torch.fft.rfftn(x, dim=dims, norm="forward").abs()
        power = amplitude.square().mean(dim=(0, 1))
        peak = power.flatten(1).amax(dim=1)[(...,) + (None,) * len(periodic)]
        largest = amplitude.flatten(0, 1).amax(dim=0)
        return cls(conserved, torch.where(power > floor * peak, margin * largest, 0.0), periodic)

    def of(self, grid: Grid) -> SpectralGuard:
        """The same guard with the lengths of the grid on which it was measured, so that it knows others."""
        return replace(self, lengths=lengths(grid))

    def fits(self, grid: Grid) -> bool:
        """Whether the modes of a grid are those of the ceiling; a guard without lengths is taken at its word."""
        points = [grid.shape[dim] for dim in _wrapped(self.periodic)]
        modes = [*points[:-1], points[-1] // 2 + 1] if points else []
        return not self.lengths or (
            lengths(grid) == self.lengths and [self.ceiling.shape[dim] for dim in _wrapped(self.periodic)] == modes
        )

    def on(self, grid: Grid) -> SpectralGuard:
        """The guard for another grid: the ceiling of a mode is that of the nearest wavenumbers, in radians per length.

        A mode of a statistically homogeneous field holds the power of a band as wide as the spacing of modes, so amplitudes go as the
        root of measured length / length along each axis. Between two wavenumbers that were measured the larger ceiling holds; beyond the
        highest nothing is known, and the mode is removed. Along a bounded axis of another number of points the largest ceiling holds.

        Raises: ValueError for a guard without lengths, or a grid of other periodic axes.
        """
        if grid.periodic != self.periodic or len(self.lengths) != len(self.periodic):
            raise ValueError(
                f"A guard of {self.periodic} with lengths {self.lengths} does not fit a grid of {grid.periodic}."
            )
        new, dims = lengths(grid), _wrapped(self.periodic)
        if not dims:
            return replace(self, lengths=new)
        ceiling = self.ceiling
        for dim in dims:
            half = dim == dims[-1]
            ratio = self.lengths[dim] / new[dim]
            wanted = _numbers(grid.shape[dim], half, ceiling.device)
            place = wanted.abs().double() * ratio  # number of the mode of the same wavenumber where it was measured
            near = (place + 1e-6).floor().long(), (place - 1e-6).ceil().long()
            reach = ceiling.shape[dim] - 1 if half else ceiling.shape[dim] // 2
            highest = torch.stack([_row(ceiling, dim, number, wanted, half, reach) for number in near]).amax(dim=0)
            ceiling = highest * math.sqrt(ratio)
        for dim, points in zip(range(-len(grid.shape), 0), grid.shape, strict=True):
            if dim not in dims and ceiling.shape[dim] != points:
                ceiling = ceiling.amax(dim=dim, keepdim=True).repeat_interleave(points, dim=dim)
        return replace(self, ceiling=ceiling, lengths=new)

    @classmethod
    def joined(cls, guards: Sequence[SpectralGuard], grid: Grid) -> SpectralGuard:
        """One guard for all that several have seen, on a grid of its own: the highest ceiling, and what is conserved in all."""
        moved = [guard.on(grid) for guard in guards]
        conserved = torch.stack([guard.conserved for guard in moved]).all(dim=0)
        ceiling = torch.stack([guard.ceiling for guard in moved]).amax(dim=0)
        return cls(conserved, ceiling, grid.periodic, lengths(grid))

    def means(self, x: Tensor) -> Tensor:
        """Spatial means (batch, 1, channel, 1, ...) of the last state of x (batch, time, channel, *space)."""
        return x[:, -1:].mean(dim=tuple(range(-len(self.periodic), 0)), keepdim=True)

    def __call__(self, x: Tensor, means: Tensor | None) -> Tensor:
        """States (batch, time, channel, *space) with conserved means reset to `means` and amplitudes below the ceiling.

        A member that has already become non-finite stays so: the guard prevents, it does not hide.
        """
        dims = _wrapped(self.periodic)
        if dims:
            modes = torch.fft.rfftn(x, dim=dims, norm="forward")
            ceiling = self.ceiling.to(x)
            modes = modes * (ceiling / modes.abs().clamp_min(1e-30)).clamp_max(1.0)
            x = torch.fft.irfftn(modes, s=[x.shape[d] for d in dims], dim=dims, norm="forward")
        if means is None:
            return x
        space = tuple(range(-len(self.periodic), 0))
        drift = x.mean(dim=space, keepdim=True) - means
        return x - torch.where(self.conserved.to(x.device)[(...,) + (None,) * len(space)], drift, 0.0)

    def to_tensors(self) -> dict[str, Tensor]:
        tensors = {"conserved": self.conserved, "ceiling": self.ceiling, "periodic": torch.tensor(self.periodic)}
        return tensors | ({"lengths": torch.tensor(self.lengths, dtype=torch.float64)} if self.lengths else {})

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SpectralGuard:
        known = tuple(tensors["lengths"].tolist()) if "lengths" in tensors else ()
        return cls(tensors["conserved"], tensors["ceiling"], tuple(tensors["periodic"].tolist()), known)


def lengths(grid: Grid) -> tuple[float, ...]:
    """Period of each periodic axis, number of points of the others: they are not transformed."""
    return tuple(axis.period or float(axis.size) if axis.periodic else float(axis.size) for axis in grid.axes)


def _numbers(points: int, half: bool, device: torch.device) -> Tensor:
    """Signed numbers of the modes along an axis, in the order of the FFT, or from 0 on where only half of them are kept."""
    if half:
        return torch.arange(points // 2 + 1, device=device)
    return torch.fft.fftfreq(points, 1 / points, device=device).round().long()


def _row(ceiling: Tensor, dim: int, number: Tensor, sign: Tensor, half: bool, reach: int) -> Tensor:
    """Entries of the ceiling along an axis at the numbers of modes, with the signs of others; 0 beyond `reach`."""
    size = ceiling.shape[dim]
    index = number.clamp_max(reach)
    index = index if half else torch.where(sign < 0, (size - index) % size, index)
    taken = ceiling.index_select(dim, index.clamp_max(size - 1))
    inside = (number <= reach).to(ceiling)
    return taken * inside.reshape([-1 if axis == ceiling.ndim + dim else 1 for axis in range(ceiling.ndim)])


def _wrapped(periodic: tuple[bool, ...]) -> tuple[int, ...]:
    """Negative dimensions of the periodic axes."""
    return tuple(axis - len(periodic) for axis, wrap in enumerate(periodic) if wrap)
