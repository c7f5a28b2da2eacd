"""The step that works in place on its own states: the same numbers as the differentiable one, and never under a derivative."""

import pytest
import torch
from torch.autograd import forward_ad

from eddycast.numerics.etdrk import etdrk4, is_plain

POINTS, KEPT = 48, 16


def burgers(dtype, *, batch=(), with_factor=True, viscosity=None):
    """A spectral Burgers problem: linear part, nonlinear part, factor, start."""
    generator = torch.Generator().manual_seed(3)
    k = torch.arange(KEPT, dtype=torch.float64)
    if viscosity is None:
        viscosity = 0.02 + 0.1 * torch.rand(*batch, 1, dtype=torch.float64, generator=generator)
    linear = -viscosity * k**2
    transport = -0.5j * k

    def squared(v):
        u = torch.fft.irfft(v, n=POINTS, norm="forward")
        return torch.fft.rfft(u * u, norm="forward")[..., :KEPT]

    def whole(v):
        return transport.to(v.dtype) * squared(v)

    start = torch.randn(5, KEPT, dtype=torch.complex128, generator=generator) / (1 + k**2)
    start[:, 0] = start[:, 0].real.to(start.dtype)
    nonlinear, factor = (squared, transport) if with_factor else (whole, None)
    return linear, nonlinear, factor, start.to(dtype.to_complex())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
@pytest.mark.parametrize("batch", [(), (5,)])
@pytest.mark.parametrize("with_factor", [True, False])
def test_in_place_equals_differentiable(dtype, tolerance, batch, with_factor):
    """The same formula, up to the order of roundings; the start stays as it was."""
    linear, nonlinear, factor, start = burgers(dtype, batch=batch, with_factor=with_factor)
    step = etdrk4(linear, nonlinear, 0.05, factor=factor, dtype=dtype)
    kept = start.clone()
    plain = step(step(start))
    assert torch.equal(start, kept)
    watched = step(step(start.clone().requires_grad_()))
    assert watched.requires_grad and not plain.requires_grad
    assert plain.dtype == watched.dtype == start.dtype
    assert ((plain - watched.detach()).norm() / plain.norm()).item() < tolerance
    assert (plain - start).norm() / start.norm() > 1e-3  # something happened


@pytest.mark.parametrize("factor", [None, torch.tensor([2.0, -0.5, 0.0])])
def test_real_states_and_real_factors(factor):
    """v' = L v + f sin(v), on real states and on pairs of them as complex numbers, equals the step without the factor."""
    linear = torch.tensor([-3.0, 0.2, -1e3], dtype=torch.float64)
    scale = torch.ones(3) if factor is None else factor
    start = torch.tensor([[0.3, 1.0, -0.7], [2.0, -0.1, 0.4]], dtype=torch.float64)
    by_factor = etdrk4(linear, torch.sin, 0.1, factor=factor)(start)
    inside = etdrk4(linear, lambda v: scale * torch.sin(v), 0.1)(start)
    assert torch.allclose(by_factor, inside, rtol=1e-14, atol=1e-16)
    pair = torch.complex(start, start.flip(0))

    def sine(v):
        return torch.complex(v.real.sin(), v.imag.sin())

    together = etdrk4(linear, sine, 0.1, factor=factor)(pair)
    assert torch.allclose(together.real, by_factor, rtol=1e-14, atol=1e-16)
    assert torch.allclose(together.imag, by_factor.flip(0), rtol=1e-14, atol=1e-16)


def test_without_a_linear_part_it_is_the_classical_runge_kutta_step():
    dt, v = 0.1, torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)

    def tendency(v):
        return torch.sin(v) - v**2

    one = tendency(v)
    two = tendency(v + dt / 2 * one)
    three = tendency(v + dt / 2 * two)
    four = tendency(v + dt * three)
    classical = v + dt / 6 * (one + 2 * two + 2 * three + four)
    assert torch.allclose(etdrk4(torch.zeros_like(v), tendency, dt)(v), classical, rtol=1e-14, atol=0)


