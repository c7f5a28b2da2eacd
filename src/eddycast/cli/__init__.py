"""The command line: parses, calls one function of `eddycast.api`, prints."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of `eddycast` and `python -m eddycast`.

    Thread variables count only when set before torch loads. Waiting threads that spin on cores shared with other
    processes make a training step up to ten times slower; passive waiting costs nothing measurable on a quiet machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from eddycast.cli.app import run

    sys.exit(run())
