"""Runge-Kutta steps: orders measured on exact solutions, the linear part exact or stable however stiff, gradients."""

import math
from itertools import pairwise

import pytest
import torch

from eddycast.numerics import steppers
from eddycast.numerics.steppers import ifrk4, imexrk3, rk4

SEMILINEAR = [(ifrk4, 4), (imexrk3, 3)]


def advance(step, v, num_steps):
    for _ in range(num_steps):
        v = step(v)
    return v


def orders_of(step_of, start, exact, steps):
    errors = [(advance(step_of(1.0 / n), start, n) - exact).abs().max().item() for n in steps]
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)], errors


@pytest.mark.parametrize("scheme, order", SEMILINEAR)
@pytest.mark.parametrize("rate", [-1.0, 0.5, 0.0])
def test_order_on_a_smooth_real_problem(scheme, order, rate):
    """Bernoulli: v' = r v - v^3 has v(t)^-2 = e^{-2rt} v0^-2 + (1 - e^{-2rt}) / r (r = 0: v0^-2 + 2 t)."""
    start = torch.tensor([0.4, 0.9, 1.5], dtype=torch.float64)
    decay = math.exp(-2 * rate)
    exact = (decay * start**-2 + ((1 - decay) / rate if rate else 2.0)) ** -0.5
    linear = torch.full_like(start, rate)
    orders, errors = orders_of(lambda dt: scheme(linear, lambda v: -(v**3), dt), start, exact, [32, 64, 128, 256])
    assert orders[-1] == pytest.approx(order, abs=0.15), (errors, orders)
    assert errors[-1] < 1e-7


@pytest.mark.parametrize("scheme, order", SEMILINEAR)
def test_order_on_an_oscillator_with_complex_diagonal(scheme, order):
    """v' = i w v - |v|^2 v: the modulus follows m' = -m^3, the phase turns with w; m(t) = (m0^-2 + 2 t)^(-1/2)."""
    start = torch.tensor([0.8 + 0.3j, -0.4 + 1.0j], dtype=torch.complex128)
    frequency = torch.tensor([2.0, -5.0], dtype=torch.float64)
    modulus = (start.abs() ** -2 + 2.0) ** -0.5
    exact = start / start.abs() * modulus * torch.exp(1j * frequency)
    orders, errors = orders_of(
        lambda dt: scheme(1j * frequency, lambda v: -(v.abs() ** 2) * v, dt), start, exact, [32, 64, 128, 256]
    )
    assert orders[-1] == pytest.approx(order, abs=0.15), (errors, orders)


def test_explicit_order_four():
    """A pendulum in its exact separatrix solution: x = 2 arctan(sinh t), x' = 2 / cosh t, x'' = -sin x."""

    def pendulum(v):
        return torch.stack([v[1], -torch.sin(v[0])])

    start = torch.tensor([0.0, 2.0], dtype=torch.float64)
    exact = torch.tensor([2 * math.atan(math.sinh(1)), 2 / math.cosh(1)], dtype=torch.float64)
    orders, errors = orders_of(lambda dt: rk4(pendulum, dt), start, exact, [16, 32, 64, 128])
    assert orders[-1] == pytest.approx(4.0, abs=0.15), (errors, orders)


def test_explicit_scheme_has_its_stability_polynomial():
    """For v' = z v one step is 1 + z + z^2/2 + z^3/6 + z^4/24; the limits in the docstring are its boundary."""
    z = torch.tensor([-2.785, 2.828j, 0.3 - 0.7j, 1.0], dtype=torch.complex128)
    once = rk4(lambda v: z * v, 1.0)(torch.ones_like(z))
    assert torch.allclose(once, 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24, rtol=1e-13)
    assert once[0].abs() == pytest.approx(1.0, abs=2e-3) and once[1].abs() == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 3e-6)])
def test_integrating_factor_is_exact_mode_by_mode_without_forcing(dtype, tolerance):
    """N = 0: v(t) = e^{L t} v(0) for growing, neutral, stiff and oscillating modes, whatever the step."""
    for linear in (torch.tensor([0.25, 0.0, -1.0, -1e6], dtype=torch.float64), torch.tensor([0.2 + 3j, -1 - 5j, 0j])):
        v = torch.ones_like(linear).to(torch.complex128 if dtype == torch.float64 else torch.complex64)
        result = advance(ifrk4(linear, torch.zeros_like, 0.5, dtype=dtype), v, 4)
        assert result.dtype == v.dtype
        assert (result - torch.exp(2.0 * linear.to(torch.complex128))).abs().max() < tolerance


def test_integrating_factor_misses_a_stiff_balance_as_documented():
    """v' = L v + c with L -> -infinity: the balance is -c / L; the scheme gives dt c / 6, whatever L."""
    for rate in (-1e5, -1e7):
        linear = torch.tensor([rate], dtype=torch.float64)
        result = ifrk4(linear, lambda v: torch.full_like(v, 6.0), 0.1)(torch.zeros(1, dtype=torch.float64))
        assert result.item() == pytest.approx(0.1, rel=1e-10)


