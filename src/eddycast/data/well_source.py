"""Frames of The Well's HDF5 files, read on request.

A compressed file is decoded a chunk at a time, several frames, whatever is asked for. The blocks of frames decoded last
are therefore kept, in the layout of a state, up to a fixed number of bytes: a shuffled stream of windows decodes a
block once and not once per window, as long as the blocks fit.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from eddycast.data.dataset import SPLITS
from eddycast.errors import InputError, reading, reason
from eddycast.files import require_stored
from eddycast.hdf5 import require_finite_heaps

SUFFIXES = (".hdf5", ".h5")
MAX_OPEN_FILES = 32
CHUNK_CACHE_BYTES = 2**25  # of each open file: one decoded chunk, while it is copied
BLOCK_CACHE_BYTES = 2**27  # decoded blocks of each source, in each process


@dataclass(frozen=True)
class Component:
    """Where one or more channels come from: a field of the file."""

    name: str
    group: str
    order: int
    sample_varying: bool
    time_varying: bool
    dim_varying: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class WellSource:
    """Frames of a set of files.

    Args:
        files: Paths.
        index: (file, trajectory within it) of each trajectory.
        frames: Frames of each trajectory.
        components: Fields, in the order of the channels.
        shape: (*space).
        cache_bytes: Decoded blocks are kept up to this size; 0 for none.
    """

    files: tuple[str, ...]
    index: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]
    components: tuple[Component, ...]
    shape: tuple[int, ...]
    cache_bytes: int = BLOCK_CACHE_BYTES
    handles: OrderedDict[tuple[int, str], h5py.File] = field(default_factory=OrderedDict, repr=False)
    blocks: OrderedDict[tuple[int, int], Tensor] = field(default_factory=OrderedDict, repr=False)
    block_frames: dict[str, int] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handles": OrderedDict(), "blocks": OrderedDict()}

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.frames

    def _open(self, path: str) -> h5py.File:
        key = (os.getpid(), path)
        if key not in self.handles:
            while len(self.handles) >= MAX_OPEN_FILES:
                self.handles.popitem(last=False)
            self.handles[key] = open_hdf5(path)
        self.handles.move_to_end(key)
        return self.handles[key]

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        length = self._block_frames(self.files[self.index[trajectory][0]])
        if not length or stop - start > 2 * length:  # a long piece is read once, and would drive out the others
            return self._decode(trajectory, start, stop, stride)
        pieces = []
        for number in range(start // length, (stop - 1) // length + 1):
            offset = start - number * length
            block = self._block(trajectory, number, length)
            pieces.append(block[max(offset, offset % stride) : stop - number * length : stride])
        return torch.cat(pieces)

    def _block(self, trajectory: int, number: int, length: int) -> Tensor:
        """Frames number * length ... of a trajectory, decoded now or before; not to be written to."""
        key = (trajectory, number)
        if key not in self.blocks:
            stop = min((number + 1) * length, self.frames[trajectory])
            self.blocks[key] = self._decode(trajectory, number * length, stop, 1)
            size = sum(block.nbytes for block in self.blocks.values())
            while size > self.cache_bytes and len(self.blocks) > 1:
                size -= self.blocks.popitem(last=False)[1].nbytes
        self.blocks.move_to_end(key)
        return self.blocks[key]

    def _block_frames(self, path: str) -> int:
        """Frames that are decoded together in this file; 0 where single frames can be read, or a block is too large."""
        if path not in self.block_frames:
            handle = self._open(path)
            longest, channels = 1, 0
            for component in self.components:
                with reading(f"{path}: {component.name!r}"):
                    data: Any = handle[component.group][component.name]  # pyright: ignore[reportIndexIssue]
                    chunks = data.chunks
                channels += len(self.shape) ** component.order
                if component.time_varying and chunks:
                    longest = max(longest, int(chunks[int(component.sample_varying)]))
            size = 4 * longest * channels * math.prod(self.shape)
            self.block_frames[path] = longest if longest > 1 and 4 * size <= self.cache_bytes else 0
        return self.block_frames[path]

    def _decode(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        """Frames from the file, (time, channel, *space)."""
        number, sample = self.index[trajectory]
        handle = self._open(self.files[number])
        steps = len(range(start, stop, stride))
        parts = [self.one(handle, component, sample, start, stop, stride, steps) for component in self.components]
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def one(
        self, handle: h5py.File, component: Component, sample: int, start: int, stop: int, stride: int, steps: int
    ) -> np.ndarray:
        """One field as (time, component, *space)."""
        where: tuple[Any, ...] = (sample,) if component.sample_varying else ()
        where += (slice(start, stop),) if component.time_varying else ()
        with reading(f"{handle.filename}: {component.name!r}", kind="field"):
            data: Any = handle[component.group][component.name]  # pyright: ignore[reportIndexIssue]
            values = np.asarray(data[where], dtype=np.float32)
        values = values[::stride] if component.time_varying else np.broadcast_to(values, (steps, *values.shape))
        for axis, varies in enumerate(component.dim_varying):
            if not varies:
                values = np.expand_dims(values, 1 + axis)
        dims = len(self.shape)
        tail = values.shape[1 + dims :]
        values = np.broadcast_to(values, (steps, *self.shape, *tail)).reshape(steps, *self.shape, -1)
        return np.moveaxis(values, -1, 1)


def open_hdf5(path: str | Path) -> h5py.File:
    """Open for reading. Raises: InputError for a damaged file, with the reason."""
    try:
        require_finite_heaps(Path(path))
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        told = "it is cut short" if "truncated" in str(error) else reason(error)
        raise InputError(f"{path}: not a readable HDF5 file ({told}); fetch or write it again.") from error


def require_plain(handle: h5py.File) -> None:
    """Raise an InputError for a file whose arrays are larger than what it can hold.

    Arrays whose parts lie in other files (virtual, external) count as nothing.
    """
    sizes: list[int] = []

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and not node.is_virtual and node.external is None:
            sizes.append((node.size or 0) * max(node.dtype.itemsize, 1))  # an array may be null, and has no size then

    with reading(handle.filename):
        handle.visititems(note)
    require_stored(Path(handle.filename), sum(map(int, sizes)))


def find_files(path: Path) -> dict[str, list[Path]]:
    """Files of each split of a Well directory (or one with a `data` folder), or {"all": files} without such folders."""
    if path.is_file():
        return {"all": [path]}
    root = path / "data" if (path / "data").is_dir() else path
    found = {split: _hdf5_in(root / split) for split in SPLITS}
    if any(found.values()):
        return {split: files for split, files in found.items() if files}
    loose = _hdf5_in(root)
    return {"all": loose} if loose else {}


def _hdf5_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES) if folder.is_dir() else []
