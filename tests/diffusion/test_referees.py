"""azula as referee: the same schedule, denoiser, times and noise, in float64, and why the rest is not compared.

azula stops at sigma_min (`to_clean=False` here), starts its multistep samplers with low order, and its grid is linear in time. It
has no Heun in velocity form, no last step to sigma = 0, no churn, no SDE-DPM-Solver++ and no corrections by the mean of score^2.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exact_flows import draw_from, gaussian_problem

from eddycast.diffusion import (
    AdamsBashforthSampler,
    AncestralSampler,
    DDIMSampler,
    DPMSolverSampler,
    HeunSampler,
    NoiseAdamsBashforthSampler,
    PredictorCorrectorSampler,
    RectifiedSchedule,
    StochasticHeunSampler,
    exponential_integrator,
)

FAMILIES = ["RectifiedSchedule", "CosineSchedule", "VPSchedule", "VESchedule"]
AZULA = {"steps": 12, "silent": True, "dtype": torch.float64}
LOW_START = partial(AdamsBashforthSampler, start="low-order")


class Posterior:
    def __init__(self, mean):
        self.mean = mean


class Wrapped:
    """Our denoiser as one of azula's."""

    def __init__(self, schedule, exact):
        self.schedule, self.exact = schedule, exact

    def __call__(self, x_t, time):
        return Posterior(self.exact(x_t, time))


def referee(family):
    """azula's samplers, the schedule, the same problem for both."""
    sample, noise = pytest.importorskip("azula.sample"), pytest.importorskip("azula.noise")
    schedule = getattr(noise, family)()
    exact, x_1 = gaussian_problem(schedule)
    return sample, schedule, exact, x_1, Wrapped(schedule, exact)


