"""Ensembles whose members become one while they are trained: noticed, and said once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

COLLAPSED = 0.05
"""Spread over error below which members are one: a calibrated ensemble has 1, and even the unfair score of two members asks for 0.45."""
SHORTEST, PATIENCE = 20, 100
"""Steps in a row below it: a quarter of the stage, within these bounds."""
WARM_UP = 0.25
"""Part of a stage in which a narrow ensemble is no fault: it may begin that way, and widens as the score asks for it."""


def spread_error(told: Mapping[str, float]) -> dict[str, float]:
    """Spread over error as an entry of the log, from their mean squares; none where the objective tells neither, or there is no error."""
    spread, error = told.get("spread"), told.get("error")
    if spread is None or error is None or not error > 0:
        return {}
    return {"spread_error": math.sqrt(spread / error)}


@dataclass
class CollapseWatch:
    """Looks at the ratio of each step of one stage; a run that is resumed shows it the steps of the log again.

    While the ratio doubles within the steps it looks at, it waits: the ensemble is on its way. At the end of the stage it does not.

    Args:
        steps: Of the stage.
    """

    steps: int
    reported: bool = False
    _last: deque[float] = field(init=False)

    def __post_init__(self) -> None:
        self._last = deque(maxlen=max(SHORTEST, min(PATIENCE, self.steps // 4)))

    def sees(self, step: int, ratio: object) -> bool:
        """Whether the members have collapsed, true at one step at most; `step` counts from 1. Steps without a ratio do not count."""
        if not isinstance(ratio, float):
            return False
        self._last.append(ratio)
        long_enough = step > WARM_UP * self.steps and len(self._last) == self._last.maxlen
        if self.reported or not long_enough or max(self._last) >= COLLAPSED:
            return False
        ratios, half = list(self._last), len(self._last) // 2
        if step < self.steps and sum(ratios[-half:]) > 2 * sum(ratios[:half]):
            return False
        self.reported = True
        return True

    def message(self, stage: str) -> str:
        """One line: what happened, what it means, what to do."""
        mean = sum(self._last) / len(self._last)
        return (
            f"Stage {stage!r}: the members have collapsed, their spread is {mean:.2g} of the error of their mean over the last "
            f"{len(self._last)} steps (1 when calibrated). Forecasts would be near-copies of one: raise emulator.gain (or the noise "
            "of the network) and emulator.fairness towards 1, and leave emulator.spectral amplitude out."
        )
