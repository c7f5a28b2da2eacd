"""Files and directories that exist whole or not at all: written beside the target under a hidden name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eddycast.errors import InputError

REASONS = {
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be larger than allowed",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}

SPACE_MARGIN = 2**20  # for tables of contents and what others write meanwhile


def _flush(path: Path) -> None:
    """Force a file, or a directory with all that it holds, to disk."""
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _replace(temporary: Path, target: Path) -> None:
    """Rename; a directory in the way steps aside first and comes back if the rename fails."""
    if not (target.is_dir() and any(target.iterdir())):
        os.replace(temporary, target)
        return
    aside = target.with_name(f".{target.name}.old-{os.getpid()}")
    os.replace(target, aside)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(aside, target)
        raise
    _remove(aside)


def require_space(place: Path, num_bytes: int) -> None:
    """Raise the system's own error for a full disk before HDF5 meets it: HDF5 does not survive one within a file.

    Args:
        place: The output, or any folder above it.
        num_bytes: What will be written at most.
    """
    while not place.exists():
        place = place.parent
    if shutil.disk_usage(place).free < num_bytes + SPACE_MARGIN:
        raise OSError(errno.ENOSPC, "No space left on device")
    if num_bytes > _largest_file():
        raise OSError(errno.EFBIG, "File too large")


def _largest_file() -> float:
    """Bytes that a file of this process may have, such as `ulimit -f` sets it."""
    try:
        import resource
    except ImportError:  # not on every system
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def _explain(target: Path, error: OSError) -> InputError:
    told = re.search(r"errno = (\d+)", str(error))  # HDF5 writes it into its message
    number = error.errno or (int(told.group(1)) if told else 0)
    reason = REASONS.get(number, error.strerror or str(error).splitlines()[0])
    return InputError(f"Cannot write {target}: {reason}; choose another place.")


@contextmanager
def atomic_output(target: Path | str, *, overwrite: bool, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """A path to write a file or directory to, which becomes `target` when the block ends without an error.

    Args:
        target: Final path.
        overwrite: Replace an existing output, if it is one of ours.
        is_ours: Tells whether something that exists was written by this package.

    Raises: InputError where the target exists and may not be replaced, or where the system refuses (permissions,
        space). Nothing is left behind then, and what existed stays as it was.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise InputError(f"Cannot write {target}: the folder {target.parent} does not exist; create it first.")
    occupied = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if occupied and not overwrite:
        raise InputError(f"{target} exists already; choose another name, remove it, or ask to overwrite it.")
    if occupied and not is_ours(target):
        raise InputError(
            f"{target} exists and was not written by eddycast, so it is not replaced; choose another name."
        )
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"Cannot write {target}: no permission to write in {target.parent}; choose another place.")
    temporary = target.with_name(f".{target.stem}.part-{os.getpid()}{target.suffix}")
    try:
        yield temporary
        _flush(temporary)
        _replace(temporary, target)
        _flush_parent(target)
    except BaseException as error:
        _remove(temporary)
        if isinstance(error, OSError):
            raise _explain(target, error) from error
        raise


def leftovers(target: Path) -> list[Path]:
    """Unfinished outputs beside `target`, of processes that were killed while they wrote it."""
    return sorted(target.parent.glob(f".{target.stem}.part-*{target.suffix}"))


def _flush_parent(target: Path) -> None:
    """Make the rename itself durable."""
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, even if the machine stops in between; parent folders are made.

    Raises: InputError when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path, overwrite=True, is_ours=Path.is_file) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise _explain(path, error) from error


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises: InputError when the file is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: expected a file of a run directory.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; check the path and its permissions.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not JSON ({error}): was it edited or cut short?") from error
