"""Observations to a labelled analysis, by any method with any forecaster."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast import assimilation, data, simulators
from eddycast.api.shares import pass_attributes
from eddycast.assimilation import OnlineTask, get_method
from eddycast.assimilation.diagnostics import Diagnostics, agreement, divergence_reason
from eddycast.conditions import Conditions
from eddycast.data import Dataset, Field, Initial, PlainClock
from eddycast.data.arrays import ArraySource
from eddycast.emulators import Diffusing, Emulator, IdentitySpace, SolverModel, StateHook, count_passes
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.labelled import values_of
from eddycast.observations import Measurement, Observations, ObservationTable
from eddycast.recipes import boundary_hook, parse_value, read_boundary

if TYPE_CHECKING:
    from eddycast.api.forecaster import Forecaster

DIAGNOSTICS = "eddycast_diagnostics"
"""Attribute with the diagnostics of an analysis as JSON; in files they stand beside it, for they say how long it took."""

CLIMATOLOGY = 64
"""Climatological states of which interpolation takes mean and spread, and on which the loss of an autoencoder is measured."""


def analyse(
    forecaster: Forecaster,
    observations: Observations | ObservationTable,
    *,
    method: str | None,
    mode: str,
    task: OnlineTask | None,
    background: xr.Dataset | str | Path | None,
    withhold: float | Sequence[str],
    members: int,
    seed: int,
    overrides: Mapping[str, Any],
    progress: Any,
) -> xr.Dataset:
    """See `Forecaster.assimilate`."""
    from eddycast.api.settings import rebuilt

    settings = {key: parse_value(value, f"--set {key}") for key, value in overrides.items()}
    emulator = emulator_for(forecaster, observations, settings.pop("boundary", None))
    name = method or default_method(emulator)
    chosen = get_method(name)
    if name == "interpolation" and isinstance(observations, ObservationTable):
        raise InputError(
            "The method interpolation takes observations on the points of the grid; for a table take 3dvar or etkf."
        )
    options = rebuilt(chosen.options(), settings)
    conditions = conditions_of(forecaster, observations)
    used, held = split_off(observations, withhold, seed)
    lost = None
    if getattr(options, "representation", False) and assimilation.is_lossy(emulator.space):
        lost = lost_by_space(forecaster, emulator, used, conditions)
    trusted = used if lost is None else assimilation.enlarged(used, lost)
    start = states_of(background, observations)
    if start is None and (chosen.background or name == "interpolation"):
        few = chosen.background and not hasattr(options, "climatology")
        start = climatological(forecaster, conditions, members if few else None, seed)
    if hasattr(options, "climatology"):
        options = replace(options, climatology=climate_of(forecaster, emulator, conditions, start, seed))
    shared: dict[str, Any] = {"members": members, "seed": seed, "background": start, "options": options}
    with count_passes() as passes, assimilation.gather_findings() as found, measured(emulator.device) as cost:
        if task is not None:
            blocks = assimilation.assimilate_online(
                name, emulator, trusted, conditions, task=task, progress=progress, **shared
            )
            states = blocks.flatten(1, 2)  # cases with their blocks one after the other
            starts = task.starts(observations.num_times)
            places = torch.arange(observations.num_cases).repeat_interleave(len(starts))
            here = conditions.select(places).shifted(torch.tensor(starts).repeat(observations.num_cases))
            states = with_boundary(emulator, states, here)
            blocks = states.unflatten(1, (observations.num_cases, len(starts)))
        else:
            shared["mode"] = mode
            states = assimilation.assimilate(name, emulator, trusted, conditions, progress=progress, **shared)
            states = blocks = with_boundary(emulator, states, conditions)
    attributes: dict[str, Any] = forecaster.attributes(None, seed) | {
        "eddycast_method": name,
        "eddycast_mode": mode,
        "eddycast_system": observations.attributes.get("system", ""),
        **pass_attributes(passes, states.shape[0] * states.shape[1]),
    }
    if "lyapunov_time" in observations.attributes:
        attributes["lyapunov_time"] = float(observations.attributes["lyapunov_time"])
    initial = first_frames(forecaster, observations)
    if task is not None:
        attributes |= {"eddycast_block": task.block, "eddycast_horizon": task.forecast}
        initial = later_frames(initial, task.starts(observations.num_times))
        blocks = blocks[:, :, :, : task.block].flatten(2, 3)
    diagnostics = diagnosed(
        blocks,
        trusted.seen(0, blocks.shape[2]),  # in units of the error that was reckoned with
        None if held is None else held.seen(0, blocks.shape[2]),
        observations,
        seed=seed,
        passes=(attributes["eddycast_network_passes_forward"], attributes["eddycast_network_passes_backward"]),
        cost=cost,
        found=found,
    )
    attributes |= diagnostics.attributes()
    if held is not None and diagnostics.withheld is None:
        attributes["withheld_observations"] = 0.0
    made = data.to_xarray(
        states,
        initial=initial,
        lead_times=range(states.shape[2]),
        kind="analysis",
        attributes=attributes,
    )
    if lost is not None:
        names = used.variables if isinstance(used, ObservationTable) else [name for name, _ in observations.fields]
        for name, std in zip(names, lost.tolist(), strict=True):
            if name in made:
                made[name].attrs["representation_std"] = std
    made.attrs[DIAGNOSTICS] = json.dumps(diagnostics.to_dict(), default=str)
    return made


@dataclass
class Cost:
    """Seconds, and the largest memory in use in bytes: of the device meanwhile, or of the process so far."""

    seconds: float = 0.0
    peak_memory: int | None = None


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """What is done inside, measured when it has ended."""
    cost, start = Cost(), time.perf_counter()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        cost.peak_memory = torch.cuda.max_memory_allocated(device)
    elif (resource := importlib.util.find_spec("resource")) is not None:  # not on every system
        unit = 1 if sys.platform == "darwin" else 1024
        cost.peak_memory = unit * importlib.import_module(resource.name).getrusage(0).ru_maxrss
    cost.seconds = time.perf_counter() - start


def diagnosed(
    states: Tensor,
    used: Measurement | None,
    held: Measurement | None,
    observations: Observations | ObservationTable,
    *,
    seed: int,
    passes: tuple[float, float],
    cost: Cost,
    found: Mapping[str, Any],
) -> Diagnostics:
    """Diagnostics of an analysis (member, case, time, channel, *space)."""
    agreements = [
        None if one is None else agreement(one, states, seed=seed, cases=observations.trajectories)
        for one in (used, held)
    ]
    valid = observations.valid
    defined = states if valid is None else states[..., valid.to(states.device)]
    noticed = found.get("divergence")
    return Diagnostics(
        used=agreements[0],
        withheld=agreements[1],
        divergence=divergence_reason(defined, agreements[1], agreements[0], noticed),
        seconds=cost.seconds,
        peak_memory=cost.peak_memory,
        passes=passes,
        found={name: value for name, value in found.items() if name != "divergence"},
    )


def climate_of(
    forecaster: Forecaster, emulator: Emulator, conditions: Conditions, start: Tensor | None, seed: int
) -> Tensor | None:
    """Climatological states (state, case, time, channel, *space) for a static covariance.

    Those to start from, where single states are too short for the emulator, or cases differ in their parameters.
    """
    alike = bool((conditions.parameters == conditions.parameters[:1]).all())
    if start is not None and (emulator.context > 1 or (forecaster.run is None and not alike)):
        return start
    return climatological(forecaster, conditions, None, seed)[:, :1]


def split_off(observations: Any, withhold: float | Sequence[str], seed: int) -> tuple[Any, Any]:
    """(used, withheld) observations: a share is kept back, or platforms of a table by name; with 0 nothing is, and withheld is None.

    Raises: InputError for platforms of observations that have none.
    """
    if withhold == 0 or withhold == ():
        return observations, None
    if isinstance(withhold, (int, float)):
        return observations.withhold(withhold, seed=seed)
    if isinstance(observations, Observations):
        raise InputError(
            f"Platforms ({', '.join(withhold)}) are withheld of a table of observations; of these give a share, such as 0.2."
        )
    return observations.withhold(platforms=list(withhold))


def lost_by_space(
    forecaster: Forecaster, emulator: Emulator, observations: Observations | ObservationTable, conditions: Conditions
) -> Tensor:
    """What the autoencoder of a run loses of its training states, as the observations see it, in the units of what is observed.

    (channel,) for gridded observations, (variable,) for a table.
    """
    assert forecaster.run is not None, "solvers have no autoencoder"
    states = forecaster.run.climatology()[:CLIMATOLOGY].to(emulator.device)
    return assimilation.representation_of(observations, emulator.space, states, conditions)


def online_task(mode: str, block: int | None, forecast: int | None, blocks: int | None) -> OnlineTask | None:
    """The task of mode `online`, None for other modes. Raises: InputError when its settings are missing, or given for another mode."""
    if mode != "online":
        if (block, forecast, blocks) != (None, None, None):
            raise InputError(f"--block, --forecast and --blocks belong to --mode online, not to {mode}.")
        return None
    if block is None or forecast is None:
        raise InputError(
            "Mode online needs --block and --forecast, such as --block 20 --forecast 400: frames of a block, and frames from its first "
            "one on."
        )
    return OnlineTask(block, forecast, blocks)


def default_method(emulator: Emulator) -> str:
    """The best method that a forecaster allows: guidance for denoisers, a filter for everything else."""
    return "mmps" if isinstance(emulator.model, Diffusing) else "etkf"


def with_boundary(emulator: Emulator, states: Tensor, conditions: Conditions) -> Tensor:
    """An analysis (member, case, time, channel, *space) with its boundary values, which weights and guidance keep to rounding at best.

    Points are held at what the first frame of each member says of them.
    """
    if emulator.hook is None:
        return states
    leads = torch.arange(states.shape[2], dtype=torch.float64)
    return torch.stack([emulator.hook(member, conditions, leads, member[:, 0]) for member in states])


def emulator_for(
    forecaster: Forecaster, observations: Observations | ObservationTable, boundary: Any = None
) -> Emulator:
    """The emulator, after a check that the observations are of its fields and grid; `boundary` replaces the setting of its recipe."""
    names = tuple(name for name, _ in observations.fields)
    if forecaster.run is not None:
        summary = forecaster.run.data
        observations.require(Grid.from_dict(summary["grid"]), tuple(Field(**one).name for one in summary["fields"]))
        if abs(observations.dt - summary["dt"]) > 1e-4 * summary["dt"]:
            raise InputError(
                f"{forecaster.name} was trained with a time step of {summary['dt']:g}, the observations have "
                f"{observations.dt:g}: observe data with the same step."
            )
        if list(observations.parameter_names) != summary["parameter_names"]:
            raise InputError(
                f"{forecaster.name} was trained with the parameters {', '.join(summary['parameter_names']) or 'none'}; the "
                f"observations carry {', '.join(observations.parameter_names) or 'none'}: give those."
            )
        emulator = forecaster.run.emulator
        return emulator if boundary is None else replace(emulator, hook=observed_hook(boundary, observations))
    kind, _, name = forecaster.name.partition(":")
    if kind != "system":
        raise InputError(f"{forecaster.name} cannot assimilate: use a run, or system:NAME.")
    system = simulators.get_system(name)
    observations.require(observations.grid, tuple(field.name for field in system.info.fields))
    if tuple(observations.parameter_names) != system.info.parameter_names:
        raise InputError(
            f"{forecaster.name} needs the parameters {', '.join(system.info.parameter_names)}; the observations of "
            f"{', '.join(names)} carry {', '.join(observations.parameter_names) or 'none'}."
        )
    hook = observed_hook("system" if boundary is None else boundary, observations)
    return Emulator(SolverModel(system), IdentitySpace(), hook=hook, chunk=1024, place=forecaster.device)


def observed_hook(boundary: Any, observations: Observations | ObservationTable) -> StateHook | None:
    """Boundary values of analyses of these observations."""
    return boundary_hook(
        read_boundary(boundary),
        system=observations.attributes.get("system", ""),
        fields=[name for name, _ in observations.fields],
        parameter_names=observations.parameter_names,
        static_names=observations.static_names,
    )


def conditions_of(forecaster: Forecaster, observations: Observations | ObservationTable) -> Conditions:
    """Conditions of the observed cases, with the static fields that they carry, or else those that all training data of a run share.

    Raises: InputError for static fields that the observations lack, or that the run does not know.
    """
    run = forecaster.run
    if run is None:
        return observations.conditions()
    trained = run.data.get("static_names")
    if observations.static is None:
        if run.data.get("static_varies"):
            raise InputError(
                f"{run.name} was trained with static fields of each trajectory ({', '.join(trained or ())}), the observations carry none: "
                "observe the data again and write .nc, which has a place for them."
            )
        return observations.conditions(static=run.static_fields())
    if trained is None and run.num_static == len(observations.static_names):
        trained = observations.static_names  # an earlier version did not keep the names
    if tuple(trained or ()) != observations.static_names:
        raise InputError(
            f"{run.name} was trained with the static fields {', '.join(trained or ()) or 'none'}; the observations carry "
            f"{', '.join(observations.static_names)}: observe data with the same."
        )
    return observations.conditions()


def states_of(
    background: xr.Dataset | str | Path | None, observations: Observations | ObservationTable
) -> Tensor | None:
    """States (member, case, time, channel, *space) of a forecast or analysis."""
    if background is None:
        return None
    opened = background if isinstance(background, xr.Dataset) else data.read(Path(background))
    return ensemble_states(opened, [name for name, _ in observations.fields], observations.grid)


def ensemble_states(content: xr.Dataset, names: Sequence[str], grid: Grid) -> Tensor:
    """States (member, case, time, channel, *space) of a forecast or analysis. Raises: InputError for other fields or another grid."""
    missing = [name for name in names if name not in content]
    if missing:
        raise InputError(f"The ensemble has no field {missing[0]!r}: it has {', '.join(map(str, content.data_vars))}.")
    shape = tuple(content.sizes.get(name, 0) for name in grid.names)
    if shape != grid.shape:
        raise InputError(f"The ensemble is on {shape} points of {grid.names}, {grid.shape} were expected.")
    dims = ("member", "init", "lead_time", *grid.names)
    if strange := [name for name in names if set(content[name].dims) != set(dims)]:
        raise InputError(
            f"The field {strange[0]!r} of the ensemble has the dimensions {', '.join(map(str, content[strange[0]].dims))}; "
            f"expected {', '.join(dims)}."
        )
    fields = [values_of(content[name].transpose(*dims), f"The field {name!r} of the ensemble") for name in names]
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.stack(fields, axis=3).astype(np.float32))


def climatological(forecaster: Forecaster, conditions: Conditions, members: int | None, seed: int) -> Tensor:
    """Climatological states (member, case, 1, channel, *space): kept with a run, or spun up by the solver.

    `members` None takes as many as there are, up to `CLIMATOLOGY`.
    """
    cases = len(conditions.time)
    generator = torch.Generator().manual_seed(seed)
    if forecaster.run is not None:
        states = forecaster.run.climatology()
        if members is not None and forecaster.run.emulator.context > 1:
            raise InputError(
                f"{forecaster.name} continues {forecaster.run.emulator.context} states, and the climatology kept with it holds single "
                "ones: pass --background with a forecast or analysis."
            )
    else:
        system = simulators.get_system(forecaster.name.partition(":")[2])
        if not bool((conditions.parameters == conditions.parameters[:1]).all()):
            raise InputError("Cases with different parameters need a background each: pass --background.")
        values = dict(zip(system.info.parameter_names, conditions.parameters[0].tolist(), strict=True))
        # Data are simulated with small seeds: with the same one, the truth itself could be among the members.
        made = simulators.simulate(
            system,
            trajectories=members or CLIMATOLOGY,
            steps=1,
            parameters=values,
            grid_shape=conditions.grid.shape,
            seed=2**63 + seed,
        )
        states = made.states[:, 0]
    members = min(len(states), CLIMATOLOGY) if members is None else members
    if len(states) < members:
        raise InputError(
            f"There are {len(states)} climatological states, {members} members were asked for: pass --background."
        )
    picks = torch.stack([torch.randperm(len(states), generator=generator)[:members] for _ in range(cases)], dim=1)
    return states[picks][:, :, None]


def later_frames(initial: Initial, starts: Sequence[int]) -> Initial:
    """Each case at several later frames, one after the other."""
    assert initial.frames is not None, "observed cases have frames"
    frames = (initial.frames[:, None] + torch.tensor(starts)).flatten()
    return replace(initial, trajectories=initial.trajectories.repeat_interleave(len(starts)), frames=frames)


def first_frames(forecaster: Forecaster, observations: Observations | ObservationTable) -> Initial:
    """The observed cases as starts of labelled states; times are numbers, as in the observations."""
    if forecaster.run is None:
        fields = tuple(Field(name, units) for name, units in observations.fields)
    else:
        fields = tuple(Field(**one) for one in forecaster.run.data["fields"])
    steps = observations.frames if observations.time is None else observations.time
    origins = [0.0] * (1 + max(0, int(observations.trajectories.max())))
    for number, step, frame in zip(observations.trajectories, steps, observations.frames, strict=True):
        origins[int(number)] = (float(step) - int(frame)) * observations.dt
    clock = PlainClock(observations.dt, observations.time_units, tuple(origins), observations.cycle)
    shell = Dataset(ArraySource(()), fields, observations.grid, clock, splits={}, valid=observations.valid)
    return Initial(shell, observations.trajectories, observations.frames, ())
