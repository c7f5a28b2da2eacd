"""Every score that an evaluation computes. A new one is a file with a `Score`, imported and listed here."""

from __future__ import annotations

from eddycast.metrics.multivariate import MULTIVARIATE
from eddycast.metrics.score import Score
from eddycast.metrics.standard import STANDARD

SCORES: tuple[Score, ...] = (*STANDARD, *MULTIVARIATE)


def scores_for(members: int, points: int | None = None) -> tuple[Score, ...]:
    """The registered scores that an ensemble of this size allows, on a grid of so many points (None: of many)."""
    enough = [score for score in SCORES if points is None or score.min_points <= points]
    return tuple(score for score in enough if score.min_members <= members)
