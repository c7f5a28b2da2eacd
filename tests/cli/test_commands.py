"""Each command calls one function of the API with what its words mean, and says what comes next."""

from __future__ import annotations

import inspect
import shlex
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import eddycast
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.simulators import Values


@pytest.fixture
def calls(monkeypatch):
    """Put recorders in place of the API's functions; a call must fit the real function's signature."""
    import eddycast.api as real

    recorded: list[tuple[str, dict]] = []
    results = {
        "inspect": "the description",
        "evaluate": SimpleNamespace(table=lambda: "the table"),
        "statistics": SimpleNamespace(table=lambda: "the statistics"),
        "events": SimpleNamespace(table=lambda: "the events"),
        "recipes": [("ks/regression-small", "A recipe"), ("ks/x", "Another")],
        "systems": [("kuramoto-sivashinsky", "A system")],
        "methods": [("mmps", "A method")],
        "train": SimpleNamespace(path=Path("runs/my run"), forecasts=True, untrained=[]),
        "encode": SimpleNamespace(grid=SimpleNamespace(shape=(8, 4)), fields=("a", "b"), lengths=(3, 4)),
        "analyse_latents": SimpleNamespace(parameters=()),
        "demo": Path("demo/report.html"),
        "batch_script": "#!/bin/bash",
    }

    def recorder(name: str):
        signature = inspect.signature(getattr(real, name))

        def record(*args, **kwargs):
            recorded.append((name, dict(signature.bind(*args, **kwargs).arguments)))
            return results.get(name, kwargs.get("out"))

        return record

    fake = ModuleType("eddycast.api")
    names = "simulate inspect train batch_script encode reconstruct forecast observe assimilate evaluate analyse_latents plot report"
    names += " compare statistics events recipes systems methods demo"
    for name in names.split():
        setattr(fake, name, recorder(name))
    fake.Values, fake.Family, fake.one_of = real.Values, real.Family, real.one_of  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "eddycast.api", fake)
    monkeypatch.setattr(eddycast, "api", fake, raising=False)
    return recorded


