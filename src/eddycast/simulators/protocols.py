"""What every simulated system looks like: a description, a grid, initial states and a flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise

Flow = Callable[[Tensor], Tensor]


class BoundaryValues(Protocol):
    """What a system knows of its states at the boundary, whatever happens inside."""

    def __call__(
        self,
        states: Tensor,
        *,
        start: Tensor,
        parameters: Tensor,
        static: Mapping[str, Tensor],
        time: Tensor,
        grid: Grid,
    ) -> Tensor:
        """The states with those values; all others as they are, and applied again it changes nothing.

        Args:
            states: (batch, time, channel, *space).
            start: State at the start of the forecast, (batch, channel, *space).
            parameters: (batch, P).
            static: Static fields by name, each (batch, *space).
            time: Of each state, in time units, (batch, time), float64. It counts from the start of the run, spin-up included, where the
                system is not `autonomous`, otherwise from the first state of the data.
            grid: Of the states.
        """
        ...


@dataclass(frozen=True)
class FieldInfo:
    """One channel of a state; `vector` names the vector of which it is a component, if any."""

    name: str
    units: str = "1"
    long_name: str = ""
    standard_name: str = ""
    vector: str = ""


@dataclass(frozen=True)
class ParameterInfo:
    """One scalar parameter: `default` inside the closed range [low, high] in which the solver is meant to work.

    `whole` says that it takes whole numbers only (and so has no derivative); `label` that such a number names a random draw (a
    geometry) and measures nothing: left out, it is drawn from the whole range for each trajectory.
    """

    name: str
    default: float
    low: float
    high: float
    units: str = "1"
    long_name: str = ""
    whole: bool = False
    label: bool = False


@dataclass(frozen=True)
class InitialInfo:
    """One setting of a system's law of initial states, a field of the same name of the system.

    No parameter of the equation, so no network is told it. `default` None: absent, and what then holds stands in `long_name`.
    """

    name: str
    default: float | None
    low: float
    high: float
    long_name: str
    whole: bool = False


@dataclass(frozen=True)
class Reduction:
    """What may be stored of each state instead of the state: less, so that a run cannot go on from it.

    To add one: an entry in `SystemInfo.reductions` of its system. `simulate(store=NAME)`, `--store NAME` and the manifest then know it.

    Args:
        long_name: What it is.
        fields: One entry per channel of the result.
        grid: From the grid of the states to its own.
        values: From states (*batch, channel, *space) and their grid to the result (*batch, channel, *its space).
    """

    long_name: str
    fields: tuple[FieldInfo, ...]
    grid: Callable[[Grid], Grid]
    values: Callable[[Tensor, Grid], Tensor]

    def __call__(self, states: Tensor, grid: Grid) -> tuple[Tensor, Grid, tuple[FieldInfo, ...]]:
        return self.values(states, grid), self.grid(grid), self.fields


@dataclass(frozen=True)
class SystemInfo:
    """Everything about a system that is not mathematics.

    Args:
        name: Name on the command line, lower case with hyphens.
        description: One line.
        equation: The equation as text.
        fields: One entry per channel.
        parameters: One entry per column of `parameters` (*batch, P), in this order.
        shape: Default number of points of each axis.
        dt: Default time between stored states.
        inner_dt: Default largest inner step of the solver.
        spin_up: Time after which the initial state is forgotten.
        time_units: Unit of all times, `1` where the problem is dimensionless.
        scheme: Numerical scheme in one line, for the provenance of the data.
        advective: True where the inner step is bound by the time to cross a grid cell, so that it must shrink on grids
            finer than `shape`; see `default_inner_dt`.
        initial: Settings of the law of initial states.
        static: Fields of the equation that do not change in time (a force), by name: each from the parameters of one run,
            (P,), and the grid, (*space).
        regrid: From states (*batch, channel, *space) and other numbers of points to the states there, for systems whose points are
            cells; raises InputError for numbers that it cannot treat. None: by Fourier series.
        boundary_values: What forecasts of the system keep at its boundary; None for nothing.
        autonomous: False where the equation depends on time itself. The clock of its data then begins at the start of the run, so that
            the first state stands at `spin_up`, otherwise at that state.
        extent: From parameters (*batch, P) to the length of each axis (*batch, axis), where a parameter sets it; None where it is fixed.
        reductions: What may be stored instead of the states, by name; see `simulate(store=...)`.
    """

    name: str
    description: str
    equation: str
    fields: tuple[FieldInfo, ...]
    parameters: tuple[ParameterInfo, ...]
    shape: tuple[int, ...]
    dt: float
    inner_dt: float
    spin_up: float
    time_units: str = "1"
    scheme: str = ""
    advective: bool = False
    initial: tuple[InitialInfo, ...] = ()
    static: Mapping[str, Callable[[Tensor, Grid], Tensor]] = field(default_factory=dict)
    regrid: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None
    boundary_values: BoundaryValues | None = None
    autonomous: bool = True
    extent: Callable[[Tensor], Tensor] | None = None
    reductions: Mapping[str, Reduction] = field(default_factory=dict)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    def default_parameters(self) -> Tensor:
        """Defaults of all parameters, (P,), float64."""
        return torch.tensor([parameter.default for parameter in self.parameters], dtype=torch.float64)

    def default_inner_dt(self, shape: tuple[int, ...]) -> float:
        """Largest inner step on a grid of this shape: `inner_dt`, less in proportion on finer ones if `advective`."""
        if not self.advective:
            return self.inner_dt
        return self.inner_dt / max([1.0, *(points / usual for points, usual in zip(shape, self.shape, strict=True))])


class System(Protocol):
    """A PDE that we can simulate; `simulators/__init__.py` says how to add one."""

    info: ClassVar[SystemInfo]

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Grid with `shape` points (default: that of `info`) for these parameters (*batch, P) (default: the defaults).

        Where the extent differs between batch entries the coordinates are relative to it (period 1).
        Raises: InputError for a shape or an extent that the solver cannot treat.
        """
        ...

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Random states from which to spin up, (*batch, channel, *space), for `parameters` (*batch, P).

        `noise` has that batch; all randomness comes from it.
        """
        ...

    def flow(
        self,
        parameters: Tensor,
        grid: Grid,
        duration: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inner_dt: float | None = None,
    ) -> Flow:
        """The map of states (*batch, channel, *space) over `duration`, by equal inner steps of at most `inner_dt`.

        `parameters` is (*batch, P) or (P,). Whatever does not depend on the state is computed here, once, so that the
        map can be applied again and again; it is pure and differentiable.
        """
        ...

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Leading Lyapunov exponent where it is known, NaN elsewhere, for parameters (*batch, P): shape (*batch)."""
        ...

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True where runs are known, or can be expected, to be chaotic, for parameters (*batch, P): bool (*batch)."""
        ...


class ForcedFlow(Protocol):
    """The map of states over a fixed duration under random forcing, one realisation for each address."""

    def __call__(self, state: Tensor, noise: MemberNoise, step: int) -> Tensor:
        """States (*batch, channel, *space) one duration later.

        Args:
            state: (*batch, channel, *space).
            noise: Addresses of the batch, (*batch).
            step: Number of this step along the trajectory. Every draw has the key (step, inner step, site), so that increments of
                different steps are independent and those of the same step are the same in any batch, process or restart.
        """
        ...


@runtime_checkable
class Forced(Protocol):
    """What a `System` has beside its `flow` when it is forced at random, white in time.

    The two describe one Markov process: `flow` is its map without the forcing, pure as everywhere (for a linear system that is the
    conditional mean), `forced_flow` the process itself. `simulate` and forecasts of the solver follow the latter.
    """

    def forced_flow(
        self,
        parameters: Tensor,
        grid: Grid,
        duration: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inner_dt: float | None = None,
    ) -> ForcedFlow:
        """As `System.flow`, with the forcing. What depends on neither state nor noise is computed here, once.

        The law of the result does not depend on how a time is cut into durations (exactly, or to the order of the scheme); the realisation
        does.
        """
        ...


def inner_steps(duration: float, inner_dt: float) -> int:
    """Number of equal steps of at most `inner_dt` that make up `duration` (to rounding).

    Raises: InputError for a step that is not positive.
    """
    if not inner_dt > 0:
        raise InputError(f"The inner step must be positive, got {inner_dt:g}: leave it out for the system's default.")
    steps = duration / inner_dt
    return max(1, int(-(-(steps * (1 - 1e-9)) // 1)))
