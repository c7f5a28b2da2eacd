"""Boxes cut from maps in time: a record of any length and form becomes trajectories that every command takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from eddycast import __version__, data
from eddycast.data import Dataset
from eddycast.data.tiling import Region


def tile(
    files: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    size: tuple[int, int] = (60, 60),
    region: Region | None = None,
    boxes: Sequence[int] | Literal["published"] | None = None,
    split: str = "0.8,0.1,0.1",
    standardise: Literal["none", "pixel"] = "none",
    max_missing: float = 0.0,
    fields: str | Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Cut boxes without land from NetCDF files, daily, yearly or all in one; write them to `out` and open them.

    Args:
        files: Files, Zarr stores, or folders of files, in any order.
        out: Directory for files in The Well's format, with `manifest.json` (where boxes, pieces and gaps lie) and `boxes.nc` (mean and
            standard deviation of each pixel of each box in training).
        size: Points of a box, rows and columns.
        region: ((lower, upper) latitude, (lower, upper) longitude); None for everything.
        boxes: Their numbers in the region, row by row from the south-west; None for all without land, "published" for those of the
            DYffusion paper.
        split: `paper` (1982-2019, 2020, 2021), `code` (1982-2018, 2019, 2020), years such as `2000-2018,2019,2020`, or shares of the time.
        standardise: "pixel" stores departures from each pixel's mean in its standard deviations, both from the training part.
        max_missing: Share of missing points up to which a box is kept; they are masked in all boxes.
        fields: Variables; None for the only one, or `sst`.
        progress: Called with (what is done, done, total).

    Raises: InputError, in one line.
    """
    names = [name.strip() for name in fields.split(",")] if isinstance(fields, str) else fields
    place = data.tile(
        [files] if isinstance(files, (str, Path)) else files,
        out,
        size=size,
        region=region,
        numbers=boxes,
        split=split,
        standardise=standardise,
        max_missing=max_missing,
        fields=names,
        manifest={"eddycast_version": __version__},
        progress=progress,
    )
    return data.open_dataset(place)
