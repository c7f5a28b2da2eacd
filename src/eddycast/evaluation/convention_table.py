"""Published conventions as text: the numbers that stand in a paper's table, and the fair ones beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eddycast.evaluation.wording import align, number, spread_out

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

TITLES = {
    "crps": "CRPS",
    "crps_fair": "CRPS fair",
    "mse": "MSE",
    "mse_fair": "MSE fair",
    "ssr": "SSR",
    "ssr_fair": "SSR fair",
}
UNITS = {
    "dyffusion": "in the units of the data",
    "dyffusion-normalised": "in training deviations of each field",
    "dyffusion-pixelwise": "in training deviations of each field at each point",
}


def convention_lines(scores: Scores) -> list[str]:
    """Lines of text; none without a convention."""
    data = scores.data
    if "convention_means" not in data:
        return []
    name = str(scores.attributes["convention"])
    lines = [
        f"Convention {name}: all fields and points alike, {UNITS.get(name, '')}, mean over lead times; SSR is spread over skill:"
    ]
    rows = [["average", *TITLES.values()]]
    for pooling, words in (("trajectories", "each case on its own"), ("pooled", "cases pooled")):
        row = [words]
        for measure in TITLES:
            value, low, high = scores.in_convention(measure, pooling)
            row.append(
                ("blow-up" if _lost(scores, measure) else "-") if np.isnan(value) else spread_out(value, low, high)
            )
        rows.append(row)
    ratio = data["convention_leads"].sel(pooling="trajectories").values
    first, last = (
        ", ".join(f"{title} {number(one)}" for title, one in zip(TITLES.values(), ratio[:, place], strict=True))
        for place in (0, -1)
    )
    times = scores.lead_times
    return [*lines, *align(rows), f"  at lead {times[0]:g}: {first}", f"  at lead {times[-1]:g}: {last}", ""]


def _lost(scores: Scores, measure: str) -> bool:
    """Whether a number is missing because a member is not finite, not because there is a single member."""
    return bool(scores.data["nonfinite"].values.any()) and not (measure.endswith("_fair") and scores.members == 1)
