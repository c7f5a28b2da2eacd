"""What a reader of frames looks like."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Source(Protocol):
    """Frames on disk or in memory; open handles belong to a process and are never pickled."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each trajectory."""
        ...

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        """Frames start, start + stride, ... before stop: (time, channel, *space), float32, missing values NaN."""
        ...
