"""What a run that goes on has in common with what was there: the constants that its weights mean, its settings, its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eddycast.data import Dataset, Normalisation
from eddycast.emulators import ModelShape, Stage
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.recipes.recipe import Recipe, recipe_from_dict, recipe_to_dict
from eddycast.recipes.run import Run, check_compatible
from eddycast.recipes.stored import read_config, read_space
from eddycast.training import FREE_SETTINGS, RunDirectory


def is_finished(place: Path) -> bool:
    """Whether a directory holds a run whose training has come to its end."""
    return RunDirectory(place).config.is_file() and bool(_provenance(place)["trained"])


def joined_ranges(ranges: dict[str, list[float]], start: Path | None) -> dict[str, list[float]]:
    """Ranges of the parameters that the weights have seen: those of the data, and of the run that they come from."""
    if start is None:
        return ranges
    before = read_config(RunDirectory(start), str(start))[0]["data"].get("parameter_ranges") or {}
    return {
        name: [min(low, before.get(name, [low, high])[0]), max(high, before.get(name, [low, high])[1])]
        for name, (low, high) in ranges.items()
    }


def trained_stages(chosen: Sequence[Stage], start: Path | None) -> list[str]:
    """Names of the stages that the weights have been through once the chosen ones are trained, in order."""
    before = [] if start is None else list(_provenance(start).get("stages", ()))
    # a run that is resumed in its own directory has named them already
    return [*before, *(stage.name for stage in chosen if stage.name not in before)]


def require_new_stage(directory: Path, stage: str) -> None:
    """Raises: InputError where a finished run would be trained again in place, so that what it was would be lost."""
    known = _provenance(directory)
    if known["trained"] and stage in known.get("stages", ()):
        raise InputError(
            f"{directory} holds a run whose stage {stage} is trained: to train it again pass --init {directory} and another --out."
        )


def _provenance(directory: Path) -> dict[str, Any]:
    return read_config(RunDirectory(directory), str(directory))[0]["provenance"]


def untrained_stages(whole: Sequence[Stage], chosen: Sequence[Stage], start: Path | None) -> list[str]:
    """Names of the stages whose weights are still those of the start of everything once the chosen ones are trained.

    Args:
        whole: All stages of the recipe.
        chosen: Those that are trained now.
        start: Run whose weights are taken; None for none.
    """
    before = {stage.name for stage in whole}
    if start is not None:
        before = set(_provenance(start).get("untrained", ()))
    moved = {id(parameter) for stage in chosen for parameter in stage.module.parameters()}
    return [
        stage.name
        for stage in whole
        if stage.name in before and not any(id(parameter) in moved for parameter in stage.module.parameters())
    ]


def constants_of(
    init: Path, dataset: Dataset, space: Normalisation, shape: ModelShape, *, begun: bool = False
) -> tuple[Normalisation, ModelShape]:
    """Normalisation and parameter statistics of the run that is fine-tuned: its weights mean those.

    Where it has seen one value of a parameter only there is no scale to keep, and that of the new data holds.

    Args:
        begun: It is the very run that is resumed: what it holds was settled when it began.

    Raises: InputError when it was trained on data of another kind.
    """
    files = RunDirectory(init)
    config, before = read_config(files, str(init))
    check_compatible(config["data"], dataset, str(init), any_grid=True)
    ranges = config["data"].get("parameter_ranges") or {}
    kept = [name for name in dataset.parameter_names if begun or (name in ranges and ranges[name][0] < ranges[name][1])]
    known = before.parameter_log == shape.parameter_log and len(before.parameter_mean) == len(shape.parameter_mean)
    mean, std = list(shape.parameter_mean), list(shape.parameter_std)
    for at, name in enumerate(dataset.parameter_names if known and mean else ()):
        if name in kept:
            mean[at], std[at] = before.parameter_mean[at], before.parameter_std[at]
    old = read_space(files, list(dataset.field_names), Grid.from_dict(config["data"]["grid"]))
    fits = all(
        value.shape == other.shape
        for value, other in zip(old.to_tensors().values(), space.to_tensors().values(), strict=True)
    )
    return (old if fits else space), replace(shape, parameter_mean=tuple(mean), parameter_std=tuple(std))


def check_resumed(files: RunDirectory, recipe: Recipe, dataset: Dataset, space: Normalisation) -> None:
    """Raises: InputError when a run was begun with another recipe, or other data, than it is to be resumed with.

    The noise scale may differ: a run that has finished holds the calibrated one.
    """
    begun, _ = read_config(files, str(files.path))
    check_compatible(begun["data"], dataset, str(files.path))
    # through a recipe, which gives settings that came later their defaults
    before = recipe_to_dict(recipe_from_dict(begun["recipe"], str(files.config)))
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
            f"{files.path} was begun with data of other statistics: resume with the same --data and --init, or train anew in another --out."
        )


def require_same_autoencoder(recipe: Recipe, encoder: Run) -> None:
    """Raises: InputError where an autoencoder was trained with other settings than the recipe now says."""
    now, before = recipe_to_dict(recipe), recipe_to_dict(encoder.recipe)
    changed = differences(before["emulator"], now["autoencoder"]["model"], "autoencoder.model.")
    if changed := changed + differences(before["space"], now["space"], "space."):
        raise InputError(
            f"{encoder.path} was trained with another {', '.join(changed)}: go on with the same settings, or train anew in another --out."
        )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Paths such as `training.steps` at which two trees of plain values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(set(old) | set(new))
        return [found for key in keys for found in differences(old.get(key), new.get(key), f"{path}{key}.")]
    return [] if old == new else [path.rstrip(".")]
