"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from eddycast.errors import InputError


def write_bytes(path: Path, content: bytes) -> None:
    """Write so that the file is there whole or not at all, even if the machine stops in between.

    Raises: InputError when the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise InputError(f"Cannot write {path}: {error.strerror}; choose another place with --out.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        name.unlink(missing_ok=True)
        raise InputError(f"Cannot write {path}: {error.strerror}; free some space or choose another place.") from error
    except BaseException:
        name.unlink(missing_ok=True)
        raise


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
