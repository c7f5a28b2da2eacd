"""Files and directories that exist whole or not at all: written beside the target under a hidden name, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eddycast.errors import InputError, reason

REASONS = {
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be larger than allowed",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
}

LARGE = 2**30
COMPRESSION = 10**5  # no compression that a reader here knows shrinks real data that much

SPACE_MARGIN = 2**20  # for tables of contents and what others write meanwhile

CLEARING = 40  # attempts, a twentieth of a second apart, to remove what another thread still writes


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


def _clear(path: Path) -> None:
    """Remove what threads of an interrupted library may still write to; what led here counts more than a failure to do so."""
    for _ in range(CLEARING):
        try:
            _remove(path)
            return
        except OSError:  # files come and go under our hands
            time.sleep(0.05)


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


def require_stored(place: Path, num_bytes: int) -> None:
    """Refuse a file that announces far more than it can hold, before anyone makes room for it.

    Args:
        place: File or folder.
        num_bytes: Size of the arrays that it announces.

    Raises: InputError.
    """
    if num_bytes <= LARGE:
        return
    files = [place] if place.is_file() else [item for item in place.rglob("*") if item.is_file()]
    stored = sum(item.stat().st_size for item in files)
    if num_bytes > COMPRESSION * stored:
        raise InputError(
            f"{place}: announces {num_bytes / 2**30:.3g} GiB of arrays in {stored} bytes; the file is damaged, fetch or write it again."
        )


def keep_inputs(out: str | Path | None, *inputs: Any) -> None:
    """Refuse an output in the place of what it is made from, before anything is computed.

    Args:
        out: Path to write, if any.
        inputs: What is read: paths (of data with options behind a question mark, too), anything else is no file.

    Raises: InputError.
    """
    if out is None:
        return
    target = Path(out).expanduser().resolve()
    for one in inputs:
        if not isinstance(one, (str, Path)):
            continue
        place = Path(one) if Path(one).exists() else Path(str(one).partition("?")[0])
        if place.expanduser().resolve() == target:
            raise InputError(f"{out} would overwrite its input: choose another name.")


def _explain(target: Path, error: OSError) -> InputError:
    told = re.search(r"errno = (\d+)", str(error))  # HDF5 writes it into its message
    number = error.errno or (int(told.group(1)) if told else 0)
    why = REASONS.get(number, error.strerror or reason(error))
    return InputError(f"Cannot write {target}: {why}; choose another place.")


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
        raise InputError(f"{target} exists already; choose another name, or remove it.")
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
        _clear(temporary)
        if isinstance(error, OSError):
            raise _explain(target, error) from error
        raise


def stage_of(target: Path, label: str | int) -> Path:
    """The hidden folder beside `target` in which its files are made."""
    return target.with_name(f".{target.name}.part-{label}")


@contextmanager
def staged_directory(target: Path, label: str | int) -> Iterator[Path]:
    """A new folder beside `target`, whose files move into `target` when the block ends without an error.

    Files of the same name are replaced, others in `target` stay. After an error `target` is as it was.

    Args:
        label: Tells the folder from those of others; all that write into one give the same.

    Raises: InputError where the place cannot be written.
    """
    stage = stage_of(target, label)
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, expected a folder to write into; choose another place.")
    try:
        stage.mkdir(parents=True, exist_ok=True)
        yield stage
        target.mkdir(exist_ok=True)
        for item in sorted(stage.iterdir()):
            os.replace(item, target / item.name)
    except InputError as error:  # told with the place that was asked for
        raise InputError(str(error).replace(str(stage), str(target))) from error
    except OSError as error:
        raise _explain(target, error) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


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


def make_folders(folder: Path) -> list[Path]:
    """Make a folder and those above it; returns the new ones, outermost first. Raises: OSError where that is refused."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def remove_empty(folders: list[Path]) -> None:
    """Remove folders, innermost first, up to the first that holds something."""
    for folder in reversed(folders):
        try:
            folder.rmdir()
        except OSError:  # not empty, or gone
            return


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, even if the machine stops in between; parent folders are made.

    Raises: InputError when the place cannot be written.
    """
    made: list[Path] = []
    try:
        made = make_folders(path.parent)
        with atomic_output(path, overwrite=True, is_ours=Path.is_file) as temporary:
            temporary.write_bytes(content)
    except BaseException as error:
        remove_empty(made)
        if isinstance(error, OSError):
            raise _explain(path, error) from error
        raise


def write_json(path: Path, content: Any) -> None:
    write_bytes(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())


def read_text(path: Path, kind: str = "text") -> str:
    """Text of a file in UTF-8, with or without a byte order mark. Raises: InputError when it cannot be read or is no text."""
    if path.is_dir():
        raise InputError(f"Cannot read {path}: it is a directory, expected a file.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: expected a file.") from error
    except OSError as error:
        raise InputError(f"Cannot read {path}: {error.strerror}; check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not {kind} (byte {error.start} is not UTF-8): was it damaged?") from error


def read_json(path: Path) -> Any:
    """Content of a JSON file. Raises: InputError when the file is missing or no JSON."""
    return parse_json(read_text(path, "JSON"), str(path))


def parse_json(text: str, where: str) -> Any:
    """Content of JSON text, all numbers finite. Raises: InputError for anything else."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({reason(error)}): was it edited or cut short?") from error


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object with at least these keys. Raises: InputError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {type(content).__name__}, expected settings in braces: was it edited?")
    if lacking := [key for key in keys if key not in content]:
        raise InputError(f"{path} has no {lacking[0]!r}: was it edited? Restore it or train again.")
    return content


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(text)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
