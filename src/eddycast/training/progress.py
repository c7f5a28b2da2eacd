"""Those who watch a training run."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingObserver(Protocol):
    """Told what happens; may raise KeyboardInterrupt to stop the run, which then leaves a checkpoint."""

    def stage(self, name: str, done: int, steps: int) -> None:
        """A stage begins, or goes on after `done` of its steps."""
        ...

    def step(self, done: int, loss: float) -> None: ...
    def validated(self, score: float) -> None: ...

    def warned(self, message: str) -> None:
        """Something that does not stop the run and should be known."""
        ...

    def finished(self) -> None: ...


class SilentObserver:
    """Watches without a word."""

    def stage(self, name: str, done: int, steps: int) -> None: ...
    def step(self, done: int, loss: float) -> None: ...
    def validated(self, score: float) -> None: ...
    def warned(self, message: str) -> None: ...
    def finished(self) -> None: ...


class ProgressBar:
    """A bar with loss, validation score, elapsed and remaining time, on the standard error stream."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=2,
        )
        self.task: TaskID | None = None
        self.loss: float | None = None
        self.score: float | None = None

    def stage(self, name: str, done: int, steps: int) -> None:
        self.progress.start()
        self.loss = None
        self.task = self.progress.add_task(f"train {name}", total=steps, completed=done, figures="")

    def step(self, done: int, loss: float) -> None:
        assert self.task is not None, "a stage comes before its steps"
        self.loss = loss if self.loss is None else 0.95 * self.loss + 0.05 * loss
        self.progress.update(self.task, completed=done, figures=self._figures())

    def validated(self, score: float) -> None:
        self.score = score
        if self.task is not None:
            self.progress.update(self.task, figures=self._figures())

    def warned(self, message: str) -> None:
        self.progress.console.print(message, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def finished(self) -> None:
        self.progress.stop()

    def _figures(self) -> str:
        loss = "" if self.loss is None else f"loss {self.loss:.2e}"
        return loss if self.score is None else f"{loss}  validation {self.score:.4f}"
