"""Evaluation of forecasts whose scores are known: reliable ensembles, shifted waves, blow-ups, masks, one member."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import from_arrays
from eddycast.errors import InputError
from eddycast.evaluation import Scores, compare_table, evaluate
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import Score, mse

POINTS, FRAMES, TRAJECTORIES = 16, 30, 12
GRID = Grid((periodic_axis("x", POINTS, 4.0),))


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_truth(*, valid=None, grid=GRID, states=None, **options):
    """White noise: every frame is independent, with standard deviation one."""
    states = noise(TRAJECTORIES, FRAMES, 1, *grid.shape, seed=7) if states is None else states
    return from_arrays(
        states,
        fields=["u"],
        grid=grid,
        dt=0.5,
        valid=valid,
        attributes={"lyapunov_time": 2.0, "system": "noise"},
        **options,
    )


def make_forecast(members, *, leads=8, dt=0.5, frames=None, trajectories=None, name="u", dims=("x",), **attributes):
    """`members` (init, member, lead, *space)."""
    members = np.asarray(members)
    inits = len(members)
    coordinates = {
        "trajectory": ("init", np.arange(inits) if trajectories is None else np.asarray(trajectories)),
        "frame": ("init", np.zeros(inits, dtype=int) if frames is None else np.asarray(frames)),
        "lead_time": ("lead_time", dt * np.arange(1, leads + 1), {"units": "1", "step": 0.5}),
    }
    data = xr.Dataset({name: (("init", "member", "lead_time", *dims), members)}, coordinates)
    return data.assign_attrs({"eddycast_kind": "forecast", "eddycast_recipe": "test/one", **attributes})


def truth_of(truth, leads=8, frame=0, cases=TRAJECTORIES):
    return torch.stack([truth.read(one, frame + 1, frame + leads + 1)[:, 0] for one in range(cases)])


def reliable(truth, members=9, leads=8, seed=1, std=1.0):
    """Members drawn from the law of the truth itself."""
    return std * noise(TRAJECTORIES, members, leads, POINTS, seed=seed)


def test_a_perfect_forecast_scores_as_such():
    truth = make_truth()
    exact = truth_of(truth)[:, None].expand(-1, 3, -1, -1)
    scores = evaluate(make_forecast(exact), truth)
    for name in ("rmse_mean", "rmse_member", "mae_mean", "vrmse_mean", "crps", "crps_biased", "spread"):
        assert np.abs(scores.series(name, "u")).max() < 1e-6, name
    assert scores.series("correlation_member", "u") == pytest.approx(np.ones(8))
    times = scores.data["high_correlation_time"]
    assert times.values == pytest.approx(np.full(times.shape, 4.0))
    assert float(scores.data["censored"].max()) == 1.0
    assert float(scores.data["spectral_error_pooled"].sel(statistic="largest").max()) < 1e-5
    assert scores.attributes["nonfinite_members"] == scores.attributes["runaway_members"] == 0
    assert scores.attributes["first_bad_lead"] is None


def test_a_climatological_ensemble_has_the_scores_of_theory():
    """Independent standard normals: RMSE of a member sqrt(2), of the mean sqrt(1 + 1 / M), CRPS 1 / sqrt(pi)."""
    truth = make_truth()
    scores = evaluate(make_forecast(reliable(truth)), truth)
    error = 4 / math.sqrt(TRAJECTORIES * 8 * POINTS)
    assert float(np.mean(scores.series("rmse_member", "u") ** 2)) == pytest.approx(2, abs=2 * math.sqrt(2) * error)
    assert float(np.mean(scores.series("rmse_mean", "u") ** 2)) == pytest.approx(10 / 9, abs=1.6 * error)
    assert float(np.mean(scores.series("crps", "u"))) == pytest.approx(1 / math.sqrt(math.pi), abs=error)
    assert float(np.mean(scores.series("spread_skill", "u"))) == pytest.approx(1, abs=error)
    assert float(np.mean(scores.series("coverage_80", "u"))) == pytest.approx(0.8, abs=error)
    ranks = scores.data["rank_histogram"].sel(field="u").values
    assert ranks.sum(axis=-1) == pytest.approx(np.ones(len(ranks)))
    assert scores.data["climatology_std"].values == pytest.approx([1.0], abs=0.05)


def test_intervals_contain_the_value_and_come_from_the_blocks():
    truth = make_truth()
    scores = evaluate(make_forecast(reliable(truth)), truth, resamples=300)
    for name in ("rmse_mean", "crps", "spread_skill"):
        low, value, high = (scores.series(name + end, "u") for end in ("_low", "", "_high"))
        assert ((low < value) & (value < high)).all()
    assert scores.attributes["num_blocks"] == TRAJECTORIES
    again = evaluate(make_forecast(reliable(truth)), truth, resamples=300)
    xr.testing.assert_identical(scores.data, again.data)


def test_the_high_correlation_time_follows_the_phase_of_a_wave():
    """Phase errors 0.1 lead: correlation cos(0.1 lead) >= 0.8 up to lead 6 (0.6 < acos 0.8 = 0.6435 < 0.7)."""
    x = torch.arange(POINTS) * (2 * math.pi / POINTS)
    states = torch.sin(x).expand(TRAJECTORIES, FRAMES, 1, POINTS)
    truth = make_truth(states=states)
    phase = 0.1 * torch.arange(1, 13)[:, None]
    forecast = torch.sin(x + phase).expand(TRAJECTORIES, 1, 12, POINTS)
    times = evaluate(make_forecast(forecast, leads=12), truth).data["high_correlation_time"]
    assert times.values == pytest.approx(np.full(times.shape, 3.0))  # in time units: 6 leads of 0.5


def test_members_and_leads_in_pieces_give_the_same_scores():
    truth = make_truth()
    forecast = make_forecast(reliable(truth))
    whole, pieces = (evaluate(forecast, truth, memory=memory) for memory in (2**30, 1))
    xr.testing.assert_allclose(whole.data, pieces.data, rtol=1e-9)


def test_one_member_is_scored_as_deterministic():
    truth = make_truth()
    scores = evaluate(make_forecast(reliable(truth, members=1)), truth)
    assert scores.series("crps", "u") == pytest.approx(scores.series("mae_mean", "u"))
    assert scores.series("crps_biased", "u") == pytest.approx(scores.series("mae_mean", "u"))
    assert "spread_skill" not in scores.data
    assert "rank_histogram" not in scores.data
    assert "first member" in scores.table()
    assert "ensemble mean" not in scores.table()


def test_missing_dimensions_member_and_init_are_one():
    truth = make_truth()
    forecast = make_forecast(reliable(truth)).isel(init=3, member=2)
    scores = evaluate(forecast, truth)
    assert scores.members == 1
    assert scores.value("rmse_member", "u", 0) == pytest.approx(
        float((torch.as_tensor(forecast["u"].values[0]) - truth.read(3, 1, 2)[0, 0]).square().mean().sqrt()), rel=1e-5
    )


def test_a_constant_truth_and_a_constant_ensemble_are_defined():
    truth = make_truth(states=torch.full((TRAJECTORIES, FRAMES, 1, POINTS), 3.0))
    scores = evaluate(make_forecast(torch.full((TRAJECTORIES, 4, 8, POINTS), 3.0)), truth)
    assert scores.series("crps", "u") == pytest.approx(np.zeros(8))
    assert scores.series("correlation_mean", "u") == pytest.approx(np.zeros(8))
    assert np.isnan(scores.series("spread_skill", "u")).all()
    assert isinstance(scores.table(), str)
    assert scores.diagnosis()


def test_a_mask_equals_cropping():
    """Land as NaN in forecast and truth scores as the same forecast on the sea alone."""
    valid = torch.ones(POINTS, dtype=torch.bool)
    valid[10:] = False
    axis = GRID.axes[0]
    states = noise(TRAJECTORIES, FRAMES, 1, POINTS, seed=7)
    bounded = Grid((Axis("x", axis.coordinates, ("open", "open")),))
    small = Grid((Axis("x", axis.coordinates[:10], ("open", "open")),))
    land = make_truth(states=torch.where(valid, states, math.nan), grid=bounded)
    sea = make_truth(states=states[..., :10].clone(), grid=small)
    members = noise(TRAJECTORIES, 9, 8, POINTS, seed=1)
    first = evaluate(make_forecast(torch.where(valid, members, math.nan)), land)
    second = evaluate(make_forecast(members[..., :10]), sea)
    names = [name for name in first.attributes["scores"] if "power" not in name]  # land is filled: another field
    for name in (*names, "rank_histogram", "high_correlation_time", "climatology_std"):
        np.testing.assert_allclose(first.data[name].values, second.data[name].values, rtol=1e-6, err_msg=name)
    assert first.attributes["nonfinite_members"] == 0
    assert np.isfinite(first.data["power_member"].values).all()


def test_latitudes_count_with_their_area():
    """An error of one in the row next to a pole alone: its weight is the row's share of the sphere."""
    latitude = np.linspace(-75, 75, 6)
    area = np.diff(np.sin(np.deg2rad(np.linspace(-90, 90, 7))))
    axis = Axis("latitude", tuple(latitude), ("open", "open"), "degrees_north", None, tuple(area))
    truth = make_truth(states=noise(3, 10, 1, 6), grid=Grid((axis,)))
    forecast = truth_of(truth, leads=4, cases=3)[:, None].clone()
    forecast[..., 0] += 1
    scores = evaluate(make_forecast(forecast, leads=4, dims=("latitude",)), truth)
    assert scores.series("rmse_member", "u") == pytest.approx(np.full(4, math.sqrt(area[0] / 2)), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
def test_a_blow_up_is_reported_and_not_averaged_away(bad):
    truth = make_truth()
    members = reliable(truth)
    members[4, 6, 5:] = bad
    scores = evaluate(make_forecast(members), truth)
    finite = math.isfinite(bad)
    assert scores.attributes["nonfinite_members"] == (0 if finite else 1)
    assert scores.attributes["runaway_members"] == (1 if finite else 0)
    assert scores.attributes["first_bad_lead"] == 3.0
    assert scores.data["nonfinite" if not finite else "runaway"].values.tolist() == [0] * 5 + [1] * 3
    crps = scores.series("crps", "u")
    assert np.isfinite(crps[:5]).all()
    for name in ("crps_biased", "rmse_mean", "spread"):
        assert not (scores.series(name, "u")[5:] < 1e20).any(), name
    assert (
        finite or np.isnan(crps[5:]).all()
    )  # the fair CRPS forgives one finite runaway, which is why members are counted
    assert np.isfinite(scores.series("rmse_member", "u")).all()  # the first member is sound
    assert np.isfinite(scores.data["high_correlation_time"].values).all()
    assert any("Blows up: 1 of 108 members" in line and "1.5 Lyapunov times" in line for line in scores.diagnosis())
    assert "first at 3" in scores.table()


def test_leads_beyond_the_truth_and_between_frames_are_left_out_and_told():
    truth = make_truth()
    members = reliable(truth)
    late = evaluate(make_forecast(members, frames=[FRAMES - 4] + [0] * (TRAJECTORIES - 1)), truth)
    assert late.data["cases"].values.tolist() == [12] * 3 + [11] * 5
    assert np.isfinite(late.series("crps", "u")).all()
    assert any("5 of 96" in note for note in late.attributes["notes"])
    halves = evaluate(make_forecast(members, dt=0.25), truth)
    assert halves.lead_times.tolist() == [0.5, 1.0, 1.5, 2.0]
    first = float((members[:, 0, 1] - truth_of(truth)[:, 0]).square().mean().sqrt())
    assert halves.value("rmse_member", "u", 0) == pytest.approx(first, rel=1e-5)
    assert any("4 of 8 lead times" in note for note in halves.attributes["notes"])
    with pytest.raises(InputError, match="within the truth"):
        evaluate(make_forecast(members, frames=[FRAMES - 1] * TRAJECTORIES), truth)


def test_an_analysis_is_scored_from_its_first_time():
    truth = make_truth()
    members = reliable(truth, leads=5)
    analysis = make_forecast(members, leads=5, eddycast_kind="analysis", frames=[3] * TRAJECTORIES)
    analysis = analysis.assign_coords(lead_time=analysis["lead_time"] - 0.5)
    analysis["lead_time"].attrs.update(step=0.5, units="1")
    scores = evaluate(analysis, truth)
    assert scores.lead_times.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    first = torch.stack([truth.read(one, 3, 4)[0, 0] for one in range(TRAJECTORIES)])
    expected = float((members[:, 0, 0] - first).square().mean().sqrt())
    assert scores.value("rmse_member", "u", 0) == pytest.approx(expected, rel=1e-5)
    assert scores.analysis
    assert "high_correlation_time" not in scores.data
    assert isinstance(scores.table(), str)


def test_truth_may_be_xarray_in_either_layout():
    truth = make_truth()
    members = reliable(truth)
    forecast = make_forecast(members).assign_coords(x=("x", np.array(GRID.axes[0].coordinates), {"units": "1"}))
    states = torch.stack([truth.read(one, 0, FRAMES)[:, 0] for one in range(TRAJECTORIES)]).numpy()
    space = {"x": ("x", np.array(GRID.axes[0].coordinates), {"eddycast_boundary": "periodic periodic", "units": "1"})}
    frames = xr.Dataset(
        {"u": (("trajectory", "time", "x"), states)},
        {**space, "time": 0.5 * np.arange(FRAMES), "trajectory": np.arange(TRAJECTORIES)},
    )
    exact = truth_of(truth)[:, None]
    aligned = make_forecast(exact).isel(member=0).assign_coords(space)
    expected = evaluate(forecast, truth)
    for other in (frames, aligned, aligned.isel(init=slice(None, None, -1))):
        scores = evaluate(forecast, other)
        for name in ("rmse_mean", "crps", "spread_skill", "high_correlation_time", "power_member"):
            np.testing.assert_allclose(scores.data[name].values, expected.data[name].values, rtol=1e-5)


def test_scores_survive_a_file(tmp_path):
    truth = make_truth()
    members = reliable(truth)
    members[2, 3, 6:] = math.nan
    scores = evaluate(make_forecast(members), truth)
    path = scores.to_json(tmp_path / "scores.json")
    again = Scores.from_json(path)
    xr.testing.assert_identical(again.data, scores.data)
    assert dict(again.attributes) == dict(scores.attributes)
    assert again.table() == scores.table()
    assert [item.name for item in tmp_path.iterdir()] == ["scores.json"]
    assert json.loads(path.read_text())["summary"]["nonfinite_members"] == 1
    assert again.attributes["eddycast_recipe"] == "test/one"
    assert scores.to_xarray().attrs["members"] == 9


def test_files_that_are_no_scores_end_in_one_line(tmp_path):
    for content in ("{", '{"schema": 1}', '{"schema": 99}', "[]"):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError) as error:
            Scores.from_json(tmp_path / "bad.json")
        assert "bad.json" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"none\.json"):
        Scores.from_json(tmp_path / "none.json")
    scores = evaluate(make_forecast(reliable(None)), make_truth())
    with pytest.raises(InputError, match="absent"):
        scores.to_json(tmp_path / "absent" / "scores.json")


