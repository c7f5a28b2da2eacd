"""Scores in the convention of DYffusion: closed forms, scoringrules as referee, both averages by hand, units, files, pages, mistakes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.cli.app import run
from eddycast.data import from_arrays
from eddycast.data.dataset import Segment
from eddycast.errors import InputError
from eddycast.evaluation import Scores, evaluate
from eddycast.evaluation.convention import CONVENTIONS, MEASURES
from eddycast.grid import Axis, Grid
from eddycast.metrics import fair_crps, fair_ratio, fair_square, pooled_parts, published_ratio
from eddycast.report import report_from

CASES, MEMBERS, LEADS, SHAPE = 5, 6, 4, (3, 4)
GRID = Grid(
    (
        Axis("x", tuple(float(k) for k in range(SHAPE[0])), ("open", "open")),
        Axis("y", tuple(float(k) for k in range(SHAPE[1])), ("open", "wall"), weights=(1.0, 2.0, 5.0, 1.0)),
    )
)
EVERYWHERE = torch.ones(SHAPE, dtype=torch.bool)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STATES = normal(CASES + 4, LEADS + 1, 2, *SHAPE, seed=1) * torch.tensor([1.0, 50.0])[:, None, None]
DRAWS = normal(CASES, MEMBERS, LEADS, 2, *SHAPE, seed=2) * torch.tensor([1.3, 40.0])[:, None, None]
DRAWS[..., 0, 0] = STATES[:CASES, None, 1:, ..., 0, 0]  # a prescribed node: exact, and counted all the same
STATES, DRAWS = STATES.float(), DRAWS.float()


def data(**options):
    train = tuple(Segment(one, 0, LEADS + 1) for one in range(CASES, CASES + 4))
    options = {"splits": {"train": train, "test": (Segment(0, 0, LEADS + 1),)}} | options
    return from_arrays(STATES, fields=["u", "p"], grid=GRID, dt=0.5, **options)


def labelled(draws=DRAWS):
    dims = ("init", "member", "lead_time", "x", "y")
    return xr.Dataset(
        {name: (dims, draws[:, :, :, channel].numpy()) for channel, name in enumerate("up")},
        {
            "trajectory": ("init", np.arange(len(draws))),
            "frame": ("init", np.zeros(len(draws), dtype=int)),
            "lead_time": ("lead_time", 0.5 * np.arange(1, draws.shape[2] + 1), {"units": "1", "step": 0.5}),
        },
        {"eddycast_kind": "forecast"},
    )


def scored(draws=DRAWS, convention="dyffusion", **options):
    return evaluate(labelled(draws), data(), convention=convention, resamples=100, **options)


@pytest.fixture(scope="module")
def scores():
    return scored()


def by_hand(draws, truth):
    """The formulas in numpy with every pair spelled out: (case, lead) of each, all channels and points alike."""
    x, y = draws.double().numpy().swapaxes(0, 1), truth.double().numpy()
    space = (2, 3, 4)
    pairs = np.abs(x[:, None] - x[None]).mean(axis=(0, 1))
    crps = (np.abs(x - y).mean(axis=0) - pairs / 2).mean(axis=space)
    mse = ((x.mean(axis=0) - y) ** 2).mean(axis=space)
    return crps, mse, x.var(axis=0, ddof=0).mean(axis=space), pairs.mean(axis=space)


def test_every_number_is_that_of_the_formulas(scores):
    crps, mse, variance, pairs = by_hand(DRAWS, STATES[:CASES, 1:])
    fair = {
        "crps_fair": crps - pairs / (2 * (MEMBERS - 1)),
        "mse_fair": mse - variance / (MEMBERS - 1),
    }
    for pooling in ("trajectories", "pooled"):
        for name, values in ({"crps": crps, "mse": mse} | fair).items():
            leads = scores.data["convention_leads"].sel(measure=name, pooling=pooling)
            np.testing.assert_allclose(leads, values.mean(axis=0), rtol=1e-6)
            assert scores.in_convention(name, pooling)[0] == pytest.approx(values.mean(), rel=1e-6)
    own = np.sqrt(variance / mse).mean()  # the mean of ratios of each frame
    pooled = np.sqrt(variance.mean(axis=0) / mse.mean(axis=0)).mean()
    assert scores.in_convention("ssr")[0] == pytest.approx(own, rel=1e-6)
    assert scores.in_convention("ssr", "pooled")[0] == pytest.approx(pooled, rel=1e-6)
    assert abs(own - pooled) > 1e-3
    factor = math.sqrt((MEMBERS + 1) / (MEMBERS - 1))
    for pooling in ("trajectories", "pooled"):
        ratio = scores.in_convention("ssr_fair", pooling)[0] / scores.in_convention("ssr", pooling)[0]
        assert ratio == pytest.approx(factor)
        value, low, high = scores.in_convention("crps", pooling)
        assert low < value < high


@pytest.mark.parametrize("members", [1, 2, 5, 50])
@pytest.mark.parametrize("estimator, fair", [("nrg", False), ("fair", True)])
def test_crps_is_that_of_the_referee(referee, members, estimator, fair):
    rules = referee("scoringrules")
    ensemble, truth = normal(members, 3, 2, *SHAPE, seed=members), normal(3, 2, *SHAPE, seed=9)
    parts = pooled_parts(ensemble, truth, EVERYWHERE)
    found = fair_crps(parts.absolute, parts.crps, members) if fair else parts.crps
    if fair and members == 1:
        assert found.isnan().all()
        return
    expected = rules.crps_ensemble(truth.numpy(), ensemble.numpy(), m_axis=0, estimator=estimator).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_two_members_are_known_in_closed_form():
    """x = +-a about y + b: CRPS biased max(a, |b|) - a / 2, fair max(a, |b|) - a; SSR a / |b|, as published and times sqrt 3."""
    a, b = 0.7, -1.5
    truth = normal(2, 1, *SHAPE, seed=3)
    parts = pooled_parts(torch.stack([truth + b - a, truth + b + a]), truth, EVERYWHERE)
    torch.testing.assert_close(parts.crps, torch.full((2,), 1.5 - 0.35, dtype=torch.float64))
    torch.testing.assert_close(fair_crps(parts.absolute, parts.crps, 2), torch.full((2,), 0.8, dtype=torch.float64))
    torch.testing.assert_close(published_ratio(parts.variance, parts.square)[0].item(), 0.7 / 1.5)
    torch.testing.assert_close(fair_ratio(parts.variance, parts.square, 2)[0].item(), math.sqrt(3) * 0.7 / 1.5)
    torch.testing.assert_close(fair_square(parts.square, parts.variance, 2)[0].item(), b * b - a * a)


@pytest.mark.parametrize("members", [3, 20])
def test_fair_scores_do_not_depend_on_the_number_of_members(members):
    """Reliable members of standard normal truths: expectations in closed form, each within 5 standard errors of many draws."""
    draws = normal(members + 1, 40_000, 1, 1, 1, seed=members)
    parts = pooled_parts(draws[:-1], draws[-1], torch.ones(1, 1, dtype=torch.bool))
    number = len(parts.crps)
    pairs = 2 / math.sqrt(math.pi)  # mean |x - x'|
    for values, expected in (
        (fair_crps(parts.absolute, parts.crps, members), pairs / 2),
        (parts.crps, pairs / 2 + pairs / (2 * members)),
        (fair_square(parts.square, parts.variance, members), 1.0),
        (parts.square, 1 + 1 / members),
        (parts.variance, 1 - 1 / members),
    ):
        assert float(values.mean()) == pytest.approx(expected, abs=5 * float(values.std()) / math.sqrt(number))
    biased = published_ratio(parts.variance.mean(), parts.square.mean())
    assert float(biased) == pytest.approx(math.sqrt((members - 1) / (members + 1)), rel=0.02)
    assert float(fair_ratio(parts.variance.mean(), parts.square.mean(), members)) == pytest.approx(1.0, rel=0.02)


def test_points_count_alike_and_land_does_not():
    """Quadrature weights are not those of the grid; points without values are nobody's."""
    counted = EVERYWHERE.clone()
    counted[1, 2] = False
    ensemble, truth = normal(4, 2, 3, *SHAPE, seed=5), normal(2, 3, *SHAPE, seed=6)
    alone = torch.ones(11, 1, dtype=torch.bool)
    expected = list(pooled_parts(ensemble[..., counted][..., None], truth[..., counted][..., None], alone))
    truth[..., 1, 2] = torch.nan
    torch.testing.assert_close(list(pooled_parts(ensemble, truth, counted)), expected)
    with pytest.raises(ValueError, match="not all false"):
        pooled_parts(ensemble, truth, ~EVERYWHERE)


