"""The scores that every evaluation computes, built from the functions of `field` and `ensemble`."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.metrics.ensemble import corrected_variance, coverage, crps
from eddycast.metrics.field import correlation, mae, mse, vrmse, weighted_mean
from eddycast.metrics.score import Score, root_of_ratio


def _crps_fair(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return weighted_mean(crps(ensemble, truth, fair=ensemble.shape[0] > 1), weights)


def _crps_biased(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return weighted_mean(crps(ensemble, truth, fair=False), weights)


def _spread(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return weighted_mean(corrected_variance(ensemble), weights)


def _skill(ensemble: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    return mse(ensemble.mean(dim=0), truth, weights)


STANDARD: tuple[Score, ...] = (
    Score("rmse_mean", _skill, "RMSE of the ensemble mean (skill)", torch.sqrt, physical=True),
    Score("rmse_member", lambda e, y, w: mse(e[0], y, w), "RMSE of the first member", torch.sqrt, physical=True),
    Score("mae_mean", lambda e, y, w: mae(e.mean(dim=0), y, w), "MAE of the ensemble mean", physical=True),
    Score(
        "vrmse_mean",
        lambda e, y, w: vrmse(e.mean(dim=0), y, w),
        "VRMSE of the ensemble mean, averaged over frames",
        min_points=2,
    ),
    Score(
        "vrmse_member",
        lambda e, y, w: vrmse(e[0], y, w),
        "VRMSE of the first member, averaged over frames",
        min_points=2,
    ),
    Score("crps", _crps_fair, "fair CRPS; the absolute error where there is one member", physical=True),
    Score("crps_biased", _crps_biased, "CRPS of the ensemble as it is, punishing small ones", physical=True),
    Score("spread", _spread, "spread, corrected by sqrt((M + 1) / M)", torch.sqrt, physical=True, min_members=2),
    Score(
        "spread_skill",
        lambda e, y, w: (_spread(e, y, w), _skill(e, y, w)),
        "corrected spread over RMSE of the mean",
        root_of_ratio,
        better="target",
        target=1.0,
        min_members=2,
    ),
    Score(
        "correlation_mean",
        lambda e, y, w: correlation(e.mean(dim=0), y, w),
        "Pearson correlation over space, ensemble mean",
        better="higher",
        min_points=2,
        lost=0.0,
    ),
    Score(
        "correlation_member",
        lambda e, y, w: correlation(e[0], y, w),
        "Pearson correlation over space, first member",
        better="higher",
        min_points=2,
        lost=0.0,
    ),
    Score(
        "coverage_50",
        lambda e, y, w: weighted_mean(coverage(e, y, 0.5), w),
        "truth inside the central 50 % interval",
        better="target",
        target=0.5,
        min_members=3,
    ),
    Score(
        "coverage_80",
        lambda e, y, w: weighted_mean(coverage(e, y, 0.8), w),
        "truth inside the central 80 % interval",
        better="target",
        target=0.8,
        min_members=9,
    ),
    Score(
        "coverage_90",
        lambda e, y, w: weighted_mean(coverage(e, y, 0.9), w),
        "truth inside the central 90 % interval",
        better="target",
        target=0.9,
        min_members=19,
    ),
)
