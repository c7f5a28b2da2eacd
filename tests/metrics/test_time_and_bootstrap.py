"""High-correlation times on known curves; bootstrap intervals on series whose law is known."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics import block_bootstrap, case_blocks, counted_time, first_crossing_time, never_crossed

LEADS = torch.arange(1, 101, dtype=torch.float64) * 0.2


def test_both_conventions_agree_on_a_falling_curve():
    """exp(-t / 10) >= 0.8 up to t = 10 ln 1.25 = 2.23: eleven leads of 0.2."""
    curve = torch.exp(-LEADS / 10)
    assert float(counted_time(curve, LEADS)) == pytest.approx(2.2)
    assert float(first_crossing_time(curve, LEADS)) == pytest.approx(2.2)


def test_a_recovery_counts_in_one_convention_only():
    curve = torch.zeros(100, dtype=torch.float64)
    curve[:10] = 0.9
    curve[40:45] = 0.85
    assert float(counted_time(curve, LEADS)) == pytest.approx(15 * 0.2)
    assert float(first_crossing_time(curve, LEADS)) == pytest.approx(10 * 0.2)


def test_the_threshold_itself_counts_and_nan_is_lost():
    curve = torch.tensor([0.8, math.nan, 0.9], dtype=torch.float64)
    assert float(counted_time(curve, LEADS[:3])) == pytest.approx(0.4)
    assert float(first_crossing_time(curve, LEADS[:3])) == pytest.approx(0.2)
    assert float(first_crossing_time(curve.flip(0), LEADS[:3], threshold=0.95)) == 0


def test_the_end_of_the_forecast_is_told():
    curves = torch.stack([torch.ones(100, dtype=torch.float64), torch.exp(-LEADS)])
    assert never_crossed(curves).tolist() == [True, False]
    assert first_crossing_time(curves, LEADS).tolist() == pytest.approx([20.0, 0.2])


def test_time_of_the_mean_curve_is_not_the_mean_of_times():
    """Half the cases lost at once, half kept for ever: the mean curve is never high, the mean time is half."""
    curves = torch.stack([torch.zeros(100), torch.ones(100)]).double()
    assert float(counted_time(curves.mean(dim=0), LEADS)) == 0
    assert float(counted_time(curves, LEADS).mean()) == pytest.approx(10.0)


def test_uneven_leads_count_for_their_interval():
    leads = torch.tensor([1.0, 2.0, 5.0])
    assert float(counted_time(torch.tensor([1.0, 0.0, 1.0]), leads)) == 4.0
    with pytest.raises(ValueError, match="drop lead 0"):
        counted_time(torch.ones(2), torch.tensor([0.0, 1.0]))


def test_blocks_are_consecutive_starts_of_one_trajectory():
    trajectories = torch.tensor([3, 3, 3, 3, 3, 7, 7])
    frames = torch.tensor([40, 0, 20, 10, 30, 5, 0])
    blocks = case_blocks(trajectories, frames, length=2)
    assert blocks.tolist() == [2, 0, 1, 0, 1, 3, 3]
    whole = case_blocks(torch.arange(8).repeat(3), torch.arange(24))
    assert whole.tolist() == list(range(8)) * 3
    root = case_blocks(torch.zeros(16, dtype=torch.long), torch.arange(16))
    assert torch.bincount(root).tolist() == [4, 4, 4, 4]
    with pytest.raises(ValueError, match="at least one case"):
        case_blocks(trajectories, frames, length=0)


def autoregressive(series, length, rho, generator):
    noise = torch.randn(series, length, generator=generator, dtype=torch.float64)
    states = [noise[:, 0] / math.sqrt(1 - rho**2)]
    for step in range(1, length):
        states.append(rho * states[-1] + noise[:, step])
    return torch.stack(states, dim=1)


def test_blocks_cover_correlated_cases_where_single_cases_do_not():
    """Mean of AR(0.8): blocks much longer than 1 / (1 - rho) reach about their level, single cases fall far short."""
    generator = torch.Generator().manual_seed(0)
    series = autoregressive(200, 800, 0.8, generator)
    covered = {}
    for length in (1, 40):
        blocks = case_blocks(torch.zeros(800, dtype=torch.long), torch.arange(800), length=length)
        interval = block_bootstrap(series.T.contiguous(), blocks, generator=generator, resamples=400)
        covered[length] = float(((interval.low <= 0) & (interval.high >= 0)).double().mean())
    assert covered[40] > 0.95 - 0.02 - 3 * math.sqrt(0.95 * 0.05 / 200)  # 20 blocks: some 2 % short
    assert covered[1] < 0.65


def test_the_interval_of_a_mean_has_the_width_of_the_normal_law():
    """500 independent cases: half width 1.96 sd / sqrt(500), up to the noise of 4000 resamples."""
    values = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    interval = block_bootstrap(values, torch.arange(500), generator=torch.Generator().manual_seed(2), resamples=4000)
    expected = 2 * 1.96 * float(values.std()) / math.sqrt(500)
    assert float(interval.high - interval.low) == pytest.approx(expected, rel=0.06)
    assert float(interval.low) < float(values.mean()) < float(interval.high)


def test_statistics_of_means_missing_cases_and_seeds():
    spread, skill = torch.rand(2, 30, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 1
    blocks = torch.arange(30)
    make = torch.Generator().manual_seed
    low, high = block_bootstrap((spread, skill), blocks, lambda a, b: (a / b).sqrt(), generator=make(4))
    ratio = (spread.mean(dim=0) / skill.mean(dim=0)).sqrt()
    assert bool(((low < ratio) & (ratio < high)).all())
    again = block_bootstrap((spread, skill), blocks, lambda a, b: (a / b).sqrt(), generator=make(4))
    assert torch.equal(again.low, low)
    shown = torch.ones_like(spread, dtype=torch.bool)
    shown[20:] = False
    hidden = spread.clone()
    hidden[20:] = math.nan
    few = block_bootstrap(hidden, blocks, available=shown, generator=make(5))
    assert bool(((few.low < spread[:20].mean(dim=0)) & (few.high > spread[:20].mean(dim=0))).all())


def test_one_block_says_nothing_and_bad_values_stay():
    values = torch.ones(5, 2, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    assert bool(block_bootstrap(values, torch.zeros(5, dtype=torch.long), generator=generator).low.isnan().all())
    values[2, 1] = math.nan
    interval = block_bootstrap(values, torch.arange(5), generator=generator)
    assert interval.low[0] == interval.high[0] == 1
    assert math.isnan(interval.low[1])
