"""Spoiled files of every format through every command that reads them: one line, exit code 2, nothing written, nothing changed.

EDDYCAST_FUZZ_SEEDS=N multiplies the number of files; EDDYCAST_FUZZ_THOROUGH=1 gives each to all commands, slow ones too.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import fuzz_corpus
import numpy as np
import pytest
from fuzz_cases import KINDS, cases

from eddycast.cli.app import run

SEEDS = int(os.environ.get("EDDYCAST_FUZZ_SEEDS", "1"))
THOROUGH = os.environ.get("EDDYCAST_FUZZ_THOROUGH", "0")
WORKERS = 2
PATIENCE = 240
"""Seconds without a word from a worker, which has its own limit for each command."""


def pass_on(stream: IO[str], lines: queue.Queue[str]) -> None:
    """Each line as it comes, and an empty one at the end."""
    for line in stream:
        lines.put(line)
    lines.put("")


class Worker:
    """A process that examines every `WORKERS`-th case; one that dies is started again behind the case that killed it."""

    def __init__(self, corpus: Path, scratch: Path, first: int) -> None:
        self.corpus, self.scratch, self.next = corpus, scratch, first
        self.scratch.mkdir()
        self.results: list[dict] = []

    def run(self) -> None:
        total = len(cases(SEEDS))
        while self.next < total:
            self._run_until_it_ends()

    def _run_until_it_ends(self) -> None:
        words = [
            Path(__file__).with_name("fuzz_worker.py"),
            self.corpus,
            self.scratch,
            self.next,
            WORKERS,
            SEEDS,
            THOROUGH,
        ]
        environment = os.environ | {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "EDDYCAST_DEBUG": ""}
        with (self.scratch / "log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *map(str, words)], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
            lines: queue.Queue[str] = queue.Queue()
            threading.Thread(target=pass_on, args=(process.stdout, lines), daemon=True).start()
            begun = None
            while True:
                try:
                    line = lines.get(timeout=PATIENCE)
                except queue.Empty:
                    process.kill()
                    line = ""
                if not line:
                    break
                content = json.loads(line)
                if "begin" in content:
                    begun = content
                else:
                    self.results.append(content)
                    self.next, begun = content["number"] + WORKERS, None
            code = process.wait()
        if begun is not None:  # the process died, or hung, over this case
            told = (self.scratch / "log").read_text()[-500:]
            failure = f"the process ended with {code}: {told}"
            self.results.append({"case": begun["case"], "codes": {}, "failures": [failure]})
            self.next = begun["begin"] + WORKERS
        elif code != 0:
            raise RuntimeError(f"a worker ended with {code}: {(self.scratch / 'log').read_text()[-2000:]}")
        else:
            self.next = len(cases(SEEDS))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("fuzz")
    corpus = folder / "corpus"
    corpus.mkdir()
    fuzz_corpus.build(corpus)
    workers = [Worker(corpus, folder / f"worker{number}", number) for number in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(worker.run) for worker in workers]:
            done.result()  # raises what the thread raised
    return [result for worker in workers for result in worker.results]


def refused(result: dict) -> bool:
    return 2 in result["codes"].values()


@pytest.mark.slow
@pytest.mark.timeout(1800 * SEEDS)
def test_spoiled_files_end_in_one_line(results):
    failures = {result["case"]: result["failures"] for result in results if result["failures"]}
    runs = sum(len(result["codes"]) for result in results)
    print(
        f"{len(results)} spoiled files, {runs} commands, {sum(map(refused, results))} files refused, {len(failures)} failures"
    )
    assert failures == {}


@pytest.mark.slow
def test_the_search_is_not_empty(results):
    """Enough files, most of them refused, and of each kind some that are and (where a reader can tell) some that are not."""
    assert len(results) >= 500 and {result["case"] for result in results} == {case.name for case in cases(SEEDS)}
    assert sum(map(refused, results)) > len(results) / 2
    by_kind = Counter(result["case"].partition("/")[0] for result in results if refused(result))
    assert set(by_kind) >= set(KINDS) - {"log", "begun-log"}, by_kind  # a torn log is read as far as it goes
    accepted = sum(bool(result["codes"]) and not refused(result) for result in results)
    assert accepted > len(results) / 20
    commands = Counter(command for result in results for command in result["codes"])
    assert set(commands) == {command for kind in KINDS.values() for command in kind.commands}


@pytest.mark.parametrize(
    "old, new",
    [
        ("channels: [4]", f"channels: {sizes}")
        for sizes in ("[]", "[-4]", "[0]", "[1000000, 4]", "[4, 1000000000]", "[100000000000000000000]")
    ]
    + [
        ("kernel: 3", "kernel: 4"),
        ("embedding: 8", "embedding: 1000000000000"),
        ("batch_size: 2", "batch_size: 100000000000"),
        ("steps: 2,", "steps: 10000000000000000000000,"),
        ("validation_members: 2", "validation_members: 1000000000"),
    ],
)
def test_sizes_that_no_machine_holds_are_refused(old, new, tmp_path, capsys):
    """Counts are looked at before anything of that size is made."""
    assert old in fuzz_corpus.RECIPE
    (tmp_path / "recipe.yaml").write_text(fuzz_corpus.RECIPE.replace(old, new, 1))
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(5, 8, 16)).astype("float32"))
    words = ["train", tmp_path / "recipe.yaml", "--data", tmp_path / "data.npy", "--out", tmp_path / "run"]
    assert run([str(word) for word in words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_cases_are_the_same_each_time(tmp_path):
    """The bytes of a spoiled file follow from its name."""
    names = [case.name for case in cases()]
    assert names == [case.name for case in cases()] and len(set(names)) == len(names)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "recipe.yaml").write_text(fuzz_corpus.RECIPE)
    for case in (case for case in cases() if case.kind == "yaml" and case.mutation.__name__ != "directory"):
        contents = []
        for turn in "ab":
            folder = tmp_path / f"{case.name.replace('/', '-')}-{turn}"
            folder.mkdir()
            contents.append(case.make(corpus, folder).read_bytes())
        assert contents[0] == contents[1]
