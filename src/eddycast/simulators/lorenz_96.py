"""The Lorenz equations of 1996: the common test bed of data assimilation.

    du_i/dt = (u_{i+1} - u_{i-2}) u_{i-1} - u_i + F,   i = 1 ... N, periodic

One variable on a circle of latitude: the quadratic term moves energy about and keeps it, the linear one damps, the
constant one forces. At F = 8 and 40 sites wave packets of about 5 sites drift (their crests to the left, their groups to
the right), grow and break; errors grow at the rate 1.70, so a factor of e takes 0.6 time units (Lorenz called that 3
days). Small F is regular: below 8/9 all is still (u = F), up to about 4 waves travel without change or in cycles.

Good values to start from: the defaults, which are those of nearly every assimilation paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.steppers import rk4
from eddycast.simulators.protocols import FieldInfo, Flow, ParameterInfo, SystemInfo, inner_steps

# Leading exponent by forcing, 40 sites: 32 runs of 300 time units each; standard errors 0.006 to 0.010.
LYAPUNOV_EXPONENTS: dict[float, float] = {6.0: 0.958, 8.0: 1.697, 10.0: 2.298, 12.0: 2.870, 16.0: 3.854}

# Forcings 0, 0.5, ..., 20 with 40 sites, 4 runs each (spin-up 200, then 100 time units), and 3.5 to 5 again with 8 runs
# (500, then 300): up to 4.25 exponents are about zero, from 4.5 on all are above 0.06.
CHAOTIC_FROM = 4.5


@dataclass(frozen=True)
class Lorenz96:
    """Classical Runge-Kutta. Relative error after 1 time unit at F = 8, worst of 64 starts: 8e-3 at the inner step 0.05
    (that of most papers), 3.4e-4 at 0.025, 2.1e-5 at 0.0125; of order 4."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="lorenz-96",
        description="Lorenz equations of 1996: breaking wave packets on a circle of latitude.",
        equation="du_i/dt = (u_{i+1} - u_{i-2}) u_{i-1} - u_i + F",
        fields=(FieldInfo("u", "1", "a quantity of the atmosphere on a circle of latitude"),),
        parameters=(ParameterInfo("forcing", 8.0, 0.0, 20.0, "1", "constant forcing F"),),
        shape=(40,),
        dt=0.05,
        inner_dt=0.025,
        spin_up=20.0,
        scheme="classical Runge-Kutta of order 4",
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Sites 0 to N - 1 of a ring of length N. Raises: InputError for another dimension than 1 or N < 4."""
        shape = self.info.shape if shape is None else shape
        if len(shape) != 1:
            raise InputError(
                f"{self.info.name} is one-dimensional, got a {len(shape)}-D grid {shape}: give one number."
            )
        (sites,) = shape
        if sites < 4:
            raise InputError(f"{self.info.name} needs at least 4 sites, got {sites}.")
        return Grid((periodic_axis("site", sites, float(sites)),))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """u = F plus independent normal numbers at each site, (*batch, 1, sites)."""
        kick = noise.draw((1, *grid.shape), key=(0, 0, "initial"), dtype=torch.float64)
        return (parameters[..., :1, None].to(kick) + kick).to(device=device, dtype=dtype)

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
        """The map of (*batch, 1, sites) over `duration`."""
        num_steps = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        forcing = parameters[..., :1, None].to(device=device, dtype=dtype)  # (*batch, 1, 1), or (1, 1)

        def tendency(u: Tensor) -> Tensor:
            return (u.roll(-1, dims=-1) - u.roll(2, dims=-1)) * u.roll(1, dims=-1) - u + forcing

        step = rk4(tendency, duration / num_steps)

        def flow(state: Tensor) -> Tensor:
            for _ in range(num_steps):
                state = step(state)
            return state

        return flow

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Measured exponent for the forcings of the table `LYAPUNOV_EXPONENTS`, NaN for others, (*batch) float64.

        Of 40 sites. Shorter rings have less: 1.49 at 12 sites, 1.55 at 20, 1.65 at 30; 60 have 1.72 (F = 8, errors 0.02).
        """
        exponent = [LYAPUNOV_EXPONENTS.get(forcing, math.nan) for forcing in parameters[..., 0].flatten().tolist()]
        return torch.tensor(exponent, dtype=torch.float64).reshape(parameters.shape[:-1])

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True from F = 4.5 on, where every run of the survey with 40 sites was chaotic, (*batch) bool."""
        return (parameters[..., 0] >= CHAOTIC_FROM).cpu()
