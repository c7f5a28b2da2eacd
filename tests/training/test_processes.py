"""Two processes that share the batches end with the weights of one, to rounding; one of them writes."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import joined
import pytest
import torch

from eddycast import api, distributed
from eddycast.cli.app import run
from eddycast.data import WindowBatches
from eddycast.errors import InputError
from eddycast.training import RunDirectory, loop, read_tensors

SETTINGS = {"training.steps": 6, "training.batch_size": 8, "emulator.network.channels": [16, 16]}
CASES = {
    "regression, muon": ("ks/regression-smoke", {"emulator.horizon": 2}),
    "regression, adamw, passes": (
        "ks/regression-smoke",
        {"training.optimiser": "adamw", "emulator.unroll": 2, "training.accumulate": 2},
    ),
    "scoring, muon, uneven passes": ("ks/scoring-smoke", {"training.batch_size": 9, "training.accumulate": 3}),
    "scoring, adamw, three stages": (
        "ks/scoring-smoke",
        {"training.optimiser": "adamw", "emulator.unroll": 2, "emulator.members": 3, "emulator.horizon": 2},
    ),
    "universal, muon, uneven": ("ks/universal-smoke", {"training.batch_size": 7}),
    "universal, adamw, passes": ("ks/universal-smoke", {"training.optimiser": "adamw", "training.accumulate": 2}),
}


def train_all(out: Path) -> None:
    data = joined.small_data()
    with distributed.process_group():
        for name, (recipe, changes) in CASES.items():
            joined.train_doubled(data, out / name, recipe, SETTINGS | changes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """All cases trained by two processes."""
    place = tmp_path_factory.mktemp("two")
    joined.Together(place, train_all, place / "runs").succeed()
    return place / "runs"


@pytest.mark.parametrize("name", CASES)
def test_two_processes_end_with_the_weights_of_one_with_the_joined_batch(name, shared, tmp_path):
    recipe, changes = CASES[name]
    one_pass = SETTINGS | {key: value for key, value in changes.items() if key != "training.accumulate"}
    joined.train_doubled(joined.small_data(), tmp_path / "one", recipe, one_pass)
    ours, theirs = joined.trained(tmp_path / "one"), joined.trained(shared / name)
    assert ours.keys() == theirs.keys()
    assert all(weight.dtype == torch.float64 for weight in theirs.values())
    # AdamW divides gradients by their own size: entries that are nearly zero carry their rounding on, up to some 1e-11.
    distance = sum((theirs[key] - weight).square().sum() for key, weight in ours.items())
    norm = sum(weight.square().sum() for weight in ours.values())
    assert (distance / norm) ** 0.5 < 1e-10


# What happens around the steps


def test_batches_that_cannot_be_shared_are_refused_in_one_line_by_all(tmp_path):
    work = joined.Together(
        tmp_path, command, [*line(tmp_path, "ks/regression-smoke"), "--set", "training.batch_size=1"]
    )
    assert work.codes() == [2, 2]
    assert all("cannot be shared by 2 processes" in place.read_text() for place in work.said)
    assert not list((tmp_path / "run").rglob("checkpoint*"))


def command(words: list[str]) -> int:
    """`eddycast ...` as torchrun would start it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(words)


def line(place: Path, recipe: str, *more: str) -> list[str]:
    data = place / "data"
    if not data.exists():
        api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0, out=data)
    return ["train", recipe, "--data", str(data), "--out", str(place / "run"), "--threads", "1", *more]


