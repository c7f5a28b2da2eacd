"""Samplers where the answer is known: the Gaussian flow, Gaussian laws, Gaussian conditioning; azula as referee."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eddycast.diffusion import (
    SAMPLERS,
    AdamsBashforthSampler,
    AncestralSampler,
    CosineSchedule,
    DDIMSampler,
    HeunSampler,
    KnownFramesDenoiser,
    PredictorCorrectorSampler,
    RectifiedSchedule,
    make_sampler,
    marginal_std,
    starting_noise,
)
from eddycast.diffusion.sampling import interval_weights
from eddycast.errors import InputError

LOW_START = partial(AdamsBashforthSampler, heun_start=False)


@dataclass(frozen=True)
class GaussianDenoiser:
    """Exact posterior mean for x ~ N(mean, C) over the flattened sample axes, C = basis diag(variance) basis^T."""

    schedule: object
    mean: torch.Tensor
    variance: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def of(cls, schedule, mean, covariance):
        variance, basis = torch.linalg.eigh(covariance)
        return cls(schedule, mean, variance, basis)

    def __call__(self, x_t, time):
        alpha, sigma = self.schedule(time)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        deviation = x_t.flatten(1) - alpha * self.mean
        return (self.mean + ((deviation @ self.basis) * gain) @ self.basis.T).reshape(x_t.shape)

    def flow(self, x_1, *, to_clean=True):
        """The probability flow from time 1: each principal deviation keeps its rank in its marginal."""
        ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
        (alpha_1, alpha_0), (sigma_1, sigma_0) = self.schedule(ends)
        if to_clean:
            alpha_0, sigma_0 = torch.ones(()), torch.zeros(())
        ratio = torch.sqrt((alpha_0**2 * self.variance + sigma_0**2) / (alpha_1**2 * self.variance + sigma_1**2))
        deviation = (x_1.flatten(1) - alpha_1 * self.mean) @ self.basis
        return (alpha_0 * self.mean + (deviation * ratio) @ self.basis.T).reshape(x_1.shape)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_problem(schedule, samples=64):
    """Four dimensions with standard deviations 0.2 to 1.5, correlated, with a mean."""
    basis = torch.linalg.qr(normal(4, 4, seed=5)).Q
    std = torch.tensor([0.2, 0.6, 1.0, 1.5], dtype=torch.float64)
    denoiser = GaussianDenoiser(schedule, normal(4, seed=6), std**2, basis)
    return denoiser, starting_noise(schedule, normal(samples, 1, 1, 4, seed=7))


def draw_from(shape, seed=100):
    return lambda step: normal(*shape, seed=seed + step)


def observed_order(errors, steps):
    """Slope between the two finest."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


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
    ]:
        assert interval_weights([0.3 + 0.1 * u for u in nodes], 0.3, 0.4) == pytest.approx([0.1 * w for w in expected])


@settings(max_examples=50, deadline=None)
@given(
    gaps=st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3),
    start=st.floats(0.1, 1),
    step=st.floats(0.01, 0.1),
    slope=st.floats(-2, 2),
    bend=st.floats(-2, 2),
)
def test_interval_weights_integrate_polynomials(gaps, start, step, slope, bend):
    """n nodes are exact below degree n, on any grid."""
    nodes = [start + sum(gaps[:j]) for j in range(len(gaps))]
    coefficients = [0.7, slope, bend][: len(nodes)]
    weights = interval_weights(nodes, start, start - step)
    quadrature = sum(w * sum(c * u**m for m, c in enumerate(coefficients)) for w, u in zip(weights, nodes, strict=True))
    exact = sum(c * ((start - step) ** (m + 1) - start ** (m + 1)) / (m + 1) for m, c in enumerate(coefficients))
    assert quadrature == pytest.approx(exact, abs=1e-9)


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


