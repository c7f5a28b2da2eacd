"""Data that do not fit into the memory that is allowed are read window by window, and the memory stays flat."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from eddycast import data as rooms
from eddycast.grid import Grid, periodic_axis

SIZE = 64  # MiB of the training split, about
LIMIT, UNLIMITED = 2**22, 2**30

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """10 trajectories of 512 maps of 64 x 64 points; 8 of them are the training split."""
    place = tmp_path_factory.mktemp("large") / "data"
    states = torch.randn(10, 512, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    grid = Grid((periodic_axis("x", 64, 1.0), periodic_axis("y", 64, 1.0)))
    rooms.write_well(rooms.from_arrays(states, fields=["u"], grid=grid, dt=1.0), place)
    return place


def growth(what: str, data: Path, out: Path, limit: int) -> float:
    """MiB by which a process grows while it goes through windows of the training split, more frames of them than there are."""
    program = Path(__file__).with_name("streaming.py")
    words = [sys.executable, str(program), what, str(data), str(out), str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.splitlines()[-1])


def test_windows_stream_at_flat_memory(data, tmp_path):
    """The same pass with the split held in memory shows that the measure sees it."""
    assert growth("iterate", data, tmp_path, LIMIT) < SIZE / 2  # what libraries allocate at first use
    assert growth("iterate", data, tmp_path, UNLIMITED) > 0.8 * SIZE


def test_training_streams_at_flat_memory(data, tmp_path):
    assert growth("train", data, tmp_path / "run", LIMIT) < SIZE / 4