def test_complex_linear_parts_take_the_factor_too():
    """With e^{z/2} = 1 (z = 4 pi i) Q vanishes: no division by it there."""
    linear = torch.tensor([-0.5 + 3j, 4j * torch.pi / 0.1, 0.1j], dtype=torch.complex128)
    start = torch.tensor([1.0 + 0.5j, 0.2 - 1j, 0.7j], dtype=torch.complex128)
    factor = torch.tensor([1.0, 0.3j, -2.0], dtype=torch.complex128)
    found = etdrk4(linear, lambda v: v * v.abs(), 0.1, factor=factor)(start)
    expected = etdrk4(linear, lambda v: factor * v * v.abs(), 0.1)(start)
    assert found.isfinite().all() and torch.allclose(found, expected, rtol=1e-13)


def test_gradients_and_tangents_are_those_of_a_difference():
    """Reverse and forward mode through two steps, with gradients off around the second; in the state and in L."""
    linear, nonlinear, factor, start = burgers(torch.float64)
    direction = torch.randn(start.shape, dtype=start.dtype, generator=torch.Generator().manual_seed(4))

    def value(v):
        step = etdrk4(linear, nonlinear, 0.05, factor=factor)
        return step(step(v))

    h = 1e-6
    difference = (value(start + h * direction) - value(start - h * direction)) / (2 * h)
    with torch.no_grad():
        primal, tangent = torch.func.jvp(value, (start,), (direction,))
    assert ((tangent - difference).norm() / difference.norm()).item() < 1e-8
    assert ((primal - value(start)).norm() / primal.norm()).item() < 1e-14
    with torch.no_grad(), forward_ad.dual_level():
        dual = value(forward_ad.make_dual(start, direction))
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, tangent, rtol=1e-12, atol=1e-14)
    watched = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(watched).abs().square().sum(), watched)
    along = 2 * (value(start).conj() * difference).sum().real
    assert (gradient.conj() * direction).sum().real.item() == pytest.approx(along.item(), rel=1e-7)
    each = torch.func.vmap(value)(start[:, None])
    assert torch.allclose(each[:, 0], value(start), rtol=1e-12, atol=1e-14)

    viscosity = torch.tensor([0.05], dtype=torch.float64, requires_grad=True)
    linear, nonlinear, factor, start = burgers(torch.float64, viscosity=viscosity)
    energy = etdrk4(linear, nonlinear, 0.05, factor=factor)(start).abs().square().sum()
    (slope,) = torch.autograd.grad(energy, viscosity)

    def shifted(change):
        moved = -(viscosity.detach() + change) * torch.arange(KEPT, dtype=torch.float64) ** 2
        return etdrk4(moved, nonlinear, 0.05, factor=factor)(start).abs().square().sum()

    assert slope.item() == pytest.approx(((shifted(h) - shifted(-h)) / (2 * h)).item(), rel=1e-6)


def test_a_gradient_of_what_the_nonlinear_part_holds_is_kept():
    """Neither the state nor L requires a gradient, but the force inside N does."""
    force = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    linear = torch.tensor([-1.0, -20.0], dtype=torch.float64)
    start = torch.tensor([1.0, 2.0], dtype=torch.float64)
    result = etdrk4(linear, lambda v: force.expand_as(v), 0.1)(start)
    (gradient,) = torch.autograd.grad(result.sum(), force)
    assert torch.allclose(gradient, torch.expm1(0.1 * linear) / linear, rtol=1e-12)


def test_who_is_plain():
    x = torch.ones(3)
    assert is_plain(x)
    assert not is_plain(x.clone().requires_grad_())
    with torch.no_grad():
        assert is_plain(x.clone().requires_grad_())
        with forward_ad.dual_level():
            assert not is_plain(forward_ad.make_dual(x, x)) and is_plain(x)
    seen = []

    def look(y):
        seen.append(is_plain(y))
        return y.sum()

    with torch.no_grad():
        torch.func.jvp(look, (x,), (x,))
        torch.func.vmap(look)(x[:, None])
    torch.func.grad(look)(x)
    assert seen == [False, False, False]
