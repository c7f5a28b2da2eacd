"""Scoring-rule emulators that add to an average of the context: its weights against the truth, and the law that it follows shifts."""

from __future__ import annotations

import pytest
import torch
from exact_models import addresses, conditions, normal

from eddycast.emulators import ModelShape, ScoringConfig, ScoringRule
from eddycast.emulators.increments import average_weights, increment_scale
from eddycast.networks import UNetConfig

POINTS, CONTEXT = 8, 3
TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)


def autoregression(weights: list[float], steps: int) -> torch.Tensor:
    """x(t + 1) = sum_k a_k x(t - k) + noise of standard deviation 1: (1, steps, 1, space)."""
    noise = normal(steps, POINTS, seed=1)
    states = [torch.zeros(POINTS, dtype=noise.dtype)] * len(weights)
    for shock in noise:
        states.append(sum(a * state for a, state in zip(weights, states[-len(weights) :], strict=True)) + shock)
    return torch.stack(states)[None, :, None]


def model(base: str = "average") -> ScoringRule:
    """Random weights everywhere, the layers that start at zero included; scales measured on a drifting record."""
    found = ScoringRule(ScoringConfig(context=CONTEXT, base=base, network=TINY), ModelShape(1, (True,))).double()
    for number, weight in enumerate(found.parameters()):
        weight.data += 0.2 * normal(*weight.shape, seed=number).to(weight)
    found.prepare(autoregression([0.2, 0.3, 0.5], 200).double())
    return found


@pytest.mark.parametrize("weights", [[0.2, 0.3, 0.5], [-0.4, 0.5, 0.9], [0.0, 0.0, 1.0]])
def test_weights_of_an_autoregression_are_found(weights):
    """24000 samples, so a standard error of about 0.006."""
    found = average_weights(autoregression(weights, 3000), 3)
    assert found[:, 0].tolist() == pytest.approx(weights, abs=0.03)
    assert float(found.sum()) == pytest.approx(1.0)


def test_white_noise_about_a_mean_far_from_zero_asks_for_equal_weights():
    found = average_weights(40 + normal(2, 2000, 2, POINTS, seed=2), 5)
    assert found.shape == (5, 2)
    assert torch.allclose(found, torch.full_like(found, 0.2), atol=0.03)


def test_one_state_and_states_that_stand_still_have_weights_too():
    still = torch.ones(3, 4, 1, POINTS)
    assert average_weights(still, 1).tolist() == [[1.0]]
    assert average_weights(still, 3)[:, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_the_scale_is_that_of_what_the_average_leaves():
    """The noise has standard deviation 1; one-step increments of this record are larger."""
    x = autoregression([0.5, 0.4, 0.1], 3000)
    rule = ScoringRule(ScoringConfig(context=CONTEXT, base="average", network=TINY), ModelShape(1, (True,))).double()
    rule.prepare(x.double())
    assert float(rule.scales) == pytest.approx(1.0, abs=0.03)
    assert float(increment_scale(x, 1)) > 1.1


@pytest.mark.parametrize("base, follows", [("average", True), ("last", False)])
def test_a_forecast_from_shifted_states_is_shifted_alike(base, follows):
    """A record that has drifted by any amount is forecast as if it had not; on the states themselves a network sees something new."""
    rule = model(base)
    known = torch.cat([normal(2, CONTEXT, 1, POINTS, seed=4), torch.zeros(2, 1, 1, POINTS)], dim=1).double()
    mask = torch.tensor([True] * CONTEXT + [False])
    leads = torch.arange(1.0 - CONTEXT, 2.0, dtype=torch.float64)
    first, second = (
        rule.advance(known + shift, mask, conditions(2), leads, noise=addresses(2))[:, -1] for shift in (0.0, 5.0)
    )
    assert float((first - known[:, -2]).detach().abs().mean()) > 0.05
    assert torch.allclose(second, first + 5.0, atol=1e-9) is follows


def test_an_average_has_one_step():
    with pytest.raises(ValueError, match="horizon"):
        ScoringConfig(base="average", horizon=2)
