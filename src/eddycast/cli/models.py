"""Commands that train emulators and run them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eddycast.cli import options
from eddycast.cli.parse import (
    lead_times,
    overrides,
    parameter_values,
    quoted,
    start_frame,
    stated_error,
    withheld,
)
from eddycast.errors import InputError


def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE|config.yaml", help="A recipe (eddycast recipes) or a file.", show_default=False),
    ],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Data set; the recipe's own, simulated, if absent.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run directory to write; runs/RECIPE if absent.", show_default=False),
    ] = None,
    init: Annotated[
        str | None, typer.Option(metavar="RUN", help="Start from the weights of this run.", show_default=False)
    ] = None,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Train this stage only.", show_default=False)
    ] = None,
    autoencoder: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Take the autoencoder of this run, not one of its own.", show_default=False),
    ] = None,
    latents: Annotated[
        str | None, typer.Option(metavar="CACHE", help="Latents made by `eddycast encode` with it.", show_default=False)
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.0, help="Fit the number of steps to this time.", show_default=False)
    ] = None,
    set_: options.Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training exactly.")] = False,
    device: options.Device = "cpu",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed; the recipe's own if absent.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; all cores if absent.", show_default=False)
    ] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Print a batch script that does this, and nothing else.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="With --slurm: nodes.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="With --slurm: GPUs on each node; 0 trains on CPUs.")] = 1,
    time: Annotated[str, typer.Option(help="With --slurm: limit, after which the job queues again.")] = "24:00:00",
) -> None:
    """Train the emulator of a recipe."""
    asked: dict[str, Any] = {
        "data": data,
        "out": out,
        "init": init,
        "stage": stage,
        "autoencoder": autoencoder,
        "latents": latents,
        "minutes": minutes,
        "overrides": overrides(set_ or []),
        "resume": resume,
        "device": device,
        "seed": seed,
        "threads": threads,
    }
    from eddycast import api

    if slurm:
        typer.echo(api.batch_script(recipe, **asked, nodes=nodes, gpus=gpus, time=time), nl=False)
        return
    run = api.train(recipe, **asked)
    options.say(f"Wrote run {run.path}")
    if run.forecasts and (lacking := run.untrained):
        options.say(
            f"Next: eddycast train {quoted(recipe)} --stage {lacking[0]} --init {quoted(str(run.path))} --out RUN"
        )
    elif run.forecasts:
        options.say(
            f"Next: eddycast forecast {quoted(str(run.path))} --data {quoted(api.one_of(data) or 'DATA')} --out forecast.nc"
        )
    else:
        options.say(f"Next: eddycast encode {quoted(str(run.path))} {quoted(data or 'DATA')} --out latents")


def encode(
    run: options.Run,
    data: Annotated[str, typer.Argument(metavar="DATA", help="Data set to encode.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="CACHE", help="Directory for the latents.", show_default=False)],
    split: Annotated[
        str | None, typer.Option(help="Encode this split only; all if absent.", show_default=False)
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="Views of the training split, the first as it is.")] = 1,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Cache the latents of a data set, with their provenance."""
    from eddycast import api

    with options.bar("encoding") as progress:
        splits = None if split is None else [split]
        cache = api.encode(
            run, data, out=out, splits=splits, copies=copies, seed=seed, device=device, progress=progress
        )
    points = " x ".join(map(str, cache.grid.shape))
    options.say(f"Wrote latents {out}: {len(cache.fields)} channels on {points} points, {sum(cache.lengths)} states")
    if split in (None, "train"):
        options.say(
            f"Next: eddycast train RECIPE --data {quoted(data)} --autoencoder {quoted(run)} --latents {quoted(str(out))}"
        )
    else:  # nothing to train on
        options.say(f"Next: eddycast latents {quoted(str(out))} --split {quoted(split)} --picture latents.png")


def reconstruct(
    run: options.Run,
    data: options.Data,
    out: Annotated[Path, typer.Option(metavar="FILE.nc|FILE.zarr", help="States to write.", show_default=False)],
    split: options.Split = "test",
    start: Annotated[
        str | None,
        typer.Option(metavar="I", help="Frame of lead 0; the first if absent.", show_default=False),
    ] = None,
    steps: options.Steps = None,
    device: options.Device = "cpu",
) -> None:
    """Encode and decode the truth, to see what is lost."""
    initial = start_frame(start)
    from eddycast import api

    with options.bar("reconstructing") as progress:
        api.reconstruct(
            run, data=data, out=out, split=split, start=initial, steps=steps, device=device, progress=progress
        )
    options.say(f"Wrote reconstructions {out}")
    options.say(f"Next: eddycast evaluate {quoted(str(out))} --truth {quoted(data)}")


