"""Blocks of observations with forecasts from each: laws against exact ones, for every method, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exact_windows import MEAN, STD, Law, chain, emulator, misfit, observed, sequential

from eddycast.assimilation import (
    ETKFOptions,
    InterpolationOptions,
    MMPSOptions,
    OnlineTask,
    assimilate,
    assimilate_online,
    ensemble_kalman,
)
from eddycast.emulators import count_passes
from eddycast.errors import InputError
from eddycast.noise import MemberNoise

CHAIN, SECOND = chain(0.8), chain(1.6, -0.8)
MMPS = MMPSOptions(iterations=8, num_steps=12, sampler="heun")
SCALES = InterpolationOptions(scales=(2.0, 0.1))


def online(name, obs, task, *, frames=5, members=96, process=CHAIN, options=None, background=None, **model):
    made = emulator(process, frames, **model)
    return assimilate_online(
        name, made, obs, obs.conditions(), task=task, members=members, seed=0, background=background, options=options
    )


def climate(members: int, *, process=CHAIN, frames: int = 1) -> torch.Tensor:
    """A climatological background, (member, case, time, 1, points)."""
    return MEAN + STD * process.draw(2 * members, frames, seed=9).unflatten(0, (members, 2))


def block_laws(process, obs, case, *, frames, block, horizon, context) -> list[Law]:
    """Exact laws of each block and its forecast: every block begins from a draw of the last `context` states before it."""
    laws, points = [], process.points
    start = None
    for first in range(0, obs.num_times - block + 1, block):
        begin = first - (0 if start is None else len(start.mean) // points)
        values = torch.full((1, first + horizon - begin, 1, points), torch.nan, dtype=torch.float64)
        values[0, first - begin : first - begin + block] = obs.values[case, first : first + block]
        told = replace(obs, values=values, trajectories=torch.zeros(1), frames=torch.zeros(1, dtype=torch.long))
        settings = {"frames": frames, "overlap": context, "resampled": False, "start": start}
        observed_part = replace(told, values=values[:, : first - begin + block])
        analysis = sequential(process, observed_part, 0, **settings)
        # the forecast starts from the last states of the analysis: windows of their own
        law = sequential(process, told, 0, **settings | {"start": analysis, "told_first": context})
        cut = slice((first - begin) * points, None)
        laws.append(Law(law.mean[cut], law.cov[cut, cut]))
        tail = slice(len(analysis.mean) - context * points, None)
        start = Law(analysis.mean[tail], analysis.cov[tail, tail])
    return laws


@pytest.mark.parametrize("process, context", [(CHAIN, 1), (SECOND, 2)])
def test_guided_blocks_and_their_forecasts_have_their_exact_law(process, context):
    """Blocks of 4 frames, horizons of 9: three analyses, each from draws of the one before, and the forecasts from them."""
    obs = observed(process, 13)
    options = replace(MMPS, rollout="autoregressive")
    task = OnlineTask(4, 9)
    found = online("mmps", obs, task, options=options, process=process, overlap=context, context=context)
    assert found.shape == (96, 2, 3, 9, 1, 4) and found.dtype == torch.float64
    for case in range(2):
        laws = block_laws(process, obs, case, frames=5, block=4, horizon=9, context=context)
        for number, law in enumerate(laws):
            right = misfit(found[:, case : case + 1, number], [law])
            assert right.error < 0.2 and 0.9 < right.ratio < 1.1, (case, number, right)  # 0.1 is chance


@pytest.mark.parametrize("kind", ["universal", "joint"])
def test_all_at_once_blocks_begin_from_the_one_before(kind):
    """A block of 8 frames is longer than the window of 5; what is left by the first block is known at the second one's start."""
    obs = observed(CHAIN, 16, std=0.1, empty=(8, 9))
    found = online("mmps", obs, OnlineTask(8, 8), options=replace(MMPS, stride=1), kind=kind)
    left, right = ((found[:, 0, number, frame, 0] - MEAN) / STD for number, frame in ((0, 7), (1, 0)))
    slope = ((left - left.mean(dim=0)) * (right - right.mean(dim=0))).mean(dim=0)
    seen = obs.values[0, 10, 0].isnan()
    assert (slope / left.var(dim=0))[seen].mean() > 0.5
    assert (right.mean(dim=0) - 0.8 * left.mean(dim=0))[seen].abs().max() < 0.5