@pytest.mark.parametrize(("number", "to"), [(signal.SIGINT, (0, 1)), (signal.SIGTERM, (1,))], ids=str)
def test_a_signal_to_any_process_stops_all_after_the_same_step_and_resume_is_exact(number, to, tmp_path):
    """Two signals each, as torchrun passes on what the terminal has sent already; the first process alone writes."""
    words = line(tmp_path, "ks/universal-smoke", "--set", "training.steps=30", "--set", "training.accumulate=2")
    words += ["--set", "training.checkpoint_seconds=1e9", "--set", "training.validations=2"]
    files = RunDirectory(tmp_path / "run")
    work = joined.Together(tmp_path, command, words)
    joined.wait(work, lambda: files.log.is_file() and files.log.read_text().count("\n") >= 4)
    for process in to:
        for _ in range(2):
            os.kill(work.processes[process].pid or 0, number)
    assert work.codes() == [130, 130], work.text()
    assert work.text().count("interrupted") == 1
    position = json.loads(read_tensors(files.checkpoint)[1]["state"])["position"]
    assert position["done"] == files.log.read_text().count("\n") < 30
    joined.Together(tmp_path, command, [*words, "--resume"]).succeed()
    straight = [word.replace(str(files.path), str(tmp_path / "straight")) for word in words]
    joined.Together(tmp_path, command, straight).succeed()
    ours, theirs = (read_tensors(RunDirectory(tmp_path / name).component("model"))[0] for name in ("run", "straight"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    steps = [json.loads(record)["step"] for record in files.log.read_text().splitlines()]
    assert steps == list(range(1, 31))  # nobody else wrote to the log
    assert sorted(path.name for path in files.path.iterdir()) == sorted(
        path.name for path in (tmp_path / "straight").iterdir()
    )


def fail_in_one(place: Path) -> int:
    """The second process meets a frame that cannot be read, some steps in."""
    words = line(place, "ks/regression-smoke", "--set", "training.steps=500")
    if os.environ["RANK"] == "1":
        read = WindowBatches.states

        def states(self: WindowBatches, step: int) -> torch.Tensor:
            if step == 5 and self.ranks > 1:
                raise InputError("frame 5 cannot be read: mend the disk.")
            return read(self, step)

        WindowBatches.states = states
    return run(words)


def test_an_error_in_one_process_ends_all(tmp_path):
    line(tmp_path, "ks/regression-smoke")
    work = joined.Together(tmp_path, fail_in_one, tmp_path)
    assert work.codes(timeout=60) == [2, 2], work.text()
    first, second = (place.read_text() for place in work.said)
    assert "Another process of this run has ended" in first
    assert "eddycast (process 1): frame 5 cannot be read" in second
    assert "Traceback" not in first + second
    with pytest.raises(InputError, match="not finished"):
        api.load(tmp_path / "run")


def count_minutes(place: Path) -> None:
    """The clock of the second process runs faster; both take the steps that the first has counted."""
    data = joined.small_data()
    pace = 2.0 if os.environ["RANK"] == "0" else 7.0
    clock = itertools.count(step=pace)
    loop.time = SimpleNamespace(monotonic=lambda: next(clock), process_time=lambda: 0.0)
    with distributed.process_group():
        joined.train_doubled(data, place / "run", "ks/regression-smoke", {"training.minutes": 0.05})


def test_processes_agree_on_the_steps_that_the_clock_gives(tmp_path):
    """Eight steps in 2 s of the first process: 0.05 minutes are 12; with 7 s they would be 3."""
    joined.Together(tmp_path, count_minutes, tmp_path).succeed()
    assert RunDirectory(tmp_path / "run").log.read_text().count("\n") == 12


@pytest.mark.parametrize(("windows", "parts"), [(8, 2), (9, 2), (7, 3), (3, 3)])
def test_parts_of_a_batch_are_the_batch(windows, parts):
    data = joined.small_data()
    whole = WindowBatches(data, "train", 2, batch_size=windows, seed=3)
    pieces = [
        WindowBatches(data, "train", 2, batch_size=windows, seed=3, rank=rank, ranks=parts) for rank in range(parts)
    ]
    for step in (0, 5, 60):
        states, conditions = whole.batch(step)
        shared = [piece.batch(step) for piece in pieces]
        assert torch.equal(torch.cat([part[0] for part in shared]), states)
        assert torch.equal(torch.cat([part[1].time for part in shared]), conditions.time)
        assert all(
            len(part[0]) == piece.part.stop - piece.part.start for piece, part in zip(pieces, shared, strict=True)
        )


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with distributed.process_group() as place:
        assert (place, distributed.rank(), distributed.size(), distributed.speaks()) == ("cpu", 0, 1, True)
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(distributed.total(value), value.double())
    assert distributed.from_first(3.5) == distributed.largest(3.5) == 3.5
    assert distributed.largest(float("nan")) == distributed.largest(float("inf")) == float("inf")


@pytest.mark.parametrize(
    ("device", "words"), [("gpu", "cpu, cuda"), ("cuda:99", "this machine has"), ("cuda", "has 0")]
)
def test_devices_that_are_not_here_are_named(device, words):
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is one")
    with pytest.raises(InputError, match=words):
        distributed.local_device(device)
