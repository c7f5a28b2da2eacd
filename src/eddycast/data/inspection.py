"""What is in a data set, as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from eddycast.data.dataset import SPLITS, Dataset, Segment
from eddycast.data.gridded import open_gridded
from eddycast.data.opening import existing, file_format, open_dataset
from eddycast.data.static import StaticFields
from eddycast.data.well_writer import validate_well
from eddycast.errors import InputError
from eddycast.grid import Axis

SAMPLE_BYTES = 2**30
PIECE_BYTES = 2**26


def _number(value: float) -> str:
    return f"{value:.5g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Aligned lines: the first column to the left, numbers to the right."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            str(cell).ljust(width) if at == 0 else str(cell).rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def _axis_row(axis: Axis) -> list[str]:
    low, high = axis.boundary
    kind = low if low == high else f"{low} / {high}"
    spacing = "single point"
    if axis.size > 1:
        steps = [abs(b - a) for a, b in zip(axis.coordinates, axis.coordinates[1:], strict=False)]
        uniform = max(steps) - min(steps) <= 1e-3 * max(steps) + 4e-7 * max(map(abs, axis.coordinates))
        spacing = _number(sum(steps) / len(steps)) if uniform else f"{_number(min(steps))} to {_number(max(steps))}"
    weights = "equal" if axis.weights is None else "quadrature"
    period = "-" if axis.period is None else _number(axis.period)
    ends = f"{_number(axis.coordinates[0])} to {_number(axis.coordinates[-1])}"
    return [axis.name, str(axis.size), ends, spacing, axis.units, kind, period, weights]


def _statistics(dataset: Dataset, segments: Sequence[Segment]) -> tuple[list[list[str]], int, int]:
    """Rows (field, unit, mean, std, min, max, change), frames with gaps besides the mask, frames read."""
    channels = len(dataset.fields)
    weights = dataset.grid.weights()
    total, square, number = (torch.zeros(channels, dtype=torch.float64) for _ in range(3))
    change, changes = (torch.zeros(channels, dtype=torch.float64) for _ in range(2))
    low, high = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
    shift: Tensor | None = None
    gaps, frames = 0, 0
    frame_bytes = 4 * dataset.grid.num_points * channels
    size = max(2, PIECE_BYTES // (4 * frame_bytes))
    for segment in segments:
        last = None
        for start in range(segment.start, segment.stop, size):
            states = dataset.source.read(segment.trajectory, start, min(start + size, segment.stop), 1).double()
            finite = torch.isfinite(states)
            wanted = finite if dataset.valid is None else finite & dataset.valid
            missing = ~finite if dataset.valid is None else ~finite & dataset.valid
            gaps += int(missing.flatten(1).any(1).sum())
            frames += len(states)
            clean = torch.where(wanted, states, torch.zeros_like(states))
            w = (weights * wanted).transpose(0, 1).flatten(1)
            if shift is None:
                shift = (clean.transpose(0, 1).flatten(1) * w).sum(1) / w.sum(1).clamp(min=1e-300)
            centred = clean.transpose(0, 1).flatten(1) - shift[:, None]
            total += (centred * w).sum(1)
            square += (centred**2 * w).sum(1)
            number += w.sum(1)
            held = states.masked_fill(~wanted, torch.nan)
            joined = held if last is None else torch.cat([last, held])
            step = (joined[1:] - joined[:-1]).transpose(0, 1).flatten(1)
            known = torch.isfinite(step)
            joint = weights.expand(joined[1:].shape[:1] + joined.shape[1:]).transpose(0, 1).flatten(1) * known
            change += (step.nan_to_num(0.0) ** 2 * joint).sum(1)
            changes += joint.sum(1)
            last = held[-1:]
            flat = states.transpose(0, 1).flatten(1)
            seen = wanted.transpose(0, 1).flatten(1)
            low = torch.minimum(low, flat.masked_fill(~seen, torch.inf).amin(1).float())
            high = torch.maximum(high, flat.masked_fill(~seen, -torch.inf).amax(1).float())
    shift = torch.zeros(channels, dtype=torch.float64) if shift is None else shift
    mean = shift + total / number
    std = (square / number - (total / number) ** 2).clamp(min=0).sqrt()
    rms = (change / changes).sqrt()
    columns = (mean, std, low, high, rms)
    rows = [
        [field.name, field.units, *(_number(float(column[at])) for column in columns)]
        for at, field in enumerate(dataset.fields)
    ]
    return rows, gaps, frames


def _static_rows(dataset: Dataset, segments: Sequence[Segment]) -> list[list[str]]:
    """Rows (name, mean, min, max) of the static fields; where they differ between trajectories, over those of the segments."""
    if isinstance(dataset.static, StaticFields):
        source = dataset.static
        found = (source[number] for number in sorted({segment.trajectory for segment in segments}))
    else:
        found = iter([] if dataset.static is None else [dataset.static])
    moments = [
        torch.stack([flat.mean(1), flat.amin(1), flat.amax(1)]) for flat in (one.double().flatten(1) for one in found)
    ]
    mean, low, high = torch.stack(moments).unbind(1)
    columns = (mean.mean(0), low.amin(0), high.amax(0))
    return [[name, *(_number(float(column[at])) for column in columns)] for at, name in enumerate(dataset.static_names)]


def _sampled(dataset: Dataset) -> tuple[tuple[Segment, ...], str]:
    """Segments of train that fit into the budget of reading, evenly chosen."""
    segments = dataset.splits.get("train") or tuple(one for split in SPLITS for one in dataset.splits.get(split, ()))
    frame_bytes = 4 * dataset.grid.num_points * len(dataset.fields)
    total = frame_bytes * sum(map(len, segments))
    if total <= SAMPLE_BYTES:
        return segments, ""
    share = SAMPLE_BYTES / total
    cut = tuple(
        Segment(one.trajectory, one.start, one.start + max(2, int(len(one) * share)))
        for one in segments
        if len(one) > 1
    )
    return cut, f" (the first {100 * share:.0f} % of each trajectory)"


def _time_lines(dataset: Dataset) -> list[str]:
    lengths = dataset.lengths
    frames = str(lengths[0]) if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)}"
    unit = "" if dataset.time_units == "1" else f" {dataset.time_units}"
    longest = lengths.index(max(lengths))
    first, last = dataset.times(longest, 0), dataset.times(longest, lengths[longest] - 1)
    shown = (
        (f"{float(first):g}", f"{float(last):g}")
        if dataset.clock.calendar is None
        else (str(first)[:19], str(last)[:19])
    )
    lines = [f"  {frames} frames, step {dataset.dt:g}{unit}, {shown[0]} to {shown[1]}"]
    if dataset.clock.calendar is not None:
        lines.append(f"  calendar {dataset.clock.calendar}")
    lines.append(f"  annual cycle of {dataset.cycle:g} steps" if dataset.cycle else "  no annual cycle")
    return lines


def _split_lines(dataset: Dataset) -> list[str]:
    rows = []
    for split in SPLITS:
        segments = dataset.splits.get(split, ())
        whole = all(one.start == 0 and one.stop == dataset.lengths[one.trajectory] for one in segments)
        what = f"{len(segments)} trajectories"
        if segments and not whole:
            what = ", ".join(
                f"trajectory {one.trajectory} frames {one.start} to {one.stop - 1}" for one in segments[:3]
            )
        rows.append([split, str(sum(map(len, segments))), what])
    return table(("split", "frames", "made of"), rows)


def describe(dataset: Dataset, problems: Sequence[str] = ()) -> str:
    """Fields, grid, time, parameters, splits, statistics and problems of an open data set, as aligned text."""
    attributes = dataset.attributes
    lines = [f"{attributes.get('path', 'in memory')}  ({attributes.get('format', 'arrays')})"]
    if attributes.get("system"):
        lines.append(
            f"system: {attributes['system']}" + (f", {attributes['stored']}" if attributes.get("stored") else "")
        )
    if attributes.get("source"):
        lines.append(f"source: {str(attributes['source']).splitlines()[0]}")
    header = ("axis", "points", "from to", "spacing", "unit", "boundary", "period", "weights")
    lines += ["", "Grid", *table(header, [_axis_row(axis) for axis in dataset.grid.axes])]
    lines += ["", "Time", *_time_lines(dataset)]
    lines += ["", f"Splits ({dataset.num_trajectories} trajectories)", *_split_lines(dataset)]
    if dataset.parameter_names and dataset.parameter_values is not None:
        values = dataset.parameter_values
        rows = []
        for at, name in enumerate(dataset.parameter_names):
            different = values[:, at].unique()
            shown = ", ".join(_number(float(one)) for one in different[:8]) + (" ..." if len(different) > 8 else "")
            rows.append([name, shown])
        lines += ["", "Parameters", *table(("name", "values"), rows)]
    segments, sampled = _sampled(dataset)
    if dataset.static_names:
        whose = " (of each trajectory)" if dataset.static_varies else ""
        lines += ["", f"Static fields{whose}", *table(("name", "mean", "min", "max"), _static_rows(dataset, segments))]
    rows, gaps, frames = _statistics(dataset, segments)
    header = ("field", "unit", "mean", "std", "min", "max", "rms change per step")
    lines += ["", f"Fields, statistics of train{sampled}", *table(header, rows)]
    found = list(problems)
    if gaps:
        found.append(
            f"{gaps} of {frames} frames have missing or infinite values that come and go; "
            "fill them, or open with missing=union to mask those points."
        )
    if dataset.notes:
        lines += ["", "Notes", *(f"  {note}" for note in dataset.notes)]
    lines += ["", "Problems", *(f"  {problem}" for problem in found)] if found else ["", "No problems found."]
    return "\n".join(lines)


def inspect(path: str | Path) -> str:
    """Describe a data set on disk: fields, grid, boundaries, calendar, parameters, splits, statistics, problems.

    Missing values that come and go are a problem in the list here, not an error.
    Raises: InputError for a missing, damaged or unknown file.
    """
    found = existing(path)
    kind = file_format(found)
    problems = validate_well(found) if kind == "well" else []
    if found.is_file() and kind == "well":
        problems = [problem for problem in problems if "stats.yaml" not in problem]
    try:
        return describe(open_dataset(found), problems)
    except InputError as error:
        if kind == "gridded" and "missing" in str(error):
            return describe(open_gridded(found, check_missing=False), problems)
        if problems := [problem for problem in problems if problem not in str(error)]:
            raise InputError(f"{error} Found in it: {'; '.join(problems[:5])}.") from error
        raise
