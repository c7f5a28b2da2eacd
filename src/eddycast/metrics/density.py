"""Histograms of one, two or three quantities at once, filled piece by piece, and how far two of them are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.metrics.chunks import spans

MOST_BINS = 10_000_000


@dataclass(frozen=True, eq=False)
class Histogram:
    """Mass of each cell of a grid of bins, with open bins (tails) below the first and above the last edge of each axis.

    Start with `empty_histogram`; `add` returns a new one. Everything outside the edges is kept, in the tails, and enters
    marginals and distances: a histogram that drops it flatters a forecast that runs away.

    Args:
        edges: Increasing edges of the bins, one tensor (bin + 1,) for each quantity, float64.
        mass: Summed weights, (bin + 2, ...), the tails first and last on each axis, float64.
        lost: Summed weights of points where a quantity was not finite.
    """

    edges: tuple[Tensor, ...]
    mass: Tensor
    lost: float = 0.0

    def add(self, *values: Tensor, weights: Tensor | None = None) -> Histogram:
        """With more points counted.

        Args:
            values: One tensor (*batch, *space) for each axis, all of one shape.
            weights: (*space), quadrature; points of weight zero may hold anything. None counts every point as one.

        Raises: ValueError for the wrong number of quantities or shapes that disagree.
        """
        if len(values) != len(self.edges) or any(value.shape != values[0].shape for value in values):
            shapes = ", ".join(str(tuple(value.shape)) for value in values)
            raise ValueError(f"Expected {len(self.edges)} quantities of one shape, got {len(values)}: {shapes}.")
        scale = torch.ones((), dtype=torch.float64) if weights is None else weights.to(torch.float64)
        if values[0].shape[values[0].ndim - scale.ndim :] != scale.shape:
            raise ValueError(f"values {tuple(values[0].shape)} must end in the shape of weights {tuple(scale.shape)}.")
        points = scale.numel()
        scale = scale.to(self.mass.device).flatten()
        flat = [value.reshape(-1, points) for value in values]
        mass, lost = self.mass.flatten().clone(), self.lost
        counted = (scale > 0).nonzero().flatten() if bool((scale == 0).any()) else None
        across = max(1, min(points, 2**18))
        for case in spans(len(flat[0]), 40 * across):
            for first in range(0, points, across):
                place: slice | Tensor = slice(first, first + across)
                if counted is not None:
                    place = counted[(counted >= first) & (counted < first + across)]
                taken = [value[case, place].to(device=mass.device, dtype=torch.float64) for value in flat]
                weight = scale[place].expand(taken[0].shape)
                finite = torch.stack([value.isfinite() for value in taken]).all(dim=0)
                cell = torch.zeros(taken[0].shape, dtype=torch.long, device=mass.device)
                for value, edges in zip(taken, self.edges, strict=True):
                    bins = torch.bucketize(value, edges, right=True)
                    bins = torch.where(value == edges[-1], len(edges) - 1, bins)  # the last bin is closed
                    cell = cell * (len(edges) + 1) + bins
                kept = torch.where(finite, weight, 0.0)
                mass += torch.bincount(cell.flatten(), kept.flatten(), minlength=len(mass))
                lost += float((weight - kept).sum())
        return replace(self, mass=mass.reshape(self.mass.shape), lost=lost)

    def __add__(self, other: Histogram) -> Histogram:
        """Points of both. Raises: ValueError for other edges."""
        _check_edges(self, other)
        return replace(self, mass=self.mass + other.mass, lost=self.lost + other.lost)

    @property
    def probability(self) -> Tensor:
        """Mass divided by its sum, tails included; NaN while empty."""
        return self.mass / self.mass.sum()

    @property
    def outside(self) -> float:
        """Probability that a quantity lies beyond its edges."""
        inside = self.probability[(slice(1, -1),) * self.mass.ndim]
        return max(float(1 - inside.sum()), 0.0)  # no -0 from rounding; NaN, which must come first, while empty

    @property
    def density(self) -> Tensor:
        """Probability per unit of each quantity inside the edges, (bin, ...); its integral is 1 - `outside`."""
        inside = self.probability[(slice(1, -1),) * self.mass.ndim]
        for axis, edges in enumerate(self.edges):
            shape = [1] * inside.ndim
            shape[axis] = -1
            inside = inside / torch.diff(edges).reshape(shape)
        return inside

    def marginal(self, axis: int) -> Histogram:
        """Of one quantity, whatever the others are, their tails included."""
        others = [dim for dim in range(self.mass.ndim) if dim != axis % self.mass.ndim]
        mass = self.mass.sum(dim=others) if others else self.mass
        return Histogram((self.edges[axis],), mass, self.lost)


def empty_histogram(*edges: Tensor | Sequence[float], device: torch.device | None = None) -> Histogram:
    """No points yet, on bins with these edges: one list for a PDF, two or three for a joint PDF.

    Raises: ValueError for no edges, edges that do not increase, or more than `MOST_BINS` cells.
    """
    axes = tuple(torch.as_tensor(axis, dtype=torch.float64, device=device) for axis in edges)
    if not axes or any(axis.ndim != 1 or len(axis) < 2 or not bool((torch.diff(axis) > 0).all()) for axis in axes):
        raise ValueError("A histogram needs two or more increasing edges for each quantity.")
    shape = tuple(len(axis) + 1 for axis in axes)
    if math.prod(shape) > MOST_BINS:
        raise ValueError(f"A histogram of {math.prod(shape)} cells is too fine: take at most {MOST_BINS}.")
    return Histogram(axes, torch.zeros(shape, dtype=torch.float64, device=device))


def even_edges(values: Tensor, bins: int, weights: Tensor | None = None) -> Tensor:
    """Edges of equal bins from the lowest to the highest finite value, (bins + 1,); of the truth, to be shared by forecasts.

    Args:
        values: (*batch, *space).
        bins: How many.
        weights: (*space); points of weight zero do not count.

    Raises: ValueError without a finite value. A constant gets bins around it.
    """
    usable = values.isfinite()
    if weights is not None:
        usable = usable & (weights.to(values.device) > 0)
    if not bool(usable.any()):
        raise ValueError("No finite value to take the edges of a histogram from.")
    low = float(torch.where(usable, values, math.inf).min())
    high = float(torch.where(usable, values, -math.inf).max())
    if not high > low:
        low, high = low - 0.5 * max(abs(low), 1.0), high + 0.5 * max(abs(high), 1.0)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    edges[0], edges[-1] = low, high
    return edges


def hellinger(first: Histogram, second: Histogram) -> float:
    """sqrt(sum (sqrt p - sqrt q)^2 / 2), in [0, 1], tails included. Raises: ValueError for other edges."""
    _check_edges(first, second)
    return float(((first.probability.sqrt() - second.probability.sqrt()).square().sum() / 2).sqrt())


def total_variation(first: Histogram, second: Histogram) -> float:
    """sum |p - q| / 2, in [0, 1]: the largest difference in the probability of any event made of cells."""
    _check_edges(first, second)
    return float((first.probability - second.probability).abs().sum() / 2)


def jensen_shannon(first: Histogram, second: Histogram) -> float:
    """Mean Kullback-Leibler divergence of both from their mean, in bits, in [0, 1]; its root is a distance."""
    _check_edges(first, second)
    p, q = first.probability, second.probability
    middle = (p + q) / 2
    parts = [torch.where(one > 0, one * (one / middle).log2(), 0.0).sum() / 2 for one in (p, q)]
    return math.nan if bool(middle.isnan().any()) else max(0.0, float(parts[0] + parts[1]))


def log_ratio(forecast: Histogram, truth: Histogram) -> Tensor:
    """log10 of forecast over truth probability in each cell, tails included: +-infinity where one is empty, NaN both."""
    _check_edges(forecast, truth)
    return (forecast.probability / truth.probability).log10()


def _check_edges(first: Histogram, second: Histogram) -> None:
    same = len(first.edges) == len(second.edges)
    if not same or not all(torch.equal(one, two) for one, two in zip(first.edges, second.edges, strict=True)):
        raise ValueError("The histograms have different edges: fill both from one `empty_histogram`.")
