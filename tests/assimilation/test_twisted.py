"""Twisted particles: weights of modes that guidance gets wrong, the law of resampling, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from exact_windows import chain, emulator, misfit, observed, smoother

from eddycast.assimilation import MMPSOptions, TwistedOptions, assimilate
from eddycast.assimilation.twisted import Groups
from eddycast.errors import InputError

sys.path.append(str(Path(__file__).resolve().parents[2] / "validation"))
import exact_posteriors

CHAIN = chain(0.8)


def test_weights_of_modes_are_right_within_their_standard_error_where_guidance_misses_them():
    """Four analyses of 128 members each: mean weights within 4 standard errors of exact ones; moment matching is off by more
    than four in a single one.

    Each of the former is as good as 128 independent draws, up to a factor of 2.5 (their standard error is 0.03 to 0.04).
    """
    problem, seen = exact_posteriors.mixture("few", 1)
    exact = problem.posterior_weights
    found = {}
    for row in ("`twisted`", "`mmps` (default)"):
        seeds = range(4 if row == "`twisted`" else 1)
        runs = [exact_posteriors.analysis(row, problem, seen, 128, seed, exact)[0] for seed in seeds]
        found[row] = torch.stack([problem.memberships(x).mean(dim=0) for x in runs])
    weights = found["`twisted`"]
    chance = (exact * (1 - exact) / 128).sqrt()
    assert ((weights.mean(dim=0) - exact).abs() < 4 * chance / 2 + 1e-3).all()
    assert (weights - exact).square().mean().sqrt() < 2.5 * chance.square().mean().sqrt()
    off = (found["`mmps` (default)"].mean(dim=0) - exact).abs().max()
    assert off > 4 * chance.max()


def test_a_gaussian_keeps_its_posterior():
    obs = observed(CHAIN, 6)
    options = TwistedOptions(num_steps=48)
    analysis = assimilate("twisted", emulator(CHAIN, 6), obs, obs.conditions(), members=128, seed=0, options=options)
    found = misfit(analysis, [smoother(CHAIN, obs, case) for case in range(2)])
    assert found.error < 0.2 and 0.9 < found.ratio < 1.1, found  # 0.09 is chance for independent draws


def test_cases_are_weighed_by_themselves():
    """Two cases together, each alone: the same members, whatever the other case does to its own."""
    obs = observed(CHAIN, 6, std=0.1)
    options = TwistedOptions(num_steps=8, threshold=1.0)

    def draw(part):
        return assimilate("twisted", emulator(CHAIN, 6), part, part.conditions(), members=16, seed=0, options=options)

    both = draw(obs)
    for case in range(2):
        torch.testing.assert_close(draw(obs.select(torch.tensor([case])))[:, 0], both[:, case], rtol=1e-8, atol=1e-8)


def test_without_observations_nothing_is_weighed():
    """The plain sampler: weights stay equal, and the draw is that of the denoiser with the same steps and noise."""
    obs = observed(CHAIN, 6)
    ways = [
        ("twisted", TwistedOptions(num_steps=12, observed="none")),
        ("mmps", MMPSOptions(num_steps=12, grid="quadratic", observed="none")),
    ]
    ours, plain = (
        assimilate(name, emulator(CHAIN, 6), obs, obs.conditions(), members=8, seed=0, options=options)
        for name, options in ways
    )
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_members_are_drawn_anew_in_proportion_to_their_weights():
    """Systematic: a member of weight w of N comes floor(N w) or ceil(N w) times, in its own case; its mean over offsets is N w."""
    generator = torch.Generator().manual_seed(0)
    case = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1, 0])
    groups = Groups.of(case)
    weight = torch.softmax(torch.randn(2, 5, generator=generator, dtype=torch.float64), dim=1)
    total = torch.zeros(10, dtype=torch.float64)
    offsets = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    for offset in offsets:
        index = groups.redrawn(weight, offset.expand(2), torch.tensor([True, True]))
        assert (case[index] == case).all()
        counts = torch.bincount(index, minlength=10).double()
        expected = torch.zeros(10, dtype=torch.float64)
        expected[groups.places] = 5 * weight
        assert ((counts - expected).abs() < 1).all()
        total += counts / len(offsets)
    assert torch.allclose(total, expected, atol=0.01)
    kept = groups.redrawn(weight, torch.tensor([0.3, 0.3]).double(), torch.tensor([True, False]))
    assert torch.equal(kept[case == 1], torch.arange(10)[case == 1])
    with pytest.raises(ValueError, match=r"equal numbers of members, got \[2, 1\]"):
        Groups.of(torch.tensor([0, 0, 1]))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"rollout": "autoregressive"}, "use rollout=all-at-once"),
        ({"num_steps": 1}, "num_steps must be at least 2"),
        ({"grid": "cubic"}, "Unknown grid 'cubic'"),
        ({"threshold": 1.5}, "threshold is a share"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"stride": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_are_told_in_one_line(changes, words):
    with pytest.raises(InputError, match=words) as told:
        TwistedOptions(**changes)
    assert "\n" not in str(told.value)


def test_a_single_member_and_a_background_are_refused():
    obs = observed(CHAIN, 6)
    for settings, words in (
        ({"members": 1}, "weigh members against each other, got 1"),
        ({"members": 2, "background": torch.zeros(2, 2, 1, 1, 4)}, "leave the background out"),
    ):
        with pytest.raises(InputError, match=words):
            assimilate("twisted", emulator(CHAIN, 6), obs, obs.conditions(), seed=0, **settings)
