"""The HTML report: whole, self-contained, escaped, the same bytes again; its numbers are those of the scores."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from eddycast.data import Field, from_arrays
from eddycast.errors import InputError
from eddycast.evaluation import Scores, evaluate
from eddycast.grid import Grid, periodic_axis
from eddycast.report import (
    Finding,
    KeyFigure,
    Picture,
    ReportContent,
    Section,
    Table,
    comparison,
    plot,
    report_from,
    story_report,
    truth_for,
    write_report,
)
from eddycast.report.html import grade, render
from eddycast.report.scorecard import comparison_table, number, score_charts, spread_skill_curves, strengths
from eddycast.report.story import diagnosed

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, headings and resources of a page; fails on tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                (self.links if tag == "a" else self.resources).append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def _check(text: str) -> Page:
    page = Page(text)
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", text)
    assert all(item.startswith(("data:", "#")) for item in page.resources)
    assert "script" not in page.tags
    assert len(page.ids) == len(set(page.ids)), "identifiers are unique, or pictures borrow each other's parts"
    assert {link[1:] for link in page.links} <= set(page.ids)  # the contents lead somewhere
    return page


@pytest.fixture(scope="module")
def world(make_waves):
    """Waves as data, forecasts of them, an analysis that ends where the forecast starts, observations, scores."""
    waves = make_waves
    truth = waves(inits=4, members=None, frame=10)
    forecast = waves(inits=4)
    still = forecast.isel(member=[0]).copy(deep=True)
    still["u"] = still["u"] * 0 + still["u"].isel(lead_time=0)
    analysis = waves(inits=4, frame=2, leads=9, kind="analysis")
    past = waves(inits=4, frame=2, leads=9, members=None)
    observations = past.assign_attrs(eddycast_kind="observations")
    observations["u"] = observations["u"].where(np.random.default_rng(0).random(observations["u"].shape) < 0.2)
    scores = {"emulator": evaluate(forecast, truth), "persistence": evaluate(still, truth)}
    return {
        "truth": truth,
        "forecast": forecast,
        "analysis": analysis,
        "observations": observations,
        "scores": scores,
        "analysis_scores": {"guided": evaluate(analysis, past)},
    }


def test_story_has_every_section_and_needs_nothing(tmp_path, world):
    path = story_report(
        tmp_path / "story.html",
        forecast=world["forecast"],
        scores=world["scores"],
        truth=world["truth"],
        analysis=world["analysis"],
        observations=world["observations"],
        analysis_scores=world["analysis_scores"],
        title="Waves",
        words=("What is looked at.",),
        provenance={"Hardware": "a laptop"},
        reproduce=("eddycast demo --seed 0",),
        next_steps=("eddycast train waves/small", "Read the manual."),
    )
    page = _check(path.read_text())
    for anchor in (
        "in-words", "key-figures", "analysis-of-the-observations", "from-observations-to-forecast",
        "comparison-with-baselines", "spectra", "reliability-of-the-ensemble", "provenance", "what-to-try-next",
    ):  # fmt: skip
        assert anchor in page.ids, anchor
    for words in (
        "Waves",
        "What is looked at.",
        "a laptop",
        "eddycast demo --seed 0",
        "Read the manual.",
        "persistence",
    ):
        assert words in page.text
    assert page.tags.count("svg") >= 6
    assert [item.name for item in tmp_path.iterdir()] == ["story.html"]


def test_user_text_is_escaped(tmp_path):
    nasty = '<script>alert("x")</script> & </style> {{ 7 * 7 }}'
    content = ReportContent(
        nasty,
        nasty,
        (Finding(nasty),),
        (KeyFigure(nasty, nasty, nasty),),
        (Section(nasty, (nasty,), (Table((nasty,), ((nasty,),), nasty),), (Picture(b"\x89PNG", nasty),), (nasty,)),),
        {nasty: nasty},
        (nasty,),
        (nasty,),
    )
    text = write_report(content, tmp_path / "report.html").read_text()
    page = _check(text)
    assert page.text.count(nasty) >= 15  # all of them survive as words, and 7 * 7 is not computed


def test_pictures_with_nasty_names_stay_pictures(tmp_path, world):
    """Names of fields go into SVG: neither markup nor formulas may start there."""
    forecast = world["forecast"].copy()
    forecast["u"].attrs["long_name"] = "a --> <b>$x_{</b> & y"
    forecast.attrs["eddycast_system"] = "<img src=x>"
    path = story_report(tmp_path / "s.html", forecast=forecast, scores={}, truth=world["truth"])
    page = _check(path.read_text())
    assert "b" not in page.tags and "img" not in page.tags


def test_empty_report_is_a_page(tmp_path):
    page = _check(write_report(ReportContent("Nothing yet"), tmp_path / "r.html").read_text())
    assert "Nothing yet" in page.text


def test_table_holds_the_scores(world):
    scores = world["scores"]
    table = comparison_table(scores, "u")
    assert table.header[:2] == ("Method", "Members") and "CRPS at 0.38 LT (m s-1)" in table.header
    column = table.header.index("RMSE at 1 LT (m s-1)")
    place = int(np.abs(scores["emulator"].lead_times - 4.0).argmin())
    for row, one in zip(table.rows, scores.values(), strict=True):
        assert row[column] == number(one.value("rmse_mean", "u", place))
    best = {cell for cell in table.best if cell[1] == column}
    errors = [one.value("rmse_mean", "u", place) for one in scores.values()]
    assert best == {(int(np.argmin(errors)), column)}


def test_curves_are_the_scores(world):
    charts = {chart.title: chart for chart in score_charts(world["scores"], "u")}
    placed = ["RMSE of the mean", "CRPS", "Correlation, first member", "Spread / error"]
    assert list(charts) == [*placed, "Energy score", "Variogram score", "Wasserstein distance of values"]
    emulator = world["scores"]["emulator"]
    curve = charts["CRPS"].curves[0]
    np.testing.assert_array_equal(curve.y, emulator.series("crps", "u"))
    np.testing.assert_array_equal(curve.low, emulator.series("crps_low", "u"))
    assert charts["RMSE of the mean"].units == "m s-1"
    assert [curve.method for curve in charts["Spread / error"].curves] == ["emulator"]  # one member has no spread
    (pair,) = spread_skill_curves(world["scores"], "u")
    np.testing.assert_array_equal(pair.x, emulator.series("spread", "u"))


def test_words_on_strength_and_weakness(world):
    assert strengths(world["scores"]) == ["Beats persistence at every lead time (CRPS, u)."]
    swapped = dict(reversed(world["scores"].items()))
    assert strengths(swapped) == []
    assert any(finding.level == "poor" and "Loses to emulator" in finding.text for finding in diagnosed(swapped))
    oracle = {"persistence": world["scores"]["persistence"], "solver (perfect model)": world["scores"]["emulator"]}
    assert not any("Loses" in finding.text for finding in diagnosed(oracle))  # nobody need beat the truth's own model
    assert grade("Under-dispersed from 2 on: try more noise.") == "fair" and grade("Whatever.") == "note"


@pytest.mark.parametrize(
    "value, words",
    [
        (0.0, "0"),
        (1.81234, "1.81"),
        (123.4, "123"),
        (0.00123, "0.00123"),
        (1e-7, "1.00e-07"),
        (float("nan"), "–"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_in_words(value, words):
    assert number(value) == words


def test_report_from_all_there_is(tmp_path, world):
    run = tmp_path / "run"
    run.mkdir()
    config = {"recipe": {"name": "waves/small", "training": {"learning_rate": 1e-3}}, "provenance": {"seed": 3}}
    (run / "config.json").write_text(json.dumps(config))
    lines = [{"stage": "a", "step": i + 1, "loss": 1 / (i + 1)} for i in range(300)]
    lines += [{"stage": "b", "step": i + 1, "loss": 0.01, "validation_crps": 0.5} for i in range(5)]
    (run / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "b", "ste')
    world["forecast"].to_netcdf(tmp_path / "forecast.nc", engine="h5netcdf")
    world["analysis"].to_netcdf(tmp_path / "analysis.nc", engine="h5netcdf")
    for name, one in world["scores"].items():
        one.to_json(tmp_path / f"{name}.json")
    names = ["run", "forecast.nc", "analysis.nc", "emulator.json", "persistence.json"]
    path = report_from([tmp_path / name for name in names], tmp_path / "all.html", truth=world["truth"])
    page = _check(path.read_text())
    for words in ("waves/small", "0.001", "Training loss", "validation score", "persistence", "member"):
        assert words in page.text
    assert {"forecast", "analysis", "run-run", "comparison-with-baselines"} <= set(page.ids)


def test_scores_alone_and_forecast_alone(tmp_path, world):
    world["scores"]["emulator"].to_json(tmp_path / "scores.json")
    assert "scores" in _check(report_from([tmp_path / "scores.json"], tmp_path / "a.html").read_text()).ids
    world["forecast"].isel(member=[0], init=[1]).to_netcdf(tmp_path / "f.nc", engine="h5netcdf")
    assert "eddycast evaluate" in _check(report_from([tmp_path / "f.nc"], tmp_path / "b.html").read_text()).text
    plot(tmp_path / "scores.json", tmp_path / "scores.png")
    with pytest.raises(InputError, match="do not move"):
        plot(tmp_path / "scores.json", tmp_path / "scores.gif")


def test_wrong_inputs_are_named_and_nothing_is_written(tmp_path, world):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.json").write_text("{}")
    world["scores"]["emulator"].to_json(tmp_path / "good.json")
    before = sorted(tmp_path.iterdir())
    for inputs, out, words in [
        ([], "r.html", "Nothing to report"),
        (["good.json"], "r.pdf", r"ends in \.html"),
        (["missing.nc"], "r.html", "no such file"),
        (["empty"], "r.html", "without config.json"),
        (["notes.txt"], "r.html", "neither a run"),
        (["good.json", "bad.json"], "r.html", "bad.json"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            report_from([tmp_path / name for name in inputs], tmp_path / out)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_truth_comes_from_the_data_at_the_right_frames(world):
    """Values are 100 * trajectory + frame, so that what was read shows; beyond the end it is missing."""
    grid = Grid((periodic_axis("x", 4, 1.0),))
    frames = torch.arange(20.0)[None, :, None, None] + 100 * torch.arange(7.0)[:, None, None, None]
    data = from_arrays(frames.expand(7, 20, 1, 4).clone(), fields=(Field("u", units="K"),), grid=grid, dt=0.5)
    found = truth_for(world["forecast"].isel(init=[2, 0]), data)
    assert found["u"].dims == ("init", "lead_time", "x") and found["u"].attrs["units"] == "K"
    expected = 100 * np.array([5, 3])[:, None] + 10 + np.arange(24.0)
    expected[:, 10:] = np.nan
    np.testing.assert_array_equal(found["u"].values[:, :, 0], expected)
    between = truth_for(world["forecast"].assign_coords(lead_time=0.25 * np.arange(1, 25)), data)
    assert np.isnan(between["u"].values[0, 0]).all() and between["u"].values[0, 1, 0] == 311
    with pytest.raises(InputError, match="trajectory 9"):
        truth_for(world["forecast"].assign_coords(trajectory=("init", [3, 9, 3, 3])), data)


def test_data_are_drawn(tmp_path):
    grid = Grid((periodic_axis("x", 8, 1.0),))
    data = from_arrays(torch.rand(3, 12, 1, 8), fields=(Field("u"),), grid=grid, dt=1.0)
    assert plot(data, tmp_path / "data.png", init=2).stat().st_size > 5000
    with pytest.raises(InputError, match="no trajectory 3"):
        plot(data, tmp_path / "data.png", init=3)


def test_scores_survive_the_file(tmp_path, world):
    """The report of scores read back is the report of the scores: the same bytes, drawn twice."""
    loaded = {name: Scores.from_json(one.to_json(tmp_path / f"{name}.json")) for name, one in world["scores"].items()}
    assert render(comparison(loaded)) == render(comparison(world["scores"]))