@pytest.mark.parametrize("z", [-0.1, -1.0, -10.0, -1e3, -1e8, -3 + 40j, -1e4 + 1e4j])
def test_implicit_part_damps_all_decay(z):
    """|v| falls in every step, and vanishes in one where the decay is stiff (L-stability)."""
    linear = torch.tensor([z])
    linear = linear.to(torch.complex128 if linear.is_complex() else torch.float64)
    once = imexrk3(linear, torch.zeros_like, 1.0)(torch.ones_like(linear)).abs().item()
    assert once < 1
    assert once < 8 / abs(z)
    if abs(z) < 0.2:
        assert once == pytest.approx(math.exp(z), abs=abs(z) ** 4)


def test_implicit_part_keeps_a_stiff_balance():
    """v' = L v + 5 settles at -5 / L within a step of dt |L| = 1e5."""
    held = imexrk3(torch.tensor([-1e6], dtype=torch.float64), lambda v: torch.full_like(v, 5.0), 0.1)
    assert advance(held, torch.ones(1, dtype=torch.float64), 3).item() == pytest.approx(5e-6, rel=1e-4)


@pytest.mark.parametrize("rate", [1e4, 1e6])
def test_stiff_forcing_lowers_the_order_to_one_and_no_further(rate):
    """Prothero-Robinson: v' = -r (v - cos t) - sin t has v = cos t; the clock is the second mode."""
    linear = torch.tensor([-rate, 0.0], dtype=torch.float64)

    def nonlinear(v):
        return torch.stack([rate * torch.cos(v[1]) - torch.sin(v[1]), torch.ones_like(v[1])])

    start, exact = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([math.cos(2.0), 2.0])
    errors = [(advance(imexrk3(linear, nonlinear, 2 / n), start, n) - exact).abs().max().item() for n in (40, 80)]
    assert errors[0] < 0.02
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.1)


def test_additive_tableau_meets_all_conditions_of_order_three():
    """Trees up to order 3 for both halves and every mixture, with one set of abscissae."""
    explicit, implicit = torch.zeros(5, 5, dtype=torch.float64), torch.zeros(5, 5, dtype=torch.float64)
    for row, (first, second) in enumerate(zip(steppers.ARS443_EXPLICIT, steppers.ARS443_IMPLICIT, strict=True), 1):
        explicit[row, : len(first)] = torch.tensor(first, dtype=torch.float64)
        implicit[row, 1 : 1 + len(second)] = torch.tensor(second, dtype=torch.float64)
        implicit[row, row] = steppers.ARS443_DIAGONAL
    c = explicit.sum(dim=1)
    assert torch.allclose(implicit.sum(dim=1), c)
    for outer in (explicit, implicit):
        b = outer[-1]
        moments = (b.sum(), b @ c, b @ c**2, b @ explicit @ c, b @ implicit @ c)
        assert torch.allclose(torch.stack(moments), torch.tensor([1, 1 / 2, 1 / 3, 1 / 6, 1 / 6], dtype=torch.float64))


@pytest.mark.parametrize("scheme", [ifrk4, imexrk3])
def test_steps_are_differentiable_in_state_and_linear_part(scheme):
    """Reverse mode against finite differences, forward mode against reverse mode."""
    linear = torch.tensor([-2.0, 0.5, -30.0], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([1.0, 3.0, -0.2], dtype=torch.float64, requires_grad=True)

    def value(a, u):
        return advance(scheme(a, lambda w: torch.sin(w).roll(1), 0.1), u, 3)

    assert torch.autograd.gradcheck(value, (linear, v))
    direction = torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda u: value(linear.detach(), u), (v.detach(),), (direction,))
    jacobian = torch.autograd.functional.jacobian(lambda u: value(linear.detach(), u), v.detach())
    assert torch.allclose(tangent, jacobian @ direction, rtol=1e-12)


def test_explicit_step_is_differentiable():
    v = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: advance(rk4(lambda w: torch.sin(w) * w.roll(1), 0.1), u, 3), (v,))


@pytest.mark.parametrize("scheme", [ifrk4, imexrk3])
def test_arithmetic_follows_the_dtype_asked_for(scheme):
    """Coefficients from double precision, states in single: the result stays single and close to the double one."""
    linear = torch.tensor([-3.0, -0.1], dtype=torch.float64)
    start = torch.tensor([0.4, 1.2], dtype=torch.float64)
    double = advance(scheme(linear, torch.sin, 0.1), start, 10)
    single = advance(scheme(linear, torch.sin, 0.1, dtype=torch.float32), start.float(), 10)
    assert single.dtype == torch.float32 and (single - double).abs().max() < 1e-6
