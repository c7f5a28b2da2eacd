"""The one training loop: stages of any family, exact resume, diagnosis."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eddycast.data import Dataset, WindowBatches
from eddycast.emulators import Space, Stage, TrainingBatch
from eddycast.files import leftovers, write_bytes
from eddycast.training.average import WeightAverage
from eddycast.training.checkpoint import Position, read_position, restore, save_checkpoint
from eddycast.training.files import RunDirectory
from eddycast.training.interrupt import PostponedInterrupt
from eddycast.training.optimiser import build_optimisers
from eddycast.training.progress import SilentObserver, TrainingObserver
from eddycast.training.settings import TrainingSettings

TIMED_STEPS = 8
FREE_SETTINGS = frozenset({"checkpoint_seconds", "workers", "validations"})
"""Training settings that a resumed run may change: they do not touch the weights."""


@dataclass
class Training:
    """One training run of a model in a run directory.

    Args:
        model: Whose `stages` are trained; it is on the device where it is to be trained.
        space: Physical <-> model space.
        data: Opened data; windows are taken from the train split.
        stages: Which stages, in order.
        settings: See `TrainingSettings`.
        directory: Where checkpoints and the log go.
        validate: Model as it is -> score to be written in the log, lower is better; None for no validation.
        observer: Shown the progress.
    """

    model: nn.Module
    space: Space
    data: Dataset
    stages: tuple[Stage, ...]
    settings: TrainingSettings
    directory: RunDirectory
    validate: Callable[[], float] | None = None
    observer: TrainingObserver = field(default_factory=SilentObserver)

    def run(self, *, resume: bool = False) -> Position:
        """Train to the end and leave the (averaged) weights in the model.

        With `resume` the run goes on from its last checkpoint; the weights at the end are bit by bit those of a run that was not
        interrupted, on the same machine with the same number of threads.

        Raises: InputError when what is there belongs to other settings; FloatingPointError with a diagnosis when the loss is no
            longer finite, the last checkpoint being as it was. KeyboardInterrupt leaves a checkpoint.
        """
        try:
            return self._run(*self._start(resume))
        finally:
            self.observer.finished()

    def _run(self, position: Position, tensors: dict[str, Tensor], updates: int | None) -> Position:
        if position.complete:
            restore(tensors, updates, self.model, [], None)
            return position
        names = [stage.name for stage in self.stages]
        for stage in self.stages[names.index(position.stage) :]:
            if stage.name != position.stage:
                position.stage, position.done = stage.name, 0
                tensors, updates = {}, None
            self._run_stage(stage, position, tensors, updates)
        position.complete = True
        save_checkpoint(self.directory.checkpoint, position, self.model, [], None, self._identity())
        return position

    def _identity(self) -> dict[str, Any]:
        """Settings that a resumed run must share; the others only change when things are looked at."""
        stages = [stage.name for stage in self.stages]
        return {key: value for key, value in asdict(self.settings).items() if key not in FREE_SETTINGS} | {
            "stages": stages
        }

    def _start(self, resume: bool) -> tuple[Position, dict[str, Tensor], int | None]:
        fresh = Position(stage=self.stages[0].name, done=0)
        path = self.directory.checkpoint
        for leftover in leftovers(path):
            leftover.unlink(missing_ok=True)
        if not resume or not path.is_file():  # stopped before its first checkpoint: to resume is to begin
            self.directory.log.unlink(missing_ok=True)
            return fresh, {}, None
        position, tensors, updates = read_position(path, self._identity())
        trim_log(self.directory.log, position)
        return position, tensors, updates

    def _run_stage(self, stage: Stage, position: Position, tensors: dict[str, Tensor], updates: int | None) -> None:
        settings = self.settings
        seed = settings.seed + 7919 * [each.name for each in self.stages].index(stage.name)
        batches = WindowBatches(
            self.data, "train", stage.frames, batch_size=settings.batch_size, seed=seed, workers=settings.workers
        )
        runner = StageRunner(stage, self.space, batches, settings, seed)
        if tensors:
            restore(tensors, updates, self.model, runner.optimisers, runner.average)
        if stage.name not in position.steps:
            position.steps[stage.name] = self._num_steps(stage, runner)
            if settings.minutes is not None:
                runner = StageRunner(stage, self.space, batches, settings, seed)
        steps = position.steps[stage.name]
        self.observer.stage(stage.name, position.done, steps)
        marks = {math.ceil(steps * (part + 1) / settings.validations) for part in range(settings.validations)}
        wall, cpu = time.monotonic(), time.process_time()
        saved = wall

        def account() -> None:
            nonlocal wall, cpu
            now, now_cpu = time.monotonic(), time.process_time()
            position.seconds += now - wall
            position.cpu_seconds += now_cpu - cpu
            wall, cpu = now, now_cpu

        def checkpoint() -> None:
            save_checkpoint(
                self.directory.checkpoint, position, self.model, runner.optimisers, runner.average, self._identity()
            )

        if position.done == 0:
            checkpoint()
        whole = True
        try:
            with PostponedInterrupt() as interrupt:
                for state, conditions in batches.iterate(position.done, steps):
                    whole = False
                    record = runner.step(state, conditions, position.done, steps)
                    position.done += 1
                    whole = True
                    account()
                    record |= {"stage": stage.name, "step": position.done, "seconds": round(position.seconds, 3)}
                    if position.done in marks and self.validate is not None:
                        record["validation_crps"] = score = self._validate(runner)
                        self.observer.validated(score)
                        wall, cpu = time.monotonic(), time.process_time()
                    append_log(self.directory.log, record)
                    self.observer.step(position.done, record["loss"])
                    if time.monotonic() - saved > settings.checkpoint_seconds:
                        checkpoint()
                        saved = time.monotonic()
                    interrupt.check()
        except KeyboardInterrupt:
            account()
            if whole:
                checkpoint()
            raise
        runner.finish()

    def _validate(self, runner: StageRunner) -> float:
        assert self.validate is not None
        self.model.eval()
        try:
            if runner.average is None:
                return self.validate()
            with runner.average.applied():
                return self.validate()
        finally:
            self.model.train()

    def _num_steps(self, stage: Stage, runner: StageRunner) -> int:
        """Steps of a stage: its share of the steps, or of the minutes at the pace of its first steps, which are then undone."""
        share = stage.share / sum(each.share for each in self.stages)
        if self.settings.minutes is None:
            return max(1, round(self.settings.steps * share))
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        for number in range(2 + TIMED_STEPS):
            if number == 2:
                start = time.monotonic()
            runner.step(*runner.batches.batch(number), number, 10**6)
        pace = (time.monotonic() - start) / TIMED_STEPS
        self.model.load_state_dict(before)
        return max(1, int(60 * self.settings.minutes * share / pace))


class StageRunner:
    """Steps of one stage: each depends on the weights, the optimiser state, the seed and its number, and on nothing else."""

    def __init__(
        self, stage: Stage, space: Space, batches: WindowBatches, settings: TrainingSettings, seed: int
    ) -> None:
        self.stage = stage
        self.space = space
        self.batches = batches
        self.settings = settings
        self.seed = seed
        self.device = next(stage.module.parameters()).device
        self.generator = torch.Generator(self.device)
        self.peak = settings.learning_rate * stage.learning_rate
        self.optimisers = build_optimisers(
            stage.module, kind=settings.optimiser, learning_rate=self.peak, weight_decay=settings.weight_decay
        )
        self.average = None if settings.average is None else WeightAverage(stage.module, settings.average)
        stage.module.train()

    def step(self, state: Tensor, conditions: Any, number: int, steps: int) -> dict[str, Any]:
        """One optimiser step, the `number`-th of `steps`; returns loss, norm of the gradient and learning rate."""
        rate = self.peak * learning_rate_factor(number, steps, self.settings.warmup)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
        self.generator.manual_seed(self.seed << 32 | number)
        conditions = conditions.to(self.device)
        leads = torch.arange(state.shape[1], dtype=torch.float64)
        x = self.space.encode(state.to(self.device), conditions, leads)
        loss = self.stage.objective(TrainingBatch(x, conditions, self.generator))
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.stage.module.parameters(), self.settings.clip)
        record = {"loss": loss.item(), "gradient_norm": norm.item(), "learning_rate": rate}
        if not math.isfinite(record["loss"]) or not math.isfinite(record["gradient_norm"]):
            raise FloatingPointError(self._diagnosis(record, number, x))
        for optimiser in self.optimisers:
            optimiser.step()
        if self.average is not None:
            self.average.update()
        return record

    def finish(self) -> None:
        """Leave the averaged weights in the module."""
        if self.average is not None:
            self.average.copy_to_module()
        self.stage.module.eval()

    def _diagnosis(self, record: dict[str, Any], number: int, x: Tensor) -> str:
        what = f"Training stopped in stage {self.stage.name!r} at step {number + 1}: loss {record['loss']:g}"
        if not bool(torch.isfinite(x).all()):
            return f"{what}; the data of this batch are not finite: run `eddycast inspect` on them."
        bad = [name for name, weight in self.stage.module.named_parameters() if not bool(torch.isfinite(weight).all())]
        if bad:
            return (
                f"{what}; weights are no longer finite, first {bad[0]}: train anew with a lower training.learning_rate."
            )
        return (
            f"{what}, gradient norm {record['gradient_norm']:g}, largest input {x.abs().max().item():.3g} standard deviations, "
            f"learning rate {record['learning_rate']:.2g}: lower training.learning_rate or training.clip, or look at the data for outliers."
        )


def learning_rate_factor(number: int, steps: int, warmup: int) -> float:
    """Linear rise over `warmup` steps (a tenth of all steps at most), times a cosine that ends at zero."""
    rise = min(1.0, (number + 1) / max(1, min(warmup, steps // 10)))
    return rise * 0.5 * (1 + math.cos(math.pi * number / steps))


def append_log(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def trim_log(path: Path, position: Position) -> None:
    """Drop what the log says of steps after the checkpoint: they will be taken again."""
    if not path.is_file():
        return
    lines = path.read_text().splitlines()
    order = list(position.steps)
    kept = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:  # the last line of a process that was killed
            continue
        before = order.index(record["stage"]) < order.index(position.stage) if record["stage"] in order else False
        if before or (record["stage"] == position.stage and record["step"] <= position.done):
            kept.append(line)
    write_bytes(path, "".join(f"{line}\n" for line in kept).encode())
