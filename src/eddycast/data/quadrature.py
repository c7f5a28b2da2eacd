"""Axes with the quadrature weights that belong to their points."""

from __future__ import annotations

import numpy as np

from eddycast.errors import InputError
from eddycast.grid import Axis, Boundary

LARGEST = 1e100  # beyond, squares and products of coordinates overflow
UNIFORM = 1e-3  # of a spacing; coordinates stored in float32 are that exact on any grid of practical size


def is_uniform(coordinates: np.ndarray) -> bool:
    steps = np.diff(coordinates)
    return bool((np.abs(steps - steps.mean()) <= UNIFORM * abs(steps.mean()) + 4e-7 * np.abs(coordinates).max()).all())


def chebyshev_weights(coordinates: np.ndarray) -> np.ndarray | None:
    """Weights exact for polynomials of degree n - 1 on Chebyshev-Gauss nodes, or None for other points.

        nodes cos(theta_j), theta_j = (j + 1/2) pi / n
        w_j = (2 / n) (1 - 2 sum_{k=1}^{n/2} cos(2 k theta_j) / (4 k^2 - 1))

    The interval is found from the outermost nodes; weights have its length as their sum.
    Source: Fejer's first rule; Waldvogel (2006), doi:10.1007/s10543-006-0045-4.
    """
    number = len(coordinates)
    if number < 3:
        return None
    theta = (np.arange(number) + 0.5) * np.pi / number
    half = (coordinates[0] - coordinates[-1]) / 2 / np.cos(theta[0])
    nodes = (coordinates[0] + coordinates[-1]) / 2 + half * np.cos(theta)
    if np.abs(nodes - coordinates).max() > 2e-5 * abs(half):
        return None
    order = np.arange(1, number // 2 + 1)
    return abs(half) * _cosine_rule(theta, order, np.ones(len(order)), number)


def _cosine_rule(theta: np.ndarray, order: np.ndarray, factor: np.ndarray, number: int) -> np.ndarray:
    series = (factor * np.cos(2 * np.outer(theta, order)) / (4 * order**2 - 1)).sum(1)
    return 2 / number * (1 - 2 * series)


def lobatto_weights(coordinates: np.ndarray) -> np.ndarray | None:
    """Clenshaw-Curtis weights on Chebyshev points that include both ends, or None for other points.

    Source: Waldvogel (2006), doi:10.1007/s10543-006-0045-4.
    """
    last = len(coordinates) - 1
    if last < 2:
        return None
    theta = np.arange(last + 1) * np.pi / last
    half = (coordinates[0] - coordinates[-1]) / 2
    if np.abs((coordinates[0] + coordinates[-1]) / 2 + half * np.cos(theta) - coordinates).max() > 2e-5 * abs(half):
        return None
    order = np.arange(1, last // 2 + 1)
    factor = np.where(2 * order == last, 0.5, 1.0)
    weights = _cosine_rule(theta, order, factor, last)
    weights[[0, -1]] /= 2
    return abs(half) * weights


def widths(coordinates: np.ndarray) -> np.ndarray:
    """Cell widths: from midpoint to midpoint, the end cells as far outside as inside."""
    steps = np.abs(np.diff(coordinates))
    return (np.concatenate([steps[:1], steps]) + np.concatenate([steps, steps[-1:]])) / 2


def latitude_weights(latitude: np.ndarray) -> np.ndarray:
    """Areas of latitude bands, proportional to the cosine of latitude on uniform points; bands end at the poles.

    Args:
        latitude: Degrees, monotonic.
    """
    if is_uniform(latitude):  # without the rounding of float32 files
        latitude = np.linspace(latitude[0], latitude[-1], len(latitude))
    middle = (latitude[1:] + latitude[:-1]) / 2
    edges = np.concatenate([[2 * latitude[0] - middle[0]], middle, [2 * latitude[-1] - middle[-1]]])
    return np.abs(np.diff(np.sin(np.deg2rad(np.clip(edges, -90, 90)))))


def point_weights(coordinates: np.ndarray) -> tuple[float, ...] | None:
    """Quadrature weights of a bounded Cartesian axis; None where they are equal."""
    if len(coordinates) < 3 or is_uniform(coordinates):
        return None
    weights = chebyshev_weights(coordinates)
    if weights is None:
        weights = lobatto_weights(coordinates)
    if weights is None:
        weights = widths(coordinates)
    return tuple(float(weight) for weight in weights)


def plain_axis(
    name: str,
    coordinates: np.ndarray,
    *,
    periodic: bool = False,
    boundary: tuple[Boundary, Boundary] = ("open", "open"),
    units: str = "1",
    period: float | None = None,
) -> Axis:
    """A Cartesian axis with its weights; a periodic one has the period n times its mean spacing unless told.

    Raises: InputError for coordinates that are not strictly monotonic.
    """
    values = np.asarray(coordinates, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.abs(values).max(initial=0.0) > LARGEST:
        raise InputError(f"The coordinate {name!r} must be a list of numbers below {LARGEST:g}, one for each point.")
    steps = np.diff(values)
    if not np.isfinite(values).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise InputError(
            f"The coordinate {name!r} must increase or decrease strictly; sort it or drop repeated points."
        )
    points = tuple(float(value) for value in values)
    if not periodic:
        return Axis(name, points, boundary, units, None, point_weights(values))
    if period is not None and not 0 < period < LARGEST:
        raise InputError(f"The period of the axis {name!r} is {period:g}, expected a positive number.")
    if period is None:
        if len(values) < 2:
            raise InputError(f"The periodic axis {name!r} has one point and no known period.")
        period = float(f"{abs(steps).mean() * len(values):.7g}")
    weights = None if len(values) < 3 or is_uniform(values) else tuple(float(width) for width in widths(values))
    return Axis(name, points, ("periodic", "periodic"), units, period, weights)