def test_known_frames_give_gaussian_conditioning():
    """Four correlated frames, the first known: the rest have the conditional law, the first is untouched."""
    schedule, samples = RectifiedSchedule(), 4096
    lag = torch.arange(4, dtype=torch.float64)
    covariance = torch.exp(-(lag[:, None] - lag).abs() / 2)
    gain = covariance[1:, :1] / covariance[0, 0]
    rest = GaussianDenoiser.of(schedule, torch.zeros(3).double(), covariance[1:, 1:] - gain @ covariance[:1, 1:])

    def joint(x_in, time):
        """Posterior mean given a first frame that enters at scale s."""
        alpha, sigma = schedule(time)
        first = x_in[:, :1] / marginal_std(alpha, sigma)
        shift = first * gain[:, 0, None, None]
        return torch.cat([torch.zeros_like(first), shift + rest(x_in[:, 1:] - alpha * shift, time)], dim=1)

    known = normal(1, 4, 1, 1).expand(samples, 4, 1, 1)
    mask = (lag == 0)[:, None, None]
    x_1 = normal(samples, 4, 1, 1, seed=2)
    for sampler in (DDIMSampler(schedule, 128), AdamsBashforthSampler(schedule, 16)):
        x = sampler(KnownFramesDenoiser(joint, schedule, known, mask), x_1)
        assert torch.allclose(x[:, 0], known[:, 0], rtol=1e-12)
        deviation = x[:, 1:].flatten(1) - known[0, 0, 0, 0] * gain[:, 0]
        whitened = deviation @ rest.basis / rest.variance.sqrt()
        assert whitened.mean(dim=0).abs().max().item() < 5 / samples**0.5
        assert (whitened.T @ whitened / samples - torch.eye(3)).abs().max().item() < 5 * (2 / samples) ** 0.5 + 0.03


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampler_laws(name):
    """Counts its evaluations, keeps dtype, draws nothing global, records no graph, treats samples one by one."""
    schedule = CosineSchedule()
    sampler = make_sampler(name, schedule, 12)
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
    single = GaussianDenoiser(schedule, denoiser.mean.float(), denoiser.variance.float(), denoiser.basis.float())
    x_single = sampler(single, x_1.float(), noise=lambda step: noise(step).float())
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
        AdamsBashforthSampler(schedule, order=4)
    with pytest.raises(InputError, match="choose one of ddim, heun"):
        make_sampler("rk45", schedule, 4)
    with pytest.raises(InputError, match="order"):
        make_sampler("ddim", schedule, 4, order=2)


@pytest.mark.parametrize("family", ["RectifiedSchedule", "CosineSchedule", "VPSchedule"])
def test_azula_agrees_on_deterministic_samplers(family):
    """Same schedule object, denoiser and noise, float64. azula stops at sigma_min and starts with low order.

    Its Heun steps in sigma / alpha, another method, and its stochastic samplers draw global noise: not compared.
    """
    sample, noise = pytest.importorskip("azula.sample"), pytest.importorskip("azula.noise")
    schedule = getattr(noise, family)()
    exact, x_1 = gaussian_problem(schedule)

    class Posterior:
        def __init__(self, mean):
            self.mean = mean

    class Wrapped:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x_t, time):
            return Posterior(exact(x_t, time))

    options = {"steps": 12, "silent": True, "dtype": torch.float64}
    pairs = [
        (sample.EulerSampler(Wrapped(), **options), DDIMSampler(schedule, 12, to_clean=False)),
        (sample.DDIMSampler(Wrapped(), **options), AncestralSampler(schedule, 12, eta=0.0, to_clean=False)),
        *(
            (
                sample.vABSampler(Wrapped(), order=order, **options),
                LOW_START(schedule, 12, order=order, to_clean=False),
            )
            for order in (1, 2, 3)
        ),
    ]
    for theirs, ours in pairs:
        assert torch.allclose(ours(exact, x_1, noise=draw_from(x_1.shape)), theirs(x_1), rtol=1e-7, atol=1e-8)
