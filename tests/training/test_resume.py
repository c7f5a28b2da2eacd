"""Killed at any moment and resumed, a training ends with the weights, bit by bit, that it would have had."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from eddycast import api
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.files import leftovers
from eddycast.training import RunDirectory, SilentObserver, read_tensors

# Processes are forked from a server that has loaded torch once; killed, they are as dead as any other.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["eddycast.api", "eddycast.cli.app"])

CASES = {
    "regression, muon": ("ks/regression-smoke", {"training.steps": 40}),
    "scoring, three stages, adamw": (
        "ks/scoring-smoke",
        {"training.steps": 40, "training.optimiser": "adamw", "emulator.unroll": 2, "emulator.pretrain": 0.3},
    ),
    "universal, last weights": ("ks/universal-smoke", {"training.steps": 40, "training.average": None}),
}


def command(arguments: list[str], errors: str) -> None:
    """`eddycast ...` in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.stderr = sys.stdout = open(errors, "w", buffering=1)  # noqa: SIM115
    code = run(arguments)
    sys.stdout.flush()
    os._exit(code)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("resume") / "data"
    api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0, out=path)
    return path


class Interrupted:
    """A training on the command line that can be stopped from outside."""

    def __init__(self, case: str, data: Path, directory: Path) -> None:
        recipe, settings = CASES[case]
        self.recipe, self.settings, self.data = recipe, settings, data
        self.files = RunDirectory(directory / "run")
        self.errors = directory / "errors.txt"
        words = [f"{key}={'null' if value is None else value}" for key, value in settings.items()]
        options = [word for pair in words for word in ("--set", pair)]
        out = ["--data", str(data), "--out", str(self.files.path), "--set", "training.checkpoint_seconds=0"]
        self.arguments = ["train", recipe, *options, *out, "--threads", "1"]

    def start(self, resume: bool):
        arguments = self.arguments + ["--resume"] * resume
        process = FORKS.Process(target=command, args=(arguments, str(self.errors)))
        process.start()
        return process

    def steps(self) -> int:
        return self.files.log.read_text().count("\n") if self.files.log.is_file() else 0

    def finish(self) -> None:
        process = self.start(resume=True)
        process.join()
        assert process.exitcode == 0, self.errors.read_text()

    def reference(self, directory: Path) -> RunDirectory:
        """The same training without an interruption, in this process."""
        out = directory / "reference"
        overrides = self.settings | {"training.checkpoint_seconds": 1e9}
        api.train(self.recipe, data=self.data, out=out, overrides=overrides, threads=1, observer=SilentObserver())
        return RunDirectory(out)

    def matches(self, reference: RunDirectory) -> None:
        for name in ("model", "space", "guard", "climatology"):
            ours, theirs = (read_tensors(files.component(name))[0] for files in (self.files, reference))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
        assert records(self.files) == records(reference)
        assert not list(self.files.checkpoint.parent.glob(".*"))  # nothing of the writes that were cut short


