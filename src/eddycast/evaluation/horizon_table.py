"""Horizons as text: one row for each, the mean over fields, as papers print them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eddycast.evaluation.horizons import ENDS
from eddycast.evaluation.wording import align, number, spread_out

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

COLUMNS = (
    ("vrmse_published", "VRMSE mean"),
    ("vrmse_member", "VRMSE member"),
    ("crps", "CRPS"),
    ("spread_skill", "spread/skill"),
    ("spread_skill_published", "as published"),
    ("low_band_power_rmse", "power low"),
    ("mid_band_power_rmse", "power mid"),
    ("high_band_power_rmse", "power high"),
    ("wasserstein_values", "Wasserstein"),
    ("semd", "SEMD"),
    ("coverage_50", "cover 50 %"),
    ("coverage_80", "cover 80 %"),
    ("coverage_90", "cover 90 %"),
)
"""Score and heading; the physical ones are in climatological deviations."""


def horizons_table(scores: Scores, own: tuple[str, ...] = ()) -> list[str]:
    """Lines of text; none without horizons.

    Args:
        scores: Of an evaluation with horizons.
        own: Further scores to show, by name.
    """
    data = scores.data
    if "horizon_means" not in data:
        return []
    pooled = data.sel(averaging="pooled")
    known = set(data["score"].values)
    shown = [
        (name, title)
        for name, title in (*COLUMNS, *((name, name) for name in own))
        if name in known and np.isfinite(pooled["horizon_means"].sel(score=name).values).any()
    ]
    fields = ", ".join(scores.fields) if len(scores.fields) == 1 else f"mean of {len(scores.fields)} fields"
    lines = [
        f"Horizons (lead numbers in steps of the data, both ends included), {fields}; CRPS and Wasserstein in climatological "
        "standard deviations:"
    ]
    rows = [["leads", *(title for _, title in shown), "frames"]]
    for label in data["horizon"].values:
        here = pooled.sel(horizon=label)
        lost = _lost(scores, int(here["horizon_start"]), int(here["horizon_stop"]))
        row = [str(label)]
        for name, _ in shown:
            value, low, high = (float(here[f"horizon_means{end}"].sel(score=name)) for end in ENDS)
            row.append(("blow-up" if lost else number(value)) if np.isnan(value) else spread_out(value, low, high))
        rows.append([*row, str(int(here["horizon_frames"]))])
    lines += align(rows)
    lines += ["  SEMD: of fields without negative values."] if "semd" in dict(shown) else []
    return [*lines, "  By field, and averaged as published (roots and ratios of each frame): in the JSON file.", ""]


def _lost(scores: Scores, first: int, last: int) -> bool:
    """Whether a member is not finite at these leads."""
    numbers = scores.data["lead_number"].values
    return bool(scores.data["nonfinite"].values[(numbers >= first) & (numbers <= last)].any())
