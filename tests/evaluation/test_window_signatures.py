"""Signatures of spread and of rollouts: sick ensembles that show one each, healthy ones that show none, and where windows come from.

Truth and members are red noise in space that forgets slowly, from a common start: exchangeable, so the ensemble is perfect. The file says
that it was made of windows of six states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.api.shares import window_lengths
from eddycast.data import from_arrays
from eddycast.data.dataset import Segment
from eddycast.evaluation import Scores, evaluate
from eddycast.evaluation.windows import at_ends_and_inside, window_of_leads
from eddycast.grid import Grid, periodic_axis

CASES, MEMBERS, LEADS, POINTS, TRAIN, WINDOW = 12, 8, 24, 32, 30, 6
GRID = Grid((periodic_axis("x", POINTS, 22.0),))
MODES = torch.arange(POINTS // 2 + 1)
AMPLITUDE = torch.where((MODES > 0) & (MODES < 12), 1 / (1 + (MODES / 6) ** 2), 0.0)
KEPT = 0.99  # correlation of one frame with the next
NUMBER = torch.arange(1, LEADS + 1)
OWN = (NUMBER - 1) // WINDOW  # window of each lead
PLACE = (NUMBER - 1) % WINDOW  # 0 ... 5 within it


def red(*shape, generator):
    modes = torch.complex(*(torch.randn(*shape, POINTS // 2 + 1, generator=generator) for _ in "ri")) * AMPLITUDE
    field = torch.fft.irfft(modes, n=POINTS, norm="ortho")
    return field / AMPLITUDE.square().sum().mul(4 / POINTS).sqrt()


def perfect(seed, cases=CASES):
    """Truth (trajectory, frame, x), of which the first are verified and the rest is for training; members (init, member, lead, x)."""
    generator = torch.Generator().manual_seed(seed)
    states = [red(cases + TRAIN, 1, generator=generator).repeat(1, MEMBERS + 1, 1)]
    for _ in range(LEADS):
        kick = red(cases + TRAIN, MEMBERS + 1, generator=generator)
        states.append(KEPT * states[-1] + math.sqrt(1 - KEPT**2) * kick)
    paths = torch.stack(states, dim=2)
    return paths[:, 0], paths[:cases, 1:, 1:]


def scored(truth, members, **attributes):
    train = tuple(Segment(one, 0, LEADS + 1) for one in range(len(members), len(truth)))
    data = from_arrays(truth[:, :, None], fields=["u"], grid=GRID, dt=0.5, splits={"train": train})
    coordinates = {
        "trajectory": ("init", np.arange(len(members))),
        "frame": ("init", np.zeros(len(members), dtype=int)),
        "lead_time": ("lead_time", 0.5 * np.arange(1, LEADS + 1), {"units": "s", "step": 0.5}),
    }
    forecast = xr.Dataset({"u": (("init", "member", "lead_time", "x"), members.numpy())}, coordinates)
    attributes = {"eddycast_kind": "forecast", "eddycast_window": WINDOW} | attributes
    return evaluate(forecast.assign_attrs(attributes), data, resamples=60)


@pytest.fixture(scope="module")
def sound():
    return perfect(0)


def spread_by(members, factor):
    """Deviations from the mean of the members, times a factor of each lead."""
    mean = members.mean(dim=1, keepdim=True)
    return mean + factor[:, None] * (members - mean)


def shared_error(members, size, seed=5):
    """An error that all members have: one pattern per case, of the size of each lead."""
    return members + size[:, None] * red(len(members), 1, 1, generator=torch.Generator().manual_seed(seed))


def better_at_the_end(members):
    """The last lead of each window is nearer to the truth by a third, and the members know it."""
    truth = perfect(0)[0][:CASES, None, 1:]
    return truth + torch.where(PLACE == 5, 2 / 3, 1.0)[:, None] * (members - truth)


def restarted(members):
    """Each member is thrown to one side or the other with each window: at once, and for as long as the window lasts."""
    generator = torch.Generator().manual_seed(6)
    thrown = 0.25 * red(len(members), MEMBERS, 1 + int(OWN[-1]), generator=generator)
    return members + thrown[:, :, OWN]


def drifting(members):
    """An error of all members that doubles with each window; the members do not know of it."""
    return shared_error(members, 0.055 * 2.0 ** (NUMBER / WINDOW))


SICK = {
    "too little": (lambda e: spread_by(e, torch.full((LEADS,), 0.5)), "under-dispersion", "spread/skill is 0.4"),
    "too much": (lambda e: spread_by(e, torch.full((LEADS,), 1.6)), "over-dispersion", "spread/skill is 1."),
    "too late": (
        lambda e: spread_by(e, torch.where(NUMBER <= 5, 0.35, 1.0)), "late spread", "up to 2.5 s: at first spread/skill is 0.3",
    ),
    "error after the seam": (
        lambda e: shared_error(e, 0.5 * (1 - PLACE / 6) * (OWN > 0)), "window jumps", "first of the next the error rises by",
    ),
    "error at the end": (
        lambda e: better_at_the_end(e), "window jumps", "falls by 3",
    ),
    "spread after the seam": (
        lambda e: spread_by(e, 1 + 0.25 * (1 - PLACE / 5)), "window jumps", "first of the next the spread rises by 30 %",
    ),
    "members jump": (restarted, "window jumps", "members move"),
    "errors compound": (drifting, "compounding", "from window"),
}  # fmt: skip


@pytest.mark.parametrize("name", SICK)
def test_a_failure_is_named_and_nothing_else(name, sound, tmp_path):
    truth, members = sound
    change, expected, words = SICK[name]
    scores = scored(truth, change(members))
    assert [one.name for one in scores.signatures] == [expected], [one.sentence for one in scores.signatures]
    (one,) = scores.signatures
    assert words in one.sentence, one.sentence
    assert one.sentence.startswith(expected.capitalize()) and one.sentence.endswith(".") and "; try " in one.sentence
    assert one.sentence in scores.diagnosis()
    assert Scores.from_json(scores.to_json(tmp_path / "s.json")).signatures == scores.signatures
    if expected in ("window jumps", "compounding"):  # who does not know of windows cannot tell
        others = scored(truth, change(members), eddycast_window=0).signatures
        assert expected not in [other.name for other in others]
        assert "every 3 s" in one.sentence or expected == "compounding"


def test_a_healthy_rollout_shows_nothing(sound):
    truth, members = sound
    scores = scored(truth, members)
    assert scores.signatures == []
    for name in ("compounding", "window jumps", "under-dispersion", "over-dispersion", "late spread"):
        assert name in scores.table()


@pytest.mark.parametrize("cases, draws, most", [(12, 12, 0), (3, 12, 1)])
def test_reliable_rollouts_are_hardly_ever_accused(cases, draws, most):
    alarms = []
    for seed in range(draws):
        alarms += [
            one.name for one in scored(*perfect(100 + seed, cases), eddycast_window=4 + 4 * (seed % 2)).signatures[:1]
        ]
    assert len(alarms) <= most, alarms


def test_the_spread_at_the_ends_of_windows_is_told_apart(sound):
    truth, members = sound
    ends = spread_by(members, torch.where(PLACE == 5, 0.3, 0.6))
    scores = scored(truth, ends)
    last, inside = at_ends_and_inside(scores, "u")
    assert last / inside == pytest.approx(0.5, abs=0.1)
    told = next(one for one in scores.signatures if one.name == "under-dispersion")
    assert f", {last:.2f} at the ends of windows and {inside:.2f} inside" in told.sentence
    mild = scored(truth, spread_by(members, torch.where(PLACE == 5, 0.7, 0.85)))
    assert any("Under-dispersed" in words and "at the ends of windows" in words for words in mild.diagnosis())
    assert at_ends_and_inside(scored(truth, members, eddycast_window=0), "u") is None


def test_windows_are_counted_in_frames_of_the_truth_and_the_first_may_be_longer(sound):
    truth, members = sound
    scores = scored(truth, members, eddycast_window=6, eddycast_first_window=8)
    np.testing.assert_array_equal(window_of_leads(scores), np.repeat([0, 1, 2, 3], [8, 6, 6, 4]))
    np.testing.assert_array_equal(window_of_leads(scored(truth, members)), OWN)
    coarse = members[:, :, 1::2]
    coordinates = {
        "trajectory": ("init", np.arange(CASES)),
        "lead_time": ("lead_time", 1.0 * np.arange(1, 1 + LEADS // 2), {"units": "s", "step": 1.0}),
    }
    forecast = xr.Dataset({"u": (("init", "member", "lead_time", "x"), coarse.numpy())}, coordinates)
    data = from_arrays(truth[:, :, None], fields=["u"], grid=GRID, dt=0.5, time_units="s")
    strided = evaluate(forecast.assign_attrs(eddycast_window=3), data, resamples=10)
    assert strided.attributes["window"] == 6
    np.testing.assert_array_equal(window_of_leads(strided), OWN[1::2])
    assert window_of_leads(scored(truth, members, eddycast_window="x")) is None
    assert window_of_leads(scored(truth, members, eddycast_window=LEADS)) is None


@dataclass
class Shape:
    window: int | None
    context: int
    overlap: int


@pytest.mark.parametrize(
    "shape, expected",
    [
        (Shape(17, 1, 1), {"eddycast_window": 16}),
        (Shape(10, 1, 4), {"eddycast_window": 6, "eddycast_first_window": 9}),
        (Shape(None, 1, 1), {}),
    ],
)
def test_a_forecast_says_what_its_windows_were(shape, expected):
    @dataclass
    class Holder:
        model: Shape

    assert window_lengths(Holder(shape)) == expected
