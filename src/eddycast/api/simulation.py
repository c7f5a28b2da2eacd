"""Simulate a system and split its trajectories into data for training, validation and testing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from eddycast import __version__, data, simulators
from eddycast.data import Dataset, Family, Field, PlainClock, Segment, open_family
from eddycast.data.dataset import SPLITS
from eddycast.data.splits import DEFAULT_FRACTIONS, check_fractions
from eddycast.errors import InputError
from eddycast.files import staged_directory
from eddycast.noise import MemberNoise
from eddycast.simulators import (
    ParameterValue,
    Simulation,
    System,
    Values,
    get_system,
    initial_values,
    with_initial,
)


def simulate(
    system: str,
    *,
    trajectories: int = 64,
    steps: int = 400,
    evaluation_steps: int | None = None,
    split: Sequence[float] = DEFAULT_FRACTIONS,
    parameters: Mapping[str, ParameterValue] | None = None,
    initial: Mapping[str, float] | None = None,
    grid: Sequence[int] | None = None,
    spacing: float | None = None,
    solver_grid: Sequence[int] | None = None,
    store: str | None = None,
    dt: float | None = None,
    spin_up: float | None = None,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    out: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset | Family:
    """Simulate trajectories of a system, split by their number into train, valid and test.

    Everything random about a trajectory depends on the seed and its number alone, and all have the same spin-up: the first states of a
    trajectory are the same whatever its length, and in whichever part it lies.

    Args:
        system: See `systems()`.
        trajectories, steps: Runs, and stored states of each.
        evaluation_steps: Stored states of the runs of valid and test; None for `steps`. Training runs are not integrated further.
        split: Shares of train, valid and test, 80 / 10 / 10 %; numbers of trajectories will do. Train ends before trajectory number
            floor(N * first share), valid before floor(N * (first + second)); each part with a share gets at least one.
        parameters: A value, a range (low, high) to draw from for each run, or `Values` that runs take in turn.
        initial: Settings of the law of initial states, say {"peak_wavenumber": 6}; no network is told them.
        grid: Points per axis of the stored states; None for the system's own.
        spacing: Distance of the points instead, for systems whose domain is as long as a parameter says. With `Values` of such a
            parameter each length is a data set on its own grid, split by itself, and the result a family of them, in folders of `out`.
        solver_grid: Points per axis on which the system is solved, at least those of `grid`, along periodic axes; what is stored is the
            truncated Fourier series. None to solve on `grid`.
        store: What to store of each state instead, such as "zonal-mean" of beta-plane (never holding all states); None for the states.
        dt, spin_up: Time between states and before the first one; None for the system's own.
        seed: The same seed gives the same data.
        dtype: Of the arithmetic, `float32` or `float64`; states are stored in float32.
        device: Where to compute.
        out: Directory for files in The Well's format, with a `manifest.json` that says how they came to be; None keeps the data in memory.
        progress: Called with (done, total).

    Raises: InputError for an unknown system or numbers out of range.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f"dtype must be float32 or float64, got {dtype!r}.")
    chosen = with_initial(get_system(system), initial or {})
    simulators.reduction(chosen, store)  # refuses names that it does not have
    if spacing is not None:
        if grid is not None or solver_grid is not None:
            raise InputError("--spacing sets the points of the grid: leave --grid and --solver-grid out.")
        shared: dict[str, Any] = {"steps": steps, "evaluation_steps": evaluation_steps, "split": split}
        shared |= {"initial": initial, "store": store, "dt": dt, "spin_up": spin_up}
        shared |= {"seed": seed, "dtype": dtype, "device": device}
        return spaced(
            chosen, spacing, trajectories, parameters or {}, None if out is None else Path(out), progress, shared
        )
    solved, stored = grid_shapes(chosen, grid, solver_grid)
    parts = split_numbers(trajectories, split)
    if evaluation_steps is not None and evaluation_steps < 1:
        raise InputError(f"evaluation_steps must be at least 1, got {evaluation_steps}.")
    if evaluation_steps is not None and parts is None:
        raise InputError(
            f"evaluation_steps needs trajectories for valid or test beside those for train; got {trajectories}."
        )
    groups = [(range(trajectories), steps)]
    if parts is not None and evaluation_steps not in (None, steps):
        assert evaluation_steps is not None
        first = len(parts["train"])
        groups = [(range(first), steps), (range(first, trajectories), evaluation_steps)]
    waiting = (chosen.info.spin_up if spin_up is None else spin_up) / (dt or chosen.info.dt)
    work = [len(numbers) * (waiting + length) for numbers, length in groups]
    runs: list[Simulation] = []
    for position, (numbers, length) in enumerate(groups):

        def report(done: int, total: int, position: int = position) -> None:
            if progress is not None:
                progress(round(sum(work[:position]) + work[position] * done / total), round(sum(work)))

        runs.append(
            simulators.simulate(
                chosen,
                trajectories=trajectories,
                steps=length,
                only=numbers if len(groups) > 1 else None,
                parameters=parameters or {},
                grid_shape=solved,
                store_shape=stored,
                store=store,
                seed=seed,
                spin_up=spin_up,
                dt=dt,
                dtype=getattr(torch, dtype),
                device=device,
                progress=report,
            )
        )
    dataset = _dataset(runs, parts, split, autonomous=chosen.info.autonomous)
    if out is None:
        return dataset
    content = manifest(dataset, chosen, parameters or {})
    data.write_well(dataset, Path(out), manifest=content)
    return data.open_dataset(Path(out))


