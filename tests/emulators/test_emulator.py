"""Emulators: batches, members, chunks, progress, missing values and physical units."""

from __future__ import annotations

import pytest
import torch
from exact_models import AffineSpace, RandomWalk, StraightLine, conditions, normal
from torch import nn

from eddycast.emulators import Emulator, IdentitySpace, ModelShape, ScoringConfig, SpectralGuard, build_model
from eddycast.networks import UNetConfig
from eddycast.noise import MemberNoise

LEADS = torch.arange(1, 6, dtype=torch.float64)


def stochastic(static: int = 0) -> nn.Module:
    """A scoring-rule model with all weights set: every member differs, and it mixes neighbours."""
    network = UNetConfig(channels=(4, 6), blocks=1, kernel=3, embedding=8)
    model = build_model(ScoringConfig(network=network), ModelShape(1, (True,), static=static))
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
    return model


def forecast(emulator: Emulator, cases: int = 2, members: int = 3, **options) -> torch.Tensor:
    context = normal(cases, 1, 1, 8, seed=2).float()
    return emulator.forecast(context, conditions(cases), LEADS, members=members, **{"seed": 0, **options})


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 2, 2)])
def test_advance_takes_any_batch_and_keeps_each_entry_in_its_place(batch):
    count = torch.Size(batch).numel()
    here = conditions(count, parameters=1)
    start = normal(count, 2, 3, 8)
    flat = Emulator(StraightLine(), IdentitySpace()).advance(
        start, here, LEADS, noise=MemberNoise.grid(0, count, 1).flatten()
    )
    exact = start[:, -1:] + here.parameters[:, 0, None, None, None] * LEADS[:, None, None]
    assert torch.allclose(flat, exact)
    shaped = type(here)(here.grid, 1.0, here.parameters.reshape(*batch, 1), here.time.reshape(batch))
    noise = MemberNoise(0, torch.zeros(batch, dtype=torch.long), torch.arange(count).reshape(batch))
    result = Emulator(StraightLine(), IdentitySpace()).advance(
        start.reshape(*batch, 2, 3, 8), shaped, LEADS, noise=noise
    )
    assert result.shape == (*batch, 5, 3, 8)
    assert torch.equal(result.reshape(count, 5, 3, 8), flat)


def test_forecast_puts_members_first_and_repeats_the_context():
    result = forecast(Emulator(stochastic(), IdentitySpace()), cases=2, members=3)
    assert result.shape == (3, 2, 5, 1, 8) and result.dtype == torch.float32
    assert (result[0] - result[1]).abs().max() > 1e-3, "members differ"
    deterministic = forecast(Emulator(RandomWalk(0.0), IdentitySpace()), members=3)
    assert torch.equal(deterministic[0], deterministic[2])


def test_states_are_physical_on_both_sides():
    """The walk only shifts: in physical units as in model space, through an affine space."""
    context = 100 * normal(2, 1, 1, 8)
    result = Emulator(RandomWalk(0.0), AffineSpace()).forecast(context, conditions(2), LEADS, members=1, seed=0)[0]
    for step in range(5):
        assert torch.allclose(result[:, step], context[:, 0].roll(step + 1, dims=-1), atol=1e-10)


def test_fixed_chunk_gives_the_same_bits_again():
    """Member m in an ensemble of 4 and of 16 is bitwise the same when the chunks before it are filled alike."""
    emulator = Emulator(stochastic(), IdentitySpace(), chunk=4)
    large, small, again = (forecast(emulator, cases=1, members=members) for members in (16, 4, 16))
    assert torch.equal(large, again) and torch.equal(large[:4], small)
    pairs = forecast(emulator, cases=2, members=16)
    assert torch.equal(pairs[:4], forecast(emulator, cases=2, members=4))


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_chunks_agree_to_rounding(chunk):
    reference = forecast(Emulator(stochastic(), IdentitySpace(), chunk=4), members=5)
    other = forecast(Emulator(stochastic(), IdentitySpace(), chunk=chunk), members=5)
    assert torch.allclose(reference, other, rtol=1e-4, atol=1e-5)


def test_noise_of_a_model_without_arithmetic_is_bitwise_the_same_in_any_chunk():
    walks = [forecast(Emulator(RandomWalk(), IdentitySpace(), chunk=chunk), members=6) for chunk in (1, 5, 100)]
    assert torch.equal(walks[0], walks[1]) and torch.equal(walks[0], walks[2])
    assert torch.equal(walks[0][:2], forecast(Emulator(RandomWalk(), IdentitySpace()), members=2))


def test_cases_carry_their_numbers():
    """Case 5 forecast alone under its number is case 5 of the whole; without the number it is another draw."""
    emulator = Emulator(RandomWalk(), IdentitySpace())
    context, here = normal(8, 1, 1, 8), conditions(8)
    whole = emulator.forecast(context, here, LEADS, members=2, seed=0)
    part, told = context[5:6], here.select(slice(5, 6))
    named = emulator.forecast(part, told, LEADS, members=2, seed=0, cases=torch.tensor([5]))
    unnamed = emulator.forecast(part, told, LEADS, members=2, seed=0)
    assert torch.equal(named[:, 0], whole[:, 5]) and not torch.equal(unnamed[:, 0], whole[:, 5])
    other = emulator.forecast(context, here, LEADS, members=2, seed=1)
    assert (other - whole).abs().min(dim=0).values.max() > 0.1


@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("leads", [[1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 5.0]])
def test_progress_rises_to_the_total(chunk, leads):
    calls: list[tuple[int, int]] = []
    emulator = Emulator(RandomWalk(), IdentitySpace(), chunk=chunk)
    emulator.forecast(
        normal(2, 1, 1, 8),
        conditions(2),
        torch.tensor(leads),
        members=3,
        seed=0,
        progress=lambda *call: calls.append(call),
    )
    done = [call[0] for call in calls]
    assert {call[1] for call in calls} == {6 * len(leads)}
    assert done == sorted(done) and done[-1] == 6 * len(leads) and len(calls) >= -(-6 // chunk)


@pytest.mark.parametrize("space", [IdentitySpace(), AffineSpace()])
def test_land_in_the_context_does_not_reach_the_ocean(space):
    """NaN on land: finite everywhere in the forecast, and the same whatever stood there."""
    valid = torch.tensor([True] * 6 + [False] * 2)
    here = conditions(2, valid=valid)
    context = normal(2, 1, 1, 8).float().masked_fill(~valid, float("nan"))
    emulator = Emulator(stochastic(static=1), space)
    result = emulator.forecast(context, here, LEADS, members=2, seed=0)
    assert result.isfinite().all()
    assert torch.equal(result, emulator.forecast(context, here, LEADS, members=2, seed=0))


def test_guard_can_be_taken_off():
    guard = SpectralGuard(torch.tensor([True]), torch.full((1, 5), 0.1), (True,))
    guarded = Emulator(RandomWalk(), IdentitySpace(), guard=guard)
    bare = forecast(guarded.without_guard())
    assert torch.equal(bare, forecast(Emulator(RandomWalk(), IdentitySpace())))
    held = torch.fft.rfft(forecast(guarded), norm="forward").abs()
    assert held[..., 1:].max() < 0.1 * (1 + 1e-4) < torch.fft.rfft(bare, norm="forward").abs()[..., 1:].max()


def test_context_and_device_are_those_of_the_model():
    assert Emulator(StraightLine(context=3, overlap=3), IdentitySpace()).context == 3
    assert Emulator(StraightLine(), IdentitySpace()).device == torch.device("cpu")
    assert Emulator(stochastic().to("meta"), IdentitySpace()).device.type == "meta"
