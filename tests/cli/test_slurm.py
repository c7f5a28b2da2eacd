"""The batch script: valid bash, the same training as the command that printed it, and a queue that it goes back to."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from eddycast import api
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.recipes import with_overrides

STUBS = {
    # As Slurm: runs what it is given, and passes signals on.
    "srun": '[ "$1" = --kill-on-bad-exit=1 ] || exit 9\nshift\nexec "$@"',
    "torchrun": 'printf "%s\\n" "$@" > "$ROOM/argv"\n[ -e "$ROOM/long" ] || exit 0\n'
    'trap "touch $ROOM/told; exit 1" TERM\ntouch "$ROOM/started"\nwhile true; do sleep 0.05; done',
    "scontrol": 'if [ "$1" = requeue ]; then echo "$2" > "$ROOM/requeued"; else echo node7; echo node8; fi',
}


@pytest.fixture
def room(tmp_path) -> Path:
    """A directory with stand-ins for Slurm and torchrun in its `bin`."""
    (tmp_path / "bin").mkdir()
    for name, text in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.write_text(f"#!/bin/bash\n{text}\n")
        stub.chmod(0o755)
    return tmp_path


def script(words: str, capsys) -> str:
    assert run([*shlex.split(words), "--slurm"]) == 0
    return capsys.readouterr().out


def submit(text: str, room: Path, restarts: int = 0) -> subprocess.Popen[bytes]:
    job = room / "job.sh"
    job.write_text(text)
    assert subprocess.run(["bash", "-n", str(job)], check=False).returncode == 0
    variables = {"PATH": f"{room / 'bin'}:{os.environ['PATH']}", "ROOM": str(room), "SLURM_JOB_ID": "4711"}
    variables |= {"SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2", "SLURM_RESTART_COUNT": str(restarts)}
    return subprocess.Popen(["bash", str(job)], env=os.environ | variables, cwd=room, start_new_session=True)


def arguments(room: Path) -> tuple[list[str], list[str]]:
    """Of torchrun, and of eddycast."""
    words = (room / "argv").read_text().splitlines()
    place = words.index("-m")
    assert words[place + 1] == "eddycast"
    return words[:place], words[place + 2 :]


def test_the_script_trains_what_the_command_said(room, capsys, monkeypatch):
    words = "train ks/scoring-small --data 'my data.nc?fields=a,b' --init old --stage ensemble --minutes 2.5 --seed 4 --threads 3"
    words += " --set emulator.members=3 --set 'training.average=null' --set emulator.network.channels='[8, 16]'"
    text = script(words + " --nodes 2 --gpus 4 --time 1-02:00:00", capsys)
    assert submit(text, room).wait(30) == 0
    launcher, command = arguments(room)
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d", "--rdzv-endpoint=node7:24711"} <= set(launcher)
    for line in ("nodes=2", "gpus-per-node=4", "ntasks-per-node=1", "time=1-02:00:00", "requeue"):
        assert f"#SBATCH --{line}\n" in text
    found = {}
    monkeypatch.setattr(api, "train", lambda recipe, **options: found.update(options, recipe=recipe) or _Run())
    assert run(command) == 0
    overrides = found.pop("overrides")
    given = {"emulator.members": 3, "training.average": None, "emulator.network.channels": [8, 16]}
    recipe = api.runs.find_recipe("ks/scoring-small")
    assert with_overrides(recipe, overrides) == with_overrides(recipe, given)
    assert found == {
        "recipe": "ks/scoring-small",
        "data": "my data.nc?fields=a,b",
        "out": Path("runs/ks/scoring-small"),
        "init": "old",
        "stage": "ensemble",
        "autoencoder": None,
        "latents": None,
        "minutes": 2.5,
        "resume": False,
        "device": "cuda",
        "seed": 4,
        "threads": 3,
    }


class _Run:
    path, forecasts, untrained = Path("run"), True, ()


def test_a_job_that_is_told_to_stop_ends_and_queues_again(room, capsys):
    """USR1 to the script, as Slurm sends it: TERM to the training, a requeue when that has ended, and exit code 0."""
    (room / "long").touch()
    job = submit(script("train ks/scoring-small --out run", capsys), room)
    deadline = time.monotonic() + 30
    while not (room / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(30) == 0
    assert (room / "told").exists()
    assert (room / "requeued").read_text().split() == ["4711"]


@pytest.mark.parametrize(("begun", "restarts", "asked", "resumes"), [
    (True, 1, "", 1), (False, 1, "", 0), (True, 0, "", 0), (True, 1, "--resume", 1), (False, 0, "--resume", 1),
])  # fmt: skip
def test_a_job_that_comes_back_resumes_once_there_is_a_run(begun, restarts, asked, resumes, room, capsys):
    if begun:
        (room / "a run").mkdir()
        (room / "a run" / "config.json").touch()
    text = script(f"train ks/scoring-small --out 'a run' --gpus 0 {asked}", capsys)
    assert submit(text, room, restarts).wait(30) == 0
    launcher, command = arguments(room)
    assert command.count("--resume") == resumes
    assert command[command.index("--out") + 1] == "a run"
    assert command[command.index("--device") + 1] == "cpu"
    assert "--nproc-per-node=1" in launcher
    assert "gpus" not in text
    assert not (room / "requeued").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("ks/scoring-tiny", "ks/scoring-small"),
        ("ks/scoring-small --set training.stepz=3", "stepz"),
        ("ks/scoring-small --time tomorrow", "--time"),
        ("ks/scoring-small --gpus 8 --set training.batch_size=4", "batch_size"),
    ],
)
def test_what_would_fail_in_the_queue_is_refused_at_once(options, words, capsys):
    assert run(["train", *shlex.split(options), "--slurm"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert words in captured.err
    assert captured.err.count("\n") == 1


def test_the_function_refuses_as_the_command_does():
    with pytest.raises(InputError, match="--time"):
        api.batch_script("ks/scoring-small", time="1:2")
