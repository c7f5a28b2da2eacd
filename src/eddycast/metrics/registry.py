"""Every score that an evaluation computes. A new one is a file with a `Score`, imported and listed here."""

from __future__ import annotations

from eddycast.metrics.score import Score
from eddycast.metrics.standard import STANDARD

SCORES: tuple[Score, ...] = (*STANDARD,)


def scores_for(members: int) -> tuple[Score, ...]:
    """The registered scores that an ensemble of this size allows."""
    return tuple(score for score in SCORES if score.min_members <= members)
