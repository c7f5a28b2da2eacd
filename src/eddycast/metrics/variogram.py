"""Variogram score: whether differences between points are right, which no score of single points can see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from eddycast.metrics.chunks import CACHED, WORKSPACE, spans
from eddycast.metrics.ensemble import check_members


@dataclass(frozen=True)
class Lags:
    """Which pairs of points are compared, and how much each counts; made by `neighbours` or `all_pairs`.

    Args:
        offsets: Steps along each axis from one point of a pair to the other; of an offset and its opposite, one is listed.
        weights: Of each offset, times the quadrature weights of both points.
        periodic: Along which axes a pair may reach round the end.
    """

    offsets: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...]
    periodic: tuple[bool, ...]


def neighbours(shape: Sequence[int], periodic: Sequence[bool], lag: float = 2.0) -> Lags:
    """Pairs at most `lag` steps apart, weighted with one over their distance in steps.

    Args:
        shape: Points along each axis of space.
        periodic: Per axis.
        lag: Largest Euclidean distance, in steps of the grid. On an axis of a single point there are no pairs.

    Raises: ValueError for a lag below 1 or lengths that differ.
    """
    if lag < 1:
        raise ValueError(f"Neighbours are at least one step apart, got a lag of {lag:g}.")
    return _lags(shape, periodic, lag)


def all_pairs(shape: Sequence[int], periodic: Sequence[bool]) -> Lags:
    """Every pair of points once, weighted with one over their distance in steps: O(N^2), for small fields."""
    return _lags(shape, periodic, math.inf)


def _lags(shape: Sequence[int], periodic: Sequence[bool], lag: float) -> Lags:
    if len(shape) != len(periodic):
        raise ValueError(f"{len(shape)} axes of space but {len(periodic)} entries of `periodic`.")
    reach = [int(min(lag, size // 2 if around else size - 1)) for size, around in zip(shape, periodic, strict=True)]
    found: dict[tuple[int, ...], float] = {}
    for offset in product(*(range(-far, far + 1) for far in reach)):
        distance = math.hypot(*offset)
        if not 0 < distance <= lag:
            continue
        opposite = _wrapped(tuple(-step for step in offset), shape, periodic)
        same = _wrapped(offset, shape, periodic)
        # An offset of half a period leads there and back: it meets each pair from both ends.
        found[max(same, opposite)] = 1 / distance * (0.5 if same == opposite else 1.0)
    return Lags(tuple(found), tuple(found.values()), tuple(periodic))


def _wrapped(offset: Sequence[int], shape: Sequence[int], periodic: Sequence[bool]) -> tuple[int, ...]:
    """The same step with components in (-size / 2, size / 2] along periodic axes."""
    wrapped = []
    for step, size, around in zip(offset, shape, periodic, strict=True):
        near = step % size
        wrapped.append(step if not around else near - size if 2 * near > size else near)
    return tuple(wrapped)


def variogram_score(
    ensemble: Tensor, truth: Tensor, weights: Tensor, lags: Lags, *, order: float = 0.5, fair: bool = True
) -> Tensor:
    """Mean squared error of the ensemble's variogram over pairs of points.

        VS = <(|y_a - y_b|^p - mean_i |x_ia - x_ib|^p)^2>  over pairs (a, b), weighted v_ab w_a w_b
        fair: less var_i |x_ia - x_ib|^p / M, the variance being unbiased

    It is proper, not strictly: it does not see a bias that is the same everywhere, nor the sign of a difference. Use it
    beside the CRPS, for what that cannot see: how rough members are, and how far structures reach.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: Quadrature weights (*space); pairs with a point of weight zero do not count, whatever they hold.
        lags: From `neighbours` or `all_pairs`.
        order: p. 1/2 is robust and gives the score the unit of the field; 1 is for smooth fields.
        fair: Unbiased in M, and negative now and then for it; otherwise small ensembles are punished.

    Returns: (*batch), (unit of the field)^(2 p), NaN where a counted value is not finite.
    Raises: ValueError for too few members, shapes that disagree, an order that is not positive, or no pair to compare.
    Source: Scheuerer & Hamill (2015), doi:10.1175/MWR-D-14-00269.1, eq. 5, here divided by the sum of the weights. Cost
        O(M N) for each offset; memory besides contiguous inputs: `chunks.WORKSPACE`, or a few fields if that is more.
    """
    members = check_members(
        ensemble, truth, 2 if fair else 1, "The fair variogram score", "draw more, or pass fair=False"
    )
    space = weights.ndim
    shape = truth.shape[truth.ndim - space :]
    if shape != weights.shape or len(lags.periodic) != space:
        raise ValueError(
            f"truth {tuple(truth.shape)} must end in the shape of weights {tuple(weights.shape)}, "
            f"with one entry of lags.periodic for each of its axes, not {len(lags.periodic)}."
        )
    if not order > 0:
        raise ValueError(f"The order of a variogram is positive, got {order}.")
    scale = weights.to(device=truth.device, dtype=torch.float64)
    counted = scale > 0
    batch = truth.shape[: truth.ndim - space]
    ensemble, truth = ensemble.reshape(members, -1, *shape), truth.reshape(-1, *shape)
    axes = tuple(range(-space, 0))
    pairs = _pair_weights(scale, lags)
    mass = sum(float(pair.sum()) for pair in pairs)
    if not mass > 0:
        raise ValueError("No pair of counted points lies that close: take longer lags.")

    def clean(fields: Tensor) -> Tensor:
        return torch.where(counted, fields.to(torch.float64), 0.0)

    bytes_each = 24 * weights.numel()
    blocks = list(spans(members, bytes_each))
    scores = []
    for case in spans(len(truth), bytes_each * min(members, blocks[0].stop), CACHED if truth.is_cpu else WORKSPACE):
        y = clean(truth[case])
        whole = clean(ensemble[:, case]) if len(blocks) == 1 else None
        score = torch.zeros((), dtype=torch.float64, device=truth.device)
        for offset, pair in zip(lags.offsets, pairs, strict=True):
            target = _variogram(y, offset, lags.periodic, order)
            first, second = torch.zeros_like(target), torch.zeros_like(target)
            for block in blocks:
                fields = clean(ensemble[block, case]) if whole is None else whole
                excess = _variogram(fields, offset, lags.periodic, order) - target
                first, second = first + excess.sum(dim=0), second + excess.square().sum(dim=0)
            square = (first / members).square()
            if fair:
                square = square - (second - members * square) / (members * (members - 1))
            score = score + (pair * square).sum(dim=axes)
        scores.append(score / mass)
    return torch.cat(scores).reshape(batch).to(truth.dtype)


def pair_mass(weights: Tensor, lags: Lags) -> float:
    """Summed weight of all pairs: zero where no two counted points are that close."""
    return sum(float(pair.sum()) for pair in _pair_weights(weights.to(torch.float64), lags))


def _pair_weights(scale: Tensor, lags: Lags) -> list[Tensor]:
    """v_ab w_a w_b for every pair, offset by offset."""
    found = []
    for offset, weight in zip(lags.offsets, lags.weights, strict=True):
        first, second = _ends(scale, offset, lags.periodic)
        found.append(weight * first * second)
    return found


def _variogram(fields: Tensor, offset: tuple[int, ...], periodic: tuple[bool, ...], order: float) -> Tensor:
    """|x_a - x_b|^p for every pair with this offset."""
    first, second = _ends(fields, offset, periodic)
    size = (first - second).abs_()
    return size if order == 1 else size.sqrt() if order == 0.5 else size.pow(order)


def _ends(fields: Tensor, offset: tuple[int, ...], periodic: tuple[bool, ...]) -> tuple[Tensor, Tensor]:
    """Values at both ends of every pair: the field and itself moved by the offset, cut where an axis ends."""
    first = second = fields
    for axis, (step, around) in enumerate(zip(offset, periodic, strict=True), start=-len(offset)):
        size = fields.shape[axis]
        if around:
            second = second.roll(-step, dims=axis) if step else second
        else:
            first = first.narrow(axis, max(0, -step), size - abs(step))
            second = second.narrow(axis, max(0, step), size - abs(step))
    return first, second
