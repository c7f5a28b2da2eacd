"""Attention of each point to the points in a window around it, on periodic and bounded axes: one law, four ways to compute it.

    a_x = sum_o w_xo (v_{x+o} + s_o),    w_x = softmax_o(q_x . (k_{x+o} + p_o) / sqrt(d) + b_o),    o in the window around 0

Periodic axes wrap. Beyond the ends of bounded ones nothing stands: the softmax there is over the offsets that exist. With the same
b_o, p_o, s_o at every x, the map commutes with shifts by points along periodic axes. The learned numbers of positions are b (bias of
the logits), p and s (vectors added to keys and values).

| backend | what it does | time | memory beyond the input |
|---|---|---|---|
| `unfold` | a view of all windows, copied: the reference that the others are tested against | O(D K) | K copies of keys and values |
| `offsets` | one pass over the field for each offset | O(D K) | the same, kept for the backward pass |
| `dense` | all pairs of points, those outside the window masked | O(D^2) | D^2 weights per head |
| `blocks` | blocks of points against themselves and a halo, as small dense products | O(D (w + 2 r)) | D (w + 2 r) weights per head |

D points, window K = 2 r + 1, blocks of w. All are exact, and made of plain products and softmax: derivatives of any order and mode.
Neither the fused kernel of torch nor flex attention is used: with a bias that learns, the first is no faster on CPUs than plain
products, and the second has no backward pass there. Source: arXiv:2509.09599, figure 1; blocks and halo as in arXiv:2103.12731.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Where the neighbours of a point are, and what the offsets have learned.

    Args:
        radii: Points to each side along each space axis; the offsets, P = prod(2 r + 1), are counted with the last axis fastest.
        periodic: Whether each axis wraps.
        bias: b, (heads, P), or None.
        keys, values: p and s, (heads, P, features), or None.
    """

    radii: tuple[int, ...]
    periodic: tuple[bool, ...]
    bias: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None


def require_window(window: tuple[int, ...]) -> None:
    """Raises: ValueError for a window that has no centre."""
    if not window or any(points < 1 or points % 2 == 0 for points in window):
        raise ValueError(f"A window of local attention must be odd to have a centre, got {list(window)}.")


