"""`eddycast evaluate --derive`: the vorticity of a velocity in the place of it, with passes in what is printed."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import xarray as xr

from eddycast.cli.app import run

FRAMES, POINTS = 7, 16


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Flow of which the forecast has 1.1 times the velocity: every error is a tenth of the truth."""
    place = tmp_path_factory.mktemp("flow")
    x = 2 * math.pi * np.arange(POINTS) / POINTS
    phase = np.arange(3)[:, None, None, None] + 0.3 * np.arange(FRAMES)[:, None, None]
    flow = {
        "velocity_x": np.sin(x[None, :] - phase) + 0 * x[:, None],
        "velocity_y": np.cos(x[:, None] + phase) + 0 * x[None, :],
    }
    space = {name: (name, x, {"eddycast_boundary": "periodic periodic", "units": "1"}) for name in "xy"}
    dims = ("trajectory", "time", "x", "y")
    truth = xr.Dataset(
        {name: (dims, values.astype(np.float32)) for name, values in flow.items()},
        {"time": 0.2 * np.arange(FRAMES), **space},
    )
    forecast = xr.Dataset(
        {
            name: (("init", "member", "lead_time", "x", "y"), 1.1 * values[:, None, 1:].astype(np.float32))
            for name, values in flow.items()
        },
        {
            "trajectory": ("init", np.arange(3)),
            "frame": ("init", np.zeros(3, dtype=int)),
            "lead_time": ("lead_time", 0.2 * np.arange(1, FRAMES), {"units": "1", "step": 0.2}),
            **space,
        },
        {"eddycast_kind": "forecast", "eddycast_network_passes_forward": 40.0, "eddycast_network_passes_backward": 0.0},
    )
    truth.to_netcdf(place / "truth.nc", engine="h5netcdf")
    forecast.to_netcdf(place / "forecast.nc", engine="h5netcdf")
    return place


def error(place, capsys, *more):
    code = run(["evaluate", str(place / "forecast.nc"), "--truth", str(place / "truth.nc"), *more])
    return code, capsys.readouterr()


def test_the_vorticity_is_scored_in_either_convention(files, tmp_path, capsys):
    rms = {}
    for kind in ("vorticity", "vorticity-published"):
        out = tmp_path / f"{kind}.json"
        code, shown = error(files, capsys, "--derive", kind, "--out", str(out))
        assert code == 0, shown.err
        assert "40 + 0" in shown.out
        assert f"{kind.replace('-', '_')}: RMSE" in shown.out
        summary = json.loads(out.read_text())["summary"]
        (field,) = summary["fields"].values()
        rms[kind] = field["rmsd"]["member_point"]["value"]
    # Both parts have mode 1: -sin(x + phase) - cos(y - phase), root mean square 1, of which a tenth is wrong.
    assert rms["vorticity"] == pytest.approx(0.1, rel=1e-4)
    step = 2 * math.pi / POINTS
    assert rms["vorticity-published"] == pytest.approx(0.1 * math.sin(step), rel=1e-4)


def test_without_the_option_the_velocity_is_scored_and_mistakes_end_in_one_line(files, capsys):
    code, shown = error(files, capsys)
    assert code == 0 and "velocity_x: RMSE" in shown.out and "vorticity" not in shown.out
    code, shown = error(files, capsys, "--derive", "enstrophy")
    assert code == 2
    assert "vorticity or vorticity-published" in shown.err and len(shown.err.strip().splitlines()) == 1
