"""Calibration: do things that are forecast with probability p happen with frequency p, and errors follow the spread?

Tables hold sums, so tables of other cases, leads or places can be added to them (`+`); what is read off comes last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.metrics.ensemble import check_members, corrected_variance, finite_points, rank_histogram


class Calibration(NamedTuple):
    """Nominal probabilities (level,), observed frequencies (*batch, level), and the number of points counted (*batch)."""

    nominal: Tensor
    observed: Tensor
    count: Tensor


def coverage_curve(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Calibration:
    """How often the truth lies in central intervals, at every level that whole members give: on the diagonal if reliable.

    Interval j = 1, 2, ... reaches from the j-th lowest to the j-th highest member; its level is (M + 1 - 2 j) / (M + 1),
    exactly its expected coverage for a reliable ensemble of any size. Levels increase.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).

    Raises: ValueError for fewer than two members or shapes that disagree.
    """
    check_members(ensemble, truth, 2, "A coverage curve", "draw more")
    nominal, observed = central_coverage(rank_histogram(ensemble, truth, weights))
    return Calibration(nominal, observed, _count(ensemble, truth, weights))


def quantile_reliability(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Calibration:
    """How often the truth lies below the k-th lowest member: k / (M + 1) if reliable (the PIT reliability diagram).

    Above the diagonal throughout: the forecast is too high. An S through the middle: too little or too much spread.
    Args and raises: as `coverage_curve`.
    """
    check_members(ensemble, truth, 1, "A quantile", "pass at least one")
    nominal, observed = below_members(rank_histogram(ensemble, truth, weights))
    return Calibration(nominal, observed, _count(ensemble, truth, weights))


def central_coverage(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Nominal levels (level,) and observed coverage (*batch, level) from a rank histogram (*batch, member + 1)."""
    members = ranks.shape[-1] - 1
    inner = torch.arange(members // 2, 0, -1, device=ranks.device)
    cumulated = ranks.cumsum(dim=-1)
    observed = cumulated[..., members - inner] - cumulated[..., inner - 1]
    return (members + 1 - 2 * inner).to(ranks.dtype) / (members + 1), observed


def below_members(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Nominal k / (M + 1) (member,) and observed frequency below the k-th member, from a rank histogram."""
    members = ranks.shape[-1] - 1
    nominal = torch.arange(1, members + 1, dtype=ranks.dtype, device=ranks.device) / (members + 1)
    return nominal, ranks.cumsum(dim=-1)[..., :-1]


class BrierParts(NamedTuple):
    """Brier score = reliability - resolution + uncertainty, exactly; each (*batch)."""

    score: Tensor
    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor


@dataclass(frozen=True, eq=False)
class EventTable:
    """How often k of M members forecast an event, and how often it then happened; from `event_table`.

    Args:
        mass: Weight of the points where k members have the event, (*batch, member + 1).
        hits: Weight of those among them where the truth has it too.
        count: Number of the points, unweighted.
    """

    mass: Tensor
    hits: Tensor
    count: Tensor

    def __add__(self, other: EventTable) -> EventTable:
        return EventTable(self.mass + other.mass, self.hits + other.hits, self.count + other.count)

    def sum(self, dim: int = 0) -> EventTable:
        """Pooled over one axis of the batch, counted from the front."""
        return EventTable(self.mass.sum(dim=dim), self.hits.sum(dim=dim), self.count.sum(dim=dim))

    @property
    def probability(self) -> Tensor:
        """k / M, (member + 1,): the horizontal axis of the reliability diagram."""
        members = self.mass.shape[-1] - 1
        return torch.arange(members + 1, dtype=self.mass.dtype, device=self.mass.device) / members

    @property
    def frequency(self) -> Tensor:
        """Frequency of the event where it was forecast with each probability; NaN where it never was."""
        return self.hits / self.mass

    def brier(self) -> BrierParts:
        """Decomposition of the Brier score of the raw frequencies k / M (not the fair one).

        It is exact, since all forecasts in a bin are equal. Reliability and resolution are both too large in
        small samples, by about (number of bins) p (1 - p) / (number of independent points). Nothing pooled: NaN.
        Source: Murphy (1973), doi:10.1175/1520-0450(1973)012<0595:ANVPOT>2.0.CO;2.
        """
        total = self.mass.sum(dim=-1)
        base = self.hits.sum(dim=-1) / total
        frequency = torch.where(self.mass > 0, self.hits / self.mass, 0.0)
        part = self.mass / total[..., None]
        reliability = (part * (self.probability - frequency).square()).sum(dim=-1)
        resolution = (part * (frequency - base[..., None]).square()).sum(dim=-1)
        uncertainty = base * (1 - base)
        within = part * (self.probability.square() * (1 - frequency) + (1 - self.probability).square() * frequency)
        return BrierParts(within.sum(dim=-1), reliability, resolution, uncertainty)


def event_table(ensemble: Tensor, truth: Tensor, weights: Tensor, threshold: float | Tensor) -> EventTable:
    """Reliability table of the event "value above the threshold", with probabilities k / M.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        threshold: A number, or a tensor that broadcasts against the truth (one for each channel, a climatology).

    Returns: sums over space, (*batch, member + 1), float64. Points where a member or the truth is not finite are left out.
    Raises: ValueError for shapes that disagree.
    """
    members = check_members(ensemble, truth, 1, "A probability", "pass at least one")
    usable, mass, batch = _usable(ensemble, truth, weights)
    votes = (ensemble > threshold).sum(dim=0)
    happened = (truth > threshold).to(torch.float64)
    bins = members + 1

    def tally(values: Tensor) -> Tensor:
        return _binned(votes.reshape(*batch, -1), values.reshape(*batch, -1), bins)

    return EventTable(tally(mass), tally(mass * happened), tally(usable.to(torch.float64)))


def brier_score(ensemble: Tensor, truth: Tensor, threshold: float | Tensor, *, fair: bool = True) -> Tensor:
    """Brier score of the event "value above the threshold" at each point, with the probability k / M.

        BS = (k / M - o)^2 - k (M - k) / (M^2 (M - 1)),  o = 1 if the truth is above, else 0; fair=False has no last term

    Args:
        ensemble: (member, *shape).
        truth: (*shape).
        threshold: A number, or a tensor that broadcasts against the truth.
        fair: Unbiased in M; a point may then score below zero.

    Returns: (*shape), NaN where a member or the truth is not finite. Integrated over all thresholds it is the CRPS.
    Raises: ValueError for too few members or shapes that disagree.
    Source: Ferro (2014), doi:10.1002/qj.2270.
    """
    members = check_members(ensemble, truth, 2 if fair else 1, "The fair Brier score", "draw more, or pass fair=False")
    dtype = torch.result_type(ensemble, truth)
    part = (ensemble > threshold).sum(dim=0).to(torch.float64) / members
    score = (part - (truth > threshold).to(torch.float64)).square()
    if fair:
        score = score - part * (1 - part) / (members - 1)
    return score.masked_fill(~finite_points(ensemble, truth), torch.nan).to(dtype)


@dataclass(frozen=True, eq=False)
class SpreadErrorTable:
    """Squared spread and squared error of points by their spread; from `spread_error_table`.

    Args:
        edges: Edges of the bins of spread, (edge,); the first and the last bin are open.
        mass: Weight of the points in each bin, (*batch, edge + 1).
        variance: Weighted sum of the corrected ensemble variance.
        error: Weighted sum of the squared error of the ensemble mean.
        count: Number of points, unweighted.
    """

    edges: Tensor
    mass: Tensor
    variance: Tensor
    error: Tensor
    count: Tensor

    def __add__(self, other: SpreadErrorTable) -> SpreadErrorTable:
        """Raises: ValueError for other edges."""
        if not torch.equal(self.edges, other.edges):
            raise ValueError("Tables of spread and error with different edges cannot be added.")
        sums = (getattr(self, name) + getattr(other, name) for name in ("mass", "variance", "error", "count"))
        return SpreadErrorTable(self.edges, *sums)

    @property
    def spread(self) -> Tensor:
        """Root mean square spread of each bin, (*batch, bin); NaN where empty."""
        return (self.variance / self.mass).sqrt()

    @property
    def skill(self) -> Tensor:
        """RMSE of the ensemble mean in each bin: equal to the spread, bin by bin, if the ensemble is reliable."""
        return (self.error / self.mass).sqrt()


def spread_error_table(ensemble: Tensor, truth: Tensor, weights: Tensor, edges: Tensor) -> SpreadErrorTable:
    """Spread-error diagram: is the error large *where* and *when* the spread is, not only on average?

    Binned by the spread of M members, which is itself uncertain by a part 1 / sqrt(2 M): even a reliable ensemble shows a
    curve flatter than the diagonal, the more so the smaller M and the less the true spread varies.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        edges: Increasing spreads between the bins, (edge,), or (*batch, edge) with one row for each entry of the batch.

    Returns: sums over space, (*batch, edge + 1), float64; points where a member or the truth is not finite are left out.
    Raises: ValueError for one member or shapes that disagree.
    """
    check_members(ensemble, truth, 2, "Spread", "draw more, or score it as deterministic")
    usable, mass, batch = _usable(ensemble, truth, weights)
    variance = corrected_variance(ensemble.to(torch.float64))
    error = (ensemble.mean(dim=0, dtype=torch.float64) - truth).square()
    edges = edges.to(device=truth.device, dtype=torch.float64)
    spread = variance.sqrt().nan_to_num(nan=0.0).reshape(*batch, -1)
    rows = edges if edges.ndim == 1 else edges.expand(*batch, -1).contiguous()
    place = torch.searchsorted(rows, spread, right=True)
    bins = edges.shape[-1] + 1

    def tally(values: Tensor) -> Tensor:
        kept = torch.where(usable, values, 0.0)
        return _binned(place, kept.reshape(*batch, -1), bins)

    return SpreadErrorTable(
        edges, tally(mass), tally(mass * variance), tally(mass * error), tally(usable.to(torch.float64))
    )


def _binned(place: Tensor, values: Tensor, bins: int) -> Tensor:
    sums = torch.zeros(*place.shape[:-1], bins, dtype=torch.float64, device=place.device)
    return sums.scatter_add(-1, place, values)


def _usable(ensemble: Tensor, truth: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Points that count, (*batch, *space), their weight (zero elsewhere), and the shape of the batch."""
    batch = truth.shape[: truth.ndim - weights.ndim]
    if truth.shape[truth.ndim - weights.ndim :] != weights.shape:
        raise ValueError(f"truth {tuple(truth.shape)} must end in the shape of weights {tuple(weights.shape)}.")
    scale = weights.to(device=truth.device, dtype=torch.float64)
    usable = finite_points(ensemble, truth) & (scale > 0)
    return usable, torch.where(usable, scale, 0.0), batch


def _count(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    usable, _, batch = _usable(ensemble, truth, weights)
    return usable.reshape(*batch, -1).sum(dim=-1)
