"""Kuramoto-Sivashinsky: its laws, the measured order, an outside solver, chaos where there is chaos."""

import math
from itertools import pairwise

import h5py
import pytest
import torch

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.numerics.spectral import derivative
from eddycast.simulators import get_system, integrate, simulate, uniform_times

KS = get_system("kuramoto-sivashinsky")


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def attractor(length=36.0, points=96, trajectories=4, seed=0, dtype=torch.float64):
    """States on (or near) the attractor with their parameters and grid."""
    run = simulate(
        KS, trajectories=trajectories, steps=1, spin_up=80, inner_dt=0.2, dtype=dtype, seed=seed,
        parameters={"domain_length": length}, grid_shape=(points,),
    )  # fmt: skip
    return run.states[:, 0], run.parameters, run.grid


def run(state, parameters, grid, time, inner_dt=0.1):
    return integrate(KS, state, parameters, grid, [time], inner_dt=inner_dt)[:, 0]


def test_small_waves_grow_and_decay_as_the_dispersion_relation_says():
    """A wave of amplitude 1e-9 follows exp((k^2 - k^4) t): the nonlinear term is below rounding."""
    grid = KS.grid((64,))
    x = torch.arange(64, dtype=torch.float64) / 64
    for mode in (0, 1, 4, 5, 7, 21, 22, 30):  # 21 is the last that the 2/3 rule keeps, 22 the first that it does not
        k = 2 * math.pi * mode / 36
        wave = 1e-9 * torch.cos(2 * math.pi * mode * x)[None, None]
        duration = 2.0 if mode < 10 else 0.05
        result = run(wave, KS.info.default_parameters(), grid, duration)
        assert (result - math.exp((k**2 - k**4) * duration) * wave).abs().max() < 2e-17


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_mean_is_conserved(dtype, tolerance):
    """d/dt of the integral of u vanishes for periodic u, also where the mean is not zero."""
    state, parameters, grid = attractor(dtype=dtype)
    state = state + torch.tensor([0.0, 0.5, -1.0, 2.0], dtype=dtype)[:, None, None]
    result = integrate(KS, state, parameters, grid, uniform_times(1.0, 20))
    drift = result.double().mean(dim=-1) - state.double().mean(dim=-1)[:, None]
    assert drift.abs().max() < tolerance


def test_translations_commute_with_the_flow():
    state, parameters, grid = attractor()
    moved = run(state.roll(17, dims=-1), parameters, grid, 3.0)
    assert relative(moved, run(state, parameters, grid, 3.0).roll(17, dims=-1)) < 1e-12


def test_reflection_with_a_change_of_sign_commutes_with_the_flow():
    """u(x) -> -u(-x) is a symmetry; u(x) -> u(-x) is not."""
    state, parameters, grid = attractor()

    def reflect(u):
        return -u.flip(-1).roll(1, dims=-1)

    result = run(state, parameters, grid, 3.0)
    assert relative(run(reflect(state), parameters, grid, 3.0), reflect(result)) < 1e-12
    assert relative(run(-reflect(state), parameters, grid, 3.0), -reflect(result)) > 0.1


def test_galilean_boost_adds_a_drift():
    """If u solves the equation, so does u(x - c t) + c; with c t a whole number of grid cells the shift is exact."""
    state, parameters, grid = attractor()
    cells, duration = 8, 2.0
    speed = cells * 36.0 / 96 / duration
    boosted = run(state + speed, parameters, grid, duration, inner_dt=0.0125)
    plain = run(state, parameters, grid, duration, inner_dt=0.0125)
    assert relative(boosted - speed, plain.roll(cells, dims=-1)) < 1e-6


def test_energy_budget_closes():
    """d/dt of the mean of u^2 / 2 is the mean of u_x^2 - u_xx^2; the left side by a central difference in time."""
    state, parameters, grid = attractor(points=128)
    h = 1e-3
    states = integrate(KS, state, parameters, grid, [0.5 - 2 * h, 0.5 - h, 0.5, 0.5 + h, 0.5 + 2 * h], inner_dt=h)
    energy = (states**2).mean(dim=(-2, -1)) / 2
    tendency = (energy[:, 0] - 8 * energy[:, 1] + 8 * energy[:, 3] - energy[:, 4]) / (12 * h)
    slope, curvature = (derivative(states[:, 2], [36.0], [order]) for order in (1, 2))
    budget = (slope**2 - curvature**2).mean(dim=(-2, -1))
    assert tendency.abs().max() > 1e-2  # there is something to balance
    assert (tendency - budget).abs().max() < 1e-8


