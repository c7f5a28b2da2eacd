"""The numerical solver as a forecaster: the oracle of perfect-model experiments, and a baseline on coarser grids and steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_box
from eddycast.noise import MemberNoise
from eddycast.numerics.truncated import resample
from eddycast.simulators import System, inner_steps, integrate

WINDOW = 33
WHOLE_FORECAST = 2**20


class SolverModel:
    """Integrates each member from the last known state; any lead time is possible. Model space must be physical space.

    Where the system is forced at random each member has a forcing of its own: members are draws from the exact law of what follows.

    Args:
        system: What to integrate.
        perturbation: Size of the error of the initial state relative to its own standard deviation over space; white noise on the
            grid, drawn for every member at the first window. 0 starts all members from the truth. On a grid of one point: relative
            to the root mean square of the state's fields.
        inner_dt: Largest inner step; default the system's for the grid on which it is solved.
        grid_shape: Points per axis on which to solve, along periodic axes; default those of the states. Start and outputs pass from one
            grid to the other by their Fourier series; where the system has its own `regrid`, by that, along any axes. Fewer points lose
            the modes above their own, for good: the cheap baseline. With more points the scales that the states lack start empty at
            the start of the forecast (and there alone, since it is one window), which is where this oracle errs.
    """

    context = 1
    overlap = 1
    continuous = True

    def __init__(
        self,
        system: System,
        *,
        perturbation: float = 0.0,
        inner_dt: float | None = None,
        grid_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.system = system
        self.perturbation = perturbation
        self.inner_dt = inner_dt
        self.grid_shape = grid_shape
        self.window = WINDOW if grid_shape is None else WHOLE_FORECAST

    def steps_per_output(self, grid: Grid, dt: float) -> int:
        """Inner steps of one dt, for states on `grid`."""
        shape = grid.shape if self.grid_shape is None else self.grid_shape
        return inner_steps(dt, self.system.info.default_inner_dt(shape) if self.inner_dt is None else self.inner_dt)

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        last = int(known_mask.nonzero().max())
        start = known[:, last].to(torch.float64)
        if window == 0 and self.perturbation > 0:
            kick = noise.draw(start.shape[1:], key=(0, 0, "perturbation"), dtype=start.dtype, device=start.device)
            space = tuple(range(-len(conditions.grid.axes), 0))
            if conditions.grid.num_points > 1:
                scale, kick = start.std(dim=space, keepdim=True), kick - kick.mean(dim=space, keepdim=True)
            else:
                scale = start.square().mean(dim=1, keepdim=True).sqrt()
            start = start + self.perturbation * scale * kick
        new = ~known_mask
        times = (lead_times[new] - lead_times[last]) * conditions.dt
        parameters = conditions.parameters.to(torch.float64)
        given = conditions.grid
        # Other numbers of steps than those of a simulation: a member must not get the forcing of the truth.
        forcing: Any = {"noise": noise, "first_step": (window + 1) * WHOLE_FORECAST}
        if self.grid_shape is None or self.grid_shape == given.shape:
            states = integrate(self.system, start, parameters, given, times, inner_dt=self.inner_dt, **forcing)
        else:
            regrid = self.system.info.regrid
            move = resample if regrid is None else regrid
            states = integrate(
                self.system,
                move(start, self.grid_shape),
                parameters,
                regridded(given, self.grid_shape) if regrid is None else self.system.grid(self.grid_shape, parameters),
                times,
                inner_dt=self.inner_dt,
                store=lambda state: move(state, given.shape),
                **forcing,
            )
        if not bool(states.isfinite().all()):
            raise InputError(
                f"The solver of {self.system.info.name} left the range of numbers: take a smaller inner_dt, or more points."
            )
        return torch.cat([known[:, ~new], states.to(known)], dim=1)


def regridded(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The same periodic box with other points. Raises: InputError for bounded axes, or another number of axes."""
    if not all(grid.periodic):
        raise InputError(
            f"A solver on another grid needs periodic axes, {', '.join(grid.names)} are not all: leave grid out."
        )
    if len(shape) != len(grid.axes) or min(shape) < 1:
        raise InputError(f"The solver's grid needs {len(grid.axes)} positive numbers of points, got {list(shape)}.")
    return periodic_box(grid, shape)
