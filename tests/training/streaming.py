"""Run in a process of its own: go through many windows of a data set, and print how far its memory has grown (MiB)."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path

import torch

from eddycast import api
from eddycast.data import WindowBatches, mixture
from eddycast.training import SilentObserver

WARM = 20
"""Steps after which everything that stays has been allocated."""


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Watch(SilentObserver):
    def __init__(self) -> None:
        self.warm, self.highest = 0.0, 0.0

    def step(self, done: int, loss: float) -> None:
        if done == WARM:
            self.warm = resident()
        elif done > WARM:
            self.highest = max(self.highest, resident())


def main(what: str, data: str, out: str, limit: str) -> None:
    torch.set_num_threads(1)
    limited = functools.partial(WindowBatches, memory_limit=int(limit))
    watch = Watch()
    opened = api.open_dataset(data)
    opened = replace(opened, source=replace(opened.source, cache_bytes=int(limit)))
    if what == "train":
        mixture.WindowBatches = limited
        settings = {"training.steps": 60, "training.batch_size": 24, "training.validations": 1, "guard": False}
        settings |= {"emulator.network.channels": [2], "evaluation.validation_cases": 1, "training.optimiser": "adamw"}
        api.train("ks/regression-smoke", data=opened, out=out, overrides=settings, observer=watch)
    else:
        batches = limited(opened, "train", 3, batch_size=8)
        watch.warm = resident()  # what is held in memory is read with the first batch
        for number, (states, _) in enumerate(batches.iterate(0, batches.num_windows // 16), start=WARM + 1):
            watch.step(number, states.sum().item())
    print(watch.highest - watch.warm)


main(*sys.argv[1:])