CASES = [
    (
        "simulate kuramoto-sivashinsky --out data/ks --trajectories 8 --steps 20 --param length=36 --param nu=0.5:2 "
        "--grid 64x32 --seed 3 --device cuda",
        "simulate",
        {
            "out": Path("data/ks"),
            "trajectories": 8,
            "steps": 20,
            "parameters": {"length": 36.0, "nu": (0.5, 2.0)},
            "grid": (64, 32),
            "seed": 3,
            "device": "cuda",
        },
        "Next: eddycast inspect data/ks",
    ),
    (
        "simulate ks --out d",
        "simulate",
        {"trajectories": 64, "steps": 400, "grid": None, "seed": 0, "parameters": {}},
        "",
    ),
    (
        "simulate ks --out d --param length=22*8,36,64 --spacing 0.5 --store zonal-mean",
        "simulate",
        {"parameters": {"length": Values((22.0, 36.0, 64.0), (8, 1, 1))}, "spacing": 0.5, "store": "zonal-mean"},
        "",
    ),
    ("inspect my.nc", "inspect", {}, "the description"),
    (
        "train ks/regression-small --data d --out r --init old --stage s --minutes 2.5 --set a.b=c --set d=e "
        "--resume --device cuda --seed 4 --threads 2",
        "train",
        {
            "data": "d",
            "out": Path("r"),
            "init": "old",
            "stage": "s",
            "minutes": 2.5,
            "overrides": {"a.b": "c", "d": "e"},
            "resume": True,
            "device": "cuda",
            "seed": 4,
            "threads": 2,
        },
        "Next: eddycast forecast 'runs/my run' --data d",
    ),
    (
        "train recipe --data d --set a.b=c --slurm --nodes 2 --gpus 4 --time 2:00:00",
        "batch_script",
        {"data": "d", "overrides": {"a.b": "c"}, "nodes": 2, "gpus": 4, "time": "2:00:00", "resume": False},
        "#!/bin/bash",
    ),
    (
        "train recipe --data d --autoencoder runs/ae --latents cache",
        "train",
        {"autoencoder": "runs/ae", "latents": "cache"},
        "Next:",
    ),
    (
        "encode run data --out cache --split train --copies 4 --seed 2",
        "encode",
        {"out": Path("cache"), "splits": ["train"], "copies": 4, "seed": 2},
        "2 channels on 8 x 4 points, 7 states",
    ),
    (
        "reconstruct run --data d --start 3 --steps 5 --out r.nc",
        "reconstruct",
        {"data": "d", "split": "test", "start": 3, "steps": 5, "out": Path("r.nc")},
        "Next: eddycast evaluate r.nc --truth d",
    ),
    (
        "latents cache --out a.json --picture p.png --seed 3",
        "analyse_latents",
        {"split": "train", "out": Path("a.json"), "picture": Path("p.png"), "seed": 3},
        "Wrote p.png",
    ),
    ("train recipe", "train", {"data": None, "out": None, "minutes": None, "resume": False, "seed": None}, "Next:"),
    (
        "forecast run --data d --split valid --start 7 --leads 0.5,1,2 --members 4 --param nu=0.1 --set sampler=heun "
        "--seed 9 --out f.nc",
        "forecast",
        {
            "data": "d",
            "split": "valid",
            "start": 7,
            "steps": None,
            "leads": [0.5, 1.0, 2.0],
            "members": 4,
            "parameters": {"nu": 0.1},
            "overrides": {"sampler": "heun"},
            "seed": 9,
            "out": Path("f.nc"),
        },
        "Next: eddycast evaluate f.nc --truth d",
    ),
    (
        "forecast run --data d --start last --steps 12 --out f.zarr",
        "forecast",
        {"start": "last", "steps": 12, "leads": None, "members": 16, "split": "test", "seed": 0},
        "Next: eddycast plot f.zarr",
    ),
    (
        "observe d --out o.nc",
        "observe",
        {"fraction": 0.1, "sensors": None, "coarsen": None, "noise": 0.1, "split": "test", "out": Path("o.nc")},
        "Next: eddycast assimilate",
    ),
    (
        "observe d --out o.csv --sensors 12 --noise 0.5K --split train --seed 2",
        "observe",
        {"fraction": None, "sensors": 12, "noise": "0.5 K", "split": "train", "seed": 2},
        "",
    ),
    ("observe d --out o.nc --coarsen 8 --noise 0", "observe", {"fraction": None, "coarsen": 8, "noise": 0.0}, ""),
    (
        "assimilate run --observations o.nc --method mmps --mode filter --background b.nc --withhold 0.1 --members 3 "
        "--out a.nc --seed 5 --set iterations=2",
        "assimilate",
        {
            "observations": "o.nc",
            "method": "mmps",
            "mode": "filter",
            "background": "b.nc",
            "withhold": 0.1,
            "members": 3,
            "out": Path("a.nc"),
            "seed": 5,
            "overrides": {"iterations": "2"},
        },
        "Next: eddycast evaluate a.nc",
    ),
    (
        "observe d --out o.nc --noise 0 --stated-noise 0.01 --complete 1",
        "observe",
        {"noise": 0.0, "stated_noise": 0.01, "complete": 1},
        "",
    ),
    (
        "assimilate run --observations o.nc --out a.nc",
        "assimilate",
        {"method": None, "mode": "smooth", "withhold": 0.0, "block": None, "forecast": None, "blocks": None},
        "",
    ),
    (
        "assimilate run --observations o.nc --mode online --block 20 --forecast 400 --blocks 13 --out a.nc",
        "assimilate",
        {"mode": "online", "block": 20, "forecast": 400, "blocks": 13},
        "Next: eddycast evaluate a.nc",
    ),
    (
        "evaluate f.nc --truth d --out s.json",
        "evaluate",
        {"truth": "d", "out": Path("s.json")},
        "eddycast report f.nc s.json",
    ),
    ("evaluate f.nc --truth d", "evaluate", {"truth": "d", "out": None}, "the table"),
    (
        "statistics f.nc --truth d --by beta --by mu --jets --hold 3 --skip 100 --out s.json",
        "statistics",
        {
            "truth": "d",
            "jets": True,
            "hold": 3,
            "out": Path("s.json"),
            "options": {"split": "test", "field": None, "axis": None, "by": ["beta", "mu"], "skip": 100, "seed": 0},
        },
        "Wrote s.json",
    ),
    ("statistics d", "statistics", {"source": "d", "truth": None, "jets": False}, "the statistics"),
    (
        "events f.nc --event nucleation --truth g.nc --prominence 0.3 --picture e.png",
        "events",
        {"event": "nucleation", "truth": "g.nc", "prominence": 0.3, "picture": Path("e.png")},
        "the events",
    ),
    ("plot f.nc --out p.png", "plot", {"out": Path("p.png")}, "p.png"),
    (
        "report run f.nc s.json --out r.html",
        "report",
        {"inputs": ["run", "f.nc", "s.json"], "out": Path("r.html")},
        "r.html",
    ),
    (
        "compare a b baseline:persistence --data d --out c --members 4 --steps 10",
        "compare",
        {
            "runs": ["a", "b", "baseline:persistence"],
            "data": "d",
            "out": Path("c"),
            "members": 4,
            "steps": 10,
            "seed": 0,
        },
        "report.html",
    ),
    ("recipes", "recipes", {}, "ks/x                 Another"),
    ("systems", "systems", {}, "kuramoto-sivashinsky  A system"),
    ("methods", "methods", {}, "mmps  A method"),
    (
        "demo --out there --size smoke --seed 1",
        "demo",
        {"out": Path("there"), "size": "smoke", "seed": 1},
        "report.html",
    ),
    ("demo", "demo", {"out": Path("eddycast-demo"), "size": "demo", "seed": 0}, "Next:"),
]


