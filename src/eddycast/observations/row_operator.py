"""The operator of the rows of a table: which cells of which frames each row looks at, with which weight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.observations.derived import Derived
from eddycast.observations.entries import (
    Composed,
    Points,
    Projection,
    Spectrum,
    Stencils,
    TableEntries,
    Transform,
    laid_out,
)
from eddycast.observations.rows import PARTS, Rows
from eddycast.observations.stencils import Rule, covered, interpolate, mean_over

LEAST_SHARE = 1e-6
"""Of the weight of a row that must stand at valid points."""
NARROW = 8
"""Cells of a stencil that is never replaced by weights over the whole frame."""


@dataclass(frozen=True, eq=False)
class Block:
    """Rows whose stencils have the same width.

    Args:
        rows: Their numbers, increasing.
        transform: States to cells.
        cells: Number of cells in a frame of a channel.
        index, weight: Of the cells within such a frame, (row, k).
    """

    rows: np.ndarray
    transform: Transform
    cells: int
    index: np.ndarray
    weight: np.ndarray


def row_operator(
    rows: Rows,
    first: np.ndarray,
    theta: np.ndarray,
    *,
    start: int,
    stop: int,
    grid: Grid,
    rules: tuple[Rule, ...],
    valid: Tensor | None,
    names: tuple[str, ...],
    variables: tuple[str, ...],
    derived: Sequence[Derived],
    num_cases: int,
) -> TableEntries:
    """The operator of placed rows, sorted by case, for states of the frames [start, stop).

        H x = (1 - theta) S x_first + theta S x_(first + 1),  S the stencil in space;  f(H x_a, H x_b, ...) for derived variables

    Functions are taken of what is interpolated, so that a mean speed is the speed of the mean.

    Args:
        first, theta: First frame of each row, and the weight of the frame after it.
        names: Of the channels.
        variables, derived: What the rows observe.
    """
    channels = {name: [names.index(part) for part in _arguments(name, names, derived)] for name in variables}
    present = np.unique(rows.variable)
    parts_of = np.array([len(channels[name]) for name in variables])[rows.variable]  # parts of each row
    begin = np.concatenate([[0], np.cumsum(parts_of)])
    row = np.repeat(np.arange(len(rows)), parts_of)
    channel = np.empty(len(row), dtype=np.int64)
    for number in present:
        mine = np.flatnonzero(rows.variable == number)
        for k, one in enumerate(channels[variables[number]]):
            channel[begin[mine] + k] = one
    stencils, part_number, width = [], np.empty(len(row), dtype=np.int64), 0
    for block in space_blocks(rows, grid, rules, valid):
        within = np.full(len(rows), -1)
        within[block.rows] = np.arange(len(block.rows))
        for later in (False, True):
            parts = np.flatnonzero((within[row] >= 0) & ((theta[row] > 0) == later))
            if len(parts) == 0:
                continue
            own = row[parts]
            frame = (first[own] - start) * len(names) + channel[parts]
            index = frame[:, None] * block.cells + block.index[within[own]]
            weight = block.weight[within[own]]
            if later:
                index = np.concatenate([index, index + len(names) * block.cells], axis=1)
                weight = np.concatenate([(1 - theta[own, None]) * weight, theta[own, None] * weight], axis=1)
            case = rows.case[own]
            stencils.append(Stencils(
                block.transform,
                torch.from_numpy(laid_out(case, index, num_cases, 0)),
                torch.from_numpy(laid_out(case, weight, num_cases, 0.0)),
            ))  # fmt: skip
            part_number[parts] = width + np.arange(len(parts)) - np.searchsorted(case, case)
            width += stencils[-1].index.shape[1]
    place = np.empty(len(rows), dtype=np.int64)
    composed = []
    functions = {one.name: one.function for one in derived}
    for number in present:
        mine = np.flatnonzero(rows.variable == number)
        name, case = variables[number], rows.case[mine]
        arguments = part_number[begin[mine, None] + np.arange(len(channels[name]))]
        if name in names:
            place[mine] = arguments[:, 0]
            continue
        composed.append(Composed(
            functions[name],
            torch.from_numpy(laid_out(case, arguments, num_cases, 0)),
            torch.from_numpy(laid_out(case, np.ones(len(mine), dtype=bool), num_cases, False)),
        ))  # fmt: skip
        place[mine] = width + np.arange(len(mine)) - np.searchsorted(case, case)
        width += composed[-1].mask.shape[1]
    everyone = np.ones(len(rows), dtype=bool)
    return TableEntries(
        tuple(stencils),
        tuple(composed),
        torch.from_numpy(laid_out(rows.case, place, num_cases, 0)),
        torch.from_numpy(laid_out(rows.case, everyone, num_cases, False)),
    )


def usable(rows: Rows, grid: Grid, rules: tuple[Rule, ...], valid: Tensor) -> np.ndarray:
    """Whether enough of what a row looks at is valid, (row,).

    Nearest points, straight lines and means make do with the valid part of their stencil; cubics, trigonometric interpolation and
    spectral coefficients need all of theirs.
    """
    fine = np.zeros(len(rows), dtype=bool)
    defined = valid.numpy().reshape(-1)
    spectral = rows.part > 0
    fine[spectral] = bool(defined.all())
    for chosen, index, weight in _stencils(rows, np.flatnonzero(~spectral), grid, rules):
        seen = defined[index]
        strict = np.zeros(len(chosen), dtype=bool)
        for i, rule in enumerate(rules):
            if rule in ("cubic", "fourier"):
                strict |= rows.lower[chosen, i] == rows.upper[chosen, i]
        missed = ((weight != 0) & ~seen).any(axis=1)
        fine[chosen] = np.where(strict, ~missed, (weight * seen).sum(axis=1) > LEAST_SHARE)
    return fine


def space_blocks(rows: Rows, grid: Grid, rules: tuple[Rule, ...], valid: Tensor | None) -> Iterator[Block]:
    """Rows by the width of their stencils in space; those as wide as half the frame become sums over the whole of it."""
    axes, points = len(grid.axes), grid.num_points
    spectral = np.flatnonzero(rows.part > 0)
    if len(spectral):
        mode = np.ravel_multi_index(tuple(np.mod(rows.wave[spectral].T, np.array(grid.shape)[:, None])), grid.shape)
        cell = mode + points * (rows.part[spectral] == PARTS.index("imag"))
        yield Block(spectral, Spectrum(axes), 2 * points, cell[:, None], np.ones((len(cell), 1)))
    defined = None if valid is None else valid.numpy().reshape(-1)
    for chosen, index, weight in _stencils(rows, np.flatnonzero(rows.part == 0), grid, rules):
        if defined is not None:
            seen = weight * defined[index]
            missed = ((weight != 0) & ~defined[index]).any(axis=1, keepdims=True)
            weight = np.where(missed, seen / seen.sum(axis=1, keepdims=True), weight)
        # cells without weight may be land, whose NaN would get in
        heaviest = np.take_along_axis(index, np.abs(weight).argmax(axis=1)[:, None], axis=1)
        index = np.where(weight == 0, heaviest, index)
        if index.shape[1] <= NARROW or 2 * index.shape[1] < points:
            yield Block(chosen, Points(axes), points, index, weight)
            continue
        places = np.concatenate([rows.lower[chosen], rows.upper[chosen]], axis=1)
        _, which, place = np.unique(places, axis=0, return_index=True, return_inverse=True)
        matrix = np.zeros((len(which), points))
        np.add.at(matrix, (np.arange(len(which))[:, None], index[which]), weight[which])
        projection = Projection(torch.from_numpy(matrix), axes, valid)
        yield Block(chosen, projection, len(which), place.reshape(-1, 1), np.ones((len(chosen), 1)))


def _stencils(
    rows: Rows, chosen: np.ndarray, grid: Grid, rules: tuple[Rule, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Points and intervals: numbers of the rows, and index and weight (row, k) of the points among (*space), of about one width each."""
    if len(chosen) == 0:
        return
    lower, upper = rows.lower[chosen], rows.upper[chosen]
    pattern = np.zeros(
        len(chosen), dtype=np.int64
    )  # width of the stencil along each axis, as a power of two; 0 for a point
    begun = np.zeros(lower.shape, dtype=np.int64)
    for i, axis in enumerate(grid.axes):
        wide = np.flatnonzero(upper[:, i] > lower[:, i])
        pattern *= 64
        if len(wide):
            first, count = covered(axis, lower[wide, i], upper[wide, i])
            begun[wide, i] = first
            pattern[wide] += 1 + np.ceil(np.log2(count)).astype(np.int64)
    alike = np.unique(pattern) if pattern.any() else [0]
    for one in alike:
        mine = np.flatnonzero(pattern == one) if len(alike) > 1 else np.arange(len(chosen))
        index, weight = np.zeros((len(mine), 1), dtype=np.int64), np.ones((len(mine), 1))
        for i, (axis, rule) in enumerate(zip(grid.axes, rules, strict=True)):
            power = int(one) // 64 ** (len(grid.axes) - 1 - i) % 64
            if power:
                place, share = mean_over(axis, lower[mine, i], upper[mine, i], begun[mine, i], 2 ** (power - 1))
            else:
                place, share = interpolate(axis, rule, lower[mine, i])
            index = (index[:, :, None] * axis.size + place[:, None, :]).reshape(len(mine), -1)
            weight = (weight[:, :, None] * share[:, None, :]).reshape(len(mine), -1)
        yield chosen[mine], index, weight


def _arguments(name: str, names: tuple[str, ...], derived: Sequence[Derived]) -> tuple[str, ...]:
    """The fields that a variable is made of."""
    return (name,) if name in names else next(one.fields for one in derived if one.name == name)