def test_normalised_units_are_training_deviations_of_fields_or_points():
    crops = STATES[CASES:].double()
    for name, scale in (
        ("dyffusion-normalised", None),
        ("dyffusion-pixelwise", crops.std(dim=(0, 1), correction=0)),
    ):
        if scale is None:
            weights = GRID.weights()
            mean = (weights * crops).mean(dim=(0, 1, 3, 4), keepdim=True)
            scale = (weights * (crops - mean) ** 2).mean(dim=(0, 1, 3, 4)).sqrt()[:, None, None]
        crps, mse, variance, _ = by_hand(DRAWS / scale, STATES[:CASES, 1:] / scale)
        found = scored(convention=name)
        assert found.in_convention("crps")[0] == pytest.approx(crps.mean(), rel=1e-4)
        assert found.in_convention("mse")[0] == pytest.approx(mse.mean(), rel=1e-4)
        assert found.in_convention("ssr")[0] == pytest.approx(np.sqrt(variance / mse).mean(), rel=1e-4)


def test_pieces_make_no_difference(scores):
    small = scored(memory=1)
    xr.testing.assert_allclose(
        small.data[["convention_leads", "convention_means"]], scores.data[["convention_leads", "convention_means"]]
    )


def test_one_member_a_blow_up_and_a_frame_without_error_are_told_as_they_are():
    single = scored(DRAWS[:, :1])
    assert single.in_convention("ssr")[0] == 0.0 and single.in_convention("crps")[0] > 0
    assert all(math.isnan(single.in_convention(name)[0]) for name in MEASURES if name.endswith("_fair"))
    lost = DRAWS.clone()
    lost[1, 2, -1] = torch.inf
    broken = scored(lost)
    assert math.isnan(broken.in_convention("crps")[0]) and "blow-up" in broken.table()
    assert np.isfinite(broken.data["convention_leads"].values[..., :-1]).all()
    exact = DRAWS.clone()
    exact[0, :, 0] = STATES[0, 1]
    _, mse, variance, _ = by_hand(exact, STATES[:CASES, 1:])
    told = np.sqrt(variance[1:, 0] / mse[1:, 0]).mean()  # the frame without spread and error has no ratio
    ratio = scored(exact).data["convention_leads"].sel(measure="ssr", pooling="trajectories").values
    assert ratio[0] == pytest.approx(told, rel=1e-6)


