"""Windows one after the other: the law of their samples, what it lacks of the smoother's, forecasts, and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exact_windows import (
    MEAN,
    STD,
    Affine,
    ExactWindow,
    Law,
    chain,
    emulator,
    misfit,
    observed,
    sequential,
    smoother,
    tracer,
)

from eddycast.assimilation import (
    GuidedOptions,
    MMPSOptions,
    OnlineTask,
    SDAOptions,
    assimilate,
    assimilate_online,
)
from eddycast.emulators import (
    AmortisedConfig,
    Emulator,
    JointConfig,
    ModelShape,
    UniversalConfig,
    WindowDiffusion,
    count_passes,
)
from eddycast.errors import InputError
from eddycast.networks import UNetConfig

CHAIN = chain(0.8)
EXACT = MMPSOptions(iterations=8, num_steps=12, sampler="heun", rollout="autoregressive")
TINY = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=8)


def draw(process, obs, options: GuidedOptions, *, frames=5, members=128, background=None, **model):
    return assimilate(
        options.rule, emulator(process, frames, **model), obs, obs.conditions(),
        members=members, seed=0, background=background, options=options,
    )  # fmt: skip


def laws(process, obs, **settings) -> list[Law]:
    return [sequential(process, obs, case, frames=5, **settings) for case in range(obs.num_cases)]


@pytest.mark.parametrize(
    "process, overlap", [(chain(0.8, points=2), 1), (chain(1.6, -0.8, points=2), 2), (tracer(4), 1)]
)
def test_without_observations_windows_sample_the_law_of_the_chain_when_the_overlap_covers_its_order(process, overlap):
    """Lagged covariances across three seams, from 4000 draws; an AR(2) chain continued from one state alone forgets its velocity."""
    obs = observed(process, 14, fraction=1.0)
    for shared in {overlap, 1}:
        options = replace(EXACT, observed="none", overlap=shared)
        x = (draw(process, obs, options, members=4000 // process.points) - MEAN) / STD
        series = x.flatten(0, 1).flatten(1)
        found = series.T @ series / len(series)
        exact = process.covariance(14)
        # standard error of a covariance of Gaussians; the largest of some hundred of them
        error = ((exact.diagonal()[:, None] * exact.diagonal() + exact**2) / len(series)).sqrt()
        off = ((found - exact).abs() / error).max().item()
        assert off < 5 if shared >= overlap else off > 10, (shared, off)


@pytest.mark.parametrize("process, overlap", [(CHAIN, 1), (chain(1.6, -0.8), 2), (tracer(4), 1)])
@pytest.mark.parametrize("kind", ["universal", "joint"])
def test_windows_given_observations_have_their_exact_sequential_law(process, overlap, kind):
    """Each window exactly given the sample of its overlap and its own observations; for joint models the overlap is drawn again."""
    obs = observed(process, 12)
    found = draw(process, obs, EXACT, kind=kind, overlap=overlap)
    right = misfit(found, laws(process, obs, overlap=overlap, resampled=kind == "joint"))
    assert right.error < 0.15 and 0.94 < right.ratio < 1.06, right  # 0.09 is chance
    whole = misfit(found, [smoother(process, obs, case) for case in range(2)])
    assert whole.error > 1.4 * right.error, "and not that of the smoother, which knows later observations"


def test_previous_states_by_guidance_make_a_universal_model_a_joint_one():
    obs = observed(CHAIN, 12)
    options = replace(EXACT, previous="guidance", std=0.2)
    made = draw(CHAIN, obs, options)
    found = misfit(made, laws(CHAIN, obs, overlap=1, resampled=True, told_std=0.2))
    assert found.error < 0.15 and 0.94 < found.ratio < 1.06, found
    joint = draw(CHAIN, obs, replace(EXACT, std=0.2), kind="joint")
    torch.testing.assert_close(made, joint, rtol=0, atol=1e-6)


def test_drawing_the_overlap_again_replaces_it_and_an_input_stays():
    """The first window alone decides frame 4 where it is input; by guidance with a large error the second window moves it."""
    obs = observed(CHAIN, 9)
    short = replace(obs, values=obs.values[:, :5])
    for kind, moved in (("universal", False), ("joint", True)):
        options = replace(EXACT, std=0.5)
        whole, first = (draw(CHAIN, one, options, kind=kind, members=8) for one in (obs, short))
        torch.testing.assert_close(whole[:, :, :4], first[:, :, :4], rtol=0, atol=1e-9)
        change = ((whole[:, :, 4] - first[:, :, 4]) / STD).square().mean().sqrt()
        assert change > 0.1 if moved else change == 0, kind


@pytest.mark.parametrize("kind, std", [("universal", None), ("joint", None), ("joint", 0.5)])
def test_observations_of_the_overlap_are_used_once(kind, std):
    """They were those of the window before; where the overlap is told with a large error, using them again would show."""
    obs = observed(CHAIN, 9, fraction=1.0, std=0.5)
    found = draw(CHAIN, obs, replace(EXACT, std=std), kind=kind, overlap=3)
    law = laws(CHAIN, obs, overlap=3, resampled=kind == "joint", told_std=std or 0.01)
    right = misfit(found, law)
    assert right.error < 0.15 and 0.94 < right.ratio < 1.06, right


class Recording(ExactWindow):
    """Tells when the windows are that it opens: the absolute times of their first frames."""

    def open(self, known, known_mask, conditions, lead_times):
        assert torch.equal(lead_times.diff(), torch.ones(self.frames - 1))
        self.times = getattr(self, "times", []) + [(conditions.time + lead_times[0]).tolist()]
        return super().open(known, known_mask, conditions, lead_times)


def test_windows_are_told_when_they_are():
    """Cases that begin at frames 0 and 30; the background is that of the first frame and the one before."""
    obs = replace(observed(CHAIN, 12), frames=torch.tensor([0, 30]))
    options = SDAOptions(num_steps=1, stride=4)
    start = torch.zeros(1, 2, 2, 1, 4, dtype=torch.float64)
    for rollout, background, expected in (
        ("all-at-once", None, [[0, 4, 7, 30, 34, 37]]),
        ("all-at-once", start, [[-1, 3, 7, 29, 33, 37]]),
        ("autoregressive", None, [[0, 30], [3, 33], [6, 36], [9, 39]]),
        ("autoregressive", start, [[-1, 29], [2, 32], [5, 35], [8, 38]]),
    ):
        made = Recording(CHAIN, 5, overlap=2, context=2)
        assimilate(
            "sda", Emulator(made, Affine()), obs, obs.conditions(), members=1, seed=0, background=background,
            options=replace(options, rollout=rollout),
        )  # fmt: skip
        assert made.times == expected, (rollout, made.times)
    made = Recording(CHAIN, 5)
    task = OnlineTask(4, 4)
    assimilate_online(
        "sda", Emulator(made, Affine()), obs, obs.conditions(), task=task, members=1, seed=0,
        options=replace(options, rollout="autoregressive"),
    )  # fmt: skip
    assert made.times == [[0, 30], [3, 33], [7, 37]]


def test_what_windows_lose_against_smoothers_and_that_a_long_overlap_loses_more():
    """Exact laws of an AR(1) chain of memory 0.95 with few observations: rms error of the mean over 12 truths.

    Fixed lag: all observations up to the end of the window. A window hears of those before it through one sampled state, which it does not
    correct, and so loses a little. With a longer overlap fewer new states see ahead, while the overlap learns nothing: that is worse, down
    to that of a filter. (Forecasts are another matter: there the overlap must cover the order of the chain.)
    """
    process, size, cases = chain(0.95), 25, 12
    truth = process.draw(cases, size, seed=0)
    obs = observed(process, size, cases=cases, std=0.3, fraction=0.15)
    square: dict[str, float] = {}
    for case in range(cases):
        fixed, filtered = torch.zeros(2, 4 * size, dtype=torch.float64)
        for frame in range(size):
            rows = slice(4 * frame, 4 * frame + 4)
            end = min(size, 5 + 4 * max(0, math.ceil((frame - 4) / 4)))
            fixed[rows] = smoother(process, obs, case, until=end).mean[rows]
            filtered[rows] = smoother(process, obs, case, until=frame + 1).mean[rows]
        means = {"smoother": smoother(process, obs, case).mean, "fixed lag": fixed, "filter": filtered}
        for n in (1, 3):
            means[f"overlap {n}"] = sequential(process, obs, case, frames=5, overlap=n, resampled=False).mean
        for name, mean in means.items():
            square[name] = square.get(name, 0.0) + (mean - truth[case].flatten()).square().mean().item() / cases
    error = {name: math.sqrt(value) for name, value in square.items()}
    order = ["smoother", "fixed lag", "overlap 1", "overlap 3", "filter"]
    assert sorted(error, key=error.__getitem__) == order, error
    assert error["overlap 1"] < 1.1 * error["fixed lag"], error


def test_forecasts_all_at_once_forget_the_start_and_windows_do_not():
    """AR(1) of memory 0.95 given one state: what is left of the exact mean, by lead, and the ratio of spreads.

    Windows of 5: 1.0 at any lead. All at once: 0.6 after four steps and nothing after eight, though the spread is right: members are
    plausible series that do not belong to the start. 8 corrections in each step, for nine times the cost, help up to a few leads.
    """
    process = chain(0.95)
    obs = observed(process, 20, complete=1, fraction=0.0, std=1e-3)
    exact = [smoother(process, obs, case) for case in range(2)]
    mean = torch.stack([law.mean for law in exact]).reshape(2, 20, 1, 4)
    left = {}
    for name, options in (
        ("windows", replace(EXACT, num_steps=16, given=1)),
        ("at once", replace(EXACT, num_steps=16, given=1, rollout="all-at-once", stride=1)),
        ("corrected", MMPSOptions(iterations=6, num_steps=24, given=1, corrections=8, stride=1)),
    ):
        x = (draw(process, obs, options, kind="joint") - MEAN) / STD
        left[name] = ((x.mean(dim=0) * mean).sum(dim=(0, 2, 3)) / mean.square().sum(dim=(0, 2, 3)))[[1, 4, 12]]
        assert x.std(dim=0)[:, -1].mean() == pytest.approx(exact[0].std[-4:].mean().item(), rel=0.15)
    assert (left["windows"] - 1).abs().max() < 0.12
    assert left["at once"][1] < 0.75 and left["at once"][2].abs() < 0.15
    assert left["at once"][1] + 0.05 < left["corrected"][1] < 0.85


def model(config) -> Emulator:
    return Emulator(WindowDiffusion(config, ModelShape(1, (True,))).double(), Affine())


def passes_of(config, num_times, options, **observing) -> tuple[float, float]:
    """Forward and backward passes per member and case, of an untrained network."""
    obs = observed(CHAIN, 16, **observing)
    values = obs.values.repeat(1, math.ceil(num_times / 16), 1, 1)[:, :num_times]
    obs = replace(obs, values=values)
    with count_passes() as passes:
        assimilate(options.rule, model(config), obs, obs.conditions(), members=2, seed=0, options=options)
    return passes.forward / 4, passes.backward / 4


WINDOW = {"network": TINY, "frames": 9}


@pytest.mark.parametrize("new, context, num_times", [(8, 1, 41), (1, 8, 13), (4, 5, 20), (6, 3, 9)])
def test_costs_are_those_of_the_published_table(new, context, num_times):
    """1 + ceil((L - W) / P) windows of N evaluations; guidance goes back once through each. Ours end without a further denoise call."""
    windows = 1 + math.ceil((num_times - 9) / new)
    joint = JointConfig(**WINDOW, overlap=context)
    options = SDAOptions(num_steps=3, gamma=0.03, rollout="autoregressive")
    assert passes_of(joint, num_times, options) == (3 * windows, 3 * windows)
    universal = UniversalConfig(**WINDOW, overlap=context)
    assert passes_of(universal, num_times, options) == (3 * windows, 3 * windows)
    forecast = replace(options, given=context, observed="none")
    assert passes_of(universal, num_times, forecast, complete=context) == (3 * windows, 0)
    assert passes_of(joint, num_times, forecast, complete=context) == (3 * windows, 3 * windows)
    assert passes_of(universal, num_times, replace(options, jacobian=False)) == (3 * windows, 0)
    assert passes_of(joint, num_times, replace(options, gamma="auto")) == (3 * windows, 6 * windows)


def test_the_published_example_of_640_states_costs_80_windows_of_16_steps():
    options = SDAOptions(num_steps=16, rollout="autoregressive", given=1, observed="none")
    found = passes_of(UniversalConfig(**WINDOW, overlap=1), 640, options, complete=1)
    assert found == (80 * 16, 0)


@pytest.mark.parametrize("corrections", [0, 1, 2])
def test_all_at_once_costs_every_window_at_every_evaluation(corrections):
    """L - W + 1 windows; N steps with c corrections are N + (N - 1) c evaluations, for none follow the last step."""
    options = SDAOptions(num_steps=4, gamma=0.03, corrections=corrections, stride=1)
    evaluations = 4 + 3 * corrections
    found = passes_of(JointConfig(**WINDOW), 20, options)
    assert found == (12 * evaluations, 12 * evaluations)


@pytest.mark.parametrize("iterations", [1, 3])
def test_moment_matching_goes_back_once_more_than_it_iterates(iterations):
    forward, backward = passes_of(JointConfig(**WINDOW), 9, MMPSOptions(num_steps=3, iterations=iterations))
    assert forward == 3 and (backward == 6 if iterations == 1 else 6 <= backward <= 3 * (iterations + 1))


def test_amortised_models_begin_with_what_is_known_and_guide_the_rest():
    config = AmortisedConfig(**WINDOW, context=2, overlap=2)
    options = SDAOptions(num_steps=2, gamma=0.03, rollout="autoregressive")
    assert passes_of(config, 16, options, complete=2) == (4, 4)
    obs = observed(chain(0.8), 16)
    settings = {"members": 2, "seed": 0}
    start = torch.zeros(2, 2, 2, 1, 4, dtype=torch.float64)
    analysis = assimilate(
        "sda", model(config), obs, obs.conditions(), background=start, options=options, **settings
    )  # of frames -1 and 0
    assert torch.equal(analysis[:, :, 0], start[:, :, 1])
    for changes, words in (
        (
            {},
            r"amortised model cannot start with nothing known: pass a background \(--background\), or observe the first 2 frames",
        ),
        ({"given": 0}, "it continues 2 states, got given=0"),
        ({"rollout": "all-at-once"}, "use rollout=autoregressive"),
        ({"previous": "guidance"}, "use rollout=autoregressive and previous=input"),
        ({"overlap": 3}, "amortised model shares exactly 2 states, got overlap=3"),
    ):
        observing = {} if words.startswith("amortised model cannot") else {"complete": 2}
        obs = observed(chain(0.8), 16, **observing)
        with pytest.raises(InputError, match=words) as told:
            assimilate("sda", model(config), obs, obs.conditions(), options=replace(options, **changes), **settings)
        assert "\n" not in str(told.value)


def test_a_universal_model_that_never_knew_nothing_is_not_asked_so():
    obs = observed(chain(0.8), 16)
    config = UniversalConfig(**WINDOW, unconditional=0.0)
    with pytest.raises(InputError, match="trained with unconditional = 0 cannot start with nothing known"):
        assimilate("sda", model(config), obs, obs.conditions(), members=2, seed=0)


def test_noised_previous_states_are_put_in_by_the_sampler_and_stay():
    config = JointConfig(**WINDOW, conditioning="replacement")
    options = SDAOptions(num_steps=2, gamma=0.03, rollout="autoregressive", previous="input")
    assert passes_of(config, 17, options) == (4, 4)
