"""Navier-Stokes in a box: exact Beltrami flows, the early Taylor-Green vortex, invariants, order, the 2-D limit."""

import math
from itertools import pairwise

import pytest
import torch

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import (
    divergence,
    energy,
    enstrophy,
    helicity,
    leray_projection,
    random_velocity,
    vorticity,
)
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.numerics.truncated import resample
from eddycast.simulators import get_system, integrate
from eddycast.simulators.navier_stokes import abc_flow

BOX_FLOW, PLANE_FLOW = get_system("navier-stokes-3d"), get_system("kolmogorov-flow")
BOX = (2 * math.pi,) * 3


def settings(viscosity=0.02, amplitude=0.1):
    return torch.tensor([viscosity, amplitude], dtype=torch.float64)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def random_states(count, shape, seed=0):
    number = torch.arange(count)
    return random_velocity(MemberNoise(seed, number, 0 * number), shape, max_mode=3)


def advance(state, parameters, time, system=BOX_FLOW, **options):
    grid = system.grid(tuple(state.shape[-len(system.info.shape) :]))
    return system.flow(parameters, grid, time, dtype=state.dtype, **options)(state)


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 18, 20)])
def test_abc_flow_decays_exactly_and_its_force_holds_it(shape):
    """A Beltrami flow has no nonlinear tendency: exp(-nu t) without force; F / nu times it is steady under it."""
    grid = BOX_FLOW.grid(shape, settings(0.3, 0.1))
    beltrami = abc_flow(grid)
    assert (vorticity(beltrami, BOX) - beltrami).abs().max() < 1e-13
    decayed = BOX_FLOW.flow(settings(0.3, 0.0), grid, 1.5, dtype=torch.float64)(beltrami)
    assert (decayed - math.exp(-0.45) * beltrami).abs().max() < 1e-13
    held = BOX_FLOW.flow(settings(0.3, 0.45), grid, 1.5, dtype=torch.float64, inner_dt=0.1)(1.5 * beltrami)
    assert (held - 1.5 * beltrami).abs().max() < 1e-13
    grown = BOX_FLOW.flow(settings(0.3, 0.45), grid, 1.0, dtype=torch.float64, inner_dt=0.5)(0 * beltrami)
    assert (grown - 1.5 * (1 - math.exp(-0.3)) * beltrami).abs().max() < 1e-13


def test_a_mean_flow_carries_the_rest_along():
    """Galilean invariance: the flow started with a mean velocity is the flow without it, shifted by whole points."""
    state = random_states(1, (16, 16, 16))[0]
    mean = torch.tensor([2 * math.pi / 16 * 3, 0.0, -2 * math.pi / 16 * 2], dtype=torch.float64)[:, None, None, None]
    still = advance(state, settings(0.05, 0.0), 1.0, inner_dt=0.0125)
    moving = advance(state + mean, settings(0.05, 0.0), 1.0, inner_dt=0.0125)
    assert relative(moving - mean, still.roll((3, -2), (-3, -1))) < 1e-5
    assert (moving.mean(dim=(-3, -2, -1)) - mean.flatten()).abs().max() < 1e-14


def test_early_taylor_green_vortex():
    """u = (sin x cos y cos z, -cos x sin y cos z, 0): enstrophy grows as known in closed form, from vortex stretching.

    Taylor and Green's expansion without viscosity: enstrophy / its start = 1 + 5 t^2 / 48 + O(t^4); with viscosity the
    energy falls by dE/dt = -2 nu enstrophy, from E = 1/8 and enstrophy 3/8.
    """
    shape = (24, 24, 24)
    grid = BOX_FLOW.grid(shape, settings(0.1))
    x, y, z = torch.meshgrid(*(torch.tensor(a.coordinates, dtype=torch.float64) for a in grid.axes), indexing="ij")
    start = torch.stack([x.sin() * y.cos() * z.cos(), -x.cos() * y.sin() * z.cos(), 0 * x])
    assert energy(start, 3).item() == pytest.approx(1 / 8) and enstrophy(start, BOX).item() == pytest.approx(3 / 8)
    times = [0.1, 0.2]
    ideal = integrate(BOX_FLOW, start, settings(0.0, 0.0), grid, times, inner_dt=0.05)
    growth = enstrophy(ideal, BOX) / (3 / 8) - 1
    leading = torch.tensor([5 / 48 * t**2 for t in times])
    assert (growth / leading - 1).abs().max() < 2e-2
    assert ((growth[1] / leading[1] - 1) / (growth[0] / leading[0] - 1)).item() == pytest.approx(4.0, rel=0.1)
    assert (energy(ideal, 3) - 1 / 8).abs().max() < 1e-9
    h = 0.01
    viscous = integrate(BOX_FLOW, start, settings(0.1, 0.0), grid, [0.5 - h, 0.5, 0.5 + h], inner_dt=0.01)
    levels = energy(viscous, 3)
    assert ((levels[2] - levels[0]) / (2 * h)).item() == pytest.approx(
        -2 * 0.1 * enstrophy(viscous[1], BOX).item(), rel=1e-5
    )


