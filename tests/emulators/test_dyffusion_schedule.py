"""Times of the steps: sizes, ends, and the sub-schedules against lists made by hand."""

from __future__ import annotations

import pytest
import torch
from dyffusion_models import one_line
from exact_models import addresses, conditions, normal

from eddycast.emulators import DYffusionConfig, rollout
from eddycast.emulators.dyffusion.schedule import check_times, index_of, sampling_times, training_times

KINDS = ("base", "before-first", "linear", "linear-after-first")
RULES = ("all", "dynamics", "dynamics+2", "dynamics+3-trained", "every-2", "every-3", "first-2", "first-0.5")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [2, 3, 5, 16])
@pytest.mark.parametrize("extra", [1, 2, 5])
def test_sizes_and_ends_are_those_of_the_table(kind, horizon, extra):
    extra = 0 if kind == "base" else extra
    times = training_times(horizon, kind, extra)
    size = {
        "base": horizon,
        "before-first": horizon + extra,
        "linear": horizon + extra * (horizon - 1),
        "linear-after-first": horizon + extra * (horizon - 2),
    }[kind]
    assert len(times) == len(set(times)) == size and list(times) == sorted(times)
    assert times[0] == 0 and times[-1] == horizon - 1
    assert set(map(float, range(horizon))) <= set(times), "whole times are whole to the last bit"
    assert check_times(times, horizon) == times


@pytest.mark.parametrize(
    ("kind", "exact"),
    [
        ("base", [0, 1, 2, 3, 4]),
        ("before-first", [0, 1 / 3, 2 / 3, 1, 2, 3, 4]),
        ("linear", [n / 3 for n in range(13)]),
        ("linear-after-first", [0, *[1 + n / 3 for n in range(10)]]),
    ],
)
def test_times_of_five_steps_with_two_extra(kind, exact):
    """`before-first` is the published example; n / (f + 1) and (n + f) / (f + 1) are the published formulas of the others."""
    assert training_times(5, kind, 2 if kind != "base" else 0) == pytest.approx(exact, abs=1e-14)


def test_published_sizes():
    assert [len(training_times(7, "before-first", extra)) for extra in (25, 28)] == [32, 35]
    assert (len(training_times(16)), len(training_times(134))) == (16, 134)


FIRST = training_times(4, "before-first", 4)
"""0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3"""


@pytest.mark.parametrize(
    ("rule", "times", "exact"),
    [
        ("all", FIRST, [0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3]),
        ("dynamics", FIRST, [0, 1, 2, 3]),
        ("every-1", FIRST, [0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3]),
        ("every-2", FIRST, [0, 0.2, 0.6, 1, 2, 3]),
        ("every-3", FIRST, [0, 0.2, 0.8, 1, 2, 3]),
        ("every-9", FIRST, [0, 0.2, 1, 2, 3]),
        ("first-0", FIRST, [0, 1, 2, 3]),
        ("first-3", FIRST, [0, 0.2, 0.4, 0.6, 1, 2, 3]),
        ("first-99", FIRST, [0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3]),
        ("first-0.5", FIRST, [0, 0.2, 0.4, 1, 2, 3]),
        ("first-0.75", FIRST, [0, 0.2, 0.4, 0.6, 1, 2, 3]),
        ("dynamics+0", FIRST, [0, 1, 2, 3]),
        ("dynamics+2", FIRST, [0, 1 / 3, 2 / 3, 1, 2, 3]),
        ("dynamics+2-trained", FIRST, [0, 0.2, 0.6, 1, 2, 3]),
        ("dynamics+4-trained", FIRST, [0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3]),
        ("dynamics+9-trained", FIRST, [0, 0.2, 0.4, 0.6, 0.8, 1, 2, 3]),  # the first is nearest to 0, which is there
        ("dynamics+1", training_times(3), [0, 0.5, 1, 2]),
        ("dynamics+1-trained", training_times(3), [0, 1, 2]),
        ("every-2", training_times(3, "linear", 2), [0, 1 / 3, 1, 4 / 3, 2]),
        ("first-3", training_times(3, "linear", 2), [0, 1 / 3, 2 / 3, 1, 4 / 3, 2]),
        ("dynamics", (0.0, 0.5, 2.0, 2.5, 6.0), [0, 2, 6]),
        ("dynamics+1", (0.0, 0.5, 2.0, 2.5, 6.0), [0, 1, 2, 6]),
    ],
)
def test_rules_choose_these_times(rule, times, exact):
    assert sampling_times(times, rule) == pytest.approx(exact, abs=1e-14)


