"""Options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated

import typer

from eddycast import distributed
from eddycast.progress import progress_bar

Run = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Run directory, shipped run (ks/universal-small), system:NAME or baseline:NAME.",
        show_default=False,
    ),
]
Data = Annotated[
    str,
    typer.Option("--data", metavar="DATA", help="Data set: The Well, NetCDF, Zarr, .npz or .npy.", show_default=False),
]
Split = Annotated[str, typer.Option(help="Part of the data: train, valid or test.")]
Members = Annotated[int, typer.Option(min=1, help="Ensemble members.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed; the same seed gives the same result.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Time steps of the data.", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Change a setting of the recipe; may be repeated.", show_default=False),
]


def say(text: str) -> None:
    """Print a line; under torchrun one process speaks for all."""
    if distributed.speaks():
        typer.echo(text)


def bar(title: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
    """A progress bar, in the process that speaks."""
    return progress_bar(title) if distributed.speaks() else nullcontext()
