"""A record of maps cut into boxes without land: each box is a trajectory, split by years, with statistics per pixel from training.

Boxes are different places, so each has statistics of its own, which no `Normalisation` of the data set (one for all trajectories) can
express. Standardised boxes are therefore stored as such, as the published set is, beside `boxes.nc` with mean and standard deviation of
each pixel, which undo it (`in_units`).

One pass opens each file once and sorts the wanted pixels into a spool on disk, box by box; statistics and the written files come from
there. Memory holds some frames at a time, however long the record.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from eddycast.data.clock import PlainClock, Steps, steps_with_gaps
from eddycast.data.dataset import SPLITS, Dataset, Segment
from eddycast.data.records import Record, open_file, open_record
from eddycast.data.spool import Pieces, Spool, fill, inside, pixel_statistics, rows_and_columns
from eddycast.data.tiling import PUBLISHED_BOXES, PUBLISHED_REGION, Box, Region, boxes, frames_of_splits, select
from eddycast.data.well_writer import write_well
from eddycast.errors import InputError
from eddycast.files import read_json, require_space
from eddycast.grid import Axis, Grid
from eddycast.labelled import open_labelled

if TYPE_CHECKING:
    import xarray as xr

Standard = Literal["none", "pixel"]
STATISTICS = "boxes.nc"
LISTED = 40  # gaps in the manifest


def tile(
    files: Sequence[str | Path],
    out: str | Path,
    *,
    size: tuple[int, int] = (60, 60),
    region: Region | None = None,
    numbers: Sequence[int] | Literal["published"] | None = None,
    split: str = "0.8,0.1,0.1",
    standardise: Standard = "none",
    max_missing: float = 0.0,
    fields: Sequence[str] | None = None,
    manifest: dict[str, Any] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Cut boxes from maps in time and write them in The Well's layout, one trajectory per box and stretch without a gap.

    Args:
        files: NetCDF files or Zarr stores, or folders of files, in any order: daily, yearly, or all in one (`records`).
        out: Directory that appears when all is written.
        size: Points of a box, rows and columns (latitude and longitude).
        region: ((lower, upper) of the rows, (lower, upper) of the columns), where boxes begin; longitudes may cross any seam. None:
            everything.
        numbers: Boxes by their number in the region, which must hold no more missing points than `max_missing`; None for all that do;
            "published" for `PUBLISHED_BOXES` in `PUBLISHED_REGION`.
        split: See `frames_of_splits`.
        standardise: "pixel" stores (value - mean) / std with mean and population std of each pixel of each box over the training
            frames; "none" keeps the values.
        max_missing: Share of missing points (land) up to which a box is kept. Points that are missing in a kept box are masked in
            all boxes, since boxes share one mask.
        fields: Variables, one per channel; None for the only one, or `sst`.
        manifest: Plain values to add to `manifest.json`, which says where boxes, pieces and gaps lie.
        progress: Called with (what is done, done, total).

    Returns: `out`.
    Raises: InputError for files, regions, boxes and splits that cannot be, and for points of a box that are missing at some times only.
    """
    if standardise not in ("none", "pixel"):
        raise InputError(f"standardise must be 'none' or 'pixel', got {standardise!r}.")
    if not 0 <= max_missing < 1:
        raise InputError(f"max_missing must be a share from 0 to below 1, got {max_missing:g}.")
    published = numbers == "published"
    if published:
        if region is not None:
            raise InputError(
                "The published boxes have a region of their own; leave --region out, or give their numbers."
            )
        region, numbers = PUBLISHED_REGION, PUBLISHED_BOXES
    chosen_numbers = None if numbers is None else [int(number) for number in numbers]
    tell = progress or (lambda *_: None)
    record = open_record(files, fields, lambda done, total: tell("reading times", done, total))
    if published:
        _require_quarter_degrees(record, size)
    steps = steps_with_gaps(record.stamps, record.calendar, str(files[0]))
    covered = f"{record.when(0)} to {record.when(-1)}"
    parts = frames_of_splits(split, record.years(), len(record.stamps), covered)
    bounds = (None, None) if region is None else region
    rows, columns = (
        select(values, kind, bound, str(name))
        for values, kind, bound, name in zip(record.coordinates, record.kinds, bounds, record.space, strict=True)
    )
    chosen, missing, dropped = _kept(
        record, boxes(rows, columns, size, chosen_numbers), parts["train"][0], max_missing, chosen_numbers is not None
    )
    used = np.concatenate([np.arange(frames.start, frames.stop) for frames in parts.values()])
    target = Path(out)
    if not target.parent.is_dir():
        raise InputError(f"Cannot write {target}: the folder {target.parent} does not exist; create it first.")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.spool-", dir=target.parent) as folder:
        shape = (len(chosen), len(used), len(record.fields), *size)
        require_space(target.parent, 4 * int(np.prod(shape, dtype=np.int64)))
        spool = Spool(Path(folder) / "frames", shape)
        fill(spool, record, chosen, used, lambda done, total: tell("cutting", done, total))
        valid = ~np.any(missing, axis=0) if np.any(missing) else None
        own = Steps(steps.numbers[used], steps.dt, steps.units, steps.cycle)
        places, count = {}, 0
        for name, frames in parts.items():
            places[name] = range(count, count + len(frames))
            count += len(frames)
        mean, std = pixel_statistics(spool, len(places["train"]), record, chosen, used, valid)
        dataset, listed = _dataset(
            record, spool, chosen, own, places, (mean, std) if standardise == "pixel" else None, valid
        )
        described = {
            **(manifest or {}),
            "fields": list(dataset.field_names),
            "files": len(record.paths),
            "covers": covered,
            "split": {name: [record.when(frames[0]), record.when(frames[-1])] for name, frames in parts.items()},
            "standardised": standardise,
            "size": list(size),
            "region": region,
            "boxes": [_place(record, box) for box in chosen],
            "dropped_for_missing_points": dropped,
            "gaps": _gaps(record, steps),
            "pieces": [
                {
                    **piece,
                    "first": record.when(int(used[piece["first"]])),
                    "last": record.when(int(used[piece["last"]])),
                }
                for piece in listed
            ],
        }
        return write_well(
            dataset,
            target,
            manifest=described,
            beside=lambda place: _write_statistics(place / STATISTICS, record, chosen, mean, std),
            progress=lambda done, total: tell("writing", done, total),
        )


