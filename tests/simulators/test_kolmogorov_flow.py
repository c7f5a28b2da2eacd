"""Kolmogorov flow: exact solutions, budgets, symmetries, the measured order, an outside solver and its data."""

import math
from itertools import pairwise

import h5py
import pytest
import torch

from eddycast.errors import InputError
from eddycast.grid import periodic_axis
from eddycast.metrics import power_spectrum, shells
from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import (
    divergence,
    energy,
    enstrophy,
    leray_projection,
    velocity_from_vorticity,
    vorticity,
)
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.numerics.truncated import resample
from eddycast.simulators import KolmogorovFlow, get_system, integrate, simulate, uniform_times
from eddycast.simulators.kolmogorov_flow import laminar_velocity

FLOW = get_system("kolmogorov-flow")
BOX = (2 * math.pi, 2 * math.pi)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def settings(viscosity=0.01, drag=0.1, amplitude=1.0, wavenumber=4.0):
    return torch.tensor([viscosity, drag, amplitude, wavenumber], dtype=torch.float64)


def coordinates(grid):
    axes = [torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes]
    return torch.meshgrid(*axes, indexing="ij")


@pytest.fixture(scope="module")
def turbulent():
    """Four states near the attractor at the defaults on 64 x 64, float64."""
    number = torch.arange(4)
    parameters = FLOW.info.default_parameters()
    grid = FLOW.grid()
    start = FLOW.initial(parameters.expand(4, 4), grid, MemberNoise(0, number, 0 * number))
    with torch.no_grad():
        return FLOW.flow(parameters, grid, 20.0, inner_dt=0.025)(start).double()


def advance(state, parameters, time, **options):
    shape = tuple(state.shape[-2:])
    flow = FLOW.flow(parameters, FLOW.grid(shape, parameters), time, dtype=state.dtype, **options)
    return flow(state)


@pytest.mark.parametrize("shape", [(64, 64), (48, 33), (27, 40)])
def test_laminar_flow_is_steady(shape):
    """A sin(k_f y) / (nu k_f^2 + drag): a fixed point of the scheme at any step, away from every default, odd sizes too."""
    parameters = torch.stack([settings(), settings(0.03, 0.3, 2.0, 3.0), settings(0.5, 0.0, 0.7, 1.0)])
    grid = FLOW.grid(shape, parameters[1:]) if min(shape) < 40 else FLOW.grid(shape, parameters)
    parameters = parameters if min(shape) >= 40 else parameters[1:]
    laminar = laminar_velocity(parameters, grid)
    result = FLOW.flow(parameters, grid, 1.0, dtype=torch.float64, inner_dt=0.1)(laminar)
    assert (result - laminar).abs().max() < 1e-13


def test_laminar_flow_is_reached_from_rest():
    """u = (1 - exp(-(nu k^2 + drag) t)) times it: the linear part of the scheme is exact."""
    parameters = settings(0.2, 0.05, 1.5, 3.0)
    grid = FLOW.grid((24, 24), parameters)
    result = advance(torch.zeros(2, 24, 24, dtype=torch.float64), parameters, 2.0, inner_dt=0.5)
    exact = (1 - math.exp(-2.0 * (0.2 * 9 + 0.05))) * laminar_velocity(parameters, grid)
    assert (result - exact).abs().max() < 1e-13


@pytest.mark.parametrize("shape", [(32, 32), (25, 48)])
def test_taylor_green_vortices_decay_exactly(shape):
    """No force: sin(2x) cos(2y) loses exp(-(8 nu + drag) t), carried along by a mean flow that loses exp(-drag t)."""
    parameters = settings(0.02, 0.3, 0.0)
    x, y = coordinates(FLOW.grid(shape, parameters))

    def vortices(dx, dy):
        a, b = 2 * (x - dx), 2 * (y - dy)
        return torch.stack([a.sin() * b.cos(), -a.cos() * b.sin()])

    fall = math.exp(-(8 * 0.02 + 0.3) * 1.5)
    assert (advance(vortices(0, 0), parameters, 1.5) - fall * vortices(0, 0)).abs().max() < 1e-14
    mean = torch.tensor([0.7, -0.4], dtype=torch.float64)[:, None, None]
    way = (1 - math.exp(-0.3 * 1.5)) / 0.3
    exact = math.exp(-0.3 * 1.5) * mean + fall * vortices(0.7 * way, -0.4 * way)
    assert (advance(vortices(0, 0) + mean, parameters, 1.5, inner_dt=0.01) - exact).abs().max() < 1e-8


