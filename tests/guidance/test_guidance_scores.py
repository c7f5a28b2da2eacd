"""Every rule: its closed form on one Gaussian number, independence of the parametrisation, schedules, cost, memory, names."""

from __future__ import annotations

import gc
import math
import weakref
from functools import partial

import pytest
import torch
from exact_gaussian import GaussianProblem, GeometricSchedule, chain, eight_dimensions, identity, normal

from eddycast.diffusion import (
    AncestralSampler,
    CosineSchedule,
    EDMSchedule,
    PdediffCosineSchedule,
    PreconditionedDenoiser,
    RectifiedSchedule,
    SDACosineSchedule,
    time_at_log_snr,
)
from eddycast.diffusion.denoiser import PARAMETRISATIONS
from eddycast.errors import InputError
from eddycast.guidance import (
    GUIDANCE,
    DPSGuidance,
    GaussianLikelihood,
    MMPSGuidance,
    PiGDMGuidance,
    SDAGuidance,
    StationaryCovariance,
    StationaryGamma,
    VideoDiffusionGuidance,
    WhiteCovariance,
    make_guidance,
)

OPTIONS = {
    "sda": {"gamma": 0.3},
    "dps": {"zeta": 5.0},
    "video-diffusion": {"gamma": 0.7},
    "pigdm": {},
    "tmpd": {},
    "mmps": {"iterations": 4, "tolerance": 0.0},
}
CASES = [(name, jacobian) for name in GUIDANCE for jacobian in (True, False)]
SCHEDULES = [PdediffCosineSchedule(), SDACosineSchedule(), RectifiedSchedule(), EDMSchedule()]


def rule(name, jacobian=True, **options):
    return partial(make_guidance, name, jacobian=jacobian, **{**OPTIONS[name], **options})


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


