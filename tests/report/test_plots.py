"""Pictures contain what they claim: drawn arrays are the data, labels carry units, files are what they say."""

from __future__ import annotations

import io
import sys

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PathCollection
from PIL import Image

from eddycast.errors import InputError
from eddycast.report import plot
from eddycast.report.canvas import colour_scale, encode, inline_svg, new_figure, pretty_units, with_units
from eddycast.report.fields import (
    SpaceAxis,
    field_picture,
    joined,
    map_aspect,
    orient,
    panels_of,
    pick_leads,
    space_time,
)
from eddycast.report.view import aligned, view


def _images(figure):
    return [axes.images[0] for axes in figure.axes if axes.images]


def _words(figure):
    texts = [axes.get_xlabel() for axes in figure.axes] + [axes.get_ylabel() for axes in figure.axes]
    return " | ".join(
        [*texts, *(text.get_text() for text in figure.texts), figure.get_supxlabel(), figure.get_supylabel()]
    )


def test_strips_show_the_data(forecast, wave_truth):
    """Rows: truth, mean, two members, spread, error; space upwards, one set of colours for all states."""
    seen = view(forecast, "u", 1)
    figure = field_picture(seen, aligned(wave_truth, seen, 1))
    states = forecast["u"].values[1]
    truth = wave_truth["u"].values[1]
    expected = [truth, states.mean(0), states[0], states[1], states.std(0, ddof=1), np.abs(states.mean(0) - truth)]
    images = _images(figure)
    assert len(images) == len(expected)
    for image, values in zip(images, expected, strict=True):
        np.testing.assert_allclose(image.get_array(), values.T, atol=2e-6)
        assert image.origin == "lower"
    assert len({image.get_clim() for image in images[:4]}) == 1
    low, high = images[0].get_clim()
    assert low == -high  # a field around zero has zero at the middle of its colours
    assert images[4].get_clim()[0] == 0
    left, right, bottom, top = images[0].get_extent()
    assert (
        (left, right) == (-0.25, 11.75)
        and bottom == pytest.approx(-np.pi / POINTS)
        and top == pytest.approx(2 * np.pi - np.pi / POINTS)
    )


POINTS = 40


def test_labels_carry_units(forecast, ocean):
    strips = field_picture(view(forecast))
    assert "lead time (s)" in _words(strips) and "x (m)" in _words(strips) and "velocity (m s$^{-1}$)" in _words(strips)
    sea = field_picture(view(ocean))
    for label in ("longitude (°E)", "latitude (°N)", "sea surface temperature (K)"):
        assert label in _words(sea)


def test_lyapunov_times_stand_above(forecast):
    figure = field_picture(view(forecast))
    (second,) = (axis for axis in figure.axes[0].child_axes if axis.get_xlabel() == "Lyapunov times")
    encode(figure, ".png", 50)  # limits are known once drawn
    np.testing.assert_allclose(second.get_xlim(), np.array(figure.axes[0].get_xlim()) / 4.0)
    del forecast.attrs["lyapunov_time"]
    assert not field_picture(view(forecast)).axes[0].child_axes


def test_maps_have_north_up_land_missing_and_the_aspect_of_their_latitude(ocean):
    seen = view(ocean)
    figure = field_picture(seen, leads=3)
    image = _images(figure)[0]
    values = image.get_array()
    mean = ocean["sst"].values[0].mean(axis=0)
    np.testing.assert_allclose(values.filled(np.nan), mean[1, ::-1], rtol=1e-6)  # the file has north first
    assert values.mask.sum() == 12
    assert image.axes.get_ylim() == (39.0, 61.0)
    assert image.axes.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(50)))
    assert "1999-02-30" in image.axes.get_title(loc="left")


@pytest.mark.parametrize(
    "names, transpose",
    [(("x", "y"), True), (("y", "x"), False), (("lat", "lon"), False), (("lon", "lat"), True), (("x", "z"), True)],
)
def test_orientation(names, transpose):
    first, last = (SpaceAxis(name, "1", np.arange(3.0)) for name in names)
    across, upwards, swapped = orient((first, last))
    assert swapped is transpose
    assert (across.name, upwards.name) == ((names[0], names[1]) if transpose else (names[1], names[0]))


def test_aspect_is_physical_or_absent():
    axis = lambda length, units="m": SpaceAxis("a", units, np.linspace(0, length, 5))  # noqa: E731
    assert map_aspect(axis(1.0), axis(2.0)) == 1.0
    assert map_aspect(axis(1.0), axis(50.0)) is None
    assert map_aspect(axis(1.0), axis(1.0, "s")) is None
    belt = (
        SpaceAxis("lat", "degrees_north", np.linspace(-5, 5, 9)),
        SpaceAxis("lon", "degrees_east", np.linspace(0, 359, 9)),
    )
    assert map_aspect(belt[1], belt[0]) is None  # a line of a few pixels if drawn to scale


def test_uneven_axes_are_drawn_cell_by_cell():
    y = np.array([0.0, 1.0, 3.0, 9.0])
    states = np.arange(24.0).reshape(2, 3, 4)
    data = xr.Dataset({"u": (("lead_time", "x", "y"), states)}, {"lead_time": [0.0, 1.0], "x": [0.0, 1.0, 2.0], "y": y})
    figure = field_picture(view(data), leads=2)
    mesh = figure.axes[1].collections[0]
    np.testing.assert_allclose(mesh.get_array().reshape(4, 3), states[1].T)
    edges = mesh.get_coordinates()[:, 0, 1]
    np.testing.assert_allclose(edges, [-0.5, 0.5, 2.0, 6.0, 12.0])


