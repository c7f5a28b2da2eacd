"""Convection between two walls in modes: waves along x times the Dirichlet and Stokes modes of `numerics.wall_modes` along y.

    velocity (u, v) = sum_kj s_kj (g_kj'(y), -i k g_kj(y)) exp(i k x),    buoyancy b = 1 - y + sum_kj t_kj X_j(y) exp(i k x)

Every such state has no divergence, rests at the walls and has their buoyancy. Diffusion multiplies each coefficient by a rate, the
velocity modes are orthonormal (energy = sum |s|^2 / 2), and projecting the equations on the modes removes the pressure. The mean flow
along x, k = 0, consists of Dirichlet modes.

Coefficients are (2, wave, mode, group, row, 2): of s and t, real and imaginary part last. Products are formed on 3/2 times as many points
along both axes, equidistant and Gauss-Legendre, so that the Galerkin integrals are exact: without diffusion energy and variance change by
what buoyancy and the mean gradient put in, and by nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from eddycast.numerics.wall_modes import (
    chebyshev_interpolation,
    chebyshev_points,
    dirichlet_modes,
    neumann_modes,
    quadrature,
    stokes_modes,
)


@dataclass(frozen=True, eq=False)
class ConvectionModes:
    """Everything that depends on grid and length alone; M quadrature points and N stored points along y, J = N - 2 modes.

    Args:
        wavenumbers: k >= 0, (wave, 1, 1).
        rates: Decay rates of s and t over viscosity and diffusivity, (2, wave, J).
        flow: Stream function, u and vorticity of each flow mode at the quadrature points, (wave, 3 M, J).
        buoyancy: Buoyancy modes there, (wave, M, J).
        test_flow: Weighted u and stream function, (wave, J, 2 M): integrals against the flow modes.
        test_buoyancy: Weighted modes and their slopes, (wave, J, 2 M).
        project_flow: From (u, v / (-i k)) on the stored points to s, (wave, J, 2 N).
        project_buoyancy: From b - (1 - y) there to t, (wave, J, N).
        stored_flow: Stream function and u of each mode on the stored points, (wave, 2 N, J).
        stored_buoyancy: (wave, N, J).
        curvature: g'' at y = 0 and 1, (wave, 2, J): vorticity with the other sign, zero for k = 0.
        pressure_rates: eta + k^2, infinite for the constant, (wave, N, 1).
        test_pressure: Weighted Neumann modes and their slopes, (wave, N, 2 M).
        pressure_ends: Neumann modes at y = 0 and 1, (N, 2).
        stored_pressure: Neumann modes on the stored points, (wave, N, N).
        conduction: 1 - y at the quadrature points, and on the stored ones, (M,) and (N,).
        points: Points along x of the grid and of the products.
    """

    wavenumbers: Tensor
    rates: Tensor
    flow: Tensor
    buoyancy: Tensor
    test_flow: Tensor
    test_buoyancy: Tensor
    project_flow: Tensor
    project_buoyancy: Tensor
    stored_flow: Tensor
    stored_buoyancy: Tensor
    curvature: Tensor
    pressure_rates: Tensor
    test_pressure: Tensor
    pressure_ends: Tensor
    stored_pressure: Tensor
    conduction: tuple[Tensor, Tensor]
    points: tuple[int, int]

    def to(self, dtype: torch.dtype, device: torch.device | str) -> ConvectionModes:
        """All tables in another precision, elsewhere."""
        moved = {
            field.name: value.to(device=device, dtype=dtype)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        bottom, top = (part.to(device=device, dtype=dtype) for part in self.conduction)
        return ConvectionModes(**moved, conduction=(bottom, top), points=self.points)

    def tendency(self, modes: Tensor) -> Tensor:
        """All but diffusion, shape of `modes`: advection, the force of buoyancy, and ascent along the mean gradient.

            s' = int u_j (v w) + i k int g_j (b - u w),    t' = int X_j (v - i k u b) + int X_j' v b

        with the vorticity w: u . grad u = (-v w, u w) + grad(|u|^2 / 2), and gradients are orthogonal to the modes.
        """
        ascent, fields = self._on_quadrature(modes)
        ascent_x, along_x, curl, warmth = fields.chunk(4, dim=1)
        products = (
            ascent_x * curl,
            torch.addcmul(warmth, along_x, curl, value=-1),
            along_x * warmth,
            ascent_x * warmth,
        )
        lift, push, drift, climb = self._spectrum(torch.cat(products, dim=1)).chunk(4, dim=1)
        wave = 1j * self.wavenumbers
        flow = torch.bmm(self.test_flow, _real(torch.cat([lift, wave * push], dim=1)))
        buoyancy = torch.bmm(self.test_buoyancy, _real(torch.cat([ascent - wave * drift, climb], dim=1)))
        return torch.stack([flow, buoyancy]).reshape(modes.shape)

    def project(self, state: Tensor) -> Tensor:
        """Coefficients (2, wave, J, group, row, 2) of what the modes can say of `state` (group, row, 4, n_x, n_y).

        That is the nearest state in the mean squares of velocity and buoyancy. Pressure is not read.
        """
        spectrum = torch.fft.rfft(state, dim=-2, norm="forward")[..., : len(self.wavenumbers), :]
        buoyancy, _, along, across = spectrum.permute(2, 3, 4, 0, 1).flatten(3).unbind(0)  # (wave, n_y, column)
        rest = torch.zeros_like(buoyancy)
        rest[0] = self.conduction[1][:, None]
        flow = torch.bmm(self.project_flow, _real(torch.cat([along, 1j * self.wavenumbers * across], dim=1)))
        warmth = torch.bmm(self.project_buoyancy, _real(buoyancy - rest))
        return torch.stack([flow, warmth]).unflatten(-1, (*state.shape[:2], 2))

    def state(self, modes: Tensor, viscosity: Tensor) -> Tensor:
        """The state (group, row, 4, n_x, n_y) of coefficients; viscosity is (row,)."""
        flow, buoyancy = modes.flatten(3)
        stream, along = _complex(torch.bmm(self.stored_flow, flow)).chunk(2, dim=1)
        warmth = _complex(torch.bmm(self.stored_buoyancy, buoyancy))
        pressure = _complex(torch.bmm(self.stored_pressure, _real(self.pressure(modes, viscosity))))
        columns = torch.stack([warmth, pressure, along, -1j * self.wavenumbers * stream])
        values = torch.fft.irfft(columns, n=self.points[0], dim=1, norm="forward")  # (4, n_x, n_y, column)
        rest = torch.zeros_like(values)
        rest[0] = self.conduction[1][:, None]
        return (values + rest).unflatten(-1, modes.shape[3:5]).permute(3, 4, 0, 1, 2)

    def pressure(self, modes: Tensor, viscosity: Tensor) -> Tensor:
        """Coefficients of the pressure in the Neumann modes, complex, (wave, N, group * row); its mean is zero.

        From the divergence of the momentum equation against each Q, where the time derivative drops out and friction leaves what it
        does at the walls:

            int grad Q . grad p = int grad Q . (b e_y - u . grad u) + nu [Q v'']_0^1
        """
        fields = self._on_quadrature(modes)[1]
        ascent, along, curl, warmth = fields.chunk(4, dim=1)
        total = warmth + self.conduction[0][:, None]
        products = (ascent * curl, torch.addcmul(total, along, curl, value=-1), (ascent**2 + along**2) / 2)
        lift, push, head = self._spectrum(torch.cat(products, dim=1)).chunk(3, dim=1)
        wave = 1j * self.wavenumbers
        body = _complex(torch.bmm(self.test_pressure, _real(torch.cat([-wave * lift, push], dim=1))))
        friction = viscosity.expand(modes.shape[3:5]).flatten().to(wave.dtype)
        bending = _complex(torch.bmm(self.curvature, modes[0].flatten(2))) * (-wave * friction)
        sides = self.pressure_ends.to(bending.dtype) @ (bending * bending.new_tensor([[-1.0], [1.0]]))
        values = self.test_pressure[..., : self.test_pressure.shape[-1] // 2]
        coefficients = (body + sides) / self.pressure_rates - _complex(torch.bmm(values, _real(head)))
        constant = torch.ones_like(self.pressure_rates)
        constant[0, 0] = 0.0
        return constant * coefficients

    def _on_quadrature(self, modes: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum of the ascent v, (wave, M, column), and v, u, vorticity and b - (1 - y) on the points, (x, 4 M, column)."""
        flow, buoyancy = modes.flatten(3)
        stream, rest = _complex(torch.bmm(self.flow, flow)).tensor_split([self.buoyancy.shape[1]], dim=1)
        ascent = -1j * self.wavenumbers * stream
        spectrum = torch.cat([ascent, rest, _complex(torch.bmm(self.buoyancy, buoyancy))], dim=1)
        return ascent, torch.fft.irfft(spectrum, n=self.points[1], dim=0, norm="forward")

    def _spectrum(self, values: Tensor) -> Tensor:
        return torch.fft.rfft(values, dim=0, norm="forward")[: len(self.wavenumbers)]