def test_forecasts_are_read_from_files(tmp_path):
    truth = make_truth()
    forecast = make_forecast(reliable(truth))
    forecast.to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    scores = evaluate(tmp_path / "forecast.nc", truth)
    xr.testing.assert_allclose(scores.data, evaluate(forecast, truth).data, rtol=1e-6)
    with pytest.raises(InputError, match="no such file"):
        evaluate(tmp_path / "forecasts.nc", truth)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda f: f.rename(u="v"), "no field 'v'.*it has u"),
        (lambda f: f.isel(x=slice(8)), "8 points.*16"),
        (lambda f: f.isel(lead_time=0, drop=True), "lead_time"),
        (lambda f: f.assign_coords(trajectory=("init", np.arange(12) + 5)), "trajectory 12, the truth has 12"),
        (lambda f: f.isel(lead_time=slice(None, None, -1)), "must increase"),
        (lambda f: f.assign_coords(lead_time=("lead_time", 0.1 + 0.5 * np.arange(8), {"step": 0.5})), "whole number"),
    ],
)
def test_a_forecast_that_does_not_fit_ends_in_one_line(change, message):
    truth = make_truth()
    with pytest.raises(InputError, match=message) as error:
        evaluate(change(make_forecast(reliable(truth))), truth)
    assert "\n" not in str(error.value)


