"""The Lorenz equations of 1963: three variables, one attractor with two wings.

    x' = sigma (y - x),   y' = x (rho - z) - y,   z' = x y - beta z

A truncated model of convection: x is the strength of the rolls, y and z are temperature differences. At the classical
values (10, 28, 8/3) the state circles one of two unstable fixed points, swings over to the other after a number of turns
that cannot be told long before, and so for ever; errors grow at the rate 0.905, by a factor of e in 1.10 time units.
Chaos is not everywhere. At sigma = 10, beta = 8/3 all runs end in a fixed point for rho below 24.06, however long and
wild their beginning; between 24.06 and 24.74 some do; above, windows of periodic orbits open again (rho = 93, 100, 133
and 146 to 166, say). `chaotic` knows them.

The grid is one point: the three variables are three fields on it. Good values to start from: the defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.noise import MemberNoise
from eddycast.numerics.steppers import rk4
from eddycast.simulators.protocols import FieldInfo, Flow, ParameterInfo, SystemInfo, inner_steps

# Leading exponent by rho at sigma = 10, beta = 8/3: 4096 runs of 50 time units each, standard error 0.0006 (published:
# 0.9056).
LYAPUNOV_EXPONENTS: dict[float, float] = {28.0: 0.9051}

# Integer rho from 20 to 250 (sigma = 10, beta = 8/3) at which some of 4 runs (spin-up 200, then 200 time units) had an
# exponent below 0.1, from 25 on; below it all or some end in a fixed point.
SURVEYED = range(20, 251)
PERIODIC = frozenset({93, 100, 114, 132, 133, *range(146, 167), 181, 209, 214, *range(216, 251)})


@dataclass(frozen=True)
class Lorenz63:
    """Classical Runge-Kutta. Relative error after 1 time unit at the classical values, worst of 64 starts: 1.4e-5 at the
    inner step 0.005, 2.1e-4 at 0.01; of order 4."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="lorenz-63",
        description="Lorenz equations of 1963: three variables, chaos on two wings.",
        equation="x' = sigma (y - x), y' = x (rho - z) - y, z' = x y - beta z",
        fields=(
            FieldInfo("x", "1", "strength of the convection"),
            FieldInfo("y", "1", "horizontal temperature difference"),
            FieldInfo("z", "1", "departure of the vertical temperature profile from a linear one"),
        ),
        parameters=(
            ParameterInfo("sigma", 10.0, 1.0, 30.0, "1", "Prandtl number"),
            ParameterInfo("rho", 28.0, 0.0, 250.0, "1", "Rayleigh number over its critical value"),
            ParameterInfo("beta", 8 / 3, 0.1, 8.0, "1", "aspect ratio of the rolls"),
        ),
        shape=(1,),
        dt=0.025,
        inner_dt=0.005,
        spin_up=25.0,
        scheme="classical Runge-Kutta of order 4",
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """One axis with one point, without extent. Raises: InputError for any other shape."""
        if shape not in (None, (1,)):
            raise InputError(f"{self.info.name} has no space, its grid is one point (1); got {shape}.")
        return Grid((Axis("point", (0.0,), ("open", "open")),))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Normal about (0, 0, rho - 1), between the two unstable points, standard deviation 8; (*batch, 3, 1)."""
        state = 8.0 * noise.draw((3, 1), key=(0, 0, "initial"), dtype=torch.float64)
        centre = torch.zeros_like(state)
        centre[..., 2, 0] = parameters[..., 1].to(centre) - 1
        return (state + centre).to(device=device, dtype=dtype)

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
        """The map of (*batch, 3, 1) over `duration`."""
        num_steps = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        sigma, rho, beta = parameters.to(device=device, dtype=dtype)[..., None].unbind(-2)  # (*batch, 1), or (1,)

        def tendency(state: Tensor) -> Tensor:
            x, y, z = state.unbind(-2)
            return torch.stack([sigma * (y - x), x * (rho - z) - y, x * y - beta * z], dim=-2)

        step = rk4(tendency, duration / num_steps)

        def flow(state: Tensor) -> Tensor:
            for _ in range(num_steps):
                state = step(state)
            return state

        return flow

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """Measured exponent for the parameters of the table `LYAPUNOV_EXPONENTS`, NaN for others, (*batch) float64."""
        values = []
        for sigma, rho, beta in parameters.detach().double().reshape(-1, 3).tolist():
            known = [value for key, value in LYAPUNOV_EXPONENTS.items() if abs(rho - key) < 1e-3]
            values.append(known[0] if known and _classical(sigma, beta) else math.nan)
        return torch.tensor(values, dtype=torch.float64).reshape(parameters.shape[:-1])

    def chaotic(self, parameters: Tensor) -> Tensor:
        """True where the surveys found chaos in every run, (*batch) bool.

        At sigma = 10, beta = 8/3 that is so above the loss of stability of the fixed points, at rho = 24.74, save where
        the nearest integer rho has a periodic orbit. For sigma from 8 to 16 and beta from 2 to 3 it is so from that loss,
        rho = sigma (sigma + beta + 3) / (sigma - beta - 1), up to 50. Elsewhere False: not surveyed.
        """
        values = []
        for sigma, rho, beta in parameters.detach().double().reshape(-1, 3).tolist():
            unstable = sigma > beta + 1 and rho > sigma * (sigma + beta + 3) / (sigma - beta - 1)
            if _classical(sigma, beta):
                values.append(unstable and rho < SURVEYED.stop and round(rho) not in PERIODIC)
            else:
                values.append(unstable and 8 <= sigma <= 16 and 2 <= beta <= 3 and rho <= 50)
        return torch.tensor(values, dtype=torch.bool).reshape(parameters.shape[:-1])


def _classical(sigma: float, beta: float) -> bool:
    """Whether these are the values of 1963, to the digits that a command line gives."""
    return abs(sigma - 10) < 1e-3 and abs(beta - 8 / 3) < 1e-3
