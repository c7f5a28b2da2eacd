"""Failure signatures: synthetic ensembles that show exactly one each, and reliable ones that show none.

Truth and members are red noise in space and time from a common start: exchangeable, so the ensemble is perfect, and each
failure is done to it by hand.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.assimilation import METHODS
from eddycast.data import from_arrays
from eddycast.data.dataset import Segment
from eddycast.evaluation import Scores, evaluate
from eddycast.evaluation.signatures import ANALYSIS, FORECAST, UNGUIDED
from eddycast.grid import Grid, periodic_axis

CASES, MEMBERS, LEADS, POINTS, TRAIN = 12, 8, 15, 32, 20
GRID = Grid((periodic_axis("x", POINTS, 22.0),))
MODES = torch.arange(POINTS // 2 + 1)
AMPLITUDE = torch.where((MODES > 0) & (MODES < 12), 1 / (1 + (MODES / 3) ** 2), 0.0)
PERSISTENCE = 0.7  # correlation of one frame with the next


def red(*shape, generator):
    """Real fields with a power that falls as k^-4 beyond mode 3 and ends at mode 11."""
    modes = torch.complex(*(torch.randn(*shape, POINTS // 2 + 1, generator=generator) for _ in "ri")) * AMPLITUDE
    return torch.fft.irfft(modes, n=POINTS, norm="ortho")


def perfect(seed, cases=CASES):
    """Truth (trajectory, frame, x), of which the first are verified and the rest is for training; members (init, member, lead, x)."""
    generator = torch.Generator().manual_seed(seed)
    states = [red(cases + TRAIN, 1, generator=generator).repeat(1, MEMBERS + 1, 1)]
    for _ in range(LEADS):
        kick = red(cases + TRAIN, MEMBERS + 1, generator=generator)
        states.append(PERSISTENCE * states[-1] + math.sqrt(1 - PERSISTENCE**2) * kick)
    paths = torch.stack(states, dim=2)
    return paths[:, 0], paths[:cases, 1:, 1:]


def scored(truth, members, *, kind="forecast", splits=True, **attributes):
    cases, first = len(members), 0 if kind == "analysis" else 1
    train = tuple(Segment(one, 0, LEADS + 1) for one in range(cases, len(truth)))
    data = from_arrays(truth[:, :, None], fields=["u"], grid=GRID, dt=0.5, splits={"train": train} if splits else None)
    coordinates = {
        "trajectory": ("init", np.arange(cases)),
        "frame": ("init", np.full(cases, 1 - first)),
        "lead_time": ("lead_time", 0.5 * (np.arange(LEADS) + first), {"units": "s", "step": 0.5}),
    }
    forecast = xr.Dataset({"u": (("init", "member", "lead_time", "x"), members.numpy())}, coordinates)
    return evaluate(forecast.assign_attrs(eddycast_kind=kind, **attributes), data, resamples=60)


@pytest.fixture(scope="module")
def sound():
    return perfect(0)


def growth(factor):
    return torch.linspace(1.0, factor, LEADS)[:, None]


def smoothed(members):
    modes = torch.fft.rfft(members)
    modes[..., 4:] *= 0.4
    return torch.fft.irfft(modes, n=POINTS)


def roughened(members):
    return members + 1.2 * red_small(members.shape)


def red_small(shape):
    modes = torch.fft.rfft(torch.randn(shape, generator=torch.Generator().manual_seed(5)))
    modes[..., :8], modes[..., 12:] = 0, 0
    return torch.fft.irfft(modes, n=POINTS)


def collapsed(truth, members):
    mean = members[:, :1]
    return mean + 0.05 * (members - mean)


def late(members):
    """The members as they were up to lead 5, then standing still."""
    still = members.clone()
    still[:, :, 5:] = still[:, :, 4:5]
    return still


def thrown(members):
    bad = members.clone()
    bad[3, 2, 8:] = math.nan
    return bad


FAILURES = {
    "identical members": (lambda y, e: e[:, :1].expand_as(e), "mode collapse", "no spread at all"),
    "some are copies": (lambda y, e: e[:, [0, 1, 2, 3, 4, 5, 5, 5]], "mode collapse", "2 of 8 members are copies"),
    "members alike": (collapsed, "mode collapse", "spread/skill is 0.0"),
    "amplitude grows": (lambda y, e: growth(1.7) * e, "error growth", "times as much as the truth"),
    "mean drifts": (lambda y, e: e + (growth(2.5) - 1) * e.std(), "error growth", "in u from"),
    "worse than random": (lambda y, e: 0.98 * e - 0.75 * y[:CASES, None, 1:], "error growth", "random state"),
    "blows up": (lambda y, e: thrown(e), "error growth", "1 of 96 members"),
    "stands still": (lambda y, e: late(e), "frozen forecast", "from 3 s on"),
    "amplitude fades": (lambda y, e: growth(0.4) * e, "regression to climatology", "times as much as the truth"),
    "loses small scales": (lambda y, e: smoothed(e), "regression to climatology", "small scales hold only 0.1"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_named_and_nothing_else(name, sound, tmp_path):
    truth, members = sound
    change, expected, words = FAILURES[name]
    scores = scored(truth, change(truth, members))
    assert [one.name for one in scores.signatures] == [expected]
    (one,) = scores.signatures
    assert words in one.sentence
    assert expected in one.sentence.lower()
    assert "; " in one.sentence and one.sentence.endswith(".") and "\n" not in one.sentence
    assert one.sentence in scores.diagnosis()
    assert f"Failure: {one.sentence}" in scores.table()
    assert Scores.from_json(scores.to_json(tmp_path / "s.json")).signatures == scores.signatures


def seen(truth, members):
    """An analysis: members near the truth, with an error that they know of."""
    return (
        truth[: len(members), None, :LEADS] + 0.3 * (members - members.mean(dim=1, keepdim=True)) + 0.1 * members[:, :1]
    )


def strange(truth, members):
    """The states of other trajectories, somewhat exaggerated."""
    return 1.2 * truth[CASES : 2 * CASES, None, :LEADS] + 0.5 * members


ANALYSES = {
    "worse than none": (lambda y, e: strange(y, e), {}, "guidance instability", "worse than without"),
    "rough": (lambda y, e: roughened(seen(y, e)), {}, "guidance instability", "small scales hold"),
    "leaves the range": (lambda y, e: seen(y, thrown(e)), {}, "guidance instability", "Blows up"),
    "misses what it saw": (
        lambda y, e: seen(y, e), {"eddycast_observed_departure_rms": 9.0}, "guidance instability", "9 deviations of their noise",
    ),
    "a filter diverges": (
        lambda y, e: strange(y, e), {"eddycast_method": "etkf"}, "analysis divergence", "inflation",
    ),
    "agrees on a mistake": (
        lambda y, e: y[:CASES, None, :LEADS] + 0.5 * e[:, :1] + 0.02 * e, {}, "mode collapse", "larger gamma",
    ),
    "stands still": (lambda y, e: y[:CASES, None, :1] + 0 * e + 0.7 * e[:, :, :1], {}, "frozen analysis", "window by window"),
    "is smooth": (lambda y, e: smoothed(seen(y, e)), {}, "regression to climatology", "small scales hold only"),
}  # fmt: skip


@pytest.mark.parametrize("name", ANALYSES)
def test_failures_of_an_analysis(name, sound):
    truth, members = sound
    change, attributes, expected, words = ANALYSES[name]
    scores = scored(truth, change(truth, members), kind="analysis", **attributes)
    assert [one.name for one in scores.signatures] == [expected], scores.signatures
    assert words in scores.signatures[0].sentence


def test_a_healthy_ensemble_shows_nothing(sound):
    truth, members = sound
    for kind, made, names in (("forecast", members, FORECAST), ("analysis", seen(truth, members), ANALYSIS)):
        scores = scored(truth, made, kind=kind, eddycast_observed_departure_rms=1.1)
        assert scores.signatures == []
        assert f"No failure signature ({', '.join(names)})." in scores.table()


def test_one_member_and_a_constant_truth_are_no_failures(sound):
    truth, members = sound
    assert scored(truth, members[:, :1]).signatures == []
    still = torch.full_like(truth, 3.0)
    assert scored(still, torch.full_like(members, 3.0)).signatures == []


@pytest.mark.parametrize("cases, draws, most", [(12, 24, 0), (3, 24, 1)])
def test_reliable_ensembles_are_hardly_ever_accused(cases, draws, most):
    """Draws of perfect ensembles, and the prior itself as an analysis of nothing: false alarms are counted."""
    alarms = 0
    for seed in range(draws):
        truth, members = perfect(100 + seed, cases)
        alarms += bool(scored(truth, members, kind="forecast" if seed % 2 else "analysis").signatures)
    assert alarms <= most


def test_identical_members_that_are_right_have_not_collapsed(sound):
    """The solver as oracle: no spread and hardly an error."""
    truth, members = sound
    oracle = truth[:CASES, None, 1:] + 0.01 * members[:, :1].expand_as(members)
    scores = scored(truth, oracle)
    assert scores.signatures == []
    assert any("no spread at all" in sentence for sentence in scores.diagnosis())


def test_a_blow_up_says_when_and_what_to_do(sound):
    truth, members = sound
    text = " ".join(scored(truth, thrown(members)).diagnosis())
    assert "Error growth. Blows up: 1 of 96 members" in text
    assert "first at 4.5 s" in text


def test_rates_of_change_are_means_of_absolute_differences(sound):
    truth, members = sound
    data = scored(truth, members).data.sel(field="u")
    steps = (members[:, :, 1:] - members[:, :, :-1]).abs().double().mean(dim=(0, 1, 3))
    np.testing.assert_allclose(data["change_member"].values[1:], steps, rtol=1e-6)
    steps = (truth[:CASES, 2:] - truth[:CASES, 1:-1]).abs().double().mean(dim=(0, 2))
    np.testing.assert_allclose(data["change_truth"].values[1:], steps, rtol=1e-6)
    assert np.isnan(data["change_member"].values[0])
    frames = truth[CASES:].double()
    mean = frames.mean()  # of the training data, all of whose frames are read up to 256
    ratio = ((members.double() - mean) ** 2).mean(dim=(0, 1, 3)) / ((truth[:CASES, 1:].double() - mean) ** 2).mean(
        dim=(0, 2)
    )
    np.testing.assert_allclose(data["amplitude_ratio"].values, ratio.sqrt(), rtol=1e-3)
    assert (data["amplitude_ratio_low"].values < data["amplitude_ratio"].values).all()


def test_methods_that_need_no_denoiser_cannot_suffer_from_guidance():
    assert {method.name for method in METHODS.values() if method.needs != "denoiser"} == set(UNGUIDED)