def test_observations_are_dots_at_their_places(make_waves):
    analysis = make_waves(kind="analysis", frame=0)
    seen = np.random.default_rng(1).random((2, 24, 40)) < 0.1
    seen[:, 5] = False  # a frame without observations
    observations = make_waves(members=None, frame=0, kind="observations")
    observations["u"] = observations["u"].where(xr.DataArray(seen, dims=("init", "lead_time", "x")))
    drawn = view(observations)
    figure = field_picture(view(analysis), None, drawn)
    (dots,) = (item for item in figure.axes[0].collections if isinstance(item, PathCollection))
    lead, place = np.nonzero(seen[0])
    np.testing.assert_allclose(dots.get_offsets(), np.stack([0.5 * lead, 2 * np.pi * place / 40], axis=1), atol=1e-12)
    np.testing.assert_allclose(dots.get_array(), observations["u"].values[0][seen[0]])
    assert "observations" in figure.axes[0].get_title(loc="left")


def test_nothing_observed_is_said(make_waves):
    empty = make_waves(members=None, kind="observations")
    empty["u"] = empty["u"] * np.nan
    figure = field_picture(view(make_waves(kind="analysis")), None, view(empty))
    assert "none in this window" in figure.axes[0].get_title(loc="left")
    encode(figure, ".png", 40)


def test_analysis_and_forecast_join_at_the_start(make_waves):
    """An analysis of frames 4 to 12, a forecast from frame 12: leads -4 ... 11.5 s, each state once."""
    analysis = view(make_waves(kind="analysis", frame=4, leads=9))
    forecast = view(make_waves(frame=12))
    whole = joined(analysis, forecast)
    assert whole is not None
    np.testing.assert_allclose(whole.leads, np.arange(-4, 12, 0.5))
    np.testing.assert_array_equal(whole.mean[:8], analysis.mean[:8])
    np.testing.assert_array_equal(whole.mean[8:], forecast.mean)
    assert joined(view(make_waves(kind="analysis", frame=4, leads=5)), forecast) is None  # a gap between them
    figure = space_time(whole, panels_of(whole), mark=0.0)
    assert any(np.allclose(line.get_xdata(), 0.0) for line in figure.axes[0].lines)


def test_leads_of_maps():
    assert len(pick_leads(view(_long()), 5)) == 5
    assert pick_leads(view(_long()), 5)[0] == 1  # lead 0 is the initial state, the same for all
    assert pick_leads(view(_long().isel(lead_time=[0])), 5) == [0]


def _long() -> xr.Dataset:
    return xr.Dataset({"u": (("lead_time", "y", "x"), np.zeros((50, 4, 4)))}, {"lead_time": np.arange(50.0)})


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_plot_writes_what_the_suffix_says_and_the_same_bytes_again(tmp_path, make_waves, wave_truth, suffix, magic):
    before = dict(matplotlib.rcParams)
    forecast = make_waves(members=1)
    first = plot(forecast, tmp_path / f"a{suffix}", truth=wave_truth)
    second = plot(forecast, tmp_path / f"b{suffix}", truth=wave_truth)
    assert first.read_bytes().startswith(magic)
    assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"a{suffix}",
        f"b{suffix}",
    ]  # nothing half-written beside
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in vars(sys.modules["eddycast.report.plots"])


def test_degenerate_fields_are_drawn(tmp_path, make_waves):
    """One member, constant values, nothing but missing values, one lead time, dollar signs in names."""
    one = make_waves(members=1, inits=1)
    one["u"].attrs["long_name"] = "price in $ per $_{x"
    plot(one, tmp_path / "one.png")
    plot(one * 0 + 3.0, tmp_path / "constant.png", field="u")
    plot((one * np.nan).assign_attrs(one.attrs), tmp_path / "missing.png")
    plot(one.isel(lead_time=[0]), tmp_path / "lead.svg")
    assert len(list(tmp_path.iterdir())) == 4


def test_wrong_places_and_suffixes(tmp_path, forecast):
    for out, words in [
        (tmp_path / "a.jpeg", r"'\.jpeg'; choose one of \.png"),
        (tmp_path / "picture", "nothing"),
        (tmp_path / "file" / "a.png", "Cannot write"),
    ]:
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=words):
            plot(forecast, out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_inline_svg_needs_nothing_and_takes_the_page_s_ink(forecast):
    text = inline_svg(field_picture(view(forecast)), "first")
    assert "http" not in text and "xmlns" not in text and "#18222d" not in text
    assert text.startswith("<svg") and "currentColor" in text and 'id="first-' in text
    assert text.count("data:image/png;base64,") >= 4


def test_words_of_units():
    assert pretty_units("degrees_north") == "°N" and pretty_units("degreesE") == "°E"
    assert pretty_units("kg m**-3") == "kg m$^{-3}$" and pretty_units("1") == ""
    assert with_units("x", "1") == "x" and with_units("t", "days") == "t (days)"


def test_colour_scale_is_not_bleached_by_one_point():
    values = np.sin(np.linspace(0, 9, 5000))
    values[7] = 1e6
    _, low, high = colour_scale(values)
    assert low == -high and high < 1.01
    _, low, high = colour_scale(np.linspace(270, 300, 100), "temperature K")
    assert 269 < low < 271 < 299 < high < 301


def test_encoded_picture_has_the_size_asked_for():
    figure = new_figure(3.0, 2.0)
    assert Image.open(io.BytesIO(encode(figure, ".png", 100))).size == (300, 200)