@lru_cache(maxsize=4)
def convection_modes(points_x: int, points_y: int, length: float) -> ConvectionModes:
    """The tables of a grid, float64: waves below the Nyquist frequency of `points_x`, polynomials of degree below `points_y`."""
    waves = (points_x + 1) // 2
    wavenumbers = 2 * math.pi / length * torch.arange(waves, dtype=torch.float64)
    nodes, weights = quadrature(3 * points_y // 2)
    stored = chebyshev_points(points_y)
    walls = torch.tensor([0.0, 1.0], dtype=torch.float64)
    to_nodes = weights[:, None] * chebyshev_interpolation(points_y, nodes)
    thermal, vortical, neumann = (
        dirichlet_modes(points_y),
        stokes_modes(points_y, wavenumbers[1:]),
        neumann_modes(points_y),
    )

    def flow_values(points: Tensor, order: int, mean: Tensor) -> Tensor:
        """A derivative of the stream functions g, (wave, point, J); `mean` (point, J) in place of that of k = 0."""
        return torch.cat([mean[None], torch.nn.functional.pad(vortical.values(points, order), (0, 2))])

    def everywhere(table: Tensor) -> Tensor:
        return table.expand(waves, *table.shape).contiguous()

    square = wavenumbers[:, None, None] ** 2
    mean, slope = thermal.values(nodes), thermal.values(nodes, 1)
    stream, along = flow_values(nodes, 0, 0 * mean), flow_values(nodes, 1, mean)
    curl = square * stream - flow_values(nodes, 2, slope)
    at_rest, mean_stored = torch.zeros(2, points_y - 2, dtype=torch.float64), thermal.values(stored)
    viscous = torch.cat([thermal.rates[None], torch.nn.functional.pad(vortical.rates, (0, 2))])
    pressure_rates = neumann.rates[:, None] + square
    pressure_rates[0, 0] = math.inf
    return ConvectionModes(
        wavenumbers=wavenumbers[:, None, None],
        rates=torch.stack([viscous, thermal.rates + square[..., 0]]),
        flow=torch.cat([stream, along, curl], dim=1),
        buoyancy=everywhere(mean),
        test_flow=torch.cat([along.mT * weights, stream.mT * weights], dim=2),
        test_buoyancy=everywhere(torch.cat([mean.T * weights, slope.T * weights], dim=1)),
        project_flow=torch.cat([along.mT @ to_nodes, stream.mT @ to_nodes], dim=2),
        project_buoyancy=everywhere(mean.T @ to_nodes),
        stored_flow=torch.cat([flow_values(stored, 0, 0 * mean_stored), flow_values(stored, 1, mean_stored)], dim=1),
        stored_buoyancy=everywhere(mean_stored),
        curvature=flow_values(walls, 2, at_rest),
        pressure_rates=pressure_rates,
        test_pressure=everywhere(
            torch.cat([neumann.values(nodes).T * weights, neumann.values(nodes, 1).T * weights], dim=1)
        ),
        pressure_ends=neumann.values(walls).T.contiguous(),
        stored_pressure=everywhere(neumann.values(stored)),
        conduction=(1 - nodes, 1 - stored),
        points=(points_x, 2 * math.ceil(3 * points_x / 4)),
    )


def _complex(columns: Tensor) -> Tensor:
    """(wave, point, 2 column) as complex numbers (wave, point, column)."""
    return torch.view_as_complex(columns.unflatten(-1, (-1, 2)))


def _real(columns: Tensor) -> Tensor:
    return torch.view_as_real(columns).flatten(-2)