def test_modes_beyond_the_cut_and_gradients():
    """Mode 22 of 64 points is beyond the cut: it decays by viscosity and drag alone. A gradient is projected out."""
    x, y = coordinates(FLOW.grid())
    wave = 1e-3 * torch.stack([torch.cos(22 * y), torch.zeros_like(y)])
    result = advance(wave, settings(amplitude=0.0), 0.5)
    assert (result - math.exp(-0.5 * (0.01 * 22**2 + 0.1)) * wave).abs().max() < 1e-16
    gradient = torch.stack([torch.cos(x) * torch.sin(2 * y), 2 * torch.sin(x) * torch.cos(2 * y)])
    assert advance(gradient, settings(amplitude=0.0), 0.2).abs().max() < 1e-14


def test_velocity_stays_solenoidal_to_rounding(turbulent):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        result = advance(turbulent.to(dtype), settings(), 1.0)
        assert result.dtype == dtype
        assert divergence(result, BOX).abs().max() < tolerance
        assert vorticity(result, BOX).abs().max() > 5


def test_energy_budget_closes(turbulent):
    """dE/dt = mean(u A sin(k_f y)) - 2 nu enstrophy - 2 drag E, the left side by a central difference in time."""
    parameters = settings(0.02, 0.2, 1.3, 3.0)
    grid = FLOW.grid((64, 64), parameters)
    h = 1e-3
    times = [0.5 + offset * h for offset in (-2, -1, 0, 1, 2)]
    states = integrate(FLOW, turbulent, parameters, grid, times, inner_dt=0.01)
    levels = energy(states, 2)
    tendency = (levels[:, 0] - 8 * levels[:, 1] + 8 * levels[:, 3] - levels[:, 4]) / (12 * h)
    now = states[:, 2]
    force = 1.3 * torch.sin(3 * torch.tensor(grid.axes[1].coordinates, dtype=torch.float64))
    power = (now[:, 0] * force).mean(dim=(-2, -1))
    budget = power - 2 * 0.02 * enstrophy(now, BOX) - 2 * 0.2 * energy(now, 2)
    assert tendency.abs().max() > 0.05
    assert (tendency - budget).abs().max() < 1e-8


def test_energy_and_enstrophy_are_kept_without_friction(turbulent):
    """To the error of the step, which falls with its fourth power or faster."""
    smooth, grid = resample(resample(turbulent, (20, 20)), (32, 32)), FLOW.grid((32, 32))
    drifts = []
    for step in (0.04, 0.02):
        frictionless = FLOW.flow(settings(0.0, 0.0, 0.0), grid, 1.0, dtype=torch.float64, inner_dt=step)
        result = frictionless(smooth)
        assert relative(result, smooth) > 0.3
        drifts.append(
            [
                ((energy(result, 2) - energy(smooth, 2)) / energy(smooth, 2)).abs().max().item(),
                ((enstrophy(result, BOX) - enstrophy(smooth, BOX)) / enstrophy(smooth, BOX)).abs().max().item(),
            ]
        )
    assert max(drifts[1]) < 5e-6
    assert all(coarse > 12 * fine for coarse, fine in zip(*drifts, strict=True))


def test_symmetries(turbulent):
    """Shifts along x, shifts by half a jet period along y with x -> -x, and half turns commute with the flow."""
    result = advance(turbulent, settings(), 1.0)
    assert relative(advance(turbulent.roll(9, -2), settings(), 1.0), result.roll(9, -2)) < 1e-11

    def half_turn(u):
        return -u.flip((-2, -1)).roll((1, 1), (-2, -1))

    def shift_and_reflect(u):
        flipped = u.flip(-2).roll((1, 8), (-2, -1))  # 8 points are pi / k_f
        return flipped * torch.tensor([-1.0, 1.0], dtype=u.dtype)[:, None, None]

    for symmetry in (half_turn, shift_and_reflect):
        assert relative(advance(symmetry(turbulent), settings(), 1.0), symmetry(result)) < 1e-11
    assert relative(advance(turbulent.roll(8, -1), settings(), 1.0), result.roll(8, -1)) > 1e-2  # no symmetry


def test_order_four_and_the_float32_floor(turbulent):
    steps = [0.04, 0.02, 0.01]
    reference = advance(turbulent, settings(), 0.6, inner_dt=0.0025)
    errors = [relative(advance(turbulent, settings(), 0.6, inner_dt=step), reference) for step in steps]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(order == pytest.approx(4.0, abs=0.25) for order in orders), (errors, orders)
    assert errors[1] < 3e-6  # the default step
    single = relative(advance(turbulent.float(), settings(), 0.6).double(), reference)
    assert single < 1e-5


