"""Guidance where the posterior is known (Gaussian priors, exact denoisers); laws of masks, units, batches elsewhere."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from exact_gaussian import GaussianProblem, GeometricSchedule, eight_dimensions, identity, normal, periodic_field

from eddycast.diffusion import (
    AdamsBashforthSampler,
    AncestralSampler,
    CosineSchedule,
    PreconditionedDenoiser,
    RectifiedSchedule,
    starting_noise,
)
from eddycast.guidance import (
    DPSGuidance,
    GaussianLikelihood,
    MMPSGuidance,
    PiGDMGuidance,
    SDAGuidance,
    StationaryCovariance,
    StationaryGamma,
    TMPDGuidance,
    VideoDiffusionGuidance,
)


@pytest.mark.parametrize("solver", ["gmres", "cg"])
@pytest.mark.parametrize("schedule", [RectifiedSchedule(), CosineSchedule(), GeometricSchedule()])
def test_mmps_is_the_exact_posterior_mean_at_every_time(schedule, solver):
    problem = eight_dimensions(schedule)
    guided = MMPSGuidance(problem.likelihood, 8, solver, 1e-12)(problem.denoiser, schedule, identity)
    x_t = normal(5, 1, 1, 8)
    for time in (0.0, 0.1, 0.5, 0.9, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        assert torch.allclose(guided(x_t, t), problem.guided_mean(x_t, t), atol=1e-7)
    per_sample = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    rows = [guided(x_t[i : i + 1], per_sample[i]) for i in range(5)]
    assert torch.allclose(guided(x_t, per_sample), torch.cat(rows), rtol=1e-8)


def test_sda_is_exact_for_one_sensor_with_its_own_gamma():
    """gamma rho^2 = H V H^T makes the variance right; StationaryGamma finds it from the spectrum of the field."""
    problem, spectrum = periodic_field(0.05, sensors=128)
    guided = SDAGuidance(problem.likelihood, StationaryGamma(spectrum))(problem.denoiser, problem.schedule, identity)
    x_t = normal(3, 1, 1, 128)
    for time in (0.0, 0.4, 0.6, 0.8, 1.0):
        t = torch.tensor(time, dtype=torch.float64)
        assert torch.allclose(guided(x_t, t), problem.guided_mean(x_t, t), atol=1e-7)


def test_stationary_gamma_is_estimated_from_samples():
    problem, spectrum = periodic_field(0.05)
    samples = (normal(2000, 128) * problem.eigenvalues.sqrt()) @ problem.basis.T
    rho = torch.tensor([0.01, 0.3, 3.0], dtype=torch.float64)
    fitted = StationaryGamma.fit(samples.reshape(2000, 1, 1, 128), axes=(-1,))(rho)
    assert torch.allclose(fitted, StationaryGamma(spectrum)(rho), rtol=0.03)
    white = StationaryGamma.fit(normal(50, 4, 2, 32), axes=(-3, -1))  # unit variance: gamma = 1 / (1 + rho^2)
    assert torch.allclose(white(rho), 1 / (1 + rho**2), rtol=0.05)


@pytest.mark.parametrize(
    "std, make, bias, spread",
    [
        (0.05, partial(MMPSGuidance, iterations=32, solver="cg", tolerance=1e-3), 0.030, 0.917),
        (0.05, partial(MMPSGuidance), 0.030, 0.917),
        (0.5, partial(MMPSGuidance), 0.033, 0.916),
        (0.05, partial(SDAGuidance, gamma=0.01), 0.112, 4.01),
        (0.05, partial(SDAGuidance, gamma=0.1), 0.039, 0.887),
        (0.05, partial(SDAGuidance, gamma=1.0), 0.244, 1.264),
    ],
)
def test_posterior_of_a_periodic_field(std, make, bias, spread):
    """Reference e = rms(mean - exact mean), q = mean(sd / exact sd) of 512 samples after 64 ancestral steps.

    Their truth and observations are another draw: hence 5 % of q, half of e, and the Monte-Carlo floor of 0.03 on both.
    """
    problem, _ = periodic_field(std)
    guided = make(problem.likelihood)(problem.denoiser, problem.schedule, identity)
    sampler = AncestralSampler(problem.schedule, 64, to_clean=False)
    x = sampler(guided, 80 * normal(512, 1, 1, 128), noise=lambda step: normal(512, 1, 1, 128, seed=50 + step)).flatten(
        1
    )
    error = (x.mean(dim=0) - problem.mean).square().mean().sqrt().item()
    assert error == pytest.approx(bias, rel=0.5, abs=0.03)
    assert (x.std(dim=0) / problem.posterior.diag().sqrt()).mean().item() == pytest.approx(spread, rel=0.05, abs=0.03)


def test_mmps_posterior_covariance():
    """Not the marginal spread alone: observed subspace and leading ten eigenvectors of a periodic field.

    Tolerance: sampling error of a 10 x 10 covariance with 2048 samples, sqrt(11 / 2048) = 0.07, and discretisation.
    """
    problem, spectrum = periodic_field(0.5)
    for guide in (MMPSGuidance(problem.likelihood), SDAGuidance(problem.likelihood, StationaryGamma(spectrum))):
        guided = guide(problem.denoiser, problem.schedule, identity)
        x = AdamsBashforthSampler(problem.schedule, 32)(guided, 80 * normal(2048, 1, 1, 128)).flatten(1)
        observed = problem.matrix.T
        leading = torch.linalg.eigh(problem.posterior).eigenvectors[:, -10:]
        for subspace in (observed, leading):
            exact = subspace.T @ problem.posterior @ subspace
            error = torch.linalg.matrix_norm(torch.cov((x @ subspace).T) - exact) / torch.linalg.matrix_norm(exact)
            assert error.item() < 0.15


def test_mmps_on_eight_correlated_dimensions():
    """3 observations, sd 0.1, 16 steps, against the exact posterior: more iterations, less error.

    Reference for another such problem, relative error of posterior mean / covariance: GMRES 1 iteration 5 % / 13 %,
    2: 1.4 % / 3 %, 3: 0.7 % / 5 %, where 16 steps alone leave about 5 % of the covariance.
    """
    schedule = RectifiedSchedule()
    problem = eight_dimensions(schedule)
    x_1 = starting_noise(schedule, normal(8192, 1, 1, 8))
    errors = []
    for iterations in (1, 3):
        guide = MMPSGuidance(problem.likelihood, iterations)
        x = AdamsBashforthSampler(schedule, 16)(guide(problem.denoiser, schedule, identity), x_1).flatten(1)
        mean = (x.mean(dim=0) - problem.mean).norm() / problem.mean.norm()
        covariance = torch.linalg.matrix_norm(torch.cov(x.T) - problem.posterior)
        errors.append((mean.item(), (covariance / torch.linalg.matrix_norm(problem.posterior)).item()))
    (mean_1, covariance_1), (mean_3, covariance_3) = errors
    assert mean_3 < 0.03 and covariance_3 < 0.08
    assert mean_3 < mean_1 and covariance_1 < 0.5


def test_sda_limits_in_gamma():
    """gamma = 0 leaves R alone, a large gamma leaves the denoiser alone; without Jacobian a white prior is exact."""
    schedule = RectifiedSchedule()
    problem, x_t, t = eight_dimensions(schedule), normal(4, 1, 1, 8), torch.tensor(0.4, dtype=torch.float64)
    alpha, sigma = schedule(t)
    mean = problem.denoiser(x_t, t)
    jacobian = torch.func.jacrev(lambda x: problem.denoiser(x[None], t)[0])(x_t[0]).reshape(8, 8)
    residual = problem.value - problem.operator(mean)
    pulled = residual @ problem.matrix / problem.std**2
    for jacobian_used, expected in [
        (True, sigma**2 / alpha * pulled @ jacobian),
        (False, sigma**2 / (alpha**2 + sigma**2) * pulled),
    ]:
        guided = SDAGuidance(problem.likelihood, 0.0, jacobian=jacobian_used)(problem.denoiser, schedule, identity)
        assert torch.allclose((guided(x_t, t) - mean).flatten(1), expected, rtol=1e-9)
    guided = SDAGuidance(problem.likelihood, 1e12)(problem.denoiser, schedule, identity)
    assert torch.allclose(guided(x_t, t), mean, atol=1e-9)
    white = GaussianProblem(schedule, torch.eye(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64)[:2], 0.3)
    gamma = StationaryGamma(torch.ones(8, dtype=torch.float64))
    guided = SDAGuidance(white.likelihood, gamma, jacobian=False)(white.denoiser, schedule, identity)
    assert torch.allclose(guided(x_t, t), white.guided_mean(x_t, t), rtol=1e-9)


GUIDES = [
    partial(SDAGuidance, gamma=0.3),
    partial(SDAGuidance, gamma=0.3, jacobian=False),
    partial(SDAGuidance, gamma="auto"),
    partial(TMPDGuidance),
    partial(PiGDMGuidance),
    partial(PiGDMGuidance, jacobian=False),
    partial(VideoDiffusionGuidance),
    partial(VideoDiffusionGuidance, jacobian=False),
    partial(DPSGuidance),
    partial(DPSGuidance, jacobian=False),
    partial(MMPSGuidance, iterations=3),
    partial(MMPSGuidance, iterations=3, solver="cg"),
    partial(MMPSGuidance, iterations=3, jacobian=False),
    partial(MMPSGuidance, jacobian=False, covariance=StationaryCovariance(torch.ones(16, dtype=torch.float64), (-1,))),
]


def small_network(seed=11):
    """A nonlinear convolution in place of a trained network: its Jacobian is neither symmetric nor positive."""
    kernel, mix = 0.4 * normal(4, 2, 3, seed=seed), 0.4 * normal(2, 4, 3, seed=seed + 1)

    def network(x_in, c_noise):
        frames = x_in.flatten(0, 1)
        wide = torch.nn.functional.conv1d(frames, kernel.to(x_in), padding=1)
        out = torch.nn.functional.conv1d(torch.tanh(wide), mix.to(x_in), padding=1)
        return out.reshape(x_in.shape)

    return network


def window_problem(schedule, batch=4, dtype=torch.float64):
    """Windows (batch, 3 frames, 2 channels, 16 points); value with NaN at random, different for each sample."""
    denoiser = PreconditionedDenoiser(small_network(), schedule)
    value = normal(batch, 3, 2, 16, seed=21)
    value = torch.where(normal(batch, 3, 2, 16, seed=22) > 0.8, value, torch.nan)
    return denoiser, value.to(dtype), normal(batch, 3, 2, 16, seed=23).to(dtype)


@pytest.mark.parametrize("make", GUIDES)
def test_samples_are_guided_one_by_one(make):
    schedule = CosineSchedule()
    denoiser, value, x_t = window_problem(schedule)
    t = torch.tensor(0.6, dtype=torch.float64)
    together = make(GaussianLikelihood(identity, value, 0.1))(denoiser, schedule, identity)(x_t, t)
    for i in range(4):
        alone = make(GaussianLikelihood(identity, value[i : i + 1], 0.1))(denoiser, schedule, identity)
        assert torch.allclose(alone(x_t[i : i + 1], t)[0], together[i], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("make", GUIDES)
def test_missing_entries_say_nothing(make):
    """NaN values, infinite std and an operator that picks the observed entries agree; nothing observed, no guidance."""
    schedule = CosineSchedule()
    denoiser, value, x_t = window_problem(schedule, batch=1)
    t = torch.tensor(0.6, dtype=torch.float64)
    seen = ~torch.isnan(value)
    filled = torch.where(seen, value, 1e6)

    def guided(likelihood):
        return make(likelihood)(denoiser, schedule, identity)(x_t, t)

    with_nan = guided(GaussianLikelihood(identity, value, 0.1))
    assert (with_nan - denoiser(x_t, t)).abs().max() > 1e-3
    std = torch.where(seen, 0.1, torch.tensor(torch.inf, dtype=torch.float64))
    assert torch.allclose(guided(GaussianLikelihood(identity, filled, std)), with_nan, rtol=1e-10)
    picked = GaussianLikelihood(lambda state: state[:, seen[0]], value[0][seen[0]], 0.1)
    assert torch.allclose(guided(picked), with_nan, rtol=1e-8)
    nothing = GaussianLikelihood(identity, torch.full_like(value, torch.nan), 0.1)
    assert torch.equal(guided(nothing), denoiser(x_t, t))
    constant = GaussianLikelihood(lambda state: torch.zeros(1, 5), torch.ones(5), 0.1)
    assert torch.equal(guided(constant), denoiser(x_t, t))


@pytest.mark.parametrize("make", GUIDES)
def test_units_do_not_matter(make):
    """Observing 40 x + 270 with 40 times the error guides like observing x; a float32 denoiser gets float32 back."""
    schedule = RectifiedSchedule()
    denoiser, value, x_t = window_problem(schedule)
    t = torch.tensor(0.5, dtype=torch.float64)
    plain = make(GaussianLikelihood(identity, value, 0.1))(denoiser, schedule, identity)(x_t, t)
    physical = make(GaussianLikelihood(identity, 40 * value + 270, 4.0))
    guided = physical(denoiser, schedule, lambda x: 40 * x + 270)
    assert torch.allclose(guided(x_t, t), plain, rtol=1e-7, atol=1e-9)
    single = guided(x_t.float(), t.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), plain, atol=1e-3)


def test_sda_scale_may_be_given():
    schedule = RectifiedSchedule()
    denoiser, value, x_t = window_problem(schedule)
    likelihood, t = GaussianLikelihood(identity, 40 * value, 4.0), torch.tensor(0.5, dtype=torch.float64)
    found = SDAGuidance(likelihood)(denoiser, schedule, lambda x: 40 * x)(x_t, t)
    given = SDAGuidance(likelihood, scale=40.0)(denoiser, schedule, lambda x: 40 * x)(x_t, t)
    other = SDAGuidance(likelihood, scale=1.0)(denoiser, schedule, lambda x: 40 * x)(x_t, t)
    assert torch.allclose(found, given, rtol=1e-10) and not torch.allclose(found, other, rtol=1e-2)


@pytest.mark.parametrize("make", GUIDES)
def test_independent_likelihoods_act_as_one(make):
    schedule = RectifiedSchedule()
    denoiser, _, x_t = window_problem(schedule)
    first, second, t = normal(6, seed=31), normal(4, seed=32), torch.tensor(0.5, dtype=torch.float64)
    pair = (
        GaussianLikelihood(lambda s: s[:, 0, 0, 5:11], first, 0.1),
        GaussianLikelihood(lambda s: s[:, 2, :, :2].flatten(1), second, 0.3),
    )
    joint = GaussianLikelihood(
        lambda s: torch.cat([s[:, 0, 0, 5:11], s[:, 2, :, :2].flatten(1)], dim=1),
        torch.cat([first, second]),
        torch.tensor([0.1] * 6 + [0.3] * 4, dtype=torch.float64),
    )
    results = [make(likelihood)(denoiser, schedule, identity)(x_t, t) for likelihood in (pair, joint)]
    assert torch.allclose(*results, rtol=1e-6)


@pytest.mark.parametrize("make", GUIDES)
def test_guided_samplers_leave_no_graph_and_fit_a_nonlinear_observation(make):
    """arctan of two channels at a few points, known first frame; under no_grad, with parameters that want gradients.

    rho ends at 10: see `test_a_jacobian_of_no_posterior_breaks_bounded_variances`.
    """
    schedule = CosineSchedule(alpha_min=0.1)
    inner, _, x_1 = window_problem(schedule, batch=6)
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    known = normal(6, 3, 2, 16, seed=41)
    first = torch.tensor([True, False, False])[:, None, None]

    def denoiser(x_t, t):
        return torch.where(first, known, weight * inner(torch.where(first, known, x_t), t))

    def operator(state):
        return torch.atan(2 * state[:, 1:, :, ::4])

    value = operator(normal(6, 3, 2, 16, seed=42))
    guided = make(GaussianLikelihood(operator, value, 0.1))(denoiser, schedule, identity)
    sampler = AdamsBashforthSampler(schedule, 24)
    with torch.no_grad():
        free, x = sampler(denoiser, x_1), sampler(guided, x_1)
    assert not x.requires_grad and weight.grad is None and torch.is_grad_enabled()
    assert torch.allclose(x[:, 0], known[:, 0], rtol=1e-12)
    assert torch.isfinite(x).all()
    misfit, before = ((operator(s) - value).square().mean().sqrt().item() for s in (x, free))
    # The Jacobian of this network is far from symmetric: conjugate gradients stop early, widths that it makes negative are cut.
    careful = make.keywords.get("solver") == "cg" or make.keywords.get("gamma") == "auto" or make.func is TMPDGuidance
    assert misfit < (0.9 if careful else 0.5) * before


@pytest.mark.parametrize(
    "make, breaks", [(PiGDMGuidance, True), (DPSGuidance, True), (SDAGuidance, False), (VideoDiffusionGuidance, False)]
)
def test_a_jacobian_of_no_posterior_breaks_bounded_variances(make, breaks):
    """J of a posterior mean falls like alpha / sigma^2; that of a network errs by more, and (sigma^2 / alpha) J is huge at rho = 1000.

    A variance that grows with rho^2 (SDA, video diffusion) takes that back; the others throw x to 30 deviations and more.
    """
    schedule = RectifiedSchedule()
    denoiser, _, x_1 = window_problem(schedule, batch=6)
    value = normal(6, 3, 2, 4, seed=42)
    for jacobian in (True, False):
        guide = make(GaussianLikelihood(lambda state: state[..., ::4], value, 0.1), jacobian=jacobian)
        x = AdamsBashforthSampler(schedule, 24)(guide(denoiser, schedule, identity), x_1)
        assert (x.abs().max().item() > 30) == (breaks and jacobian)


def test_log_density_is_that_of_the_normal_law():
    state, std = normal(3, 2, 1, 4), torch.tensor([0.5, 1.0, 2.0, torch.inf]).double()
    value = torch.where(normal(3, 2, 1, 4, seed=1) > -1, normal(3, 2, 1, 4, seed=2), torch.nan)
    ours = GaussianLikelihood(identity, value, std).log_density(state)
    every = torch.distributions.Normal(state[..., :3], std[:3]).log_prob(value[..., :3].nan_to_num())
    assert torch.allclose(ours, torch.where(value[..., :3].isnan(), 0, every).flatten(1).sum(dim=1))
    slope = torch.func.grad(lambda s: GaussianLikelihood(identity, value, std).log_density(s).sum())(state)
    assert torch.isfinite(slope).all() and (slope[value.isnan()] == 0).all()


def test_bad_arguments_are_refused():
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="std must be positive"):
            GaussianLikelihood(identity, torch.zeros(3), std)
    likelihood = GaussianLikelihood(identity, torch.zeros(3), 1.0)
    with pytest.raises(ValueError, match="iterations"):
        MMPSGuidance(likelihood, 0)
    with pytest.raises(ValueError, match="solver"):
        MMPSGuidance(likelihood, solver="lu")


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("solver", ["gmres", "cg"])
def test_azula_agrees_on_mmps(solver, iterations):
    """Same exact denoiser, schedule and number of iterations, no early stop."""
    mmps, noise = pytest.importorskip("azula.guidance.mmps"), pytest.importorskip("azula.noise")
    covariance = pytest.importorskip("azula.linalg.covariance")
    schedule = noise.RectifiedSchedule()
    problem, x_t, t = eight_dimensions(schedule, observations=4), normal(5, 8), torch.tensor(0.5, dtype=torch.float64)

    class Posterior:
        def __init__(self, mean):
            self.mean = mean

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.schedule = schedule

        def forward(self, x, time):
            return Posterior(problem.denoiser(x, time))

    noise_covariance = covariance.IsotropicCovariance(torch.tensor(problem.std**2, dtype=torch.float64))
    theirs = mmps.MMPSDenoiser(
        Exact(), problem.value, lambda x: x @ problem.matrix.T, noise_covariance, solver=solver, iterations=iterations
    )(x_t, t).mean
    guide = MMPSGuidance(problem.likelihood, iterations, solver, tolerance=0.0)
    ours = guide(problem.denoiser, schedule, identity)(x_t[:, None, None], t)[:, 0, 0]
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-8)
