"""Scores of one field against another: errors and pattern correlation, averaged over space with quadrature weights.

`weights` (*space) come from `Grid.weights()`. Points of weight zero (land, see `mask_weights`) take no part, whatever
they hold: NaN there does no harm. Sums run in float64; results have the dtype of the forecast.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A field whose standard deviation is below this fraction of its root mean square is constant up to rounding.
CONSTANT = 1e-12


def mask_weights(weights: Tensor, valid: Tensor | None) -> Tensor:
    """Weights (*space) that are zero where `valid` (*space) is False, scaled to mean one again.

    Raises: ValueError when the shapes differ or no point is left.
    """
    if valid is None:
        return weights
    if valid.shape != weights.shape:
        raise ValueError(f"valid {tuple(valid.shape)} must have the shape of weights {tuple(weights.shape)}.")
    kept = torch.where(valid.to(weights.device), weights, 0.0)
    if not (kept > 0).any():
        raise ValueError("No valid point with a positive weight is left to average over.")
    return kept / kept.mean()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the trailing space axes, sum w f / sum w; points of weight zero may hold anything, NaN included.

    Args:
        values: Any quantity at the points, (*batch, *space).
        weights: Quadrature weights, (*space), not negative.

    Returns: (*batch), dtype of `values`.
    Raises: ValueError when the trailing axes are not those of the weights, or all weights are zero.
    """
    space = weights.ndim
    if values.shape[values.ndim - space :] != weights.shape:
        raise ValueError(f"values {tuple(values.shape)} must end in the shape of weights {tuple(weights.shape)}.")
    if space == 0:
        return values
    scale = weights.to(device=values.device, dtype=torch.float64)
    total = scale.sum()
    if not total > 0:
        raise ValueError("The weights are all zero: no point to average over.")
    if bool((scale > 0).all()):  # one product, many times faster
        points = values.to(torch.float64).flatten(start_dim=values.ndim - space)
        return (points @ scale.flatten() / total).to(values.dtype)
    kept = torch.where(scale > 0, values.to(torch.float64) * scale, 0.0)
    return (kept.sum(dim=tuple(range(-space, 0))) / total).to(values.dtype)


def mse(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean over space of (forecast - truth)^2, in squared units of the field; (*batch, *space) -> (*batch)."""
    check_shapes(forecast, truth)
    return weighted_mean((forecast - truth).square(), weights)


def rmse(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Root of the mean square error over space, in units of the field; (*batch, *space) -> (*batch).

    To average over cases or leads, average `mse` and take the root last.
    """
    return mse(forecast, truth, weights).sqrt()


def mae(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error over space, in units of the field; (*batch, *space) -> (*batch)."""
    check_shapes(forecast, truth)
    return weighted_mean((forecast - truth).abs(), weights)


def variance(field: Tensor, weights: Tensor) -> Tensor:
    """Unbiased variance over space, n / (n - 1) <(f - <f>)^2> with n points of positive weight; -> (*batch).

    Exactly zero for a field that is constant up to rounding. Raises: ValueError for fewer than two points.
    """
    points = int((weights > 0).sum())
    if points < 2:
        raise ValueError(f"A variance over space needs at least 2 points of positive weight, got {points}.")
    return weighted_mean(_deviation(field, weights).square(), weights).to(field.dtype) * (points / (points - 1))


def vrmse(forecast: Tensor, truth: Tensor, weights: Tensor, *, epsilon: float = 0.0) -> Tensor:
    """RMSE in units of the truth's own standard deviation over space, frame by frame.

        VRMSE = sqrt(<(f - y)^2> / (Var(y) + epsilon)),  Var unbiased, so the spatial mean of y scores sqrt((n - 1) / n)

    Say what `forecast` is: published "VRMSE" of ensembles is mostly that of the *ensemble mean*, which rewards
    smoothing; that of one member is a different number.

    Args:
        forecast: A member or the ensemble mean, physical units, (*batch, *space).
        truth: Same shape.
        epsilon: Floor of the variance, in squared units of the field: 1e-6 in arXiv:2507.02608, 1e-7 in The Well.

    Returns: (*batch). Where truth is constant and epsilon 0: zero for an exact forecast, otherwise infinity.
    Raises: ValueError for shapes that disagree or fewer than two points.
    """
    error = mse(forecast, truth, weights)
    scale = variance(truth, weights) + epsilon
    return torch.where(error == 0, torch.zeros_like(error), error / scale).sqrt()


def correlation(forecast: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Pearson correlation over space; (*batch, *space) -> (*batch) in [-1, 1].

    Zero where either field is constant (it has no pattern to agree on), NaN where a valid point is not finite.
    It sees raw fields: with a strong fixed pattern (temperature by latitude) it stays near 1 without any skill.
    """
    check_shapes(forecast, truth)
    first, second = _deviation(forecast, weights), _deviation(truth, weights)
    cross = weighted_mean(first * second, weights)
    norm = (weighted_mean(first.square(), weights) * weighted_mean(second.square(), weights)).sqrt()
    return torch.where(norm == 0, torch.zeros_like(cross), cross / norm).clamp(-1, 1).to(forecast.dtype)


def check_shapes(forecast: Tensor, truth: Tensor) -> None:
    """Raises: ValueError unless both have one shape (broadcasting would hide a mistake)."""
    if forecast.shape != truth.shape:
        raise ValueError(f"forecast {tuple(forecast.shape)} and truth {tuple(truth.shape)} must have the same shape.")


def _deviation(field: Tensor, weights: Tensor) -> Tensor:
    """f - <f>, float64, exactly zero where f is constant in space up to rounding."""
    values = field.to(torch.float64)
    expand = (...,) + (None,) * weights.ndim
    deviation = values - weighted_mean(values, weights)[expand]
    constant = weighted_mean(deviation.square(), weights) <= CONSTANT**2 * weighted_mean(values.square(), weights)
    return deviation.masked_fill(constant[expand], 0.0) if bool(constant.any()) else deviation
