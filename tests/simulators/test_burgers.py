"""Burgers: the Cole-Hopf solution, its laws, convergence in space and time, the initial law."""

import math
from itertools import pairwise

import pytest
import torch

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.simulators import get_system, integrate, simulate, uniform_times

BURGERS = get_system("burgers")


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def cole_hopf(points, viscosity, time):
    """u = -2 nu w_x / w with w = 1 + sum_m a_m cos(2 pi m x + p_m) e^{-nu (2 pi m)^2 t}: a solution for w > 0."""
    x = torch.arange(points, dtype=torch.float64) / points
    w, slope = torch.ones_like(x), torch.zeros_like(x)
    for mode, amplitude, phase in ((1, 0.7, 0.3), (2, 0.15, -1.0), (3, 0.05, 2.0)):
        k = 2 * math.pi * mode
        decay = amplitude * math.exp(-viscosity * k**2 * time)
        w, slope = w + decay * torch.cos(k * x + phase), slope - k * decay * torch.sin(k * x + phase)
    return (-2 * viscosity * slope / w)[None, None]


def starts(trajectories=8, points=128, seed=0):
    run = simulate(BURGERS, trajectories=trajectories, steps=1, grid_shape=(points,), dtype=torch.float64, seed=seed)
    return run.states[:, 0], run.parameters, run.grid


@pytest.mark.parametrize("viscosity", [0.01, 0.05])
def test_follows_the_cole_hopf_solution(viscosity):
    """Amplitudes up to 0.8 at nu = 0.05; the default step and twice the default points."""
    parameters = torch.tensor([[viscosity]], dtype=torch.float64)
    times = [0.2, 0.5, 1.0]
    start = cole_hopf(256, viscosity, 0.0)
    result = integrate(BURGERS, start, parameters, BURGERS.grid((256,), parameters), times)
    for index, time in enumerate(times):
        assert relative(result[:, index], cole_hopf(256, viscosity, time)) < 1e-6
    assert relative(result[:, -1], start) > 0.2


