"""A run directory has one writer: the second is refused in one line, and a killed one leaves nothing in the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_corpus
import pytest

from eddycast import api
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.files import staged_directory
from eddycast.training import exclusive, lock

HOLD = """
import sys, time
from pathlib import Path
from eddycast.training import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(directory: Path, seconds: float = 600) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    words = [sys.executable, "-c", HOLD, str(directory), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def data():
    return api.simulate("kuramoto-sivashinsky", trajectories=5, steps=12, grid=(24,), seed=0)


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(fuzz_corpus.RECIPE)
    return path


def test_second_writer_is_refused_until_the_first_is_killed(tmp_path, capsys, recipe):
    api.simulate("kuramoto-sivashinsky", trajectories=5, steps=12, grid=(24,), seed=0, out=tmp_path / "data")
    directory = tmp_path / "run"
    words = ["train", str(recipe), "--data", str(tmp_path / "data"), "--out", str(directory)]
    process = hold(directory)
    try:
        before = sorted(directory.rglob("*"))
        capsys.readouterr()
        assert run(words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert (
            len(lines) == 1
            and str(process.pid) in lines[0]
            and "being written" in lines[0]
            and str(directory) in lines[0]
        )
        assert sorted(directory.rglob("*")) == before  # the first is left alone
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (directory / "training" / "lock").exists()  # a killed process removes nothing, and nothing has to be removed
    assert run(words) == 0
    assert not (directory / "training" / "lock").exists()


@pytest.mark.parametrize("more", [["--resume"], ["--stage", "regression"]])
def test_resuming_and_single_stages_need_the_lock_as_well(tmp_path, capsys, recipe, data, more):
    directory = tmp_path / "run"
    trained = api.train(recipe, data=data, out=directory, observer=fuzz_corpus.Silent())
    api.simulate("kuramoto-sivashinsky", trajectories=5, steps=12, grid=(24,), seed=0, out=tmp_path / "data")
    weights = trained.run.fingerprint()
    with exclusive(directory):  # locks belong to open files: the same process cannot take it twice either
        capsys.readouterr()
        assert run(["train", str(recipe), "--data", str(tmp_path / "data"), "--out", str(directory), *more]) == 2
    assert "being written" in capsys.readouterr().err
    assert api.load(directory).run.fingerprint() == weights


def test_reading_needs_no_lock(tmp_path, recipe, data):
    directory = tmp_path / "run"
    api.train(recipe, data=data, out=directory, observer=fuzz_corpus.Silent())
    with exclusive(directory):
        assert api.load(directory).run is not None


def test_lock_says_who_and_goes_with_its_folders(tmp_path):
    directory = tmp_path / "a" / "run"
    with exclusive(directory):
        content = json.loads((directory / "training" / "lock").read_text())
        assert content["pid"] == os.getpid() and content["host"] and content["since"]
        with pytest.raises(InputError, match=str(os.getpid())), exclusive(directory):
            pass
        assert (directory / "training" / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    with exclusive(directory):
        (directory / "file").write_text("x")
    assert [path.name for path in directory.iterdir()] == ["file"]


def test_many_in_turn_never_two_at_once(tmp_path):
    """Removing the file of a lock is where such schemes break: one may lock a file that has just lost its name."""
    source = """
import sys, time
from pathlib import Path
from eddycast.errors import InputError
from eddycast.training import exclusive
directory, mark, done = Path(sys.argv[1]), Path(sys.argv[2]), 0
while done < 40:
    try:
        with exclusive(directory):
            mark.touch(exist_ok=False)  # fails where another one is inside
            mark.unlink()
            done += 1
    except InputError:
        time.sleep(0.0005)
"""
    words = [sys.executable, "-c", source, str(tmp_path / "run"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_process_does_not_keep_the_lock(tmp_path):
    """A worker that reads data lives on for a while when its parent is killed."""
    with exclusive(tmp_path / "run"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        with exclusive(tmp_path / "run"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", refuse)
    with pytest.warns(UserWarning, match="knows no locks"), exclusive(tmp_path / "run"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_lock_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file") as caught, exclusive(tmp_path / "file" / "run"):
        pass
    assert "\n" not in str(caught.value)


def test_two_writers_of_one_file_leave_a_whole_one(tmp_path, data):
    """Whoever ends last wins; nobody reads half of either."""
    source = """
import sys
from pathlib import Path
from eddycast.files import write_bytes
for _ in range(50):
    write_bytes(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
"""
    target = tmp_path / "out.nc"
    words = [[sys.executable, "-c", source, str(target), letter] for letter in "ab"]
    processes = [subprocess.Popen(one) for one in words]
    while any(process.poll() is None for process in processes):
        if target.exists():
            content = target.read_bytes()
            assert len(content) == 100_000 and len(set(content)) == 1
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out.nc"]


def test_staged_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    (target / "both").write_text("old")
    with pytest.raises(KeyboardInterrupt), staged_directory(target, 1) as stage:
        (stage / "both").write_text("new")
        raise KeyboardInterrupt
    assert {path.name: path.read_text() for path in target.iterdir()} == {"old": "old", "both": "old"}
    with staged_directory(target, 1) as stage:
        (stage / "both").write_text("new")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"old": "old", "both": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
