"""What a run directory must hold to be an emulator: checked when it is read, so that nothing later meets a surprise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field as Limits
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from eddycast.data import Field, Normalisation
from eddycast.emulators import ModelShape, SpectralGuard
from eddycast.errors import InputError
from eddycast.files import read_object
from eddycast.grid import Grid
from eddycast.training import SCHEMA_VERSION, RunDirectory, read_tensors

Positive = Annotated[float, Limits(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _Summary:
    """What a run remembers of its data."""

    fields: Annotated[list[Field], Limits(min_length=1)]
    grid: dict[str, Any]
    dt: Positive
    time_units: str
    cycle: Positive | None
    parameter_names: list[str]
    attributes: dict[str, Any]
    static_names: list[str] | None = None
    static_varies: bool = False
    parameter_ranges: dict[str, tuple[float, float]] | None = None
    grids: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class _Provenance:
    trained: bool


@dataclass(frozen=True)
class _Config:
    data: _Summary
    shape: ModelShape
    provenance: _Provenance


CONFIG = TypeAdapter(_Config)


def read_config(files: RunDirectory, name: str) -> tuple[dict[str, Any], ModelShape]:
    """The settings of a run as plain values, and what its model knows of the data.

    Raises: InputError when it is no run, was made by a later version, or was edited so that its parts no longer fit.
    """
    if not files.config.is_file():
        raise InputError(f"{name} is not a run: expected {files.config.name} in it; `eddycast train` makes one.")
    config = read_object(files.config)
    if config.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{name} has schema version {config.get('schema_version')}, this eddycast reads {SCHEMA_VERSION}: "
            f"use eddycast {config.get('eddycast_version', 'of its time')}."
        )
    lacking = [key for key in ("recipe", "data", "shape", "provenance") if key not in config]
    if lacking:
        raise InputError(f"{files.config} has no {lacking[0]!r}: was it edited? Restore it or train again.")
    try:
        content = CONFIG.validate_python(config)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _edited(files, f"{place}: {first['msg']}") from error
    grid = Grid.from_dict(content.data.grid, str(files.config))
    shape, parameters = content.shape, len(content.data.parameter_names)
    latent = isinstance(config["recipe"], dict) and config["recipe"].get("autoencoder") is not None
    fits = {
        "data.grid": len(set(grid.names)) == len(grid.names),
        "shape.channels": shape.channels == len(content.data.fields) or latent,
        "shape.periodic": shape.periodic == grid.periodic,
        "shape.parameter_mean": len(shape.parameter_mean) in (0, parameters),  # 0: of a recipe that does not tell them
        "shape.parameter_std": len(shape.parameter_std) == len(shape.parameter_mean)
        and all(std > 0 for std in shape.parameter_std),
        "shape.parameter_log": len(shape.parameter_log) in (0, len(shape.parameter_mean)),
        "shape.cyclic": shape.cyclic == (content.data.cycle is not None),
        "shape.vectors": _pointing(shape, len(grid.axes)),
        "shape.static": 0 <= shape.static <= 1 + _num_static(files, content.data),
    }
    if wrong := [key for key, fine in fits.items() if not fine]:
        raise _edited(files, f"{wrong[0]} does not fit the data that it describes")
    return config, shape


def _pointing(shape: ModelShape, axes: int) -> bool:
    """Whether the directions of the channels, where they are told, are those of as many channels and axes as there are."""
    known = len(shape.vectors) == len(shape.vector_axes) in (0, shape.channels)
    return known and all(axis is None or 0 <= axis < axes for axis in shape.vector_axes)


def _num_static(files: RunDirectory, summary: _Summary) -> int:
    """Static fields of the training data: kept with the run where all trajectories share them."""
    if summary.static_varies:
        return len(summary.static_names or ())
    path = files.component("static")
    return len(read_component(files, "static")["static"]) if path.is_file() else 0


def _edited(files: RunDirectory, what: str) -> InputError:
    return InputError(f"{files.config}: {what}: was it edited? Restore it or train again.")


NAMES = {
    "space": ("coefficients", "std", "increment_std"),
    "guard": ("conserved", "ceiling", "periodic"),
    "climatology": ("states",),
    "static": ("static",),
}


def read_component(files: RunDirectory, name: str) -> dict[str, Tensor]:
    """The tensors of one component. Raises: InputError where one is missing or not finite."""
    path = files.component(name)
    tensors, _ = read_tensors(path)
    for key in NAMES[name]:
        if key not in tensors:
            raise InputError(f"{path} has no {key!r}: restore it or train again.")
        value = tensors[key]
        if not value.ndim or (value.is_floating_point() and not bool(torch.isfinite(value).all())):
            raise _damaged(files, name, f"{key!r} is not finite")
    return tensors


def _damaged(files: RunDirectory, name: str, what: str) -> InputError:
    return InputError(f"{files.component(name)}: {what}: restore it or train again.")


def read_space(files: RunDirectory, fields: list[str], grid: Grid) -> Normalisation:
    """The normalisation of a run. Raises: InputError where it does not belong to these fields on this grid."""
    tensors = read_component(files, "space")
    summary = read_object(files.normalization, "names")
    offsets, notes = summary.get("offsets", []), summary.get("notes", [])
    plain = isinstance(offsets, list) and all(value is None or _positive(value) for value in offsets)
    if summary["names"] != fields or not isinstance(notes, list) or not plain or len(offsets) not in (0, len(fields)):
        raise InputError(f"{files.normalization} is not of the fields {', '.join(fields)}: restore it or train again.")
    shapes = ((len(fields), *grid.shape), (len(fields), *(1,) * len(grid.shape)))
    coefficients, std, increment = (tensors[key] for key in NAMES["space"])
    plain = all(value.dtype in (torch.float32, torch.float64) for value in (coefficients, std, increment))
    whole = coefficients.shape[1:] in shapes and len(coefficients) % 2 == 1 and std.shape in shapes
    if not plain or not whole or increment.shape != (len(fields),):
        raise _damaged(files, "space", f"statistics of another shape or kind than {shapes[0]} asks for")
    if not bool((std > 0).all()) or not bool((increment > 0).all()):
        raise _damaged(files, "space", "standard deviations must be positive")
    return Normalisation.from_tensors(tensors, summary)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


def read_guard(files: RunDirectory, channels: int, grid: Grid) -> SpectralGuard | None:
    """The guard of a run, if it has one. Raises: InputError where it does not belong to this grid."""
    if not files.component("guard").is_file():
        return None
    tensors = read_component(files, "guard")
    conserved, ceiling, periodic = (tensors[key] for key in NAMES["guard"])
    wrapped = [axis for axis, wraps in enumerate(grid.periodic) if wraps]
    modes = [size // 2 + 1 if wrapped and axis == wrapped[-1] else size for axis, size in enumerate(grid.shape)]
    expected = (channels, *modes) if wrapped else (0,)
    fits = conserved.shape == (channels,) and conserved.dtype == torch.bool and ceiling.is_floating_point()
    if "lengths" in tensors:  # of a guard that knows several grids: it was measured on one of its own
        known = tensors["lengths"]
        fits &= known.shape == (len(grid.axes),) and known.is_floating_point() and bool((known > 0).all())
        expected = (channels, *ceiling.shape[1:]) if ceiling.ndim == 1 + len(grid.axes) else expected
    if not fits or ceiling.shape != expected or tuple(periodic.tolist()) != grid.periodic:
        raise _damaged(files, "guard", f"of another shape or kind than {channels} fields on {grid.shape} ask for")
    if periodic.dtype != torch.bool or bool((ceiling < 0).any()):
        raise _damaged(files, "guard", "amplitudes must not be negative")
    return SpectralGuard.from_tensors(tensors)


def read_states(files: RunDirectory, name: str, shape: tuple[int, ...]) -> Tensor:
    """States or static fields (any number, *shape). Raises: InputError where they have another shape."""
    value = read_component(files, name)[NAMES[name][0]]
    if value.shape[1:] != shape or not len(value) or not value.is_floating_point():
        raise _damaged(
            files, name, f"fields of shape {tuple(value.shape)}, expected (number, {', '.join(map(str, shape))})"
        )
    return value