def test_order_four_in_time():
    parameters = torch.tensor([[0.05]], dtype=torch.float64)
    start, exact = cole_hopf(128, 0.05, 0.0), cole_hopf(128, 0.05, 0.2)
    steps = [0.04, 0.02, 0.01]
    errors = [
        relative(integrate(BURGERS, start, parameters, BURGERS.grid((128,)), [0.2], inner_dt=step)[:, 0], exact)
        for step in steps
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert orders[-1] == pytest.approx(4.0, abs=0.25), (errors, orders)


def test_fronts_converge_spectrally_in_space():
    """The default law at nu = 0.01 against 512 points: 2e-4 with 64 points, 1e-7 with 128."""
    fine, parameters, grid = starts(points=512)
    exact = integrate(BURGERS, fine, parameters, grid, [0.3, 1.0])
    errors = []
    for points in (64, 128):
        factor = 512 // points
        coarse = integrate(BURGERS, fine[..., ::factor], parameters, BURGERS.grid((points,)), [0.3, 1.0])
        errors.append(relative(coarse, exact[..., ::factor]))
    assert errors[0] < 1e-3 and errors[1] < 1e-6


def test_mean_is_kept_energy_decays_and_the_maximum_principle_holds():
    start, parameters, grid = starts()
    start = start + 0.3
    states = integrate(BURGERS, start, parameters, grid, uniform_times(0.05, 20, start=0))
    assert (states.mean(dim=-1) - 0.3).abs().max() < 1e-14
    energy = states.square().mean(dim=(-2, -1))
    assert (energy.diff(dim=1) < 0).all()
    assert (states.amax(dim=-1).diff(dim=1) < 1e-9).all() and (states.amin(dim=-1).diff(dim=1) > -1e-9).all()


def test_energy_budget_closes():
    """d/dt of the mean of u^2 / 2 is -nu times the mean of u_x^2."""
    start, parameters, grid = starts()
    h = 1e-3
    states = integrate(BURGERS, start, parameters, grid, [0.2 - 2 * h, 0.2 - h, 0.2, 0.2 + h, 0.2 + 2 * h], inner_dt=h)
    energy = states.square().mean(dim=(-2, -1)) / 2
    tendency = (energy[:, 0] - 8 * energy[:, 1] + 8 * energy[:, 3] - energy[:, 4]) / (12 * h)
    spectrum = torch.fft.rfft(states[:, 2, 0])
    slope = torch.fft.irfft(2j * math.pi * torch.arange(65) * spectrum * (torch.arange(65) < 64), n=128)
    dissipation = 0.01 * slope.square().mean(dim=-1)
    assert dissipation.min() > 1e-3
    assert (tendency + dissipation).abs().max() < 1e-8


def test_galilean_boost_adds_a_drift():
    """If u solves the equation, so does u(x - c t) + c; c t is a whole number of grid cells."""
    start, parameters, grid = starts()
    boosted = integrate(BURGERS, start + 0.25, parameters, grid, [0.5], inner_dt=0.0025)
    plain = integrate(BURGERS, start, parameters, grid, [0.5], inner_dt=0.0025)
    assert relative(boosted - 0.25, plain.roll(16, dims=-1)) < 1e-7


def test_initial_law():
    """Deviation of the coefficients of mode m: sqrt(2) 25^2 ((2 pi m)^2 + 25)^-2; the mean is zero; grids agree."""
    numbers = torch.arange(2000)
    noise = MemberNoise(3, numbers, 0 * numbers)
    parameters = BURGERS.info.default_parameters().expand(2000, 1)
    state = BURGERS.initial(parameters, BURGERS.grid(), noise, dtype=torch.float64)
    spectrum = torch.fft.rfft(state[:, 0]) / 128
    assert spectrum[:, 0].abs().max() < 1e-15
    for mode in (1, 2, 5):
        deviation = math.sqrt(2) * 625 / ((2 * math.pi * mode) ** 2 + 25) ** 2
        for part in (2 * spectrum[:, mode].real, 2 * spectrum[:, mode].imag):
            assert part.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * 2000))
            assert part.mean().item() == pytest.approx(0, abs=4 * deviation / math.sqrt(2000))
    fine = BURGERS.initial(parameters, BURGERS.grid((256,)), noise, dtype=torch.float64)
    assert (fine[..., ::2] - state).abs().max() < 1e-13


def test_each_trajectory_has_its_own_viscosity():
    start, _, grid = starts(trajectories=2)
    parameters = torch.tensor([[0.01], [0.05]], dtype=torch.float64)
    both = integrate(BURGERS, start, parameters, grid, [0.3])
    for index in range(2):
        alone = integrate(BURGERS, start[index], parameters[index], grid, [0.3])
        assert relative(both[index], alone) < 1e-12


@pytest.mark.parametrize(
    "shape, viscosity, match",
    [
        ((64, 64), 0.01, "one-dimensional"),
        ((65,), 0.01, "even number"),
        ((128,), 0.001, "take at least 640"),
    ],
)
def test_grids_that_cannot_work_are_refused(shape, viscosity, match):
    with pytest.raises(InputError, match=match):
        BURGERS.grid(shape, torch.tensor([viscosity], dtype=torch.float64))
    if "640" in match:
        assert BURGERS.grid((640,), torch.tensor([viscosity], dtype=torch.float64)).shape == (640,)


def test_agrees_with_exponax():
    """An independent ETDRK4 solver, same step, on a resolved start."""
    jax = pytest.importorskip("jax")
    exponax = pytest.importorskip("exponax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        start, parameters, grid = starts(trajectories=3, points=256)
        stepper = exponax.stepper.Burgers(
            1, 1.0, 256, 0.01, diffusivity=0.01, convection_scale=1.0, conservative=True, order=4
        )
        theirs, advance = jax.numpy.asarray(start.numpy()), jax.jit(jax.vmap(stepper))
        for _ in range(30):
            theirs = advance(theirs)
        ours = integrate(BURGERS, start, parameters, grid, [0.3], inner_dt=0.01)
        assert relative(ours[:, 0], torch.tensor(jax.device_get(theirs))) < 1e-8
    finally:
        jax.config.update("jax_enable_x64", before)
