"""The whole story on Kuramoto-Sivashinsky: simulate, train, observe, assimilate, forecast, score, show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import xarray as xr
from rich.console import Console

from eddycast import __version__
from eddycast import data as rooms
from eddycast import report as pictures
from eddycast.api.data import observe, open_dataset
from eddycast.api.forecaster import load
from eddycast.api.results import evaluate
from eddycast.api.runs import train
from eddycast.api.simulation import simulate
from eddycast.errors import InputError
from eddycast.evaluation import Scores
from eddycast.files import write_json
from eddycast.progress import progress_bar
from eddycast.recipes import Recipe, get_recipe


@dataclass(frozen=True)
class DemoSize:
    """How much of everything.

    Args:
        recipe: What is trained.
        trajectories, steps: Simulated data.
        minutes: Of training; None for the steps of the recipe.
        cases: Test trajectories that are observed and forecast.
        members: Of the ensemble.
        frames: Observed frames.
        lead: Steps of the forecast.
        guidance_steps: Steps of the guided sampler.
    """

    recipe: str
    trajectories: int
    steps: int
    minutes: float | None
    cases: int
    members: int
    frames: int
    lead: int
    guidance_steps: int


SIZES = {
    "demo": DemoSize("ks/universal-small", 1024, 120, 2.9, 8, 16, 16, 66, 48),
    "smoke": DemoSize("ks/universal-smoke", 20, 40, None, 2, 4, 6, 10, 4),
}
OBSERVED, NOISE = 0.1, 0.1


def demo(out: str | Path = "eddycast-demo", size: Literal["demo", "smoke"] = "demo", seed: int = 0) -> Path:
    """Run the story and write its report.

    Args:
        out: Directory for data, run, observations, analysis, forecasts, scores and `report.html`; made if need be.
        size: `demo` takes minutes on two cores; `smoke` takes seconds and proves nothing.
        seed: Of everything random.

    Returns: the report.
    Raises: InputError when the directory cannot be written, or already holds something.
    """
    if size not in SIZES:
        raise InputError(f"There is no demo size {size!r}: known are {', '.join(SIZES)}.")
    settings, directory = SIZES[size], Path(out)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists and is not an empty directory: remove it, or choose another --out.")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write {directory}: {error.strerror}; choose another --out.") from error
    clock = Clock()
    with clock.step("simulate"), progress_bar("simulating Kuramoto-Sivashinsky") as progress:
        simulate(
            "kuramoto-sivashinsky",
            trajectories=settings.trajectories,
            steps=settings.steps,
            seed=seed,
            out=directory / "data",
            progress=progress,
        )
        dataset = open_dataset(directory / "data")
    with clock.step("train"):
        recipe = with_pace(get_recipe(settings.recipe), settings.minutes)
        emulator = train(recipe, data=dataset, out=directory / "run", seed=seed)
    with clock.step("observe and assimilate"), progress_bar("assimilating noisy partial observations") as progress:
        observations = observe(
            dataset, fraction=OBSERVED, noise=NOISE, steps=settings.frames, trajectories=settings.cases, seed=seed,
            out=directory / "observations.nc",
        )  # fmt: skip
        analyses = {
            "guided diffusion": emulator.assimilate(
                observations,
                method="sda",
                members=settings.members,
                seed=seed,
                overrides={"num_steps": settings.guidance_steps, "stride": 2},
                progress=progress,
            ),
            "interpolation": emulator.assimilate(
                observations, method="interpolation", members=settings.members, seed=seed
            ),
        }
        analysis = analyses["guided diffusion"]
        rooms.write(analysis, directory / "analysis.nc")
    forecasts: dict[str, xr.Dataset] = {}
    with clock.step("forecast"), progress_bar("forecasting") as progress:
        for name in (
            "universal diffusion",
            "system:kuramoto-sivashinsky",
            "baseline:persistence",
            "baseline:climatology",
        ):
            forecaster = emulator if name == "universal diffusion" else load(name)
            forecasts[name] = forecaster.forecast_from(
                analysis, dataset, steps=settings.lead, members=settings.members, seed=seed, progress=progress
            )
        rooms.write(forecasts["universal diffusion"], directory / "forecast.nc")
    with clock.step("score"):
        scores: dict[str, Scores] = {
            TITLES.get(name, name): evaluate(made, truth=dataset) for name, made in forecasts.items()
        }
        analysis_scores = {name: evaluate(made, truth=dataset) for name, made in analyses.items()}
        scores["universal diffusion"].to_json(directory / "scores.json")
        analysis_scores["guided diffusion"].to_json(directory / "analysis.scores.json")
    with clock.step("show"):
        path = pictures.story_report(
            directory / "report.html",
            forecast=forecasts["universal diffusion"],
            scores=scores,
            truth=dataset,
            analysis=analysis,
            observations=directory / "observations.nc",
            analysis_scores=analysis_scores,
            title="An emulator of Kuramoto-Sivashinsky, from nothing to an honest score",
            words=story_words(settings, scores),
            provenance=clock.provenance() | {"eddycast": __version__, "seed": str(seed), "size": size},
            reproduce=(f"eddycast demo --out {directory} --size {size} --seed {seed}",),
            next_steps=next_steps(directory),
        )
    clock.done(directory)
    return path


TITLES = {
    "system:kuramoto-sivashinsky": "solver (perfect model)",
    "baseline:persistence": "persistence",
    "baseline:climatology": "climatology",
}


def with_pace(recipe: Recipe, minutes: float | None) -> Recipe:
    """The recipe with another budget."""
    return recipe if minutes is None else replace(recipe, training=replace(recipe.training, minutes=minutes))


def story_words(settings: DemoSize, scores: dict[str, Scores]) -> tuple[str, ...]:
    """What the reader is looking at."""
    return (
        f"{settings.cases} test trajectories, never seen in training, were observed at {OBSERVED:.0%} of the points in each of "
        f"{settings.frames} frames, with errors of {NOISE:g} standard deviations. A diffusion model of windows was guided by these "
        f"observations to {settings.members} analyses of each; all forecasts below go on from these same analyses, the numerical "
        "solver included, which therefore shows what a perfect model can make of them.",
    )


def next_steps(directory: Path) -> tuple[str, ...]:
    """Commands that go on from here."""
    return (
        f"eddycast forecast {directory}/run --data {directory}/data --members 32 --out forecast.nc",
        f"eddycast evaluate forecast.nc --truth {directory}/data",
        "eddycast train ks/scoring-small --minutes 10 --out runs/scoring   # another family on its own data",
        f"eddycast compare {directory}/run baseline:climatology system:kuramoto-sivashinsky --data {directory}/data --out compared",
        "eddycast inspect my.nc && eddycast train any/scoring-small --data my.nc --out runs/mine   # your own file",
    )


class Clock:
    """Tells what is going on, and what it took."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.console.print(f"[bold]{name}[/bold] ...")
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start
        self.console.print(f"{name}: {self.seconds[name]:.0f} s")

    def provenance(self) -> dict[str, str]:
        return {f"seconds to {name}": f"{seconds:.0f}" for name, seconds in self.seconds.items()}

    def done(self, directory: Path) -> None:
        total = sum(self.seconds.values())
        write_json(directory / "timing.json", self.seconds | {"total": total})
        self.console.print(f"In all {total:.0f} s. What to try next:")
        for line in next_steps(directory):
            self.console.print(f"  {line}", highlight=False, soft_wrap=True)
