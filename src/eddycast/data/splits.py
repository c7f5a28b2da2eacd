"""Who trains, who validates, who tests: by trajectory, or by time block where there is only one trajectory."""

from __future__ import annotations

from collections.abc import Sequence

from eddycast.data.dataset import SPLITS, Segment
from eddycast.errors import InputError

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)


def _counts(total: int, fractions: Sequence[float]) -> list[int]:
    """Whole parts of `total` close to the fractions; a part with a fraction above 0 gets at least one."""
    counts = [max(1, round(total * part)) if part > 0 else 0 for part in fractions]
    while sum(counts) != total:
        surplus = [count - total * part for count, part in zip(counts, fractions, strict=True)]
        allowed = [
            index for index, part in enumerate(fractions) if part > 0 and (sum(counts) < total or counts[index] > 1)
        ]
        if not allowed:
            raise InputError(f"{total} cannot be cut into {sum(part > 0 for part in fractions)} parts.")
        pick = min if sum(counts) < total else max
        counts[pick(allowed, key=surplus.__getitem__)] += 1 if sum(counts) < total else -1
    return counts


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Three shares of train, valid and test, none negative, scaled to the sum one. Raises: InputError."""
    if len(fractions) != 3 or min(fractions) < 0 or sum(fractions) <= 0:
        raise InputError(
            f"fractions must be three shares of train, valid and test such as 0.8, 0.1, 0.1; got {fractions}."
        )
    first, second, third = (float(part) / sum(fractions) for part in fractions)
    return first, second, third


def make_splits(
    lengths: Sequence[int], fractions: Sequence[float] = DEFAULT_FRACTIONS
) -> dict[str, tuple[Segment, ...]]:
    """Cut trajectories into train, valid and test, in plain order, so that test comes last.

    From as many trajectories as there are parts, whole trajectories are shared out. Two trajectories are cut into train
    (the first) and valid and test (the second, by time). A single trajectory is cut into blocks of time.

    Args:
        lengths: Frames of each trajectory.
        fractions: Shares of train, valid and test.

    Raises: InputError where there is not enough to cut.
    """
    shares = check_fractions(fractions)
    parts = sum(part > 0 for part in shares)
    number = len(lengths)
    whole = [Segment(index, 0, length) for index, length in enumerate(lengths)]
    if number >= parts:
        counts = _counts(number, shares)
        starts = [0, counts[0], counts[0] + counts[1]]
        return {
            name: tuple(whole[start : start + count]) for name, start, count in zip(SPLITS, starts, counts, strict=True)
        }
    if number == 2:
        train, rest = whole
        if len(rest) < 2:
            raise InputError("Two trajectories of one frame cannot be cut into train, valid and test.")
        cut = max(1, min(len(rest) - 1, round(len(rest) * shares[1] / (shares[1] + shares[2]))))
        return {"train": (train,), "valid": (Segment(1, 0, cut),), "test": (Segment(1, cut, rest.stop),)}
    if lengths[0] < parts:
        raise InputError(
            f"One trajectory of {lengths[0]} frames cannot be cut into {parts} blocks of time; "
            "give more frames, or fractions=(0, 0, 1) to use all of it as test."
        )
    counts = _counts(lengths[0], shares)
    stops = [counts[0], counts[0] + counts[1], lengths[0]]
    return {
        name: ((Segment(0, stop - count, stop),) if count else ())
        for name, stop, count in zip(SPLITS, stops, counts, strict=True)
    }
