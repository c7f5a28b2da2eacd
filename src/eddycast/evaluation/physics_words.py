"""Physics checks in words: lines below the table, and sentences for the diagnosis where members break a law that the truth keeps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from eddycast.evaluation.evidence import lasting, when
from eddycast.evaluation.physics import QUANTITIES
from eddycast.evaluation.wording import number

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

# A tenth of the energy is a twentieth of every velocity and displacement: more than schemes of one order differ by.
OFF = 1.1
# A residual twice that of the truth, which has what the discretisation leaves, and two per cent more of what it is measured by.
RESIDUAL_FACTOR, RESIDUAL_LEAST = 2.0, 0.02


def physics_lines(scores: Scores) -> list[str]:
    """A line for each quantity at the first and the last lead, members and truth; none without any."""
    if "physics_member" not in scores.data:
        return []
    lines = ["Physics, mean over cases, members (truth):"]
    times = scores.lead_times
    for name in scores.data["quantity"].values:
        one = scores.data.sel(quantity=name)
        known, members = one["physics_truth"].values, one["physics_member"].values
        shown = np.flatnonzero(np.isfinite(known))
        if len(shown) == 0:
            continue
        parts = [
            f"{number(float(members[place]))} ({number(float(known[place]))}) at {when(scores, times[place])}"
            for place in shown[[0, -1]]
        ]
        begin, last = float(one["physics_start"]), shown[-1]
        if not QUANTITIES[str(name)].residual:
            if begin > 0:
                parts.append(
                    f"{members[last] / begin:.1%} ({known[last] / begin:.1%}) of the start is left at the last lead"
                )
            parts.append(f"relative error {number(float(one['physics_error'].values[last]))} there")
        lines.append(f"  {QUANTITIES[str(name)].title}: {'; '.join(parts)}")
    return [*lines, ""]


def broken_laws(scores: Scores) -> list[str]:
    """A sentence for each quantity that members get wrong at several lead times in a row."""
    if "physics_member" not in scores.data:
        return []
    return [words for name in scores.data["quantity"].values if (words := _broken(scores, str(name)))]


def _broken(scores: Scores, name: str) -> str:
    one = scores.data.sel(quantity=name)
    members, known = one["physics_member"].values, one["physics_truth"].values
    low, high = (one[f"physics_member{end}"].values for end in ("_low", "_high"))
    title = QUANTITIES[name].title
    if QUANTITIES[name].residual:
        least = RESIDUAL_FACTOR * known + RESIDUAL_LEAST
        bad = lasting((members > least) & ~(low <= least))
        if not bad.any():
            return ""
        worst = int(np.nanargmax(np.where(bad, members, np.nan)))
        return (
            f"{title} is {members[worst]:.2g} where the truth has {known[worst]:.2g}, at {when(scores, scores.lead_times[worst])}: try to "
            "impose boundary values on every member, a projection after each window, or a loss that sees it."
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = members / known
    for bad, pick, verb in (
        (lasting((ratio > OFF) & ~(low <= known)), np.nanargmax, "too large"),
        (lasting((ratio < 1 / OFF) & ~(high >= known)), np.nanargmin, "too small"),
    ):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            worst = int(pick(np.where(bad, ratio, np.nan)))
            left = _left(float(one["physics_start"]), members[-1], known[-1])
            cure = (
                "noise of the model heats: less of it, or refined states"
                if verb == "too large"
                else "the model damps: a probabilistic one, or longer training"
            )
            return (
                f"{title} is {verb} from {when(scores, scores.lead_times[first])} on ({ratio[worst]:.2g} times the truth's at "
                f"{when(scores, scores.lead_times[worst])}{left}): {cure}; try longer windows."
            )
    return ""


def _left(begin: float, members: float, known: float) -> str:
    if not begin > 0 or not math.isfinite(members) or not math.isfinite(known):
        return ""
    return f"; {members / begin:.0%} of the start is left at the end, where the truth keeps {known / begin:.0%}"
