"""Addressed noise: the address alone decides, different addresses do not know each other, the laws are as told."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eddycast.noise import MemberNoise

KEY = (3, 5, "start")
WORD = 2**32 - 1


def one(seed: int, case: int, member: int) -> MemberNoise:
    return MemberNoise(seed, torch.tensor([case]), torch.tensor([member]))


@pytest.mark.parametrize("law", ["draw", "uniform"])
def test_member_has_the_same_bits_alone_in_a_crowd_in_any_order_and_chunk(law):
    crowd = MemberNoise.grid(7, cases=4, members=16)
    whole = getattr(crowd, law)((2, 5), key=KEY)
    assert whole.shape == (16, 4, 2, 5)
    for member, case in [(0, 0), (11, 2), (15, 3)]:
        assert torch.equal(getattr(one(7, case, member), law)((2, 5), key=KEY)[0], whole[member, case])
    flat, rows = crowd.flatten(), whole.reshape(64, 2, 5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(getattr(flat.select(order), law)((2, 5), key=KEY), rows[order])
    chunks = [getattr(flat.select(slice(start, start + 10)), law)((2, 5), key=KEY) for start in range(0, 64, 10)]
    assert torch.equal(torch.cat(chunks), rows)
    named = MemberNoise.grid(7, cases=torch.tensor([2, 0]), members=torch.tensor([11]))
    assert torch.equal(getattr(named, law)((2, 5), key=KEY), whole[11:12, [2, 0]])


def test_a_draw_leaves_no_trace():
    """Nothing is consumed: neither earlier draws nor the global generators matter, and none of them is moved."""
    noise = MemberNoise.grid(1, 2, 3)
    before, state = noise.draw((4,), key=KEY), torch.random.get_rng_state()
    noise.draw((100,), key=(0, 0, "other"))
    assert torch.equal(noise.draw((4,), key=KEY), before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_longer_draw_begins_like_the_shorter_one():
    assert torch.equal(one(0, 0, 0).draw((50,), key=KEY)[:, :20], one(0, 0, 0).draw((20,), key=KEY))


ADDRESSES = {
    "seed": (one(8, 1, 2), KEY),
    "case": (one(7, 2, 2), KEY),
    "member": (one(7, 1, 3), KEY),
    "case and member swapped": (one(7, 2, 1), KEY),
    "window": (one(7, 1, 2), (4, 5, "start")),
    "step": (one(7, 1, 2), (3, 6, "start")),
    "window and step swapped": (one(7, 1, 2), (5, 3, "start")),
    "site": (one(7, 1, 2), (3, 5, "sampler")),
    "largest seed": (one(2**64 - 1, 1, 2), KEY),
    "largest seed but one": (one(2**64 - 2, 1, 2), KEY),
    "largest case": (one(7, WORD, 2), KEY),
    "largest case, next member": (one(7, WORD, 3), KEY),
    "largest case and member": (one(7, WORD, WORD), KEY),
}


@pytest.mark.parametrize("size", [20_000])
def test_different_addresses_are_uncorrelated(size):
    """The correlation of independent draws is N(0, 1 / size); 4.5 standard errors for 90 pairs; lag 1 too."""
    draws = [one(7, 1, 2).draw((size,), key=KEY)[0]]
    draws += [noise.draw((size,), key=key)[0] for noise, key in ADDRESSES.values()]
    rows = torch.stack(draws).double()
    limit = 4.5 / math.sqrt(size)
    same = (rows @ rows.T / size).fill_diagonal_(0)
    shifted = rows[:, 1:] @ rows[:, :-1].T / size
    assert same.abs().max() < limit, "two addresses share numbers"
    assert shifted.abs().max() < limit


@given(st.integers(0, 2**64 - 2), st.integers(0, WORD - 1), st.integers(0, WORD - 1))
def test_neighbouring_addresses_differ_over_the_whole_promised_range(seed, case, member):
    here = one(seed, case, member).draw((3,), key=KEY)
    for other in (one(seed + 1, case, member), one(seed, case + 1, member), one(seed, case, member + 1)):
        assert not torch.equal(here, other.draw((3,), key=KEY))


def test_laws_are_standard_normal_and_uniform():
    """Kolmogorov-Smirnov at the level 1e-4, over points, members and steps alike."""
    noise = MemberNoise.grid(0, 5, 10)
    for law, cdf in (("draw", stats.norm.cdf), ("uniform", stats.uniform.cdf)):
        points = getattr(noise, law)((400,), key=KEY).reshape(-1)
        steps = torch.cat([getattr(one(0, 0, 0), law)((2,), key=(0, step, "x"))[0] for step in range(3000)])
        members = getattr(MemberNoise.grid(0, 1, 3000), law)((1,), key=KEY).reshape(-1)
        for sample in (points, steps, members):
            assert stats.kstest(sample.double().numpy(), cdf).pvalue > 1e-4
    uniform = noise.uniform((400,), key=KEY)
    assert uniform.min() >= 0 and uniform.max() < 1


def test_moments_of_the_normal_law():
    """Mean, variance, fourth moment of n numbers within 4 standard errors: sqrt(1 / n), sqrt(2 / n), sqrt(96 / n)."""
    x = MemberNoise.grid(3, 2, 4).draw((25_000,), key=KEY).double().reshape(-1)
    n = x.numel()
    assert abs(x.mean()) < 4 * math.sqrt(1 / n)
    assert abs(x.square().mean() - 1) < 4 * math.sqrt(2 / n)
    assert abs(x.pow(4).mean() - 3) < 4 * math.sqrt(96 / n)


def test_dtype_and_device_are_those_asked_for_and_do_not_change_the_numbers():
    noise = one(0, 0, 0)
    single = noise.draw((6,), key=KEY)
    double = noise.draw((6,), key=KEY, dtype=torch.float64, device=torch.device("cpu"))
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert torch.equal(double, single.double())
    assert noise.uniform((6,), key=KEY, device="meta").device.type == "meta"


def test_batch_follows_the_addresses():
    noise = MemberNoise.grid(0, 3, 2)
    assert noise.batch == (2, 3) and noise.flatten().batch == (6,)
    assert noise.draw((), key=KEY).shape == (2, 3)
    assert torch.equal(noise.members[:, 0], torch.arange(2)) and torch.equal(noise.cases[0], torch.arange(3))


def test_seed_beyond_the_promised_range_is_refused():
    for seed in (-1, 2**64):
        with pytest.raises((OverflowError, ValueError)):
            one(seed, 0, 0).draw((1,), key=KEY)
