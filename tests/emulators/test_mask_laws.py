"""How many states of a training window are known, and at which end: closed forms, and histograms of what is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import conditions, normal
from torch import Tensor

from eddycast.emulators import ModelShape, NeuralSolver, NeuralSolverConfig, TrainingBatch, UniversalConfig
from eddycast.emulators.mask_laws import PREFIX_LAWS, draw_counts, prefixes
from eddycast.networks import UNetConfig

TINY = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=4)
PUBLISHED = {
    "uniform": (0.25, 0.25, 0.25, 0.25),
    "truncated-poisson": (1 / 3, 1 / 3, 2 / 9, 1 / 9),
    "wrapped-poisson": (0.383, 0.371, 0.184, 0.061),
}
DRAWS = 8000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("law", PREFIX_LAWS)
def test_published_laws_of_a_window_of_five(law):
    assert PREFIX_LAWS[law](5).tolist() == pytest.approx(PUBLISHED[law], abs=6e-4)


@pytest.mark.parametrize("frames", [2, 3, 5, 9])
@pytest.mark.parametrize("law", PREFIX_LAWS)
def test_laws_are_laws_for_windows_of_any_length(law, frames):
    found = PREFIX_LAWS[law](frames)
    assert found.shape == (frames - 1,) and (found > 0).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-12)


def test_the_wrapped_law_counts_the_tail():
    """1 + (N mod 2), N ~ Poisson(1): P(1) = P(N even) = e^-1 cosh 1."""
    assert PREFIX_LAWS["wrapped-poisson"](3)[0].item() == pytest.approx(math.exp(-1) * math.cosh(1), abs=1e-12)


def fits(counts: Tensor, law: Tensor) -> bool:
    """Every class within four standard errors of its probability."""
    found = torch.bincount(counts, minlength=len(law)) / len(counts)
    return bool(((found - law).abs() < 4 * (law * (1 - law) / len(counts)).sqrt() + 1e-9).all())


@pytest.mark.parametrize("law", PREFIX_LAWS)
def test_counts_are_drawn_by_the_law(law):
    counts = draw_counts(law, 5, DRAWS, generator())
    assert counts.min() == 1 and counts.max() == 4
    assert fits(counts - 1, PREFIX_LAWS[law](5))
    assert not fits(counts - 1, PREFIX_LAWS["uniform" if law != "uniform" else "wrapped-poisson"](5))
    assert torch.equal(counts, draw_counts(law, 5, DRAWS, generator()))


def ends(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Number of known states, and whether they are the last ones; checks that they are one or the other."""
    counts = masks.sum(dim=1)
    first = torch.arange(masks.shape[1]) < counts[:, None]
    backward = (masks == first.flip(1)).all(dim=1) & ~(masks == first).all(dim=1)
    assert (((masks == first).all(dim=1)) | backward).all()
    return counts, backward


@pytest.mark.parametrize("backward", [0.0, 0.34, 1.0])
def test_prefixes_lie_at_one_end(backward):
    counts, last = ends(prefixes(torch.randint(1, 5, (DRAWS,), generator=generator()), 5, backward, generator(1)))
    assert counts.min() == 1
    assert abs(last.double().mean().item() - backward) <= 4 * math.sqrt(backward * (1 - backward) / DRAWS)


@pytest.mark.parametrize("law", PREFIX_LAWS)
@pytest.mark.parametrize("backward", [0.0, 0.34])
def test_masks_of_a_universal_emulator(law, backward):
    config = UniversalConfig(unconditional=0, forecast=0, scattered=0, context_law=law, backward=backward, network=TINY)
    counts, last = ends(config.masks(DRAWS, generator()))
    assert fits(counts - 1, PREFIX_LAWS[law](5))
    assert abs(last.double().mean().item() - backward) <= 4 * math.sqrt(0.25 / DRAWS) * (backward > 0)
    assert fits(counts[last | (backward == 0)] - 1, PREFIX_LAWS[law](5))  # the end does not depend on the number


def test_shares_of_a_universal_emulator():
    """15 % nothing, 50 % the context of a forecast, 10 % scattered, the rest by the law; never everything."""
    config = UniversalConfig(context=2, overlap=1, context_law="truncated-poisson", backward=1.0, network=TINY)
    masks = config.masks(20_000, generator())
    assert not masks.all(dim=1).any()
    nothing = (~masks).all(dim=1).double().mean().item()
    forecast = (masks == torch.tensor([True, True, False, False, False])).all(dim=1).double().mean().item()
    suffix = (masks == torch.tensor([False, False, False, False, True])).all(dim=1).double().mean().item()
    coins = 0.1 * sum(
        1 / 16 * 4 / 5 for _ in range(1)
    )  # one given pattern of 4 tosses, its free state not the known one
    assert nothing == pytest.approx(0.15 + 0.1 / 16, abs=0.012)
    assert forecast == pytest.approx(0.5 + 0.1 * 3 / 5 / 16, abs=0.015)
    assert suffix == pytest.approx(0.25 / 3 + coins, abs=0.01)


def test_one_mask_for_all():
    config = UniversalConfig(shared_mask=True, context_law="wrapped-poisson", backward=0.5, network=TINY)
    masks = torch.stack([config.masks(6, generator(seed)) for seed in range(40)])
    assert (masks == masks[:, :1]).all() and len(masks[:, 0].unique(dim=0)) > 5


@pytest.mark.parametrize("law", PREFIX_LAWS)
def test_masks_of_a_neural_solver(law, monkeypatch):
    config = NeuralSolverConfig(context_law=law, backward=0.34, network=TINY)
    model = NeuralSolver(config, ModelShape(1, (True,))).double()
    seen: list[Tensor] = []

    def predict(x, known, here, noise):
        seen.append(known)
        return x

    monkeypatch.setattr(model, "predict", predict)
    x = normal(1, 5, 1, 2).expand(DRAWS, -1, -1, -1)
    model.stages()[0].objective(TrainingBatch(x, conditions(DRAWS), generator()))
    counts, last = ends(seen[0])
    assert fits(counts - 1, PREFIX_LAWS[law](5))
    assert last.double().mean().item() == pytest.approx(0.34, abs=4 * math.sqrt(0.34 * 0.66 / DRAWS))


@pytest.mark.parametrize("changes", [{"context_law": "poisson"}, {"backward": 1.2}, {"backward": -0.1}])
@pytest.mark.parametrize("config", [UniversalConfig, NeuralSolverConfig])
def test_laws_that_do_not_exist(config, changes):
    with pytest.raises(ValueError, match="got"):
        config(**changes)
