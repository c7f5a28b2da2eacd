"""What signatures are made of: a name with a sentence, and the questions that are asked of a score along lead time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

LASTING = 3  # lead times in a row: single ones stand out by chance
ENOUGH = 8  # independent blocks of cases; with fewer, bounds on ratios are squared (1.4 becomes 2)

# Errors within a tenth of a climatological deviation are too small for spread / skill to mean anything.
SKILL_THAT_MATTERS = 0.1


@dataclass(frozen=True)
class Signature:
    """One failure.

    Args:
        name: `mode collapse`, `error growth`, ...
        field: Where; empty where it is of whole members.
        lead_time: From when on, in the time units of the scores; None if at no particular time.
        sentence: With the figure and what to do.
    """

    name: str
    field: str
    lead_time: float | None
    sentence: str


def when(scores: Scores, time: Any) -> str:
    """A time in words; `time` is a number or an array of one."""
    if scores.lyapunov_time:
        return f"{time / scores.lyapunov_time:.1f} Lyapunov times"
    return f"{time:.4g} {scores.time_units}" if scores.time_units not in ("", "1") else f"time {time:.4g}"


def enough(scores: Scores) -> bool:
    return int(scores.attributes["num_blocks"]) >= ENOUGH


def bound(scores: Scores, value: float) -> float:
    return value if enough(scores) else value**2


def lasting(chosen: np.ndarray, of: int | None = None) -> np.ndarray:
    """Nothing, unless `LASTING` lead times in a row (or all `of` that there are) are chosen; then those from the first such run."""
    need = max(1, min(LASTING, len(chosen) if of is None else of))
    runs = np.convolve(chosen, np.ones(need), mode="valid") == need
    if not runs.any():
        return np.zeros_like(chosen)
    kept = chosen.copy()
    kept[: int(runs.argmax())] = False
    return kept


def series(scores: Scores, name: str, field: str) -> np.ndarray:
    """A score at every lead time; NaN throughout where an older file has none."""
    return scores.series(name, field) if name in scores.data else np.full(len(scores.lead_times), np.nan)


def normalised(scores: Scores, name: str, field: str) -> np.ndarray:
    std = float(scores.data["climatology_std"].sel(field=field))
    return series(scores, name, field) / std if std > 0 else np.full(len(scores.lead_times), np.nan)


def first_of(chosen: np.ndarray) -> int:
    return int(np.flatnonzero(chosen)[0])


def extreme_of(values: np.ndarray, chosen: np.ndarray, pick: Any) -> int:
    return int(pick(np.where(chosen, values, np.nan)))


def time_of(scores: Scores, place: int) -> float:
    return float(scores.lead_times[place])


def time_words(scores: Scores, place: int) -> str:
    return when(scores, scores.lead_times[place])