def _require_quarter_degrees(record: Record, size: tuple[int, int]) -> None:
    """Raise an InputError where the published numbers would mean other places."""
    spacing = [float(np.abs(np.diff(values)).min()) for values in record.coordinates]
    if record.kinds != ("latitude", "longitude") or not np.allclose(spacing, 0.25, atol=1e-3) or size != (60, 60):
        raise InputError(
            "The published boxes are 60x60 points of a grid of 1/4 degree; for other data give --region and --size."
        )


def _kept(
    record: Record, candidates: list[Box], frame: int, max_missing: float, required: bool
) -> tuple[list[Box], np.ndarray, list[int]]:
    """Boxes with few enough missing points, where these lie (box, *size), and the numbers of the others, from one frame."""
    path = record.paths[record.owner[frame]]
    rows, columns = rows_and_columns(candidates)
    with open_file(path) as content:
        whole = record.read(content, path, record.place[frame : frame + 1], rows, columns)[0]
    lost = ~np.isfinite(whole).all(0)
    maps = [lost[inside(box, rows, columns)] for box in candidates]
    fine = [bool(each.mean() <= max_missing) for each in maps]
    if required and not all(fine):
        at = fine.index(False)
        raise InputError(
            f"Box {candidates[at].number} has {int(maps[at].sum())} missing points of {maps[at].size} (land?): "
            f"leave its number out, or allow --max-missing {np.ceil(1e4 * maps[at].mean()) / 1e4:g}."
        )
    if not any(fine):
        least = min(each.mean() for each in maps)
        raise InputError(
            f"None of the {len(candidates)} boxes has few enough missing points (the best has {100 * least:.2g} %); choose a "
            "smaller --size, another --region, or a larger --max-missing."
        )
    kept = [box for box, one in zip(candidates, fine, strict=True) if one]
    dropped = [box.number for box, one in zip(candidates, fine, strict=True) if not one]
    return kept, np.stack([each for each, one in zip(maps, fine, strict=True) if one]), dropped


def _dataset(
    record: Record,
    spool: Spool,
    chosen: list[Box],
    steps: Steps,
    parts: dict[str, range],
    scales: tuple[np.ndarray, np.ndarray] | None,
    valid: np.ndarray | None,
) -> tuple[Dataset, list[dict[str, Any]]]:
    """The cut data set: the pieces of train of the first box, of the second, and so on; and the pieces in the order of the written files.

    Pieces of a single frame hold no window and are left out. Raises: InputError where none is left.
    """
    index: list[tuple[int, int, int]] = []
    listed: list[dict[str, Any]] = []
    splits: dict[str, tuple[Segment, ...]] = {}
    for split in SPLITS:
        pieces = [(max(run.start, parts[split].start), min(run.stop, parts[split].stop)) for run in steps.runs()]
        pieces = [(start, stop) for start, stop in pieces if stop - start > 1]
        if not pieces:
            raise InputError(f"No two frames of {split} follow each other without a gap; give more files.")
        segments = []
        for box in range(len(chosen)):
            for start, stop in pieces:
                segments.append(Segment(len(index), 0, stop - start))
                index.append((box, start, stop))
                listed.append(
                    {
                        "split": split,
                        "box": chosen[box].number,
                        "frames": stop - start,
                        "first": start,
                        "last": stop - 1,
                    }
                )
        splits[split] = tuple(segments)
    fields = record.fields
    if scales is not None:
        fields = tuple(
            replace(
                field, units="1", long_name=f"{field.long_name or field.name}, standardised per pixel", standard_name=""
            )
            for field in fields
        )
    attributes = {
        "system": fields[0].name if len(fields) == 1 else "boxes",
        "boxes": ", ".join(str(box.number) for box in chosen),
        "standardised": "none" if scales is None else "pixel",
        "time_origin": record.when(0)[:4] + "-01-01" if record.dated else "0",
    }
    if record.source:
        attributes["source"] = record.source
    dataset = Dataset(
        source=Pieces(spool, tuple(index), *(scales or (None, None))),
        fields=fields,
        grid=_grid(record, chosen[0]),
        clock=PlainClock(
            steps.dt, steps.units, tuple(float(steps.numbers[start]) * steps.dt for _, start, _ in index), steps.cycle
        ),
        splits=splits,
        valid=None if valid is None else torch.from_numpy(valid),
        attributes=attributes,
    )
    # As the writer sorts them: by split, by name of the file (one for each length, if there are several), then in their order.
    order = sorted(
        range(len(listed)), key=lambda at: (SPLITS.index(listed[at]["split"]), f"{listed[at]['frames']}_", at)
    )
    return dataset, [listed[at] for at in order]


