"""Ensembles that become one in training are told of in one line, in the log and in the run; others are not."""

from __future__ import annotations

import json
from pathlib import Path

import joined
import pytest

from eddycast import api, distributed
from eddycast.data import Dataset
from eddycast.training import ProgressBar, RunDirectory, SilentObserver, collapsed_stages
from eddycast.training.collapse import CollapseWatch, spread_error

RECIPE = "ks/scoring-smoke"
COLLAPSED = {"emulator.gain": 0.0, "training.learning_rate": 1e-30, "training.weight_decay": 0.0}
"""No noise at the start, and a rate at which none is learned."""
SETTINGS = {"training.steps": 60, "emulator.pretrain": 0.0, "emulator.unroll": 1, "evaluation.calibrate": False}


class Told(SilentObserver):
    """Keeps what it is told; may stop a run."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.at = stop, 0
        self.messages: list[tuple[int, str]] = []

    def step(self, done: int, loss: float) -> None:
        self.at = done
        if done == self.stop:
            raise KeyboardInterrupt

    def warned(self, message: str) -> None:
        self.messages.append((self.at + 1, message))


@pytest.fixture(scope="module")
def data() -> Dataset:
    return api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0)


def train(data: Dataset, out: Path, observer: Told, *, resume: bool = False, **settings) -> None:
    api.train(RECIPE, data=data, out=out, overrides=SETTINGS | settings, observer=observer, resume=resume)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def provenance(out: Path) -> dict:
    return json.loads((out / "config.json").read_text())["provenance"]


def test_a_collapsed_ensemble_is_reported_once_where_it_is_certain_and_its_run_says_so(data, tmp_path):
    observer = Told()
    train(data, tmp_path / "run", observer, **COLLAPSED)
    ((step, message),) = observer.messages
    assert step == 20, "as soon as 20 steps have been seen, a quarter of the stage being over"
    assert "\n" not in message and "members have collapsed" in message and "raise emulator.gain" in message
    records = log(tmp_path / "run")
    assert [record["step"] for record in records if "collapsed" in record] == [20]
    assert all(record["spread_error"] < 1e-3 for record in records)
    assert collapsed_stages(tmp_path / "run" / "log.jsonl") == provenance(tmp_path / "run")["collapsed"] == ["ensemble"]


def test_a_healthy_ensemble_is_not_reported_and_stages_without_members_have_no_ratio(data, tmp_path):
    observer = Told()
    train(
        data, tmp_path / "run", observer, **{"emulator.pretrain": 0.3, "emulator.gain": 1.0, "training.batch_size": 16}
    )
    records = log(tmp_path / "run")
    assert observer.messages == [] and "collapsed" not in provenance(tmp_path / "run")
    assert {record["stage"] for record in records if "spread_error" not in record} == {"pretrain"}
    last = [record["spread_error"] for record in records if record["stage"] == "ensemble"][-10:]
    assert 0.2 < sum(last) / 10 < 3
    train_other = Told()
    api.train("ks/regression-smoke", data=data, out=tmp_path / "other", observer=train_other)
    assert not any("spread_error" in record for record in log(tmp_path / "other"))


@pytest.mark.parametrize("stop", [15, 30])
def test_a_resumed_run_reports_at_the_same_step_and_not_twice(data, tmp_path, stop):
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", first := Told(stop), **COLLAPSED)
    train(data, tmp_path / "run", second := Told(), resume=True, **COLLAPSED)
    assert len(first.messages) + len(second.messages) == 1
    assert [record["step"] for record in log(tmp_path / "run") if "collapsed" in record] == [20]
    assert provenance(tmp_path / "run")["collapsed"] == ["ensemble"]


def share(out: Path, processes: int) -> None:
    data = joined.small_data()
    with distributed.process_group():
        for passes in (1, 3) if processes == 1 else (3,):
            settings = SETTINGS | {"training.steps": 4, "training.batch_size": 9, "emulator.gain": 0.5}
            joined.train_doubled(
                data, out / f"{passes}-{processes}", RECIPE, settings | {"training.accumulate": passes}
            )


@pytest.mark.slow
def test_passes_and_processes_tell_the_ratio_of_the_whole_batch(tmp_path):
    share(tmp_path, 1)
    joined.Together(tmp_path, share, tmp_path, 2).succeed()
    whole = [record["spread_error"] for record in log(tmp_path / "1-1")]
    assert len(whole) == 4 and min(whole[1:]) > 1e-3, "the first step has the zero output of an untrained network"
    for name in ("3-1", "3-2"):
        assert [record["spread_error"] for record in log(tmp_path / name)] == pytest.approx(whole, rel=1e-6, abs=1e-9)


# The watch alone


@pytest.mark.parametrize(
    "steps, ratios, at",
    [
        (400, [0.04] * 400, 101),  # the first quarter is passed over
        (4000, [0.04] * 4000, 1001),
        (4000, [0.5] * 2000 + [0.04] * 2000, 2100),  # late
        (4000, ([0.04] * 99 + [0.06]) * 40, None),  # never a hundred in a row
        (400, [0.001 * 1.02**n for n in range(400)], None),  # on its way: 0.007 at step 101, 0.05 at 199
        (400, [1e-6 * 1.02**n for n in range(400)], 400),  # and never there
        (30, [0.0] * 30, 20),
        (19, [0.0] * 19, None),  # too short to know
    ],
)
def test_the_watch_waits_for_a_hundred_steps_in_a_row_after_the_first_quarter(steps, ratios, at):
    watch = CollapseWatch(steps)
    seen = [step for step, ratio in enumerate(ratios, start=1) if watch.sees(step, ratio)]
    assert seen == ([] if at is None else [at])


def test_the_ratio_is_that_of_roots_and_is_left_out_where_there_is_none():
    assert spread_error({"spread": 0.09, "error": 1.0, "loss": 2.0}) == pytest.approx({"spread_error": 0.3})
    assert spread_error({"loss": 2.0}) == spread_error({"spread": 1.0, "error": 0.0}) == {}
    watch = CollapseWatch(400)
    assert not any(watch.sees(step, None) for step in range(1, 401)), "steps without a ratio are no collapse"


def test_the_progress_bar_says_it_in_one_line_on_the_standard_error_stream(capsys):
    bar = ProgressBar()
    watch = CollapseWatch(40)
    assert any(watch.sees(step, 0.01) for step in range(1, 41))
    bar.stage("ensemble", 0, 40)
    bar.warned(watch.message("ensemble"))
    bar.finished()
    told = capsys.readouterr()
    assert watch.message("ensemble") in told.err.splitlines() and told.out == ""


def test_the_log_of_a_run_that_was_killed_is_read_as_far_as_it_goes(tmp_path):
    files = RunDirectory(tmp_path)
    assert collapsed_stages(files.log) == []
    lines = [
        {"stage": "a", "step": 1},
        {"stage": "a", "step": 2, "collapsed": True},
        {"stage": "b", "step": 1, "collapsed": 0},
    ]
    files.log.write_text("\n".join(map(json.dumps, lines)) + '\n{"stage": "b", "st')
    assert collapsed_stages(files.log) == ["a"]