def test_the_end_of_the_truth_is_no_loss():
    longer = torch.cat([DRAWS, DRAWS[:, :, -1:]], dim=2)
    assert scored(longer).in_convention("crps") == pytest.approx(scored().in_convention("crps"))


def test_the_convention_is_in_file_table_and_report(scores, tmp_path, capsys):
    path = scores.to_json(tmp_path / "one.json")
    assert Scores.from_json(path).in_convention("mse") == scores.in_convention("mse")
    summary = json.loads(path.read_text())["summary"]["convention"]
    assert summary["pooled"]["ssr"]["value"] == scores.in_convention("ssr", "pooled")[0]
    text = scores.table()
    assert "Convention dyffusion" in text and "each case on its own" in text
    page = report_from([path], tmp_path / "report.html").read_text()
    assert "In the convention dyffusion" in page and "SSR fair" in page
    plain = evaluate(labelled(), data(), resamples=10)
    assert "convention_means" not in plain.data and "Convention" not in plain.table()
    labelled().to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    truth = xr.Dataset(
        {name: (("trajectory", "time", "x", "y"), STATES[:, :, channel].numpy()) for channel, name in enumerate("up")},
        {"time": 0.5 * np.arange(LEADS + 1), **{axis.name: np.array(axis.coordinates) for axis in GRID.axes}},
    )
    truth.to_netcdf(tmp_path / "truth.nc", engine="h5netcdf")
    words = ["evaluate", str(tmp_path / "forecast.nc"), "--truth", str(tmp_path / "truth.nc"), "--convention"]
    assert run([*words, "dyffusion", "--out", str(tmp_path / "scores.json")]) == 0
    assert "Convention dyffusion" in capsys.readouterr().out
    kept = json.loads((tmp_path / "scores.json").read_text())["summary"]["convention"]
    assert kept["trajectories"]["crps"]["value"] == pytest.approx(scores.in_convention("crps")[0])
    assert run([*words, "dyfusion"]) == 2
    shown = capsys.readouterr().err
    assert all(name in shown for name in CONVENTIONS) and len(shown.strip().splitlines()) == 1


def test_mistakes_end_in_one_line():
    with pytest.raises(InputError, match="no training split"):
        evaluate(labelled(), data(splits={"test": (Segment(0, 0, LEADS + 1),)}), convention="dyffusion-pixelwise")
    with pytest.raises(InputError, match="leave --derive or"):
        evaluate(labelled(), data(), convention="dyffusion", derive="vorticity")
