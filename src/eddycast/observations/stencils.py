"""Weights of the grid points along one axis that give a value at a position, or a mean over an interval.

Plain arithmetic on arrays of rows, so that a million of them take no time. Every rule gives weights that sum to 1: constants are exact.
Positions are taken as they are on bounded axes and modulo the period on periodic ones; axes may decrease.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from eddycast.errors import InputError
from eddycast.grid import Axis

Rule = Literal["nearest", "linear", "cubic", "fourier"]
RULES: tuple[Rule, ...] = get_args(Rule)
FEWEST = {"nearest": 1, "linear": 1, "cubic": 4, "fourier": 1}
"""Points that an axis needs."""
SLACK = 1e-3
"""Of a spacing: how far beyond the outermost point a position may lie, for coordinates that a file rounds."""


def check_rule(axis: Axis, rule: Rule) -> None:
    """Raises: InputError for a rule that is unknown, or that this axis does not allow."""
    if rule not in RULES:
        raise InputError(f"There is no interpolation {rule!r}: known are {', '.join(RULES)}.")
    if axis.size < FEWEST[rule]:
        raise InputError(f"{rule} interpolation needs {FEWEST[rule]} points, axis {axis.name!r} has {axis.size}.")
    if rule == "fourier" and not is_uniform_ring(axis):
        raise InputError(
            f"fourier interpolation needs a uniform periodic axis, {axis.name!r} is none: take cubic there."
        )


def is_uniform_ring(axis: Axis) -> bool:
    """Whether the points of an axis divide its period evenly."""
    if axis.period is None:
        return False
    spacing = axis.period / axis.size
    return bool(np.allclose(np.abs(np.diff(axis.coordinates)), spacing, rtol=0, atol=SLACK * spacing))


def inside(axis: Axis, rule: Rule, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Whether a row from `lower` to `upper` (a point where both are the same) lies on the axis, (row,).

    Points must lie between the outermost grid points, for `nearest` in one of the cells, which reach half a spacing further; intervals
    must lie in the cells. On a periodic axis everything finite does, but for intervals longer than the period.
    """
    finite = np.isfinite(lower) & np.isfinite(upper)
    if axis.period is not None:
        with np.errstate(invalid="ignore"):
            return finite & (upper - lower <= axis.period * (1 + 1e-9))
    x, edges, _ = _cells(axis)
    a, b = _increasing(axis, lower, upper)
    first, last = (x[1] - x[0], x[-1] - x[-2]) if len(x) > 1 else (edges[1] - edges[0],) * 2
    point = (upper == lower) & (rule != "nearest")
    least, most = np.where(point, x[0], edges[0]), np.where(point, x[-1], edges[-1])
    with np.errstate(invalid="ignore"):
        return finite & (a >= least - SLACK * first) & (b <= most + SLACK * last)


