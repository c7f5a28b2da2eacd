"""Forecasts, scores and comparisons that two processes share are those of one; and what torchrun itself starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import joined
import numpy as np
import pytest
import torch
import xarray as xr

from eddycast import api
from eddycast.api.shares import chunk_size, part_starts
from eddycast.cli.app import run
from eddycast.training import RunDirectory, SilentObserver, read_tensors

RECIPE = "ks/universal-smoke"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run, its data, and the forecasts and scores that two processes made."""
    place = tmp_path_factory.mktemp("shared")
    data = api.simulate("kuramoto-sivashinsky", trajectories=30, steps=24, seed=0, out=place / "data")
    overrides = {"training.steps": 20}
    api.train(RECIPE, data=data, out=place / "run", overrides=overrides, observer=SilentObserver())
    joined.Together(place, work, place, "two").succeed()
    assert work(place, "one") == 0
    return place


def work(place: Path, name: str) -> int:
    """The same commands, by one process or several."""
    run_, data, out = str(place / "run"), str(place / "data"), place / name
    out.mkdir(exist_ok=True)
    common = ["forecast", run_, "--data", data, "--members", "5"]
    commands = [
        [*common, "--steps", "6", "--out", str(out / "chunks.nc"), "--set", "chunk=4"],
        [*common, "--steps", "6", "--out", str(out / "whole.nc"), "--seed", "3"],
        [*common, "--steps", "2", "--out", str(out / "on.nc"), "--start", str(out / "chunks.nc")],
        ["evaluate", str(out / "chunks.nc"), "--truth", data, "--out", str(out / "chunks.json")],
        [
            "compare",
            run_,
            "baseline:persistence",
            "--data",
            data,
            "--out",
            str(out / "table"),
            "--members",
            "1",
            "--steps",
            "4",
        ],
    ]
    return max(run(words) for words in commands)


def states(place: Path, name: str, file: str) -> xr.Dataset:
    with xr.open_dataset(place / name / file) as content:
        return content.load()


@pytest.mark.parametrize(("file", "tolerance"), [("chunks.nc", 0.0), ("whole.nc", 1e-5), ("on.nc", 1e-5)])
def test_a_shared_forecast_is_that_of_one_process(file, tolerance, place):
    """Bit by bit where the chunk leaves work for both, else to rounding."""
    one, two = states(place, "one", file), states(place, "two", file)
    assert one.sizes == two.sizes == {**one.sizes, "init": 3, "member": 5}
    assert np.abs(one["u"].values - two["u"].values).max() <= tolerance
    assert np.ptp(one["u"].values, axis=1).min() > 0  # members differ
    for name in one.coords:
        assert one[name].equals(two[name])


def numbers(content: object) -> list[float]:
    """All numbers of a JSON document, in order."""
    if isinstance(content, dict):
        return [number for key in sorted(content) for number in numbers(content[key])]
    if isinstance(content, list):
        return [number for item in content for number in numbers(item)]
    return [float(content)] if isinstance(content, int | float) else []


def scores(place: Path, name: str, pattern: str) -> dict:
    (path,) = (place / name).glob(pattern)
    return json.loads(path.read_text())


def test_shared_scores_are_those_of_one_process(place):
    """Contributions of cases are exact; only sums of histograms and spectra are taken in another order."""
    found = [scores(place, name, "chunks.json") for name in ("one", "two")]
    one, two = (numbers(content) for content in found)
    assert len(one) == len(two) > 100
    assert np.allclose(one, two, rtol=1e-9, atol=1e-12, equal_nan=True)
    crps = [numbers(content["variables"]["crps"]) for content in found]
    assert crps[0] == crps[1]


def test_a_shared_comparison_is_that_of_one_process(place):
    """The forecasts agree to rounding, and so do their errors."""
    assert {path.name for path in (place / "two" / "table").iterdir()} == {
        path.name for path in (place / "one" / "table").iterdir()
    }
    for method in ("*run.scores.json", "baseline-persistence.scores.json"):
        errors = [
            numbers(scores(place, name, f"table/{method}")["variables"]["rmse_member"]) for name in ("one", "two")
        ]
        assert errors[0] == pytest.approx(errors[1], rel=1e-4)


def test_one_process_prints_and_writes(place):
    first, second = (path.read_text() for path in (place / "said-0", place / "said-1"))
    assert first.count("Wrote forecast") == 3
    assert second == ""
    assert {path.name for path in (place / "two").iterdir()} == {path.name for path in (place / "one").iterdir()}


@pytest.mark.parametrize("entries", [1, 5, 12, 257])
@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_shares_are_whole_chunks_and_cover_everything_once(entries, chunk, processes):
    starts, size = part_starts(entries, chunk, processes), chunk_size(entries, chunk, processes)
    assert starts[0] == 0
    assert starts[-1] == entries
    lengths = [stop - start for start, stop in pairwise(starts)]
    assert min(lengths) >= 0
    assert all(start % size == 0 for start in starts[:-1] if start < entries)
    assert max(lengths) - min(lengths) <= 2 * size
    if chunk * processes <= entries:
        assert size == chunk  # then the states are bit by bit those of one process


def torchrun(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(joined.free_port()),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(
        [*command, "-m", "eddycast", *words], capture_output=True, text=True, env=environment, timeout=240, check=False
    )


@pytest.mark.slow
def test_torchrun_trains_with_the_weights_of_one_process(place, tmp_path):
    settings = {"training.steps": 4, "training.batch_size": 8}
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    done = torchrun("train", RECIPE, "--data", str(place / "data"), "--out", str(tmp_path / "two"), *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote run") == 1
    api.train(RECIPE, data=place / "data", out=tmp_path / "one", overrides=settings, observer=SilentObserver())
    one, two = (read_tensors(RunDirectory(tmp_path / name).component("model"))[0] for name in ("one", "two"))
    assert all(torch.allclose(two[key], one[key], atol=2e-5) for key in one)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["provenance"]["processes"] == 2


def test_commands_that_one_process_runs_are_refused_before_they_begin(monkeypatch, capsys, tmp_path):
    for name, value in {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert run(["simulate", "kuramoto-sivashinsky", "--out", str(tmp_path / "data")]) == 2
    assert "runs in one process" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("words", [["train", "--no-such-option"], ["--version"]])
def test_a_launched_process_ends_without_the_teardown_of_the_interpreter(words, monkeypatch):
    """Threads of a process group may abort that; the exit code, and what was said, are those of the command."""
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "h",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    script = "import atexit, sys; atexit.register(print, 'torn down'); from eddycast.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if words == ["--version"] else 2)
    assert "torn down" not in done.stdout
    assert ("eddycast 0" in done.stdout) or ("no-such-option" in done.stderr)
