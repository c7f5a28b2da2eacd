"""Which physical times the steps of a dynamics-informed diffusion stand for.

    kind                 times i_n of a window of h steps, n = 0 ... N - 1                    N
    base                 0, 1, ..., h - 1                                                     h
    before-first         k extra times, equidistant in (0, 1), before the first whole one     h + k
    linear               k extra times in every gap                                           h + k (h - 1)
    linear-after-first   k extra times in every gap but the first                             h + k (h - 2)

Time runs forward: i_0 = 0 is the known state, the last step is before h, and h itself is what the forecaster says.
Source: arXiv:2306.01984, section 3.2 and its code.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Literal

import numpy as np

ScheduleKind = Literal["base", "before-first", "linear", "linear-after-first"]
WHOLE = 1e-9
"""Times closer than this to a whole number are that number."""

RULES = "all, dynamics, dynamics+K, dynamics+K-trained, every-N, first-N, first-0.X"


def training_times(horizon: int, kind: ScheduleKind = "base", extra: int = 0) -> tuple[float, ...]:
    """Times of the steps in training. Raises: ValueError for extra times that the kind has no place for."""
    if kind == "base":
        if extra:
            raise ValueError(f"schedule base has no extra times, got extra = {extra}: choose before-first or linear.")
        return tuple(float(step) for step in range(horizon))
    if extra < 1:
        raise ValueError(f"schedule {kind} needs extra >= 1, got {extra}: choose base for none.")
    before = [n / (extra + 1) for n in range(extra + 1)]
    gap = {"before-first": [0.0], "linear": before, "linear-after-first": before}[kind]
    first = [0.0] if kind == "linear-after-first" else before
    later = [step + part for step in range(1, horizon - 1) for part in gap]
    return (*first, *later, float(horizon - 1)) if horizon > 1 else (0.0,)


def check_times(times: tuple[float, ...], horizon: int) -> tuple[float, ...]:
    """The times themselves. Raises: ValueError unless they start at 0, ascend and stay below the horizon."""
    if not times or times[0] != 0 or not all(b > a for a, b in pairwise(times)):
        raise ValueError(f"times must start at 0 and ascend, got {list(times[:6])}.")
    if not times[-1] < horizon:
        raise ValueError(f"times must stay below the horizon {horizon}, got {times[-1]:g}: it is the forecaster's.")
    return times


def is_whole(time: float) -> bool:
    """Whether a time is a whole number of steps."""
    return abs(time - round(time)) < WHOLE


def sampling_times(times: tuple[float, ...], rule: str) -> tuple[float, ...]:
    """The steps of a forecast, some of those of training: whole times always, of the auxiliary ones what the rule says.

        all                  all of them
        dynamics             none
        dynamics+K           K new ones, equidistant before the first whole time
        dynamics+K-trained   the same, each at the nearest time before it that was trained, 0 left out
        every-N              every N-th
        first-N, first-0.X   the first N, or that share of them

    Raises: ValueError for another rule.
    """
    auxiliary = [time for time in times if not is_whole(time)]
    whole = [time for time in times if is_whole(time)]
    found = re.fullmatch(r"(all)|dynamics|dynamics\+(\d+)(-trained)?|every-([1-9]\d*)|first-(0\.\d+|\d+)", rule)
    if found is None:
        raise ValueError(f"sampling must be one of {RULES}, got {rule!r}.")
    everything, uniform, trained, every, first = found.groups()
    chosen: list[float] = []
    if everything:
        chosen = auxiliary
    elif uniform and len(whole) > 1:
        chosen = [whole[1] * (k + 1) / (int(uniform) + 1) for k in range(int(uniform))]
        if trained:
            known = np.array(times)
            chosen = [float(known[known <= time + WHOLE].max()) for time in chosen]
    elif every:
        chosen = auxiliary[:: int(every)]
    elif first:
        chosen = auxiliary[: round(float(first) * len(auxiliary)) if "." in first else int(first)]
    return tuple(sorted({*whole, *chosen}))


def index_of(time: float, times: tuple[float, ...]) -> float:
    """The step n that a time stands for, between whole n by linear interpolation."""
    return float(np.interp(time, times, np.arange(len(times))))
