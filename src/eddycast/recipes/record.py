"""What a run directory keeps beside checkpoints: components, states for assimilation, settings and provenance."""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eddycast.data import Dataset, Normalisation
from eddycast.emulators import ModelShape, SpectralGuard
from eddycast.files import write_json
from eddycast.recipes.measured import parameter_ranges, training_states
from eddycast.recipes.recipe import Recipe, recipe_to_dict
from eddycast.training import SCHEMA_VERSION, RunDirectory, write_tensors

CLIMATOLOGY_BYTES = 2**18
"""Size of the training states that a run keeps as a background for filters."""


def write_components(files: RunDirectory, model: nn.Module, space: Normalisation, guard: SpectralGuard | None) -> None:
    """Weights, normalisation and guard, each in its file."""
    write_tensors(files.component("model"), model.state_dict())
    write_tensors(files.component("space"), space.to_tensors())
    write_json(files.normalization, space.summary())
    if guard is not None:
        write_tensors(files.component("guard"), guard.to_tensors())


def write_context(files: RunDirectory, dataset: Dataset) -> None:
    """Keep what assimilation needs when the data are not at hand: some states of the training split, and static fields.

    Static fields that differ between trajectories are no property of the run: they come with the data, or with the observations.
    """
    count = max(32, CLIMATOLOGY_BYTES // (4 * math.prod(dataset.state_shape)))
    states, _ = training_states(dataset, count)
    write_tensors(files.component("climatology"), {"states": states[:, 0]})
    if isinstance(dataset.static, torch.Tensor):
        write_tensors(files.component("static"), {"static": dataset.static})


def write_config(
    files: RunDirectory, recipe: Recipe, summary: dict[str, Any], shape: ModelShape, provenance: dict[str, Any]
) -> None:
    """`config.json`: recipe, data, shape and provenance as plain values."""
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


def data_summary(dataset: Dataset, family: tuple[Dataset, ...] = ()) -> dict[str, Any]:
    """What a run remembers of its data: enough to refuse others, to label what it makes, and to say how far others lie from them."""
    several = {"grids": [one.grid.to_dict() for one in family]} if len(family) > 1 else {}
    return several | {
        "fields": [asdict(field) for field in dataset.fields],
        "grid": dataset.grid.to_dict(),
        "dt": dataset.dt,
        "time_units": dataset.time_units,
        "cycle": dataset.cycle,
        "parameter_names": list(dataset.parameter_names),
        "parameter_ranges": parameter_ranges(family or (dataset,)),
        "static_names": list(dataset.static_names),
        "static_varies": dataset.static_varies,
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