def records(files: RunDirectory) -> list[dict]:
    """The log without the clock."""
    lines = [json.loads(line) for line in files.log.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def wait(process, condition) -> None:
    while process.is_alive() and not condition():
        time.sleep(0.0005)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_and_resumed_the_weights_are_those_of_an_uninterrupted_run(case, data, tmp_path):
    training, draw = Interrupted(case, data, tmp_path), random.Random(case)
    kills = 0
    for number in range(4):
        process = training.start(resume=number > 0)
        # The first kill may come before there is a checkpoint, or even a step; the others some steps later each.
        goal = training.steps() + (0 if number == 0 else draw.randint(1, 10))
        wait(process, lambda goal=goal: training.files.config.is_file() and training.steps() >= goal)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 3, training.errors.read_text()
    with pytest.raises(InputError, match="not finished"):
        api.load(training.files.path)
    training.finish()
    training.matches(training.reference(tmp_path))


def test_killed_while_it_writes_a_checkpoint_the_one_before_is_there(data, tmp_path):
    training = Interrupted("regression, muon", data, tmp_path)
    place = training.files.checkpoint
    caught = 0
    for number in range(3):
        process = training.start(resume=number > 0)
        wait(process, lambda: place.is_file())
        goal = training.steps() + 3
        wait(process, lambda goal=goal: training.steps() >= goal)
        wait(process, lambda: leftovers(place))
        process.kill()
        process.join()
        caught += len(leftovers(place)) > 0
        read_tensors(place)
    assert caught >= 1  # polling can miss the moment, three times hardly
    training.finish()
    training.matches(training.reference(tmp_path))


def test_control_c_leaves_a_checkpoint_between_two_steps_and_code_130(data, tmp_path):
    training, draw = Interrupted("regression, muon", data, tmp_path), random.Random(1)
    training.arguments += ["--set", "training.validations=3"]
    training.arguments[training.arguments.index("training.checkpoint_seconds=0")] = "training.checkpoint_seconds=1e9"
    for number in range(2):
        process = training.start(resume=number > 0)
        goal = training.steps() + 5
        wait(process, lambda goal=goal: training.steps() >= goal)
        time.sleep(draw.uniform(0, 0.01))
        os.kill(process.pid, signal.SIGINT)
        process.join()
        assert process.exitcode == 130, training.errors.read_text()
        assert training.errors.read_text().count("eddycast: interrupted") == 1
        header = read_tensors(training.files.checkpoint)[1]
        assert json.loads(header["state"])["position"]["done"] == training.steps() >= goal
    training.finish()
    reference = training.reference(tmp_path)
    weights = [read_tensors(files.component("model"))[0] for files in (training.files, reference)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
    losses = [[record["loss"] for record in records(files)] for files in (training.files, reference)]
    assert losses[0] == losses[1]


class StopsAt(SilentObserver):
    """Raises KeyboardInterrupt after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.ended = 0

    def step(self, done: int, loss: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    def finished(self) -> None:
        self.ended += 1


def stopped(data: Path, out: Path, recipe: str = "ks/regression-smoke", steps: int = 3, **overrides) -> None:
    observer = StopsAt(steps)
    with pytest.raises(KeyboardInterrupt):
        api.train(recipe, data=data, out=out, observer=observer, overrides=overrides)
    assert observer.ended == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"training.steps": 7}, "training.steps"),
        ({"training.optimiser": "adamw"}, "training.optimiser"),
        ({"training.average": None}, "training.average"),
        ({"emulator.network.channels": [8, 24]}, "emulator.network.channels"),
        ({"space.std": "pixel"}, "space.std"),
        ({"guard": False}, "guard"),
    ],
)
def test_another_setting_on_resume_is_refused_in_one_line_and_harms_nothing(changes, named, data, tmp_path):
    stopped(data, tmp_path / "run")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    with pytest.raises(InputError, match=named) as caught:
        api.train("ks/regression-smoke", data=data, out=tmp_path / "run", resume=True, overrides=changes)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


def test_other_data_or_stages_on_resume_are_refused(data, tmp_path):
    stopped(data, tmp_path / "run")
    other = api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=1)
    with pytest.raises(InputError, match="other statistics"):
        api.train("ks/regression-smoke", data=other, out=tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="48"):
        coarse = api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, grid=(48,))
        api.train("ks/regression-smoke", data=coarse, out=tmp_path / "run", resume=True)
    stopped(data, tmp_path / "scoring", "ks/scoring-smoke", steps=1)
    with pytest.raises(InputError, match="stages"):
        api.train("ks/scoring-smoke", data=data, out=tmp_path / "scoring", resume=True, stage="ensemble")


def test_what_is_only_looked_at_may_change_on_resume(data, tmp_path):
    stopped(data, tmp_path / "run")
    changes = {"training.validations": 2, "training.checkpoint_seconds": 1.0, "evaluation.members": 2}
    api.train("ks/regression-smoke", data=data, out=tmp_path / "run", resume=True, overrides=changes)
    api.train("ks/regression-smoke", data=data, out=tmp_path / "straight", observer=SilentObserver())
    ours, theirs = (read_tensors(RunDirectory(tmp_path / name).component("model"))[0] for name in ("run", "straight"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_place_with_a_run_or_without_one_is_told(data, tmp_path):
    with pytest.raises(InputError, match="nothing to resume"):
        api.train("ks/regression-smoke", data=data, out=tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    forecaster = api.train("ks/regression-smoke", data=data, out=tmp_path / "run", observer=SilentObserver())
    with pytest.raises(InputError, match="--resume"):
        api.train("ks/regression-smoke", data=data, out=tmp_path / "run")
    weights = forecaster.run.fingerprint()
    again = api.train("ks/regression-smoke", data=data, out=tmp_path / "run", resume=True, observer=SilentObserver())
    assert again.run.fingerprint() == weights  # there was nothing left to do


def test_a_damaged_checkpoint_is_named(data, tmp_path):
    stopped(data, tmp_path / "run")
    place = RunDirectory(tmp_path / "run").checkpoint
    place.write_bytes(place.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoint\.safetensors is damaged"):
        api.train("ks/regression-smoke", data=data, out=tmp_path / "run", resume=True)
