"""Laws of the stochastic samplers: exact mean and covariance on a Gaussian, moments on a mixture, published formulas."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from exact_flows import (
    MIXTURE_MEAN,
    MIXTURE_VARIANCE,
    MixtureDenoiser,
    draw_from,
    gaussian_problem,
    normal,
    observed_order,
    response,
)

from eddycast.diffusion import (
    SAMPLERS,
    SCHEDULES,
    AncestralSampler,
    EDMSchedule,
    PredictorCorrectorSampler,
    RectifiedSchedule,
    SDACosineSchedule,
    StochasticDPMSolverSampler,
    StochasticHeunSampler,
    make_sampler,
    starting_noise,
)

STOCHASTIC = ("ancestral", "sde-dpm-solver++", "edm-stochastic", "predictor-corrector")


def spread_error(sampler, schedule):
    """Largest relative error of the covariance along the principal axes; the mean is checked on the way."""
    denoiser, _ = gaussian_problem(schedule, samples=1)
    bias, covariance = response(sampler, denoiser)
    assert bias.abs().max().item() < 1e-12, "a mean is never wrong: the exact one is a trajectory of the sampler"
    std = denoiser.variance.sqrt()
    return (covariance / (std[:, None] * std) - torch.eye(4)).abs().max().item()


@pytest.mark.parametrize("grid", ["log-snr", "karras"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "make, order",
    [
        (AncestralSampler, 1),
        (partial(AncestralSampler, eta=0.5), 1),
        (partial(StochasticDPMSolverSampler, order=1), 1),
        (StochasticDPMSolverSampler, 2),
        (partial(StochasticHeunSampler, churn=4.0), 2),
        (partial(StochasticHeunSampler, churn=2.0, churn_min=0.1, churn_max=5.0), 2),
    ],
)
def test_order_of_the_bias_of_the_spread(make, order, schedule, grid):
    """Exact covariance, no sampling: the bias falls with this power of the number of steps."""
    schedule, steps = SCHEDULES[schedule](), [48, 96]
    errors = [spread_error(make(schedule=schedule, num_steps=n, grid=grid), schedule) for n in steps]
    # Order 1 comes from below, as 1 - c / n; a window of churn adds what falls on one side of its edge or the other.
    assert observed_order(errors, steps) == pytest.approx(order, abs=0.3)
    assert errors[-1] < {1: 0.25, 2: 0.05}[order]


def test_corrections_leave_a_bias_in_proportion_to_the_amplitude():
    """Unadjusted Langevin steps inflate the spread by 2 to 3 % at the end, by as much at 64 steps as at 128."""
    schedule = RectifiedSchedule()
    small, large, fewer = (
        spread_error(PredictorCorrectorSampler(schedule, n, amplitude=a), schedule)
        for n, a in [(128, 0.25), (128, 0.5), (64, 0.5)]
    )
    assert large / small == pytest.approx(2, abs=0.2)
    assert 0.02 < large < 0.05 and fewer == pytest.approx(large, rel=0.1)


def test_langevin_steps_alone_reach_their_stationary_spread():
    """At a fixed level, x <- x + delta score + sqrt(2 delta) noise has variance v / (1 - delta / (2 v)), v that of x_t."""
    schedule, amplitude = RectifiedSchedule(0.1, 0.02), 0.8
    denoiser, _ = gaussian_problem(schedule, samples=1)
    # Two times very close to each other: the predictor does nothing, and 400 corrections forget the start.
    times = (0.5, 0.5 - 1e-9, 0.5 - 2e-9)
    sampler = PredictorCorrectorSampler(schedule, num_corrections=400, amplitude=amplitude, times=times, to_clean=False)
    alpha, sigma = schedule(torch.tensor(0.5, dtype=torch.float64))
    centred = denoiser.__class__(schedule, torch.zeros(4).double(), denoiser.variance, denoiser.basis)
    _, covariance = response(sampler, centred)
    marginal = alpha**2 * denoiser.variance + sigma**2
    expected = marginal / (1 - amplitude * sigma**2 / (2 * marginal))
    assert torch.allclose(covariance.diagonal(), expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", ["rectified", "cosine-pdediff", "cosine-sda", "edm"])
@pytest.mark.parametrize(
    "make, steps, bias",
    [
        (AncestralSampler, 128, 0.03),
        (StochasticDPMSolverSampler, 48, 0.01),
        (partial(StochasticHeunSampler, churn=8.0), 32, 0.02),
        (partial(PredictorCorrectorSampler, num_corrections=2, amplitude=0.1), 64, 0.03),
        (partial(PredictorCorrectorSampler, num_corrections=2, amplitude=0.1, step_law="score"), 64, 0.03),
    ],
)
def test_moments_of_a_mixture(make, steps, bias, schedule):
    """Mean and variance of 64 x 256 draws within 4 standard errors and the discretisation bias stated here.

    A sample has 256 entries, so that the mean of score^2 is nearly a number and both step laws of Langevin are allowed.
    """
    schedule = SCHEDULES[schedule]()
    x_1 = starting_noise(schedule, normal(64, 1, 1, 256, seed=21), sigma_data=math.sqrt(MIXTURE_VARIANCE))
    x_1 = x_1 + MIXTURE_MEAN * schedule(torch.ones((), dtype=torch.float64))[0]
    sampler = make(schedule=schedule, num_steps=steps, grid="linear")
    x = sampler(MixtureDenoiser(schedule), x_1, noise=draw_from(x_1.shape))
    std = math.sqrt(MIXTURE_VARIANCE)
    assert abs(x.mean().item() - MIXTURE_MEAN) < 4 * std / math.sqrt(x.numel()) + bias
    assert abs(x.var().item() - MIXTURE_VARIANCE) < 4 * MIXTURE_VARIANCE * math.sqrt(2 / x.numel()) + bias


def test_sde_dpm_solver_of_order_one_is_ancestral_sampling():
    for name, make in SCHEDULES.items():
        schedule = make()
        denoiser, x_1 = gaussian_problem(schedule, samples=6)
        for grid, to_clean in [("linear", True), ("log-snr", False)]:
            options = {"schedule": schedule, "num_steps": 9, "grid": grid, "to_clean": to_clean}
            pair = [
                sampler(denoiser, x_1, noise=draw_from(x_1.shape))
                for sampler in (AncestralSampler(**options), StochasticDPMSolverSampler(order=1, **options))
            ]
            assert torch.allclose(*pair, rtol=1e-9, atol=1e-9), name


def test_churn_is_the_published_algorithm():
    """Algorithm 2 of arXiv:2206.00364 written out for alpha = 1, with its noise window, on its own grid of sigmas."""
    schedule, num_steps, churn, low, high, s_noise = EDMSchedule(), 18, 10.0, 0.05, 50.0, 1.007
    denoiser, x_1 = gaussian_problem(schedule, samples=8)
    i = torch.arange(num_steps + 1, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / num_steps * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7

    def mean_at(x, sigma):
        root = (sigma ** (1 / 7) - 0.002 ** (1 / 7)) / (80 ** (1 / 7) - 0.002 ** (1 / 7))
        return denoiser(x, root)

    for last in (sigmas[-1], torch.zeros((), dtype=torch.float64)):
        levels, x = [*sigmas[:-1], last], x_1
        for step, (t, s) in enumerate(pairwise(levels)):
            gamma = min(churn / num_steps, math.sqrt(2) - 1) if low <= t <= high else 0.0
            t_up = t * (1 + gamma)
            x = x + torch.sqrt(t_up**2 - t**2) * s_noise * draw_from(x_1.shape)(step)
            d = (x - mean_at(x, t_up)) / t_up
            x_s = x + (s - t_up) * d
            if s > 0:
                x_s = x + (s - t_up) / 2 * (d + (x_s - mean_at(x_s, s)) / s)
            x = x_s
        sampler = StochasticHeunSampler(schedule, num_steps, churn, low, high, s_noise, to_clean=bool(last == 0))
        assert torch.allclose(sampler(denoiser, x_1, noise=draw_from(x_1.shape)), x, rtol=1e-8, atol=1e-9)


def test_churn_never_leaves_the_schedule_and_needs_no_noise_when_off():
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule, samples=4)
    times: list[float] = []

    def watching(x_t, time):
        times.append(time.item())
        return denoiser(x_t, time)

    asked: list[int] = []
    StochasticHeunSampler(schedule, 8, churn=1e3)(watching, x_1, noise=lambda k: asked.append(k) or 0 * x_1)
    assert max(times) == 1.0 and 0 not in asked and asked == [1, 2, 3, 4, 5, 6, 7]
    still = StochasticHeunSampler(schedule, 8, churn=0.0)
    assert torch.equal(still(denoiser, x_1), still(denoiser, x_1, noise=draw_from(x_1.shape)))


@pytest.mark.parametrize("tau", [0.25, 1.0])
def test_score_law_is_the_published_corrector(tau):
    """delta = tau / mean(score^2) of each sample, x + delta s + sqrt(2 delta) z after each predictor but the last."""
    schedule, num_steps, corrections = SDACosineSchedule(), 10, 2
    denoiser, x_1 = gaussian_problem(schedule, samples=6)
    times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
    x = x_1
    for step, (t, u) in enumerate(pairwise(times)):
        (mu_t, sigma_t), (mu_u, sigma_u) = schedule(t), schedule(u)
        r = mu_u / mu_t
        x = r * x + (sigma_u - r * sigma_t) * (x - mu_t * denoiser(x, t)) / sigma_t
        for correction in range(corrections if step < num_steps - 1 else 0):
            s = -(x - mu_u * denoiser(x, u)) / sigma_u / sigma_u
            delta = tau / s.square().mean(dim=(1, 2, 3), keepdim=True)
            x = x + delta * s + torch.sqrt(2 * delta) * draw_from(x_1.shape)(step * corrections + correction)
    sampler = PredictorCorrectorSampler(
        schedule, num_steps, num_corrections=corrections, amplitude=tau, step_law="score", to_clean=False
    )
    assert torch.allclose(sampler(denoiser, x_1, noise=draw_from(x_1.shape)), x, rtol=1e-8, atol=1e-9)


def test_step_laws_agree_where_the_score_has_its_mean():
    """With noise of mean square exactly 1 in every sample both laws are the same, whole amplitudes included."""
    schedule, x_1 = RectifiedSchedule(), normal(3, 1, 1, 8)
    x_1 = x_1 / x_1.square().mean(dim=-1, keepdim=True).sqrt()

    def nothing(x_t, time):
        """Data that are all zero: x_t is its own noise, scaled."""
        return torch.zeros_like(x_t)

    def silent(step):
        return torch.zeros_like(x_1)

    for amplitude in (0.25, 1):
        one_step = {"times": (1.0, 0.5, 0.2), "amplitude": amplitude, "to_clean": False}
        fixed, scored = (
            PredictorCorrectorSampler(schedule, step_law=law, **one_step)(
                nothing, schedule(torch.ones(()))[1] * x_1, noise=silent
            )
            for law in ("sigma", "score")
        )
        assert torch.allclose(fixed, scored, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_asked_by_address(name):
    """A stochastic sampler asks each address once, in order, and repeats itself; the others never ask."""
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule, samples=4)
    sampler, asked = make_sampler(name, schedule, 6), []

    def noise(step):
        asked.append(step)
        return draw_from(x_1.shape)(step)

    x = sampler(denoiser, x_1, noise=noise)
    assert asked == sorted(set(asked)) and bool(asked) == (name in STOCHASTIC)
    assert torch.equal(sampler(denoiser, x_1, noise=draw_from(x_1.shape)), x)
    if asked:
        assert not torch.equal(sampler(denoiser, x_1, noise=draw_from(x_1.shape, seed=500)), x)