def _grid(record: Record, box: Box) -> Grid:
    """The grid that all boxes share: distances from the first point of a box, since boxes lie at different places. Weights are equal."""
    axes = []
    for name, kind, values, units, indices in zip(
        ("y", "x"), record.kinds, record.coordinates, record.units, (box.rows, box.columns), strict=True
    ):
        between = np.abs(np.diff(values[indices]))
        between = np.minimum(between, 360 - between) if kind == "longitude" else between  # a box may lie across a seam
        spacing = float(between.mean()) if len(indices) > 1 else 1.0
        points = tuple(float(f"{spacing * at:.7g}") for at in range(len(indices)))
        unit = "degree" if units.startswith("degree") else units
        axes.append(Axis(name, points, ("open", "open"), unit))
    return Grid(tuple(axes))


def _place(record: Record, box: Box) -> dict[str, Any]:
    """Number and outermost points of a box, as plain numbers."""
    ends = {
        ("latitude", "longitude")[axis] if record.kinds[axis] != "plain" else ("y", "x")[axis]: [
            float(f"{record.coordinates[axis][indices[at]]:.7g}") for at in (0, -1)
        ]
        for axis, indices in enumerate((box.rows, box.columns))
    }
    return {"number": box.number, **ends}


def _gaps(record: Record, steps: Steps) -> list[list[str]]:
    """Last date before and first after each gap, the first ones."""
    return [[record.when(run.start - 1), record.when(run.start)] for run in steps.runs()[1 : 1 + LISTED]]


def _write_statistics(path: Path, record: Record, chosen: list[Box], mean: np.ndarray, std: np.ndarray) -> None:
    """Mean and standard deviation of each pixel of each box, with the places of the pixels."""
    import xarray as xr

    dims = ("box", "y", "x")
    content = xr.Dataset(coords={"box": np.array([box.number for box in chosen])})
    for axis, name in enumerate(("latitude", "longitude")):
        shown = name if record.kinds[axis] != "plain" else f"{'yx'[axis]}_place"
        values = [record.coordinates[axis][(box.rows, box.columns)[axis]] for box in chosen]
        content.coords[shown] = (("box", "yx"[axis]), np.stack(values), {"units": record.units[axis]})
    for channel, field in enumerate(record.fields):
        for kind, values in (("mean", mean), ("std", std)):
            told = {"units": field.units, "long_name": f"{kind} of {field.name} at each pixel over the training frames"}
            content[f"{field.name}_{kind}"] = (dims, values[:, channel], told)
    content.to_netcdf(path, engine="h5netcdf")


def in_units(content: xr.Dataset, directory: str | Path) -> xr.Dataset:
    """Standardised boxes back in the units of their files: value * std + mean, each of its own box.

    Args:
        content: A forecast or analysis made from boxes that were written by `tile` with standardise="pixel".
        directory: What `tile` wrote.

    Returns: A copy, with the number of the box, and its latitudes and longitudes, as coordinates along `init`.
    Raises: InputError for other content, or a directory without statistics.
    """
    import xarray as xr

    place = Path(directory)
    described = read_json(place / "manifest.json")
    if not isinstance(described, dict) or described.get("standardised") != "pixel":
        raise InputError(f"{place}: its boxes are not standardised; there is nothing to undo.")
    if "trajectory" not in content.variables:
        raise InputError("Expected a forecast of boxes, with a trajectory for each init; this content has none.")
    with open_labelled(place / STATISTICS, decode_times=False) as opened:
        known = opened.load()
    numbers = [described["pieces"][int(at)]["box"] for at in np.atleast_1d(content["trajectory"].values)]
    own, result = known.sel(box=numbers), content.copy()
    for name in (name for name in described["fields"] if name in content):
        mean, std = (xr.DataArray(own[f"{name}_{kind}"].values, dims=("init", "y", "x")) for kind in ("mean", "std"))
        if "init" not in content.dims:
            mean, std = mean[0], std[0]
        values = (content[name] * std + mean).transpose(*content[name].dims).astype(content[name].dtype)
        units = str(own[f"{name}_mean"].attrs["units"])
        result[name] = values.assign_attrs({**content[name].attrs, "units": units, "long_name": name})
    result.coords["box"] = ("init", numbers) if "init" in content.dims else numbers[0]
    return result
