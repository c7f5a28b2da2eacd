"""Train a recipe, forecast and assimilate to files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from eddycast import assimilation, distributed
from eddycast.api.analysis import DIAGNOSTICS, split_off
from eddycast.api.data import Data, opened, opened_to_train
from eddycast.api.forecaster import Forecaster, load
from eddycast.api.shares import passes_line
from eddycast.api.simulation import simulate
from eddycast.api.stations import read_observations, write_rows
from eddycast.data import Dataset, Family, check_output, write
from eddycast.errors import InputError
from eddycast.files import keep_inputs, write_json
from eddycast.observations import Observations, ObservationTable
from eddycast.recipes import (
    AUTOENCODER,
    Recipe,
    all_recipes,
    encode_dataset,
    get_recipe,
    read_recipe,
    train_recipe,
    with_overrides,
)
from eddycast.training import ProgressBar, TrainingObserver

GIVEN = ("autoencoder.model", "autoencoder.training", "space")
"""Settings that come with a trained autoencoder."""
AUTOENCODER_SHARE = 0.5
"""Of the minutes of a recipe that trains an autoencoder before its emulator."""


def recipes() -> list[tuple[str, str]]:
    """Name and description of each recipe."""
    return [(name, recipe.description) for name, recipe in sorted(all_recipes().items())]


def methods() -> list[tuple[str, str]]:
    """Name and description of each assimilation method."""
    return assimilation.describe_methods()


def train(
    recipe: str | Path | Recipe,
    *,
    data: Data | Family | None = None,
    out: str | Path | None = None,
    init: str | Path | None = None,
    stage: str | None = None,
    autoencoder: str | Path | None = None,
    latents: str | Path | None = None,
    minutes: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str = "cpu",
    seed: int | None = None,
    threads: int | None = None,
    observer: TrainingObserver | None = None,
) -> Forecaster:
    """Train the emulator of a recipe and leave a run directory.

    Under torchrun every process calls it, the batches are shared, and the first process writes.

    Args:
        recipe: Name, YAML or JSON file, or object.
        data: Opened data or a path, of a family of data sets as well (a folder of folders); None simulates what the recipe says.
        out: Run directory; None for `runs/<name>`.
        init: Run whose weights are the start.
        stage: Train this stage only.
        autoencoder: Run whose autoencoder a recipe in latent space takes, instead of training its own.
        latents: Cache made by `encode` with that autoencoder, instead of encoding the training split.
        minutes: Fit the number of steps to this time; a recipe that trains an autoencoder first gives it `AUTOENCODER_SHARE` of it.
        overrides: Settings such as {"training.batch_size": 32}.
        resume: Go on with an interrupted training, exactly.
        device, threads: Where to compute, with how many CPU threads; `cuda` under torchrun is a GPU for each process.
        seed: Replaces the recipe's.
        observer: Shown the progress; None draws a bar.

    Raises: InputError for anything that does not fit, and when the loss is no longer finite.
    """
    settings = dict(overrides or {})
    found = find_recipe(recipe)
    alone = stage == AUTOENCODER and found.autoencoder is not None
    whole = found.autoencoder is not None and (autoencoder, init, stage) == (None, None, None)
    if autoencoder is not None and (vain := [key for key in settings if key.startswith(GIVEN)]):
        raise InputError(
            f"{vain[0]} was settled when {autoencoder} was trained: leave it out, or train another autoencoder with it."
        )
    if minutes is not None:
        settings["training.minutes"] = (1 - AUTOENCODER_SHARE) * minutes if whole else minutes
        if whole or alone:
            settings["autoencoder.training.minutes"] = minutes if alone else AUTOENCODER_SHARE * minutes
    if seed is not None:
        settings["training.seed"] = seed
        if found.autoencoder is not None:
            settings["autoencoder.training.seed"] = seed
    chosen = with_overrides(found, settings)
    if threads is not None:
        torch.set_num_threads(threads)
    directory = Path("runs") / chosen.name if out is None else Path(out)
    source = run_path(init, "--init")
    with distributed.process_group(device) as place:
        if data is None:
            if chosen.simulation is None:
                raise InputError(f"The recipe {chosen.name} needs data: pass --data with a file or directory.")
            data = simulated(chosen)
        dataset = opened_to_train(data)
        try:
            train_recipe(
                chosen,
                dataset,
                directory,
                stage=stage,
                init=source,
                autoencoder=run_path(autoencoder, "--autoencoder"),
                latents=None if latents is None else Path(latents),
                resume=resume,
                device=place,
                observer=observer or ProgressBar(),
            )
        except FloatingPointError as error:
            raise InputError(str(error)) from error
        return load(directory / AUTOENCODER if alone else directory, device=place)


def run_path(run: str | Path | None, option: str) -> Path | None:
    """Directory of a run. Raises: InputError for solvers and baselines, which have no weights."""
    path = None if run is None else load(run).path
    if run is not None and path is None:
        raise InputError(f"{run} has no weights: {option} takes a run.")
    return path


def encode(
    run: str | Path | Forecaster,
    data: Data,
    *,
    out: str | Path,
    splits: Sequence[str] | None = None,
    copies: int = 1,
    seed: int = 0,
    device: str = "cpu",
    progress: Any = None,
) -> Dataset:
    """Cache the latents of a data set with their provenance; see `recipes.latents`. Returns the cache, opened.

    Raises: InputError for a run without autoencoder, data that do not fit it, or a place that cannot be written.
    """
    forecaster = load(run, device=distributed.local_device(device))
    if forecaster.run is None:
        raise InputError(f"{forecaster.name} has no autoencoder: encode takes a run.")
    chosen = None if splits is None else tuple(splits)
    return encode_dataset(
        forecaster.run, opened(data), Path(out), splits=chosen, copies=copies, seed=seed, progress=progress
    )


def reconstruct(
    run: str | Path | Forecaster,
    *,
    data: Data,
    out: str | Path | None = None,
    split: str = "test",
    start: Any = None,
    steps: int | None = None,
    device: str = "cpu",
    progress: Any = None,
) -> xr.Dataset:
    """The truth through the autoencoder of a run and back, labelled like a forecast of one member: what compression alone costs.

    Raises: InputError as `encode`, and for a start that the data do not have.
    """
    if out is not None:
        check_output(out)
        keep_inputs(out, run, data)
    result = load(run, device=distributed.local_device(device)).reconstruct(
        opened(data), split=split, start=start, steps=steps, progress=progress
    )
    if out is not None:
        write(result, Path(out))
    return result


def find_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name, or from a file."""
    if isinstance(recipe, Recipe):
        return recipe
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml", ".json"):
        return read_recipe(path)
    return get_recipe(str(recipe))


