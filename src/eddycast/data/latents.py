"""Encoded trajectories on disk: written once, streamed as often as an emulator is trained on them.

A cache is a directory:

    manifest.json     provenance (whose latents of which data), and one entry per piece
    latents.hdf5      for piece 0, 1, ... a data set of that name, float32, (time, channel, *latent space)

A piece is one segment of one split, in one view of it. Pieces are the trajectories of the `Dataset` that `open_latents` gives.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from eddycast.data.clock import PlainClock
from eddycast.data.dataset import Dataset, Field, Segment
from eddycast.data.well_source import open_hdf5, require_plain
from eddycast.errors import InputError, reading
from eddycast.files import atomic_output, read_object, write_json
from eddycast.grid import LARGEST, Axis, Grid

FORMAT = 1
MANIFEST, STATES = "manifest.json", "latents.hdf5"
AGAIN = "encode the data again"


@dataclass(frozen=True)
class Piece:
    """One segment of the encoded data.

    Args:
        split: To which it belongs.
        trajectory, start, stop: Frames of the encoded data.
        view: Number of the view; 0 is the state as it is.
        step: Steps of dt from the anchor of the clock to its first frame.
        parameters: Of its trajectory.
        boundary: Codes of the sides of the axes in this view, (axis, side).
    """

    split: str
    trajectory: int
    start: int
    stop: int
    view: int
    step: float
    parameters: tuple[float, ...]
    boundary: tuple[tuple[float, float], ...]


@dataclass(frozen=True, eq=False)
class LatentSource:
    """Frames of the pieces of a cache, read when they are asked for; each process opens the file for itself."""

    path: Path
    frames: tuple[int, ...]
    handles: dict[int, h5py.File] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "handles": {}}

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.frames

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        process = os.getpid()
        if process not in self.handles:
            self.handles[process] = open_hdf5(self.path)
        with reading(f"{self.path}: piece {trajectory}", AGAIN):
            states: Any = self.handles[process][str(trajectory)]
            return torch.from_numpy(states[start:stop:stride])


def write_latents(
    path: Path, pieces: Iterable[tuple[Piece, Iterable[Tensor]]], grid: Grid, summary: dict[str, Any]
) -> None:
    """Write a cache, whole or not at all.

    Args:
        path: Directory to make.
        pieces: Each with its latents in blocks of some frames, (time, channel, *grid of the latents).
        grid: Of the latents.
        summary: dt, time_units, cycle, parameter_names, and `provenance`.

    Raises: InputError when the directory exists and is no cache, or a latent is not finite.
    """
    with atomic_output(path, overwrite=True, is_ours=is_cache) as stage:
        stage.mkdir()
        entries: list[dict[str, Any]] = []
        with h5py.File(stage / STATES, "w") as file:
            for number, (piece, blocks) in enumerate(pieces):
                entries.append(asdict(piece))
                states, done = None, 0
                for block in blocks:
                    if not bool(torch.isfinite(block).all()):
                        raise InputError(
                            f"Latents of trajectory {piece.trajectory} are not finite: the autoencoder or the data are damaged."
                        )
                    if states is None:
                        shape = (piece.stop - piece.start, *block.shape[1:])
                        states = file.create_dataset(str(number), shape, dtype="float32")
                    states[done : done + len(block)] = block.cpu().numpy()
                    done += len(block)
        write_json(stage / MANIFEST, {"format": FORMAT, "grid": grid.to_dict(), "pieces": entries, **summary})


def is_cache(path: Path) -> bool:
    """Whether a directory holds a cache of latents; simulated data have a manifest too."""
    return (path / MANIFEST).is_file() and (path / STATES).is_file()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a cache. Raises: InputError for a directory that is none, or of a later format."""
    if not is_cache(path):
        raise InputError(
            f"{path} is no cache of latents: expected {MANIFEST} and {STATES} in it; `eddycast encode` makes one."
        )
    keys = ("format", "grid", "pieces", "provenance", "dt", "time_units", "cycle", "parameter_names")
    content = read_object(path / MANIFEST, *keys)
    if content["format"] != FORMAT:
        raise InputError(f"{path} has format {content['format']}, this eddycast reads {FORMAT}: encode the data again.")
    return content


