"""One writer for each run directory."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eddycast.errors import InputError, reason
from eddycast.files import make_folders, remove_empty

UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
_held: set[int] = set()


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Inside, this process is the only one that writes the run directory.

    The system locks the file `training/lock` and lets go when the process ends, however it ends; nothing has to be
    cleaned up after a kill. The file holds process, machine and time for whoever is refused, and is removed at the end,
    with the folders that were made for it if they are still empty.

    Where the file system knows no locks, a warning says so and the run goes on without one.

    Raises: InputError where another process holds the lock, or the place cannot be written.
    """
    path = directory / "training" / "lock"
    try:
        made = make_folders(path.parent)
    except OSError as error:
        raise InputError(f"Cannot write {directory}: {reason(error)}; choose another --out.") from error
    handle: int | None = None
    try:
        handle = _acquire(path, directory)
        yield
    finally:
        if handle is not None:
            _release(path, handle)
        remove_empty(made)


def _acquire(path: Path, directory: Path) -> int:
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror}; choose another --out.") from error
        try:
            _lock(handle)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                warnings.warn(
                    f"{directory}: this file system knows no locks, so a second writer would not be noticed.",
                    stacklevel=4,
                )
            else:
                holder = _holder(handle)
                os.close(handle)
                raise InputError(
                    f"{directory} is being written by another training ({holder}): wait for it, stop it, or choose another --out."
                ) from error
        if not _is(path, handle):  # whoever held it has removed it between our open and our lock
            os.close(handle)
            continue
        _held.add(handle)
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": started})
        os.ftruncate(handle, 0)
        os.pwrite(handle, content.encode(), 0) if hasattr(os, "pwrite") else os.write(handle, content.encode())
        return handle


def _release(path: Path, handle: int) -> None:
    _held.discard(handle)
    if os.name == "posix":  # elsewhere an open file cannot be removed
        path.unlink(missing_ok=True)
    os.close(handle)


def _is(path: Path, handle: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Who holds the lock, as far as the file says."""
    try:
        content = json.loads(os.read(handle, 4096))
        return f"process {content['pid']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or not readable while it is locked
        return "an unknown process"


if os.name == "nt":
    import msvcrt

    def _lock(handle: int) -> None:
        os.lseek(handle, 2**20, os.SEEK_SET)  # behind the text, which others may then read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _let_go() -> None:
        """A child process, such as one that reads data, must not keep the lock when its parent has died."""
        for handle in _held:
            os.close(handle)
        _held.clear()

    os.register_at_fork(after_in_child=_let_go)
