"""Linear advection and diffusion in one to three dimensions, solved exactly.

    u_t + c (u_x + u_y + u_z) = D (u_xx + u_yy + u_zz)   on [0, 1)^d, periodic, d = 1, 2, 3

Each Fourier mode turns and decays by itself: u_k(t) = u_k(0) exp(-(i c sum k + D |k|^2) t). So any duration is one step
and the solver has no error but rounding: a problem to test everything else with. The velocity c is the same along every
axis (the pattern moves along the grid's diagonal), so that one set of parameters serves all dimensions.

Good values to start from: the defaults, a pattern that goes round once in 2 time units and keeps its shape; D = 0.01
smooths it away in that time. `grid` decides the dimension: (64,), (64, 64) or (32, 32, 32).
"""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.spectral import mode_numbers
from eddycast.simulators.protocols import FieldInfo, Flow, ParameterInfo, SystemInfo

INITIAL_MODES = 4
DECAY = 2.0
AXES = ("x", "y", "z")


@dataclass(frozen=True)
class AdvectionDiffusion:
    """Exact in Fourier space for every mode that the grid holds, whatever the duration."""

    info: ClassVar[SystemInfo] = SystemInfo(
        name="advection-diffusion",
        description="Linear advection and diffusion in 1-D to 3-D, exact: patterns that drift and fade.",
        equation="u_t + c sum_i d_i u = D sum_i d_i^2 u",
        fields=(FieldInfo("u", "1", "concentration of a tracer, less a constant"),),
        parameters=(
            ParameterInfo("velocity", 0.5, -100.0, 100.0, "1", "velocity c along every axis"),
            ParameterInfo("diffusivity", 0.001, 0.0, 10.0, "1", "diffusivity D"),
        ),
        shape=(64,),
        dt=0.05,
        inner_dt=math.inf,
        spin_up=0.0,
        scheme="exact in Fourier space",
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points k / N along each axis. Raises: InputError for other than 1 to 3 axes, or fewer than 4 points along one."""
        shape = self.info.shape if shape is None else shape
        if not 1 <= len(shape) <= 3 or min(shape) < 4:
            raise InputError(f"{self.info.name} needs 1 to 3 axes of at least 4 points each, got {shape}.")
        return Grid(tuple(periodic_axis(name, points, 1.0) for name, points in zip(AXES, shape, strict=False)))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Gaussian random field of mean zero and expected variance 1, (*batch, 1, *space).

        Modes |m_i| <= 4 along each axis with standard deviation proportional to exp(-|m|^2 / 8). The coefficients do
        not depend on the number of points: the same state at every resolution that holds the modes (from 10 on).
        """
        dims = len(grid.axes)
        number = torch.arange(-INITIAL_MODES, INITIAL_MODES + 1, dtype=torch.float64)
        squared = sum(m**2 for m in torch.meshgrid(*[number] * dims, indexing="ij"))
        assert isinstance(squared, Tensor)
        deviation = torch.exp(-squared / (2 * DECAY**2)).masked_fill(squared == 0, 0.0)
        for axis, points in enumerate(grid.shape):
            held = 2 * number.abs() < points
            deviation = deviation * held.reshape([-1 if other == axis else 1 for other in range(dims)])
        deviation = deviation / deviation.square().sum().sqrt()
        coefficients = noise.draw((2, *deviation.shape), key=(0, 0, "initial"), dtype=torch.float64)
        real, imaginary = (deviation * coefficients).unbind(-dims - 1)
        state = torch.complex(real, imaginary)
        for points in grid.shape:  # sums over the first mode axis, and appends a space axis
            angle = 2 * math.pi * number[:, None] * torch.arange(points, dtype=torch.float64) / points
            waves = torch.polar(torch.ones_like(angle), angle)
            modes = string.ascii_lowercase[:dims]
            state = torch.einsum(f"...{modes},{modes[0]}z->...{modes[1:]}z", state, waves)
        return state.real.unsqueeze(-dims - 1).to(device=device, dtype=dtype)

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
        """The map of (*batch, 1, *space) over `duration`, in one step: `inner_dt` changes nothing.

        The highest mode of an axis with an even number of points stands still and only decays, as its slope vanishes at
        the points (`numerics.spectral.derivative` says the same).
        """
        shape, dims = grid.shape, grid.dims
        spread = (...,) + (None,) * (1 + len(shape))
        velocity, diffusivity = (
            column[spread] for column in parameters.to(device=device, dtype=torch.float64).unbind(-1)
        )
        total, squared = torch.zeros((), dtype=torch.float64, device=device), 0.0
        for modes, points in zip(mode_numbers(shape, device), shape, strict=True):
            total = total + 2 * math.pi * modes.masked_fill(2 * modes.abs() == points, 0.0)
            squared = squared + (2 * math.pi * modes) ** 2
        phase, damping = -velocity * total * duration, torch.exp(-diffusivity * squared * duration)
        propagator = torch.polar(torch.ones_like(phase), phase) * damping  # (*batch, 1, *mode), or (1, *mode)
        propagator = propagator.to(dtype.to_complex())

        def flow(state: Tensor) -> Tensor:
            return torch.fft.irfftn(propagator * torch.fft.rfftn(state, dim=dims), s=shape, dim=dims)

        return flow

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """-D (2 pi)^2, the rate of the longest wave; errors of the mean stay and are left out; (*batch) float64."""
        return -((2 * math.pi) ** 2) * parameters[..., 1].to(torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: the equation is linear and damped."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)