def simulated(recipe: Recipe) -> Dataset | Family:
    """The data that a recipe simulates."""
    settings = recipe.simulation
    assert settings is not None, "checked by the caller"
    return simulate(
        settings.system,
        trajectories=settings.trajectories,
        steps=settings.steps,
        evaluation_steps=settings.evaluation_steps,
        split=settings.split,
        parameters=settings.parameters,
        initial=settings.initial,
        grid=settings.grid,
        spacing=settings.spacing,
        solver_grid=settings.solver_grid,
        dt=settings.dt,
        spin_up=settings.spin_up,
        seed=settings.seed,
        store=settings.store,
    )


def forecast(
    run: str | Path | Forecaster,
    *,
    data: Data,
    out: str | Path,
    split: str = "test",
    start: Any = None,
    steps: int | None = None,
    leads: Sequence[float] | None = None,
    members: int = 16,
    parameters: Mapping[str, float] | None = None,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Any = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Forecast from a data set to a file; see `Forecaster.forecast`, and `.forecast_from` when `start` is an analysis file.

    `say` is told what it cost, in a line. Under torchrun every process calls it, the members and cases are shared, and the first process
    writes.
    """
    check_output(out)
    keep_inputs(out, run, data, start)
    if isinstance(start, Path) and parameters:
        raise InputError("A forecast from an analysis keeps the parameters of the data: leave --param out.")
    with distributed.process_group(device) as place:
        forecaster = load(run, device=place)
        dataset = opened(data)
        options: dict[str, Any] = {"steps": steps, "leads": leads, "members": members, "seed": seed}
        options |= {"overrides": overrides, "progress": progress}
        if isinstance(start, Path):
            result = forecaster.forecast_from(start, dataset, **options)
        else:
            initial = dataset.initial(split, start=start, leads=steps or 1)
            result = forecaster.forecast(initial, parameters=parameters, **options)
        if not distributed.is_first():
            return Path(out)
        if say is not None:
            say(passes_line(result.attrs))
            if beyond := result.attrs.get("eddycast_extrapolated"):
                say(
                    f"Note: parameters beyond those of the training data: {beyond}; nothing tells how good the forecast is there."
                )
        return write(result, Path(out))


def assimilate(
    run: str | Path | Forecaster,
    *,
    observations: Observations | ObservationTable | str | Path,
    out: str | Path,
    method: str | None = None,
    mode: str = "smooth",
    block: int | None = None,
    forecast: int | None = None,
    blocks: int | None = None,
    background: str | Path | None = None,
    withhold: float | Sequence[str] = 0.0,
    error: float | Mapping[str, float] | None = None,
    rows: str | Path | None = None,
    members: int = 16,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Any = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Assimilate observations to a file; see `Forecaster.assimilate`, and `read_observations` for tables of one's own.

    `error` is that of rows that do not state theirs. `rows` is a CSV to write: what the analysis has at each row of a table. `say` is told
    what it cost, how many rows are not used and why, how many cases have no observation, and where the analysis is not to be trusted, in a
    line each. Beside the file stands another, OUT.diagnostics.json: see `assimilation.Diagnostics`.
    """
    check_output(out)
    keep_inputs(out, run, observations, background)
    keep_inputs(rows, run, observations, background, out)
    place = distributed.local_device(device)
    forecaster = load(run, device=place)
    given = read_observations(observations, forecaster, error=error)
    if rows is not None and (mode == "online" or not isinstance(given, ObservationTable)):
        raise InputError(
            "--rows tells what an analysis of a table, smooth or filter, has at each row: leave it out here."
        )
    result = forecaster.assimilate(
        given,
        method=method,
        mode=mode,
        block=block,
        forecast=forecast,
        blocks=blocks,
        background=background,
        withhold=withhold,
        members=members,
        seed=seed,
        overrides=overrides,
        progress=progress,
    )
    diagnostics = json.loads(result.attrs.pop(DIAGNOSTICS))
    path = write(result, Path(out))
    write_json(path.with_suffix(".diagnostics.json"), diagnostics)
    if rows is not None and isinstance(given, ObservationTable):
        write_rows(split_off(given, withhold, seed)[0], result, rows, seed=seed)
    if say is not None:
        say(passes_line(result.attrs))
        if isinstance(given, ObservationTable) and (reasons := given.reasons()):
            told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
            say(f"Rows used: {given.count} of {len(given.rows)}; not used: {told}")
        if "withheld_departure_rms" in result.attrs:
            say(
                f"Withheld observations: {result.attrs['withheld_observations']:g}; the mean departs from them by "
                f"{result.attrs['withheld_departure_rms']:.2f} deviations of their error (1 is the least to expect)"
            )
        seen = given.seen(0, given.num_times)
        if seen is not None and (lost := int((~seen.mask.any(dim=1)).sum())):
            say(
                f"{lost} of {given.num_cases} cases have no observation: theirs are draws of what is known without any."
            )
        if diagnostics["divergence"] is not None:
            say(f"Not to be trusted: {diagnostics['divergence']}")
    return path