def test_a_block_knows_neither_later_observations_nor_those_of_other_members():
    obs = observed(CHAIN, 12)
    later = replace(obs, values=torch.cat([obs.values[:, :8], obs.values[:, 8:] + 3], dim=1))
    options = replace(MMPS, num_steps=2)
    task = OnlineTask(4, 7)
    first, second = (online("mmps", one, task, members=3, options=options) for one in (obs, later))
    torch.testing.assert_close(first[:, :, :2], second[:, :, :2], rtol=0, atol=1e-9)
    assert not torch.allclose(first[:, :, 2], second[:, :, 2])
    fewer = online("mmps", obs, replace(task, blocks=2), members=3, options=options)
    assert torch.equal(fewer, first[:, :, :2])


def test_blocks_draw_noise_of_their_own():
    """Two blocks with the same observations and the same start would otherwise be the same draws."""
    obs = observed(CHAIN, 4, fraction=1.0)
    twice = replace(obs, values=obs.values.repeat(1, 2, 1, 1))
    found = online("mmps", twice, OnlineTask(4, 6), members=64, options=replace(MMPS, num_steps=6))
    for frame in (3, 5):
        one, two = (found[:, 0, number, frame, 0] for number in (0, 1))
        one, two = one - one.mean(dim=0), two - two.mean(dim=0)
        slope = (one * two).mean() / one.square().mean()
        assert slope.abs() < 0.35


def test_kalman_blocks_are_the_smoother_of_blocks_and_forecasts_go_on_from_them():
    obs, start = observed(CHAIN, 12), climate(24)
    options = ETKFOptions(inflation=1.0)
    made = emulator(CHAIN, 5)
    found = online("etkf", obs, OnlineTask(4, 6), members=24, options=options, background=start)
    first = assimilate(
        "etkf", made, obs.window(0, 4), obs.conditions(), members=24, seed=0, background=start, options=options
    )
    assert torch.equal(found[:, :, 0, :4], first)
    noise = MemberNoise.grid(0, obs.trajectories, 24)
    ahead = made.advance(
        first[:, :, -1:],
        obs.conditions().shifted(3).expand(24),
        torch.arange(1.0, 3.0),
        noise=noise,
        first_window=2**24,
    )
    assert torch.equal(found[:, :, 0, 4:], ahead)
    # without noise of the model blocks of the driver are blocks of the filter
    still, obs = _Still(), observed(CHAIN, 8, empty=(7,))
    whole = ensemble_kalman(still, obs, obs.conditions(), start, seed=0, block=4, options=ETKFOptions())
    blocks = assimilate_online(
        "etkf", still, obs, obs.conditions(), task=OnlineTask(4, 4), members=24, seed=0, background=start,
        options=ETKFOptions(),
    )  # fmt: skip
    torch.testing.assert_close(blocks.flatten(2, 3), whole, rtol=0, atol=1e-9)


class _Still:
    context = 1

    def advance(self, context, conditions, lead_times, *, noise, first_window=0):
        states = [context[..., -1, :, :]]
        for _ in lead_times:
            states.append(MEAN + 0.9 * (states[-1].roll(1, dims=-1) - MEAN))
        return torch.stack(states[1:], dim=-3)


def test_interpolation_takes_each_block_by_itself_and_the_emulator_forecasts():
    obs, start = observed(CHAIN, 8), climate(64)
    found = online("interpolation", obs, OnlineTask(4, 7), members=60, options=SCALES, background=start)
    for number in range(2):
        part = obs.window(4 * number, 4 * number + 4)
        alone = assimilate(
            "interpolation", None, part, part.conditions(), members=60, seed=0, background=start, options=SCALES
        )
        torch.testing.assert_close(found[:, :, number, :4].mean(dim=0), alone.mean(dim=0), rtol=0, atol=1e-3)
    ahead, last = ((found[:, 0, :, frame] - MEAN).mean(dim=0) for frame in (6, 3))
    assert (ahead - 0.8**3 * last).abs().max() < 5 * STD / 60**0.5


