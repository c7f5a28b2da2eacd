"""Local analyses: each point of the grid sees the observations around it, the nearer the more.

Few members span few directions; correlations over long distances that they show are chance. At each point the precision R^-1 of an
observation is therefore multiplied by a taper of its distance, and the ensemble transform of that point made from what is left. Weights
change smoothly from point to point, as the transform is symmetric.
Source: Hunt et al. (2007), doi:10.1016/j.physd.2006.11.008; taper: Gaspari and Cohn (1999), doi:10.1002/qj.49712555417, eq. 4.10.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.assimilation.updates import etkf_weights, transform_of
from eddycast.grid import Axis, Grid

CHUNK = 2**22
"""Numbers of weights (point, member, member) that are held at a time: 32 MiB."""


def gaspari_cohn(distance: Tensor, radius: float) -> Tensor:
    """Taper from 1 at distance 0 to 0 at `radius` and beyond; a correlation in up to three dimensions, close to a Gaussian.

    With z = 2 distance / radius: 1 - 5/3 z^2 + 5/8 z^3 + 1/2 z^4 - 1/4 z^5 up to z = 1, then up to 2
    4 - 5 z + 5/3 z^2 + 5/8 z^3 - 1/2 z^4 + 1/12 z^5 - 2 / (3 z). The standard deviation of the Gaussian is 0.27 radii.
    """
    z = 2 * distance / radius
    near = 1 + z**2 * (-5 / 3 + z * (5 / 8 + z * (1 / 2 - z / 4)))
    outer = z.clamp(1, 2)
    far = 4 + outer * (-5 + outer * (5 / 3 + outer * (5 / 8 + outer * (-1 / 2 + outer / 12)))) - 2 / (3 * outer)
    return torch.where(z <= 1, near, torch.where(z < 2, far.clamp(min=0), torch.zeros_like(z)))


def distance_along(axis: Axis, first: Tensor, second: Tensor) -> Tensor:
    """Distance of coordinates along an axis, the shorter way round where it is periodic; 0 where one has no place (NaN)."""
    distance = (first - second).abs()
    if axis.period is not None and axis.periodic:
        distance = torch.remainder(distance, axis.period)
        distance = torch.minimum(distance, axis.period - distance)
    return torch.nan_to_num(distance, nan=0.0)


@dataclass(frozen=True)
class Places:
    """Blocks of neighbouring points that share one analysis.

    Args:
        centres: Mean coordinates of each block, (place, axis), float64.
        point_order: Numbers of the grid's points (flattened), block after block, (point,).
        first_points: Place in that order at which each block begins, and the end, (place + 1,).
    """

    centres: Tensor
    point_order: Tensor
    first_points: Tensor

    @classmethod
    def of(cls, grid: Grid, cells: int) -> Places:
        """Blocks of `cells` points along each axis; the last ones have what is left."""
        numbers = torch.arange(grid.num_points).reshape(grid.shape)
        starts = itertools.product(*(range(0, size, cells) for size in grid.shape))
        blocks = [numbers[tuple(slice(start, start + cells) for start in corner)].flatten() for corner in starts]
        axes = torch.meshgrid(
            *(torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes), indexing="ij"
        )
        points = torch.stack(axes, dim=-1).flatten(0, -2)
        sizes = torch.tensor([0] + [len(block) for block in blocks])
        centres = points if cells == 1 else torch.stack([points[block].mean(dim=0) for block in blocks])
        return cls(centres, torch.cat(blocks), sizes.cumsum(0))

    def chunks(self, points: int) -> Iterator[tuple[int, int]]:
        """Runs of places [start, stop) of about that many points."""
        total = len(self.centres)
        largest = int((self.first_points[1:] - self.first_points[:-1]).max())
        size = max(1, points // largest)
        for start in range(0, total, size):
            yield start, min(start + size, total)


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """Ensemble transform of each place with the observations within `radius` of it.

    Args:
        deviations, innovation: Y (case, member, entry) and d (case, entry) in units of the noise.
        positions: Coordinates of the entries, (case, entry, axis); NaN along axes on which an entry has no place. Distances are
            Euclidean in the units of the grid's coordinates; on a sphere in degrees they are right near the equator only.
        grid: Of the states.
        places: Blocks of it that share an analysis.
        radius: Distance at which the taper ends.
        rotation: Mean-preserving rotation (case, member, member) of the analysed deviations, the same at all places; None for none.
    """

    deviations: Tensor
    innovation: Tensor
    positions: Tensor
    grid: Grid
    places: Places
    radius: float
    rotation: Tensor | None = None

    @property
    def shared(self) -> Tensor:
        """Weights from all observations, for what has no place (a parameter), (case, member, member)."""
        return self._whole(*etkf_weights(self.deviations, self.innovation))

    def __call__(self, ensemble: Tensor) -> Tensor:
        """The analysis of states (member, case, time, channel, *space); in float64, then in their dtype."""
        members, points = ensemble.shape[0], self.grid.num_points
        lead = ensemble.shape[: ensemble.ndim - len(self.grid.axes)]
        rows = ensemble.double().reshape(*lead, points)
        rows = rows.movedim(0, -1).flatten(1, -3).movedim(1, -1)  # (case, point, member, time x channel)
        mean = rows.mean(dim=2, keepdim=True)
        rows = rows - mean
        order, firsts = self.places.point_order.to(rows.device), self.places.first_points
        for start, stop in self.places.chunks(max(1, CHUNK // (members**2 * len(rows)))):
            chosen = order[int(firsts[start]) : int(firsts[stop])]
            weights = self.weights(start, stop)
            sizes = firsts[start + 1 : stop + 1] - firsts[start:stop]
            if int(sizes.max()) > 1:
                weights = weights.repeat_interleave(sizes.to(rows.device), dim=1)
            rows[:, chosen] = weights @ rows[:, chosen]
        rows = (rows + mean).movedim(-1, 1).reshape(*lead[1:], points, members).movedim(-1, 0)
        return rows.reshape(ensemble.shape).to(ensemble.dtype)

    def weights(self, start: int, stop: int) -> Tensor:
        """W of the places [start, stop), (case, place, member, member), float64."""
        y, d = self.deviations.double(), self.innovation.double()
        centres = self.places.centres[start:stop].to(y.device)
        positions = self.positions.to(y.device)
        near = self._within_reach(centres, positions)
        y, d, positions = y[..., near], d[..., near], positions[:, near]
        squared = torch.zeros((), dtype=torch.float64, device=y.device)
        for number, axis in enumerate(self.grid.axes):
            here, there = centres[None, :, None, number], positions[:, None, :, number]
            squared = squared + distance_along(axis, here, there).square()
        taper = gaspari_cohn(squared.sqrt(), self.radius).expand(len(y), stop - start, y.shape[-1])
        members = y.shape[1]
        # Y R^-1 Y^T of all places in one product: pairs of members are the columns.
        pairs = (y[:, :, None] * y[:, None]).flatten(1, 2)  # (case, pair, entry)
        gram = (taper @ pairs.mT).unflatten(-1, (members, members))
        projected = taper @ (y * d[:, None]).mT
        return self._whole(*transform_of(gram, projected))

    def _within_reach(self, centres: Tensor, positions: Tensor) -> Tensor:
        """Entries that may lie within the radius of one of the centres, along each axis by itself, (entry,)."""
        near = torch.ones(positions.shape[1], dtype=torch.bool, device=positions.device)
        for number, axis in enumerate(self.grid.axes):
            low, high = centres[:, number].min(), centres[:, number].max()
            middle, half = (low + high) / 2, (high - low) / 2
            away = distance_along(axis, positions[..., number], middle) - half
            near &= (away <= self.radius).any(dim=0)
        return near

    def _whole(self, weights: Tensor, transform: Tensor) -> Tensor:
        if self.rotation is not None:
            rotation = self.rotation.to(transform)
            transform = (rotation[:, None] if transform.ndim == 4 else rotation) @ transform
        return weights[..., None, :] + transform