class OneNumber:
    """x ~ N(m, d^2), y = h x + b + N(0, std^2); J = alpha d^2 / (alpha^2 d^2 + sigma^2)."""

    mean, deviation, slope, shift, std, value = 0.4, 0.8, 2.5, 1.0, 0.3, 3.1

    def __init__(self, schedule):
        self.schedule = schedule
        self.likelihood = GaussianLikelihood(
            lambda state: self.slope * state + self.shift,
            torch.full((1, 1, 1), self.value, dtype=torch.float64),
            self.std,
        )

    def denoiser(self, x_t, time):
        alpha, sigma = self.schedule(time)
        gain = alpha * self.deviation**2 / (alpha**2 * self.deviation**2 + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def score(self, x_t, time):
        alpha, sigma = self.schedule(time)
        return -(x_t - alpha * self.mean) / (alpha**2 * self.deviation**2 + sigma**2)

    def log_likelihood(self, name, x_t, time):
        """log p(y | x_t) as each rule has it, straight from its definition."""
        alpha, sigma = self.schedule(time)
        rho, c = sigma / alpha, self.slope
        variance = {
            "sda": self.std**2 + 0.3 * rho**2 * c**2,
            "video-diffusion": 0.7 * rho**2 * c**2,
            "pigdm": self.std**2 + sigma**2 / (alpha**2 + sigma**2) * c**2,
            "mmps": self.std**2 + c**2 * self.deviation**2 * sigma**2 / (alpha**2 * self.deviation**2 + sigma**2),
        }
        variance["tmpd"] = variance["mmps"]  # one row, of which the sum is itself
        misfit = self.value - self.shift - self.slope * self.denoiser(x_t, time)
        if name == "dps":
            return -5.0 * misfit.abs() / c
        return -0.5 * misfit**2 / variance[name]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", GUIDANCE)
def test_guided_score_of_one_number(name, schedule):
    """score of the guided denoiser = score of x_t + gradient of the rule's own log p(y | x_t)."""
    problem = OneNumber(schedule)
    guided = rule(name)(problem.likelihood)(problem.denoiser, schedule, identity)
    for time in (0.02, 0.3, 0.6, 0.95):
        t = number(time)
        alpha, sigma = schedule(t)
        x_t = (sigma * normal(6, 1, 1, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(problem.log_likelihood(name, x_t, t).sum(), x_t)
        found = (alpha * guided(x_t.detach(), t) - x_t.detach()) / sigma**2
        assert torch.allclose(found, problem.score(x_t.detach(), t) + slope, rtol=1e-7, atol=1e-9)
        if name == "mmps":  # exact: the score of the joint Gaussian of x_t and y
            marginal = alpha**2 * problem.deviation**2 + sigma**2
            cross = alpha * problem.slope * problem.deviation**2
            spread = problem.slope**2 * problem.deviation**2 + problem.std**2
            surprise = problem.value - problem.shift - problem.slope * problem.mean
            mean, variance = alpha * problem.mean + cross / spread * surprise, marginal - cross**2 / spread
            assert torch.allclose(found, -(x_t.detach() - mean) / variance, rtol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", GUIDANCE)
def test_without_jacobian_the_prior_is_white(name, schedule):
    """V = sigma^2 / (alpha^2 + sigma^2) in the place of (sigma^2 / alpha) J, whatever the denoiser is."""
    problem, t = OneNumber(schedule), number(0.4)
    alpha, sigma = schedule(t)
    x_t = sigma * normal(6, 1, 1, 1)
    mean = problem.denoiser(x_t, t)
    leaf = mean.clone().requires_grad_()
    misfit = problem.value - problem.shift - problem.slope * leaf
    v, c = sigma**2 / (alpha**2 + sigma**2), problem.slope
    variance = {
        "sda": problem.std**2 + 0.3 * (sigma / alpha * c) ** 2,
        "video-diffusion": 0.7 * (sigma / alpha * c) ** 2,
        "pigdm": problem.std**2 + v * c**2,
        "mmps": problem.std**2 + v * c**2,
        "tmpd": problem.std**2 + v * c**2,
        "dps": misfit.detach().abs() * c / 5.0,
    }[name]
    (pull,) = torch.autograd.grad((-0.5 * misfit**2 / variance).sum(), leaf)
    guided = rule(name, jacobian=False)(problem.likelihood)(problem.denoiser, schedule, identity)
    assert torch.allclose(guided(x_t, t), mean + v * pull, rtol=1e-8)


@pytest.mark.parametrize("schedule", [PdediffCosineSchedule(), SDACosineSchedule()])
@pytest.mark.parametrize("name, jacobian", CASES)
def test_parametrisations_agree_under_guidance(name, jacobian, schedule):
    """Networks that say noise, data, v and the preconditioned target of one Gaussian give one guided denoiser.

    What the network is fed and told differs, and so does its own Jacobian; dD/dx_t must not.
    """
    problem = eight_dimensions(schedule)
    x_t, t = normal(5, 1, 1, 8), torch.linspace(0.05, 0.95, 5, dtype=torch.float64)
    alpha, sigma = (value.reshape(-1, 1, 1, 1) for value in schedule(t))
    results = []
    for kind, law in PARAMETRISATIONS.items():

        def network(x_in, told, law=law):
            c = law.coefficients(alpha, sigma, t.reshape(-1, 1, 1, 1), 1.0)
            noisy = x_in / c.c_in
            mean = problem.denoiser(noisy, t)
            return law.target(mean, (noisy - alpha * mean) / sigma, alpha, sigma, 1.0)

        denoiser = PreconditionedDenoiser(network, schedule, parametrisation=kind)
        assert torch.allclose(denoiser(x_t, t), problem.denoiser(x_t, t), rtol=1e-9, atol=1e-10)
        results.append(rule(name, jacobian)(problem.likelihood)(denoiser, schedule, identity)(x_t, t))
    assert (results[0] - problem.denoiser(x_t, t)).abs().max() > 0.01
    for other in results[1:]:
        assert torch.allclose(results[0], other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name, jacobian", CASES)
def test_rules_depend_on_rho_alone(name, jacobian):
    """At equal sigma / alpha, x_t in proportion, the guided denoiser is the same for every schedule."""
    results = []
    for schedule in SCHEDULES:
        problem = eight_dimensions(schedule)
        t = time_at_log_snr(schedule, number(-2 * math.log(0.8)))
        alpha, _ = schedule(t)
        guided = rule(name, jacobian)(problem.likelihood)(problem.denoiser, schedule, identity)
        results.append(guided(alpha * normal(5, 1, 1, 8), t))
    for other in results[1:]:
        assert torch.allclose(results[0], other, rtol=1e-8, atol=1e-10)


def test_gamma_of_the_two_published_cosines():
    """gamma means the same at equal rho, not at equal time: there the variance gamma rho^2 differs by 2 near data, 1000 near noise.

    Samples of an exact denoiser from either schedule agree at the same gamma once rho is computed from the schedule in use;
    taking the other's scales at the same time is the mistake. Measured on an AR(2) chain at 64 ancestral steps: error of
    the mean within 0.01, spread within 0.03.
    """
    ratios = []
    for time in (0.1, 0.5, 0.9, 1.0):
        (alpha, sigma), (alpha_sda, sigma_sda) = (
            PdediffCosineSchedule()(number(time)),
            SDACosineSchedule()(number(time)),
        )
        ratios.append(((sigma_sda / alpha_sda) ** 2 / (sigma / alpha) ** 2).item())
    assert ratios == pytest.approx([2.02, 2.94, 30.4, 1001.0], rel=0.01)
    for gamma in (0.03, 0.3, 1.0):
        ours, theirs = (
            chain(schedule, 2).bias(partial(SDAGuidance, gamma=gamma), AncestralSampler(schedule, 64), 1024)
            for schedule in (PdediffCosineSchedule(), SDACosineSchedule())
        )
        assert ours.error == pytest.approx(theirs.error, abs=0.01)
        assert ours.spread == pytest.approx(theirs.spread, abs=0.03)


def test_the_mistake_of_the_other_cosine():
    """The same gamma with rho^2 of the other schedule at the same time is another gamma: a spread of 1.26 and not 0.95."""
    schedule, other = PdediffCosineSchedule(), SDACosineSchedule()
    problem = chain(schedule, 2)

    def wrong(rho):
        alpha, sigma = other(time_at_log_snr(schedule, -2 * torch.log(rho)))
        return 0.3 * (sigma / alpha / rho) ** 2

    right, mistaken = (
        problem.bias(partial(SDAGuidance, gamma=gamma), AncestralSampler(schedule, 64), 1024) for gamma in (0.3, wrong)
    )
    assert right.spread == pytest.approx(0.95, abs=0.03) and mistaken.spread == pytest.approx(1.26, abs=0.03)
    assert mistaken.error > 1.5 * right.error


def test_relations_between_the_rules():
    """PiGDM is SDA with the gamma of a white spectrum; MMPS of a white prior is PiGDM without Jacobian where sensors are apart."""
    schedule = RectifiedSchedule()
    problem, x_t, t = chain(schedule, 2), normal(4, 24, 1, 1), number(0.6)
    white = StationaryGamma(torch.ones(24, dtype=torch.float64))
    for jacobian in (True, False):
        pigdm = problem.guided(partial(PiGDMGuidance, jacobian=jacobian))(x_t, t)
        assert torch.allclose(
            problem.guided(partial(SDAGuidance, gamma=white, jacobian=jacobian))(x_t, t), pigdm, rtol=1e-9
        )
    assert torch.allclose(problem.guided(partial(MMPSGuidance, jacobian=False))(x_t, t), pigdm, rtol=1e-9)
    gamma = DPSGuidance.from_gamma(problem.likelihood, 0.4)(problem.denoiser, schedule, identity)
    assert torch.equal(gamma(x_t, t), problem.guided(partial(DPSGuidance, zeta=5.0))(x_t, t))


def test_published_step_of_dps():
    """x_s of a DDIM step of the guided denoiser = unguided step - zeta_step grad ||e||, with zeta as the docstring maps it."""
    schedule = CosineSchedule()
    problem, x_t = eight_dimensions(schedule), normal(1, 1, 1, 8).requires_grad_()
    (alpha, sigma), (alpha_s, sigma_s) = schedule(number(0.5)), schedule(number(0.47))
    mean = problem.denoiser(x_t, number(0.5))
    norm = torch.linalg.vector_norm(problem.value - problem.operator(mean))
    (slope,) = torch.autograd.grad(norm, x_t)
    kept = sigma_s / sigma
    zeta = (0.7 * alpha / (sigma**2 * (alpha_s - alpha * kept))).item()
    guided = DPSGuidance(problem.likelihood, zeta, scale=1.0)(problem.denoiser, schedule, identity)
    moved = kept * x_t.detach() + (alpha_s - alpha * kept) * guided(x_t.detach(), number(0.5))
    free = kept * x_t.detach() + (alpha_s - alpha * kept) * mean.detach()
    assert torch.allclose(moved, free - 0.7 * slope, rtol=1e-9)


def test_stationary_covariance_is_exact_where_it_is_true():
    """Jacobian-free MMPS with the spectrum of the field is the exact posterior mean, per-sample times included."""
    schedule, k = RectifiedSchedule(), torch.fft.fftfreq(16, 1 / 16, dtype=torch.float64)
    spectrum = torch.exp(-(k**2) / 8) + 0.01
    row = torch.fft.ifft(spectrum).real
    covariance = torch.stack([torch.roll(row, shift) for shift in range(16)])
    problem = eight_dimensions(schedule)
    problem = type(problem)(schedule, covariance, normal(5, 16, seed=9) / 4, 0.1)
    stationary = StationaryCovariance(spectrum, (-1,))
    guided = problem.guided(partial(MMPSGuidance, iterations=5, tolerance=0.0, jacobian=False, covariance=stationary))
    x_t, times = normal(3, 1, 1, 16), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    exact = torch.cat([problem.guided_mean(x_t[i : i + 1], times[i]) for i in range(3)])
    assert torch.allclose(guided(x_t, times), exact, atol=1e-8)
    samples = (normal(4000, 16) * problem.eigenvalues.sqrt()) @ problem.basis.T
    fitted = StationaryCovariance.fit(samples.reshape(4000, 1, 1, 16), axes=(-1,)).spectrum
    assert torch.allclose(fitted[0, 0], spectrum, rtol=0.1)
    rho = number(0.7)
    white = StationaryCovariance(torch.full((16,), 2.0, dtype=torch.float64), (-3, -1))
    assert torch.allclose(white(x_t, rho), WhiteCovariance(2.0)(x_t, rho))


class Counted:
    """A denoiser that counts passes forward and back, and remembers an activation of each without keeping it alive."""

    def __init__(self, denoiser):
        self.inner, self.forward, self.backward = denoiser, 0, 0
        self.activations = []

    def __call__(self, x_t, time):
        self.forward += 1
        hidden = torch.sinh(torch.asinh(x_t))
        self.activations.append(weakref.ref(hidden))
        mean = self.inner(hidden, time)
        if mean.requires_grad:
            mean.register_hook(self._back)
        return mean

    def _back(self, gradient):
        self.backward += 1


@pytest.mark.parametrize("name, jacobian", CASES)
def test_cost_and_memory_of_one_evaluation(name, jacobian):
    """1 pass forward; back 1, for TMPD 2, for MMPS iterations + 1, without Jacobian 0. Nothing survives the call, no cycle either."""
    schedule = RectifiedSchedule()
    problem = eight_dimensions(schedule, observations=6)
    counted = Counted(problem.denoiser)
    guided = rule(name, jacobian)(problem.likelihood)(counted, schedule, identity)
    gc.collect()
    gc.disable()
    try:
        with torch.no_grad():
            result = guided(normal(3, 1, 1, 8), number(0.5))
        assert [activation() for activation in counted.activations] == [None]
    finally:
        gc.enable()
    assert not result.requires_grad and counted.forward == 1
    assert counted.backward == (0 if not jacobian else {"mmps": 5, "tmpd": 2}.get(name, 1))
    assert torch.equal(result, guided(normal(3, 1, 1, 8), number(0.5)))  # with gradients enabled outside: the same


@pytest.mark.parametrize("name, jacobian", CASES)
def test_what_is_missing_says_nothing_to_the_last_bit(name, jacobian):
    """Any number under an infinite std, and NaN under a finite one, give bitwise the same; so does a likelihood of nothing."""
    schedule = RectifiedSchedule()
    problem, x_t, t = chain(schedule, 2), normal(4, 24, 1, 1), number(0.6)
    seen = torch.arange(24).reshape(24, 1, 1) % 3 == 0
    value = torch.where(seen, normal(24, 1, 1, seed=5), torch.nan)
    std = torch.where(seen, number(0.2), torch.inf)

    def guided(*likelihoods):
        return rule(name, jacobian)(likelihoods)(problem.denoiser, schedule, identity)(x_t, t)

    plain = guided(GaussianLikelihood(identity, value, 0.2))
    assert not torch.equal(plain, problem.denoiser(x_t, t))
    for filler in (0.0, 1e30, -7.0, torch.inf):
        filled = torch.where(seen, value, filler)
        assert torch.equal(guided(GaussianLikelihood(identity, filled, std)), plain)
    silent = GaussianLikelihood(identity, torch.full((24, 1, 1), torch.nan, dtype=torch.float64), 0.2)
    assert torch.allclose(guided(GaussianLikelihood(identity, value, 0.2), silent), plain, rtol=1e-12)
    assert torch.equal(guided(silent), problem.denoiser(x_t, t))
    assert torch.equal(guided(), problem.denoiser(x_t, t))


def test_gamma_of_each_likelihood():
    """Several gammas go to their likelihoods; the same one twice is one; their number must be right."""
    schedule = RectifiedSchedule()
    problem, x_t, t = chain(schedule, 1), normal(3, 24, 1, 1), number(0.5)
    first = GaussianLikelihood(lambda s: s[:, :3], normal(3, 1, 1, seed=1), 0.2)
    second = GaussianLikelihood(lambda s: s[:, 10:], normal(14, 1, 1, seed=2), 0.4)
    both = GaussianLikelihood(
        lambda s: torch.cat([s[:, :3], s[:, 10:]], dim=1),
        torch.cat([first.value, second.value]),
        torch.tensor([0.2] * 3 + [0.4] * 14, dtype=torch.float64).reshape(17, 1, 1),
    )

    def guided(likelihood, make, gamma):
        return make(likelihood, gamma=gamma)(problem.denoiser, schedule, identity)(x_t, t)

    for make in (SDAGuidance, VideoDiffusionGuidance):
        shared = guided((first, second), make, 0.3)
        assert torch.allclose(shared, guided(both, make, 0.3), rtol=1e-12)
        assert torch.allclose(shared, guided((first, second), make, (0.3, 0.3)), rtol=1e-12)
        entries = torch.tensor([0.1] * 3 + [0.9] * 14, dtype=torch.float64)
        own = guided((first, second), make, (0.1, lambda rho: 0.9 + 0 * rho))
        assert torch.allclose(own, guided(both, make, lambda rho, entries=entries: entries + 0 * rho), rtol=1e-12)
        with pytest.raises(ValueError, match="3 gammas for 2 likelihoods"):
            guided((first, second), make, (0.1, 0.1, 0.1))


@pytest.mark.parametrize("gamma", [1.0, 0.4, 0.17, 0.13])
@pytest.mark.parametrize("eta", [1.0, 0.0])
def test_stability_bound_of_gamma(gamma, eta):
    """Where gamma rho^2 is above std^2 and below the prior's variance a step multiplies a misfit by 1 - k / gamma.

    k = 1 - (rho_s / rho)^2 for ancestral steps, 1 - rho_s / rho for DDIM: gamma < k / 2 lets misfits grow with each step.
    """
    one = torch.eye(1, dtype=torch.float64)
    problem = GaussianProblem(GeometricSchedule(), one, one, 1e-8)
    times = tuple(
        torch.linspace(math.log(10) / math.log(8e4), 0, 9, dtype=torch.float64).tolist()
    )  # sigma 0.01 to 0.001
    ratio = 0.1 ** (1 / 8)
    k = 1 - (ratio**2 if eta else ratio)
    x_1 = (problem.value + 0.01).reshape(1, 1, 1, 1)
    for make in (SDAGuidance, VideoDiffusionGuidance):
        sampler = AncestralSampler(problem.schedule, eta=eta, times=times, to_clean=False)
        x = sampler(problem.guided(partial(make, gamma=gamma)), x_1, noise=lambda step: torch.zeros_like(x_1))
        assert ((x - problem.value) / 0.01).item() == pytest.approx((1 - k / gamma) ** 8, rel=0.02, abs=1e-3)


def test_bad_names_and_options():
    likelihood = GaussianLikelihood(identity, torch.zeros(3), 1.0)
    for name in GUIDANCE:
        assert type(make_guidance(name, (likelihood, likelihood))) is GUIDANCE[name]
    with pytest.raises(
        InputError, match="Unknown guidance 'sdaa': choose one of sda, dps, video-diffusion, pigdm, tmpd, mmps"
    ):
        make_guidance("sdaa", likelihood)
    with pytest.raises(InputError, match="Guidance 'pigdm' has no option 'gamma': it has jacobian, scale"):
        make_guidance("pigdm", likelihood, gamma=0.1)
    for name, options, words in [
        ("sda", {"gamma": -1.0}, "gamma must not be negative"),
        ("sda", {"gamma": math.nan}, "gamma must not be negative"),
        ("sda", {"gamma": (0.1, -1.0)}, "gamma must not be negative"),
        ("sda", {"gamma": "much"}, "gamma must be a number, a function of rho or 'auto', got 'much'"),
        ("sda", {"gamma": (0.1, "auto")}, "not supported"),
        ("video-diffusion", {"gamma": 0.0}, "gamma must be positive"),
        ("dps", {"zeta": 0.0}, "zeta must be positive"),
        ("mmps", {"iterations": 0}, "iterations must be at least 1"),
        ("mmps", {"covariance": WhiteCovariance()}, "pass jacobian=False"),
    ]:
        with pytest.raises(InputError, match=words):
            make_guidance(name, likelihood, **options)
    with pytest.raises(ValueError, match="gamma must be positive"):
        DPSGuidance.from_gamma(likelihood, 0.0)
    with pytest.raises(ValueError, match="variance must be positive"):
        WhiteCovariance(0.0)
    with pytest.raises(ValueError, match="counted from the right"):
        StationaryCovariance(torch.ones(4), (0,))
