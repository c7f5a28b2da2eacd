"""What an evaluation computes is in the HTML report: every score, the contributor's own too, and the profiles."""

from __future__ import annotations

import numpy as np
import pytest

from eddycast.evaluation import evaluate
from eddycast.evaluation.signatures import ANALYSIS, FORECAST
from eddycast.metrics import Score, scores_for
from eddycast.metrics.field import mse
from eddycast.report.calibration import calibration_diagrams, density_charts
from eddycast.report.collect import report_from
from eddycast.report.curves import calibration, densities
from eddycast.report.html import grade
from eddycast.report.scorecard import comparison_table, score_charts
from eddycast.report.whole import bands_table, conventions_table

LOUD = Score("own_loudness", lambda e, y, w: 7 * mse(e[0], y, w), "seven times the squared error", better="lower")
RATIO = Score("own_ratio", lambda e, y, w: mse(e[0], y, w), "a ratio", better="target", target=0.25)


@pytest.fixture(scope="module")
def scores(make_waves):
    truth, forecast = make_waves(inits=4, members=None), make_waves(inits=4).isel(lead_time=slice(1, None))
    still = forecast.isel(member=[0]).copy(deep=True)
    still["u"] = still["u"] * 0 + still["u"].isel(lead_time=0)
    truth = truth.isel(lead_time=slice(1, None))
    chosen = (*scores_for(5), LOUD, RATIO)
    return {
        "emulator": evaluate(forecast, truth, scores=chosen),
        "persistence": evaluate(still, truth, scores=[*scores_for(1), LOUD, RATIO]),
    }


def test_every_score_has_a_chart_and_a_column(scores):
    charts = {chart.title: chart for chart in score_charts(scores, "u")}
    for name, title in (
        ("energy_score", "Energy score"), ("variogram_score", "Variogram score"), ("own_loudness", "Own loudness"),
    ):  # fmt: skip
        ours, theirs = charts[title].curves
        np.testing.assert_array_equal(ours.y, scores["emulator"].series(name, "u"))
        np.testing.assert_array_equal(theirs.y, scores["persistence"].series(name, "u"))
        assert charts[title].better == "lower"
    assert charts["Energy score"].units == "m s-1"
    assert charts["Own loudness"].units == "1"
    assert charts["Own ratio"].guide == 0.25
    header = " | ".join(comparison_table(scores, "u").header)
    assert "Energy score at" in header
    assert "Own loudness at" in header


def test_the_page_shows_them_all(scores, tmp_path):
    """Through the files, as the command line does it."""
    paths = [scores[name].to_json(tmp_path / f"{name}.json") for name in scores]
    page = report_from(paths, tmp_path / "report.html").read_text()
    for words in ("Energy score", "Variogram score", "Own loudness", "Calibration", "Distribution of the values"):
        assert words in page, words


def test_diagrams_are_the_profiles(scores):
    diagrams = {one.title: one for one in calibration_diagrams(scores, "u", "m s-1")}
    data = scores["emulator"].data.sel(field="u")
    (curve,) = diagrams["central intervals"].curves  # persistence has one member and no intervals
    np.testing.assert_allclose(curve.x, data["interval"])
    np.testing.assert_allclose(curve.y, data["interval_coverage"].mean("group"))
    charts = density_charts(scores, "u")
    assert [one.method for one in charts[0].curves] == ["truth", "emulator", "persistence"]
    for chart in charts:
        truth = chart.curves[0]
        assert np.sum(truth.y) * np.diff(truth.x)[0] == pytest.approx(1, abs=0.02)
    figure = calibration(list(diagrams.values()))
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(diagrams)
    assert len(densities(charts, "u").axes) == len(charts)


def test_scores_of_older_files_still_make_a_page(scores, tmp_path):
    """Without what evaluations now add, the report is what it was."""
    old = scores["emulator"]
    attributes = {key: value for key, value in old.attributes.items() if key != "about"}
    new = (
        "pdf_", "event_", "binned_", "interval_", "brier", "rmsd", "high_correlation_time_se", "spectrum_bands", "amplitude_",
        "change_", "copies", "rank_flatness",
    )  # fmt: skip
    kept = [name for name in old.data if not str(name).startswith(new)]
    path = type(old)(old.data[kept], attributes).to_json(tmp_path / "old.json")
    page = report_from([path], tmp_path / "old.html").read_text()
    assert "Own loudness" in page
    assert "Distribution of the values" not in page


def test_conventions_bands_passes_and_failures_are_on_the_page(scores, tmp_path):
    """Every convention of one-number scores is a row; what the table shows is what the scores hold."""
    ours = scores["emulator"]
    counted = type(ours)(
        ours.data,
        {**ours.attributes, "eddycast_network_passes_forward": 1360.0, "eddycast_network_passes_backward": 680.0},
    )
    both = {"emulator": counted, "persistence": scores["persistence"]}
    table = conventions_table(both, "u")
    rows = {row[0]: row[1:] for row in table.rows}
    value = float(ours.data["rmsd"].sel(field="u", forecast="member", norm="state"))
    cell, still = rows["RMSD over all leads, first member, summed over points"]
    assert cell.startswith(f"{value:.3g} [") and "±" in cell and still != "–"
    assert rows["RMSD over all leads, ensemble mean, per point"][1] == "–"  # of one member it is the first row again
    assert sum("High-correlation time, first member" in name for name in rows) == 4
    header, (first, *_) = bands_table(both, "u").header, bands_table(both, "u").rows
    power = ours.data["spectrum_bands"].sel(field="u", stage="early", spectrum_band="low")
    assert first[header.index("low, early")] == f"{float(power):+.2f}"
    compared = comparison_table(both, "u")
    column = compared.header.index("Network passes")
    assert [row[column] for row in compared.rows] == ["1360 + 680", "-"]
    column = compared.header.index("Failures")
    assert "frozen forecast" in compared.rows[1][column]  # persistence is, by its nature
    paths = [both[name].to_json(tmp_path / f"{name}.json") for name in both]
    page = report_from(paths, tmp_path / "report.html").read_text()
    for words in ("Over all lead times", "summed over points", "1360 + 680", "high, late", "frozen forecast"):
        assert words in page, words
    alone = report_from(paths[1:], tmp_path / "still.html").read_text()
    assert "Frozen forecast in u" in alone


def test_failures_are_poor_news():
    for name in {*FORECAST, *ANALYSIS, "analysis divergence"}:
        assert grade(f"{name.capitalize()} in u") == "poor", name
    assert grade("Regression to climatology in u from 3 on: try more.") == "poor"
