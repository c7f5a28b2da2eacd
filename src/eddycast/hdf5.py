"""What the HDF5 library does not survive, looked for before a file is given to it.

Names and other text of variable length lie in global heaps: `GCOL`, version 1, three zero bytes, size of the heap (8
bytes), then objects, each with index (2 bytes), count (2), padding (4), size (8) and data filled up to 8 bytes. Index 0
is the free space at the end, and its size covers its header. Where a block of zeros has got into a heap, as a crash of
the machine leaves it, the library meets free space of size 0, takes no step, and never ends.
Layout: HDF5 File Format Specification 3.0, section III.E.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from eddycast.errors import InputError

SIGNATURE = b"GCOL\x01\x00\x00\x00"
SCANNED = 2**26
"""Bytes at the beginning and at the end of a file that are searched: heaps are made with the attributes, first or last."""


def require_finite_heaps(path: Path) -> None:
    """Raises: InputError for a file that the HDF5 library would read for ever. OSError when it cannot be opened."""
    size = path.stat().st_size
    if size < len(SIGNATURE):
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for first, last in ((0, min(size, SCANNED)), (max(SCANNED, size - SCANNED), size)):
            at = content.find(SIGNATURE, first, last)
            while at >= 0:
                if not _ends(content, at):
                    raise InputError(
                        f"{path}: not a readable HDF5 file (zeros in its heap of names at byte {at}); fetch or write it again."
                    )
                at = content.find(SIGNATURE, at + 1, last)


def _ends(content: mmap.mmap, start: int) -> bool:
    """Whether a walk through the objects of a heap comes to its end."""
    stop = min(len(content), start + int.from_bytes(content[start + 8 : start + 16], "little"))
    at = start + 16
    while at + 16 <= stop:
        index = int.from_bytes(content[at : at + 2], "little")
        size = int.from_bytes(content[at + 8 : at + 16], "little")
        if index == 0 and size == 0:
            return False
        at += size if index == 0 else 16 + (size + 7) // 8 * 8
    return True