def test_energy_and_helicity_are_kept_without_viscosity():
    """To the error of the step, which falls with its fourth power or faster; the flow itself has changed."""
    state = random_states(2, (16, 16, 16))
    assert helicity(state, BOX).abs().min() > 0.01
    drifts = []
    for step in (0.05, 0.025):
        result = advance(state, settings(0.0, 0.0), 1.0, inner_dt=step)
        assert relative(result, state) > 0.5
        drifts.append(
            [
                (energy(result, 3) - energy(state, 3)).abs().max().item(),
                (helicity(result, BOX) - helicity(state, BOX)).abs().max().item(),
            ]
        )
    assert max(drifts[1]) < 1e-6
    assert all(coarse > 12 * fine for coarse, fine in zip(*drifts, strict=True))


def test_energy_and_helicity_budgets_close():
    """dE/dt = mean(u . f) - 2 nu enstrophy, dH/dt = 2 mean(u . f) - 2 nu mean(w . curl w), since curl f = f."""
    parameters = settings(0.05, 0.2)
    grid = BOX_FLOW.grid((20, 20, 20), parameters)
    h = 0.01
    times = [0.3 + offset * h for offset in (-2, -1, 0, 1, 2)]
    states = integrate(BOX_FLOW, random_states(2, grid.shape), parameters, grid, times, inner_dt=h)
    now = states[:, 2]
    power = (now * 0.2 * abc_flow(grid)).mean(dim=(-3, -2, -1)).sum(dim=-1)
    curl = vorticity(now, BOX)
    sinks = (2 * 0.05 * enstrophy(now, BOX), 2 * 0.05 * helicity(curl, BOX))
    for level, source, sink in ((energy(states, 3), power, sinks[0]), (helicity(states, BOX), 2 * power, sinks[1])):
        tendency = (level[:, 0] - 8 * level[:, 1] + 8 * level[:, 3] - level[:, 4]) / (12 * h)
        assert tendency.abs().max() > 1e-2
        assert (tendency - source + sink).abs().max() < 1e-6


def test_divergence_stays_zero_and_gradients_are_removed():
    state = random_states(2, (16, 16, 16))
    result = advance(state, settings(), 1.0)
    assert divergence(result, BOX).abs().max() < 1e-13
    single = advance(state.float(), settings(), 1.0)
    assert single.dtype == torch.float32 and divergence(single, BOX).abs().max() < 1e-4
    assert relative(single.double(), result) < 1e-5
    x = torch.tensor(BOX_FLOW.grid((16, 16, 16), settings(0.1)).axes[0].coordinates, dtype=torch.float64)[:, None, None]
    gradient = torch.zeros(3, 16, 16, 16, dtype=torch.float64)
    gradient[0] = torch.cos(2 * x)
    assert relative(advance(state + gradient, settings(), 1.0), result) < 1e-13


def test_order_four():
    state = random_states(1, (16, 16, 16))
    steps = [0.1, 0.05, 0.025]
    reference = advance(state, settings(0.05, 0.2), 1.0, inner_dt=0.00625)
    errors = [relative(advance(state, settings(0.05, 0.2), 1.0, inner_dt=step), reference) for step in steps]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(order == pytest.approx(4.0, abs=0.35) for order in orders), (errors, orders)
    assert errors[1] < 1e-4  # close to the default step


