"""Measured orders of convergence: every deterministic sampler, schedule and grid, on exact flows and on a mixture."""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from exact_flows import MixtureDenoiser, gaussian_problem, normal, observed_order

from eddycast.diffusion import (
    GRIDS,
    SCHEDULES,
    AdamsBashforthSampler,
    AncestralSampler,
    DDIMSampler,
    DPMSolverSampler,
    HeunSampler,
    NoiseAdamsBashforthSampler,
    RectifiedSchedule,
    StochasticHeunSampler,
    exponential_integrator,
    starting_noise,
)

VELOCITY = {
    "ddim": (DDIMSampler, 1),
    "exponential-integrator": (partial(exponential_integrator), 1),
    "heun": (HeunSampler, 2),
    "adams-bashforth-1": (partial(AdamsBashforthSampler, order=1), 1),
    "adams-bashforth-2": (partial(AdamsBashforthSampler, order=2), 2),
    "adams-bashforth-3": (partial(AdamsBashforthSampler, order=3), 3),
    "adams-bashforth-4": (partial(AdamsBashforthSampler, order=4), 4),
}
RUNGE_KUTTA = partial(NoiseAdamsBashforthSampler, start="runge-kutta")
SINGULAR = {
    "adams-bashforth-noise-2": (partial(RUNGE_KUTTA, order=2), 2),
    "adams-bashforth-noise-3": (partial(RUNGE_KUTTA, order=3), 3),
    "adams-bashforth-noise-4": (partial(RUNGE_KUTTA, order=4), 4),
    "dpm-solver++1": (partial(DPMSolverSampler, order=1), 1),
    "dpm-solver++2": (DPMSolverSampler, 2),
    "edm": (partial(StochasticHeunSampler, churn=0.0), 2),
}
STEPS = [128, 256]
WAVERING = {
    ("linear", "linear"): 4, ("linear-ddpm", "linear"): 3, ("cosine-ddpm", "linear"): 4, ("cosine-ddpm", "quadratic"): 3,
}  # fmt: skip
"""From which order on the schedule of the noise is too rough for the grid."""


def gaussian_errors(make, schedule, grid, to_clean=True):
    denoiser, x_1 = gaussian_problem(schedule, samples=16)
    exact = denoiser.flow(x_1, to_clean=to_clean)
    samplers = [make(schedule=schedule, num_steps=n, grid=grid, to_clean=to_clean) for n in STEPS]
    return [(sampler(denoiser, x_1) - exact).square().mean().sqrt().item() for sampler in samplers]


@pytest.mark.parametrize("grid, to_clean", [("log-snr", True), ("karras", False)])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", [*VELOCITY, *SINGULAR])
def test_orders_where_the_grid_follows_the_noise_level(name, schedule, grid, to_clean):
    """Full order for all: steps in log(sigma / alpha) shrink everywhere, and errors of the clean end are below 1e-8."""
    make, order = (VELOCITY | SINGULAR)[name]
    errors = gaussian_errors(make, SCHEDULES[schedule](), grid, to_clean)
    assert observed_order(errors, STEPS) == pytest.approx(order, abs=0.1 if order < 3 else 0.25)
    assert errors[-1] < {1: 3e-2, 2: 2e-3, 3: 2e-4, 4: 2e-5}[order]