def effective_radii(window: tuple[int, ...], space: tuple[int, ...], periodic: tuple[bool, ...]) -> tuple[int, ...]:
    """Points to each side that a window reaches on a grid, never twice the same point.

    On a ring of D points at most (D - 1) // 2: a larger window becomes the largest odd one that fits, which for even D leaves out the
    point opposite. On a bounded axis at most D - 1, which leaves nothing out.
    """
    return tuple(
        min(points // 2, (size - 1) // 2 if wrap else size - 1)
        for points, size, wrap in zip(window, space, periodic, strict=True)
    )


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: tuple[int, ...],
    periodic: tuple[bool, ...],
    bias: Tensor | None = None,
    key_vectors: Tensor | None = None,
    value_vectors: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Attention of each point to the window around it; see above.

    Args:
        q, k, v: (batch, *space, heads, features).
        window: Points of the window along each space axis, odd. One that does not fit on the grid is cut, `effective_radii`.
        periodic: Whether each space axis is periodic.
        bias: b, (heads, *window).
        key_vectors, value_vectors: p and s, (heads, *window, features).
        backend: One of `BACKENDS`, or `auto`: the faster one for the grid, see `fastest`.

    Returns: (batch, *space, heads, features).
    Raises: ValueError for an even window, one with another number of axes than space, or an unknown backend.
    """
    require_window(window)
    axes = q.ndim - 3
    if len(window) != axes or len(periodic) != axes:
        raise ValueError(f"{axes} space axes need as many entries of window {window} and periodic {periodic}.")
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"backend must be auto, {', '.join(BACKENDS)}; got {backend!r}.")
    space = tuple(q.shape[1:-2])
    radii = effective_radii(window, space, periodic)
    bias, keys, values = (_cut(table, window, radii) for table in (bias, key_vectors, value_vectors))
    how = BACKENDS[fastest(space, radii) if backend == "auto" else backend]
    return how(q * q.shape[-1] ** -0.5, k, v, Window(radii, periodic, bias, keys, values))


def _cut(table: Tensor | None, window: tuple[int, ...], radii: tuple[int, ...]) -> Tensor | None:
    """The middle of a table (heads, *window, ...), its offsets flattened."""
    if table is None:
        return None
    for axis, (points, radius) in enumerate(zip(window, radii, strict=True), start=1):
        table = table.narrow(axis, points // 2 - radius, 2 * radius + 1)
    return table.flatten(1, len(window))


DENSE_POINTS = 64
"""Points up to which all pairs are faster than blocks; measured, see `results/local-attention.json`."""
BLOCK = {1: 24, 2: 8, 3: 4}
"""Points of a block along an axis, by the number of space axes."""


def fastest(space: tuple[int, ...], radii: tuple[int, ...]) -> str:
    """The backend that took least time forward and back on one CPU thread: `dense` on small grids, `blocks` on others.

    Also `dense` where each block and its halo would cover the whole grid.
    """
    covered = all(
        block_size(size, radius, len(space)) + 2 * radius >= size for size, radius in zip(space, radii, strict=True)
    )
    return "dense" if covered or math.prod(space) <= DENSE_POINTS else "blocks"


def block_size(size: int, radius: int, axes: int) -> int:
    """Points of a block along an axis of `size`, near a target: blocks are equal, and fill little more than the axis."""
    return -(-size // max(1, round(size / max(BLOCK[axes], radius))))


def _line(size: int, start: int, stop: int, wrap: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points start ... stop - 1 of an axis that may go beyond its ends: which point stands there, and whether any does."""
    index = torch.arange(start, stop, device=device)
    if wrap:
        return index.remainder(size), torch.ones_like(index, dtype=torch.bool)
    return index.clamp(0, size - 1), (index >= 0) & (index < size)


def _along(line: Tensor, axis: int, axes: int) -> Tensor:
    """A line (size, *rest) as that axis of `axes` space axes, the rest behind them."""
    return line[(None,) * axis + (slice(None),) + (None,) * (axes - 1 - axis)]


def unfold(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """All windows side by side: the law as it is written."""
    axes = len(window.radii)
    exists = torch.ones((), dtype=torch.bool, device=q.device)
    for axis, (size, radius, wrap) in enumerate(zip(q.shape[1:-2], window.radii, window.periodic, strict=True)):
        index, there = _line(size, -radius, size + radius, wrap, q.device)
        width = 2 * radius + 1
        k, v = (part.index_select(1 + axis, index).unfold(1 + axis, width, 1) for part in (k, v))
        there = there.unfold(0, width, 1)
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = there.shape
        exists = exists & there.reshape(shape)
    k, v, exists = (part.flatten(-axes) for part in (k, v, exists))  # windows stand last
    logits = torch.einsum("b...hd,b...hdp->b...hp", q, k)
    if window.keys is not None:
        logits = logits + torch.einsum("b...hd,hpd->b...hp", q, window.keys)
    if window.bias is not None:
        logits = logits + window.bias
    weights = logits.masked_fill(~exists.unsqueeze(-2), -torch.inf).softmax(dim=-1)
    out = torch.einsum("b...hp,b...hdp->b...hd", weights, v)
    return out if window.values is None else out + torch.einsum("b...hp,hpd->b...hd", weights, window.values)


def offsets(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """Offset by offset, each a shift of the whole field."""
    space, axes = q.shape[1:-2], len(window.radii)
    lines = []
    for axis, (size, radius, wrap) in enumerate(zip(space, window.radii, window.periodic, strict=True)):
        index, there = _line(size, -radius, size + radius, wrap, q.device)
        k, v = k.index_select(1 + axis, index), v.index_select(1 + axis, index)
        lines.append(there)
    places = list(product(*(range(2 * radius + 1) for radius in window.radii)))

    def shifted(part: Tensor, place: tuple[int, ...]) -> Tensor:
        return part[(slice(None), *(slice(start, start + size) for start, size in zip(place, space, strict=True)))]

    logits = []
    for number, place in enumerate(places):
        key = shifted(k, place)
        logit = (q * (key if window.keys is None else key + window.keys[:, number])).sum(dim=-1)
        if window.bias is not None:
            logit = logit + window.bias[:, number]
        for axis, (line, start, size) in enumerate(zip(lines, place, space, strict=True)):
            logit = logit.masked_fill(~_along(line[start : start + size, None], axis, axes), -torch.inf)
        logits.append(logit)
    weights, out = torch.stack(logits).softmax(dim=0), torch.zeros_like(q)
    for number, place in enumerate(places):
        value = shifted(v, place)
        value = value if window.values is None else value + window.values[:, number]
        out = out + weights[number][..., None] * value
    return out


def dense(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """All pairs of points, those outside the window masked."""
    space = tuple(q.shape[1:-2])
    tables = _dense_tables(space, window.radii, window.periodic, q.device)
    q, k, v = (part.flatten(1, -3).transpose(1, 2).unsqueeze(1) for part in (q, k, v))
    return _masked(q, k, v, window, tables).squeeze(1).transpose(1, 2).unflatten(1, space)


def blocks(q: Tensor, k: Tensor, v: Tensor, window: Window) -> Tensor:
    """Blocks of points against themselves and what stands beside them.

    Where blocks do not divide an axis, queries of zero fill the last one and are cropped; the keys are those that stand there on the
    ring, so that each query meets each offset once.
    """
    space, axes = tuple(q.shape[1:-2]), len(window.radii)
    sizes = tuple(block_size(size, radius, axes) for size, radius in zip(space, window.radii, strict=True))
    counts = tuple(-(-size // points) for size, points in zip(space, sizes, strict=True))
    tables = _block_tables(space, sizes, window.radii, window.periodic, q.device)
    for axis, (size, points, count) in enumerate(zip(space, sizes, counts, strict=True)):
        if count * points > size:
            q = F.pad(q, (0, 0) * (axes + 1 - axis) + (0, count * points - size))
        k, v = (part.index_select(1 + axis, tables.keys[axis]) for part in (k, v))
    halos = tuple(points + 2 * radius for points, radius in zip(sizes, window.radii, strict=True))
    q, k, v = _blocked(q, counts, sizes), _blocked(k, counts, halos), _blocked(v, counts, halos)
    out = _masked(q, k, v, window, tables)  # (batch, blocks, head, query, feature)
    out = out.unflatten(3, sizes).unflatten(1, counts)
    order = [part for axis in range(axes) for part in (1 + axis, 2 + axes + axis)]
    out = out.permute(0, *order, 1 + axes, 2 + 2 * axes)
    for axis in range(axes):
        out = out.flatten(1 + axis, 2 + axis)
    return out[(slice(None), *(slice(size) for size in space))]


def _blocked(x: Tensor, counts: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """(batch, *(count * size), head, feature) -> (batch, blocks, head, points of a block, feature)."""
    axes = len(counts)
    for axis, shape in enumerate(zip(counts, sizes, strict=True)):
        x = x.unflatten(1 + 2 * axis, shape)
    x = x.permute(0, *range(1, 2 * axes, 2), 1 + 2 * axes, *range(2, 2 * axes + 1, 2), 2 + 2 * axes)
    return x.flatten(2 + axes, 1 + 2 * axes).flatten(1, axes)


@dataclass(frozen=True)
class _Tables:
    """What a masked product must know of its queries and keys.

    Args:
        place: Number of the offset from a query to a key, 0 where it is outside, (queries, keys).
        outside: Whether it is outside, (queries, keys).
        column: Key at each offset from a query, (queries, P), any where there is none.
        absent: Where there is no such key, (queries, P); None for nowhere.
        missing: Keys that stand beyond the ends of bounded axes, (blocks, 1, 1, keys); None for none.
        keys: Points along each axis that the keys of all blocks are.
    """

    place: Tensor
    outside: Tensor
    column: Tensor
    absent: Tensor | None
    missing: Tensor | None = None
    keys: tuple[Tensor, ...] = ()


def _masked(q: Tensor, k: Tensor, v: Tensor, window: Window, tables: _Tables) -> Tensor:
    """Queries (batch, blocks, head, queries, feature), scaled, on keys and values (batch, blocks, head, keys, feature)."""
    logits = q @ k.transpose(-1, -2)
    # Finite: queries that fill a block beyond an end may find no key at all.
    lowest = torch.finfo(logits.dtype).min / 4
    if window.bias is not None:
        bias = window.bias.index_select(1, tables.place.flatten()).unflatten(1, tables.place.shape)
        added = bias.masked_fill(tables.outside, lowest)
    else:
        added = logits.new_zeros(tables.place.shape).masked_fill(tables.outside, lowest)
    logits = logits.add_(added) if logits.dtype == added.dtype else logits + added
    if window.keys is not None:
        along = q @ window.keys.to(q.dtype).transpose(-1, -2)  # (batch, blocks, head, query, P)
        logits = logits + along.gather(-1, tables.place.expand(logits.shape))
    if tables.missing is not None:
        logits = logits.masked_fill(tables.missing, lowest)
    weights = logits.softmax(dim=-1)
    out = weights @ v.to(weights.dtype)
    if window.values is not None:
        there = weights.gather(-1, tables.column.expand(*weights.shape[:-1], -1))
        if tables.absent is not None:
            there = there.masked_fill(tables.absent, 0.0)
        out = out + there @ window.values.to(there.dtype)
    return out


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # they are saved for backward passes later, also when first made in inference
def _dense_tables(
    space: tuple[int, ...], radii: tuple[int, ...], periodic: tuple[bool, ...], device: torch.device
) -> _Tables:
    place = torch.zeros((), dtype=torch.long, device=device)
    for axis, (size, radius, wrap) in enumerate(zip(space, radii, periodic, strict=True)):
        point = torch.arange(size, device=device)
        steps = point - point[:, None] + radius
        place = _joined(place, steps.remainder(size) if wrap else steps, radius, axis)
    return _tables(place, radii)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _block_tables(
    space: tuple[int, ...],
    sizes: tuple[int, ...],
    radii: tuple[int, ...],
    periodic: tuple[bool, ...],
    device: torch.device,
) -> _Tables:
    place = torch.zeros((), dtype=torch.long, device=device)
    present = torch.ones((1, 1), dtype=torch.bool, device=device)
    keys = []
    for axis, (size, points, radius, wrap) in enumerate(zip(space, sizes, radii, periodic, strict=True)):
        count, halo = -(-size // points), torch.arange(points + 2 * radius, device=device)
        place = _joined(place, halo - torch.arange(points, device=device)[:, None], radius, axis)
        index, there = _line(size, -radius, count * points + radius, wrap, device)
        taken = points * torch.arange(count, device=device)[:, None] + halo
        keys.append(index[taken].flatten())
        there = there[taken]
        present = (present[:, None, :, None] & there[:, None]).flatten(0, 1).flatten(1)
    missing = None if all(periodic) else ~present[:, None, None]
    return _tables(place, radii, missing, tuple(keys))


def _joined(place: Tensor, steps: Tensor, radius: int, axis: int) -> Tensor:
    """Numbers of offsets on one more axis: `place` (queries, keys) so far, -1 outside, and steps + radius (points, points) there."""
    width = 2 * radius + 1
    steps = torch.where((steps >= 0) & (steps < width), steps, -1)
    if axis == 0:
        return steps
    both = place[:, None, :, None] * width + steps[:, None]
    both = torch.where((place[:, None, :, None] < 0) | (steps[:, None] < 0), -1, both)
    return both.flatten(0, 1).flatten(1)


def _tables(
    place: Tensor, radii: tuple[int, ...], missing: Tensor | None = None, keys: tuple[Tensor, ...] = ()
) -> _Tables:
    """The tables for numbers of offsets (queries, keys), -1 outside."""
    queries, outside = len(place), place < 0
    column = torch.full((queries, math.prod(2 * radius + 1 for radius in radii)), -1, device=place.device)
    query, key = (~outside).nonzero(as_tuple=True)
    column[query, place[query, key]] = key
    absent = column < 0
    return _Tables(
        place.clamp_min(0), outside, column.clamp_min(0), absent if bool(absent.any()) else None, missing, keys
    )


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Window], Tensor]] = {
    "unfold": unfold,
    "offsets": offsets,
    "dense": dense,
    "blocks": blocks,
}
