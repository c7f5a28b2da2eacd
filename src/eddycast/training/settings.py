"""How a model is trained, whatever the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the one training loop.

    Args:
        steps: Optimiser steps in all, divided among the stages by their shares; with `minutes` the steps follow from the clock.
        minutes: Wall-clock budget in all; None to count steps. The number of steps is fixed after timing the first ones, so that a
            resumed run is exact.
        batch_size: Windows per step, over all processes.
        accumulate: Passes into which each process cuts its part of a batch: the gradient is the same to rounding, the memory less.
        precision: Of the networks' arithmetic: `float32`, or `bfloat16` where torch's autocast deems it safe; weights, optimiser and
            validation stay in float32.
        compile: Translate the networks with torch.compile; needs a compiler, and some minutes at the start.
        optimiser: `muon` (orthogonalised momentum for matrices, AdamW for the rest), `adamw`, or `soap` (Adam in the eigenbases of the
            gradient's moments; of the extra `optimisers`).
        learning_rate: Peak, after `warmup` steps; a cosine takes it to 0 at the end of each stage.
        weight_decay: Decoupled.
        warmup: Steps of linear rise at the start of each stage.
        clip: Largest norm of the gradient.
        average: Decay of the exponential moving average of the weights, which is what is kept; None keeps the last weights.
        validations: Times that a stage is validated, the end included.
        checkpoint_seconds: Least time between checkpoints.
        balance: What windows that begin in a rare state are chosen by, so that they come more often (`rare.STATISTICS`): `energy`, `peak`
            or `jets`; `none` shows all windows alike.
        workers: Processes that read data which do not fit in memory.
        seed: Of the initial weights, the order of the data and the training noise.
    """

    steps: int = 2000
    minutes: float | None = None
    batch_size: int = 64
    accumulate: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    optimiser: Literal["muon", "adamw", "soap"] = "muon"
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    clip: float = 1.0
    average: float | None = 0.99
    validations: int = 6
    checkpoint_seconds: float = 20.0
    balance: Literal["none", "energy", "peak", "jets"] = "none"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be positive, got {self.minutes}.")
        if self.average is not None and not 0 <= self.average < 1:
            raise ValueError(f"average must lie in [0, 1), got {self.average}; null keeps the last weights.")
        for name, least in (
            ("steps", 1),
            ("batch_size", 1),
            ("accumulate", 1),
            ("validations", 1),
            ("warmup", 0),
            ("workers", 0),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate must be at most batch_size = {self.batch_size}, got {self.accumulate}.")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}.")
        for name, limit in (("steps", 31), ("batch_size", 20), ("validations", 20), ("workers", 10), ("seed", 31)):
            if getattr(self, name) >= 2**limit:
                raise ValueError(f"{name} must be below 2**{limit}, got {getattr(self, name)}.")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
