"""Scores over horizons: averages by hand, intervals, fields that a score is not of, missing truth, files, wrong ranges."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import from_arrays
from eddycast.errors import InputError
from eddycast.evaluation import Scores, evaluate
from eddycast.grid import Grid, periodic_axis
from eddycast.metrics import SCORES, published_vrmse
from eddycast.report.whole import horizons_table

POINTS, LEADS, CASES, MEMBERS = 24, 10, 10, 6
GRID = Grid((periodic_axis("x", POINTS, 3.0),))
WEIGHTS = GRID.weights()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


STATES = normal(CASES, LEADS + 1, 2, POINTS, seed=1)
STATES[:, :, 0] = 2 + STATES[:, :, 0].abs()  # density: a mass; wind: not
DRAWS = normal(CASES, MEMBERS, LEADS, 2, POINTS, seed=2) * torch.linspace(0.5, 1.5, LEADS)[:, None, None]
DRAWS[:, :, :, 0] = 2 + DRAWS[:, :, :, 0].abs()


def make_truth(states=STATES, **options):
    options = {"grid": GRID, "dt": 0.5, **options}
    return from_arrays(states, fields=["density", "wind"], **options)


def make_forecast(draws=DRAWS, steps=None):
    steps = np.arange(1, draws.shape[2] + 1) if steps is None else np.asarray(steps)
    dims = ("init", "member", "lead_time", "x")
    return xr.Dataset(
        {name: (dims, draws[:, :, :, channel].numpy()) for channel, name in enumerate(("density", "wind"))},
        {
            "trajectory": ("init", np.arange(len(draws))),
            "frame": ("init", np.zeros(len(draws), dtype=int)),
            "lead_time": ("lead_time", 0.5 * steps, {"units": "1", "step": 0.5}),
        },
        {"eddycast_kind": "forecast"},
    )


@pytest.fixture(scope="module")
def scores():
    return evaluate(make_forecast(), make_truth(), horizons="1:3,4:10", resamples=200)


def test_both_averages_are_those_by_hand(scores):
    """Root mean square over cases and leads at once, against the mean of the frames' roots, of leads 4 to 10."""
    error = (DRAWS[:, 0, 3:10, 1] - STATES[:, 4:11, 1]).square().mean(dim=-1)
    pooled, _, _ = scores.horizon("rmse_member", "4:10", "wind")
    frames, _, _ = scores.horizon("rmse_member", "4:10", "wind", averaging="frames")
    assert pooled == pytest.approx(float(error.mean().sqrt()), rel=1e-5)
    assert frames == pytest.approx(float(error.sqrt().mean()), rel=1e-5)
    assert frames < pooled
    mean = DRAWS[:, :, 3:10, 0].double().mean(dim=1)
    published = published_vrmse(mean, STATES[:, 4:11, 0].double(), WEIGHTS).mean()
    for averaging in ("pooled", "frames"):
        value, low, high = scores.horizon("vrmse_published", "4:10", "density", averaging=averaging)
        assert value == pytest.approx(float(published), rel=1e-5)
        assert low < value < high


def test_the_ratio_of_spread_and_skill_is_pooled_or_of_frames(scores):
    draws, truth = DRAWS[:, :, :3, 1].double(), STATES[:, 1:4, 1].double()
    spread = (MEMBERS + 1) / MEMBERS * draws.var(dim=1).mean(dim=-1)
    skill = (draws.mean(dim=1) - truth).square().mean(dim=-1)
    assert scores.horizon("spread_skill", "1:3", "wind")[0] == pytest.approx(
        float((spread.mean() / skill.mean()).sqrt())
    )
    expected = float(((spread.sqrt() + 1e-3) / (skill.sqrt() + 1e-3)).mean())
    assert scores.horizon("spread_skill_published", "1:3", "wind")[0] == pytest.approx(expected)
    own = float((spread / skill).sqrt().mean())
    assert scores.horizon("spread_skill", "1:3", "wind", averaging="frames")[0] == pytest.approx(own)


def test_the_first_lead_is_told_apart_as_it_is_in_its_series(scores):
    assert scores.data["horizon"].values.tolist() == ["1", "1:3", "4:10"]
    assert scores.data["horizon_frames"].values.tolist() == [CASES, 3 * CASES, 7 * CASES]
    for name in ("rmse_mean", "crps", "spread_skill", "semd"):
        found = scores.horizon(name, "1", "density")
        assert found == pytest.approx([scores.series(name + end, "density")[0] for end in ("", "_low", "_high")])