def test_a_score_of_ones_own_appears_everywhere(tmp_path):
    """What a contributor adds: a `Score`; the table, the interval and the file follow."""
    truth = make_truth()
    own = Score("twice", lambda e, y, w: 2 * mse(e.mean(dim=0), y, w), "twice the squared error")
    scores = evaluate(make_forecast(reliable(truth)), truth, scores=[own])
    plain = evaluate(make_forecast(reliable(truth)), truth)
    assert scores.series("twice", "u") == pytest.approx(2 * plain.series("rmse_mean", "u") ** 2)
    assert (scores.series("twice_low", "u") < scores.series("twice", "u")).all()
    assert "twice" in scores.table()
    assert "twice" in Scores.from_json(scores.to_json(tmp_path / "s.json")).data
    with pytest.raises(InputError, match="'pair' needs more members"):
        pair = Score("pair", lambda e, y, w: mse(e[1], y, w), "second member", min_members=2)
        evaluate(make_forecast(reliable(truth, members=1)), truth, scores=[pair])


def test_tables_read_well():
    truth = make_truth()
    good = evaluate(make_forecast(reliable(truth)), truth)
    text = good.table(leads=4)
    assert "Lyapunov" in text
    assert "spread/skill" in text
    assert "12 cases in 12 blocks, 9 members" in text
    assert max(map(len, text.splitlines())) < 320
    exact = evaluate(make_forecast(truth_of(truth)[:, None]), truth)
    both = compare_table({"good": good, "exact": exact})
    rows = [line.split() for line in both.splitlines() if line.strip().startswith(("good", "exact"))]
    assert rows[1][0] == "exact"
    assert "2.00" in rows[1]  # 4 time units at a Lyapunov time of 2
    with pytest.raises(ValueError, match="at least one"):
        compare_table({})


