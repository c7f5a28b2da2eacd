"""Frames of The Well's HDF5 files, read on request."""

from __future__ import annotations

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
from eddycast.errors import InputError

SUFFIXES = (".hdf5", ".h5")
MAX_OPEN_FILES = 32
CHUNK_CACHE_BYTES = 2**25  # of each open file: a chunk of 16 frames stays decompressed for the next window


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
    """

    files: tuple[str, ...]
    index: tuple[tuple[int, int], ...]
    frames: tuple[int, ...]
    components: tuple[Component, ...]
    shape: tuple[int, ...]
    handles: OrderedDict[tuple[int, str], h5py.File] = field(default_factory=OrderedDict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handles": OrderedDict()}

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
        number, sample = self.index[trajectory]
        path = self.files[number]
        handle = self._open(path)
        steps = len(range(start, stop, stride))
        parts = []
        for component in self.components:
            try:
                parts.append(self.one(handle, component, sample, start, stop, stride, steps))
            except OSError as error:
                raise InputError(
                    f"{path}: {component.name!r} cannot be read ({error}); the file is damaged, fetch it again."
                ) from error
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def one(
        self, handle: h5py.File, component: Component, sample: int, start: int, stop: int, stride: int, steps: int
    ) -> np.ndarray:
        """One field as (time, component, *space)."""
        data: Any = handle[component.group][component.name]  # pyright: ignore[reportIndexIssue]
        where: tuple[Any, ...] = (sample,) if component.sample_varying else ()
        where += (slice(start, stop),) if component.time_varying else ()
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
        return h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES)
    except OSError as error:
        reason = "it is cut short" if "truncated" in str(error) else str(error)
        raise InputError(f"{path}: not a readable HDF5 file ({reason}); fetch or write it again.") from error


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
