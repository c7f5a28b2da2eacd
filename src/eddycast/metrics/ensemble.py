"""Scores of an ensemble point by point: CRPS, spread and skill, ranks, coverage.

An ensemble is (member, *shape), its truth (*shape). Pointwise scores are left at the points: average them with
`field.weighted_mean`. Scores over space take `weights` (*space), the trailing axes of `shape`; points of weight zero
(land) take no part, whatever they hold.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.metrics.chunks import pieces
from eddycast.metrics.field import mse, weighted_mean
from eddycast.metrics.ordering import NETWORK_MEMBERS, sort_in_place, sort_members

PIECE = 4 * 2**20  # bytes of the members that are sorted at once: they stay in the cache


def crps(ensemble: Tensor, truth: Tensor, *, fair: bool = True) -> Tensor:
    """Continuous ranked probability score at each point, in the unit of the field.

        CRPS = mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1))

    Args:
        ensemble: Members x_i, (member, *shape).
        truth: Verifying value y, (*shape).
        fair: Unbiased in M, as above; otherwise M^2 divides the pairs, which punishes small ensembles. With
            `fair=False` one member scores its absolute error.

    Returns: score, (*shape), lower is better, NaN where a member or the truth is not finite; averaging is left to the
        caller. The fair score of a small ensemble may be negative at a point; only its expectation is a CRPS. And it
        does not see a *single* member run away: its error and its distance to the others cancel. Count such members,
        or look at `fair=False` as well.
    Raises: ValueError for too few members or shapes that disagree.
    Source: Ferro (2014), doi:10.1002/qj.2270. By sorting: O(M log^2 M) up to 128 members, then O(M log M). Piece by
        piece, in a few MB besides inputs and result, unless a gradient is asked for.
    """
    members = check_members(ensemble, truth, 2 if fair else 1, "The fair CRPS", "draw more, or pass fair=False")
    rank = torch.arange(1, members + 1, dtype=torch.float64)
    weight = (2 * rank - members - 1) / (members * max(members - 1 if fair else members, 1))
    weight = weight.to(device=ensemble.device, dtype=torch.result_type(ensemble, truth))
    # Sorted relative to the truth: an offset (kelvin) would cost digits in the sum over pairs.
    if torch.is_grad_enabled() and (ensemble.requires_grad or truth.requires_grad):
        error = sort_members(ensemble - truth)
        return error.abs().mean(dim=0) - torch.tensordot(weight, error, dims=1)
    score = torch.empty(truth.shape, dtype=weight.dtype, device=ensemble.device)
    factors = weight.tolist()
    for place in pieces(truth.shape, _piece(members + 1, weight)):
        error = ensemble[:, *place] - truth[place]
        rows, mean = list(error.unbind(dim=0)), error.abs().mean(dim=0)
        if members > NETWORK_MEMBERS:
            score[place] = mean - torch.tensordot(weight, error.sort(dim=0).values, dims=1)
            continue
        rows, pairs = sort_in_place(rows, torch.empty_like(mean))
        torch.mul(rows[0], factors[0], out=pairs)
        for row, factor in zip(rows[1:], factors[1:], strict=True):
            pairs.add_(row, alpha=factor)
        torch.sub(mean, pairs, out=score[place])
    return score


def _piece(members: int, like: Tensor) -> int:
    """Points whose members make a piece: what a CPU keeps in its cache, more where each call costs a kernel."""
    size = PIECE if like.device.type == "cpu" else 16 * PIECE
    return max(1, size // (members * like.element_size()))


def corrected_variance(ensemble: Tensor) -> Tensor:
    """Variance that matches the squared error of the mean of M exchangeable members, (member, *shape) -> (*shape).

        (M + 1) / M * sum_i (x_i - mean)^2 / (M - 1)

    The variance is already unbiased: (M + 1) / (M - 1) belongs to the biased one and must not be applied on top.
    Raises: ValueError for one member, whose spread is unknown (not zero).
    """
    members = ensemble.shape[0]
    if members < 2:
        raise ValueError(f"A spread needs at least 2 members, got {members}: draw more, or score it as deterministic.")
    mean, square = ensemble.mean(dim=0), torch.zeros_like(ensemble[0])
    for member in ensemble:  # a strided `var` is several times slower
        square = square + (member - mean).square()
    return square * ((members + 1) / (members * (members - 1)))


class SpreadSkill(NamedTuple):
    """Spread and skill in units of the field, and spread / skill: 1 for a reliable ensemble of any size."""

    spread: Tensor
    skill: Tensor
    ratio: Tensor


def spread_skill(ensemble: Tensor, truth: Tensor, weights: Tensor, *, over: tuple[int, ...] = ()) -> SpreadSkill:
    """Corrected spread against the RMSE of the ensemble mean; squares are averaged before the root.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        over: Axes of *batch (cases, leads) over which squares are averaged as well; a mean of ratios is biased.

    Returns: three tensors (*batch) without `over`. The ratio is infinite where only the skill is zero and NaN where
        both are (nothing uncertain and nothing missed: it says nothing).
    Raises: ValueError for one member or shapes that disagree.
    """
    check_members(ensemble, truth, 2, "Spread", "draw more, or score it as deterministic")
    squared_spread = weighted_mean(corrected_variance(ensemble), weights)
    squared_skill = mse(ensemble.mean(dim=0), truth, weights)
    if over:
        squared_spread, squared_skill = squared_spread.mean(dim=over), squared_skill.mean(dim=over)
    return SpreadSkill(squared_spread.sqrt(), squared_skill.sqrt(), (squared_spread / squared_skill).sqrt())


def rank_histogram(
    ensemble: Tensor, truth: Tensor, weights: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Frequency of the truth's rank among the members, pooled over space; flat for a reliable ensemble.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        generator: Breaks ties at random. Without one each of the tied ranks receives an equal share, which is the
            expectation of that and needs no seed.

    Returns: (*batch, member + 1), sums to one. U-shaped: too little spread; dome: too much; slope: bias. Points
        where a member or the truth is not finite are left out; NaN where none remains.
    Raises: ValueError for shapes that disagree.
    """
    members = check_members(ensemble, truth, 1, "A rank", "pass at least one")
    space = weights.ndim
    batch = truth.shape[: truth.ndim - space]
    finite = finite_points(ensemble, truth)
    mass = torch.where(finite, weights.to(device=truth.device, dtype=torch.float64).expand(truth.shape), 0.0)
    below = (ensemble < truth).sum(dim=0)
    tied = (ensemble == truth).sum(dim=0)
    below, tied, mass = (value.reshape(*batch, -1) for value in (below, tied, mass))
    if generator is not None:
        draw = torch.rand(tied.shape, generator=generator, dtype=torch.float64, device=truth.device)
        below, tied = below + (draw * (tied + 1)).long().clamp(max=tied), torch.zeros_like(tied)
    share = mass / (tied + 1)
    steps = torch.zeros(*batch, members + 2, dtype=torch.float64, device=truth.device)
    steps = steps.scatter_add(-1, below, share).scatter_add(-1, below + tied + 1, -share)
    counts = steps.cumsum(dim=-1)[..., :-1].clamp(min=0)
    return (counts / counts.sum(dim=-1, keepdim=True)).to(truth.dtype)


