"""What a rollout of windows does to a forecast: jumps where one window hands over to the next, and errors that compound.

A forecast file says how long the windows were that it was made of (`eddycast_window`); without that nothing is told here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eddycast.evaluation.evidence import (
    SKILL_THAT_MATTERS,
    Signature,
    bound,
    enough,
    normalised,
    series,
    time_of,
    time_words,
    when,
)

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

WINDOW, FIRST_WINDOW = "eddycast_window", "eddycast_first_window"
"""Attributes of forecasts: new states of each window, and of the first one where it has others, in steps of the data."""

# At the seams a score changes by what it changes by inside windows, so any excess is the model's. A tenth of the error (or spread) is
# seen in a plot of it, and in ten windows that is a factor of 2.6; scores inside scatter by a per cent or two with enough cases.
JUMP = math.log(1.1)
# Members that move a quarter more from window to window than inside do not follow one path.
MOVE = math.log(1.25)
SIGMAS = 5.0  # of the scatter inside windows: some ten questions are asked of each field
SHORTEST = 4  # leads of a window: fewer have nothing inside
INSIDE = 6  # pairs of neighbouring changes inside windows, from which the scatter is known

# Squared error over variance, against that of the first window, as a root: at 1.4 it is twice what the members know of.
OUTGROWN = 1.4
KNOWN_TO_MEMBERS = 0.9  # spread / skill above this is calibrated, whatever it was in the first window


def window_attributes(attributes: Mapping[Any, Any], frames_per_step: int) -> dict[str, Any]:
    """Length of the windows of a forecast in frames of the truth, from what the file says; empty where it does not.

    Args:
        attributes: Of the forecast.
        frames_per_step: Frames of the truth in one step of the forecast.
    """
    found = {}
    for key, name in ((WINDOW, "window"), (FIRST_WINDOW, "first_window")):
        try:
            length = float(attributes.get(key, 0))
        except (TypeError, ValueError):
            return {}
        if length == round(length) and length >= 1:
            found[name] = int(length) * frames_per_step
    return found if "window" in found else {}


def window_of_leads(scores: Scores) -> np.ndarray | None:
    """Number of the window that each lead time is of, (lead,), from 0; None where the windows are unknown or there is only one."""
    length = scores.attributes.get("window")
    if not length or scores.analysis:
        return None
    numbers = scores.data["lead_number"].values
    first = int(scores.attributes.get("first_window", length))
    windows = np.where(numbers <= first, 0, -((first - numbers) // int(length)))
    return windows if windows[-1] > 0 else None


def at_ends_and_inside(scores: Scores, field: str) -> tuple[float, float] | None:
    """Spread / skill at the last leads of windows, and at the others (geometric means); None where that cannot be told."""
    windows = window_of_leads(scores)
    ratio = series(scores, "spread_skill", field)
    if windows is None:
        return None
    ends = np.append(windows[1:] != windows[:-1], False)
    known = np.isfinite(ratio) & (ratio > 0)
    inside = known & ~ends & (windows < windows[-1])  # the last window may be cut short
    if not (known & ends).any() or not inside.any():
        return None
    last, between = (float(np.exp(np.log(ratio[chosen]).mean())) for chosen in (known & ends, inside))
    return last, between


def ends_words(scores: Scores, field: str) -> str:
    """`, 0.62 at the ends of windows and 0.95 inside` where the two differ by more than a tenth, otherwise nothing."""
    found = at_ends_and_inside(scores, field)
    if found is None or abs(math.log(found[0] / found[1])) < JUMP:
        return ""
    return f", {found[0]:.2f} at the ends of windows and {found[1]:.2f} inside"


def jumps(scores: Scores, field: str) -> Iterator[Signature]:
    """Error, spread or pace that change at the seams of windows by other amounts than inside: a saw's teeth."""
    windows = window_of_leads(scores)
    if windows is None or len(set(np.diff(scores.data["lead_number"].values))) != 1:
        return
    ends = np.flatnonzero(windows[1:] != windows[:-1])  # the change from lead j to j + 1 is number j
    seams = {
        "from the last lead of a window to the first of the next": ends,
        "up to the last lead of a window": ends - 1,
    }
    if np.diff(ends, prepend=-1).min() < SHORTEST:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.log(series(scores, "change_member", field) / series(scores, "change_truth", field))[1:]
        curves = {
            "the error": (np.diff(np.log(series(scores, "rmse_mean", field))), JUMP),
            "the spread": (np.diff(np.log(series(scores, "spread", field))), JUMP),
            "moved": (moved, MOVE),
        }
    found = []
    for what, (changes, usual) in curves.items():
        for place, chosen in seams.items():
            inside = np.setdiff1d(np.arange(len(changes)), np.concatenate(list(seams.values())))
            excess, scatter = _excess(changes, chosen, inside)
            least = usual if enough(scores) else 2 * usual  # of a logarithm: the bound is squared
            if abs(excess) > max(least, SIGMAS * scatter):
                found.append((abs(excess) / least, what, place, excess))
    if not found:
        return
    _, what, place, excess = max(found)
    if what == "moved":
        words = f"{place} members move {math.exp(excess):.2g} times as much as inside windows, each against the truth"
    else:
        percent = 100 * abs(math.expm1(excess))
        more = f"{percent:.0f} %" if percent < 100 else f"a factor of {math.exp(excess):.2g}"
        words = f"{place} {what} {'rises' if excess > 0 else 'falls'} by {more} beyond its trend inside windows"
    yield Signature(
        "window jumps",
        field,
        time_of(scores, int(ends[0])),
        f"Window jumps in {field} every {when(scores, _length(scores))}: {words}; try to refine the states inside windows, a last step "
        "like the others, noise shared along a window, windows that overlap, or other lengths.",
    )


