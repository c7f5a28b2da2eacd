"""Modes between two walls at y = 0 and y = 1: polynomials on which diffusion acts by a factor each.

The space is that of polynomials of degree below n, with what holds at the walls built in. Galerkin's method turns a diffusion problem in it
into a symmetric eigenproblem, and its eigenvectors into coordinates in which the problem is diagonal, for every diffusivity at once:

- Dirichlet modes X_j, zero at the walls:        -X'' = mu X
- Neumann modes Q_j, free at the walls:          -Q'' = eta Q
- Stokes modes, stream functions g_j of velocities (g', -i k g) exp(i k x) with g = g' = 0 at the walls:
                                                 (D^2 - k^2)^2 g = -lambda (D^2 - k^2) g

in the weak sense, with all integrals exact. States live on Chebyshev-Gauss points; integrals are taken on Gauss-Legendre points, with 3/2
times as many the integral of three factors is exact.
Source: Shen (1994), doi:10.1137/0915089, for the bases of Legendre polynomials; that the eigenvectors decouple the modes is linear algebra.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes of one problem.

    Args:
        rates: Eigenvalue of each mode, ascending, (*waves, mode), float64.
        coefficients: Legendre coefficients of each mode on [0, 1], (*waves, n, mode), float64.
    """

    rates: Tensor
    coefficients: Tensor

    def values(self, points: Tensor, order: int = 0) -> Tensor:
        """The derivative of this order at `points` (point,), (*waves, point, mode)."""
        return legendre_values(points, self.coefficients.shape[-2], order) @ self.coefficients


def chebyshev_points(number: int) -> Tensor:
    """Chebyshev-Gauss points of [0, 1], ascending, (number,), float64; the walls are not among them."""
    return torch.sin(_chebyshev_angles(number) / 2) ** 2


def chebyshev_interpolation(number: int, points: Tensor) -> Tensor:
    """Matrix (point, number) from values at the Chebyshev points to those of their polynomial at `points` of [0, 1]."""
    scale = torch.full((number, 1), 2 / number, dtype=torch.float64)
    scale[0] = 1 / number
    return chebyshev_values(points, number) @ (scale * _cosines(_chebyshev_angles(number), number).T)


def chebyshev_values(points: Tensor, number: int) -> Tensor:
    """Chebyshev polynomials T_0 ... T_{number - 1} of 2 y - 1 at `points` of [0, 1], (point, number)."""
    return _cosines(2 * torch.asin(points.clamp(0, 1).sqrt()), number)


def _chebyshev_angles(number: int) -> Tensor:
    """Angles a with 2 y - 1 = -cos a; taken from these a cosine is exact near y = 1 too, from y it is not."""
    return (torch.arange(number, dtype=torch.float64) + 0.5) * (math.pi / number)


def _cosines(angle: Tensor, number: int) -> Tensor:
    order = torch.arange(number, dtype=torch.float64)
    return (1 - 2 * (order % 2)) * torch.cos(order * angle[:, None])


def chebyshev_weights(number: int) -> Tensor:
    """Quadrature weights of the Chebyshev points, (number,), exact for polynomials of degree below `number`; sum 1."""
    nodes, weights = quadrature(number)
    return weights @ chebyshev_interpolation(number, nodes)


