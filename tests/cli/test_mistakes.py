"""Ten typical mistakes: each ends in one clear line and exit code 2, with nothing half-written under the final name."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from eddycast import api
from eddycast.cli.app import run

SYSTEM = "kuramoto-sivashinsky"
RECIPE = "ks/regression-smoke"


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command that must be refused; return its one line."""
    monkeypatch.delenv("EDDYCAST_DEBUG", raising=False)

    def refuse(*words, out: Path | None = None) -> str:
        before = snapshot(out)
        code = run([str(word) for word in words] + ([] if out is None else ["--out", str(out)]))
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("eddycast: ")]
        assert code == 2, captured.err + captured.out
        assert len(lines) == 1
        assert captured.err.rstrip().endswith(lines[0])  # whatever progress came before, the reason comes last
        assert len(lines[0]) < 500
        assert snapshot(out) == before
        return lines[0]

    return refuse


def snapshot(out: Path | None) -> set[str]:
    """Everything that lies beside an output, temporary files included."""
    return set() if out is None or not out.parent.is_dir() else {str(path) for path in out.parent.rglob("*")}


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mistakes")


@pytest.fixture(scope="module")
def data(room) -> Path:
    """A small, sound data set."""
    api.simulate(SYSTEM, trajectories=8, steps=40, seed=0, out=room / "data")
    return room / "data"


@pytest.fixture(scope="module")
def trained(room, data) -> Path:
    """A small, sound run."""
    api.train(RECIPE, data=data, out=room / "run")
    return room / "run"


def write_netcdf(path: Path, *, frames: int = 60, shape: tuple[int, ...] = (64,), field: str = "u", spoil=None) -> Path:
    """Travelling waves as a NetCDF file, like the KS data save for what is asked."""
    axes = ["x", "y", "z"][: len(shape)]
    coordinates = [np.arange(points) * 36.0 / points for points in shape]
    phase = sum(np.meshgrid(*coordinates, indexing="ij"))
    times = np.arange(float(frames))
    values = np.sin(2 * np.pi / 36 * (phase[None] - times.reshape(-1, *(1 for _ in shape)))).astype("float32")
    if spoil is not None:
        spoil(values)
    xr.Dataset(
        {field: (("time", *axes), values, {"units": "1"})},
        {"time": times, **{name: (name, points) for name, points in zip(axes, coordinates, strict=True)}},
    ).to_netcdf(path, engine="h5netcdf")
    return path


# 1. Missing file


def test_missing_file_is_named(refused, room, trained):
    missing = room / "missing.nc"
    out = room / "never.nc"
    assert "missing.nc" in refused("inspect", missing)
    assert "missing.nc" in refused("train", RECIPE, "--data", missing, out=room / "never")
    assert "missing.nc" in refused("forecast", trained, "--data", missing, out=out)
    assert "missing.nc" in refused("observe", missing, out=out)
    assert "missing.nc" in refused("assimilate", trained, "--observations", missing, out=out)
    assert "missing.nc" in refused("evaluate", missing, "--truth", missing)
    assert "missing.nc" in refused("plot", missing, out=room / "never.png")
    assert "missing.nc" in refused("report", missing, out=room / "never.html")
    assert "missing" in refused("forecast", room / "missing", "--data", trained, out=out)


# 2. Wrong field


def test_wrong_field_names_what_came_and_what_was_expected(refused, room, trained):
    other = write_netcdf(room / "temperature.nc", field="temperature")
    line = refused("forecast", trained, "--data", other, "--steps", 2, out=room / "never.nc")
    assert "temperature" in line
    assert "u" in re.findall(r"\w+", line)


# 3. NaN in the data


def test_nan_in_the_data_is_located(refused, room):
    def spoil(values):
        values[7, 5] = np.nan

    spoiled = write_netcdf(room / "nan.nc", spoil=spoil)
    line = refused("train", RECIPE, "--data", spoiled, out=room / "never")
    assert "nan.nc" in line
    assert "7" in line  # the frame


