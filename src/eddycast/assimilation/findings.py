"""What methods find besides states (unknown parameters, a divergence): collected by whoever asks, as passes of networks are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_OPEN: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("open collections of findings", default=())


@contextmanager
def gather_findings() -> Iterator[dict[str, Any]]:
    """Findings by name while it is open; of two with one name the later stays.

    `parameters`: unknown parameters by name, each (member, case, time), in physical units, and `parameter_std`, (1, case, time);
    `divergence`: one line.
    """
    found: dict[str, Any] = {}
    token = _OPEN.set((*_OPEN.get(), found))
    try:
        yield found
    finally:
        _OPEN.reset(token)


def report(**found: Any) -> None:
    """Tell the open collections."""
    for collection in _OPEN.get():
        collection.update(found)
