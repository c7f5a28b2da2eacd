"""Rare states come more often, and nothing else changes: the law of what follows a state stays what it is."""

import numpy as np
import pytest
import torch

from eddycast.data import Rarity, WindowBatches
from eddycast.errors import InputError
from eddycast.training.rare import energy, jets, peak, rarity


def test_repeats_follow_the_law():
    """n = (90, 9, 1) windows in three bins, power 1/2: sqrt(90 / n), rounded; `most` holds it down."""
    values = np.repeat([0.1, 0.5, 0.95], [90, 9, 1])
    assert set(Rarity(energy, bins=3).repeats(values)[:90]) == {1}
    assert set(Rarity(energy, bins=3).repeats(values)[90:99]) == {3}
    assert Rarity(energy, bins=3, most=10).repeats(values)[99] == 9
    assert Rarity(energy, bins=3, most=4).repeats(values)[99] == 4
    assert (Rarity(energy, bins=3, power=1.0, most=100).repeats(values)[[0, 90, 99]] == [1, 10, 90]).all()
    assert (Rarity(energy).repeats(np.full(5, 2.0)) == 1).all()
    with pytest.raises(ValueError, match="not finite"):
        Rarity(energy).repeats(np.array([1.0, np.nan]))


class Chain:
    """A data set of one number per state, 0 or 1, on one point: state 1 is rare, and followed by 1 with probability 0.7."""

    def __init__(self, steps: int, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        states = [0.0]
        for number in generator.random(steps - 1):
            states.append(float(number < (0.7 if states[-1] == 1 else 0.02)))
        self.states = torch.tensor(states)[:, None, None]
        self.state_shape = (1, 1)

    def windows(self, split, frames, stride):
        starts = np.arange(len(self.states) - frames + 1)
        return np.stack([np.zeros_like(starts), starts], axis=1)

    def segments(self, split):
        class Whole:
            trajectory, start, stop = 0, 0, len(self.states)

            def __len__(self):
                return self.stop

        return [Whole()]

    def read(self, trajectory, start, stop, stride=1):
        return self.states[start:stop:stride]


def test_rare_states_come_more_often_and_their_future_is_unchanged():
    chain = Chain(20_000)
    before, after = chain.states[:-1, 0, 0], chain.states[1:, 0, 0]
    plain = WindowBatches(chain, "train", 2, batch_size=64)  # type: ignore[arg-type]
    balanced = WindowBatches(chain, "train", 2, batch_size=64, rarity=Rarity(energy, power=1.0, most=100))  # type: ignore[arg-type]
    one_pass = torch.cat([balanced.states(step) for step in range(len(balanced._pass) // 64)])[:, :, 0, 0]
    assert float(before.mean()) == pytest.approx(0.063, abs=0.015)
    assert float(one_pass[:, 0].mean()) == pytest.approx(0.5, abs=0.02)
    for state in (0.0, 1.0):
        truth = float(after[before == state].mean())
        assert float(one_pass[one_pass[:, 0] == state, 1].mean()) == pytest.approx(truth, abs=0.003)
    assert sorted(set(balanced._pass.tolist())) == list(range(plain.num_windows)), "each window comes at least once"
    assert torch.equal(
        balanced.states(7), WindowBatches(chain, "train", 2, batch_size=64, rarity=balanced.rarity).states(7)
    )  # type: ignore[arg-type]


def test_statistics():
    y = torch.arange(64) / 64
    states = torch.stack([torch.cos(2 * torch.pi * number * y) for number in (1, 3, 5)])[:, None]
    assert jets(states).tolist() == [1, 3, 5]
    torch.testing.assert_close(energy(states), torch.full((3,), 0.5, dtype=torch.float64))
    assert peak(-2 * states).tolist() == pytest.approx([2, 2, 2])
    land = states.clone()
    land[..., :16] = torch.nan
    assert energy(land).isfinite().all() and peak(land).isfinite().all()
    with pytest.raises(InputError, match="energy or peak"):
        jets(torch.zeros(2, 1, 8, 8))
    assert rarity("none") is None