@pytest.mark.parametrize("vertical", [2, 0])
def test_plane_flows_stay_plane_and_agree_with_the_plane_solver(vertical):
    """A flow that does not vary along one axis, with nothing along it: the two systems without force and drag are one."""
    plane = random_states(2, (24, 24))
    exact = advance(plane, torch.tensor([0.03, 0.0, 0.0, 4.0], dtype=torch.float64), 1.0, PLANE_FLOW, inner_dt=0.02)
    across = [axis for axis in range(3) if axis != vertical]

    def lifted(flat):
        box = torch.zeros(2, 3, 24, 24, 24, dtype=torch.float64)
        for component, axis in enumerate(across):
            box[:, axis] = flat[:, component].unsqueeze(1 + vertical).expand(2, 24, 24, 24)
        return box

    result = advance(lifted(plane), settings(0.03, 0.0), 1.0, inner_dt=0.02)
    assert (result - lifted(exact)).abs().max() < 1e-13
    assert relative(exact, plane) > 0.3


def test_axes_are_equal():
    """Turning the box cyclically, components with axes, commutes with the flow and its force."""
    state = random_states(1, (16, 16, 16))
    turned = state.permute(0, 1, 4, 2, 3).roll(1, 1)
    result = advance(state, settings(), 0.8).permute(0, 1, 4, 2, 3).roll(1, 1)
    assert relative(advance(turned, settings(), 0.8), result) < 1e-12


def test_modes_beyond_the_cut_only_decay():
    """Mode 7 along y of 16 points is beyond the cut at 5."""
    y = torch.arange(16, dtype=torch.float64)[:, None] * (2 * math.pi / 16)
    wave = torch.zeros(3, 16, 16, 16, dtype=torch.float64)
    wave[0] = 1e-3 * torch.cos(7 * y)
    result = advance(wave, settings(0.02, 0.0), 0.5)
    assert (result - math.exp(-0.5 * 0.02 * 49) * wave).abs().max() < 1e-16


def test_each_trajectory_has_its_own_parameters():
    parameters = torch.stack([settings(0.03, 0.1), settings(0.05, 0.3)])
    state = random_states(2, (16, 16, 16))
    together = advance(state, parameters, 0.4)
    for index in range(2):
        assert relative(advance(state[index], parameters[index], 0.4), together[index]) < 1e-12


def test_tangent_linear_is_the_transpose_of_the_adjoint():
    state = random_states(1, (12, 12, 12))
    generator = torch.Generator().manual_seed(8)
    v, w = (torch.randn(state.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    flow = BOX_FLOW.flow(settings(0.1), BOX_FLOW.grid((12, 12, 12), settings(0.1)), 0.2, dtype=torch.float64)
    _, tangent = torch.func.jvp(flow, (state,), (v,))
    _, adjoint = torch.func.vjp(flow, state)
    assert (w * tangent).sum().item() == pytest.approx((adjoint(w)[0] * v).sum().item(), rel=1e-10)


def test_weak_forcing_ends_in_the_steady_flow_and_strong_does_not():
    """F / nu^2 = 5: perturbations of the ABC flow die. At the default 250 the same perturbation grows."""
    kick = 1e-3 * random_states(1, (16, 16, 16))
    tangent = leray_projection(torch.randn(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(2)).double(), BOX)
    tangent = tangent - tangent.mean(dim=(-3, -2, -1), keepdim=True)  # the mean is conserved: errors in it stay
    for parameters, grows in ((settings(0.2, 0.2), False), (settings(), True)):
        grid = BOX_FLOW.grid((16, 16, 16), parameters)
        steady = (parameters[1] / parameters[0]) * abc_flow(grid)
        start = steady + kick if not grows else random_states(1, (16, 16, 16))
        flow = BOX_FLOW.flow(parameters, grid, 1.0, dtype=torch.float64, inner_dt=0.125)
        estimate = leading_exponent(flow, start, tangent, interval=1.0, num_intervals=8, num_discarded=4)
        assert (estimate.exponent > 0) is grows
        assert bool(BOX_FLOW.chaotic(parameters)) is grows


@pytest.mark.parametrize(
    "shape, parameters, match",
    [
        ((32, 32), settings(), "three-dimensional"),
        ((32, 32, 8), settings(), "at least 12 points"),
        ((16, 16, 16), settings(0.002), "too few for eddies"),
    ],
)
def test_grids_that_do_not_serve_are_refused_in_one_line(shape, parameters, match):
    with pytest.raises(InputError, match=match) as error:
        BOX_FLOW.grid(shape, parameters)
    assert "\n" not in str(error.value)


def test_the_same_start_at_every_resolution():
    fine, coarse = random_states(1, (24, 24, 24)), random_states(1, (16, 16, 16))
    assert (resample(fine, (16, 16, 16)) - coarse).abs().max() < 1e-13
