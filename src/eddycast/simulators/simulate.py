"""Many trajectories of a system, from seeded random starts through the spin-up to stored states."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_box
from eddycast.noise import MemberNoise
from eddycast.numerics.truncated import resample
from eddycast.simulators.initial import initial_values, with_initial
from eddycast.simulators.integrate import integrate, uniform_times
from eddycast.simulators.protocols import FieldInfo, Forced, Reduction, System, inner_steps

ROW_BLOCK = 8
SPIN_UP_PIECE = 10.0  # a spin-up is integrated in pieces of about so many outputs, to report progress


@dataclass(frozen=True)
class Values:
    """Values of a parameter that trajectories take in turn.

    Args:
        values: In the order of the trajectories.
        counts: How many trajectories in a row take each of them; empty for one.

    Raises: ValueError for no value, or counts that are not positive whole numbers, one for each value.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.values or (self.counts and (len(self.counts) != len(self.values) or min(self.counts) < 1)):
            raise ValueError(
                f"Values need a number at least, and a positive count for each; got {self.values}, {self.counts}."
            )

    def column(self, numbers: Tensor) -> Tensor:
        """The value of each trajectory by its number, float64."""
        turns = [
            value
            for value, count in zip(self.values, self.counts or (1,) * len(self.values), strict=True)
            for _ in range(count)
        ]
        return torch.tensor(turns, dtype=torch.float64)[numbers % len(turns)]


ParameterValue = float | tuple[float, float] | Values
"""A value, a range from which each trajectory draws its own, or values that they take in turn."""


@dataclass(frozen=True)
class Simulation:
    """Trajectories and all that is known about them.

    Args:
        states: (trajectory, time, channel, *space); the first state is that at the end of the spin-up.
        parameters: Parameters of each trajectory, (trajectory, P), float64.
        grid: Grid of the states.
        dt: Time between stored states, in `time_units`.
        fields: One entry per channel.
        parameter_names: One per column of `parameters`.
        time_units: Unit of time, `1` where the problem is dimensionless.
        attributes: Provenance and known properties (system, equation, scheme, seed, steps, Lyapunov time), plain
            values.
        static: Fields of the equation that do not change in time, by name, on the grid of the states: (*space) where they are the same in
            all trajectories of the seed, otherwise (trajectory, *space).
    """

    states: Tensor
    parameters: Tensor
    grid: Grid
    dt: float
    fields: tuple[FieldInfo, ...]
    parameter_names: tuple[str, ...]
    time_units: str
    attributes: dict[str, Any]
    static: dict[str, Tensor] = field(default_factory=dict)


def draw_parameters(system: System, values: Mapping[str, ParameterValue], noise: MemberNoise) -> Tensor:
    """Parameters of each trajectory, (trajectory, P), float64.

    Args:
        system: Whose parameters.
        values: A number holds for all trajectories, a pair (low, high) is drawn uniformly for each (among the whole
            numbers low to high for a `whole` parameter), `Values` are taken in turn; what is not named has its default, or is drawn from
            its whole range where it is a `label`.
        noise: Addresses of the trajectories, (trajectory,).

    Raises: InputError for an unknown name, a value outside the system's range, or low > high.
    """
    info = system.info
    for name in values:
        if name not in info.parameter_names:
            raise InputError(
                f"{info.name} has no parameter {name!r}: it has {', '.join(info.parameter_names) or 'none'}."
            )
    uniform = noise.uniform((len(info.parameters),), key=(0, 0, "parameters"), dtype=torch.float64)
    columns = []
    for column, parameter in enumerate(info.parameters):
        value = values.get(parameter.name, (parameter.low, parameter.high) if parameter.label else parameter.default)
        if isinstance(value, tuple | list) and len(value) != 2:
            raise InputError(
                f"{parameter.name} is a number, a range (low, high), or values that runs take in turn, ec.Values((22.0, 36.0)); got "
                f"{len(value)} numbers."
            )
        if isinstance(value, Values):
            outside = [one for one in value.values if not parameter.low <= one <= parameter.high]
            low, high = (outside[0],) * 2 if outside else (min(value.values), max(value.values))
        else:
            low, high = value if isinstance(value, tuple | list) else (value, value)
        if not parameter.low <= low <= high <= parameter.high:
            raise InputError(
                f"{parameter.name} must lie within {parameter.low:g} to {parameter.high:g} with low <= high; "
                f"got {low:g}" + (f":{high:g}." if isinstance(value, tuple | list) else ".")
            )
        if isinstance(value, Values):
            if parameter.whole and not all(float(one).is_integer() for one in value.values):
                raise InputError(
                    f"{parameter.name} takes whole numbers; got {', '.join(f'{one:g}' for one in value.values)}."
                )
            columns.append(value.column(noise.cases))
            continue
        if parameter.whole and not (float(low).is_integer() and float(high).is_integer()):
            raise InputError(
                f"{parameter.name} takes whole numbers; got {low:g}" + (f":{high:g}." if high > low else ".")
            )
        draw = uniform[:, column]
        columns.append(low + ((high - low + 1) * draw).floor() if parameter.whole else low + (high - low) * draw)
    return torch.stack(columns, dim=-1) if columns else uniform


