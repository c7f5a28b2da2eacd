"""The command line: parses, calls one function of `eddycast.api`, prints."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def main() -> None:
    """Entry point of `eddycast` and `python -m eddycast`.

    Thread variables count only when set before torch loads. Waiting threads that spin on cores shared with other
    processes make a training step up to ten times slower; passive waiting costs nothing measurable on a quiet machine.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from eddycast import distributed
    from eddycast.cli.app import run

    code = run()
    if distributed.launched():
        leave(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """End the process at once, with what it has said.

    Threads of a process group outlive the command. When the interpreter takes itself down, one that asks for its lock is unwound by
    force, and the C++ runtime aborts the process: work that is done and written would count as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
