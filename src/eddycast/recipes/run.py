"""A run directory as an emulator, and which data it may be given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eddycast.data import Dataset, Field
from eddycast.emulators import (
    Autoencoding,
    Emulator,
    LatentSpace,
    ModelShape,
    Space,
    SpectralGuard,
    StateHook,
    build_model,
)
from eddycast.emulators.network import ConditionedNetwork, spacings
from eddycast.errors import InputError, reason
from eddycast.grid import Grid
from eddycast.recipes.boundary import boundary_hook
from eddycast.recipes.recipe import Recipe, recipe_from_dict
from eddycast.recipes.stored import read_config, read_guard, read_space, read_states
from eddycast.simulators import reduction_hint
from eddycast.training import RunDirectory, read_tensors

MOST_PARAMETERS = 10**10
SPACING_TOLERANCE = 0.02
"""Relative difference of the distance between points that counts as none."""
AUTOENCODER = "autoencoder"
"""Where the run of an emulator in latent space keeps that of its autoencoder."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a run directory holds.

    Args:
        name: As the user called it.
        recipe: As it was trained.
        model: Its networks.
        space: Physical <-> model space.
        guard: Of its forecasts.
        data: Fields, grid, dt, parameters and clock of the training data, as in `data_summary`.
        provenance: Version, seed, hardware, cost.
        path: The directory.
        autoencoder: Of an emulator in latent space.
    """

    name: str
    recipe: Recipe
    model: nn.Module
    space: Space
    guard: SpectralGuard | None
    data: dict[str, Any]
    provenance: dict[str, Any]
    path: Path
    autoencoder: Autoencoding | None = None

    @property
    def emulator(self) -> Emulator:
        """Ready to forecast.

        Raises: InputError for an autoencoder, which forecasts nothing, and for a run that lacks a stage of its training.
        """
        if lacking := self.provenance.get("untrained"):
            raise InputError(
                f"The {lacking[0]} of {self.name} is not trained yet: `eddycast train {self.recipe.name} --stage {lacking[0]} --init "
                f"{self.name} --out RUN` does that."
            )
        if isinstance(self.model, Autoencoding):
            raise InputError(
                f"{self.name} is an autoencoder, which forecasts nothing: `eddycast reconstruct` shows what it keeps, `eddycast train ... "
                f"--autoencoder {self.name}` trains an emulator in its latents."
            )
        return Emulator(self.model, self.space, self.guard, self.hook())  # type: ignore[arg-type]

    def hook(self) -> StateHook | None:
        """Boundary values of its forecasts. Raises: InputError where the recipe names what the training data did not have."""
        return boundary_hook(
            self.recipe.boundary,
            system=str(self.data["attributes"].get("system", "")),
            fields=[field["name"] for field in self.data["fields"]],
            parameter_names=self.data["parameter_names"],
            static_names=self.data.get("static_names") or (),
        )

    def extrapolated(self, names: Sequence[str], parameters: Tensor) -> str:
        """In words, parameters (case, P) beyond those of the training data; empty where none is, or the networks are told none."""
        ranges = self.data.get("parameter_ranges") or {}
        told = []
        for name, values in zip(names, parameters.double().unbind(-1), strict=True):
            if name not in ranges or not self.recipe.tell_parameters:
                continue
            low, high = ranges[name]
            slack = 1e-5 * max(abs(low), abs(high))
            outside = values[(values < low - slack) | (values > high + slack)].unique()
            if len(outside):
                trained = f"{low:g}" if low == high else f"{low:g} to {high:g}"
                told.append(
                    f"{name} {', '.join(f'{value:g}' for value in outside[:3].tolist())} (trained on {trained})"
                )
        return "; ".join(told)

    def fingerprint(self) -> str:
        """First digits of the SHA-256 of the weights: tells runs apart whatever they are called."""
        total = hashlib.sha256(RunDirectory(self.path).component("model").read_bytes())
        if self.autoencoder is not None:
            total.update(RunDirectory(self.path / AUTOENCODER).component("model").read_bytes())
        return total.hexdigest()[:12]

    def climatology(self) -> Tensor:
        """Training states kept with the run, physical, (state, channel, *space); a background for filters."""
        return read_states(RunDirectory(self.path), "climatology", (len(self.data["fields"]), *self._shape))

    def static_fields(self) -> Tensor | None:
        """Static fields that all training data share, (static, *space), or None."""
        files = RunDirectory(self.path)
        return read_states(files, "static", self._shape) if files.component("static").is_file() else None

    @property
    def _shape(self) -> tuple[int, ...]:
        return Grid.from_dict(self.data["grid"]).shape

    def check(self, dataset: Dataset) -> None:
        """Raises: InputError when the run was not trained on data such as these."""
        check_compatible(self.data, dataset, self.name, any_grid=self.recipe.grids == "any")
        if self.recipe.grids == "any" and not knows_distances(self.model):
            check_spacing(self.data, dataset.grid, self.name)
        given, trained = list(dataset.static_names), self.data.get("static_names")
        if trained is None:  # of an earlier version, which kept those that trajectories share, without their names
            count, given = self.num_static, [] if dataset.static_varies else given
            trained = given if len(given) == count else [f"number {number}" for number in range(1, count + 1)]
        if trained != given:
            raise InputError(
                f"{self.name} was trained with {len(trained)} static fields; the data have {len(given)} "
                f"({', '.join(given) or 'none'}): give data with the same ({', '.join(trained) or 'none'}), or train on these."
            )
        networks = [part for part in self.model.modules() if isinstance(part, ConditionedNetwork)]
        if dataset.valid is None and any(network.shape.static > len(trained) for network in networks):
            raise InputError(
                f"{self.name} was trained on fields with missing points; these data have none: give data with missing points, or "
                "train on these."
            )

    @property
    def num_static(self) -> int:
        """Number of static fields of the training data."""
        fields = None if self.data.get("static_varies") else self.static_fields()
        return len(self.data.get("static_names") or ()) if fields is None else len(fields)


def load_run(path: Path, name: str, device: torch.device | str = "cpu") -> Run:
    """An emulator from its run directory, which needs nothing else.

    Raises: InputError when it is no run, was made by a later version, or has not finished training.
    """
    files = RunDirectory(path)
    config, shape = read_config(files, name)
    if not config["provenance"]["trained"]:
        raise InputError(f"{name} has not finished training: go on with `eddycast train ... --out {path} --resume`.")
    recipe = recipe_from_dict(config["recipe"], str(files.config))
    grid, fields = Grid.from_dict(config["data"]["grid"]), [field["name"] for field in config["data"]["fields"]]
    model = seeded_model(recipe, shape)
    load_weights(model, files)
    space: Space = read_space(files, fields, grid).to(device)
    model = model.to(device).eval().requires_grad_(False)
    autoencoder = None
    if isinstance(model, Autoencoding):
        space = LatentSpace(space, model.network, model.residual)
    elif recipe.autoencoder is not None:
        inner = load_run(path / AUTOENCODER, f"{name}/{AUTOENCODER}", device)
        strange = config["provenance"].get("autoencoder", inner.fingerprint()) != inner.fingerprint()
        if strange or not isinstance(inner.model, Autoencoding) or inner.data["fields"] != config["data"]["fields"]:
            raise InputError(f"{inner.path} is not the autoencoder of {name}: restore it or train again.")
        space, autoencoder = inner.space, inner.model
    guard = read_guard(files, len(fields), grid)
    return Run(name, recipe, model, space, guard, config["data"], config["provenance"], path, autoencoder)


def require_possible(recipe: Recipe, shape: ModelShape) -> None:
    """Build the model without memory and count its parameters. Raises: InputError where they are too many."""
    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build_model(recipe.emulator, shape).parameters())
    except (RuntimeError, OverflowError, TypeError) as error:  # of torch: sizes beyond 64 bits
        raise InputError(f"{recipe.name}: a network of these sizes cannot be built ({reason(error)}).") from error
    if count > MOST_PARAMETERS:
        raise InputError(f"{recipe.name}: the network would have {count:.2g} parameters; choose smaller sizes.")


def seeded_model(recipe: Recipe, shape: ModelShape) -> nn.Module:
    """The untrained model; its weights depend on the seed of the training settings alone.

    Raises: InputError for a network larger than any machine could hold.
    """
    require_possible(recipe, shape)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.training.seed)
        return build_model(recipe.emulator, shape)


def load_weights(model: nn.Module, files: RunDirectory) -> None:
    """Raises: InputError when the weights of a run do not fit the model."""
    tensors, _ = read_tensors(files.component("model"))
    own = model.state_dict()
    for name, value in tensors.items():
        if name in own and value.dtype != own[name].dtype:
            raise InputError(
                f"The weights in {files.path} are of another kind: {name} is {value.dtype}; restore them or train again."
            )
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"The weights in {files.path} are not finite, first {name}: restore them or train again.")
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        told = str(error).splitlines()[-1].strip().rstrip(".")
        told = told if len(told) <= 160 else told[:157] + "..."  # a large model lacks many
        raise InputError(
            f"The weights in {files.path} are of another model: another network or another number of parameters ({told}). To start from "
            "them, take the same emulator.network settings; otherwise restore them or train again."
        ) from error


def knows_distances(model: nn.Module) -> bool:
    """Whether the networks of a model are told how far apart the points are, in physical units."""
    parts = [part.backbone for part in model.modules() if isinstance(part, ConditionedNetwork)]
    return bool(parts) and all(getattr(part, "physical", False) for part in parts)


def check_spacing(summary: dict[str, Any], grid: Grid, name: str) -> None:
    """Raises: InputError for points that are further apart or closer than in any of the training data."""
    known = [spacings(one, one.shape) for one in map(Grid.from_dict, summary.get("grids") or [summary["grid"]])]
    here = spacings(grid, grid.shape)
    for axis, own, *trained in zip(grid.names, here, *known, strict=True):
        if all(abs(own - other) > SPACING_TOLERANCE * other for other in trained):
            told = ", ".join(sorted({f"{other:.4g}" for other in trained}))
            raise InputError(
                f"{name} was trained on points {told} apart along {axis}; in the data they are {own:.4g} apart: regrid them, or train a "
                "network with units physical."
            )


def check_compatible(summary: dict[str, Any], dataset: Dataset, name: str, *, any_grid: bool = False) -> None:
    """Raises: InputError, in one line, for data whose fields, dimension, boundaries, time step or parameters differ."""
    fields = [Field(**field).name for field in summary["fields"]]
    if list(dataset.field_names) != fields:
        told = f"{name} was trained on the fields {', '.join(fields)}; the data have {', '.join(dataset.field_names)}"
        hint = reduction_hint(str(dataset.attributes.get("system", "")), fields, dataset.field_names)
        raise InputError(f"{told}.{hint}" if hint else f"{told}: give data of the same fields, or train on these.")
    grid = Grid.from_dict(summary["grid"])
    if len(grid.axes) != len(dataset.grid.axes):
        raise InputError(
            f"{name} was trained on a grid of dimension {len(grid.axes)} ({', '.join(grid.names)}); the data have "
            f"{len(dataset.grid.axes)} ({', '.join(dataset.grid.names)}): train on these."
        )
    if grid.shape != dataset.grid.shape and not any_grid:
        raise InputError(
            f"{name} was trained on {' x '.join(map(str, grid.shape))} points; the data have "
            f"{' x '.join(map(str, dataset.grid.shape))}: regrid them, or train on these."
        )
    if grid.periodic != dataset.grid.periodic:
        raise InputError(
            f"{name} was trained on {boundaries(grid)}; the data have {boundaries(dataset.grid)}: train on these."
        )
    units = {dataset.time_units, summary["time_units"]} - {"", "1"}
    if abs(dataset.dt - summary["dt"]) > 1e-4 * summary["dt"] or len(units) > 1:
        raise InputError(
            f"{name} was trained with a time step of {summary['dt']:g} {summary['time_units']}; the data have {dataset.dt:g} "
            f"{dataset.time_units}: give data with the same step."
        )
    if list(dataset.parameter_names) != summary["parameter_names"]:
        raise InputError(
            f"{name} was trained with the parameters {', '.join(summary['parameter_names']) or 'none'}; the data have "
            f"{', '.join(dataset.parameter_names) or 'none'}: give data with the same parameters, or train on these."
        )


def boundaries(grid: Grid) -> str:
    """Kind of each axis in words."""
    return ", ".join(f"{axis.name} {'periodic' if axis.periodic else 'bounded'}" for axis in grid.axes)