@pytest.mark.parametrize("family", FAMILIES)
def test_azula_agrees_on_deterministic_samplers(family):
    """DDIM in three guises, Heun in rho (our EDM sampler without churn), Adams-Bashforth 1 to 4 in both forms, to rounding."""
    sample, schedule, exact, x_1, wrapped = referee(family)
    options = {"schedule": schedule, "num_steps": 12, "to_clean": False, "grid": "linear"}
    pairs = [
        (sample.EulerSampler(wrapped, **AZULA), DDIMSampler(**options)),
        (sample.EulerSampler(wrapped, **AZULA), exponential_integrator(**options)),
        (sample.EulerSampler(wrapped, **AZULA), DPMSolverSampler(order=1, **options)),
        (sample.DDIMSampler(wrapped, **AZULA), AncestralSampler(eta=0.0, **options)),
        (sample.HeunSampler(wrapped, **AZULA), StochasticHeunSampler(churn=0.0, **options)),
        *(
            (theirs(wrapped, order=order, **AZULA), ours(order=order, **options))
            for theirs, ours in [(sample.vABSampler, LOW_START), (sample.zABSampler, NoiseAdamsBashforthSampler)]
            for order in (1, 2, 3, 4)
        ),
    ]
    for theirs, ours in pairs:
        expected = theirs(x_1)
        scale = expected.abs().max()  # Heun in rho overshoots by factors on linear times, and so does its rounding
        result = ours(exact, x_1, noise=draw_from(x_1.shape))
        # azula solves its Vandermonde systems in powers of rho, up to 1e9: their rounding sets the tolerance of the noise form.
        assert ((result - expected).abs().max() / scale).item() < 1e-7, (theirs, ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_azula_disagrees_on_dpm_solver_of_order_two(family):
    """azula's xEAB of order 2 is the same idea with another rule, so the two agree in the limit only.

    It integrates the line through the last two data predictions exactly against e^lambda; DPM-Solver++(2M) replaces that integral
    by (1 - e^-h) h / 2, which differs at order h^3, and takes the last step with order 1.
    """
    sample, schedule, exact, x_1, wrapped = referee(family)
    flow = exact.flow(x_1, to_clean=False)
    gaps = []
    for steps in (64, 128):
        theirs = sample.xEABSampler(wrapped, order=2, steps=steps, silent=True, dtype=torch.float64)(x_1)
        ours = DPMSolverSampler(schedule, steps, to_clean=False)(exact, x_1)
        gaps.append((theirs - ours).abs().max().item())
        assert gaps[-1] > 1e-7
        assert (ours - flow).abs().max() < 1.1 * (theirs - flow).abs().max() + 0.01, (
            "ours takes the long last step with care"
        )
    assert gaps[1] < 0.75 * gaps[0]


def test_azula_disagrees_on_heun():
    """azula's Heun steps in sigma / alpha, ours in u: both of second order, with other errors; ours is smaller on this grid."""
    sample, schedule, exact, x_1, wrapped = referee("RectifiedSchedule")
    flow = exact.flow(x_1, to_clean=False)
    theirs = (sample.HeunSampler(wrapped, steps=64, silent=True, dtype=torch.float64)(x_1) - flow).abs().max().item()
    ours = (HeunSampler(schedule, 64, to_clean=False)(exact, x_1) - flow).abs().max().item()
    assert 10 * ours < theirs


def test_azula_agrees_on_the_law_of_ancestral_sampling():
    """azula draws global noise, so only laws can be compared: the same spread within the standard errors of both."""
    sample, schedule, exact, x_1, wrapped = referee("CosineSchedule")
    x_1 = x_1.repeat(64, 1, 1, 1)
    generator = torch.Generator().manual_seed(3)
    x_1 = torch.randn(x_1.shape, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        theirs = sample.DDPMSampler(wrapped, steps=64, silent=True, dtype=torch.float64)(x_1).flatten(1)
    ours = AncestralSampler(schedule, 64, to_clean=False)(exact, x_1, noise=draw_from(x_1.shape)).flatten(1)
    error = 5 * (2 * 2 / len(x_1)) ** 0.5
    assert ((ours.var(dim=0) / theirs.var(dim=0)).log().abs() < error).all()
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 5 * (2 * ours.var(dim=0) / len(x_1)).sqrt()).all()


def test_azula_corrects_by_another_step(monkeypatch):
    """azula's corrector redraws a share of the noise, sqrt(1 - delta) of it kept; ours is a Langevin step.

    With d = amplitude, x - alpha D = sigma e: azula keeps sqrt(1 - d) e and adds sqrt(d) fresh, which has the right variance in pure
    noise at any d; Langevin keeps 1 - d and adds sqrt(2 d). They meet for small steps with d_azula = 2 amplitude.
    """
    sample, schedule, exact, x_1, wrapped = referee("RectifiedSchedule")
    fresh = draw_from(x_1.shape)(0)
    monkeypatch.setattr(sample.torch, "randn_like", lambda x: fresh)
    time, gaps = torch.tensor(0.5, dtype=torch.float64), []
    for amplitude in (0.02, 0.01):
        times = (0.5, 0.5 - 1e-9, 0.5 - 2e-9)
        ours = PredictorCorrectorSampler(schedule, amplitude=amplitude, times=times, to_clean=False)
        theirs = sample.PCSampler(wrapped, corrections=1, delta=2 * amplitude, **AZULA).step(x_1, time, time - 2e-9)
        gaps.append((ours(exact, x_1, noise=lambda step: fresh) - theirs).abs().max().item())
    assert gaps[1] == pytest.approx(gaps[0] / 4, rel=0.2), "one step differs at the second order of its length"


def test_our_rectified_schedule_is_not_azulas():
    """Theirs has sigma = t + (1 - t) 1e-3, alpha = 1 - t + t 1e-3: the same ends, and alpha + sigma = 1 + 1e-3 at each time."""
    noise = pytest.importorskip("azula.noise")
    time = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = noise.RectifiedSchedule()(time)
    ours = RectifiedSchedule()(time)
    assert torch.allclose(alpha + sigma, torch.full_like(time, 1.001), rtol=1e-12)
    assert torch.allclose(ours[0] + ours[1], torch.ones_like(time), rtol=1e-12)
    assert max((alpha - ours[0]).abs().max().item(), (sigma - ours[1]).abs().max().item()) < 1.1e-3