def test_agrees_with_exponax():
    """An independent ETDRK4 solver in double precision, over 30 steps, with other parameters than the defaults.

    Its variable is minus our vorticity (its velocity is the same), so its force is -A sin(k_f y): half a period of the
    force along y brings the two together.
    """
    jax = pytest.importorskip("jax")
    exponax = pytest.importorskip("exponax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        points, step, wavenumber = 96, 0.02, 2  # resolved to rounding: its 2/3 rule drops one mode more
        parameters = settings(0.05, 0.2, 1.5, wavenumber)
        stepper = exponax.stepper.KolmogorovFlowVorticity(
            2, 2 * math.pi, points, step, diffusivity=0.05, drag=-0.2, injection_mode=wavenumber, injection_scale=1.5,
            order=4,
        )  # fmt: skip
        number = torch.arange(2)
        grid = FLOW.grid((points, points), parameters)
        state = FLOW.initial(parameters, grid, MemberNoise(5, number, 0 * number), dtype=torch.float64)
        half = points // (2 * wavenumber)
        theirs = jax.numpy.asarray(-vorticity(state, BOX).roll(half, -1).numpy())
        several = jax.jit(jax.vmap(exponax.repeat(stepper, 10)))
        ours = integrate(FLOW, state, parameters, grid, uniform_times(10 * step, 3), inner_dt=step)
        for index in range(3):
            theirs = several(theirs)
            turned = -torch.tensor(jax.device_get(theirs)).roll(-half, -1)
            assert relative(ours[:, index], velocity_from_vorticity(turned, BOX)) < 1e-12
        assert relative(ours[:, -1], state) > 0.2
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module")
def outside(shared_data):
    """Velocity (trajectory, time, 2, 64, 64) of all stored runs, and the parameters."""
    fields = []
    for path in sorted((shared_data / "kolmogorov_flow/data").glob("*/*.hdf5")):
        with h5py.File(path) as file:
            fields.append(torch.tensor(file["t1_fields/velocity"][()]).double().movedim(-1, -3))
            names = FLOW.info.parameter_names
            parameters = torch.tensor([float(file["scalars"][name][()]) for name in names], dtype=torch.float64)
    return torch.cat(fields), parameters


def test_continues_trajectories_of_an_outside_solver(outside):
    """Runs at 128 x 128 stored at 64 x 64: padded with zeros we miss modes 32 to 42 of the start, and are 0.14 % off."""
    velocity, parameters = outside
    padded = KolmogorovFlow(refine=2)
    coarse = FLOW.grid((64, 64), parameters)
    flow = padded.flow(parameters, coarse, 0.2, dtype=torch.float64)
    start, following = velocity[:2, 10], velocity[:2, 11]
    assert relative(flow(start), following) < 2e-3
    assert relative(FLOW.flow(parameters, coarse, 0.2, dtype=torch.float64)(start), following) > 5e-3
    assert relative(start, following) > 0.1


@pytest.mark.slow
def test_statistics_are_those_of_an_outside_solver(outside):
    """Energy, enstrophy and the spectrum from mode 4 to 24, each within 4 standard errors over runs (6 theirs, 8 ours)."""
    velocity, parameters = outside
    run = simulate(
        FLOW, trajectories=8, steps=64, spin_up=30.0, grid_shape=(96, 96), store_shape=(64, 64), seed=1,
        parameters=dict(zip(FLOW.info.parameter_names, parameters.tolist(), strict=True)),
    )  # fmt: skip
    rings = shells(run.grid)

    def statistics(states):
        spectrum = power_spectrum(states, rings).sum(dim=-2).mean(dim=1) / 2
        whole = torch.stack([energy(states, 2).mean(dim=1), enstrophy(states, BOX).mean(dim=1)], dim=1)
        return torch.cat([whole, spectrum[:, 4:25:4]], dim=1)

    theirs, ours = statistics(velocity), statistics(run.states.double())
    error = (theirs.var(dim=0) / len(theirs) + ours.var(dim=0) / len(ours)).sqrt()
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 4 * error).all()
    assert (error < 0.15 * theirs.mean(dim=0)).all()


def test_refined_flow_is_the_flow_of_the_padded_state(turbulent):
    start = resample(resample(turbulent, (31, 31)), (32, 32))  # no Nyquist modes: padding is then exact
    padded = KolmogorovFlow(refine=2).flow(settings(), FLOW.grid((32, 32)), 0.4, dtype=torch.float64, inner_dt=0.02)
    fine = advance(resample(start, (64, 64)), settings(), 0.4, inner_dt=0.02)
    assert (padded(start) - resample(fine, (32, 32))).abs().max() < 1e-13


def test_stored_coarsely_but_solved_finely():
    """`store_shape` truncates the outputs and nothing else: the run goes on with all modes."""
    options = {"trajectories": 2, "steps": 3, "spin_up": 1.0, "grid_shape": (48, 48), "dtype": torch.float64}
    whole = simulate(FLOW, **options)
    coarse = simulate(FLOW, store_shape=(24, 16), **options)
    assert coarse.grid.shape == (24, 16) and coarse.attributes["solver_shape"] == [48, 48]
    assert (coarse.states - resample(whole.states, (24, 16))).abs().max() < 1e-13
    for wrong in ((64, 64), (24,), (0, 8)):
        with pytest.raises(InputError, match="store_shape"):
            simulate(FLOW, store_shape=wrong, **options)