def test_measured_order_and_the_float32_floor():
    """The order rises from 3 towards 4 as the step falls, and does not reach it; float32 stops near 2e-6."""
    state, parameters, grid = attractor(length=64.0, points=192, trajectories=3)
    steps = [0.4, 0.2, 0.1, 0.05, 0.025]
    reference = run(state, parameters, grid, 2.0, inner_dt=0.005)
    errors = [relative(run(state, parameters, grid, 2.0, inner_dt=step), reference) for step in steps]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert all(2.8 < order < 3.7 for order in orders), orders
    assert orders[-1] > orders[0] + 0.2, orders
    assert 2e-6 < errors[2] < 2e-5  # the default step

    single = [relative(run(state.float(), parameters, grid, 2.0, inner_dt=step).double(), reference) for step in steps]
    assert single[1] == pytest.approx(errors[1], rel=0.1)
    assert 3e-7 < single[-1] < 1e-5
    assert single[-1] > 3 * errors[-1]


def test_resolution_error_falls_spectrally():
    """64, 96 and 128 points at L = 36 against 192: each third more points gains two orders or more."""
    fine, parameters, grid = attractor(points=192, trajectories=2)
    exact = run(fine, parameters, grid, 1.0, inner_dt=0.05)
    errors = []
    for points in (64, 96):
        coarse = run(fine[..., :: 192 // points], parameters, KS.grid((points,)), 1.0, inner_dt=0.05)
        errors.append(relative(coarse, exact[..., :: 192 // points]))
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 50


def test_agrees_with_exponax():
    """An independent ETDRK4 solver, same step, well resolved (its 2/3 rule drops one mode more, at 1e-9 here)."""
    jax = pytest.importorskip("jax")
    exponax = pytest.importorskip("exponax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        for length, points, step in ((36.0, 128, 0.1), (64.0, 256, 0.05)):
            state, parameters, grid = attractor(length, points, trajectories=3)
            stepper = exponax.stepper.KuramotoSivashinskyConservative(1, length, points, step, order=4)
            theirs, advance = jax.numpy.asarray(state.numpy()), jax.jit(jax.vmap(stepper))
            ours = integrate(KS, state, parameters, grid, uniform_times(step, 20), inner_dt=step)
            for index in range(20):
                theirs = advance(theirs)
                assert relative(ours[:, index], torch.tensor(jax.device_get(theirs))) < 1e-7
    finally:
        jax.config.update("jax_enable_x64", before)


def test_continues_trajectories_of_an_outside_solver(shared_data):
    """Files written with exponax (step 0.02, stored in float32 every 0.2): we follow for 2 time units."""
    with h5py.File(shared_data / "kuramoto_sivashinsky/data/test/kuramoto_sivashinsky_L_64.hdf5") as file:
        stored = torch.tensor(file["t0_fields/u"][:, 100:111]).double()
        length = float(file["scalars/domain_length"][()])
    parameters = torch.tensor([length], dtype=torch.float64)
    grid = KS.grid((stored.shape[-1],), parameters)
    ours = integrate(KS, stored[:, :1], parameters, grid, uniform_times(0.2, 10), inner_dt=0.02)
    assert relative(ours[:, 0, 0], stored[:, 1]) < 3e-7  # rounding of the file
    assert relative(ours[:, -1, 0], stored[:, -1]) < 3e-6  # grown by the chaos
    assert relative(stored[:, 0], stored[:, -1]) > 0.2


def exponent(length, *, seed, trajectories=48, num_intervals=60):
    parameters = torch.tensor([[length]], dtype=torch.float64).expand(trajectories, 1)
    grid = KS.grid((64,), parameters)
    number = torch.arange(trajectories)
    state = KS.initial(parameters, grid, MemberNoise(seed, number, 0 * number))
    with torch.no_grad():
        spin_up = KS.flow(parameters, grid, 400.0, inner_dt=0.2)
        state = spin_up(state)
    tangent = MemberNoise(seed, number, 0 * number).draw(tuple(state.shape[1:]), key=(0, 0, "tangent"))
    tangent = tangent - tangent.mean(dim=-1, keepdim=True)  # the mean is conserved: errors in it do not count
    flow = KS.flow(parameters, grid, 2.0, inner_dt=0.25)
    return leading_exponent(flow, state, tangent, interval=2.0, num_intervals=num_intervals, num_discarded=15)


def test_leading_exponent_at_length_36_is_the_published_table():
    """0.0759, within 4 standard errors of this short run and within 15 %."""
    table = KS.lyapunov_exponent(torch.tensor([36.0], dtype=torch.float64)).item()
    estimate = exponent(36.0, seed=1)
    assert estimate.standard_error < 0.004
    assert estimate.exponent == pytest.approx(table, abs=4 * estimate.standard_error)
    assert estimate.exponent == pytest.approx(table, rel=0.15)


def test_length_32_is_not_chaotic():
    """Every run ends in a regular state: exponents of zero (to the finite time), where length 36 has 0.076."""
    estimate = exponent(32.0, seed=2, trajectories=8, num_intervals=30)
    assert estimate.per_trajectory.max() < 0.02
    lengths = torch.tensor([[32.0], [36.0], [18.0], [28.2], [48.0], [64.0], [200.0], [5.0]])
    assert KS.chaotic(lengths).tolist() == [False, True, False, False, False, True, True, False]
    assert KS.lyapunov_exponent(lengths).isnan().tolist() == [True, False, True, True, True, False, False, True]


def test_gradients_match_finite_differences():
    """Of a scalar of two outputs, in the state and in each trajectory's length; checkpoints change nothing."""
    state, parameters, grid = attractor(points=48, trajectories=2)
    times = [0.3, 0.75]
    weight = torch.randn(2, 2, 1, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def value(u, p, checkpoint=False):
        return (weight * integrate(KS, u, p, grid, times, checkpoint=checkpoint)).sum()

    u, p = state.clone().requires_grad_(), parameters.clone().requires_grad_()
    gradients = torch.autograd.grad(value(u, p), (u, p))
    for one, other in zip(torch.autograd.grad(value(u, p, checkpoint=True), (u, p)), gradients, strict=True):
        assert torch.equal(one, other)
    h = 1e-5
    direction = torch.randn(state.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    difference = (value(state + h * direction, parameters) - value(state - h * direction, parameters)) / (2 * h)
    assert (gradients[0] * direction).sum().item() == pytest.approx(difference.item(), rel=1e-7)
    for trajectory in range(2):
        nudge = torch.zeros_like(parameters)
        nudge[trajectory] = h
        difference = (value(state, parameters + nudge) - value(state, parameters - nudge)) / (2 * h)
        assert gradients[1][trajectory].item() == pytest.approx(difference.item(), rel=1e-6)


def test_tangent_linear_is_the_transpose_of_the_adjoint():
    """<w, J v> from forward mode equals <J^T w, v> from reverse mode, to rounding."""
    state, parameters, grid = attractor(points=48, trajectories=2)
    generator = torch.Generator().manual_seed(8)
    v, w = (torch.randn(state.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    flow = KS.flow(parameters, grid, 2.0, dtype=torch.float64)
    _, tangent = torch.func.jvp(flow, (state,), (v,))
    _, adjoint = torch.func.vjp(flow, state)
    assert (w * tangent).sum().item() == pytest.approx((adjoint(w)[0] * v).sum().item(), rel=1e-10)


def test_each_trajectory_has_its_own_length():
    """A batch of lengths equals separate runs with one length each; a member axis in front goes along."""
    lengths = torch.tensor([[22.0], [36.0], [44.0]], dtype=torch.float64)
    grid = KS.grid((64,), lengths)
    assert grid.axes[0].period == 1.0
    number = torch.arange(3)
    start = KS.initial(lengths, grid, MemberNoise(3, number, 0 * number), dtype=torch.float64)
    together = integrate(KS, start, lengths, grid, [1.0, 5.0])
    for index in range(3):
        alone = integrate(KS, start[index], lengths[index], KS.grid((64,), lengths[index]), [1.0, 5.0])
        assert relative(together[index], alone) < 1e-11
    members = torch.stack([start, start.flip(-1)])
    both = integrate(KS, members, lengths.expand(2, 3, 1), grid, [1.0, 5.0])
    assert both.shape == (2, 3, 2, 1, 64)
    assert relative(both[0], together) < 1e-11


def test_the_same_start_at_every_resolution():
    parameters = KS.info.default_parameters()[None]
    noise = MemberNoise(1, torch.tensor([4]), torch.tensor([0]))
    fine = KS.initial(parameters, KS.grid((128,)), noise, dtype=torch.float64)
    coarse = KS.initial(parameters, KS.grid((64,)), noise, dtype=torch.float64)
    assert (fine[..., ::2] - coarse).abs().max() < 1e-13
    assert fine.mean().abs() < 1e-14


@pytest.mark.parametrize(
    "shape, length, match",
    [
        ((64, 64), 36.0, "one-dimensional"),
        ((65,), 36.0, "even number"),
        ((6,), 5.0, "even number"),
        ((64,), 200.0, "growing waves"),
        ((64,), -3.0, "positive"),
    ],
)
def test_grids_that_cannot_work_are_refused(shape, length, match):
    with pytest.raises(InputError, match=match) as error:
        KS.grid(shape, torch.tensor([length], dtype=torch.float64))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [13.0, 36.0, 64.0, 200.0, 517.3])
def test_the_suggested_number_of_points_is_the_smallest_that_works(length):
    parameters = torch.tensor([length], dtype=torch.float64)
    with pytest.raises(InputError, match="at least") as error:
        KS.grid((8,), parameters)
    suggested = int(str(error.value).split("at least ")[1].split()[0])
    assert KS.grid((suggested,), parameters).shape == (suggested,)
    with pytest.raises(InputError):
        KS.grid((suggested - 2,), parameters)
