"""The help text: complete as the design lists it, and quick."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

import eddycast
from eddycast.cli.app import run

COMMANDS = {
    "simulate": "SYSTEM --out --trajectories --steps --evaluation-steps --split --param --initial --grid --solver-grid --store --dt "
    "--spin-up --seed --device",
    "tile": "FILES --out --size --region --boxes --split --standardise --max-missing --fields",
    "inspect": "DATA",
    "train": "RECIPE|config.yaml --data --out --init --stage --autoencoder --latents --minutes --set --resume --device --slurm",
    "encode": "RUN DATA --out --split --copies",
    "reconstruct": "RUN --data --split --start --steps --out",
    "forecast": "RUN --data --split --start --steps --leads --members --param --set --seed --out",
    "observe": "DATA --out --split --fraction --sensors --coarsen --noise --stated-noise --complete --seed",
    "assimilate": "RUN --observations --method --mode --block --forecast --blocks --background --withhold --members --out",
    "evaluate": "FORECAST|ANALYSIS --truth --out --horizons --through",
    "statistics": "FORECAST|DATA --truth --out --picture --split --field --axis --by --skip --jets --width --prominence --hold",
    "events": "FORECAST --event --truth --out --picture --field --width --prominence --hold",
    "latents": "CACHE --out --picture --split",
    "plot": "FILE --out",
    "report": "RUN|FORECAST|ANALYSIS|scores.json... --out",
    "compare": "RUN... --data --out",
    "recipes": "",
    "systems": "",
    "methods": "",
    "demo": "--out",
}


@pytest.mark.parametrize(("command", "words"), COMMANDS.items())
def test_command_offers_the_options_of_the_design(command, words, capsys):
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    missing = [word for word in words.split() if word not in shown]
    assert not missing


def test_help_lists_the_commands_in_the_order_of_the_work(capsys):
    assert run(["--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert listed[: len(COMMANDS)] == list(COMMANDS)
    assert "..." not in "".join(lines)  # every one-line description fits


def test_no_command_shows_the_help_and_version_the_version(capsys):
    assert run([]) == 0
    assert "Usage: eddycast" in capsys.readouterr().out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"eddycast {eddycast.__version__}\n"


def test_help_answers_within_a_second():
    """The bound is the project's; the best of three, since the machine may be busy."""
    walls = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "eddycast", "--help"], check=True, capture_output=True)
        walls.append(time.perf_counter() - start)
    assert min(walls) < 1.0


def test_help_and_import_load_nothing_heavy():
    code = (
        "import sys, eddycast, eddycast.cli.app as app\n"
        "app.run(['train', '--help'])\n"
        "heavy = {'torch', 'numpy', 'xarray', 'matplotlib', 'h5py', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "heavy -= {'pydantic'}  # some versions of typer parse with it\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_entry_point_sets_passive_waiting_before_torch_and_respects_the_user():
    code = (
        "import os, sys\n"
        "import eddycast\n"
        "assert os.environ.get('OMP_WAIT_POLICY') == sys.argv[1] or sys.argv[1] == 'none'\n"
        "from eddycast.cli import main\n"
        "sys.argv = ['eddycast', '--version', ]\n"
        "try:\n    main()\n"
        "except SystemExit:\n    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
    )
    base = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, expected in (("none", "passive"), ("active", "active")):
        environment = base if given == "none" else base | {"OMP_WAIT_POLICY": given}
        done = subprocess.run(
            [sys.executable, "-c", code, given], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == f"{expected} False"
