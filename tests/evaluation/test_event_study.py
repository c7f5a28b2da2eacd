"""Event studies on ensembles whose events are laid down: probabilities, times, intervals, and the comparison with the solver's."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from eddycast.errors import InputError
from eddycast.evaluation import JetEvent, JetSettings, ThresholdEvent, event_study

LEADS = 60
Y = 2 * np.pi * np.arange(32) / 32


def ensemble(values: np.ndarray, *, trajectory=(3,), frame=(7,)) -> xr.Dataset:
    """(init, member, lead, y) as a forecast."""
    return xr.Dataset(
        {"u": (("init", "member", "lead_time", "y"), values.astype(np.float32))},
        {
            "trajectory": ("init", list(trajectory)),
            "frame": ("init", list(frame)),
            "lead_time": ("lead_time", 0.5 * np.arange(1, LEADS + 1), {"units": "1", "step": 0.5}),
            "y": ("y", Y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi}),
        },
        {"eddycast_kind": "forecast"},
    )


def stepping(times: np.ndarray, before: int, after: int) -> np.ndarray:
    """Profiles of `before` jets up to the lead number in `times`, (init, member), and of `after` from it on."""
    number = np.where(np.arange(1, LEADS + 1) >= times[..., None], after, before)
    return np.cos(number[..., None] * (Y + 0.3))


def drawn(scale: float, members: int, seed: int) -> np.ndarray:
    """Lead numbers from 2 on; many beyond the end."""
    return 2 + np.random.default_rng(seed).exponential(scale, (1, members)).astype(int)


@pytest.mark.parametrize(("change", "after"), [("nucleation", 4), ("coalescence", 2), ("change", 2)])
def test_the_probability_of_a_jet_event_is_the_share_of_members_by_each_lead(change, after):
    times = drawn(40, 200, 0)
    event = JetEvent(change, JetSettings(width=0.5, prominence=0.5, hold=3))
    study = event_study(ensemble(stepping(times, 3, after)), event=event)
    assert len(study.leads) == LEADS - 2  # a change in the last two leads is not known to last
    (case,) = study.cases
    expected = [(times <= lead).mean() for lead in range(1, LEADS - 1)]
    assert case.forecast.probability == pytest.approx(expected)
    assert case.trajectory == 3 and case.frame == 7 and case.truth is None
    for low, p, high, exact in zip(
        case.forecast.low, expected, case.forecast.high, case.forecast.exact_low, strict=True
    ):
        assert low <= p <= high and exact <= p
    ordered = np.sort(np.where(times[0] <= LEADS - 2, times[0] * 0.5, np.inf))
    assert case.forecast.times.median == ordered[99] and case.forecast.times.half == (ordered[49], ordered[149])
    other = {"nucleation": "coalescence", "coalescence": "nucleation", "change": "nucleation"}[change]
    none = event_study(ensemble(stepping(times, 3, after)), event=JetEvent(other, event.settings))
    assert max(none.cases[0].forecast.probability) == 0


def test_a_flicker_is_no_event():
    values = stepping(np.full((1, 20), 99), 3, 4)
    values[:, ::2, 20:23] = np.cos(4 * Y)  # three states
    for hold, expected in ((3, 0.5), (4, 0.0)):
        study = event_study(ensemble(values), event=JetEvent("change", JetSettings(0.5, 0.5, hold)))
        assert study.cases[0].forecast.probability[-1] == expected


def test_what_is_lost_has_no_event_and_no_change_leans_on_it():
    """A forecast that blows up has no jets from there on; that is not their merging. One that merged long before has its event."""
    times = np.array([[10] * 4 + [99] * 4 + [29] * 4])
    values = stepping(times, 3, 2)
    values[:, :, 30:] = np.nan  # lead number 31
    study = event_study(ensemble(values), event=JetEvent("coalescence", JetSettings(0.5, 0.5, 3)))
    probability = study.cases[0].forecast.probability
    assert probability[8:10] == [0, pytest.approx(1 / 3)]
    assert probability[-1] == pytest.approx(1 / 3)  # two states are no change that lasts


def test_both_ensembles_start_from_the_jets_of_the_solver():
    """Members that have a jet more than the solver at the first lead have made it on the way there."""
    made, known = (ensemble(stepping(np.full((1, 8), 99), jets, jets)) for jets in (4, 3))
    event = JetEvent("nucleation", JetSettings(0.5, 0.5, 3))
    (case,) = event_study(made, known, event=event).cases
    assert set(case.forecast.probability) == {1.0} and case.truth is not None and set(case.truth.probability) == {0.0}
    assert set(event_study(made, event=event).cases[0].forecast.probability) == {0.0}


def test_two_ensembles_of_one_law_agree_and_others_do_not():
    settings = JetSettings(0.5, 0.5, 3)
    make = lambda scale, members, seed: ensemble(stepping(drawn(scale, members, seed), 3, 2))  # noqa: E731
    alike = event_study(make(30, 300, 1), make(30, 200, 2), event=JetEvent("coalescence", settings)).cases[0]
    apart = event_study(make(30, 300, 1), make(80, 200, 3), event=JetEvent("coalescence", settings)).cases[0]
    assert alike.p_value > 0.05 and apart.p_value < 0.01
    assert alike.difference_low[-1] < 0 < alike.difference_high[-1]
    assert apart.difference_low[-1] > 0.1
    cut = [
        np.minimum(0.5 * drawn(scale, members, seed)[0], 0.5 * (LEADS - 2))
        for scale, members, seed in ((30, 300, 1), (80, 200, 3))
    ]
    assert apart.distance == pytest.approx(stats.wasserstein_distance(*cut), rel=1e-6)
    assert apart.distance > 3 * apart.distance_by_chance and alike.distance < 3 * alike.distance_by_chance


@pytest.mark.parametrize(
    ("measure", "above", "bound"), [("mean", True, 0.5), ("max", True, 1.5), ("min", False, -1.5), ("rms", True, 0.9)]
)
def test_bounds_are_passed_when_the_number_is(measure, above, bound):
    times = drawn(20, 50, 4)
    grown = (np.arange(1, LEADS + 1) >= times[..., None])[..., None]
    wave = np.cos(2 * Y)
    later = wave + 0.6 if measure == "mean" else 1.9 * wave if measure in ("max", "min") else 1.5 * wave
    study = event_study(ensemble(np.where(grown, later, wave)), event=ThresholdEvent(measure, bound, above))
    assert study.cases[0].forecast.probability == pytest.approx(
        [(times <= lead).mean() for lead in range(1, LEADS + 1)]
    )
    other = event_study(ensemble(np.where(grown, later, wave)), event=ThresholdEvent(measure, 9.0, True))
    assert max(other.cases[0].forecast.probability) == 0


def test_several_starts_are_matched_by_trajectory_and_frame_and_pooled():
    times = np.stack([drawn(20, 60, seed)[0] for seed in range(4)])
    own = ensemble(stepping(times, 3, 2), trajectory=(0, 1, 2, 3), frame=(5,) * 4)
    turned = ensemble(stepping(times[::-1], 3, 2), trajectory=(3, 2, 1, 0), frame=(5,) * 4)
    study = event_study(own, turned, event=JetEvent("change", JetSettings(0.5, 0.5, 1)))
    assert len(study.cases) == 4 and study.pooled is not None
    for case in study.cases:
        assert case.difference == pytest.approx([0.0] * LEADS) and case.distance == 0
    assert study.pooled.forecast == pytest.approx(
        np.mean([[(row <= lead).mean() for lead in range(1, LEADS + 1)] for row in times], axis=0)
    )
    assert study.pooled.difference_low == pytest.approx([0.0] * LEADS)
    told = study.table()
    assert "mean over 4 starts" in told and "trajectory 2, frame 5" in told
    assert json.loads(json.dumps(study.to_dict(), allow_nan=False))["cases"][0]["forecast"]["times"]["median"]
    with pytest.raises(InputError, match="share no start"):
        event_study(own, ensemble(stepping(times[:2], 3, 2), trajectory=(8, 9), frame=(0, 0)))


def test_trajectories_of_data_are_members_whose_first_state_is_the_start():
    times = drawn(30, 40, 6)
    states = np.concatenate([np.cos(3 * (Y + 0.3)) * np.ones((40, 1, 1)), stepping(times, 3, 2)[0]], axis=1)
    data = xr.Dataset(
        {"u": (("trajectory", "time", "y"), states)},
        {
            "time": 0.5 * np.arange(LEADS + 1),
            "y": ("y", Y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi}),
        },
    )
    study = event_study(ensemble(stepping(times, 3, 2)), data, event=JetEvent("change", JetSettings(0.5, 0.5, 2)))
    assert study.cases[0].distance == 0 and study.cases[0].truth.members == 40
    assert study.cases[0].forecast.probability == study.cases[0].truth.probability
    assert math.isfinite(study.cases[0].p_value)


def trajectories(first: np.ndarray) -> xr.Dataset:
    """First states (trajectory, y) as data, each followed by 80 states with two or three jets."""
    later = np.cos(np.where(np.arange(80) % 2, 2, 3)[:, None] * Y) * np.ones((len(first), 1, 1))
    return xr.Dataset(
        {"u": (("trajectory", "time", "y"), np.concatenate([first[:, None], later], axis=1))},
        {"time": 0.5 * np.arange(81), "y": ("y", Y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi})},
    )  # fmt: skip


def test_trajectories_that_start_from_different_states_are_no_ensemble():
    """Of four waves, two shifted by a phase d, each lies sin(d / 2) deviations from the mean; n / (n - 1) makes up for the mean."""
    for phase, refused in ((0.0, False), (0.8, False), (1.0, True), (np.pi, True)):  # 0, 0.45, 0.55 and 1.15
        data = trajectories(np.cos(3 * Y + phase * np.array([[0.0], [1.0], [0.0], [1.0]])))
        if refused:
            told = f"start {np.sqrt(4 / 3) * np.sin(phase / 2):.2f} standard deviations apart.*other seeds"
            with pytest.raises(InputError, match=told):
                event_study(data, event=ThresholdEvent("max", 9.0))
        else:
            assert event_study(data, event=ThresholdEvent("max", 9.0)).cases[0].forecast.members == 4
    own = ensemble(stepping(drawn(30, 8, 1), 3, 2))
    with pytest.raises(InputError, match="no ensemble from one state"):
        event_study(own, trajectories(np.cos(3 * Y + np.linspace(0, 6, 8)[:, None])))


def test_what_cannot_be_asked_is_told():
    many = ensemble(stepping(drawn(30, 10, 7), 3, 2))
    with pytest.raises(InputError, match="one member"):
        event_study(many.isel(member=slice(0, 1)))
    with pytest.raises(InputError, match="no measure 'median'"):
        event_study(many, event=ThresholdEvent("median", 1.0))
    with pytest.raises(InputError, match="hold"):
        event_study(many, event=JetEvent("change", JetSettings(0.5, 0.5, 61)))
    with pytest.raises(InputError, match="does not vary"):
        event_study(many * 0)
    walls = many.copy()
    walls["y"] = ("y", Y)
    with pytest.raises(InputError, match="periodic"):
        event_study(walls)
    flat = many.expand_dims(z=[0.0, 1.0, 2.0]).transpose("init", "member", "lead_time", "y", "z")
    with pytest.raises(InputError, match="one axis"):
        event_study(flat)
    later = many.assign_coords(lead_time=("lead_time", many["lead_time"].values + 5, many["lead_time"].attrs))
    with pytest.raises(InputError, match="begins at lead time"):
        event_study(many, later)
