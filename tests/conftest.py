"""What all tests share: threads, hypothesis, the shared data, the referees."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

# Before torch loads: the tests run side by side, one thread each, and threads that wait must not spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
REFEREES = frozenset(
    {"the_well", "exponax", "jax", "scoringrules", "azula", "dapper", "iris_sample_data", "zarr", "dask"}
)
REQUIRED = os.environ.get("EDDYCAST_REQUIRE_REFEREES", "") not in ("", "0")

settings.register_profile("eddycast", deadline=None, derandomize=True, max_examples=30)
settings.load_profile("eddycast")

_importorskip = pytest.importorskip


def import_referee(name: str, *args: Any, **kwargs: Any) -> ModuleType:
    """`pytest.importorskip`, save that a referee must be there where EDDYCAST_REQUIRE_REFEREES=1 says so."""
    if REQUIRED and name.partition(".")[0] in REFEREES:
        return importlib.import_module(name)
    return _importorskip(name, *args, **kwargs)


pytest.importorskip = import_referee  # so that tests need no word of ours for it


@pytest.fixture(scope="session")
def referee() -> Callable[..., ModuleType]:
    """`referee("exponax")` imports an outside program, or skips the test (fails it in CI)."""
    return import_referee


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Samples in The Well's format that lie beside the checkout on some machines."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no shared data at {path}")
    return path