def diagnosed(members, truth=None, baselines=None, **options):
    truth = truth or make_truth()
    return " | ".join(evaluate(make_forecast(members, **options), truth).diagnosis(baselines))


def test_the_diagnosis_names_what_was_done_to_the_ensemble():
    truth = make_truth()
    sound = reliable(truth)
    assert "dispersed" not in diagnosed(sound, truth)
    assert "Under-dispersed at nearly every lead time" in diagnosed(0.5 * sound, truth)
    assert "Over-dispersed at nearly every lead time" in diagnosed(1.6 * sound, truth)
    growing = sound * torch.tensor([1.8, 1.6, 1.4, 1.0, 1.0, 0.6, 0.5, 0.4])[:, None]
    text = diagnosed(growing, truth)
    assert "Over-dispersed at short lead times" in text
    assert "Under-dispersed after 1.5 Lyapunov times" in text
    assert "Biased: the truth lies below" in diagnosed(sound + 1.5, truth)
    assert "no spread at all" in diagnosed(sound[:, :1].expand(-1, 9, -1, -1), truth)
    assert "random state" in diagnosed(sound[:, :1], truth)


def test_the_diagnosis_sees_the_spectrum():
    truth = make_truth()
    modes = torch.fft.rfft(reliable(truth))
    modes[..., 4:] *= 2
    text = diagnosed(torch.fft.irfft(modes, n=POINTS), truth)
    factor = float(re.search(r"Small scales are too energetic \((\S+) times", text).group(1))
    assert factor == pytest.approx(4, rel=0.1)
    modes[..., 4:] *= 0.4  # 0.64 of the truth's power: weak, but not yet a failure of its own
    assert "Small scales are too weak" in diagnosed(torch.fft.irfft(modes, n=POINTS), truth)


