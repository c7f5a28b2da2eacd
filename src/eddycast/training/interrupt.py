"""Ctrl-C is answered between two steps, so that no checkpoint holds half of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class PostponedInterrupt:
    """Inside, a SIGINT waits for the next `check`, which raises KeyboardInterrupt; a second one acts at once.

    Python delivers signals to the main thread only: in another thread this does nothing.
    """

    def __init__(self) -> None:
        self.pending = False
        self._active = threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> PostponedInterrupt:
        if self._active:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, signal.default_int_handler if self._before is None else self._before)

    def check(self) -> None:
        """Raises: KeyboardInterrupt when one is waiting."""
        if self.pending:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True
