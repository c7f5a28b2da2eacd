"""Fast probabilistic emulators of PDE dynamics: simulate, train, forecast, assimilate, score, show.

Importing does nothing: each name below is loaded with its first use, and torch with it.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eddycast.api import (
        Observations,
        Scores,
        Values,
        compare,
        demo,
        evaluate,
        events,
        load,
        observe,
        open_dataset,
        plot,
        read_observations,
        report,
        simulate,
        statistics,
        tile,
        train,
        zonal_mean,
    )

__version__ = "0.1.0"

__all__ = [
    "Observations",
    "Scores",
    "Values",
    "__version__",
    "compare",
    "demo",
    "evaluate",
    "events",
    "load",
    "observe",
    "open_dataset",
    "plot",
    "read_observations",
    "report",
    "simulate",
    "statistics",
    "tile",
    "train",
    "zonal_mean",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eddycast' has no attribute {name!r}; it offers {', '.join(__all__)}")
    # Threads that wait must not spin on cores that others use. It counts only before torch loads; a choice made stays.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    value = getattr(importlib.import_module("eddycast.api"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """The room `eddycast.report`, once imported, must not take the name of the function `eddycast.report`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