# 4. Too short trajectories


def test_too_short_trajectories_tell_how_long_they_must_be(refused, room):
    short = write_netcdf(room / "short.nc", frames=2)
    line = refused("train", RECIPE, "--data", short, out=room / "never")
    assert "short.nc" in line
    assert "2" in line or "1" in line


# 5. Unknown recipe, run, system, method


def test_unknown_names_get_the_nearest_known_ones(refused, room, data, trained):
    assert RECIPE in refused("train", "ks/regresion-smoke", out=room / "never")
    assert SYSTEM in refused("simulate", "kuramoto-sivashinski", out=room / "never")
    assert "persistence" in refused("forecast", "baseline:persistance", "--data", data, out=room / "never.nc")
    assert SYSTEM in refused("forecast", "system:kuramoto-sivashinski", "--data", data, out=room / "never.nc")
    observations = room / "observations.nc"
    assert run(["observe", str(data), "--out", str(observations)]) == 0
    words = ("assimilate", trained, "--observations", observations, "--method", "etfk")
    assert "etkf" in refused(*words, out=room / "never.nc")


def test_unknown_setting_names_its_path(refused, room, data):
    assert "no_such_setting" in refused(
        "train", RECIPE, "--data", data, "--set", "no_such_setting=1", out=room / "never"
    )


def test_an_output_never_replaces_its_input(refused, room, data, trained, tmp_path, monkeypatch):
    made, seen, scores = tmp_path / "f.nc", tmp_path / "o.nc", tmp_path / "s.json"
    options = ("--steps", 2, "--members", 2)
    assert run([str(word) for word in ("forecast", trained, "--data", data, *options, "--out", made)]) == 0
    assert run(["observe", str(data), "--out", str(seen)]) == 0
    assert run(["evaluate", str(made), "--truth", str(data), "--out", str(scores)]) == 0
    before = {path: path.read_bytes() for path in (made, seen, scores)}
    monkeypatch.chdir(tmp_path)
    for out, *words in (
        (Path("f.nc"), "evaluate", made, "--truth", data),
        (made, "forecast", trained, "--data", data, "--start", made, *options),
        (made, "forecast", trained, "--data", f"{made}?fields=u", *options),
        (made, "reconstruct", trained, "--data", made),
        (made, "observe", made),
        (seen, "assimilate", trained, "--observations", seen),
        (made, "assimilate", trained, "--observations", seen, "--background", tmp_path / "." / "f.nc"),
        (made, "plot", made),
        (scores, "report", scores, made),
    ):
        assert f"{out} would overwrite its input" in refused(*words, out=out)
    assert {path: path.read_bytes() for path in before} == before


def test_runs_and_families_are_no_data(refused, room, data, trained, tmp_path):
    family = tmp_path / "family"
    for name in ("length-22", "length-36"):
        shutil.copytree(data, family / name)
    for words in (
        ("statistics",),
        ("events",),
        ("evaluate", "--truth", data),
        ("evaluate", data, "--truth"),
        ("inspect",),
    ):
        assert "is a run, not data: make a file with `eddycast forecast" in refused(*words, trained)
        assert "name one of length-22, length-36" in refused(*words, family)
    assert "is a run, not data" in refused("plot", trained, out=tmp_path / "p.png")
    assert "name one of length-22, length-36" in refused("plot", family, out=tmp_path / "p.png")


def test_weights_of_another_network_say_what_must_agree(refused, room, data, trained):
    line = refused(
        "train", RECIPE, "--data", data, "--init", trained, "--set", "emulator.network.channels=[8]", out=room / "never"
    )
    assert "another network or another number of parameters" in line and "same emulator.network settings" in line


# 6. Wrong dimension


def test_wrong_dimension_is_told_in_dimensions(refused, room, trained):
    plane = write_netcdf(room / "plane.nc", shape=(16, 16))
    line = refused("forecast", trained, "--data", plane, "--steps", 2, out=room / "never.nc")
    assert "plane.nc" in line or "dimension" in line or "axes" in line or "grid" in line