def test_a_score_that_is_a_mean_of_frames_has_one_average(scores):
    data = scores.data["horizon_scores"].sel(field="wind")
    for name in ("crps", "vrmse_published", "mid_band_power_rmse", "correlation_mean", "wasserstein_values"):
        pooled, frames = (data.sel(score=name, averaging=way).values for way in ("pooled", "frames"))
        np.testing.assert_allclose(pooled, frames, rtol=1e-12)
        leads = scores.series(name, "wind")
        np.testing.assert_allclose(pooled, [leads[0], leads[:3].mean(), leads[3:].mean()], rtol=1e-12)


def test_the_mean_over_fields_takes_units_out_and_leaves_out_what_is_no_mass(scores):
    std = scores.data["climatology_std"]
    each = [scores.horizon("crps", "1:3", field)[0] / float(std.sel(field=field)) for field in scores.fields]
    assert scores.horizon("crps", "1:3")[0] == pytest.approx(np.mean(each))
    each = [scores.horizon("vrmse_member", "1:3", field)[0] for field in scores.fields]
    assert scores.horizon("vrmse_member", "1:3")[0] == pytest.approx(np.mean(each))
    assert math.isnan(scores.horizon("semd", "1:3", "wind")[0])
    assert scores.horizon("semd", "1:3")[0] == scores.horizon("semd", "1:3", "density")[0] > 0
    assert np.isnan(scores.series("semd", "wind")).all() and np.isfinite(scores.series("semd", "density")).all()
    winds = make_forecast()[["wind"]]
    assert "semd" not in evaluate(winds, make_truth(), resamples=10).attributes["scores"]
    asked = [one for one in SCORES if one.name in ("semd", "crps")]
    assert np.isnan(evaluate(winds, make_truth(), scores=asked, resamples=10).series("semd", "wind")).all()


def test_intervals_do_not_depend_on_what_else_is_scored(scores):
    alone = evaluate(
        make_forecast(),
        make_truth(),
        scores=[one for one in SCORES if one.name == "crps"],
        horizons=[(1, 3), (4, 10)],
        resamples=200,
    )
    assert alone.horizon("crps", "4:10") == scores.horizon("crps", "4:10")
    np.testing.assert_array_equal(alone.series("crps_low", "wind"), scores.series("crps_low", "wind"))


def test_intervals_cover_what_repeats_would_give(scores):
    """Cases are independent here: half an interval is about two standard errors of the mean over cases of each case's mean."""
    error = (DRAWS[:, :, 3:10, 1].double().mean(dim=1) - STATES[:, 4:11, 1].double()).abs().mean(dim=(1, 2))
    value, low, high = scores.horizon("mae_mean", "4:10", "wind")
    assert value == pytest.approx(float(error.mean()), rel=1e-6)
    assert (high - low) / 2 == pytest.approx(1.96 * float(error.std()) / math.sqrt(CASES), rel=0.25)


def test_leads_are_numbered_in_steps_of_the_data():
    """A forecast of every third step: 3, 6 and 9; lead 3 is the first, and 1:6 holds two."""
    strided = make_forecast(DRAWS[:, :, 2::3], steps=[3, 6, 9])
    every = evaluate(make_forecast(), make_truth(), resamples=10)
    found = evaluate(strided, make_truth(), horizons="1:6,7:9", resamples=10)
    assert found.data["horizon"].values.tolist() == ["3", "1:6", "7:9"]
    crps = every.series("crps", "wind")
    assert found.horizon("crps", "1:6", "wind")[0] == pytest.approx((crps[2] + crps[5]) / 2)
    assert found.horizon("crps", "7:9", "wind")[0] == pytest.approx(crps[8])
    for wrong, words in (("1:10", "3 to 9"), ("4:5", "holds no lead")):
        with pytest.raises(InputError, match=words):
            evaluate(strided, make_truth(), horizons=wrong)


