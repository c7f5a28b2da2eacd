"""Boxes of a latitude-longitude (or any two-dimensional) grid: where they lie, their numbers, which years train.

Rows are counted from the lowest coordinate (the south), columns from the first longitude of the region eastwards, boxes row by row from 0;
what is left over at the upper ends belongs to no box.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from eddycast.data.dataset import SPLITS
from eddycast.data.quadrature import is_uniform
from eddycast.data.splits import check_fractions
from eddycast.errors import InputError

Kind = Literal["longitude", "latitude", "plain"]
Region = tuple[tuple[float, float], tuple[float, float]]

PUBLISHED_REGION: Region = ((-60.0, 60.0), (0.0, 360.0))
PUBLISHED_BOXES = (84, 85, 86, 87, 88, 89, 108, 109, 110, 111, 112)
"""The boxes of the published set, numbered in `PUBLISHED_REGION` in rows of 24 with 60 x 60 pixels of 1/4 degree: 15S to 0 from 180E to
90W, and 0 to 15N from 180E to 105W.

Ids and the stride of 24 are published; the orientation is not, and is inferred. From north to south, 84 to 89 would lie between 0 and
15N and number 89 would hold the coast of Guatemala; from south to north the row that ends early is the one that meets this
coast. Counted from 1, the boxes would begin at 165E, which is no eastern Pacific. Compare by eye before ids are matched with the
published files.
"""
YEARS: dict[str, tuple[tuple[int, int], ...]] = {
    "paper": ((1982, 2019), (2020, 2020), (2021, 2021)),
    "code": ((1982, 2018), (2019, 2019), (2020, 2020)),
}
"""First and last year of train, valid and test: as the paper states them, and as its released code has them. Scores of one are not those of
the other."""


@dataclass(frozen=True)
class Box:
    """One box: its number, and the indices in the file of its rows and columns, in the order of the box."""

    number: int
    rows: np.ndarray
    columns: np.ndarray


def select(coordinates: np.ndarray, kind: Kind, bounds: tuple[float, float] | None, name: str = "axis") -> np.ndarray:
    """Indices of the points with lower <= coordinate < upper, lowest first.

    Longitudes count eastwards from the lower bound, across any seam.

    Raises: InputError for bounds without a point between them, or points that are not equally spaced.
    """
    slack = 1e-6 * 360
    if bounds is None:
        order = np.argsort(_unseamed(coordinates) if kind == "longitude" else coordinates, kind="stable")
        values = (_unseamed(coordinates) if kind == "longitude" else coordinates)[order]
    else:
        low, high = bounds
        if not low < high:
            raise InputError(f"The region of {name!r} must have its lower bound first, got {low:g}:{high:g}.")
        if kind == "longitude":
            if high - low > 360 + slack:
                raise InputError(f"The region of {name!r} must not be wider than 360 degrees, got {low:g}:{high:g}.")
            values = (coordinates - low + slack) % 360 - slack + low
        else:
            values = coordinates
        inside = np.flatnonzero((values >= low - slack) & (values < high - slack))
        order = inside[np.argsort(values[inside], kind="stable")]
        values = values[order]
    if len(order) == 0:
        raise InputError(
            f"No point of {name!r}, from {coordinates.min():g} to {coordinates.max():g}, lies in the region "
            f"{bounds[0]:g}:{bounds[1]:g}."
            if bounds
            else f"The axis {name!r} has no points."
        )
    if len(order) > 2 and not is_uniform(values):
        raise InputError(
            f"The points of {name!r} in the region are not equally spaced, so boxes would have different shapes; choose another region, or "
            "interpolate to a regular grid first."
        )
    return order


def _unseamed(longitude: np.ndarray) -> np.ndarray:
    """Longitudes that go on where a file jumps from 360 to 0."""
    return longitude + 360 * np.concatenate([[0], np.cumsum(np.diff(longitude) < -180)])


def boxes(rows: np.ndarray, columns: np.ndarray, size: tuple[int, int], numbers: Sequence[int] | None) -> list[Box]:
    """All boxes, or those with the given numbers, in this order.

    Raises: InputError for a region smaller than one box, or a number that does not exist or comes twice.
    """
    down, across = len(rows) // size[0], len(columns) // size[1]
    if down * across == 0:
        raise InputError(
            f"No box of {size[0]}x{size[1]} fits into the region of {len(rows)}x{len(columns)} points; choose a smaller --size "
            "or a larger --region."
        )
    wanted = range(down * across) if numbers is None else numbers
    if len(set(wanted)) < len(wanted):
        raise InputError("Each number of a box must be given once.")
    if wrong := [number for number in wanted if not 0 <= number < down * across]:
        raise InputError(
            f"There is no box {wrong[0]}: the region holds {down} rows of {across}, numbered 0 to {down * across - 1}."
        )
    found = []
    for number in wanted:
        row, column = divmod(number, across)
        found.append(
            Box(
                number,
                rows[row * size[0] : (row + 1) * size[0]],
                columns[column * size[1] : (column + 1) * size[1]],
            )
        )
    return found


def contiguous(indices: np.ndarray) -> list[slice]:
    """Increasing indices as slices."""
    cuts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(indices)]
    return [slice(int(indices[start]), int(indices[stop - 1]) + 1) for start, stop in pairwise(cuts)]


def frames_of_splits(split: str, years: np.ndarray | None, count: int, covered: str) -> dict[str, range]:
    """Frames of train, valid and test.

    Args:
        split: `paper` or `code` (`YEARS`), three years or ranges of years such as `1982-2018,2019,2020`, or three shares such as
            0.8,0.1,0.1 for blocks of time.
        years: Year of each frame, increasing, (time,); None where times are no dates.
        count: Frames.
        covered: What the files cover, for messages.

    Raises: InputError for another form, for parts that overlap or do not follow each other, and for a part without frames.
    """
    parts = [part.strip() for part in split.split(",")]
    named = YEARS.get(split) or (
        tuple(_years(part) for part in parts)
        if len(parts) == 3 and all(re.fullmatch(r"\d{4}(-\d{4})?", part) for part in parts)
        else None
    )
    if named is None:
        try:
            shares = check_fractions([float(part) for part in parts])
        except ValueError as error:
            raise InputError(
                f"--split must be paper, code, three years or ranges of years such as 1982-2018,2019,2020, or three shares such as "
                f"0.8,0.1,0.1; got {split!r}."
            ) from error
        ends = np.round(np.cumsum([0.0, *shares]) * count).astype(int).tolist()
        found = [range(start, stop) for start, stop in pairwise(ends)]
    else:
        if years is None:
            raise InputError(
                "A split by years needs dates, the files have plain numbers: give shares such as 0.8,0.1,0.1."
            )
        if any(first > last for first, last in named) or any(a[1] >= b[0] for a, b in pairwise(named)):
            raise InputError(f"The years of --split must increase and not overlap, got {split!r}.")
        found = [
            range(int(np.searchsorted(years, first)), int(np.searchsorted(years, last, side="right")))
            for first, last in named
        ]
    for name, frames, part in zip(SPLITS, found, parts if named is None else named, strict=False):
        if len(frames) == 0:
            told = part if isinstance(part, str) else " to ".join(str(year) for year in dict.fromkeys(part))
            raise InputError(
                f"There are no frames for {name} ({told}): the files cover {covered}; give other files or another --split."
            )
    return dict(zip(SPLITS, found, strict=True))


def _years(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)
