"""The benchmark runs, and its verdicts follow from what it measured. How fast anything is, a test cannot say."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "validation" / "benchmark.py"), "--quick", "--threads", "1"]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "validation"))
    return importlib.import_module("benchmark")


def measured(tmp_path, *arguments):
    """Rows of the report of a quick run."""
    out = tmp_path / "results" / "benchmark.json"
    done = subprocess.run([*COMMAND, *arguments, "--out", str(out)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "Load before" in done.stdout
    return json.loads(out.read_text())


def test_verdicts(benchmark):
    faster = benchmark.Row("a", "", "", ratio=2.6, target=2.5)
    assert faster.met is True and benchmark.Row("a", "", "", ratio=2.4, target=2.5).met is False
    assert benchmark.Row("a", "", "", ratio=0.01, target=0.05, at_most=True).met is True
    assert benchmark.Row("a", "", "", ratio=0.06, target=0.05, at_most=True).met is False
    assert benchmark.Row("a", "", "", ratio=0.06, target=None).met is None


def test_ratio_is_theirs_over_ours(benchmark):
    ours, peer = [{"seconds": s} for s in (1.0, 2.0, 9.0)], [{"seconds": s} for s in (6.0, 5.0, 8.0)]
    row = benchmark.compared("a", ours, peer, 2.5)
    assert row.ratio == 3.0 and row.met
    assert row.details["ratios"] == pytest.approx([8 / 9, 2.5, 6.0])


def test_a_quick_run_of_the_samplers(tmp_path):
    """Every sampler appears at both batch sizes, with the share of the network's pass and the machine beside it."""
    from eddycast.diffusion.registry import SAMPLERS

    report = measured(tmp_path, "--only", "samplers")
    assert report["quick"] and report["threads"] == 1 and report["versions"]["torch"] and report["hardware"]["cores"]
    assert len(report["load_before"]) == len(report["load_after"]) == 3
    assert {row["name"] for row in report["rows"]} == {
        f"sampler {name}, batch {batch}" for name in SAMPLERS for batch in (8, 64)
    }
    assert all(0 < row["ratio"] < 1 and row["target"] == 0.05 for row in report["rows"])


@pytest.mark.slow
def test_a_quick_run_against_the_peers(tmp_path, referee):
    """The same work on both sides: errors of the same size, the same score."""
    for name in ("exponax", "scoringrules"):
        referee(name)
    report = measured(tmp_path, "--only", "ks", "--only", "crps")
    solvers = [row for row in report["rows"] if row["name"].startswith("kuramoto")]
    assert len(solvers) == 2 and len(report["rows"]) == 4
    for row in solvers:
        ours, peer = row["details"]["ours"][0], row["details"]["peer"][0]
        assert ours["finite"] and peer["finite"] and peer["compile_seconds"] > 0
        assert 0.5 < ours["error"] / peer["error"] < 2
        assert row["details"]["exact_solutions_differ"] < 1e-5


def test_missing_data_are_said_and_skipped(tmp_path, referee):
    referee("the_well")
    report = measured(tmp_path, "--only", "data", "--data", str(tmp_path))
    assert report["rows"] == []
