"""Cutting points and cases into pieces, so that what a score needs besides its inputs does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

WORKSPACE = 32 * 2**20
"""Bytes that a score may take for its intermediate results, whatever the size of the ensemble or of the field."""


CACHED = 2 * 2**20
"""Bytes of intermediate results that a CPU core keeps close: passes over more are several times slower."""


def pieces(shape: Sequence[int], points: int) -> Iterator[tuple[int | slice, ...]]:
    """Indices that cut a tensor of this shape into pieces of at most `points` entries; each entry lies in one piece.

    A piece is a run along one axis with the axes behind it whole and those before it fixed, so that indexing copies
    nothing, whatever the strides. A tensor without axes is one piece, an empty one none.
    """
    if 0 in shape:
        return
    inner = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    axis = next((axis for axis, size in enumerate(inner) if size <= points), None)
    if axis is None:
        yield ()
        return
    length = max(1, points // inner[axis])
    for outer in product(*(range(size) for size in shape[:axis])):
        for first in range(0, shape[axis], length):
            yield (*outer, slice(first, first + length))


def spans(number: int, bytes_each: int, workspace: int = WORKSPACE) -> Iterator[slice]:
    """Slices of `number` cases that keep the intermediate results of a slice within the workspace, one case at least."""
    length = max(1, workspace // max(1, bytes_each))
    for first in range(0, number, length):
        yield slice(first, first + length)
