"""Calibration profiles of an evaluation: a reliable ensemble lies on every diagonal, and pieces do not matter."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import from_arrays
from eddycast.evaluation import Scores, evaluate
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import energy_score, neighbours, variogram_score

CASES, LEADS, POINTS, MEMBERS = 24, 6, 32, 9


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(states, members, *, grid, valid=None):
    truth = from_arrays(states, fields=["u"], grid=grid, dt=1.0, valid=valid)
    coordinates = {
        "trajectory": ("init", np.arange(len(members))),
        "frame": ("init", np.zeros(len(members), dtype=int)),
        "lead_time": ("lead_time", np.arange(1.0, members.shape[2] + 1), {"units": "1", "step": 1.0}),
    }
    dims = ("init", "member", "lead_time", *grid.names)
    forecast = xr.Dataset({"u": (dims, members.numpy())}, coordinates).assign_attrs(eddycast_kind="forecast")
    return forecast, truth


@pytest.fixture(scope="module")
def reliable():
    """Standard normal truth and members, independent in space and time."""
    grid = Grid((periodic_axis("x", POINTS, 1.0),))
    states = noise(CASES, LEADS + 1, 1, POINTS, seed=1)
    return made(states, noise(CASES, MEMBERS, LEADS, POINTS, seed=2), grid=grid)


@pytest.fixture(scope="module")
def scores(reliable):
    return evaluate(*reliable, resamples=50)


def test_a_reliable_ensemble_lies_on_every_diagonal(scores):
    data = scores.data.sel(field="u")
    points = CASES * POINTS  # a group holds one lead time at least
    nominal = data["interval"].values
    error = np.sqrt(nominal * (1 - nominal) / points)
    assert (np.abs(data["interval_coverage"].values - nominal) < 4.5 * error).all()
    mass, hits = data["event_mass"].values.sum(axis=0), data["event_hits"].values.sum(axis=0)
    total = CASES * LEADS * POINTS
    assert mass.sum() == pytest.approx(total)
    rate = 0.5 * math.erfc(1 / math.sqrt(2))  # P(u > mean + deviation), known but for the climatology's own error
    assert hits.sum() / total == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / total) + 0.02)
    parts = data["brier"].transpose("brier_part", "group").values
    np.testing.assert_allclose(parts[0], parts[1] - parts[2] + parts[3])
    spread, skill, count = (data[name].values for name in ("binned_spread", "binned_error", "binned_count"))
    shown = count > 200
    # Independent of the spread of nine members, the error is sqrt(1 + 1 / 9) in every bin: flat, as documented.
    np.testing.assert_allclose(skill[shown], math.sqrt(10 / 9), rtol=4 / math.sqrt(2 * 200))
    whole = np.sqrt(np.nansum(count * spread**2) / count.sum())
    assert whole == pytest.approx(math.sqrt(10 / 9), rel=0.02)


def test_values_have_the_law_of_the_truth_and_tails_count(reliable, scores):
    data = scores.data.sel(field="u")
    edges = data["pdf_edges"].values
    cumulated = np.cumsum(data["pdf_member"].values, axis=-1)[:, :-1]
    exact = np.array([0.5 * math.erfc(-edge / math.sqrt(2)) for edge in edges])
    assert np.abs(cumulated - exact).max() < 4 * 0.5 / math.sqrt(CASES * MEMBERS * POINTS)
    assert (data["pdf_distance"].values < 0.2).all()
    forecast, truth = reliable
    away = evaluate(forecast + 50.0, truth, resamples=2).data.sel(field="u")
    assert away["pdf_member"].values[:, -1] == pytest.approx(1)
    assert away["pdf_distance"].values == pytest.approx(1)


def test_pieces_and_files_keep_the_profiles(reliable, scores, tmp_path):
    pieces = evaluate(*reliable, resamples=50, memory=1)
    xr.testing.assert_allclose(pieces.data, scores.data, rtol=1e-9)
    again = Scores.from_json(scores.to_json(tmp_path / "scores.json"))
    xr.testing.assert_allclose(again.data, scores.data)
    assert again.attributes["about"]["variogram_score"]["physical"] is True


def test_field_scores_are_those_of_the_functions(reliable, scores):
    forecast, truth = reliable
    ensemble = torch.as_tensor(forecast["u"].values).double().movedim(1, 0)  # (member, case, lead, x)
    states = torch.stack([truth.read(case, 1, LEADS + 1)[:, 0] for case in range(CASES)]).double()
    weights = torch.ones(POINTS)
    energy = energy_score(ensemble, states, weights).mean(dim=0)
    np.testing.assert_allclose(scores.series("energy_score", "u"), energy, rtol=1e-9)
    variogram = variogram_score(ensemble, states, weights, neighbours((POINTS,), (True,))).mean(dim=0)
    np.testing.assert_allclose(scores.series("variogram_score", "u"), variogram, rtol=1e-9)
    assert "energy" in scores.table()


def test_land_and_single_members():
    """A mask equals cropping where no pair reaches across; with one member only the law of the values is left."""
    axis = Axis("x", tuple(float(k) for k in range(12)), ("wall", "wall"))
    short = Axis("x", axis.coordinates[:8], ("wall", "wall"))
    states, members = noise(5, LEADS + 1, 1, 12, seed=3), noise(5, 4, LEADS, 12, seed=4)
    valid = torch.arange(12) < 8
    full = made(
        torch.where(valid, states, math.nan), torch.where(valid, members, math.nan), grid=Grid((axis,)), valid=valid
    )
    cropped = made(states[..., :8].clone(), members[..., :8].clone(), grid=Grid((short,)))
    one, other = (evaluate(*pair, resamples=2).data for pair in (full, cropped))
    for name in ("interval_coverage", "pdf_member", "brier", "binned_error", "energy_score", "variogram_score"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, err_msg=name)
    forecast, truth = cropped
    single = evaluate(forecast.isel(member=[0]), truth, resamples=2)
    assert "brier" not in single.data
    assert "pdf_member" in single.data
    np.testing.assert_allclose(single.series("energy_score", "u"), other_energy(single))


def other_energy(scores):
    """Of one member it is the error's root mean square, averaged over cases: never above the RMSE of the mean."""
    value = scores.series("energy_score", "u")
    assert (value <= scores.series("rmse_mean", "u") + 1e-12).all()
    return value
