"""Every score that an evaluation computes. A new one is a file with a `Score`, imported and listed here."""

from __future__ import annotations

from eddycast.metrics.multivariate import MULTIVARIATE
from eddycast.metrics.published import PUBLISHED
from eddycast.metrics.score import Score
from eddycast.metrics.standard import STANDARD
from eddycast.metrics.transport import TRANSPORT

SCORES: tuple[Score, ...] = (*STANDARD, *MULTIVARIATE, *TRANSPORT, *PUBLISHED)


def scores_for(members: int, points: int | None = None, *, nonnegative: bool = True) -> tuple[Score, ...]:
    """The registered scores that an ensemble of this size allows.

    Args:
        members: Size of the ensemble.
        points: Points of the grid that count; None for many.
        nonnegative: Whether a field without negative values is there.
    """
    enough = [score for score in SCORES if points is None or score.min_points <= points]
    return tuple(score for score in enough if score.min_members <= members and (nonnegative or not score.nonnegative))