def quadrature(number: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre points of [0, 1], ascending, and weights, float64: exact for degrees below 2 number."""
    nodes, weights = legendre.leggauss(number)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def legendre_values(points: Tensor, number: int, order: int = 0) -> Tensor:
    """Derivative of this order in y of the Legendre polynomials P_0 ... P_{number - 1} of 2 y - 1, (point, number)."""
    derived = legendre.legder(np.eye(number), order, scl=2.0) if order else np.eye(number)
    return torch.from_numpy(legendre.legvander(2 * points.numpy() - 1, len(derived) - 1) @ derived)


def dirichlet_modes(number: int) -> Modes:
    """The number - 2 modes X_j, orthonormal: int X_i X_j = delta_ij, int X_i' X_j' = mu_j delta_ij.

    From P_j - P_{j+2}, whose derivatives are orthogonal, so that the masses alone make the eigenproblem.
    """
    basis = torch.zeros(number, number - 2, dtype=torch.float64)
    for j in range(number - 2):
        basis[j, j], basis[j + 2, j] = 1.0, -1.0
    (mass,), (stiffness,) = _products(basis, number, 0), _products(basis, number, 1)
    basis = basis / stiffness.diagonal().sqrt()
    return _decoupled(
        basis, mass / (stiffness.diagonal().outer(stiffness.diagonal())).sqrt(), torch.eye(number - 2).double()
    )


def neumann_modes(number: int) -> Modes:
    """The `number` modes Q_j, orthonormal: int Q_i Q_j = delta_ij, int Q_i' Q_j' = eta_j delta_ij; eta_0 = 0, Q_0 = 1."""
    basis = torch.diag((2 * torch.arange(number, dtype=torch.float64) + 1).sqrt())
    (stiffness,) = _products(basis, number, 1)
    rates, vectors = torch.linalg.eigh(stiffness)
    rates[0] = 0.0
    return Modes(rates, basis @ vectors)


def stokes_modes(number: int, wavenumbers: Tensor) -> Modes:
    """The number - 4 stream functions g_j of each k > 0, orthonormal in energy, with the rates lambda of viscous decay.

        int (g_i' g_j' + k^2 g_i g_j) = delta_ij
        int (g_i'' g_j'' + 2 k^2 g_i' g_j' + k^4 g_i g_j) = lambda_j delta_ij

    Args:
        number: Velocities along y are polynomials of degree below it, 5 or more.
        wavenumbers: k, (wave,), float64, not zero (the mean flow along x is made of Dirichlet modes).
    """
    basis = torch.zeros(number, number - 4, dtype=torch.float64)
    for j in range(number - 4):
        basis[j, j], basis[j + 2, j], basis[j + 4, j] = 1.0, -2 * (2 * j + 5) / (2 * j + 7), (2 * j + 3) / (2 * j + 7)
    (bending,) = _products(basis, number, 2)
    basis = basis / bending.diagonal().sqrt()
    (mass,), (slope,) = _products(basis, number, 0), _products(basis, number, 1)
    squared = wavenumbers[:, None, None] ** 2
    identity = torch.eye(number - 4, dtype=torch.float64)
    return _decoupled(basis, slope + squared * mass, identity + 2 * squared * slope + squared**2 * mass)


def _products(basis: Tensor, number: int, *orders: int) -> list[Tensor]:
    """Integrals of products of the derivatives of basis functions, (mode, mode), for each order."""
    nodes, weights = quadrature(number)
    found = []
    for order in orders:
        values = legendre_values(nodes, number, order) @ basis
        found.append(values.T @ (weights[:, None] * values))
    return found


def _decoupled(basis: Tensor, mass: Tensor, stiffness: Tensor) -> Modes:
    """Eigenvectors of stiffness x = rate mass x, orthonormal in mass, by ascending rate.

    Solved as mass x = stiffness x / rate with a stiffness near the identity: so the slow modes, which matter, are exact
    to rounding, while a solve with the mass would lose as many digits as the fastest rates have.
    """
    lower = torch.linalg.cholesky(stiffness)
    reduced = torch.linalg.solve_triangular(lower, mass, upper=False)
    reduced = torch.linalg.solve_triangular(lower, reduced.mT, upper=False)
    inverse, vectors = torch.linalg.eigh((reduced + reduced.mT) / 2)
    rates = 1 / inverse.flip(-1)
    vectors = torch.linalg.solve_triangular(lower.mT, vectors.flip(-1), upper=True)
    return Modes(rates, basis @ (vectors * rates.sqrt()[..., None, :]))
