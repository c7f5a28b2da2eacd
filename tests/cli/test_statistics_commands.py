"""`eddycast statistics` and `eddycast events`: files in, table, JSON and picture out, mistakes in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from eddycast.cli.app import run

Y = 2 * np.pi * np.arange(32) / 32
AXIS = ("y", Y, {"eddycast_boundary": "periodic periodic", "eddycast_period": 2 * np.pi})


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An ensemble of 40 members of which a quarter has two jets instead of three from lead 20 on, and data of the same kind."""
    folder = tmp_path_factory.mktemp("statistics")
    generator = np.random.default_rng(0)
    number = np.full((40, 60), 3)
    number[:10, 19:] = 2
    profiles = np.cos(number[..., None] * Y) + 0.02 * generator.standard_normal((40, 60, 32))
    xr.Dataset(
        {"u": (("init", "member", "lead_time", "y"), profiles[None].astype(np.float32))},
        {
            "trajectory": ("init", [0]),
            "frame": ("init", [0]),
            "lead_time": ("lead_time", np.arange(1.0, 61.0), {"units": "1", "step": 1.0}),
            "y": AXIS,
        },
        {"eddycast_kind": "forecast"},
    ).to_netcdf(folder / "forecast.nc", engine="h5netcdf")
    before = np.cos(3 * Y) * np.ones((40, 1, 1))
    xr.Dataset(
        {"u": (("trajectory", "time", "y"), np.concatenate([before, profiles], axis=1).astype(np.float32))},
        {"time": np.arange(61.0), "y": AXIS},
    ).to_netcdf(folder / "data.nc", engine="h5netcdf")
    return folder


def command(capsys, *words):
    code = run([str(word) for word in words])
    return code, capsys.readouterr()


def test_statistics_are_printed_written_and_drawn(place, tmp_path, capsys):
    out, picture = tmp_path / "s.json", tmp_path / "s.png"
    code, shown = command(
        capsys, "statistics", place / "forecast.nc", "--truth", place / "data.nc", "--split", "all", "--jets", "--width", 1,
        "--skip", 1, "--out", out, "--picture", picture,
    )  # fmt: skip
    assert code == 0, shown.err
    for word in ("u_yy", "Hellinger", "by chance", "coalescences", "correlation falls", f"Wrote {out}"):
        assert word in shown.out
    (group,) = json.loads(out.read_text())["groups"]
    assert group["jets"]["coalescences"] == 10 and group["truth_jets"]["coalescences"] == 10
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_events_are_printed_written_and_drawn(place, tmp_path, capsys):
    out, picture = tmp_path / "e.json", tmp_path / "e.svg"
    words = [
        "events",
        place / "forecast.nc",
        "--truth",
        place / "data.nc",
        "--width",
        1,
        "--out",
        out,
        "--picture",
        picture,
    ]
    code, shown = command(capsys, *words)
    assert code == 0, shown.err
    assert "the number of jets has changed" in shown.out and "0.250 [0." in shown.out and "+0.000" in shown.out
    (case,) = json.loads(out.read_text())["cases"]
    assert case["forecast"]["hits"][17:20] == [0, 0, 10]
    assert case["forecast"]["times"]["median"] == "inf" and case["p_value"] == 1.0
    assert picture.read_text().lstrip().startswith("<?xml")
    code, shown = command(capsys, "events", place / "forecast.nc", "--event", "rms>5")
    assert code == 0 and "rms of the field has been above 5" in shown.out and "0.000 [0.000, 0.088]" in shown.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("statistics", "missing.nc"), "missing.nc"),
        (("statistics", "@forecast.nc", "--field", "v"), "no field 'v'"),
        (("statistics", "@forecast.nc", "--by", "beta"), "no parameter 'beta'"),
        (("statistics", "@data.nc", "--split", "al"), "valid ones: train, valid, test, all."),
        (("statistics", "@forecast.nc", "--out", "@forecast.nc"), "would overwrite its input"),
        (
            ("statistics", "@forecast.nc", "--truth", "@data.nc?periodic=y", "--out", "@data.nc"),
            "would overwrite its input",
        ),
        (("events", "@forecast.nc", "--truth", "@data.nc", "--out", "@data.nc"), "would overwrite its input"),
        (("statistics", "@forecast.nc", "--jets", "--prominence", "0"), "--prominence"),
        (("events", "@forecast.nc", "--event", "storms"), "no event 'storms'"),
        (("events", "@forecast.nc", "--event", "mean>high"), "no number"),
        (("events", "@forecast.nc", "--hold", "0"), "--hold"),
        (("statistics", "@forecast.nc", "--picture", "s.txt"), ".png"),
        (("events", "@forecast.nc", "--picture", "e.txt"), ".png"),
    ],
)
def test_mistakes_end_in_one_line(place, words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, shown = command(capsys, *(str(place / word[1:]) if word.startswith("@") else word for word in words))
    assert code == 2 and told in shown.err and len(shown.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