def open_latents(path: Path) -> Dataset:
    """A cache as a data set in latent space, lazy. Raises: InputError for a damaged one."""
    content = read_manifest(path)
    grid = Grid.from_dict(content["grid"], str(path / MANIFEST))
    with reading(path / MANIFEST, AGAIN, kind="manifest"):
        clock = _clock(content)
        names = _texts(content["parameter_names"])
        pieces = [_restored(entry, len(names), len(grid.axes)) for entry in content["pieces"]]
    lengths = tuple(piece.stop - piece.start for piece in pieces)
    with open_hdf5(path / STATES) as file:
        require_plain(file)
        with reading(path / STATES, AGAIN):
            channels = {_channels(file[str(number)], length, grid) for number, length in enumerate(lengths)}
    if len(channels) != 1 or None in channels:
        raise InputError(f"{path / STATES} does not hold what {MANIFEST} says: encode the data again.")
    splits: dict[str, list[Segment]] = {}
    for number, piece in enumerate(pieces):
        splits.setdefault(piece.split, []).append(Segment(number, 0, lengths[number]))
    return Dataset(
        LatentSource(path / STATES, lengths),
        tuple(Field(f"latent_{channel}") for channel in range(channels.pop() or 0)),
        grid,
        replace(clock, origins=tuple(piece.step * clock.dt for piece in pieces)),
        {split: tuple(segments) for split, segments in splits.items()},
        names,
        torch.tensor([piece.parameters for piece in pieces], dtype=torch.float32).reshape(len(pieces), len(names)),
        attributes={"path": str(path)},
        boundaries=torch.tensor([piece.boundary for piece in pieces], dtype=torch.float32),
    )


def piece_trajectories(path: Path) -> tuple[int, ...]:
    """Trajectory of the encoded data from which each piece of a cache comes."""
    content = read_manifest(path)
    with reading(path / MANIFEST, AGAIN, kind="manifest"):
        return tuple(int(entry["trajectory"]) for entry in content["pieces"])


def _channels(states: Any, frames: int, grid: Grid) -> int | None:
    """Channels of the array of a piece; None where it is no such array."""
    if not isinstance(states, h5py.Dataset) or states.is_virtual or states.external is not None:
        return None
    shape: Any = states.shape or ()  # none of a null array
    fits = len(shape) == 2 + len(grid.shape) and shape[0] == frames and shape[2:] == grid.shape
    return shape[1] if fits and shape[1] > 0 and states.dtype == "float32" else None


def _clock(content: dict[str, Any]) -> PlainClock:
    """The clock of a manifest, without origins. Raises: ValueError for one that cannot be."""
    dt, cycle, units = content["dt"], content["cycle"], content["time_units"]
    if not (_is_number(dt) and dt > 0 and isinstance(units, str)):
        raise ValueError("dt or time_units cannot be")
    if not (cycle is None or (_is_number(cycle) and cycle > 0)):
        raise ValueError("cycle cannot be")
    return PlainClock(float(dt), units, (), cycle)


def _restored(entry: Any, parameters: int, axes: int) -> Piece:
    """A piece from the plain values of a manifest. Raises: ValueError, or what Python raises, for one that cannot be."""
    sides = tuple(tuple(map(float, side)) for side in entry["boundary"])
    piece = Piece(**{**entry, "boundary": sides, "parameters": tuple(map(float, entry["parameters"]))})
    counts = (piece.trajectory, piece.start, piece.stop, piece.view)
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        raise ValueError("a piece has a number that cannot be")
    if piece.stop <= piece.start or not isinstance(piece.split, str) or not _is_number(piece.step):
        raise ValueError("a piece has a place that cannot be")
    if len(piece.parameters) != parameters or len(sides) != axes or any(len(side) != 2 for side in sides):
        raise ValueError("a piece has other parameters or axes than the cache")
    return piece


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError("names must be words")
    return tuple(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def coarse_grid(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """Centres of equal blocks of points, with the boundaries of the grid."""
    axes = []
    for axis, points in zip(grid.axes, shape, strict=True):
        size = axis.size // points
        middles = [sum(axis.coordinates[at : at + size]) / size for at in range(0, size * points, size)]
        weights = None
        if axis.weights is not None:
            weights = tuple(sum(axis.weights[at : at + size]) for at in range(0, size * points, size))
        axes.append(Axis(axis.name, tuple(middles), axis.boundary, axis.units, axis.period, weights))
    return Grid(tuple(axes))
