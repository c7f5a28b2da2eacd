"""Count what a forecast or an analysis costs, in the unit that all emulators share: passes of a network over one window.

One pass takes one window of one member forward, or its gradient back; a batch of B windows counts B. For one window the forward
passes of a sampler with N steps and c corrections are N + (N - 1) c, and those of a rollout their sum over its windows: 16 steps in
each of 80 windows are 1280. An all-at-once sample of L states counts each of its overlapping windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Passes:
    """Windows that went forward and back through networks since counting began."""

    forward: int = 0
    backward: int = 0


_OPEN: ContextVar[tuple[Passes, ...]] = ContextVar("open counters of network passes", default=())


@contextmanager
def count_passes() -> Iterator[Passes]:
    """Counts while it is open; counters may be nested, each sees all that happens inside."""
    counter = Passes()
    token = _OPEN.set((*_OPEN.get(), counter))
    try:
        yield counter
    finally:
        _OPEN.reset(token)


def record(output: Tensor) -> Tensor:
    """Tell the open counters that a network made `output` (batch, ...); returns it, and counts each gradient that comes back to it.

    A pass that autograd runs again (checkpointing) is not counted.
    """
    counters = _OPEN.get()
    if not counters:
        return output
    windows = len(output)
    for counter in counters:
        counter.forward += windows
    if output.requires_grad:
        output = output.view_as(output)  # a node of its own, so that the hook is not the caller's

        def back(gradient: Tensor) -> None:
            for counter in counters:
                counter.backward += windows

        output.register_hook(back)
    return output
