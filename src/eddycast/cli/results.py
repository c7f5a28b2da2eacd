"""Commands that score, draw and compare."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from eddycast.cli import options
from eddycast.cli.parse import quoted


def evaluate(
    forecast: Annotated[
        str, typer.Argument(metavar="FORECAST|ANALYSIS", help="A file from forecast or assimilate.", show_default=False)
    ],
    truth: Annotated[str, typer.Option(metavar="DATA", help="Data set that holds the truth.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="scores.json", help="Scores to write.", show_default=False)
    ] = None,
    derive: Annotated[
        str | None,
        typer.Option(
            metavar="vorticity|vorticity-published",
            help="Score the vorticity in the place of a 2-D velocity: in physical units, or as published.",
            show_default=False,
        ),
    ] = None,
    given: Annotated[
        int, typer.Option(min=0, help="Given states that the published high-correlation time and RMSD count too.")
    ] = 0,
    horizons: Annotated[
        str | None,
        typer.Option(
            metavar="1:20,21:60",
            help="Average the scores over ranges of leads, in steps of the data, ends included; the first lead is told apart.",
            show_default=False,
        ),
    ] = None,
    convention: Annotated[
        str | None,
        typer.Option(
            metavar="dyffusion|dyffusion-normalised|dyffusion-pixelwise",
            help="Add CRPS, MSE and spread over skill of all fields as one, as published, the fair ones beside them.",
            show_default=False,
        ),
    ] = None,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            "--quantity",
            metavar="energy|kinetic-energy|divergence|slip",
            help="Check this quantity of members against the truth's; may be repeated. What the fields are made for, if absent.",
            show_default=False,
        ),
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Score against the truth as the autoencoder of this run gives it back.",
            show_default=False,
        ),
    ] = None,
    device: options.Device = "cpu",
) -> None:
    """Score a forecast or an analysis against the truth."""
    from eddycast import api

    scores = api.evaluate(
        forecast,
        truth=truth,
        out=out,
        derive=derive,
        given=given,
        horizons=horizons,
        convention=convention,
        quantities=quantity or None,
        through=through,
        device=device,
    )
    options.say(scores.table())
    if out is not None:
        options.say(f"Wrote scores {out}")
    inputs = [forecast] if out is None else [forecast, out]
    options.say(f"Next: eddycast report {quoted(*inputs)} --out report.html")


def latents(
    cache: Annotated[str, typer.Argument(metavar="CACHE", help="Latents from encode.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(metavar="analysis.json", help="Figures to write.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="latents.png", help="Picture of the embedding and the distances.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Whose pieces.")] = "train",
    seed: options.Seed = 0,
) -> None:
    """Tell what cached latents know of the parameters."""
    from eddycast import api

    found = api.analyse_latents(cache, split=split, out=out, picture=picture, seed=seed)
    for one in found.parameters:
        accuracy = "" if math.isnan(one.accuracy) else f", right value {one.accuracy:.0%} (chance {one.chance:.0%})"
        options.say(
            f"{one.name}: a probe of the central token explains {one.r2:.0%} of its variance in unseen trajectories "
            f"(at most {float(one.r2_permuted.max()):.0%} where values are shuffled){accuracy}; "
            f"order of the latent space along it {one.order:.2f}"
        )
    for path in (out, picture):
        if path is not None:
            options.say(f"Wrote {path}")


def plot(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Data, forecast, analysis or scores.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option(metavar="picture.png|movie.gif", help="Picture or film to write.", show_default=False)
    ],
    truth: Annotated[
        str | None, typer.Option(metavar="DATA", help="Data set that holds the truth.", show_default=False)
    ] = None,
    observations: Annotated[
        str | None,
        typer.Option(
            metavar="OBS.nc", help="Observations on a grid, of which an analysis was made.", show_default=False
        ),
    ] = None,
) -> None:
    """Draw one picture, or one film."""
    from eddycast import api

    api.plot(file, out, truth=truth, observations=observations)
    options.say(f"Wrote {out}")


def report(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="RUN|FORECAST|ANALYSIS|scores.json...", help="What to report on.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(metavar="report.html", help="Report to write, one file.", show_default=False)],
) -> None:
    """Write one HTML report."""
    from eddycast import api

    api.report(inputs, out)
    options.say(f"Wrote report {out}; open it in a browser.")


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs, systems and baselines.", show_default=False)
    ],
    data: options.Data,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for table, scores and report.", show_default=False)
    ],
    members: options.Members = 16,
    steps: options.Steps = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Compare several runs on the same cases."""
    from eddycast import api

    api.compare(runs, data=data, out=out, members=members, steps=steps, seed=seed, device=device)
    options.say(f"Wrote comparison {out}; open {Path(out) / 'report.html'} in a browser.")
