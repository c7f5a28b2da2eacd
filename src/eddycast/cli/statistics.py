"""Commands for long forecasts and large ensembles: statistics, and the probability of events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eddycast.cli import options

Width = Annotated[float, typer.Option(min=0, help="Smoothing of profiles before jets are counted, in grid steps.")]
Prominence = Annotated[float, typer.Option(help="How far a jet must stand out, in standard deviations of the truth.")]
Hold = Annotated[int, typer.Option(min=1, help="States that a change of the number of jets must last.")]
Field = Annotated[str | None, typer.Option(help="Field to look at; the first one if absent.", show_default=False)]


def statistics(
    source: Annotated[
        str, typer.Argument(metavar="FORECAST|DATA", help="A long forecast, or data.", show_default=False)
    ],
    truth: Annotated[
        str | None,
        typer.Option(
            metavar="DATA|FORECAST",
            help="Truth to compare with: data, or a forecast of the solver.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="statistics.json", help="Numbers to write.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="picture.png", help="Picture of PDFs, spectra and correlations.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Part of data: train, valid, test or all.")] = "test",
    field: Field = None,
    axis: Annotated[
        str | None,
        typer.Option(help="Axis of derivatives and correlation; the first one if absent.", show_default=False),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Parameter that tells groups apart; may be repeated. All that vary, if absent.",
            show_default=False,
        ),
    ] = None,
    skip: Annotated[int, typer.Option(min=0, help="States left out at the start of every run.")] = 0,
    jets: Annotated[bool, typer.Option("--jets", help="Count jets, and their nucleations and coalescences.")] = False,
    width: Width = 2.0,
    prominence: Prominence = 0.5,
    hold: Hold = 5,
    seed: options.Seed = 0,
) -> None:
    """Compare the statistics of a long forecast with the truth's."""
    from eddycast import api

    found = api.statistics(
        source, truth=truth, out=out, picture=picture, split=split, field=field, axis=axis, by=by or None, skip=skip,
        jets=jets, width=width, prominence=prominence, hold=hold, seed=seed,
    )  # fmt: skip
    options.say(found.table().rstrip())
    for path in (out, picture):
        if path is not None:
            options.say(f"Wrote {path}")


def events(
    forecast: Annotated[
        str, typer.Argument(metavar="FORECAST", help="An ensemble forecast with many members.", show_default=False)
    ],
    event: Annotated[
        str,
        typer.Option(
            metavar="jets|nucleation|coalescence|'mean>0.5'",
            help="A change of the number of jets, or a bound on the mean, max, min or rms of the field.",
        ),
    ] = "jets",
    truth: Annotated[
        str | None,
        typer.Option(metavar="FORECAST|DATA", help="The solver's ensemble from the same states.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="events.json", help="Numbers to write.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="picture.png", help="Picture of probabilities and times.", show_default=False),
    ] = None,
    field: Field = None,
    width: Width = 2.0,
    prominence: Prominence = 0.5,
    hold: Hold = 5,
    seed: options.Seed = 0,
) -> None:
    """Tell how probable an event is in an ensemble."""
    from eddycast import api

    found = api.events(
        forecast, event=event, truth=truth, out=out, picture=picture, field=field, width=width,
        prominence=prominence, hold=hold, seed=seed,
    )  # fmt: skip
    options.say(found.table().rstrip())
    for path in (out, picture):
        if path is not None:
            options.say(f"Wrote {path}")