def simulate(
    system: System,
    *,
    trajectories: int,
    steps: int,
    only: range | None = None,
    parameters: Mapping[str, ParameterValue] | None = None,
    initial: Mapping[str, float] | None = None,
    grid_shape: tuple[int, ...] | None = None,
    store_shape: tuple[int, ...] | None = None,
    store: str | None = None,
    seed: int = 0,
    spin_up: float | None = None,
    dt: float | None = None,
    inner_dt: float | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    chunk: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Simulate `trajectories` independent runs of `steps` stored states each.

    Everything random about a trajectory depends on (seed, its number) alone: the first 8 of 64 are those of a run of
    8 (to rounding by design, and bit by bit on a CPU with torch's MKL build, where this is tested). No gradients; see
    `integrate` for those.

    Args:
        system: From `get_system`.
        trajectories: Number of runs, >= 1.
        steps: Stored states per run, >= 1, the first at the end of the spin-up, then every `dt`.
        only: Numbers of the trajectories to integrate, in a row; default all. They are the same as in a run of all, of whatever
            length: so parts of one ensemble may have different `steps`.
        parameters: Fixed values or ranges, see `draw_parameters`.
        initial: Settings of the law of initial states, see `with_initial`.
        grid_shape: Points of each axis; default the system's.
        store_shape: Points of each axis of the stored states, at most those of the solver: each output is truncated to
            the Fourier modes of this grid (periodic axes only), or averaged by the system's own `regrid`, while the run goes on with
            all. Default `grid_shape`.
        store: Name of a reduction of the system, to store that of each state (as truncated to `store_shape`) and never all states; default
            the states themselves.
        seed: Non-negative.
        spin_up: Time integrated before the first stored state, >= 0; default the system's.
        dt: Time between stored states; default the system's.
        inner_dt: Largest inner step of the solver; default the system's for this grid.
        dtype: Of the arithmetic and of the states, float32 or float64.
        device: Of the arithmetic and of the states.
        chunk: Trajectories integrated together; bounds the memory beside the result, 256 suits a CPU's cache.
        progress: Called with (done, total), in states computed, spin-up included.

    Raises: InputError, in one line, for input that makes no sense, and for steps so long that a trajectory blows up.
    """
    system = with_initial(system, initial or {})
    info = system.info
    dt = info.dt if dt is None else dt
    spin_up = info.spin_up if spin_up is None else spin_up
    reduced = reduction(system, store)
    for name, value in (("trajectories", trajectories), ("steps", steps), ("chunk", chunk)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}.")
    if seed < 0:
        raise InputError(f"seed must not be negative, got {seed}.")
    for name, value in (("dt", dt), ("inner_dt", info.inner_dt if inner_dt is None else inner_dt)):
        if not 0 < value < float("inf") and not value == info.inner_dt:  # an exact solver has no largest step
            raise InputError(f"{name} must be positive, got {value:g}.")
    if not 0 <= spin_up < float("inf"):
        raise InputError(f"spin_up must be zero or positive, got {spin_up:g}.")
    if dtype not in (torch.float32, torch.float64):
        raise InputError(f"dtype must be float32 or float64, got {dtype}.")

    wanted = range(trajectories) if only is None else only
    if not 0 <= wanted.start < wanted.stop <= trajectories or wanted.step != 1:
        raise ValueError(f"only must be a range of steps of 1 within the {trajectories} trajectories, got {only}.")

    numbers = torch.arange(trajectories)
    noise = MemberNoise(seed, numbers, torch.zeros_like(numbers))
    values = draw_parameters(system, parameters or {}, noise)
    grid = system.grid(grid_shape, values)
    inner_dt = info.default_inner_dt(grid.shape) if inner_dt is None else inner_dt
    stored = grid if store_shape is None else _coarser(system, grid, store_shape, values)
    kept, fields = (stored, info.fields) if reduced is None else (reduced.grid(stored), reduced.fields)
    states = torch.empty((len(wanted), steps, len(fields), *kept.shape), dtype=dtype, device=device)

    def keep(state: Tensor) -> Tensor:
        state = state if stored is grid else (info.regrid or resample)(state, stored.shape)
        return state if reduced is None else reduced.values(state, stored)

    pieces = inner_steps(spin_up, SPIN_UP_PIECE * dt) if spin_up > 0 else 0
    piece = spin_up / max(1, pieces)
    if isinstance(system, Forced) and abs(piece - SPIN_UP_PIECE * dt) > 1e-9 * piece:
        piece = SPIN_UP_PIECE * dt  # whole outputs, and a shorter last piece: gusts come at whole intervals
    warming = piece * torch.arange(1, max(1, pieces), dtype=torch.float64)
    times = torch.cat([warming, spin_up + uniform_times(dt, steps, start=0)])
    discarded, spin_up_steps = len(warming), round(spin_up / dt)
    total, before = len(wanted) * (spin_up_steps + steps), 0

    for start in range(wanted.start, wanted.stop, chunk):
        size = min(chunk, wanted.stop - start)
        part = slice(start - wanted.start, start - wanted.start + size)
        # Filled up to a multiple of ROW_BLOCK: FFT libraries treat the rows of small batches with another kernel.
        rows = torch.arange(start, start + ROW_BLOCK * math.ceil(size / ROW_BLOCK)).clamp(max=wanted.stop - 1)

        def report(done: int, size: int = size, before: int = before) -> None:
            if progress is not None:
                spun = min(1.0, done / pieces) if pieces else 1.0
                progress(before + size * (round(spun * spin_up_steps) + max(0, done - discarded)), total)

        with torch.no_grad():
            own = noise.select(rows)
            state = system.initial(values[rows], grid, own, dtype=dtype, device=device)
            result = integrate(
                system, state, values[rows], grid, times, inner_dt=inner_dt, discard=discarded, observer=report, noise=own,
                store=None if kept is grid else keep,
            )  # fmt: skip
        states[part] = result[:size]
        finite = states[part].isfinite().flatten(1).all(dim=1)
        if not finite.all():
            first = start + int((~finite).nonzero()[0])
            raise InputError(
                f"{info.name}: trajectory {first} is no longer finite; take inner_dt below {inner_dt:g} or more points."
            )
        before += size * (spin_up_steps + steps)

    return Simulation(
        states=states,
        parameters=values[wanted.start : wanted.stop],
        grid=kept,
        dt=dt,
        fields=fields,
        parameter_names=info.parameter_names,
        time_units=info.time_units,
        attributes=_attributes(system, values, seed, spin_up, dt / inner_steps(dt, inner_dt), dtype)
        | ({} if kept is grid else {"solver_shape": list(grid.shape)})
        | ({} if store is None else {"stored": store}),
        static=_static_fields(system, values, wanted, stored) if reduced is None else {},
    )


def reduction(system: System, name: str | None) -> Reduction | None:
    """What to store of each state; None for all. Raises: InputError for a name that the system does not have."""
    if name is None:
        return None
    known = system.info.reductions
    if name not in known:
        raise InputError(
            f"{system.info.name} cannot store {name!r}: besides its states it has {', '.join(known) or 'nothing'}."
        )
    return known[name]


def _coarser(system: System, grid: Grid, shape: tuple[int, ...], parameters: Tensor) -> Grid:
    """The grid of the same box with fewer points. Raises: InputError where that cannot be."""
    if len(shape) != len(grid.axes) or not all(2 <= few <= many for few, many in zip(shape, grid.shape, strict=True)):
        raise InputError(f"store_shape must have one size per axis, each from 2 to that of {grid.shape}; got {shape}.")
    if system.info.regrid is not None:
        system.info.regrid(torch.ones((len(system.info.fields), *grid.shape)), shape)
        return system.grid(shape, parameters)
    if not all(grid.periodic):
        raise InputError("store_shape truncates Fourier series, so it needs periodic axes: leave it out.")
    return periodic_box(grid, shape)


def _static_fields(system: System, values: Tensor, wanted: range, grid: Grid) -> dict[str, Tensor]:
    """Static fields of the equation: (*space) where they are the same for all `values` (trajectory, P), else those of `wanted`."""
    found = {}
    different, rows = values.unique(dim=0, return_inverse=True)
    for name, build in system.info.static.items():
        first = build(different[0], grid)
        if all(torch.equal(build(one, grid), first) for one in different[1:]):
            found[name] = first
        else:
            found[name] = torch.stack([build(different[rows[number]], grid) for number in wanted])
    return found


def _attributes(
    system: System, values: Tensor, seed: int, spin_up: float, inner_step: float, dtype: torch.dtype
) -> dict[str, Any]:
    info = system.info
    attributes: dict[str, Any] = {
        "system": info.name,
        "title": info.description,
        "equation": info.equation,
        "source": f"eddycast simulator, {info.scheme}",
        "inner_step": inner_step,
        "spin_up": spin_up,
        "seed": seed,
        "precision": str(dtype).removeprefix("torch."),
        "parameter_units": {parameter.name: parameter.units for parameter in info.parameters},
    }
    if law := initial_values(system):
        attributes["initial_law"] = ", ".join(f"{name}={value:g}" for name, value in law.items())
    exponents = system.lyapunov_exponent(values)
    known = exponents[exponents.isfinite()]
    if len(known) == len(exponents) and known.min() > 0:
        attributes["lyapunov_time"] = 1.0 / known.mean().item()
    chaotic = system.chaotic(values)
    attributes["chaotic"] = bool(chaotic.all())
    usual = system.chaotic(info.default_parameters()[None].to(values))
    if not chaotic.all() and bool(usual.all()):  # a system that never is needs no warning
        attributes["warning"] = (
            f"{int((~chaotic).sum())} of {len(values)} trajectories have parameters without lasting chaos."
        )
    return attributes