def interpolate(axis: Axis, rule: Rule, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights that give the value at a position, both (row, k).

    nearest   the nearest point; exact on constants
    linear    the two points around; exact on straight lines, error O(h^2)
    cubic     Lagrange's polynomial through the two points on each side, the four outermost ones near a bounded end; exact on cubics,
              error O(h^4)
    fourier   the trigonometric polynomial through all n points; exact below wavenumber n / 2
    """
    if rule == "fourier":
        return _fourier(axis, position)
    x, _, period = _cells(axis)
    p, _ = _increasing(axis, position, position)
    size = len(x)
    if size == 1:
        return np.zeros((len(p), 1), dtype=np.int64), np.ones((len(p), 1))
    if period is None:
        p, before, after = np.clip(p, x[0], x[-1]) if rule != "nearest" else p, 0, 0
        known = x
    else:
        p, before, after = x[0] + np.mod(p - x[0], period), 1, 2
        known = np.concatenate([x[-1:] - period, x, x[:2] + period])
    if rule == "nearest":
        index = np.searchsorted((known[1:] + known[:-1]) / 2, p, side="left")[:, None]
        return (index - before) % size, np.ones(index.shape)
    left = np.clip(np.searchsorted(known, p, side="right") - 1, before, before + size - 1 - (period is None))
    if rule == "linear":
        share = (p - known[left]) / (known[left + 1] - known[left])
        index, weight = np.stack([left, left + 1], axis=1), np.stack([1 - share, share], axis=1)
    else:
        start = np.clip(left - 1, 0, size + before + after - 4)
        index = start[:, None] + np.arange(4)
        nodes = known[index]
        weight = np.ones(index.shape)
        for k in range(4):
            for m in range(4):
                if m != k:
                    weight[:, k] *= (p - nodes[:, m]) / (nodes[:, k] - nodes[:, m])
    return (index - before) % size, weight


def covered(axis: Axis, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First cell that an interval touches, and how many it touches, (row,)."""
    _, edges, period = _cells(axis)
    a, b = _begun(axis, lower, upper)
    if period is not None:
        edges = np.concatenate([edges, edges[1:] + period])
    first = np.clip(np.searchsorted(edges, a, side="right") - 1, 0, len(edges) - 2)
    last = np.clip(np.searchsorted(edges, b, side="left") - 1, first, len(edges) - 2)
    return first, last - first + 1


def mean_over(
    axis: Axis, lower: np.ndarray, upper: np.ndarray, first: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the mean over an interval, (row, count), for the first cell that it touches and at most `count` of them.

        w_i = q_i |cell_i and interval| / |cell_i|, normalised;  cells reach halfway to the neighbours, q are the quadrature weights

    Equals block means where an interval is made of whole cells. Error O(h^2) for intervals that resolve the field.
    """
    _, edges, period = _cells(axis)
    size = len(edges) - 1
    a, b = _begun(axis, lower, upper)
    if period is not None:
        edges = np.concatenate([edges, edges[1:] + period])
    cell = first[:, None] + np.arange(count)
    beyond = cell > len(edges) - 2
    cell = np.minimum(cell, len(edges) - 2)
    left, right = edges[cell], edges[cell + 1]
    share = np.clip(np.minimum(right, b[:, None]) - np.maximum(left, a[:, None]), 0, None) / (right - left)
    index = cell % size
    quadrature = np.ones(size) if axis.weights is None else np.asarray(axis.weights)
    weight = np.where(beyond, 0.0, share * quadrature[index])
    total = weight.sum(axis=1, keepdims=True)
    return index, np.divide(weight, total, out=np.zeros_like(weight), where=total > 0)


def whole(axis: Axis, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Whether an interval covers the axis, so that it has no place on it, (row,)."""
    _, edges, period = _cells(axis)
    length = edges[-1] - edges[0] if period is None else period
    return upper - lower >= length * (1 - SLACK / axis.size)


def _cells(axis: Axis) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Points, their edges and the period; positions with the other sign where the axis decreases, so that the points increase."""
    x = np.asarray(axis.coordinates, dtype=np.float64)
    x = -x if _decreasing(axis) else x
    if axis.period is not None:
        around = (x[0] + x[-1] - axis.period) / 2
        return x, np.concatenate([[around], (x[1:] + x[:-1]) / 2, [around + axis.period]]), axis.period
    if len(x) == 1:
        return x, np.array([x[0] - 0.5, x[0] + 0.5]), None
    ends = [1.5 * x[0] - 0.5 * x[1]], [1.5 * x[-1] - 0.5 * x[-2]]
    return x, np.concatenate([ends[0], (x[1:] + x[:-1]) / 2, ends[1]]), None


def _decreasing(axis: Axis) -> bool:
    return axis.size > 1 and axis.coordinates[1] < axis.coordinates[0]


def _increasing(axis: Axis, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (-upper, -lower) if _decreasing(axis) else (lower, upper)


def _begun(axis: Axis, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval along the increasing axis, begun within the first turn around a periodic one."""
    _, edges, period = _cells(axis)
    a, b = _increasing(axis, lower, upper)
    if period is None:
        return np.clip(a, edges[0], edges[-1]), np.clip(b, edges[0], edges[-1])
    begun = edges[0] + np.mod(a - edges[0], period)
    return begun, begun + np.minimum(b - a, period)


def _fourier(axis: Axis, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dirichlet's kernel: (1 / n) sum of cos m (x - x_j) over the resolved m, the highest one of an even n counted once."""
    n, period = axis.size, axis.period
    assert period is not None, "checked by check_rule"
    turns = (position[:, None] - np.asarray(axis.coordinates)) / period
    angle = np.pi * (turns - np.round(turns))  # half the angle, in [-pi/2, pi/2]
    near = np.abs(angle) < 1e-12
    safe = np.where(near, 1.0, angle)
    weight = np.sin(n * safe) / (n * (np.tan(safe) if n % 2 == 0 else np.sin(safe)))
    return np.broadcast_to(np.arange(n), weight.shape), np.where(near, 1.0, weight)
