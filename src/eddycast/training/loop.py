"""The one training loop: stages of any family, exact resume, diagnosis."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from eddycast import distributed
from eddycast.data import Dataset, Mixture, training_batches
from eddycast.emulators import Space, Stage
from eddycast.errors import InputError
from eddycast.files import leftovers
from eddycast.networks import batch_norms
from eddycast.training.average import WeightAverage
from eddycast.training.checkpoint import Position, read_position, restore, save_checkpoint
from eddycast.training.collapse import CollapseWatch
from eddycast.training.files import RunDirectory
from eddycast.training.interrupt import PostponedInterrupt
from eddycast.training.log import append_log, read_log, trim_log
from eddycast.training.progress import SilentObserver, TrainingObserver
from eddycast.training.rare import rarity
from eddycast.training.runner import StageRunner, freeze, learning_rate_factor, stage_optimisers
from eddycast.training.settings import TrainingSettings

__all__ = ["FREE_SETTINGS", "Training", "learning_rate_factor"]

TIMED_STEPS = 8
FREE_SETTINGS = frozenset({"checkpoint_seconds", "workers", "validations"})
"""Training settings that a resumed run may change: they do not touch the weights."""


@dataclass
class Training:
    """One training run of a model in a run directory.

    Processes that have joined (`distributed.process_group`) each call `run` with the same arguments and share the batches; the first
    alone validates, writes and shows progress. The weights are those of one process, to rounding.

    Args:
        model: Whose `stages` are trained; it is on the device where it is to be trained.
        space: Physical <-> model space.
        data: Opened data; windows are taken from the train split.
        stages: Which stages, in order.
        settings: See `TrainingSettings`.
        directory: Where checkpoints and the log go.
        validate: Model as it is -> score to be written in the log, lower is better; None for no validation.
        score_name: What the score is called in the log.
        observer: Shown the progress.
        views: Of the data, by the name that stages give them.
    """

    model: nn.Module
    space: Space
    data: Dataset | Mixture
    stages: tuple[Stage, ...]
    settings: TrainingSettings
    directory: RunDirectory
    validate: Callable[[], float] | None = None
    score_name: str = "validation_crps"
    observer: TrainingObserver = field(default_factory=SilentObserver)
    views: Mapping[str, Dataset | Mixture] = field(default_factory=dict)

    def run(self, *, resume: bool = False) -> Position:
        """Train to the end and leave the (averaged) weights in the model.

        With `resume` the run goes on from its last checkpoint; the weights at the end are bit by bit those of a run that was not
        interrupted, on the same machine with the same number of threads.

        Only the module of the stage is in training mode: what an earlier stage has trained stays as it is used.

        Raises: InputError when what is there belongs to other settings, a batch has fewer windows than there are passes of
            processes to share it, or several processes would train a network with batch norm; FloatingPointError with a diagnosis
            when the loss is no longer finite, the last checkpoint being as it was. KeyboardInterrupt leaves a checkpoint.
        """
        if not distributed.is_first():
            self.observer = SilentObserver()
        passes = distributed.size() * self.settings.accumulate
        if passes > self.settings.batch_size:
            raise InputError(
                f"A batch of {self.settings.batch_size} windows cannot be shared by {distributed.size()} processes with "
                f"{self.settings.accumulate} passes each: raise training.batch_size, or start fewer processes."
            )
        mixtures = [one for stage in self.stages if isinstance(one := self._windows(stage), Mixture)]
        fewest = min((min(one.sizes(self.settings.batch_size)) for one in mixtures), default=passes)
        if distributed.size() > fewest:
            raise InputError(
                f"Batches on the largest of the grids have {fewest} windows, too few for {distributed.size()} processes: raise "
                "training.batch_size, or start fewer processes."
            )
        if distributed.size() > 1 and any(batch_norms(stage.module) for stage in self.stages):
            raise InputError(
                f"Batch norm needs the whole batch, which {distributed.size()} processes would share: "
                "start one process, or set the norm of the network to channel."
            )
        try:
            return self._run(*self._start(resume))
        finally:
            self.observer.finished()

    def _windows(self, stage: Stage) -> Dataset | Mixture:
        return self.views[stage.view] if stage.view else self.data

    def check(self) -> None:
        """Read the last checkpoint into the model, before anything is written. Raises: InputError when it cannot be resumed."""
        path, log = self.directory.checkpoint, self.directory.log
        for place in (path, log):
            if place.exists() and not place.is_file():
                raise InputError(f"{place} is a directory, expected a file of the training: remove it.")
        if not path.is_file():
            return
        position, tensors, updates = read_position(path, self._identity())
        stage = next(each for each in self.stages if each.name == position.stage)
        module, settings = stage.module, self.settings
        freeze(stage)
        optimisers = stage_optimisers(stage, settings)
        average = None if settings.average is None else WeightAverage(module, settings.average)
        restore(
            tensors,
            updates,
            self.model,
            [] if position.complete else optimisers,
            None if position.complete else average,
        )
        freeze(stage, False)

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
        if distributed.is_first():
            save_checkpoint(self.directory.checkpoint, position, self.model, [], None, self._identity())
        return position

    def _identity(self) -> dict[str, Any]:
        """Settings that a resumed run must share; the others only change when things are looked at."""
        told = {key: value for key, value in asdict(self.settings).items() if key not in FREE_SETTINGS}
        if told["balance"] == "none":  # checkpoints from before there was a choice do not name it
            del told["balance"]
        return told | {"stages": [stage.name for stage in self.stages]}

    def _start(self, resume: bool) -> tuple[Position, dict[str, Tensor], int | None]:
        path = self.directory.checkpoint
        fresh: tuple[Position, dict[str, Tensor], int | None] = Position(stage=self.stages[0].name, done=0), {}, None
        # Without a checkpoint the run was stopped before its first one: to resume is to begin.
        start = read_position(path, self._identity()) if resume and path.is_file() else fresh
        distributed.barrier()  # all have read before the first one writes
        if distributed.is_first():
            for leftover in leftovers(path):
                leftover.unlink(missing_ok=True)
            if start is fresh:
                self.directory.log.unlink(missing_ok=True)
            else:
                trim_log(self.directory.log, start[0])
        return start

    def _run_stage(self, stage: Stage, position: Position, tensors: dict[str, Tensor], updates: int | None) -> None:
        settings = self.settings
        seed = settings.seed + 7919 * [each.name for each in self.stages].index(stage.name)
        batches = training_batches(
            self._windows(stage),
            stage.frames,
            batch_size=settings.batch_size,
            seed=seed,
            workers=settings.workers,
            rarity=rarity(settings.balance),
            rank=distributed.rank(),
            ranks=distributed.size(),
        )
        self.model.eval()
        runner = StageRunner(stage, self.space, batches, settings, seed)
        if tensors:
            restore(tensors, updates, self.model, runner.optimisers, runner.average)
        if stage.name not in position.steps:
            position.steps[stage.name] = self._num_steps(stage, runner)
            if settings.minutes is not None:
                runner = StageRunner(stage, self.space, batches, settings, seed)
        steps = position.steps[stage.name]
        self.observer.stage(stage.name, position.done, steps)
        watch = CollapseWatch(steps)
        for record in read_log(self.directory.log) if position.done > 0 else ():
            if record["stage"] == stage.name:
                watch.sees(record["step"], record.get("spread_error"))
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
            if distributed.is_first():
                save_checkpoint(
                    self.directory.checkpoint, position, self.model, runner.optimisers, runner.average, self._identity()
                )

        if position.done == 0:
            checkpoint()
        whole = True
        with PostponedInterrupt(patient=distributed.size() > 1) as interrupt:
            try:
                for state, conditions in batches.iterate(position.done, steps):
                    whole = False
                    record = runner.step(state, conditions, position.done, steps)
                    position.done += 1
                    whole = True
                    account()
                    record |= {"stage": stage.name, "step": position.done, "seconds": round(position.seconds, 3)}
                    if position.done in marks and self.validate is not None:
                        record[self.score_name] = score = self._validate(runner)
                        self.observer.validated(score)
                        wall, cpu = time.monotonic(), time.process_time()
                    if watch.sees(position.done, record.get("spread_error")):
                        record["collapsed"] = True
                        self.observer.warned(watch.message(stage.name))
                    if distributed.is_first():
                        append_log(self.directory.log, record)
                    try:
                        self.observer.step(position.done, record["loss"])
                    except KeyboardInterrupt:
                        interrupt.pending = True
                    if distributed.anyone(interrupt.pending):  # all stop after the same step
                        raise KeyboardInterrupt
                    if time.monotonic() - saved > settings.checkpoint_seconds:
                        checkpoint()
                        saved = time.monotonic()
            except KeyboardInterrupt:
                account()
                if whole:
                    checkpoint()
                    distributed.barrier()  # torchrun ends all as soon as one has ended
                raise
        runner.finish()

    def _validate(self, runner: StageRunner) -> float:
        """Score by the first process; the others wait for it."""
        assert self.validate is not None
        score = math.nan
        if distributed.is_first():
            self.model.eval()
            try:
                with nullcontext() if runner.average is None else runner.average.applied():
                    score = self.validate()
            finally:
                runner.stage.module.train()
        return distributed.from_first(score)

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
        return max(1, int(distributed.from_first(60 * self.settings.minutes * share / pace)))
