"""Train a recipe, forecast and assimilate to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eddycast import assimilation, distributed
from eddycast.api.data import Data, opened
from eddycast.api.forecaster import Forecaster, load
from eddycast.api.shares import passes_line
from eddycast.api.simulation import simulate
from eddycast.data import Dataset, check_output, write
from eddycast.errors import InputError
from eddycast.observations import Observations
from eddycast.recipes import Recipe, all_recipes, get_recipe, read_recipe, train_recipe, with_overrides
from eddycast.training import ProgressBar, TrainingObserver


def recipes() -> list[tuple[str, str]]:
    """Name and description of each recipe."""
    return [(name, recipe.description) for name, recipe in sorted(all_recipes().items())]


def methods() -> list[tuple[str, str]]:
    """Name and description of each assimilation method."""
    return assimilation.describe_methods()


def train(
    recipe: str | Path | Recipe,
    *,
    data: Data | None = None,
    out: str | Path | None = None,
    init: str | Path | None = None,
    stage: str | None = None,
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
        data: Opened data or a path; None simulates what the recipe says.
        out: Run directory; None for `runs/<name>`.
        init: Run whose weights are the start.
        stage: Train this stage only.
        minutes: Fit the number of steps to this time.
        overrides: Settings such as {"training.batch_size": 32}.
        resume: Go on with an interrupted training, exactly.
        device, threads: Where to compute, with how many CPU threads; `cuda` under torchrun is a GPU for each process.
        seed: Replaces the recipe's.
        observer: Shown the progress; None draws a bar.

    Raises: InputError for anything that does not fit, and when the loss is no longer finite.
    """
    settings = dict(overrides or {})
    if minutes is not None:
        settings["training.minutes"] = minutes
    if seed is not None:
        settings["training.seed"] = seed
    chosen = with_overrides(find_recipe(recipe), settings)
    if threads is not None:
        torch.set_num_threads(threads)
    directory = Path("runs") / chosen.name if out is None else Path(out)
    source = None if init is None else load(init).path
    if init is not None and source is None:
        raise InputError(f"{init} has no weights to start from: --init takes a run.")
    with distributed.process_group(device) as place:
        if data is None:
            if chosen.simulation is None:
                raise InputError(f"The recipe {chosen.name} needs data: pass --data with a file or directory.")
            data = simulated(chosen)
        dataset = opened(data)
        try:
            train_recipe(
                chosen,
                dataset,
                directory,
                stage=stage,
                init=source,
                resume=resume,
                device=place,
                observer=observer or ProgressBar(),
            )
        except FloatingPointError as error:
            raise InputError(str(error)) from error
        return load(directory, device=place)


def find_recipe(recipe: str | Path | Recipe) -> Recipe:
    """A recipe by name, or from a file."""
    if isinstance(recipe, Recipe):
        return recipe
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml", ".json"):
        return read_recipe(path)
    return get_recipe(str(recipe))


def simulated(recipe: Recipe) -> Dataset:
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
        solver_grid=settings.solver_grid,
        dt=settings.dt,
        spin_up=settings.spin_up,
        seed=settings.seed,
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
        return write(result, Path(out))


def assimilate(
    run: str | Path | Forecaster,
    *,
    observations: Observations | str | Path,
    out: str | Path,
    method: str | None = None,
    mode: str = "smooth",
    block: int | None = None,
    forecast: int | None = None,
    blocks: int | None = None,
    background: str | Path | None = None,
    withhold: float = 0.0,
    members: int = 16,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Any = None,
    say: Callable[[str], None] | None = None,
) -> Path:
    """Assimilate observations to a file; see `Forecaster.assimilate`.

    `say` is told what it cost, and how many cases have no observation, in a line each.
    """
    check_output(out)
    place = distributed.local_device(device)
    given = observations if isinstance(observations, Observations) else Observations.open(observations)
    result = load(run, device=place).assimilate(
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
    path = write(result, Path(out))
    if say is not None:
        say(passes_line(result.attrs))
        if "withheld_departure_rms" in result.attrs:
            say(
                f"Withheld observations: {result.attrs['withheld_observations']:g}; the mean departs from them by "
                f"{result.attrs['withheld_departure_rms']:.2f} deviations of their error (1 is the least to expect)"
            )
        if lost := int((~given.mask.flatten(1).any(dim=1)).sum()):
            say(
                f"{lost} of {given.num_cases} cases have no observation: theirs are draws of what is known without any."
            )
    return path