def test_the_diagnosis_compares_with_baselines():
    truth = make_truth()
    exact, wrong = truth_of(truth)[:, None], reliable(truth)
    best = evaluate(make_forecast(exact), truth)
    text = diagnosed(wrong, truth, {"persistence": best})
    assert "Loses to persistence at every lead time" in text
    fading = exact + torch.linspace(0, 3, 8)[:, None] * wrong[:, :1]
    climate = evaluate(make_forecast(wrong), truth)
    text = diagnosed(fading, truth, {"climatology": climate})
    assert "Loses to climatology after" in text
    assert "Loses" not in diagnosed(wrong, truth, {"itself": climate})


def test_fields_are_scored_apart_on_an_oblong_channel():
    """Two fields, one bounded axis, trajectories out of order: each field has its own errors, unit and blow-up."""
    grid = Grid((periodic_axis("x", 8, 2.0), Axis("y", (0.1, 0.3, 0.5, 0.7, 0.9), ("wall", "wall"))))
    states = noise(4, 12, 2, 8, 5) * torch.tensor([1.0, 1e-3])[:, None, None]
    truth = from_arrays(states, fields=["u", "q"], grid=grid, dt=0.5)
    order, frames = [2, 0, 3], [1, 0, 5]
    exact = torch.stack([truth.read(one, at + 1, at + 7) for one, at in zip(order, frames, strict=True)])
    members = {"u": exact[:, None, :, 0].repeat(1, 2, 1, 1, 1) + 0.5, "q": exact[:, None, :, 1].repeat(1, 2, 1, 1, 1)}
    members["q"][1, 1, 4:, 0, 0] = math.nan
    options = {"leads": 6, "frames": frames, "trajectories": order, "dims": ("x", "y")}
    forecast = make_forecast(members["u"], **options)
    forecast["q"] = make_forecast(members["q"], **options)["u"]
    scores = evaluate(forecast[["q", "u"]].transpose("y", "lead_time", "x", "member", "init"), truth)
    assert scores.fields == ("u", "q")
    assert scores.series("rmse_mean", "u") == pytest.approx(np.full(6, 0.5), rel=1e-5)
    assert scores.series("rmse_member", "q") == pytest.approx(np.zeros(6), abs=1e-9)
    assert np.isnan(scores.series("rmse_mean", "q")).tolist() == [False] * 4 + [True] * 2
    assert scores.data["nonfinite"].values.tolist() == [0] * 4 + [1] * 2
    assert scores.normalised("rmse_mean", "u")[0] == pytest.approx(0.5, rel=0.1)
    assert scores.data["climatology_std"].values == pytest.approx([1.0, 1e-3], rel=0.1)
    assert "blow-up" in scores.table()


def test_a_forecast_of_another_domain_is_refused():
    """The same fields and points, but another length of the domain: another data set."""
    truth = make_truth(states=noise(TRAJECTORIES, 12, 1, 16))
    forecast = make_forecast(reliable(truth_of(truth), members=3))
    place = truth.grid.axes[0].coordinates
    evaluate(forecast.assign_coords(x=list(place)), truth)
    with pytest.raises(InputError, match="pass the data it was made from"):
        evaluate(forecast.assign_coords(x=[2 * point for point in place]), truth)
