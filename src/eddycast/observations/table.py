"""Observations as CSV: one row per observed value, under a header that says all the rest.

Rows: trajectory, start_frame, time_index, field, one column per axis of the grid, value, std. The lines before them
start with `#`; the one with `eddycast:` holds JSON. A table without these lines (stations of one's own) is read too,
given a grid.
"""

from __future__ import annotations

import csv
import json
import math
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.files import atomic_output, read_text
from eddycast.grid import Axis, Grid
from eddycast.observations.header import LARGEST, Header, Numbers, parse_header
from eddycast.observations.netcdf import header

if TYPE_CHECKING:
    from eddycast.observations.observations import Observations

MARK = "# eddycast: "


def write_csv(observations: Observations, path: Path) -> None:
    """Write the table; numbers have as many digits as bring back the same bits.

    Raises: InputError when the file cannot be written.
    """
    o = observations
    content = header(o) | {
        "num_times": o.num_times,
        "dtype": str(o.values.dtype).removeprefix("torch."),
        "noise_std": o.noise_std.tolist(),
        "trajectories": o.trajectories.tolist(),
        "frames": o.frames.tolist(),
        "valid": None if o.valid is None else run_lengths(o.valid.flatten().tolist()),
        "parameters": _described(o.parameters),
        "time": _described(o.time),
    }
    centres = [
        np.asarray(axis.coordinates).reshape(-1, cells).mean(axis=1)
        for axis, cells in zip(o.grid.axes, o.factor, strict=True)
    ]
    columns = ["trajectory", "start_frame", "time_index", "field", *o.grid.names, "value", "std"]
    values = o.values.numpy()
    with (
        atomic_output(path, overwrite=True, is_ours=Path.is_file) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        file.write("# Observations: one row per value. time_index counts frames from start_frame of the trajectory;\n")
        file.write(f"# value and std (of the noise) in the unit of the field: {_units(o)}.\n")
        file.write(f"{MARK}{json.dumps(content)}\n")
        writer = csv.writer(file)
        writer.writerow(columns)
        for case, time, channel, *point in torch.nonzero(o.mask).tolist():
            place = [repr(float(axis[i])) for axis, i in zip(centres, point, strict=True)]
            value = values[(case, time, channel, *point)]
            who = [int(o.trajectories[case]), int(o.frames[case]), time, o.fields[channel][0]]
            writer.writerow([*who, *place, str(value), repr(float(o.noise_std[channel]))])


def read_csv(
    path: Path,
    *,
    grid: Grid | None,
    fields: tuple[tuple[str, str], ...] | None,
    dt: float | None,
    nearest: bool,
) -> dict[str, Any]:
    """The arguments of `Observations`; for the parameters, see `Observations.from_csv`.

    Rows whose value is empty or NaN count as missing. Positions must lie within 1e-3 of a spacing of a grid point, or
    `nearest` is set; two values in one cell are an error then as well: thin them before.

    Raises: InputError naming file and row.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file of observations.")
    lines = read_text(path).splitlines()
    marked = [line for line in lines if line.startswith(MARK)]
    offset = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), len(lines))
    reader = csv.DictReader(lines[offset:])
    try:
        rows = list(reader)
    except csv.Error as error:  # a cell of more than 128 kB
        raise InputError(f"{path}, line {offset + reader.line_num}: {error}.") from error
    if marked:
        place = f"The header line '{MARK.strip()}' of {path}"
        content, grid = parse_header(marked[0].removeprefix(MARK), place)
        if content.noise_std is None or content.trajectories is None:
            raise InputError(f"{place} lacks noise_std, trajectories or frames: write the file anew.")
    elif grid is None or fields is None or dt is None:
        raise InputError(f"{path} has no '{MARK.strip()}' header line: say the grid, the fields and dt of the run.")
    else:
        content = _bare(path, rows, reader.fieldnames, grid, fields, dt)
    needed = ["trajectory", "time_index", "field", *grid.names, "value", "std"]
    lost = [name for name in needed if name not in (reader.fieldnames or [])]
    if lost:
        raise InputError(f"{path} lacks the column {lost[0]!r}: expected {', '.join(needed)}.")
    return _assemble(path, rows, offset + 2, content, grid, nearest)


def _assemble(
    path: Path, rows: list[dict[str, str]], first_line: int, content: Header, grid: Grid, nearest: bool
) -> dict[str, Any]:
    factor = tuple(content.factor)
    names = [name for name, _ in content.fields]
    std = np.asarray(content.noise_std, dtype=np.float64)
    trajectories, frames = content.trajectories or [], content.frames or []
    cases = {pair: i for i, pair in enumerate(zip(trajectories, frames, strict=True))}
    if len(cases) < len(trajectories):
        raise InputError(f"{path}: the header names a trajectory and frame twice: write the file anew.")
    if any(size % cells for size, cells in zip(grid.shape, factor, strict=True)):
        raise InputError(f"{path}: blocks of {factor} do not divide the grid {grid.shape}.")
    observed = tuple(size // cells for size, cells in zip(grid.shape, factor, strict=True))
    if math.prod((len(cases), content.num_times, len(names), *observed)) > LARGEST:
        raise InputError(f"{path}: the header announces {content.num_times} times, more than can be held.")
    values = np.full((len(cases), content.num_times, len(names), *observed), np.nan, dtype=content.dtype)
    for number, row in enumerate(rows, start=first_line):
        where = f"{path}, line {number}"
        if None in row or None in row.values():
            raise InputError(f"{where}: expected {len(row) - (None in row)} columns, as many as the header names.")
        try:
            value = float(row["value"] or "nan")
            case = (int(row["trajectory"]), int(row.get("start_frame") or 0))
            time, row_std = int(row["time_index"]), float(row["std"])
            place = [float(row[axis.name]) for axis in grid.axes]
            if not all(map(math.isfinite, place)):
                raise ValueError("a position is not finite")
        except ValueError as error:
            raise InputError(f"{where}: {error}.") from error
        if row["field"] not in names:
            raise InputError(f"{where}: field {row['field']!r} is not one of {', '.join(names)}.")
        if case not in cases or not 0 <= time < content.num_times:
            raise InputError(f"{where}: trajectory {case[0]} from frame {case[1]}, time {time}, is not in the header.")
        channel = names.index(row["field"])
        if np.isnan(value):
            continue
        if not np.isclose(row_std, std[channel], rtol=1e-6, atol=0):
            raise InputError(f"{where}: std {row_std:g} differs from {std[channel]:g}; each field has one noise std.")
        point = (
            _cell(axis, position, cells, nearest, where)
            for axis, position, cells in zip(grid.axes, place, factor, strict=True)
        )
        cell = (cases[case], time, channel, *point)
        if not np.isnan(values[cell]):
            raise InputError(f"{where}: a second value in one cell of the grid; average or thin them before.")
        values[cell] = row["value"]
    valid = content.valid
    return {
        "values": torch.from_numpy(values),
        "noise_std": torch.as_tensor(std).to(getattr(torch, content.std_dtype)),
        "grid": grid,
        "fields": tuple(content.fields),
        "dt": content.dt,
        "trajectories": torch.tensor(trajectories),
        "frames": torch.tensor(frames),
        "kind": content.kind,
        "factor": factor,
        "valid": None if valid is None else torch.tensor(from_run_lengths(valid)).reshape(grid.shape),
        "time_units": content.time_units,
        "parameters": _restored(content.parameters),
        "parameter_names": tuple(content.parameter_names),
        "time": _restored(content.time),
        "cycle": content.cycle,
        "attributes": content.attributes,
    }


def _bare(
    path: Path,
    rows: list[dict[str, str]],
    columns: Any,
    grid: Grid,
    fields: tuple[tuple[str, str], ...],
    dt: float,
) -> Header:
    """What the header would say, gathered from the rows of a table without one."""
    columns = list(columns or [])
    needed = ["trajectory", "time_index", "field", "std"]
    lost = [name for name in needed if name not in columns]
    if lost:
        raise InputError(f"{path} lacks the column {lost[0]!r}: expected {', '.join([*needed, 'value', *grid.names])}.")
    if not rows:
        raise InputError(f"{path}: no observations are left: the table has no rows.")
    try:
        pairs = sorted({(int(row["trajectory"]), int(row.get("start_frame") or 0)) for row in rows})
        num_times = 1 + max(int(row["time_index"]) for row in rows)
        std = {row["field"]: float(row["std"]) for row in reversed(rows)}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path}: trajectory, start_frame and time_index must be integers, std a number: {error}."
        ) from error
    return Header(
        kind="points",
        factor=[1] * len(grid.axes),
        grid=grid.to_dict(),
        fields=list(fields),
        dt=dt,
        time_units="1",
        cycle=None,
        parameter_names=[],
        attributes={},
        std_dtype="float32",
        num_times=num_times,
        noise_std=[std.get(name, 1.0) for name, _ in fields],
        trajectories=[trajectory for trajectory, _ in pairs],
        frames=[frame for _, frame in pairs],
    )


def _cell(axis: Axis, position: float, cells: int, nearest: bool, where: str) -> int:
    """Index of the point (or block centre) of an axis at a position."""
    centres = np.asarray(axis.coordinates).reshape(-1, cells).mean(axis=1)
    distance = np.abs(centres - position)
    if axis.period is not None:
        distance = np.minimum(distance % axis.period, -distance % axis.period)
    index = int(distance.argmin())
    spacing = np.abs(np.diff(centres)).min() if len(centres) > 1 else 1.0
    if distance[index] > (0.5000001 if nearest else 1e-3) * spacing:
        hint = "outside the grid" if nearest else "pass nearest=True to move it there"
        raise InputError(
            f"{where}: {axis.name} = {position:g} is not a grid point, the nearest is {centres[index]:g}: {hint}."
        )
    return index


def run_lengths(mask: list[bool]) -> list[int]:
    """Lengths of the alternating runs of a mask, starting with False (whose first run may be empty)."""
    runs = [(value, len(list(group))) for value, group in groupby(mask)]
    lengths = [length for _, length in runs]
    return [0, *lengths] if runs and runs[0][0] else lengths


def from_run_lengths(lengths: list[int]) -> list[bool]:
    """Inverse of `run_lengths`."""
    return [bool(i % 2) for i, length in enumerate(lengths) for _ in range(length)]


def _units(observations: Observations) -> str:
    return ", ".join(f"{name} [{units}]" for name, units in observations.fields)


def _described(tensor: Tensor | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "numbers": tensor.flatten().tolist(),
    }


def _restored(content: Numbers | None) -> Tensor | None:
    if content is None:
        return None
    return torch.tensor(content.numbers, dtype=getattr(torch, content.dtype)).reshape(content.shape)