def forecast(
    run: options.Run,
    data: options.Data,
    out: Annotated[Path, typer.Option(metavar="FILE.nc|FILE.zarr", help="Forecast to write.", show_default=False)],
    split: options.Split = "test",
    start: Annotated[
        str | None,
        typer.Option(
            metavar="I|last|all|FILE.nc",
            help="Frame to start from, or an analysis to go on from; as early as possible if absent.",
            show_default=False,
        ),
    ] = None,
    steps: options.Steps = None,
    leads: Annotated[
        str | None,
        typer.Option(metavar="0.5,1,2", help="Lead times instead of steps, in time units.", show_default=False),
    ] = None,
    members: options.Members = 16,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="name=v", help="Override a parameter; may be repeated.", show_default=False),
    ] = None,
    set_: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Forecast an ensemble."""
    if steps is not None and leads is not None:
        raise InputError("--steps and --leads exclude each other; give one.")
    initial, lead_list = start_frame(start), lead_times(leads)
    parameters, settings = parameter_values(param or []), overrides(set_ or [])
    from eddycast import api

    costs: list[str] = []
    with options.bar("forecasting") as progress:
        path = api.forecast(
            run,
            data=data,
            split=split,
            start=initial,
            steps=steps,
            leads=lead_list,
            members=members,
            parameters=parameters,
            overrides=settings,
            seed=seed,
            out=out,
            device=device,
            progress=progress,
            say=costs.append,
        )
    options.say(f"Wrote forecast {path}")
    for line in costs:
        options.say(line)
    if start == "last":  # beyond the data there is no truth to score
        options.say(f"Next: eddycast plot {quoted(path)} --out forecast.png")
    else:
        options.say(f"Next: eddycast evaluate {quoted(path)} --truth {quoted(data)}")


def assimilate(
    run: options.Run,
    observations: Annotated[str, typer.Option(metavar="OBS", help="Observations (.nc, .csv).", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="FILE.nc", help="Analysis to write.", show_default=False)],
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="See eddycast methods; the run's best if absent.", show_default=False),
    ] = None,
    mode: Annotated[
        Literal["smooth", "filter", "online"],
        typer.Option(help="All observations at once, past ones only, or in blocks with a forecast from each."),
    ] = "smooth",
    block: Annotated[
        int | None, typer.Option(min=1, help="With --mode online: frames of a block.", show_default=False)
    ] = None,
    forecast: Annotated[
        int | None,
        typer.Option(min=1, help="With --mode online: frames from the first of each block on.", show_default=False),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="With --mode online: blocks; all if absent.", show_default=False)
    ] = None,
    background: Annotated[
        str | None, typer.Option(metavar="FILE", help="Forecast or analysis to begin from.", show_default=False)
    ] = None,
    withhold: Annotated[
        str, typer.Option(metavar="SHARE|NAME", help="Share of observations, or platforms by name, kept back to check.")
    ] = "0",
    error: Annotated[
        str | None,
        typer.Option(metavar="STD", help="Error of rows that state none: 0.1, or u=0.1,v=0.2.", show_default=False),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="Also write what the analysis has at each row.", show_default=False),
    ] = None,
    members: options.Members = 16,
    set_: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Draw a posterior ensemble given observations."""
    settings = overrides(set_ or [])
    from eddycast import api
    from eddycast.assimilation import DivergenceWarning

    costs: list[str] = []  # printed when the bar is gone
    with warnings.catch_warnings(), options.bar("assimilating") as progress:
        warnings.simplefilter("ignore", DivergenceWarning)  # told in one line, with the costs
        path = api.assimilate(
            run,
            observations=observations,
            method=method,
            mode=mode,
            block=block,
            forecast=forecast,
            blocks=blocks,
            background=background,
            withhold=withheld(withhold),
            error=stated_error(error),
            rows=rows,
            members=members,
            seed=seed,
            overrides=settings,
            out=out,
            device=device,
            progress=progress,
            say=costs.append,
        )
    options.say(f"Wrote analysis {path}")
    for line in costs:
        options.say(line)
    options.say(f"Next: eddycast evaluate {quoted(path)} --truth DATA")