@pytest.mark.parametrize(("line", "function", "expected", "printed"), CASES, ids=[case[0][:40] for case in CASES])
def test_words_become_arguments(line, function, expected, printed, calls, capsys):
    assert run(shlex.split(line)) == 0
    ((name, arguments),) = calls
    assert name == function
    assert {key: arguments[key] for key in expected} == expected
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("forcast", "forecast"),
        ("forecast run --out f.nc", "--data"),
        ("forecast run --data d --out f.nc --membres 3", "--members"),
        ("forecast run --data d --out f.nc --members 0", "--members"),
        ("forecast run --data d --out f.nc --steps 3 --leads 1", "exclude"),
        ("forecast run --data d --out f.nc --start -1", "--start"),
        ("assimilate run --observations o --out a.nc --mode smoother", "online"),
        ("assimilate run --observations o --out a.nc --withhold 1.5", "--withhold"),
        ("observe d --out o.nc --fraction 0.1 --sensors 3", "exclude"),
        ("observe d --out o.nc --noise loud", "--noise"),
        ("simulate ks --out d --grid 64*64", "64x64"),
        ("simulate ks --out d --param length", "name=lo:hi"),
        ("simulate ks --out d --param length=22*x,36", "whole count"),
        ("simulate ks --out d --param length=22,a", "must be a finite number, got 'a'"),
        ("simulate ks --out d --seed -1", "--seed"),
        ("demo --size huge", "smoke"),
        ("encode run data", "--out"),
        ("encode run data --out cache --copies 0", "--copies"),
    ],
)
def test_wrong_words_end_in_one_line_and_code_2_before_anything_runs(line, hint, calls, capsys):
    assert run(shlex.split(line)) == 2
    captured = capsys.readouterr()
    assert hint in captured.err
    assert captured.err.startswith("eddycast: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert calls == []


def raising(error: BaseException):
    def function(*args, **kwargs):
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("expected a,\n  came b, do c."), 2, "eddycast: expected a, came b, do c.\n"),
        (
            FileNotFoundError(2, "No such file or directory", "my.nc"),
            2,
            "eddycast: my.nc: no such file or directory; check the path.\n",
        ),
        (
            OSError(28, "No space left on device", "o.nc"),
            2,
            "eddycast: o.nc: no space left on device; check the path, its permissions and the free space.\n",
        ),
        (OSError("unable to open file"), 2, "eddycast: unable to open file\n"),
        (KeyboardInterrupt(), 130, "eddycast: interrupted."),
    ],
)
def test_errors_of_the_api_end_in_one_line(error, code, line, calls, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["eddycast.api"], "inspect", raising(error))
    monkeypatch.delenv("EDDYCAST_DEBUG", raising=False)
    assert run(["inspect", "my.nc"]) == code
    captured = capsys.readouterr().err
    assert captured.startswith(line)
    assert captured.count("\n") == 1


def test_debug_shows_the_traceback(calls, monkeypatch, capsys):
    monkeypatch.setattr(sys.modules["eddycast.api"], "inspect", raising(InputError("wrong")))
    monkeypatch.setenv("EDDYCAST_DEBUG", "1")
    assert run(["inspect", "my.nc"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_faults_of_ours_are_not_dressed_up_as_the_users(calls, monkeypatch):
    monkeypatch.setattr(sys.modules["eddycast.api"], "inspect", raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        run(["inspect", "my.nc"])
