"""Gravity of a periodic box: exact for each mode, no force on the whole, the free-fall time of a sphere."""

import math

import pytest
import torch

from eddycast.numerics.gravity import acceleration, free_fall_time, gravity_kernel, potential
from eddycast.numerics.spectral import derivative

BOX = (60.0, 45.0, 30.0)


def points(shape):
    axes = [length * torch.arange(n, dtype=torch.float64) / n for n, length in zip(shape, BOX, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize("mode", [(1, 0, 0), (0, 2, 0), (0, 0, -3), (2, -1, 3), (-4, 3, 2)])
@pytest.mark.parametrize("shape", [(12, 10, 9), (11, 8, 14)])
def test_each_mode_is_solved_exactly(mode, shape):
    """rho = mean + cos(k.x + 1) has phi = -s cos(k.x + 1) / |k|^2 and g = -s k sin(k.x + 1) / |k|^2; the mean does not attract."""
    k = [2 * math.pi * m / length for m, length in zip(mode, BOX, strict=True)]
    phase = sum(one * x for one, x in zip(k, points(shape), strict=True)) + 1
    squared, strength = sum(one**2 for one in k), 0.37
    density = 5 + phase.cos()
    exact = -strength * torch.stack([one * phase.sin() for one in k]) / squared
    found = acceleration(density, gravity_kernel(shape, BOX), strength)
    assert (found - exact).abs().max() < 1e-13 * exact.abs().max()
    depth = -strength * phase.cos() / squared
    assert (potential(density, BOX, strength) - depth).abs().max() < 1e-13 * depth.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(12, 10, 8), (9, 11, 7)])
def test_the_box_does_not_pull_itself_and_g_is_the_slope_of_the_potential(dtype, shape):
    """For rough densities, Nyquist modes included; strength per batch entry."""
    density = torch.rand(3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype) ** 4
    strength = torch.tensor([0.1, 1.0, 20.0], dtype=dtype)[:, None, None, None]
    found = acceleration(density, gravity_kernel(shape, BOX, dtype=dtype), strength)
    assert found.dtype == dtype and found.shape == (3, 3, *shape)
    force = density[:, None] * found
    eps = torch.finfo(dtype).eps
    assert (force.double().sum(dim=(-3, -2, -1)).abs() <= 4 * eps * force.abs().double().sum(dim=(-3, -2, -1))).all()
    phi = potential(density, BOX, strength)
    orders = torch.eye(3, dtype=torch.int64).tolist()
    slopes = torch.stack([-derivative(phi, BOX, order) for order in orders], dim=1)
    assert (slopes - found).abs().max() < 100 * eps * found.abs().max()


def test_gravity_in_one_and_two_dimensions():
    x = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    line = acceleration(x.cos(), gravity_kernel((16,), (2 * math.pi,)), 2.0)
    assert (line[0] + 2 * x.sin()).abs().max() < 1e-14
    plane = acceleration((x[:, None] + x).cos(), gravity_kernel((16, 16), (2 * math.pi,) * 2), 2.0)
    assert (plane + (x[:, None] + x).sin()).abs().max() < 1e-14


def test_free_fall_time_of_a_sphere():
    """r'' = -G M / r^2 from rest: the time to fall from r = 1 is the integral of dr / |v|, here of r = cos^2 a by midpoints.

    With G M = 4 pi G rho / 3 for r = 1: |v| = sqrt(2 G M (1/r - 1)) = sqrt(2 G M) tan a.
    """
    strength, density = 0.7, torch.tensor([0.2, 3.0], dtype=torch.float64)
    mass = strength * density / 3
    angle = (torch.arange(2000, dtype=torch.float64) + 0.5) * (math.pi / 2 / 2000)
    fall = (2 * angle.cos() ** 2).mean() * (math.pi / 2) / (2 * mass).sqrt()
    assert torch.allclose(free_fall_time(density, strength), fall, rtol=1e-10)