def test_cases_whose_truth_ends_count_as_far_as_it_goes():
    short = [one[: (7 if number < 4 else LEADS + 1)] for number, one in enumerate(STATES)]
    found = evaluate(make_forecast(), make_truth(short), horizons="4:10", resamples=50)
    assert found.data["horizon_frames"].values.tolist() == [CASES, 4 * 3 + 6 * 7]
    error = (DRAWS[:, 0, 3:10, 1].double() - STATES[:, 4:11, 1].double()).square().mean(dim=-1)
    known = torch.tensor([[number >= 4 or lead < 3 for lead in range(7)] for number in range(CASES)])
    assert found.horizon("rmse_member", "4:10", "wind")[0] == pytest.approx(float(error[known].mean().sqrt()), rel=1e-6)


def test_a_blow_up_is_not_averaged_away():
    draws = DRAWS.clone()
    draws[3, 2, 6:] = math.nan
    found = evaluate(make_forecast(draws), make_truth(), horizons="1:3,4:10", resamples=10)
    assert math.isfinite(found.horizon("vrmse_published", "1:3")[0])
    assert math.isnan(found.horizon("vrmse_published", "4:10")[0])
    row = next(line for line in found.table().splitlines() if line.strip().startswith("4:10"))
    assert "blow-up" in row


def test_files_tables_and_reports_carry_them(scores, tmp_path):
    path = scores.to_json(tmp_path / "scores.json")
    summary = json.loads(path.read_text())["summary"]["horizons"]
    assert list(summary) == ["1", "1:3", "4:10"]
    one = summary["4:10"]
    assert (one["first_lead"], one["last_lead"], one["frames"]) == (4, 10, 7 * CASES)
    told = one["fields"]["wind"]["rmse_member"]["frames"]
    assert told["value"] == scores.horizon("rmse_member", "4:10", "wind", averaging="frames")[0]
    assert one["mean_of_fields"]["crps"]["pooled"]["low"] == scores.horizon("crps", "4:10")[1]
    again = Scores.from_json(path)
    xr.testing.assert_identical(again.data, scores.data)
    assert again.table() == scores.table()
    lines = scores.table().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("Horizons"))
    assert "mean of 2 fields" in lines[start]
    assert {"leads", "CRPS", "SEMD", "spread/skill"} <= set(lines[start + 1].split())
    assert [line.split()[0] for line in lines[start + 2 : start + 5]] == ["1", "1:3", "4:10"]
    table = horizons_table({"ours": scores, "none": evaluate(make_forecast(), make_truth(), resamples=10)})
    assert table is not None and [row[:2] for row in table.rows] == [(label, "ours") for label in ("1", "1:3", "4:10")]
    assert horizons_table({"none": evaluate(make_forecast(), make_truth(), resamples=10)}) is None
    plain = evaluate(make_forecast(), make_truth(), resamples=10)
    assert "Horizons" not in plain.table() and "horizons" not in plain.summary


@pytest.mark.parametrize(
    "given, words",
    [
        ("1:3,3:5", "1:3 and 3:5 overlap"),
        ("4:10,1:5", "1:5 and 4:10 overlap"),
        ("5:2", "5:2 is empty"),
        ("8:20", "8:20 is outside of the leads, 1 to 10"),
        ("0:3", "0:3 is outside"),
        ("11", "11 is outside"),
        ("a:b", "such as 1:20,21:60, got 'a:b'"),
        ("1:3;4:5", "got '1:3;4:5'"),
        ("-1:3", "got '-1:3'"),
        ("1:2:3", "got '1:2:3'"),
        ("1:" + "9" * 40, "such as"),
        ("", "got ''"),
        ([], "No horizon"),
        ([(1, 2, 3)], r"\(1, 2, 3\)"),
        ([(1, 2.5)], "2.5"),
        ([(True, 3)], "True"),
        ([5], "got 5"),
        (["1:3"], "'1:3'"),
    ],
)
def test_wrong_ranges_end_in_one_line(given, words):
    with pytest.raises(InputError, match=words) as error:
        evaluate(make_forecast(), make_truth(), horizons=given)
    assert "\n" not in str(error.value)


def test_an_analysis_may_count_its_first_frame():
    analysis = make_forecast(DRAWS[:, :, :5], steps=range(5)).assign_attrs(eddycast_kind="analysis")
    found = evaluate(analysis, make_truth(), horizons="0:2,3:4", resamples=10)
    assert found.data["horizon"].values.tolist() == ["0", "0:2", "3:4"]
    series = found.series("crps", "wind")
    assert found.horizon("crps", "0:2", "wind")[0] == pytest.approx(series[:3].mean())
