"""Gives spoiled files to the commands, in a process of its own: a library in C may end it. Prints one line of JSON per case."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
from fuzz_cases import KINDS, Case, cases

from eddycast.cli.app import run

EXTRA_MEMORY = 2**32
"""Bytes of address space beyond what the process has at the start: a declared size of terabytes must not be allocated."""
SECONDS = 30
"""Longest time of one command."""
DEAR = {
    "train": 5,
    "plot": 8,
    "report": 12,
    "compare": 24,
    "run-compare": 24,
    "run-report": 12,
    "run-init": 5,
    "resume-latent": 5,
    "forecast-run": 3,
}
"""Of how many files that the first command accepts one is given to a command that trains or draws; of two to the others."""


def words(command: str, file: Path, corpus: Path, out: Path) -> list[str]:
    """The command line that reads a file."""
    data, trained, recipe = corpus / "well", corpus / "run", corpus / "recipe.yaml"
    small = ("--steps", 2, "--members", 2)
    lines = {
        "inspect": ("inspect", file),
        "train": ("train", recipe, "--data", file, "--out", out / "run"),
        "forecast": ("forecast", "baseline:persistence", "--data", file, *small, "--out", out / "f.nc"),
        "forecast-run": ("forecast", trained, "--data", file, *small, "--out", out / "f.nc"),
        "observe": ("observe", file, "--steps", 1, "--out", out / "o.nc"),
        "evaluate-truth": ("evaluate", corpus / "made" / f"{file.name}.nc", "--truth", file, "--out", out / "s.json"),
        "compare": ("compare", "baseline:persistence", "--data", file, *small, "--out", out / "c"),
        "plot": ("plot", file, "--out", out / "p.png"),
        "report": ("report", file, "--out", out / "r.html"),
        "recipe": ("train", file, "--data", data, "--out", out / "run", "--set", "training.steps=1"),
        "resume": ("train", recipe, "--data", data, "--out", file, "--resume"),
        "run-forecast": ("forecast", file, "--data", data, *small, "--out", out / "f.nc"),
        "run-assimilate": (
            "assimilate", file, "--observations", corpus / "observations.nc", "--members", 3, "--out", out / "a.nc"
        ),
        "resume-latent": ("train", corpus / "latent.yaml", "--data", data, "--out", file, "--resume"),
        "encode": ("encode", file, data, "--out", out / "l"),
        "run-init": ("train", recipe, "--data", data, "--init", file, "--out", out / "run"),
        "run-report": ("report", file, "--out", out / "r.html"),
        "run-compare": ("compare", file, "--data", data, *small, "--out", out / "c"),
        "evaluate": ("evaluate", file, "--truth", data, "--out", out / "s.json"),
        "forecast-from": ("forecast", trained, "--data", data, "--start", file, *small, "--out", out / "f.nc"),
        "background": (
            "assimilate", trained, "--observations", corpus / "observations.nc", "--background", file, "--members", 2,
            "--out", out / "a.nc",
        ),
        "assimilate": ("assimilate", trained, "--observations", file, "--members", 3, "--out", out / "a.nc"),
    }  # fmt: skip
    return [str(word) for word in lines[command]]


def fingerprint(place: Path) -> dict[str, int | str]:
    """Every file below a place with a checksum of its content."""
    found: dict[str, int | str] = {}
    for item in [place, *sorted(place.rglob("*"))] if place.is_dir() else [place]:
        name = str(item.relative_to(place.parent))
        if item.is_symlink():
            found[name] = f"link {os.readlink(item)}"
        else:
            found[name] = "folder" if item.is_dir() else zlib.crc32(item.read_bytes())
    return found


@contextmanager
def captured(path: Path) -> Iterator[None]:
    """Both streams into one file each, below Python too: libraries in C print as well."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    sys.stderr.flush()
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(path / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(handle, number)
        os.close(handle)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, handle in ((1, kept[0]), (2, kept[1])):
            os.dup2(handle, number)
            os.close(handle)


class TooLong(BaseException):
    """Beyond whatever a command may catch."""


def too_long(number: int, frame: object) -> None:
    raise TooLong(f"the command took more than {SECONDS} s")


def one(command: str, file: Path, corpus: Path, scratch: Path) -> tuple[int | None, list[str], str]:
    """Exit code of a command, what is wrong with how it ended, and its last line."""
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    before, wrong, code = fingerprint(file), [], None
    line = words(command, file, corpus, out)
    signal.alarm(SECONDS)
    with captured(scratch):
        try:
            code = run(line)
        except BaseException as error:  # whatever comes is the finding
            places = [f"{Path(one.filename).name}:{one.lineno}" for one in traceback.extract_tb(error.__traceback__)
                      if "eddycast" in one.filename]  # fmt: skip
            wrong.append(f"{type(error).__name__} at {' > '.join(places[-3:])}: {str(error)[:200]!r}")
    signal.alarm(0)
    told = (scratch / "stderr").read_bytes().decode("utf-8", "replace")
    lines = [text for text in told.splitlines() if text.strip()]
    if command in ("train", "recipe", "resume", "resume-latent", "run-init"):  # a bar may have been drawn before
        lines = [text for text in lines if "ETA" not in text]
    if code == 2:
        if len(lines) != 1 or not lines[0].startswith("eddycast: "):
            wrong.append(f"expected one line, got {lines[:3]}")
        elif len(lines[0]) > 700:
            wrong.append(f"a line of {len(lines[0])} characters: {lines[0][:100]!r}")
        if left := sorted(str(item.relative_to(out)) for item in out.rglob("*")):
            wrong.append(f"refused, but left {left[:4]}")
    elif code == 0 and lines:
        wrong.append(f"succeeded, but said {lines[:2]}")
    elif code not in (0, 2, None):
        wrong.append(f"exit code {code}")
    if parts := [item.name for item in scratch.rglob(".*part-*")]:
        wrong.append(f"left {parts[:2]}")
    if fingerprint(file) != before and not (command.startswith("resume") and code == 0):
        wrong.append("the input was changed")
    return code, [f"`{command}`: {text}" for text in wrong], lines[0] if lines else ""


def examine(case: Case, corpus: Path, scratch: Path, *, thorough: bool) -> dict[str, object]:
    """Give one spoiled file to all commands.

    All share their readers, so unless `thorough` the second and later ones get every second file in turn, and those that draw or
    train fewer of the files that the first one accepts.
    """
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    file = case.make(corpus, folder)
    commands = KINDS[case.kind].commands
    codes: dict[str, int | None] = {}
    seconds: dict[str, float] = {}
    failures: list[str] = []
    said: dict[str, str] = {}
    for place, command in enumerate(commands):
        every = DEAR.get(command, 2) if codes.get(commands[0]) == 0 else 2
        if place and not thorough and (case.seed + place) % every:
            continue
        begin = time.process_time()
        codes[command], wrong, said[command] = one(command, file, corpus, scratch)
        seconds[command] = round(time.process_time() - begin, 3)
        failures += wrong
    return {"case": case.name, "codes": codes, "failures": failures, "said": said, "seconds": seconds}


def main() -> None:
    corpus, scratch, first, step, seeds, thorough = sys.argv[1:]
    matplotlib.rcParams["savefig.dpi"] = 30
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    if pages:
        limit = pages * resource.getpagesize() + EXTRA_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, too_long)
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.chdir(scratch)
    for number, case in list(enumerate(cases(int(seeds))))[int(first) :: int(step)]:
        print(json.dumps({"begin": number, "case": case.name}), file=stream)
        print(
            json.dumps(examine(case, Path(corpus), Path(scratch), thorough=thorough == "1") | {"number": number}),
            file=stream,
        )


if __name__ == "__main__":
    main()