def rank_flatness(ranks: Tensor) -> Tensor:
    """How far a rank histogram is from flat: the reliability index, 0 if flat, 2 M / (M + 1) if one rank holds all.

        sum_k |f_k - 1 / (M + 1)|

    Args:
        ranks: Frequencies (*batch, member + 1), as from `rank_histogram`.

    Returns: (*batch). Even a reliable ensemble has about sqrt(2 M / (pi N)) from N *independent* ranks, and the points of
        one field are far from independent: small values of few cases mean nothing.
    Source: Delle Monache et al. (2006), doi:10.1029/2005JD006917.
    """
    return (ranks - 1 / ranks.shape[-1]).abs().sum(dim=-1)


def coverage(ensemble: Tensor, truth: Tensor, level: float) -> Tensor:
    """Whether the truth lies in the ensemble's central interval: 1 or 0 at each point, mean `level` if reliable.

    The ends are the quantiles (1 -+ level) / 2 at position p (M + 1) among the sorted members: then the expectation is
    `level` whenever the positions are whole numbers, at any M, and close to it between.

    Args:
        ensemble: (member, *shape).
        truth: (*shape).
        level: In (0, (M - 1) / (M + 1)]: beyond, the members do not reach.

    Returns: (*shape), NaN where a member or the truth is not finite.
    Raises: ValueError for a level out of range or shapes that disagree.
    """
    members = check_members(ensemble, truth, 2, "Coverage", "draw more")
    highest = (members - 1) / (members + 1)
    if not 0 < level <= highest + 1e-12:
        raise ValueError(f"{members} members span central intervals up to {highest:.3f}, asked was {level}.")
    position = min(max((1 - level) / 2 * (members + 1), 1.0), members)
    inside = torch.empty_like(truth)
    for place in pieces(truth.shape, _piece(members, ensemble)):
        inside[place] = _inside(ensemble[:, *place], truth[place], position)
    return inside


def _inside(ensemble: Tensor, truth: Tensor, position: float) -> Tensor:
    """1 or 0 for the interval between the members at `position` from below and from above; NaN where not finite."""
    members = len(ensemble)
    ordered = sort_members(ensemble)
    first = min(math.floor(position + 1e-9), members - 1)
    part = max(position - first, 0.0)
    low = ordered[first - 1] + part * (ordered[first] - ordered[first - 1])
    high = ordered[members - first] + part * (ordered[members - first - 1] - ordered[members - first])
    inside = ((truth >= low) & (truth <= high)).to(truth.dtype)
    finite = finite_points(ensemble, truth)
    return torch.where(finite, inside, torch.full_like(inside, torch.nan))


def finite_points(ensemble: Tensor, truth: Tensor) -> Tensor:
    """(*shape): True where truth and every member are finite; one sum, which anything else spoils, tells it."""
    return torch.isfinite(ensemble.sum(dim=0) + truth)


def check_members(ensemble: Tensor, truth: Tensor, least: int, what: str, advice: str) -> int:
    """Number of members. Raises: ValueError for too few of them, or shapes that disagree."""
    members = ensemble.shape[0]
    if members < least:
        raise ValueError(f"{what} needs at least {least} members, got {members}: {advice}.")
    if ensemble.shape[1:] != truth.shape:
        raise ValueError(
            f"ensemble {tuple(ensemble.shape)} must be truth {tuple(truth.shape)} plus a leading member axis; "
            "torch.movedim(ensemble, axis, 0) brings it there."
        )
    return members
