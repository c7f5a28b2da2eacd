"""Processes that find what torchrun would tell them, forked from a server that has loaded torch once."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eddycast import api
from eddycast.conditions import Conditions
from eddycast.data import Dataset, statistics
from eddycast.emulators import Space, Trainable
from eddycast.recipes import get_recipe
from eddycast.recipes.measured import model_shape, sample_windows
from eddycast.recipes.recipe import with_overrides
from eddycast.recipes.run import seeded_model
from eddycast.training import RunDirectory, Training, read_tensors

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["eddycast.api", "eddycast.cli.app"])


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def enter(function: Callable[..., Any], number: int, count: int, port: int, errors: str, arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.stderr = sys.stdout = open(f"{errors}-{number}", "w", buffering=1)  # noqa: SIM115
    code = function(*arguments)
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else 0)


class Together:
    """`function(*arguments)` in each of some processes; what each prints lies in `said`."""

    def __init__(self, directory: Path, function: Callable[..., Any], *arguments: Any, processes: int = 2) -> None:
        port = free_port()
        self.said = [directory / f"said-{number}" for number in range(processes)]
        self.processes = [
            FORKS.Process(target=enter, args=(function, number, processes, port, str(directory / "said"), arguments))
            for number in range(processes)
        ]
        for process in self.processes:
            process.start()

    def codes(self, timeout: float = 120) -> list[int | None]:
        """Exit codes; a process that still runs after the time is ended, and counts as None."""
        for process in self.processes:
            process.join(timeout)
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
            process.join()
        return codes

    def text(self) -> str:
        return "\n".join(place.read_text() for place in self.said if place.exists())

    def succeed(self) -> None:
        assert self.codes() == [0] * len(self.processes), self.text()


def wait(work: Together, condition: Callable[[], bool]) -> None:
    """Until the condition holds, or a process has ended."""
    while all(process.is_alive() for process in work.processes) and not condition():
        time.sleep(0.001)


class Doubled:
    """A space whose numbers are float64, so that rounding is far below what a mistake would do."""

    def __init__(self, space: Space) -> None:
        self.space = space

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        return self.space.encode(state, conditions, lead_times).double()


def train_doubled(data: Dataset, out: Path, recipe: str, overrides: dict[str, Any]) -> None:
    """Train in float64, without a validation; the checkpoint at the end has the weights."""
    chosen = with_overrides(get_recipe(recipe), overrides)
    model = seeded_model(chosen, model_shape(data, chosen))
    assert isinstance(model, Trainable)
    stages = model.stages()
    space = statistics(data, "train")
    model.prepare(sample_windows(data, space, max(stage.frames for stage in stages)))
    settings = replace(chosen.training, checkpoint_seconds=1e9)
    Training(model.double(), Doubled(space), data, model.double().stages(), settings, RunDirectory(out)).run()  # type: ignore[arg-type]


def trained(out: Path) -> dict[str, Tensor]:
    """Weights in the checkpoint of a finished run."""
    tensors, _ = read_tensors(RunDirectory(out).checkpoint)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}


def small_data() -> Dataset:
    return api.simulate("kuramoto-sivashinsky", trajectories=8, steps=24, seed=0)