def spaced(
    system: System,
    spacing: float,
    trajectories: int,
    parameters: Mapping[str, ParameterValue],
    out: Path | None,
    progress: Callable[[int, int], None] | None,
    shared: dict[str, Any],
) -> Dataset | Family:
    """Points a fixed distance apart on domains of any length: a data set for each length; see `simulate`.

    Args:
        system: With its law of initial states.
        out: Folder of the data set, or of the folders of several; None to keep them in memory.
        shared: Further arguments of `simulate`, the same for each length.

    Raises: InputError for a system whose domain has one length, ranges of lengths, or a length that does not hold a whole (even) number.
    """
    info = system.info
    if info.extent is None:
        able = ", ".join(name for name, one in simulators.SYSTEMS.items() if one.info.extent is not None)
        raise InputError(f"The domain of {info.name} has one length: give --grid; --spacing is for {able}.")
    everyone = torch.arange(trajectories)
    drawn = simulators.draw_parameters(
        system, parameters, MemberNoise(shared["seed"], everyone, torch.zeros_like(everyone))
    )
    extents = info.extent(drawn)
    different, owner = extents.unique(dim=0, return_inverse=True)
    setting = {name for name, value in parameters.items() if isinstance(value, Values)}
    if len(different) > 1 and not setting:
        raise InputError("--spacing needs lengths that are given: write domain_length=36,64,100 instead of a range.")
    counts = [int((owner == number).sum()) for number in range(len(different))]
    several = len(different) > 1

    def members(place: Path | None) -> dict[str, Dataset]:
        """Data sets by name, written to (folders of) a place, if there is one."""
        found: dict[str, Dataset] = {}
        for number, extent in enumerate(different.tolist()):
            own = dict(parameters)
            for name in setting:
                column = drawn[owner == number][:, info.parameter_names.index(name)].tolist()
                own[name] = column[0] if len(set(column)) == 1 else Values(tuple(column))
            label = "_".join(
                f"{name}-{own[name]:g}" for name in parameters if name in setting and isinstance(own[name], float)
            )

            def report(done: int, total: int, number: int = number) -> None:
                if progress is not None:
                    share = (sum(counts[:number]) + counts[number] * done / total) / trajectories
                    progress(round(1000 * share), 1000)

            found[label] = simulate(  # type: ignore[assignment]
                info.name, trajectories=counts[number], parameters=own, grid=points_of(info.name, extent, spacing), progress=report,
                out=place if place is None or not several else place / label, **shared,
            )  # fmt: skip
        return found

    if not several:
        return next(iter(members(out).values()))
    if out is None:
        return Family(members(None))
    with staged_directory(out, "simulate") as stage:  # all of the family, or nothing
        members(stage)
    return open_family(out)


def points_of(name: str, extent: Sequence[float], spacing: float) -> tuple[int, ...]:
    """Even numbers of points so far apart, to 1 %. Raises: InputError where the length does not hold such a number."""
    if not spacing > 0:
        raise InputError(f"--spacing must be positive, got {spacing:g}.")
    points = tuple(2 * max(1, round(length / spacing / 2)) for length in extent)
    for length, count in zip(extent, points, strict=True):
        if abs(length / count - spacing) > 0.01 * spacing:
            near = f"{2 * spacing * (count // 2):g} or {2 * spacing * (count // 2 + 1):g}"
            raise InputError(
                f"{name}: a domain of length {length:g} holds no even number of points {spacing:g} apart; a length of {near} does."
            )
    return points