@pytest.mark.parametrize(
    "name, options", [("mmps", replace(MMPS, num_steps=2)), ("etkf", None), ("interpolation", SCALES)]
)
def test_a_block_without_observations_is_a_forecast_and_a_case_without_them_goes_on(name, options):
    obs = observed(CHAIN, 12, empty=(4, 5, 6, 7))
    start = None if name == "mmps" else climate(16)
    found = online(name, obs, OnlineTask(4, 8), members=16, options=options, background=start)
    assert found.isfinite().all()
    slope = _slope(found[:, :, 0, 3], found[:, :, 1, 0])
    assert slope > 0.5, "the second block goes on from the first"
    lost = replace(obs, values=torch.cat([obs.values[:1], torch.full_like(obs.values[1:], torch.nan)]))
    assert online(name, lost, OnlineTask(4, 8), members=16, options=options, background=start).isfinite().all()
    bare = replace(obs, values=torch.cat([torch.full_like(obs.values[:, :4], torch.nan), obs.values[:, :4]], dim=1))
    if name == "etkf":  # its background is a start
        found = online(name, bare, OnlineTask(4, 8), members=16, options=options, background=start)
        assert torch.equal(found[:, :, 0, 0], start[:, :, 0])
        return
    with pytest.raises(InputError, match="first block of 4 frames holds no observation"):
        online(name, bare, OnlineTask(4, 8), members=16, options=options, background=start)


def test_an_empty_block_and_the_forecast_from_it_draw_different_noise():
    """Increments of the chain x' = 0.8 x + noise in frames of the block and of the forecast are independent."""
    obs = observed(CHAIN, 12, empty=(4, 5, 6, 7))
    found = online("mmps", obs, OnlineTask(4, 8), members=96, options=replace(MMPS, num_steps=2))
    x = (found[:, 0, 1] - MEAN) / STD
    block, later = (x[:, part][:, 1:, 0] - 0.8 * x[:, part][:, :-1, 0] for part in (slice(0, 4), slice(4, 8)))
    block, later = block - block.mean(dim=0), later - later.mean(dim=0)
    correlation = (block * later).mean() / (block.square().mean() * later.square().mean()).sqrt()
    assert correlation.abs() < 0.35


def _slope(before: torch.Tensor, after: torch.Tensor) -> float:
    before, after = before - before.mean(dim=0), after - after.mean(dim=0)
    return ((before * after).mean() / before.square().mean()).item()


def test_costs_of_blocks_and_forecasts_add_up():
    """Guided windows count, here with an exact denoiser that counts itself; its forecasts need none."""
    obs = observed(CHAIN, 8)
    options = MMPSOptions(num_steps=3, rollout="autoregressive")
    with count_passes() as passes:
        online("mmps", obs, OnlineTask(4, 6), members=2, options=options)
    assert passes.forward == 2 * 2 * 3 * (1 + 1)  # 4 frames cold are one window of 5, and so are 4 after one known


def test_published_horizons_hold_their_block():
    """13 blocks in 640 frames, and 5 in 64: arXiv:2410.16415."""
    for block, horizon, frames, blocks in ((20, 400, 640, 13), (5, 40, 64, 5)):
        inside = [start for start in OnlineTask(block, horizon).starts(frames) if start + horizon <= frames]
        assert len(inside) == blocks


@pytest.mark.parametrize(
    "task, words",
    [
        ((0, 4), "at least 1, got 0"),
        ((4, 8, 0), "at least 1, got 4 and 0"),
        ((4, 3), "at least block = 4, got 3"),
    ],
)
def test_tasks_that_cannot_be_are_told(task, words):
    with pytest.raises(InputError, match=words):
        OnlineTask(*task)


def test_blocks_too_short_for_the_observations_or_the_context_are_told():
    obs = observed(CHAIN, 8)
    with pytest.raises(InputError, match="Blocks of 9 frames: 9 observed frames are needed, there are 8"):
        online("mmps", obs, OnlineTask(9, 9), options=MMPS)
    with pytest.raises(InputError, match="Blocks of 4 frames: 12 observed"):
        online("mmps", obs, OnlineTask(4, 9, 3), options=MMPS)
    quick = replace(MMPS, num_steps=1)
    with pytest.raises(InputError, match="continues 2 states, and a block has fewer: raise block"):
        online("mmps", obs, OnlineTask(1, 3), members=2, options=quick, process=SECOND, overlap=2, context=2)
    start = climate(2, process=SECOND, frames=2)
    settings = {"process": SECOND, "overlap": 2, "context": 2, "members": 2, "options": quick}
    found = online("mmps", obs, OnlineTask(1, 3), background=start, **settings)
    assert found.shape[2:4] == (8, 3) and found.isfinite().all()