def compounding(scores: Scores, field: str) -> Iterator[Signature]:
    """An error that outgrows the spread from window to window: members do not know of what the rollout adds.

    Of a single forecast nothing is told, since chaos makes its error grow as well. A reliable ensemble spreads as it errs.
    """
    windows = window_of_leads(scores)
    if windows is None or windows[-1] < 2:
        return
    numbers = np.arange(windows[-1] + 1)
    error, spread, high = (
        np.array([np.sqrt(np.mean(values[windows == number] ** 2)) for number in numbers])
        for values in (
            normalised(scores, "rmse_mean", field),
            normalised(scores, "spread", field),
            series(scores, "spread_skill_high", field),
        )
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = spread / error
        outgrown = ratio[0] / ratio
    chosen = (outgrown > bound(scores, OUTGROWN)) & (ratio < KNOWN_TO_MEMBERS) & ~(high >= ratio[0])
    chosen &= (error > SKILL_THAT_MATTERS) & (error > error[0] * np.sqrt(numbers + 1))
    if not chosen[-1] or not (chosen[-2] or ratio[-1] < ratio[-2] < ratio[-3]):  # not one window alone
        return
    first = int(np.flatnonzero(~chosen)[-1]) + 1
    lead = int(np.flatnonzero(windows == first)[0])
    yield Signature(
        "compounding",
        field,
        time_of(scores, lead),
        f"Compounding in {field} from window {first + 1} on, at {time_words(scores, lead)}: in the last window the error is "
        f"{error[-1] / error[0]:.2g} times that in the first and spread/skill has fallen from {ratio[0]:.2f} to {ratio[-1]:.2f}; try "
        "longer windows, a better interpolator or schedule, training on several windows, or the checkpoint that is best after a "
        "whole rollout.",
    )


def _excess(changes: np.ndarray, seams: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """How much more changes at a seam than its neighbours inside suggest, and the scatter of that by chance.

    The median of the seams: what happens once, at some lead time, is no tooth of a saw. Of two the smaller one, if they agree.
    """
    inside = inside[np.isfinite(changes[inside])]
    seams = seams[(seams >= 0) & (seams < len(changes))]
    seams = seams[np.isfinite(changes[seams])]
    pairs = inside[:-1][np.diff(inside) == 1]
    if len(pairs) < INSIDE or len(seams) == 0:
        return 0.0, math.inf
    steps = changes[pairs + 1] - changes[pairs]
    scatter = 1.4826 * float(np.median(np.abs(steps - np.median(steps))))
    excess = changes[seams] - np.interp(seams, inside, changes[inside])
    same = (excess > 0).all() or (excess < 0).all()
    usual = float(np.median(excess)) if len(excess) > 2 else float(excess[np.abs(excess).argmin()]) * same
    return usual, scatter / math.sqrt(len(seams))


def _length(scores: Scores) -> float:
    """Time of one window."""
    numbers, times = scores.data["lead_number"].values, scores.lead_times
    return float(scores.attributes["window"]) * float(times[-1]) / float(numbers[-1])
