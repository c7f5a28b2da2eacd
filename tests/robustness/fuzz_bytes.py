"""Ways to spoil the bytes of a file, whatever its format. All draw from a generator alone."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Rng = np.random.Generator
Mutation = Callable[[Path, Rng], None]


def pick(items: Sequence[Any], rng: Rng) -> Any:
    return items[int(rng.integers(len(items)))]


def truncate(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, max(len(content), 1)))])


def flip_bits(path: Path, rng: Rng) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 9))):
        # half of them near the beginning, where headers are
        at = int(rng.integers(0, len(content) if rng.random() < 0.5 else min(len(content), 512)))
        content[at] ^= 1 << int(rng.integers(0, 8))
    path.write_bytes(bytes(content))


def _run(content: bytes, rng: Rng) -> tuple[int, int]:
    start = int(rng.integers(0, len(content)))
    return start, min(len(content), start + int(2 ** rng.uniform(2, 10)))


def zero_run(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    start, stop = _run(content, rng)
    path.write_bytes(content[:start] + bytes(stop - start) + content[stop:])


def random_run(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    start, stop = _run(content, rng)
    path.write_bytes(content[:start] + rng.bytes(stop - start) + content[stop:])


def remove_block(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    start, stop = _run(content, rng)
    path.write_bytes(content[:start] + content[stop:])


def duplicate_block(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    start, stop = _run(content, rng)
    path.write_bytes(content[:stop] + content[start:])


def swap_blocks(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    size = max(1, min(256, len(content) // 4))
    a, b = sorted(int(rng.integers(0, len(content) - size + 1)) for _ in range(2))
    b = max(b, a + size)
    path.write_bytes(
        content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]
    )


def empty(path: Path, rng: Rng) -> None:
    path.write_bytes(b"")


def directory(path: Path, rng: Rng) -> None:
    path.unlink()
    path.mkdir()


def noise(path: Path, rng: Rng) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(1, 4000))))


def other_format(path: Path, rng: Rng) -> None:
    """Something else under the same name."""
    kind = int(rng.integers(0, 5))
    if kind == 0:
        path.write_text("Dear reader,\nthis is a letter.\n")
    elif kind == 1:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.txt", "text")
    elif kind == 2:
        path.unlink()
        with h5py.File(path, "w") as file:
            file["a"] = np.arange(3)
    elif kind == 3:
        path.write_text('{"a": [1, 2, {"b": null}]}')
    else:
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + rng.bytes(100))


BYTES: tuple[Mutation, ...] = (
    truncate,
    flip_bits,
    zero_run,
    random_run,
    remove_block,
    duplicate_block,
    swap_blocks,
    noise,
    other_format,
)
ONCE: tuple[Mutation, ...] = (empty, directory)


# Text


def byte_order_mark(path: Path, rng: Rng) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def carriage_returns(path: Path, rng: Rng) -> None:
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))


def not_utf8(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    at = int(rng.integers(0, len(content)))
    path.write_bytes(content[:at] + b"\xff\xfe\xe9" + content[at:])


def utf16(path: Path, rng: Rng) -> None:
    path.write_bytes(path.read_text().encode("utf-16"))


def nul_bytes(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    at = int(rng.integers(0, len(content)))
    path.write_bytes(content[:at] + b"\x00\x00" + content[at:])


TEXT: tuple[Mutation, ...] = (byte_order_mark, carriage_returns, not_utf8, utf16, nul_bytes)
