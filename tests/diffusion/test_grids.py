"""Grids of times and laws of time: where the noise levels lie."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from eddycast.diffusion import GRIDS, SCHEDULES, TIME_LAWS, EDMSchedule, RectifiedSchedule, log_snr
from eddycast.diffusion.time_laws import edm_time

EVERY = {name: make() for name, make in SCHEDULES.items()}


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_from_one_to_zero(grid, schedule):
    for num_steps in (1, 2, 7, 100):
        times = GRIDS[grid](schedule, num_steps)
        assert len(times) == num_steps + 1 and (times[0], times[-1]) == (1.0, 0.0)
        assert all(isinstance(t, float) for t in times)
        assert all(later < earlier for earlier, later in pairwise(times))


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
def test_grids_space_what_they_promise(schedule):
    """Equal gaps of time, of its root, of the log SNR and of (sigma / alpha)^(1/7)."""

    def gaps(grid, transform):
        values = transform(torch.tensor(GRIDS[grid](schedule, 12), dtype=torch.float64))
        return torch.diff(values)

    def root_of_rho(times):
        return torch.exp(-log_snr(schedule, times) / 14)

    for grid, transform in [
        ("linear", lambda t: t),
        ("quadratic", torch.sqrt),
        ("log-snr", lambda t: log_snr(schedule, t)),
        ("karras", root_of_rho),
    ]:
        steps = gaps(grid, transform)
        assert torch.allclose(steps, steps.mean(), rtol=1e-6), grid


def test_karras_grid_is_linear_on_the_edm_schedule():
    schedule = EDMSchedule()
    assert GRIDS["karras"](schedule, 18) == pytest.approx(GRIDS["linear"](schedule, 18), abs=1e-12)


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("law", TIME_LAWS)
def test_time_laws_stay_on_the_schedule_and_keep_the_type(law, schedule):
    """Uniform numbers in, times in [0, 1] out, the very ends of single precision included; nothing piles up at the ends."""
    uniform = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.rand(998, generator=torch.Generator().manual_seed(0))])
    for numbers in (uniform, uniform.double(), uniform.reshape(10, 100)):
        time = TIME_LAWS[law](schedule, numbers)
        assert time.shape == numbers.shape and time.dtype == numbers.dtype
        assert ((time >= 0) & (time <= 1)).all()
    inside = TIME_LAWS[law](schedule, uniform[2:].double())
    assert ((inside > 0) & (inside < 1)).all() and inside.unique().numel() > 990


@pytest.mark.parametrize("schedule", EVERY.values(), ids=EVERY)
def test_laws_of_the_noise_level_mean_the_same_on_every_schedule(schedule):
    """Quantiles of log(sigma / alpha): normal with the published mean and deviation, or uniform between the ends."""
    uniform = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    normal = torch.special.ndtri(uniform)
    ends = log_snr(schedule, torch.tensor([0.0, 1.0], dtype=torch.float64)) / -2
    for law, expected in [
        ("edm", -1.2 + 1.2 * normal),
        ("logit-normal", normal),
        ("log-snr", ends[0] + (ends[1] - ends[0]) * uniform),
    ]:
        log_rho = log_snr(schedule, TIME_LAWS[law](schedule, uniform)) / -2
        # The cut at the ends of the schedule moves the quantiles a little: by 0.01 where it is 3 standard deviations away,
        # by 0.05 where 2.5 (log rho of `linear` ends at log 12.3).
        assert torch.allclose(log_rho, expected, atol=0.01 if ends[1] > 3 else 0.055), law


def test_laws_of_time_itself():
    schedule, uniform = RectifiedSchedule(1e-6, 1e-6), torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    assert torch.equal(TIME_LAWS["uniform"](schedule, uniform), uniform)
    logit = torch.logit(TIME_LAWS["logit-normal"](schedule, uniform))
    assert torch.allclose(logit, torch.special.ndtri(uniform), atol=1e-4), "the name, on the rectified schedule"


def test_stratified_times_cover_the_batch():
    """One time in each of B equal parts, and each entry uniform by itself over many batches."""
    generator = torch.Generator().manual_seed(1)
    batches = torch.stack(
        [TIME_LAWS["stratified"](RectifiedSchedule(), torch.rand(8, generator=generator)) for _ in range(2000)]
    )
    parts = (batches * 8).long().sort(dim=1).values
    assert (parts == torch.arange(8)).all()
    assert (batches.mean(dim=0) - 0.5).abs().max().item() < 5 / math.sqrt(12 * 2000)
    assert (batches.var(dim=0) - 1 / 12).abs().max().item() < 5 * math.sqrt(1 / 180 / 2000)


def test_edm_law_matches_the_published_draw():
    """The same standard normal number n gives sigma = exp(1.2 n - 1.2), as published, on the EDM schedule."""
    n = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
    _, sigma = EDMSchedule()(edm_time(EDMSchedule(), torch.special.ndtr(n)))
    assert torch.allclose(sigma, torch.exp(1.2 * n - 1.2), rtol=5e-3)
