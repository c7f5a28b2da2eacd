"""The Kuramoto-Sivashinsky equation with a coefficient before its damping: a family of dynamics on one grid.

    u_t + (u^2 / 2)_x + u_xx + viscosity u_xxxx = 0   on [0, L), periodic

Waves with k^2 < 1 / viscosity grow. In units of length viscosity^(1/2), time viscosity and u viscosity^(-1/2) it is the
equation with viscosity 1 on a domain of length L / viscosity^(1/2): smaller viscosity makes cells smaller and faster, and more of
them. So everything that is known of that equation is known of this one, its Lyapunov exponents included, which makes it a test of emulators
that are told parameters: unlike the length at a fixed distance of the points, viscosity changes the dynamics at each point.

Good values to start from: L = 36, viscosity 0.6 to 1.6, 96 points, output every 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.numerics.spectral import mode_numbers
from eddycast.simulators.kuramoto_sivashinsky import INITIAL_MODES, KuramotoSivashinsky, galerkin_flow
from eddycast.simulators.protocols import Flow, ParameterInfo, SystemInfo, inner_steps


@dataclass(frozen=True)
class KuramotoSivashinskyViscous:
    """Fourier-Galerkin solver, as for viscosity 1; accuracy at step dt is that one's at dt / viscosity.

    Args:
        modes, sines: The initial law, as in `KuramotoSivashinsky`.
    """

    modes: int = INITIAL_MODES
    sines: int | None = None

    info: ClassVar[SystemInfo] = replace(
        KuramotoSivashinsky.info,
        name="kuramoto-sivashinsky-viscous",
        description="Kuramoto-Sivashinsky equation with a damping coefficient: cells of any size on one grid.",
        equation="u_t + (u^2/2)_x + u_xx + viscosity u_xxxx = 0",
        parameters=(
            *KuramotoSivashinsky.info.parameters,
            ParameterInfo("viscosity", 1.0, 0.2, 10.0, "1", "coefficient of the fourth derivative"),
        ),
        shape=(96,),
        dt=0.5,
        inner_dt=0.05,
    )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """As for viscosity 1. Raises: InputError as there, and for points that leave growing waves unresolved."""
        shape = self.info.shape if shape is None else shape
        parameters = self.info.default_parameters() if parameters is None else parameters
        length, viscosity = parameters[..., 0], parameters[..., 1]
        if not viscosity.min().item() > 0:
            raise InputError(f"viscosity must be positive, got {viscosity.min().item():g}.")
        grid = self._standard.grid(shape, parameters[..., :1])
        try:
            self._standard.grid(shape, (length / viscosity.sqrt())[..., None])
        except InputError as error:
            raise InputError(
                f"{str(error).rstrip('.')}, in units of viscosity^(1/2) = {viscosity.min().sqrt().item():.3g}."
            ) from error
        return grid

    @property
    def _standard(self) -> KuramotoSivashinsky:
        return KuramotoSivashinsky(self.modes, self.sines)

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """The law for viscosity 1, (*batch, 1, points)."""
        return self._standard.initial(parameters[..., :1], grid, noise, dtype=dtype, device=device)

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
        """The map of (*batch, 1, points) over `duration`."""
        (points,) = grid.shape
        num_steps = inner_steps(duration, self.info.inner_dt if inner_dt is None else inner_dt)
        length, viscosity = parameters.to(device=device, dtype=torch.float64).unbind(-1)
        (modes,) = mode_numbers((points,), device)
        k = 2 * math.pi * modes / length[..., None, None]
        return galerkin_flow(k, k**2 - viscosity[..., None, None] * k**4, points, duration, num_steps, dtype)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """That of the length L / viscosity^(1/2), divided by viscosity, where it is known, else NaN; (*batch) float64."""
        viscosity = parameters[..., 1].double()
        return self._standard.lyapunov_exponent(self._scaled(parameters)) / viscosity

    def chaotic(self, parameters: Tensor) -> Tensor:
        """As for the length L / viscosity^(1/2), (*batch) bool."""
        return self._standard.chaotic(self._scaled(parameters))

    def _scaled(self, parameters: Tensor) -> Tensor:
        return (parameters[..., 0].double() / parameters[..., 1].double().sqrt())[..., None]