@pytest.mark.parametrize("grid", ["linear", "quadratic"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", VELOCITY)
def test_velocity_form_keeps_its_order_on_grids_of_time(name, schedule, grid):
    """The velocity form is smooth in u from pure noise to data, so any grid that shrinks shows the order.

    On the schedules of DDPM sigma grows like the root of time at the clean end, so times are no smooth grid there: the order of the
    longest formulas wavers (on `linear` 2.7 for the third, 5.5 for the fourth), and the errors alone are asked for.
    """
    make, order = VELOCITY[name]
    errors = gaussian_errors(make, SCHEDULES[schedule](), grid)
    if order < WAVERING.get((schedule, grid), 5):
        assert observed_order(errors, STEPS) == pytest.approx(order, abs=0.15 * order)
    assert errors[-1] < {1: 2e-2, 2: 2e-4, 3: 2e-5, 4: 1e-6}[order]


@pytest.mark.parametrize("schedule", ["rectified", "cosine", "cosine-pdediff", "cosine-sda"])
def test_order_reduction_of_dpm_solver_on_linear_times(schedule):
    """Order 2 is not reached at 256 steps: at both ends the steps in log(sigma / alpha) stay as long as log 2, log 3/2, ...

    However many steps there are, sigma halves in the last but one step before the clean end, and sigma / alpha falls by a
    large factor in the first step. Those steps gain nothing from a line through the past; their errors fade with sigma^2 (or
    alpha^2), which leaves order 2 up to a logarithm, from below. Where the grid follows the log SNR nothing is lost.
    """
    make, order = DPMSolverSampler, 2
    errors = gaussian_errors(make, SCHEDULES[schedule](), "linear")
    assert 1.2 < observed_order(errors, STEPS) < order - 0.15
    assert observed_order(gaussian_errors(make, SCHEDULES[schedule](), "log-snr"), STEPS) > order - 0.05


def test_noise_form_has_no_clean_order_on_linear_times():
    """rho falls from 1000 to 1 in half of the steps: orders measured at 128 to 256 steps say nothing, errors still fall.

    The published start of low order is the better one there by a factor of ten at 16 steps (see the sampler).
    """
    schedule = RectifiedSchedule()
    for order in (2, 4):
        errors = gaussian_errors(partial(RUNGE_KUTTA, order=order), schedule, "linear")
        assert errors[1] < errors[0] and abs(observed_order(errors, STEPS) - order) > 0.5
    denoiser, x_1 = gaussian_problem(schedule)
    exact = denoiser.flow(x_1)
    low, high = (
        (NoiseAdamsBashforthSampler(schedule, 16, start=start)(denoiser, x_1) - exact).square().mean().sqrt().item()
        for start in ("low-order", "runge-kutta")
    )
    assert 5 * low < high


@pytest.mark.parametrize("form", [AdamsBashforthSampler, NoiseAdamsBashforthSampler])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_low_order_start_leaves_order_two(order, form):
    """The one first-order step has an error of h^2, whatever follows (mild ends, so that both forms see it)."""
    schedule = RectifiedSchedule(0.2, 0.02)
    errors = gaussian_errors(partial(form, order=order, start="low-order"), schedule, "linear", to_clean=False)
    assert observed_order(errors, STEPS) == pytest.approx(2, abs=0.3)


@cache
def mixture_reference(name):
    """2048 steps of order 4 on the Karras grid."""
    schedule = SCHEDULES[name]()
    denoiser, x_1 = MixtureDenoiser(schedule), starting_noise(schedule, normal(32, 1, 1, 1, seed=3))
    return schedule, denoiser, x_1, AdamsBashforthSampler(schedule, 2048, order=4, grid="karras")(denoiser, x_1)


@pytest.mark.parametrize("schedule", ["rectified", "cosine-sda", "edm"])
@pytest.mark.parametrize("name", [*VELOCITY, *SINGULAR])
def test_orders_on_a_mixture(name, schedule):
    """A denoiser that is not linear: against 2048 steps of order 4, on the Karras grid."""
    make, order = (VELOCITY | SINGULAR)[name]
    schedule, denoiser, x_1, fine = mixture_reference(schedule)
    steps = [96, 192]
    samplers = [make(schedule=schedule, num_steps=n, grid="karras", to_clean=True) for n in steps]
    errors = [(sampler(denoiser, x_1) - fine).square().mean().sqrt().item() for sampler in samplers]
    assert observed_order(errors, steps) == pytest.approx(order, abs=0.12 * order)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_map_by_many_names(schedule, grid):
    """Of first order there is one sampler: DDIM, exponential integrator, DPM-Solver++1, Adams-Bashforth 1, ancestral, eta 0."""
    schedule = SCHEDULES[schedule]()
    denoiser, x_1 = MixtureDenoiser(schedule), starting_noise(schedule, normal(32, 1, 1, 1, seed=3))
    for to_clean in (True, False):
        options = {"schedule": schedule, "num_steps": 9, "grid": grid, "to_clean": to_clean}
        ddim = DDIMSampler(**options)(denoiser, x_1)
        assert torch.equal(exponential_integrator(**options)(denoiser, x_1), ddim)
        for other in (
            partial(DPMSolverSampler, order=1),
            partial(AdamsBashforthSampler, order=1),
            partial(NoiseAdamsBashforthSampler, order=1),
        ):
            assert torch.allclose(other(**options)(denoiser, x_1), ddim, rtol=1e-8, atol=1e-9)
        still = AncestralSampler(eta=0.0, **options)(denoiser, x_1, noise=lambda step: torch.full_like(x_1, torch.nan))
        assert torch.allclose(still, ddim, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_exponential_integrator_is_the_published_formula(schedule):
    """x <- r x + (sigma' - r sigma) eps, r = alpha' / alpha, step by step to time 0, as both codes have it."""
    schedule = SCHEDULES[schedule]()
    denoiser, x_1 = MixtureDenoiser(schedule), starting_noise(schedule, normal(32, 1, 1, 1, seed=3))
    times = torch.linspace(1, 0, 13, dtype=torch.float64)
    x = x_1
    for t, s in pairwise(times):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        eps = (x - alpha_t * denoiser(x, t)) / sigma_t
        r = alpha_s / alpha_t
        x = r * x + (sigma_s - r * sigma_t) * eps
    assert torch.allclose(exponential_integrator(schedule, 12)(denoiser, x_1), x, rtol=1e-8, atol=1e-10)


def test_lower_order_final_matters_on_linear_times():
    """A last step that is long in log(sigma / alpha): extrapolating over it spoils the few-step result."""
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule)
    exact = denoiser.flow(x_1, to_clean=False)
    careful, bold = (
        (DPMSolverSampler(schedule, 8, lower_order_final=final, to_clean=False)(denoiser, x_1) - exact)
        .abs()
        .max()
        .item()
        for final in (True, False)
    )
    assert careful < 0.7 * bold