def grid_shapes(
    system: System, grid: Sequence[int] | None, solver_grid: Sequence[int] | None
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Points per axis that are solved, and those that are stored where they differ. Raises: InputError for more stored than solved."""
    if solver_grid is None:
        return None if grid is None else tuple(grid), None
    solved, stored = tuple(solver_grid), system.info.shape if grid is None else tuple(grid)
    if solved == stored:
        return solved, None
    if len(solved) != len(stored) or any(few > many for few, many in zip(stored, solved, strict=True)):
        raise InputError(
            f"The solver's grid must have at least the points of the stored one along each axis, got {_times(solved)} solved and "
            f"{_times(stored)} stored: raise --solver-grid or lower --grid."
        )
    return solved, stored


def split_numbers(trajectories: int, split: Sequence[float]) -> dict[str, range] | None:
    """Numbers of the trajectories of train, valid and test; None for fewer trajectories than parts, which time must cut.

    Raises: InputError for shares that cannot be, or none for train or test.
    """
    shares = check_fractions(split)
    if min(abs(sum(split) - whole) for whole in (1, trajectories)) > 1e-6:
        raise InputError(
            f"split needs shares that sum to 1, or numbers of runs that sum to the {trajectories} trajectories; got {tuple(split)}."
        )
    if not (shares[0] > 0 and shares[2] > 0):
        raise InputError(
            f"split needs shares of train and test above zero, got {tuple(split)}: to test on all of a data set, open it with "
            "DATA?fractions=0,0,1."
        )
    if trajectories < sum(share > 0 for share in shares):
        return None
    slack = 1e-9 * trajectories
    ends = [math.floor(trajectories * shares[0] + slack), math.floor(trajectories * (shares[0] + shares[1]) + slack)]
    counts = [ends[0], ends[1] - ends[0], trajectories - ends[1]]
    for index, share in enumerate(shares):
        if share > 0 and counts[index] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[index] = 1
    starts = [0, counts[0], counts[0] + counts[1]]
    return {name: range(at, at + count) for name, at, count in zip(SPLITS, starts, counts, strict=True)}


def _dataset(
    runs: list[Simulation], parts: dict[str, range] | None, split: Sequence[float], *, autonomous: bool
) -> Dataset:
    """One data set of runs that follow each other in the numbers of their trajectories."""
    first = runs[0]
    states = [run.states.cpu().float() for run in runs]
    attributes = dict(first.attributes)
    if "solver_shape" in attributes:
        attributes["solver_grid"] = _times(attributes.pop("solver_shape"))
    splits = None
    if parts is not None:
        lengths = [run.states.shape[1] for run in runs for _ in range(len(run.states))]
        splits = {name: tuple(Segment(at, 0, lengths[at]) for at in numbers) for name, numbers in parts.items()}
        attributes["split"] = ", ".join(f"{name} {_numbers(numbers)}" for name, numbers in parts.items())
    return data.from_arrays(
        states[0] if len(states) == 1 else [one for part in states for one in part],
        fields=tuple(Field(**asdict(field)) for field in first.fields),
        grid=first.grid,
        clock=PlainClock(first.dt, first.time_units, (0.0 if autonomous else float(first.attributes["spin_up"]),)),
        parameters=torch.cat([run.parameters for run in runs]).float(),
        parameter_names=first.parameter_names,
        splits=splits,
        fractions=split,
        static=_static(runs),
        static_names=tuple(first.static),
        attributes=attributes,
    )


def _static(runs: list[Simulation]) -> torch.Tensor | None:
    """Static fields (S, *space), or (trajectory, S, *space) where one of them differs between trajectories."""
    first, axes = runs[0].static, len(runs[0].grid.axes)
    if not first:
        return None
    if all(values.ndim == axes for values in first.values()):
        return torch.stack([values.float() for values in first.values()])
    columns = [
        torch.cat([run.static[name].float().expand(len(run.states), *run.grid.shape) for run in runs]) for name in first
    ]
    return torch.stack(columns, dim=1)


def manifest(dataset: Dataset, system: System, parameters: Mapping[str, ParameterValue]) -> dict[str, Any]:
    """How simulated data came to be: enough to make them again, and to see which trajectory lies where."""
    known = dataset.attributes
    values = {
        one.name: parameters.get(one.name, (one.low, one.high) if one.label else one.default)
        for one in system.info.parameters
    }
    return {
        "eddycast_version": __version__,
        "system": system.info.name,
        "seed": known["seed"],
        "trajectories": dataset.num_trajectories,
        "splits": {
            name: {
                "first": segments[0].trajectory,
                "last": segments[-1].trajectory,
                "states": len(segments[0]),
                "start": segments[0].start,
            }
            for name, segments in dataset.splits.items()
            if segments
        },
        "parameters": {name: asdict(value) if isinstance(value, Values) else value for name, value in values.items()},
        "initial": initial_values(system),
        **({"stored": known["stored"]} if "stored" in known else {}),
        "grid": list(dataset.grid.shape),
        "solver_grid": [int(points) for points in str(known.get("solver_grid", _times(dataset.grid.shape))).split("x")],
        "dt": dataset.dt,
        "spin_up": known["spin_up"],
        "inner_step": known["inner_step"],
        "precision": known["precision"],
        "scheme": system.info.scheme,
    }


def _numbers(numbers: range) -> str:
    return f"{numbers.start} to {numbers.stop - 1}" if len(numbers) else "none"


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(points) for points in shape)
