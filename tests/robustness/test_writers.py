"""Every command that writes: a full disk, a forbidden place or an interrupt leaves what was there, and one line."""

from __future__ import annotations

import ast
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fuzz_corpus
import pytest

import eddycast
from eddycast.cli.app import run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("writers")
    fuzz_corpus.build(folder)
    return folder


SMALL = ("--steps", "2", "--members", "2")
WRITERS = {
    "simulate": (
        "simulate",
        "kuramoto-sivashinsky",
        "--grid",
        "24",
        "--trajectories",
        "3",
        "--steps",
        "4",
        "--out",
        "@out",
    ),
    "simulate a family": (
        "simulate",
        "kuramoto-sivashinsky",
        "--spacing",
        "0.5",
        "--param",
        "domain_length=12,16",
        "--trajectories",
        "6",
        "--steps",
        "3",
        "--out",
        "@out",
    ),
    "statistics": ("statistics", "@/well", "--split", "all", "--out", "@out.json"),
    "train": ("train", "@/recipe.yaml", "--data", "@/well", "--out", "@out"),
    "forecast.nc": ("forecast", "baseline:persistence", "--data", "@/well", *SMALL, "--out", "@out.nc"),
    "forecast.zarr": ("forecast", "baseline:persistence", "--data", "@/well", *SMALL, "--out", "@out.zarr"),
    "observe.nc": ("observe", "@/well", "--steps", "2", "--out", "@out.nc"),
    "observe.csv": ("observe", "@/well", "--steps", "2", "--out", "@out.csv"),
    "assimilate": ("assimilate", "@/run", "--observations", "@/observations.nc", "--members", "3", "--out", "@out.nc"),
    "evaluate": ("evaluate", "@/forecast.nc", "--truth", "@/well", "--out", "@out.json"),
    "plot": ("plot", "@/scores.json", "--out", "@out.svg"),
    "report": ("report", "@/scores.json", "--out", "@out.html"),
    "compare": ("compare", "baseline:persistence", "--data", "@/well", *SMALL, "--out", "@out"),
}


def listing(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def words(name: str, corpus: Path, out: Path) -> list[str]:
    return [word.replace("@out", str(out)).replace("@/", f"{corpus}/") for word in WRITERS[name]]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_is_one_line_and_nothing_is_left(name, number, corpus, tmp_path, monkeypatch, capsys):
    def full(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    capsys.readouterr()
    assert run(words(name, corpus, tmp_path / "out")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eddycast: ")]
    assert len(lines) == 1 and ("disk is full" in lines[0] or "quota" in lines[0]) and str(tmp_path / "out") in lines[0]
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("name", ["forecast.nc", "observe.csv", "evaluate", "plot", "report"])
def test_old_file_survives_a_full_disk(name, corpus, tmp_path, monkeypatch, capsys):
    assert run(words(name, corpus, tmp_path / "out")) == 0
    before = listing(tmp_path)
    monkeypatch.setattr(
        os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    assert run(words(name, corpus, tmp_path / "out")) == 2
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", WRITERS)
def test_forbidden_place_is_one_line(name, corpus, tmp_path, monkeypatch, capsys):
    """Permissions do not bind root, so the system's answer is played."""
    place = tmp_path / "locked"
    place.mkdir()
    access, mkdir = os.access, os.mkdir

    def denied(path, mode, **options):
        return False if Path(path) == place and mode & os.W_OK else access(path, mode, **options)

    def no_folder(path, *arguments, **options):
        if place in Path(path).parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "access", denied)
    monkeypatch.setattr(os, "mkdir", no_folder)
    capsys.readouterr()
    assert run(words(name, corpus, place / "out")) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("eddycast: ")]
    assert len(lines) == 1 and "permission" in lines[0].lower()
    assert listing(place) == {}


@pytest.mark.parametrize(
    "line",
    [
        "simulate kuramoto-sivashinsky --trajectories 6 --steps 600 --out @out",
        "observe @/well --steps 2 --out @out.csv",
        "compare baseline:persistence baseline:climatology --data @/well --members 64 --steps 4 --out @out",
    ],
    ids=lambda line: line.split()[0],
)
def test_interrupt_leaves_no_half_written_output(line, corpus, tmp_path):
    """Interrupted as soon as anything appears: in the middle of the computation or of the write."""
    command = line.replace("@out", str(tmp_path / "out")).replace("@/", f"{corpus}/").split()
    process = subprocess.Popen(
        [sys.executable, "-m", "eddycast", *command],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a runner may have it ignored
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not any(tmp_path.iterdir()):
        time.sleep(0.0005)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert "Traceback" not in errors
    if process.returncode == 0:  # it was quicker than the signal: then all is there
        assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    else:
        assert process.returncode == 130 and errors.splitlines()[-1].startswith("eddycast: interrupted")
        # an output may be there only if it had become whole before the signal
        assert [path.name for path in tmp_path.iterdir()] in ([], [Path(command[-1]).name])
        if (tmp_path / "out.csv").exists():
            assert run([*command[:-1], str(corpus / "again.csv")]) == 0
            assert (tmp_path / "out.csv").read_bytes() == (corpus / "again.csv").read_bytes()
        elif (tmp_path / "out").exists():
            assert run(["inspect" if command[0] == "simulate" else "report", str(tmp_path / "out"),
                        *([] if command[0] == "simulate" else ["--out", str(tmp_path / "r.html")])]) in (0, 2)  # fmt: skip
    assert not list(tmp_path.glob(".*part-*"))


def test_every_writer_goes_through_one_module():
    """A call that writes a file stands in `files`, or writes to the path that `atomic_output` has given (below: who does)."""
    allowed = {
        "files.py", "training/lock.py", "training/log.py",  # the log grows line by line; torn lines are left out when read
        "data/output.py", "data/well_writer.py", "data/latents.py",
        "observations/netcdf.py", "observations/table.py", "evaluation/scores.py",
        "report/canvas.py", "report/animation.py",  # into memory
    }  # fmt: skip
    staged = {
        "data/spool.py",
        "data/tiles.py",
    }  # a temporary file beside the output; into the directory that `write_well` stages
    root = Path(eddycast.__file__).parent
    writers: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _writes(node):
                writers.setdefault(str(path.relative_to(root)), []).append(f"{node.lineno}: {ast.unparse(node)[:80]}")
    assert {name: calls for name, calls in writers.items() if name not in allowed | staged} == {}
    for name in sorted(set(writers) - staged):
        if name.startswith(("data/", "observations/", "evaluation/")):
            assert "atomic_output(" in (root / name).read_text(encoding="utf-8")


def _writes(node: ast.Call) -> bool:
    name = (
        node.func.attr
        if isinstance(node.func, ast.Attribute)
        else node.func.id
        if isinstance(node.func, ast.Name)
        else ""
    )
    if name in ("to_netcdf", "to_zarr"):
        return len(node.args) > 0 and not (
            isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self"
        )
    if name in ("write_text", "savefig", "tofile", "savetxt", "save_file"):
        return True
    if name == "write_bytes":
        return isinstance(node.func, ast.Attribute)
    modes = [*node.args[:2], *(word.value for word in node.keywords if word.arg == "mode")]
    return name in ("open", "File") and any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and set(mode.value) <= set("rwax+bt")
        and set(mode.value) & set("wax+")
        for mode in modes
    )