def test_each_trajectory_has_its_own_parameters(turbulent):
    """A batch of parameters equals separate runs; members in front go along; pieces of the batch do not show."""
    parameters = torch.stack([settings(0.02, 0.1, 1.0, 4.0), settings(0.03, 0.3, 2.0, 2.0), settings(0.05, 0, 0.5, 1)])
    state = resample(turbulent[:3], (40, 40))
    grid = FLOW.grid((40, 40), parameters)
    flow = FLOW.flow(parameters, grid, 0.4, dtype=torch.float64)
    together = flow(state)
    for index in range(3):
        assert relative(advance(state[index], parameters[index], 0.4), together[index]) < 1e-12
    assert relative(flow(torch.stack([state, state]))[1], together) < 1e-14
    many = resample(turbulent, (40, 40)).repeat(20, 1, 1, 1)  # more than one piece
    shared = FLOW.flow(settings(), grid, 0.04, dtype=torch.float64)
    assert relative(shared(many)[76:], shared(many[:4])) < 1e-14
    varied = parameters.repeat(27, 1)[:80]
    assert (
        relative(FLOW.flow(varied, grid, 0.04, dtype=torch.float64)(many)[79:], advance(many[79:], varied[79], 0.04))
        < 1e-13
    )
    with pytest.raises(ValueError, match="batch"):
        flow(state[:2])


def test_tangent_linear_is_the_transpose_of_the_adjoint(turbulent):
    """<w, J v> from forward mode equals <J^T w, v> from reverse mode, to rounding."""
    generator = torch.Generator().manual_seed(8)
    state = resample(turbulent[:2], (24, 24))
    v, w = (torch.randn(state.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    flow = FLOW.flow(settings(0.02), FLOW.grid((24, 24), settings(0.02)), 0.4, dtype=torch.float64)
    _, tangent = torch.func.jvp(flow, (state,), (v,))
    _, adjoint = torch.func.vjp(flow, state)
    assert (w * tangent).sum().item() == pytest.approx((adjoint(w)[0] * v).sum().item(), rel=1e-10)


def test_leading_exponent_is_the_one_of_the_table(turbulent):
    """Within 4 standard errors of a short run, which are about 0.1; and clearly chaotic."""
    table = FLOW.lyapunov_exponent(settings()[None]).item()
    generator = torch.Generator().manual_seed(3)
    tangent = leray_projection(torch.randn(turbulent.shape, generator=generator), BOX)
    flow = FLOW.flow(settings(), FLOW.grid(), 1.0, inner_dt=0.025)
    estimate = leading_exponent(flow, turbulent.float(), tangent, interval=1.0, num_intervals=12, num_discarded=4)
    assert estimate.standard_error < 0.06
    assert estimate.exponent == pytest.approx(table, abs=4 * estimate.standard_error)
    assert estimate.exponent > 0.15


def test_steps_shrink_with_the_spacing_by_default():
    assert FLOW.info.default_inner_dt((64, 64)) == 0.02
    assert FLOW.info.default_inner_dt((32, 32)) == 0.02
    assert FLOW.info.default_inner_dt((64, 128)) == 0.01
    run = simulate(FLOW, trajectories=1, steps=1, spin_up=0.0, grid_shape=(128, 128))
    assert run.attributes["inner_step"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "shape, parameters, match",
    [
        ((64,), settings(), "two-dimensional"),
        ((64, 8), settings(), "at least 16 points"),
        ((64, 64), settings(wavenumber=2.5), "whole number"),
        ((64, 64), settings(wavenumber=30.0), "take at least 92"),
        ((32, 32), settings(viscosity=1e-3), "too few for vortex threads"),
    ],
)
def test_grids_that_do_not_serve_are_refused_in_one_line(shape, parameters, match):
    with pytest.raises(InputError, match=match) as error:
        FLOW.grid(shape, parameters)
    assert "\n" not in str(error.value)


def test_whole_parameters_are_drawn_whole():
    run = simulate(
        FLOW, trajectories=60, steps=1, spin_up=0, grid_shape=(24, 24), parameters={"forcing_wavenumber": (2, 4)}
    )
    assert set(run.parameters[:, 3].tolist()) == {2.0, 3.0, 4.0}
    with pytest.raises(InputError, match="takes whole numbers"):
        simulate(FLOW, trajectories=1, steps=1, parameters={"forcing_wavenumber": 1.5})


def test_grid_is_a_periodic_square():
    grid = FLOW.grid((16, 20), settings(0.05))
    assert grid.names == ("x", "y") and grid.shape == (16, 20)
    assert grid.axes[1] == periodic_axis("y", 20, 2 * math.pi)
