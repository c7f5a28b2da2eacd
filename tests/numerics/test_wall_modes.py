"""Modes between walls: exact eigenvalues with spectral convergence, orthogonality, walls; points and weights against another formula."""

import math
from itertools import pairwise

import pytest
import torch

from eddycast.data import quadrature as formulas
from eddycast.numerics.wall_modes import (
    chebyshev_interpolation,
    chebyshev_points,
    chebyshev_values,
    chebyshev_weights,
    dirichlet_modes,
    legendre_values,
    neumann_modes,
    quadrature,
    stokes_modes,
)

WALLS = torch.tensor([0.0, 1.0], dtype=torch.float64)
WAVES = torch.tensor([0.01, 1.0, 3.117, 20.0, 100.0], dtype=torch.float64)


def gram(values, weights):
    return values.mT @ (weights[:, None] * values)


@pytest.mark.parametrize("number", [5, 16, 31, 32, 100])
def test_points_and_weights_are_those_of_the_chebyshev_rule(number):
    """Fejer's weights in closed form; polynomials up to degree number - 1 are integrated and interpolated exactly."""
    points, weights = chebyshev_points(number), chebyshev_weights(number)
    assert (points[1:] > points[:-1]).all() and points[0] > 0 and points[-1] < 1
    closed = torch.from_numpy(formulas.chebyshev_weights(points.numpy()))
    assert (weights - closed).abs().max() < 1e-14
    targets = torch.linspace(0, 1, 17, dtype=torch.float64)
    matrix = chebyshev_interpolation(number, targets)
    for degree in (0, 1, number // 2, number - 1):
        assert (weights @ points**degree).item() == pytest.approx(1 / (degree + 1), abs=1e-14)
        assert (matrix @ points**degree - targets**degree).abs().max() < 1e-14 * number
    if number == 5:  # one degree more is beyond it, by the Chebyshev polynomial of degree 5 over 2 * 4^(5 - 1)
        assert (matrix @ points**5 - targets**5).abs().max().item() == pytest.approx(1 / 512, rel=1e-9)


def test_chebyshev_and_legendre_values_follow_their_definitions():
    y = torch.linspace(0, 1, 9, dtype=torch.float64)
    z = 2 * y - 1
    assert torch.allclose(chebyshev_values(y, 4), torch.stack([z**0, z, 2 * z**2 - 1, 4 * z**3 - 3 * z], dim=1))
    third = (5 * z**3 - 3 * z) / 2
    assert torch.allclose(legendre_values(y, 4)[:, 3], third)
    assert torch.allclose(legendre_values(y, 4, 1)[:, 3], 15 * z**2 - 3)  # d/dy = 2 d/dz
    assert torch.allclose(legendre_values(y, 4, 2)[:, 3], 60 * z)


def test_gauss_legendre_points_integrate_degree_2n_minus_1():
    nodes, weights = quadrature(8)
    for degree in range(16):
        assert (weights @ nodes**degree).item() == pytest.approx(1 / (degree + 1), abs=1e-15)
    assert abs((weights @ nodes**16).item() - 1 / 17) > 1e-11


@pytest.mark.parametrize("build, first", [(dirichlet_modes, 1), (neumann_modes, 0)])
def test_scalar_modes_are_sines_and_cosines(build, first):
    """Rates (j pi)^2, converging spectrally; orthonormal, and diagonal in the Dirichlet integral."""
    exact = (math.pi * torch.arange(first, first + 6, dtype=torch.float64)) ** 2
    errors = [(build(number).rates[:6] - exact).abs().max().item() for number in (10, 14, 18, 28)]
    assert all(after < before / 50 for before, after in pairwise(errors[:3])) and errors[3] < 1e-9
    modes = build(32)
    nodes, weights = quadrature(48)
    assert (gram(modes.values(nodes), weights) - torch.eye(len(modes.rates))).abs().max() < 1e-12
    stiffness = gram(modes.values(nodes, 1), weights)
    assert ((stiffness - modes.rates.diag()).abs() / (1 + modes.rates).outer(1 + modes.rates).sqrt()).max() < 1e-11
    wave = (math.sqrt(2) * (torch.sin if first else torch.cos)(3 * math.pi * nodes)).abs()
    assert (modes.values(nodes)[:, 3 - first].abs() - wave).abs().max() < 1e-10
    if first:
        assert modes.values(WALLS).abs().max() < 1e-14
    else:
        assert modes.rates[0] == 0 and (modes.values(nodes)[:, 0].abs() - 1).abs().max() < 1e-13


def test_stokes_rates_solve_the_dispersion_relation():
    """lambda = k^2 + q^2 with q tan(q / 2) = -k tanh(k / 2) (even) or q cot(q / 2) = k coth(k / 2) (odd), in turn."""
    for wave, rates in zip(WAVES.tolist(), stokes_modes(40, WAVES).rates, strict=True):
        for index in range(6):
            q = math.sqrt(rates[index].item() - wave**2)
            cosine, sine = math.cos(q / 2), math.sin(q / 2)
            even = q * sine * math.cosh(wave / 2) + wave * math.sinh(wave / 2) * cosine
            odd = q * cosine * math.sinh(wave / 2) - wave * math.cosh(wave / 2) * sine
            scale = (q + wave) * math.cosh(wave / 2)
            assert abs(even if index % 2 == 0 else odd) < 1e-7 * scale, (wave, index)
    errors = [
        (stokes_modes(n, WAVES).rates[2, :3] - stokes_modes(40, WAVES).rates[2, :3]).abs().max() for n in (9, 12, 15)
    ]
    assert errors[1] < errors[0] / 30 and errors[2] < errors[1] / 30


def test_stokes_modes_are_clamped_orthonormal_and_decoupled():
    modes = stokes_modes(32, WAVES)
    nodes, weights = quadrature(48)
    square = WAVES[:, None, None] ** 2
    g, slope, bend = (modes.values(nodes, order) for order in range(3))
    energy = gram(slope, weights) + square * gram(g, weights)
    assert (energy - torch.eye(28)).abs().max() < 1e-12
    friction = gram(bend, weights) + 2 * square * gram(slope, weights) + square**2 * gram(g, weights)
    scale = (modes.rates[:, :, None] * modes.rates[:, None, :]).sqrt()
    assert ((friction - torch.diag_embed(modes.rates)).abs() / scale).max() < 1e-9
    assert modes.values(WALLS).abs().max() < 1e-13 and modes.values(WALLS, 1).abs().max() < 1e-11
    assert (modes.rates[:, 1:] > modes.rates[:, :-1]).all()
