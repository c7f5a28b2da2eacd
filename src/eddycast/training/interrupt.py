"""Ctrl-C, and the signal with which schedulers end a job, are answered between two steps, so that no checkpoint holds half of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class PostponedInterrupt:
    """Inside, a SIGINT or SIGTERM waits for the next look at `pending`; a second one raises KeyboardInterrupt at once.

    Python delivers signals to the main thread only: in another thread this does nothing.

    Args:
        patient: Further signals wait as well. Among processes that work together none may leave the others in the middle of a
            step, and torchrun sends each of them the signal that the terminal has sent already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.pending = False
        self.patient = patient
        self._active = threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> PostponedInterrupt:
        if self._active:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending and not self.patient:
            raise KeyboardInterrupt
        self.pending = True
