"""Schedules: published formulas, ends, the way back from the log SNR, single precision."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.diffusion import (
    SCHEDULES,
    CosineSchedule,
    EDMSchedule,
    InvertibleSchedule,
    LogLogitSchedule,
    PdediffCosineSchedule,
    RectifiedSchedule,
    SDACosineSchedule,
    log_snr,
    starting_noise,
    time_at_log_snr,
)
from eddycast.diffusion.schedules import scales

TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)
OFF_DEFAULT = [
    RectifiedSchedule(0.1, 0.02),
    CosineSchedule(0.1, 0.02),
    PdediffCosineSchedule(0.02),
    SDACosineSchedule(0.02),
    EDMSchedule(0.01, 20.0, 3.0),
    LogLogitSchedule(0.01, 20.0),
]
EVERY = [*(make() for make in SCHEDULES.values()), *OFF_DEFAULT]


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_signal_falls_with_time_and_never_vanishes(schedule):
    alpha, sigma = schedule(TIMES)
    assert (alpha > 0).all() and (sigma > 0).all()
    assert (torch.diff(alpha / sigma) < 0).all()
    assert hash(schedule) == hash(type(schedule)(**vars(schedule))), "a value, like any number"


@pytest.mark.parametrize("ends", [(1e-3, 1e-3), (0.1, 0.02)])
@pytest.mark.parametrize("make", [RectifiedSchedule, CosineSchedule])
def test_our_schedules_run_between_the_promised_ends(make, ends):
    alpha, sigma = make(*ends)(TIMES)
    assert alpha[-1].item() == pytest.approx(ends[0]) and sigma[0].item() == pytest.approx(ends[1])
    invariant = alpha + sigma if make is RectifiedSchedule else alpha**2 + sigma**2
    assert torch.allclose(invariant, torch.ones_like(TIMES), atol=1e-12)


def test_rectified_noise_level_is_logistic():
    """With time uniform, log(sigma / alpha) is logit(time): the clamps move only the ends."""
    alpha, sigma = RectifiedSchedule(1e-6, 1e-6)(TIMES[1:-1])
    assert torch.allclose(torch.log(sigma / alpha), torch.logit(TIMES[1:-1]), atol=2e-4)


@pytest.mark.parametrize("eta", [1e-3, 0.02])
def test_published_cosines(eta):
    """Both formulas as published, sigma^2 = 1 - mu^2 + eta^2 taken literally, and their ends."""
    angle = math.acos(math.sqrt(eta)) * TIMES
    for schedule, mu, last in [
        (PdediffCosineSchedule(eta), torch.cos(angle), math.sqrt(eta)),
        (SDACosineSchedule(eta), torch.cos(angle) ** 2, eta),
    ]:
        alpha, sigma = schedule(TIMES)
        assert torch.allclose(alpha, mu, rtol=1e-13, atol=0)
        assert torch.allclose(sigma**2, 1 - mu**2 + eta**2, rtol=0, atol=1e-14)
        assert (alpha[0].item(), sigma[0].item()) == pytest.approx((1.0, eta), rel=1e-12)
        assert alpha[-1].item() == pytest.approx(last, rel=1e-12)


def test_three_cosines_are_three_schedules():
    """sigma / alpha at time 1/2: cosine and pdediff nearly 1 and apart by 2 %, SDA squared signal, rho = sqrt(3)."""
    half = torch.tensor(0.5, dtype=torch.float64)
    cosine, pdediff, sda = (
        (sigma / alpha).item()
        for alpha, sigma in (SCHEDULES[n]()(half) for n in ("cosine", "cosine-pdediff", "cosine-sda"))
    )
    assert cosine == pytest.approx(1.0, abs=1e-12)
    assert pdediff == pytest.approx(math.tan(math.acos(math.sqrt(1e-3)) / 2), rel=1e-5)
    assert pdediff < 0.98
    assert sda == pytest.approx(math.sqrt(1 / math.cos(math.acos(math.sqrt(1e-3)) / 2) ** 4 - 1), rel=1e-5)
    assert sda > 1.6


def test_edm_grid_is_the_published_one():
    """Eq. 5 for 18 noise levels: sigma_i = (80^(1/7) + i / 17 (0.002^(1/7) - 80^(1/7)))^7."""
    i = torch.arange(18, dtype=torch.float64)
    published = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    alpha, sigma = EDMSchedule()(1 - i / 17)
    assert torch.allclose(sigma, published, rtol=1e-12) and (alpha == 1).all()
    assert torch.allclose(EDMSchedule(rho=1)(TIMES)[1], 0.002 + TIMES * 79.998)
    noise = torch.ones(3, dtype=torch.float64)
    assert torch.allclose(starting_noise(EDMSchedule(), noise, sigma_data=0.5), noise * math.hypot(80, 0.5))


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_time_and_log_snr_are_inverse(schedule):
    """Analytically and by bisection, which for any other schedule is the only way; beyond the ends, the ends."""
    values = log_snr(schedule, TIMES)
    assert isinstance(schedule, InvertibleSchedule)
    # The log SNR of the published cosines is flat at time 0, where times closer than 1e-9 cannot be told apart.
    assert torch.allclose(time_at_log_snr(schedule, values), TIMES, rtol=0, atol=1e-9)
    anonymous = lambda time: schedule(time)  # noqa: E731
    assert not isinstance(anonymous, InvertibleSchedule)
    assert torch.allclose(time_at_log_snr(anonymous, values), TIMES, rtol=0, atol=1e-9)
    beyond = torch.tensor([math.inf, 100.0, -100.0, -math.inf], dtype=torch.float64)
    for which in (schedule, anonymous):
        assert time_at_log_snr(which, beyond).tolist() == pytest.approx([0.0, 0.0, 1.0, 1.0], abs=1e-9)
    assert time_at_log_snr(schedule, values.float()).dtype == torch.float32
    assert time_at_log_snr(anonymous, values.float()).dtype == torch.float32


@pytest.mark.parametrize("schedule", EVERY, ids=str)
def test_single_precision_keeps_the_noise_level(schedule):
    """1e-4 of alpha and of sigma at every time, near time 0 above all, where 1 - cos^2 would lose sigma altogether."""
    for double, single in zip(schedule(TIMES), schedule(TIMES.float()), strict=True):
        assert single.dtype == torch.float32
        assert torch.allclose(single.double(), double, rtol=2e-4, atol=0)


def test_scales_are_shaped_to_the_field():
    x, schedule = torch.zeros(2, 3, 5, 1, 8), RectifiedSchedule()
    for time, shape in [(torch.tensor(0.5), ()), (torch.rand(2, 3), (2, 3, 1, 1, 1)), (torch.rand(2), (2, 1, 1, 1, 1))]:
        for scale, plain in zip(scales(schedule, time, x), schedule(time), strict=True):
            assert scale.shape == shape and torch.equal(scale.flatten(), plain.flatten())


def test_schedules_refuse_ends_that_divide_by_zero():
    for make in (RectifiedSchedule, CosineSchedule, EDMSchedule, LogLogitSchedule):
        with pytest.raises(ValueError, match="division by zero"):
            make(sigma_min=0.0)
    for make in (PdediffCosineSchedule, SDACosineSchedule):
        with pytest.raises(ValueError, match="division by zero"):
            make(eta=0.0)
    for options in ({"sigma_min": 3.0, "sigma_max": 2.0}, {"rho": 0.5}, {"sigma_max": math.inf}):
        with pytest.raises(ValueError, match="sigma_min"):
            EDMSchedule(**options)
