"""Scores as plain functions of tensors; `registry` lists those that an evaluation computes."""

from eddycast.metrics.bootstrap import Interval, block_bootstrap, case_blocks
from eddycast.metrics.ensemble import (
    SpreadSkill,
    corrected_variance,
    coverage,
    crps,
    energy_score,
    rank_histogram,
    spread_skill,
)
from eddycast.metrics.field import correlation, mae, mask_weights, mse, rmse, variance, vrmse, weighted_mean
from eddycast.metrics.registry import SCORES, scores_for
from eddycast.metrics.score import Score
from eddycast.metrics.spectrum import (
    Shells,
    SpectralError,
    bands,
    excess_in_empty_modes,
    power_spectrum,
    shells,
    spectral_errors,
)
from eddycast.metrics.time import counted_time, first_crossing_time, never_crossed

__all__ = [
    "SCORES",
    "Interval",
    "Score",
    "Shells",
    "SpectralError",
    "SpreadSkill",
    "bands",
    "block_bootstrap",
    "case_blocks",
    "corrected_variance",
    "correlation",
    "counted_time",
    "coverage",
    "crps",
    "energy_score",
    "excess_in_empty_modes",
    "first_crossing_time",
    "mae",
    "mask_weights",
    "mse",
    "never_crossed",
    "power_spectrum",
    "rank_histogram",
    "rmse",
    "scores_for",
    "shells",
    "spectral_errors",
    "spread_skill",
    "variance",
    "vrmse",
    "weighted_mean",
]
