"""Samplers where the answer is known: the Gaussian flow, Gaussian laws; what all of them keep."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exact_flows import GaussianDenoiser, draw_from, gaussian_problem, normal, observed_order
from hypothesis import given, settings
from hypothesis import strategies as st

from eddycast.diffusion import (
    SAMPLERS,
    AdamsBashforthSampler,
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    HeunSampler,
    PredictorCorrectorSampler,
    RectifiedSchedule,
    make_sampler,
)
from eddycast.diffusion.sampling import interval_weights
from eddycast.errors import InputError

LOW_START = partial(AdamsBashforthSampler, start="low-order")


@pytest.mark.parametrize(
    "schedule, to_clean",
    [
        (RectifiedSchedule(), True),
        (CosineSchedule(), True),
        (RectifiedSchedule(), False),
        (CosineSchedule(0.1, 0.01), False),
    ],
)
@pytest.mark.parametrize(
    "make, order",
    [
        (DDIMSampler, 1),
        (partial(AncestralSampler, eta=0.0), 1),
        (HeunSampler, 2),
        (partial(AdamsBashforthSampler, order=1), 1),
        (partial(AdamsBashforthSampler, order=2), 2),
        (partial(LOW_START, order=2), 2),
        (partial(AdamsBashforthSampler, order=3), 3),
        (partial(LOW_START, order=3), 2),  # the one first-order step at the start shows in the end
    ],
)
def test_sampler_converges_to_the_gaussian_flow(make, order, schedule, to_clean):
    denoiser, x_1 = gaussian_problem(schedule, samples=16)
    exact = denoiser.flow(x_1, to_clean=to_clean)
    steps = [128, 256]
    samplers = [make(schedule, n, to_clean=to_clean) for n in steps]
    results = [sampler(denoiser, x_1, noise=draw_from(x_1.shape)) for sampler in samplers]
    errors = [(result - exact).square().mean().sqrt().item() for result in results]
    assert observed_order(errors, steps) == pytest.approx(order, abs=0.25)
    assert errors[-1] < {1: 2e-2, 2: 2e-4, 3: 1e-5}[order]


def test_velocity_form_reproduces_published_accuracy():
    """Root mean square error to the exact flow at 8, 16, 32, 64 evaluations: 4-d Gaussian, rectified, low-order start.

    Reference figures for another 4-d Gaussian: Euler 1.4e-1 7.4e-2 3.8e-2 1.9e-2, vAB3 1.3e-2 3.0e-3 7.3e-4 1.8e-4; the
    covariance is not given, hence a factor of 3.
    """
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule, samples=4096)
    exact = denoiser.flow(x_1, to_clean=False)

    def error(make, steps):
        return (make(schedule, steps, to_clean=False)(denoiser, x_1) - exact).square().mean().sqrt().item()

    for make, reference in [
        (DDIMSampler, (1.4e-1, 7.4e-2, 3.8e-2, 1.9e-2)),
        (partial(LOW_START, order=3), (1.3e-2, 3.0e-3, 7.3e-4, 1.8e-4)),
    ]:
        for steps, figure in zip((8, 16, 32, 64), reference, strict=True):
            assert figure / 3 < error(make, steps) < 3 * figure
    for steps in (16, 32, 64):  # at equal evaluations order 3 with Heun's start is best
        best = error(AdamsBashforthSampler, steps - 1)
        assert best < 0.6 * error(partial(LOW_START, order=3), steps)
        assert best < 0.6 * error(HeunSampler, steps // 2)
        assert best < 0.2 * error(DDIMSampler, steps)


def test_uniform_adams_bashforth_weights():
    for nodes, expected in [
        ((0.0,), (1,)),
        ((0.0, -1.0), (3 / 2, -1 / 2)),
        ((0.0, -1.0, -2.0), (23 / 12, -16 / 12, 5 / 12)),
        ((0.0, -1.0, -2.0, -3.0), (55 / 24, -59 / 24, 37 / 24, -9 / 24)),
    ]:
        weights = interval_weights(tuple(0.3 + 0.1 * u for u in nodes), 0.3, 0.4)
        assert weights == pytest.approx([0.1 * w for w in expected])


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.floats(0.01, 0.3), min_size=1, max_size=4),
    start=st.floats(0.1, 1),
    step=st.floats(0.01, 0.1),
    slope=st.floats(-2, 2),
    bend=st.floats(-2, 2),
)
def test_interval_weights_integrate_polynomials(gaps, start, step, slope, bend):
    """n nodes are exact below degree n, on any grid."""
    nodes = tuple(start + sum(gaps[:j]) for j in range(len(gaps)))
    coefficients = [0.7, slope, bend, 0.4][: len(nodes)]
    weights = interval_weights(nodes, start, start - step)
    quadrature = sum(w * sum(c * u**m for m, c in enumerate(coefficients)) for w, u in zip(weights, nodes, strict=True))
    exact = sum(c * ((start - step) ** (m + 1) - start ** (m + 1)) / (m + 1) for m, c in enumerate(coefficients))
    assert quadrature == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize("schedule", [RectifiedSchedule(), CosineSchedule()])
@pytest.mark.parametrize(
    "make, steps",
    [
        (AdamsBashforthSampler, 16),
        (HeunSampler, 16),
        (DDIMSampler, 256),
        (AncestralSampler, 256),
        (partial(AncestralSampler, eta=0.5), 256),
        (partial(PredictorCorrectorSampler, num_corrections=2, amplitude=0.1), 128),
    ],
)
def test_samples_have_the_law_of_the_data(make, steps, schedule):
    """Mean and covariance along the principal axes: 5 standard errors, plus 4 % of discretisation and sampler bias."""
    samples = 4096
    denoiser, x_1 = gaussian_problem(schedule, samples)
    x = make(schedule, steps)(denoiser, x_1, noise=draw_from(x_1.shape)).flatten(1)
    std = denoiser.variance.sqrt()
    whitened = (x - denoiser.mean) @ denoiser.basis / std
    assert whitened.mean(dim=0).abs().max().item() < 5 / samples**0.5
    covariance = whitened.T @ whitened / samples
    assert (covariance - torch.eye(4)).abs().max().item() < 5 * (2 / samples) ** 0.5 + 0.04


def test_last_step_leaves_no_noise_in_empty_modes():
    """A smooth field (empty high modes) comes out smooth; stopping at sigma_min leaves white noise of that size.

    The result of the first-order sampler is the denoiser's last answer itself.
    """
    schedule = RectifiedSchedule()
    variance = torch.tensor([1.0, 0.3, 0.0, 0.0], dtype=torch.float64)
    denoiser = GaussianDenoiser(
        schedule, torch.zeros(4, dtype=torch.float64), variance, torch.eye(4, dtype=torch.float64)
    )
    x_1 = normal(256, 1, 1, 4)
    for make in (DDIMSampler, HeunSampler, AdamsBashforthSampler):
        stopped = make(schedule, 16, to_clean=False)(denoiser, x_1).flatten(1)[:, 2:]
        assert stopped.std().item() > 3e-4
        assert make(schedule, 16)(denoiser, x_1).flatten(1)[:, 2:].abs().max().item() < 1e-12
    answers: list[torch.Tensor] = []
    x = DDIMSampler(schedule, 8)(lambda x_t, t: answers.append(denoiser(x_t, t)) or answers[-1], x_1)
    assert torch.equal(x, answers[-1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_laws(name):
    """Counts its evaluations, keeps dtype, draws nothing global, records no graph, treats samples one by one."""
    schedule = CosineSchedule()
    sampler = make_sampler(name, schedule, 12, "linear")
    denoiser, x_1 = gaussian_problem(schedule, samples=6)
    noise = draw_from(x_1.shape)
    calls = []

    def counting(x_t, time):
        calls.append(time)
        assert time.shape == () and time.dtype == x_t.dtype
        return denoiser(x_t, time)

    state = torch.get_rng_state()
    x = sampler(counting, x_1.clone().requires_grad_(), noise=noise)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == sampler.num_evaluations
    assert not x.requires_grad and x.shape == x_1.shape
    part = sampler(denoiser, x_1[2:4], noise=lambda step: noise(step)[2:4])
    assert torch.allclose(part, x[2:4], rtol=1e-12)
    x_single = sampler(denoiser.single(), x_1.float(), noise=lambda step: noise(step).float())
    assert x_single.dtype == torch.float32
    assert torch.allclose(x_single.double(), x, atol=2e-3)  # velocities divide rounding by sigma_min = 1e-3
    times = tuple(1 - n / 12 for n in range(13))
    assert torch.equal(make_sampler(name, schedule, 3, times=times)(denoiser, x_1, noise=noise), x)
    assert make_sampler(name, schedule, 3, times=times).num_evaluations == sampler.num_evaluations


def test_a_finer_start_of_the_grid_cures_the_low_order_start():
    """Custom times: a first step of h^1.5 makes its error h^3, and order 3 shows without Heun's start."""
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule)
    exact, errors, steps = denoiser.flow(x_1), [], [64, 128]
    for n in steps:
        first = n**-1.5
        times = (1.0, *(1 - first - (1 - first) * k / n for k in range(n)), 0.0)
        errors.append((LOW_START(schedule, times=times)(denoiser, x_1) - exact).abs().max().item())
    assert observed_order(errors, steps) == pytest.approx(3, abs=0.25)