# 7. Truncated HDF5


def test_truncated_file_is_named(refused, room, data):
    whole = next(path for path in sorted(data.rglob("*")) if path.suffix in (".hdf5", ".h5"))
    broken = room / "broken.hdf5"
    content = whole.read_bytes()
    for length in (len(content) // 2, 100, 0):
        broken.write_bytes(content[:length])
        assert "broken.hdf5" in refused("inspect", broken)
        assert "broken.hdf5" in refused("train", RECIPE, "--data", broken, out=room / "never")


# 8. Read-only or full output


def test_output_that_cannot_be_written_is_named(refused, room, data, trained, tmp_path):
    file = tmp_path / "file"
    file.write_text("in the way")
    assert "file" in refused("simulate", SYSTEM, "--trajectories", 2, "--steps", 2, out=file / "data")
    assert "file" in refused("forecast", trained, "--data", data, "--steps", 2, "--members", 2, out=file / "f.nc")
    assert "file" in refused("observe", data, out=file / "o.nc")
    assert "file" in refused("train", RECIPE, "--data", data, out=file / "run")
    assert "file" in refused("plot", data, out=file / "p.png")
    assert "file" in refused("report", trained, out=file / "r.html")
    assert file.read_text() == "in the way"


def full_disk() -> None:
    """A stand-in for a full disk, which root meets too: no file may grow beyond 20 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_full_disk_leaves_nothing_behind(name, data, tmp_path):
    words = [
        "forecast",
        "baseline:climatology",
        "--data",
        data,
        "--steps",
        "20",
        "--members",
        "64",
        "--out",
        tmp_path / name,
    ]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "eddycast", *map(str, words)],
        env=environment,
        preexec_fn=full_disk,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("eddycast: ") for line in done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


# 9. Incompatible run


def test_incompatible_run_is_told_apart(refused, room, data, trained, tmp_path):
    out = tmp_path / "never.nc"
    coarse = write_netcdf(room / "coarse.nc", shape=(48,), field="u")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in refused("forecast", empty, "--data", data, out=out)

    for name, text in (("garbled", "{not json"), ("strange", json.dumps({"a": 1}))):
        broken = tmp_path / name
        shutil.copytree(trained, broken)
        (broken / "config.json").write_text(text)
        assert name in refused("forecast", broken, "--data", data, out=out)

    lost = tmp_path / "lost"
    shutil.copytree(trained, lost)
    for weights in (lost / "components").glob("*.safetensors"):
        weights.unlink()
    assert "lost" in refused("forecast", lost, "--data", data, out=out)

    cut = tmp_path / "cut"
    shutil.copytree(trained, cut)
    for weights in (cut / "components").glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    assert "cut" in refused("forecast", cut, "--data", data, out=out)

    line = refused("forecast", trained, "--data", coarse, "--steps", 2, out=out)
    assert "48" in line
    assert "64" in line


# 10. Interrupted write


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("name", ["f.nc", "f.zarr"])
def test_interrupted_write_leaves_nothing_under_the_final_name(signal_number, name, data, tmp_path):
    """Stopped as soon as anything appears in the directory: that moment is in the middle of the write."""
    out = tmp_path / name
    words = ["forecast", "baseline:persistence", "--data", data, "--steps", "30", "--members", "512", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "eddycast", *map(str, words)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a runner may have it ignored
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.001)
    early = process.poll() is None
    process.send_signal(signal_number)
    _, errors = process.communicate()
    assert early, "the command ended before it could be interrupted"
    if out.exists():  # it was quicker than the signal, then all is there
        xr.open_dataset(out).load()
    else:
        assert process.returncode == (130 if signal_number == signal.SIGINT else -signal.SIGKILL)
    if process.returncode == 130:
        assert errors.splitlines()[-1].startswith("eddycast: interrupted")
        assert list(tmp_path.iterdir()) == []
