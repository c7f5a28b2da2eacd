"""The command that cuts boxes from maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eddycast.cli.parse import box_numbers, grid_shape, quoted
from eddycast.cli.parse import region as parsed_region
from eddycast.errors import InputError
from eddycast.progress import progress_bar


def tile(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="NetCDF files, or folders of them, of any length.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for The Well files.", show_default=False)],
    size: Annotated[str, typer.Option(metavar="60x60", help="Points of a box: rows and columns.")] = "60x60",
    region: Annotated[
        str | None,
        typer.Option(
            metavar="lat:lat,lon:lon",
            help="Where boxes lie, such as -15:15,180:270; everywhere if absent.",
            show_default=False,
        ),
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(
            metavar="84-89,108|published",
            help="Boxes by number, row by row from the south-west; all without land if absent.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="paper|code|years|a,b,c",
            help="Years of train, valid and test such as 1982-2019,2020,2021 (paper), or shares of the time.",
        ),
    ] = "0.8,0.1,0.1",
    standardise: Annotated[
        str,
        typer.Option(metavar="none|pixel", help="Store departures from each pixel's mean in its standard deviations."),
    ] = "none",
    max_missing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of missing points (land) up to which a box is kept.")
    ] = 0.0,
    fields: Annotated[
        str | None, typer.Option(metavar="a,b", help="Variables; the only one, or sst, if absent.", show_default=False)
    ] = None,
) -> None:
    """Cut boxes without land from maps in time."""
    shape, numbers, bounds = grid_shape(size, "--size"), box_numbers(boxes), parsed_region(region)
    if shape is None or len(shape) != 2:
        raise InputError(f"--size must be two numbers of points such as 60x60, got '{size}'.")
    from eddycast import api

    chosen: Any = standardise
    with progress_bar("cutting boxes") as progress:
        dataset = api.tile(
            files,
            out,
            size=(shape[0], shape[1]),
            region=bounds,
            boxes=numbers,
            split=split,
            standardise=chosen,
            max_missing=max_missing,
            fields=fields,
            progress=lambda what, done, total: progress(done, total),
        )
    names = str(dataset.attributes["boxes"])
    shown = names if len(names) < 80 else f"{names[:76]}..."
    typer.echo(f"Wrote {names.count(',') + 1} boxes of {size} to {out}: {shown}")
    typer.echo(f"Next: eddycast inspect {quoted(out)}")
