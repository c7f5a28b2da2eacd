"""Correlation of a field with itself at other places and times, and how far it reaches."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class LaggedProducts:
    """Sums from which a correlation is made, run by run: `empty_products`, then `add`.

        C(r, tau) = <u'(x, t) u'(x + r, t + tau)> / <u'^2>,  u' = u - <u>

    Args:
        product: Sum of u(x, t) u(x + r, t + tau), (lag, offset), float64.
        first, second: Sums of u(x, t) and of u(x + r, t + tau) over the same pairs.
        count: Number of pairs.
        periodic: Whether x + r goes round the end of the axis.
    """

    product: Tensor
    first: Tensor
    second: Tensor
    count: Tensor
    periodic: bool

    def add(self, field: Tensor, valid: Tensor | None = None) -> LaggedProducts:
        """With the pairs of one more run.

        Args:
            field: (*batch, time, points), evenly spaced in both; batch entries are runs, or lines of one field.
            valid: (*batch, points), False where there is no value (land); a value that is not finite counts as none too.

        Raises: ValueError for another number of points.
        """
        lags, offsets = self.product.shape
        points = field.shape[-1]
        if offsets != (points if self.periodic else 2 * points - 1):
            raise ValueError(f"These products are of {offsets} offsets, which {points} points do not have.")
        values = field.to(torch.float64).reshape(-1, *field.shape[-2:])
        known = values.isfinite()
        if valid is not None:
            known = known & valid.expand(*field.shape[:-2], points).reshape(-1, 1, points)
        values, known = torch.where(known, values, 0.0), known.to(torch.float64)
        size = points if self.periodic else 2 * points  # room, so that pairs do not go round the end
        modes, masks = torch.fft.rfft(values, n=size), torch.fft.rfft(known, n=size)
        whole = bool((known == 1).all())
        sums = [part.clone() for part in (self.product, self.first, self.second, self.count)]
        for lag in range(min(lags, values.shape[-2])):
            early, late = slice(0, values.shape[-2] - lag), slice(lag, None)
            pairs = [(modes, modes), (modes, masks), (masks, modes), (masks, masks)]
            for number, (one, other) in enumerate(pairs):
                if whole and self.periodic and number > 0:  # every point meets every other: plain sums
                    part = (values[:, early], values[:, late], known[:, late])[number - 1].sum().expand(points)
                else:
                    spectrum = (one[:, early].conj() * other[:, late]).sum(dim=(0, 1))
                    part = _centred(torch.fft.irfft(spectrum, n=size), points, self.periodic)
                sums[number][lag] += part
        return replace(self, product=sums[0], first=sums[1], second=sums[2], count=sums[3].round())

    def __add__(self, other: LaggedProducts) -> LaggedProducts:
        """Of the runs of both. Raises: ValueError for other lags or offsets."""
        if self.product.shape != other.product.shape or self.periodic != other.periodic:
            raise ValueError("The products are of different lags or offsets.")
        names = ("product", "first", "second", "count")
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def offsets(self) -> Tensor:
        """r in grid steps, ascending, (offset,)."""
        size = self.product.shape[1]
        return torch.arange(size) - (size // 2)

    def correlation(self) -> Tensor:
        """C (lag, offset), float64, 1 at no lag and no offset; NaN without a pair or without variance.

        The mean is that of all values, not of each point: what stands still at its place counts as correlated. Estimated from runs
        shorter than its memory, the curve is too low, as any sample correlation.
        """
        centre = self.product.shape[1] // 2
        count = torch.where(self.count > 0, self.count, torch.nan)
        mean = self.first[0, centre] / count[0, centre]
        covariance = (self.product - mean * (self.first + self.second)) / count + mean**2
        variance = covariance[0, centre]
        return covariance / torch.where(variance > 0, variance, torch.nan)


def empty_products(points: int, lags: int, *, periodic: bool, device: torch.device | None = None) -> LaggedProducts:
    """No run yet, for the lags 0 ... `lags` - 1 and every offset: half a turn either way, or to the other end of a bounded axis.

    Raises: ValueError for fewer than one point or lag.
    """
    if points < 1 or lags < 1:
        raise ValueError(f"A correlation needs points and lags, got {points} and {lags}.")
    zero = torch.zeros(lags, points if periodic else 2 * points - 1, dtype=torch.float64, device=device)
    return LaggedProducts(zero, zero, zero, zero, periodic)


def e_folding(correlation: Tensor, steps: Tensor) -> float:
    """Distance at which a correlation first falls below 1 / e, linear in between; infinite where it does not within reach.

    Args:
        correlation: (step,), from zero distance on.
        steps: Distances, (step,), from 0, increasing.

    Returns: NaN where the correlation is NaN before that.
    """
    level = math.exp(-1)
    values, places = correlation.tolist(), steps.tolist()
    for step in range(1, len(values)):
        if math.isnan(values[step]) or math.isnan(values[step - 1]):
            return math.nan
        if values[step] < level:
            share = (values[step - 1] - level) / (values[step - 1] - values[step])
            return places[step - 1] + share * (places[step] - places[step - 1])
    return math.inf


def _centred(products: Tensor, points: int, periodic: bool) -> Tensor:
    """From the order of the transform, 0, 1, ..., -1, to ascending offsets; on a bounded axis without the one that has no pair."""
    if periodic:
        return products.roll(points // 2)
    return products.roll(points)[1:]