def test_bad_arguments_are_refused():
    schedule = RectifiedSchedule()
    denoiser, x_1 = gaussian_problem(schedule, samples=2)
    for make in (AncestralSampler, PredictorCorrectorSampler):
        with pytest.raises(ValueError, match="stochastic"):
            make(schedule, 4)(denoiser, x_1)
    for times in [(1.0,), (0.5, 0.7), (1.0, 0.5, 0.5), (1.2, 0.0), (1.0, -0.1)]:
        with pytest.raises(ValueError, match="times"):
            DDIMSampler(schedule, times=times)(denoiser, x_1)
    with pytest.raises(ValueError, match="at least one step"):
        DDIMSampler(schedule, 0)(denoiser, x_1)
    with pytest.raises(ValueError, match="order"):
        AdamsBashforthSampler(schedule, order=5)
    with pytest.raises(ValueError, match="grid must be one of linear"):
        DDIMSampler(schedule, grid="random")(denoiser, x_1)
    with pytest.raises(InputError, match="choose one of linear, quadratic"):
        make_sampler("ddim", schedule, 4, "random")
    with pytest.raises(InputError, match="choose one of ddim, exponential"):
        make_sampler("rk45", schedule, 4)
    for name, options in [
        ("ddim", {"order": 2}),
        ("adams-bashforth", {"order": 5}),
        ("adams-bashforth-noise", {"start": "euler"}),
        ("dpm-solver++", {"order": 3}),
        ("sde-dpm-solver++", {"order": 0}),
        ("ancestral", {"eta": 1.5}),
        ("edm-stochastic", {"churn": -1.0}),
        ("edm-stochastic", {"churn_min": 2.0, "churn_max": 1.0}),
        ("predictor-corrector", {"step_law": "none"}),
        ("predictor-corrector", {"amplitude": 2.0}),
    ]:
        with pytest.raises(InputError, match=f"{next(iter(options))}") as caught:
            make_sampler(name, schedule, 4, **options)
        assert name in str(caught.value) and "\n" not in str(caught.value)
