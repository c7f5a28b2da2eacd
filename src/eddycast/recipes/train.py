"""From a recipe and data to a run directory."""

from __future__ import annotations

import math
import os
import platform
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eddycast import distributed
from eddycast.conditions import Conditions
from eddycast.data import Dataset, Normalisation, WindowBatches, statistics
from eddycast.emulators import Emulator, ModelShape, SpectralGuard, Trainable
from eddycast.errors import InputError
from eddycast.files import write_json
from eddycast.recipes.calibration import calibrated, validation
from eddycast.recipes.recipe import Recipe, recipe_from_dict, recipe_to_dict
from eddycast.recipes.run import check_compatible, load_weights, seeded_model
from eddycast.recipes.stored import read_config, read_space
from eddycast.training import (
    FREE_SETTINGS,
    SCHEMA_VERSION,
    Position,
    RunDirectory,
    Training,
    TrainingObserver,
    exclusive,
    write_tensors,
)

SAMPLE_WINDOWS, SAMPLE_BYTES = 512, 2**28
"""Windows on which scales, bands and conserved means are measured, and their size in memory: the smaller one bounds them."""
CLIMATOLOGY_BYTES = 2**18
"""Size of the training states that a run keeps as a background for filters."""


def train_recipe(
    recipe: Recipe,
    dataset: Dataset,
    directory: Path,
    *,
    stage: str | None = None,
    init: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observer: TrainingObserver | None = None,
) -> Position:
    """Train what a recipe says on a data set and leave a run directory.

    Processes that have joined (`distributed.process_group`) all call it; the first one alone writes.

    Args:
        stage: Only this stage, from the weights that are in the directory (or in `init`).
        init: Run whose weights are the start.
        resume: Go on from the last checkpoint in the directory.

    Raises: InputError for a stage that does not exist, weights that do not fit, nothing to resume, or a directory that another
        process is writing.
    """
    with exclusive(directory) if distributed.is_first() else nullcontext():
        return _train(recipe, dataset, directory, stage, init, resume, device, observer)


def _train(
    recipe: Recipe,
    dataset: Dataset,
    directory: Path,
    stage: str | None,
    init: Path | None,
    resume: bool,
    device: torch.device | str,
    observer: TrainingObserver | None,
) -> Position:
    """What `train_recipe` does while no other process writes the directory."""
    files = RunDirectory(directory)
    begun = files.config.exists() and files.component("space").exists()
    if resume and not begun:
        raise InputError(f"There is nothing to resume in {directory}: leave --resume out.")
    if begun and not resume and stage is None:
        raise InputError(f"{directory} already holds a run: pass --resume to go on with it, or choose another --out.")
    shape = model_shape(dataset, recipe)
    model = seeded_model(recipe, shape).to(device)
    assert isinstance(model, Trainable), "families of recipes are trained"
    stages = model.stages()
    frames = max(each.frames for each in stages)
    space = statistics(dataset, "train", mean=recipe.space.mean, std=recipe.space.std)
    if resume:
        check_resumed(files, recipe, dataset, space)
    sample = sample_windows(dataset, space, frames)
    model.prepare((sample if dataset.valid is None else sample[..., dataset.valid]).to(device))
    # With a map as mean or scale, or with land, the modes of x are not those of the field: see the guard.
    plain = dataset.valid is None and space.mean[0].numel() == space.std[0].numel() == 1
    guard = SpectralGuard.fit(sample, dataset.grid.periodic) if recipe.guard and plain else None
    if stage is not None:
        names = [each.name for each in stages]
        if stage not in names:
            raise InputError(f"{recipe.name} has no stage {stage!r}: it has {', '.join(names)}.")
        stages = tuple(each for each in stages if each.name == stage)
    start = init if init is not None else directory if stage is not None and files.component("model").exists() else None
    if start is not None:
        load_weights(model, RunDirectory(start))
    emulator = Emulator(model, space, guard)  # type: ignore[arg-type]
    summary = data_summary(dataset)
    provenance = describe_hardware(device) | {"processes": distributed.size(), "trained": False}
    training = Training(
        model=model,
        space=space,
        data=dataset,
        stages=stages,
        settings=recipe.training,
        directory=files,
        validate=validation(emulator, dataset, space.std, recipe.evaluation),
    )
    if observer is not None:
        training.observer = observer
    if resume:
        training.check()
    distributed.barrier()  # all have seen what was there before the first one writes
    if distributed.is_first():
        write_components(files, emulator, space, guard)
        write_context(files, dataset)
        write_config(files, recipe, summary, shape, provenance)
    position = training.run(resume=resume)
    model.eval()
    if distributed.is_first():
        recipe = calibrated(recipe, emulator, dataset)
        write_components(files, emulator, space, guard)
        cost = {"steps": position.steps, "seconds": position.seconds, "cpu_seconds": position.cpu_seconds}
        write_config(files, recipe, summary, shape, provenance | {"trained": True} | cost)
    distributed.barrier()  # the run is whole for whoever loads it
    return position


