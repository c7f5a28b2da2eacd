"""Commands that make, describe and observe data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eddycast.cli import options
from eddycast.cli.parse import (
    Turns,
    grid_shape,
    initial_values,
    left_out,
    noise_level,
    parameter_ranges,
    quoted,
    shares,
)
from eddycast.errors import InputError
from eddycast.progress import progress_bar


def simulate(
    system: Annotated[
        str, typer.Argument(metavar="SYSTEM", help="A system; see eddycast systems.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory for The Well files.", show_default=False)],
    trajectories: Annotated[int, typer.Option(min=1, help="Independent runs.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Stored states of each run.")] = 400,
    evaluation_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stored states of the runs of valid and test; as --steps if absent.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(metavar="a,b,c", help="Shares of train, valid and test, or numbers of runs."),
    ] = "0.8,0.1,0.1",
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="name=value|name=lo:hi|name=a,b,c",
            help="A parameter, the range to draw it from for each run, or values that runs take in turn (a*3: for three); may be repeated.",
            show_default=False,
        ),
    ] = None,
    initial: Annotated[
        list[str] | None,
        typer.Option(
            "--initial",
            metavar="name=value",
            help="A setting of the law of initial states; may be repeated.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="64x64", help="Points per axis of the states; the system's own if absent.", show_default=False
        ),
    ] = None,
    solver_grid: Annotated[
        str | None,
        typer.Option(metavar="256x256", help="Points per axis of the solver; as --grid if absent.", show_default=False),
    ] = None,
    spacing: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Distance of the points, instead of --grid; several domain lengths make a family of data sets.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="zonal-mean",
            help="What to store of each state instead of all of it; see docs/systems.md.",
            show_default=False,
        ),
    ] = None,
    dt: Annotated[
        float | None, typer.Option(help="Time between stored states; the system's own if absent.", show_default=False)
    ] = None,
    spin_up: Annotated[
        float | None, typer.Option(help="Time before the first state; the system's own if absent.", show_default=False)
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
) -> None:
    """Simulate trajectories of a system."""
    asked, law = parameter_ranges(param or []), initial_values(initial or [])
    stored, solved, parts = grid_shape(grid), grid_shape(solver_grid, "--solver-grid"), shares(split)
    from eddycast import api

    parameters = {
        name: api.Values(**vars(value)) if isinstance(value, Turns) else value for name, value in asked.items()
    }
    with progress_bar(f"simulating {system}") as progress:
        made = api.simulate(
            system,
            trajectories=trajectories,
            steps=steps,
            evaluation_steps=evaluation_steps,
            split=parts,
            parameters=parameters,
            initial=law,
            grid=stored,
            solver_grid=solved,
            spacing=spacing,
            store=store,
            dt=dt,
            spin_up=spin_up,
            seed=seed,
            device=device,
            out=out,
            progress=progress,
        )
    longer = "" if evaluation_steps in (None, steps) else f" ({evaluation_steps} in valid and test)"
    typer.echo(f"Wrote {trajectories} trajectories of {steps} states{longer} to {out}")
    for name, value in asked.items():
        if isinstance(value, Turns) and (rest := left_out(value, trajectories)):
            typer.echo(
                f"Note: no trajectory has {name} {', '.join(f'{one:g}' for one in rest)}: one turn of the values takes "
                f"{sum(value.counts)} trajectories."
            )
    if isinstance(made, api.Family):
        typer.echo(f"They are {len(made.members)} data sets: {', '.join(made.members)}")
        out = out / next(iter(made.members))
    typer.echo(f"Next: eddycast inspect {quoted(out)}")


def inspect(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file or directory of data.", show_default=False)],
) -> None:
    """Describe a data set, and what is wrong with it."""
    from eddycast import api

    typer.echo(api.inspect(data))
    typer.echo(f"Next: eddycast train RECIPE --data {quoted(data)} (recipes: eddycast recipes)")


def observe(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The data set to observe.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="OBS.nc|OBS.csv", help="Observations to write.", show_default=False)],
    split: options.Split = "test",
    fraction: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Share of random points; 0.1 if nothing else is given.", show_default=False
        ),
    ] = None,
    sensors: Annotated[int | None, typer.Option(min=1, help="Fixed points instead.", show_default=False)] = None,
    coarsen: Annotated[
        int | None, typer.Option(min=1, help="Block means of so many points instead.", show_default=False)
    ] = None,
    stripe: Annotated[
        int | None, typer.Option(min=1, help="So many points next to each side instead.", show_default=False)
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="MASK.npy|MASK.nc", help="Points where a mask on the grid is true instead.", show_default=False
        ),
    ] = None,
    noise: Annotated[
        str, typer.Option(help="Noise in standard deviations of the field, or with a unit: '0.5 K'.")
    ] = "0.1",
    stated_noise: Annotated[
        str | None,
        typer.Option(help="Noise that the observations state; as --noise if absent.", show_default=False),
    ] = None,
    complete: Annotated[int, typer.Option(min=0, help="First frames with every point observed.")] = 0,
    steps: options.Steps = None,
    start: Annotated[int, typer.Option(min=0, help="First frame.")] = 0,
    seed: options.Seed = 0,
) -> None:
    """Draw sparse and noisy observations from data."""
    chosen = [
        name
        for name, value in (
            ("fraction", fraction),
            ("sensors", sensors),
            ("coarsen", coarsen),
            ("stripe", stripe),
            ("mask", mask),
        )
        if value is not None
    ]
    if len(chosen) > 1:
        raise InputError(
            f"--{' and --'.join(chosen)} exclude each other; give one of --fraction, --sensors, --coarsen, --stripe, --mask."
        )
    level = noise_level(noise)
    stated = None if stated_noise is None else noise_level(stated_noise, "--stated-noise")
    from eddycast import api

    api.observe(
        data,
        split=split,
        fraction=fraction if chosen else 0.1,
        sensors=sensors,
        coarsen=coarsen,
        stripe=stripe,
        mask=mask,
        noise=level,
        stated_noise=stated,
        complete=complete,
        steps=steps,
        start=start,
        seed=seed,
        out=out,
    )
    typer.echo(f"Wrote observations to {out}")
    typer.echo(
        f"Next: eddycast assimilate RUN --observations {quoted(out)} --out analysis.nc (methods: eddycast methods)"
    )
