"""Solvers as forecasters: `system:NAME` with the settings that a user gives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from eddycast.data import Dataset
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.emulators.solver import regridded
from eddycast.errors import InputError
from eddycast.simulators import KolmogorovFlow, System, get_system

SETTINGS = ("perturbation", "inner_dt", "grid", "chunk")
SOLVER_CHUNK = 1024
REGRIDDED_NUMBERS = 2**17
"""Numbers in the states of one pass on another grid, where all lead times are computed before any is handed on."""


def solver(name: str, dataset: Dataset, given: dict[str, Any]) -> Emulator:
    """The numerical solver for the grid and parameters of the data."""
    system = get_system(name)
    refuse(given, (*SETTINGS, "boundary"))
    if stored := dataset.attributes.get("stored"):
        raise InputError(
            f"system:{name} cannot go on from these data: they hold the {stored} of states alone. Simulate states without --store."
        )
    if dataset.parameter_names != system.info.parameter_names:
        raise InputError(
            f"system:{name} needs the parameters {', '.join(system.info.parameter_names)}; the data have "
            f"{', '.join(dataset.parameter_names) or 'none'}."
        )
    own = tuple(field.name for field in system.info.fields)
    if dataset.field_names != own and sorted(dataset.field_names) == sorted(own):
        raise InputError(
            f"system:{name} takes the fields in the order {', '.join(own)}; the data have {', '.join(dataset.field_names)}: open them "
            "with ?fields=... in that order."
        )
    numbers = {
        key: setting_number(key, given[key])
        for key in ("perturbation", "inner_dt", "chunk")
        if given.get(key) is not None
    }
    shape = None if given.get("grid") is None else setting_shape(given["grid"])
    if shape is not None:
        system = on_grid(system, dataset, shape)
    model = SolverModel(
        system, perturbation=numbers.get("perturbation", 0.0), inner_dt=numbers.get("inner_dt"), grid_shape=shape
    )
    chunk = (
        SOLVER_CHUNK
        if shape is None
        else max(1, min(SOLVER_CHUNK, REGRIDDED_NUMBERS // math.prod(dataset.state_shape)))
    )
    return Emulator(model, IdentitySpace(), chunk=int(numbers.get("chunk", chunk)))


def on_grid(system: System, dataset: Dataset, shape: tuple[int, ...]) -> System:
    """The system, to be solved on another grid than that of the data; one that takes grids which resolve it badly, where there is a choice.

    Raises: InputError for a grid that does not serve, or is not another one of the same box.
    """
    if system.info.regrid is not None:
        system.info.regrid(torch.ones(1, dataset.state_shape[0], *dataset.grid.shape), shape)  # which refuses shapes
        system.grid(shape)
        return system
    wanted = regridded(dataset.grid, shape)
    if isinstance(system, KolmogorovFlow):
        system = replace(system, resolve=False)
    values = dataset.parameter_values
    own = system.grid(shape, system.info.default_parameters() if values is None else values.double())
    if any(
        abs((a.period or 0) - (b.period or 0)) > 1e-3 * (a.period or 1)
        for a, b in zip(own.axes, wanted.axes, strict=True)
    ):
        raise InputError(f"{system.info.name} on {shape} points is another system, not another grid: leave grid out.")
    return system


def setting_number(key: str, value: Any) -> float:
    """A setting of the solver. Raises: InputError unless it is a finite number, positive (zero for no perturbation)."""
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not (0 <= number < math.inf) or (number == 0 and key != "perturbation") or (key == "chunk" and number % 1):
        kind = {"perturbation": "a number from 0 on", "chunk": "a positive whole number"}.get(key, "a positive number")
        raise InputError(f"--set {key} must be {kind}, got {value!r}.")
    return number


def setting_shape(value: Any) -> tuple[int, ...]:
    """Points per axis from 64, [32, 32] or "32x32". Raises: InputError for anything else."""
    parts = (
        value.lower().split("x")
        if isinstance(value, str)
        else list(value)
        if isinstance(value, list | tuple)
        else [value]
    )
    sizes = [int(part) if str(part).isascii() and str(part).isdigit() else 0 for part in parts]
    if not 1 <= len(sizes) <= 3 or min(sizes) < 1:
        raise InputError(f"--set grid must be the points per axis, such as 64, 32x32 or [32, 32], got {value!r}.")
    return tuple(sizes)


def solver_attributes(emulator: Emulator, dataset: Dataset) -> dict[str, Any]:
    """What a solver's forecast cost, for its file: inner steps per time step of the data, and the grid; nothing for other emulators."""
    model = emulator.model
    if not isinstance(model, SolverModel):
        return {}
    shape = dataset.grid.shape if model.grid_shape is None else model.grid_shape
    steps = model.steps_per_output(dataset.grid, dataset.dt)
    return {"eddycast_inner_steps": steps, "eddycast_solver_grid": "x".join(map(str, shape))}


def refuse(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises: InputError for a setting that is not among the known ones."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"--set {unknown[0]}: no such setting here; known are {', '.join(known) or 'none'}.")