def check_resumed(files: RunDirectory, recipe: Recipe, dataset: Dataset, space: Normalisation) -> None:
    """Raises: InputError when a run was begun with another recipe, or other data, than it is to be resumed with.

    The noise scale may differ: a run that has finished holds the calibrated one.
    """
    begun, _ = read_config(files, str(files.path))
    check_compatible(begun["data"], dataset, str(files.path))
    before = recipe_to_dict(
        recipe_from_dict(begun["recipe"], str(files.config))
    )  # settings that came later, by default
    changed = [
        key
        for key in differences(before, recipe_to_dict(recipe))
        if not key.startswith(("name", "description", "published", "evaluation.", "simulation", "emulator.noise_scale"))
        and key.removeprefix("training.") not in FREE_SETTINGS
        and not key.endswith("network.checkpoint")  # memory against time, the same weights
    ]
    if changed:
        raise InputError(
            f"{files.path} was begun with another {', '.join(changed)}: resume with the same settings, or train anew in another --out."
        )
    before_space = read_space(files, list(dataset.field_names), dataset.grid).to_tensors()
    now = space.to_tensors()
    if any(
        now[key].shape != value.shape or not torch.allclose(now[key], value.to(now[key]), rtol=1e-4)
        for key, value in before_space.items()
    ):
        raise InputError(
            f"{files.path} was begun with data of other statistics: resume with the same --data, or train anew in another --out."
        )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Paths such as `training.steps` at which two trees of plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{path}{key}.")]
    return [] if old == new else [path.rstrip(".")]


def model_shape(dataset: Dataset, recipe: Recipe) -> ModelShape:
    """What the model must know of the data."""
    train = sorted({segment.trajectory for segment in dataset.segments("train")})
    parameters = torch.stack([dataset.parameters(number) for number in train]).double()
    parameters = parameters if recipe.tell_parameters else parameters[:, :0]
    std = (parameters - parameters.mean(dim=0)).square().mean(dim=0).sqrt()
    static = 0 if dataset.static is None else len(dataset.static)
    return ModelShape(
        channels=len(dataset.fields),
        periodic=dataset.grid.periodic,
        parameter_mean=tuple(parameters.mean(dim=0).tolist()),
        parameter_std=tuple(torch.where(std > 1e-6 * parameters.abs().amax(dim=0), std, 1.0).tolist()),
        cyclic=dataset.cycle is not None,
        static=static + (dataset.valid is not None),
    )


def sample_windows(dataset: Dataset, space: Normalisation, frames: int) -> Tensor:
    """Windows of training data in model space, (window, time, channel, *space), as many as there are up to a limit."""
    window_bytes = 4 * frames * math.prod(dataset.state_shape)
    count = min(SAMPLE_WINDOWS, max(1, SAMPLE_BYTES // window_bytes), len(dataset.windows("train", frames)))
    batches = WindowBatches(dataset, "train", frames, batch_size=count, seed=0)
    state, conditions = batches.batch(0)
    return space.encode(state, conditions, torch.arange(frames, dtype=torch.float64))


def training_states(dataset: Dataset, count: int) -> tuple[Tensor, Conditions]:
    """States spread evenly over the training split, physical, (state, 1, channel, *space), and their conditions."""
    starts = dataset.windows("train", 1)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))]
    states = torch.stack([dataset.read(one, at, at + 1) for one, at in chosen.tolist()])
    return states, dataset.conditions(chosen[:, 0].tolist(), chosen[:, 1].tolist())


def sample_states(dataset: Dataset, space: Normalisation, count: int) -> tuple[Tensor, Tensor | None]:
    """The same in model space, (state, channel, *space), and their phases of the cycle (state,), if there is one."""
    states, conditions = training_states(dataset, count)
    lead = torch.zeros(1, dtype=torch.float64)
    phase = conditions.phase(lead)
    return space.encode(states, conditions, lead)[:, 0], None if phase is None else phase[:, 0]


def write_components(
    files: RunDirectory, emulator: Emulator, space: Normalisation, guard: SpectralGuard | None
) -> None:
    assert isinstance(emulator.model, nn.Module)
    write_tensors(files.component("model"), emulator.model.state_dict())
    write_tensors(files.component("space"), space.to_tensors())
    write_json(files.normalization, space.summary())
    if guard is not None:
        write_tensors(files.component("guard"), guard.to_tensors())


def write_context(files: RunDirectory, dataset: Dataset) -> None:
    """Keep what assimilation needs when the data are not at hand: some states of the training split, and static fields."""
    count = max(32, CLIMATOLOGY_BYTES // (4 * math.prod(dataset.state_shape)))
    states, _ = training_states(dataset, count)
    write_tensors(files.component("climatology"), {"states": states[:, 0]})
    if dataset.static is not None:
        write_tensors(files.component("static"), {"static": dataset.static})


def write_config(
    files: RunDirectory, recipe: Recipe, summary: dict[str, Any], shape: ModelShape, provenance: dict[str, Any]
) -> None:
    from eddycast import __version__

    content = {
        "schema_version": SCHEMA_VERSION,
        "eddycast_version": __version__,
        "recipe": recipe_to_dict(recipe),
        "data": summary,
        "shape": asdict(shape),
        "provenance": provenance,
    }
    write_json(files.config, content)


def data_summary(dataset: Dataset) -> dict[str, Any]:
    """What a run remembers of its data: enough to refuse others and to label what it makes."""
    return {
        "fields": [asdict(field) for field in dataset.fields],
        "grid": dataset.grid.to_dict(),
        "dt": dataset.dt,
        "time_units": dataset.time_units,
        "cycle": dataset.cycle,
        "parameter_names": list(dataset.parameter_names),
        "attributes": {key: value for key, value in dataset.attributes.items() if _plain(value)},
    }


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool, type(None))) or (
        isinstance(value, (dict, list, tuple))
        and all(map(_plain, value.values() if isinstance(value, dict) else value))
    )


def describe_hardware(device: torch.device | str) -> dict[str, Any]:
    """Machine, device, threads and versions, for provenance."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else cpu_name()
    return {
        "device": kind,
        "hardware": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def cpu_name() -> str:
    """Model of the processor and its number of cores, as far as the system tells."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on every system
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else name}, {os.cpu_count()} cores"
