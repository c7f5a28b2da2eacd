"""ETDRK4: exact where the equation is linear, of fourth order where it is smooth, coefficients to rounding."""

import math
from itertools import pairwise

import mpmath
import pytest
import torch

from eddycast.numerics.etdrk import etdrk4, etdrk4_coefficients


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_linear_problem_is_exact_mode_by_mode(dtype, tolerance):
    """N = 0: v(t) = e^{L t} v(0) for growing, neutral, stiff and oscillating modes, whatever the step."""
    for linear in (torch.tensor([0.25, 0.0, -1.0, -1e4], dtype=torch.float64), torch.tensor([0.2 + 3j, -1 - 5j, 0j])):
        v = torch.ones_like(linear).to(torch.complex128 if dtype == torch.float64 else torch.complex64)
        step = etdrk4(
            linear.to(torch.complex128 if linear.is_complex() else torch.float64), torch.zeros_like, 0.5, dtype=dtype
        )
        result = v
        for _ in range(4):
            result = step(result)
        exact = torch.exp(2.0 * linear.to(torch.complex128))
        assert result.dtype == v.dtype
        assert (result - exact).abs().max() < tolerance


def test_constant_forcing_is_exact():
    """v' = L v + c has v = e^{Lt} v0 + c (e^{Lt} - 1) / L: the scheme's weights add up to phi_1 for every z."""
    linear = torch.tensor([-1e4, -50.0, -1.0, -1e-3, 0.0, 0.3], dtype=torch.float64)
    step = etdrk4(linear, lambda v: torch.full_like(v, 0.7), 0.5)
    phi = torch.where(linear == 0, 0.5, torch.expm1(0.5 * linear) / linear.where(linear != 0, 1.0))
    exact = torch.exp(0.5 * linear) * 2.0 + 0.7 * phi
    assert torch.allclose(step(torch.full_like(linear, 2.0)), exact, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("z", [0.0, -1e-8, -1e-3, 0.05, -0.7, -1.0, 2.5, -30.0, -1e3])
def test_coefficients_match_many_digit_arithmetic(z):
    """Against the formulas evaluated with 120 digits; in double precision they lose all digits at small z."""
    with mpmath.workdps(120):
        w = mpmath.mpf(z) if z else mpmath.mpf("1e-18")
        e = mpmath.exp(w)
        exact = (
            mpmath.expm1(w / 2) / w,
            (-4 - w + e * (4 - 3 * w + w**2)) / w**3,
            (2 + w + e * (w - 2)) / w**3,
            (-4 - 3 * w - w**2 + e * (4 - w)) / w**3,
        )
    for dtype in (torch.float64, torch.complex128):
        for got, want in zip(etdrk4_coefficients(torch.tensor([z], dtype=dtype), 32), exact, strict=True):
            assert abs(got.item() - float(want)) < 1e-14 + 1e-12 * abs(float(want))


def errors_of(linear, nonlinear, start, exact, steps):
    errors = []
    for num_steps in steps:
        step, v = etdrk4(linear, nonlinear, 1.0 / num_steps), start
        for _ in range(num_steps):
            v = step(v)
        errors.append((v - exact).abs().max().item())
    return errors


@pytest.mark.parametrize("rate", [-1.0, 0.5, 0.0])
def test_order_four_on_a_smooth_problem(rate):
    """Bernoulli: v' = r v - v^3 has v(t)^-2 = e^{-2rt} v0^-2 + (1 - e^{-2rt}) / r (r = 0: v0^-2 + 2 t)."""
    start = torch.tensor([0.4, 0.9, 1.5], dtype=torch.float64)
    decay = math.exp(-2 * rate)
    exact = (decay * start**-2 + ((1 - decay) / rate if rate else 2.0)) ** -0.5
    linear = torch.full_like(start, rate)
    steps = [32, 64, 128, 256]
    errors = errors_of(linear, lambda v: -(v**3), start, exact, steps)
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(4.0, abs=0.15), (errors, orders)


def test_step_is_differentiable_in_the_linear_part():
    """d/dL of e^{L dt} v0, through the coefficients."""
    linear = torch.tensor([-2.0, 0.5], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, 3.0], dtype=torch.float64)
    etdrk4(linear, torch.zeros_like, 0.25)(v).sum().backward()
    assert torch.allclose(linear.grad, 0.25 * torch.exp(0.25 * linear.detach()) * v)