@pytest.mark.parametrize("rule", ["every-0", "every", "first-1.5", "dynamics+", "dynamics-2", "most", "", "all "])
def test_rules_that_say_nothing_are_refused(rule):
    with pytest.raises(ValueError, match=r"must be one of all, .*got"):
        sampling_times(FIRST, rule)


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ((), "start at 0 and ascend"),
        ((0.5, 1.0), "start at 0 and ascend"),
        ((0.0, 2.0, 1.0), "start at 0 and ascend"),
        ((0.0, 1.0, 1.0), "start at 0 and ascend"),
        ((0.0, float("nan"), 1.0), "start at 0 and ascend"),
        ((0.0, 4.0), "stay below the horizon 4"),
    ],
)
def test_bad_times_are_refused(times, words):
    with pytest.raises(ValueError, match=words):
        check_times(times, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"horizon": 1}, "at least 2"),
        ({"schedule": "linear"}, "needs extra >= 1"),
        ({"extra": 2}, "has no extra times"),
        ({"sampling": "some"}, "must be one of all"),
        ({"told": "index", "sampling": "dynamics+3"}, "only its own times"),
        ({"told": "index", "sampler": "rk4"}, "only its own times"),
        ({"times": (0.0,)}, "at least two times"),
        ({"sampler": "euler"}, "one of naive, cold"),
        ({"lookahead": 1.5}, "lookahead must lie"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        config = DYffusionConfig(**settings)
        assert config.trained and config.visited  # times are made when they are asked for


def test_steps_between_steps_are_linear():
    times = (0.0, 0.5, 2.0, 3.0)
    model = one_line(times=times)
    at = [0.0, 0.25, 0.5, 1.25, 2.0, 2.5, 3.0]
    exact = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [index_of(time, times) for time in at] == exact
    assert model._index(torch.tensor(at)).tolist() == exact


SCHEDULES = {
    "base": {},
    "before-first": {"schedule": "before-first", "extra": 3},
    "linear": {"schedule": "linear", "extra": 2},
    "linear-after-first": {"schedule": "linear-after-first", "extra": 2},
    "explicit": {"times": (0.0, 0.1, 0.5, 1.0, 1.75, 3.5)},
}


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_and_rule_gives_the_leads_once_each(name, rule, refine):
    """Asked by the rollout for 1 ... h: that many states, the last one the forecaster's, none a copy of another."""
    model = one_line(sampling=rule, refine=refine, **SCHEDULES[name])
    x = normal(3, 1, 1, 5)
    (filled,) = rollout(model, x, conditions(3), torch.arange(1, 5), noise=addresses(3))
    assert filled[0].tolist() == [0, 1, 2, 3]
    states = filled[1]
    assert states.shape == (3, 4, 1, 5) and states.isfinite().all()
    path = model.sample(x[:, 0], conditions(3), noise=addresses(3))
    assert torch.equal(states[:, 3], path.end)
    distances = (states[:, :, None] - states[:, None]).abs().amax(dim=(0, 3, 4)) + torch.eye(4)
    assert distances.min() > 1e-4
    if not refine:
        for time, state in zip(path.times, path.states, strict=True):
            if time in (1.0, 2.0, 3.0):
                assert torch.equal(states[:, int(time) - 1], state), "where the sampler stood"


@pytest.mark.parametrize(
    "settings",
    [{"sampling": "every-0"}, {"sampling": "dynamics+x"}, {"sampling_times": (0, 4, 1)}, {"sampling_times": (1, 4)}],
)
def test_settings_of_a_forecast_are_checked_when_they_are_given(settings):
    with pytest.raises(ValueError, match=r"sampling must|times must"):
        DYffusionConfig(**settings)
