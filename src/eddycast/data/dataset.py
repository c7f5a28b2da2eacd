"""An opened data set: what the fields, grid, clock and splits are, and frames on request.

Nothing is read before it is asked for. Where the states live (memory, The Well's HDF5, NetCDF, Zarr) is the business of
a `Source`; a `Dataset` adds meaning to it and checks every frame that passes through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.data.clock import Clock
from eddycast.data.source import Source
from eddycast.data.static import StaticFields
from eddycast.errors import InputError
from eddycast.grid import Grid

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Field:
    """One channel of the state.

    Args:
        name: Name in files and in the output, `temperature` or `velocity_x`.
        units: CF unit, `1` where the problem is dimensionless.
        long_name: What to write on an axis of a plot.
        standard_name: CF standard name, empty where there is none.
        vector: Name of the vector or tensor that this is a component of, empty for a scalar.
    """

    name: str
    units: str = "1"
    long_name: str = ""
    standard_name: str = ""
    vector: str = ""


@dataclass(frozen=True)
class Segment:
    """Frames [start, stop) of a trajectory."""

    trajectory: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, eq=False)
class Dataset:
    """An opened data set, lazy.

    Args:
        source: Where the frames come from.
        fields: One per channel.
        grid: Axes of `*space`.
        clock: Time of each frame; dt, units and cycle come from here.
        splits: Segments of "train", "valid" and "test".
        parameter_names: Names of the P scalar parameters.
        parameter_values: Physical values, (trajectory, P).
        valid: True where the fields are defined, (*space); None for everywhere.
        static: Fields constant in time, named by `static_names`: (S, *space) where all trajectories have the same, otherwise those of
            each trajectory.
        boundaries: Codes of the boundaries of each trajectory (trajectory, axis, side), where they differ from those of the grid.
        attributes: `system`, `source`, `lyapunov_time`, ... as far as they are known.
        notes: What a reader should know about how the file was understood, one sentence each.
    """

    source: Source
    fields: tuple[Field, ...]
    grid: Grid
    clock: Clock
    splits: dict[str, tuple[Segment, ...]]
    parameter_names: tuple[str, ...] = ()
    parameter_values: Tensor | None = None
    valid: Tensor | None = None
    static: Tensor | StaticFields | None = None
    static_names: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    boundaries: Tensor | None = None

    def __repr__(self) -> str:
        """Fields, grid, trajectories x states (fewest to most), time step and states of each split in one line; nothing is read."""
        axes = " x ".join(f"{axis.name} {axis.size}" for axis in self.grid.axes)
        states = " to ".join(str(count) for count in sorted({min(self.lengths), max(self.lengths)}))
        step = f"{self.dt:g}" if self.time_units == "1" else f"{self.dt:g} {self.time_units}"
        parts = ", ".join(f"{name} {sum(map(len, segments))}" for name, segments in self.splits.items())
        return f"Dataset({', '.join(self.field_names)}; {axes}; {self.num_trajectories} x {states} states, dt {step}; {parts})"

    @property
    def dt(self) -> float:
        """Time between two frames, in `time_units`."""
        return self.clock.dt

    @property
    def time_units(self) -> str:
        return self.clock.units

    @property
    def cycle(self) -> float | None:
        """Steps in one cycle of the calendar, or None."""
        return self.clock.cycle

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.source.lengths

    @property
    def num_trajectories(self) -> int:
        return len(self.lengths)

    @property
    def field_names(self) -> tuple[str, ...]:
        return tuple(item.name for item in self.fields)

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(channel, *space) of one frame."""
        return (len(self.fields), *self.grid.shape)

    @property
    def static_varies(self) -> bool:
        """Whether static fields differ between trajectories."""
        return isinstance(self.static, StaticFields)

    def parameters(self, trajectory: int) -> Tensor:
        """Physical parameters of one trajectory, (P,), float32."""
        return self._parameters(torch.tensor(trajectory))

    def _parameters(self, trajectories: Tensor) -> Tensor:
        if self.parameter_values is None:
            return torch.zeros(*trajectories.shape, 0)
        return self.parameter_values[trajectories]

    def segments(self, split: str) -> tuple[Segment, ...]:
        """Segments of a split; an unknown or empty one is an InputError."""
        if split not in self.splits:
            raise InputError(f"Unknown split {split!r}; valid ones: {', '.join(self.splits)}.")
        if not self.splits[split]:
            raise InputError(f"The split {split!r} is empty; open the data with other fractions.")
        return self.splits[split]

    def read(self, trajectory: int, start: int, stop: int, stride: int = 1) -> Tensor:
        """Frames start, start + stride, ... before stop, (time, channel, *space), float32; invalid points are NaN.

        Raises: InputError where the range leaves the trajectory, or a value is missing or infinite at a valid point.
        """
        if not 0 <= trajectory < self.num_trajectories:
            raise InputError(f"No trajectory {trajectory}: the data have {self.num_trajectories}, counted from 0.")
        if not 0 <= start < stop <= self.lengths[trajectory] or stride < 1:
            raise InputError(
                f"Frames {start} to {stop} (stride {stride}) are not in trajectory {trajectory} "
                f"with {self.lengths[trajectory]} frames."
            )
        frames = self.source.read(trajectory, start, stop, stride)
        finite = torch.isfinite(frames)
        if not bool(finite.all()):
            self._explain_missing(finite, trajectory, start, stride)
        return frames if self.valid is None else frames.masked_fill(~self.valid, torch.nan)

    def _explain_missing(self, finite: Tensor, trajectory: int, start: int, stride: int) -> None:
        bad = ~finite if self.valid is None else ~finite & self.valid
        if not bool(bad.any()):
            return
        channels = bad.transpose(0, 1).flatten(1).any(1).nonzero()[:, 0].tolist()
        frame = start + stride * int(bad.flatten(1).any(1).nonzero()[0, 0])
        names = ", ".join(self.fields[channel].name for channel in channels)
        raise InputError(
            f"{self.attributes.get('path', 'The data')}: {int(bad.sum())} missing or infinite values in {names}, first in "
            f"trajectory {trajectory}, frame {frame}; fill the gaps, or open with missing=union to leave those points out."
        )

    def conditions(
        self, trajectory: Sequence[int] | Tensor | int, frame: Sequence[int] | Tensor | int, stride: int = 1
    ) -> Conditions:
        """Conditions with the origin at `frame`, (*batch) as given; with a stride, a step is `stride` frames."""
        trajectories, frames = torch.broadcast_tensors(torch.as_tensor(trajectory), torch.as_tensor(frame))
        flat = zip(trajectories.reshape(-1).tolist(), frames.reshape(-1).tolist(), strict=True)
        steps = [self.clock.step(one, at) / stride for one, at in flat]
        static, static_of = (
            self.static.table(trajectories) if isinstance(self.static, StaticFields) else (self.static, None)
        )
        return Conditions(
            grid=self.grid,
            dt=self.dt * stride,
            parameters=self._parameters(trajectories),
            time=torch.tensor(steps, dtype=torch.float32).reshape(frames.shape),
            cycle=None if self.cycle is None else self.cycle / stride,
            static=static,
            valid=self.valid,
            boundary=None if self.boundaries is None else self.boundaries[trajectories],
            static_of=static_of,
        )

    def times(self, trajectory: int, frames: Any) -> np.ndarray:
        """Valid times of frames, beyond the data too: datetime64, cftime objects, or numbers in `time_units`."""
        return self.clock.times(trajectory, np.asarray(frames, dtype=np.float64))

    def windows(self, split: str, frames: int, stride: int = 1) -> np.ndarray:
        """Every window of `frames` frames, `stride` apart, that lies in one segment: rows (trajectory, first frame).

        Raises: InputError where no segment is long enough.
        """
        if frames < 1 or stride < 1:
            raise ValueError(f"frames and stride must be positive, got {frames} and {stride}.")
        span = (frames - 1) * stride + 1
        segments = self.segments(split)
        rows = [
            (segment.trajectory, start)
            for segment in segments
            for start in range(segment.start, segment.stop - span + 1)
        ]
        if not rows:
            raise InputError(
                f"Trajectories are too short: a window needs {span} frames, the longest piece of {split!r} has "
                f"{max(map(len, segments))}; use a shorter window (frames, context or horizon), other fractions, or more data."
            )
        return np.asarray(rows, dtype=np.int64)

    def initial(
        self,
        split: str = "test",
        *,
        start: int | Literal["last", "all"] | Sequence[int] | None = None,
        trajectories: Sequence[int] | None = None,
        leads: int = 0,
        stride: int = 1,
    ) -> Initial:
        """Initial states of forecasts.

        Args:
            split: Whose segments are used.
            start: Frame of lead 0 within its trajectory (one or several); "last" frame of each segment; "all" frames;
                None for the earliest one that leaves room for the context, found when the context is known.
            trajectories: Which trajectories; None for all of the split.
            leads: Frames after lead 0 that must exist within the segment for "all" (verifying truth).
            stride: Frames per step.

        Raises: InputError for a frame or trajectory outside of the split.
        """
        segments = self.segments(split)
        if trajectories is not None:
            known = {segment.trajectory for segment in segments}
            if missing := sorted(set(trajectories) - known):
                raise InputError(f"Trajectories {missing} are not in split {split!r}, which has {sorted(known)}.")
            segments = tuple(item for one in trajectories for item in segments if item.trajectory == one)
        if start is None:
            cases = [(segment, 0) for segment in segments]
        elif start == "last":
            cases = [(segment, segment.stop - 1) for segment in segments]
        elif start == "all":
            cases = [(item, frame) for item in segments for frame in range(item.start, item.stop - leads * stride)]
        elif isinstance(start, str):
            raise InputError(f"start must be a frame number, 'last' or 'all', got {start!r}.")
        else:
            wanted = [int(start)] if isinstance(start, (int, np.integer)) else [int(frame) for frame in start]
            cases = [(item, frame) for item in segments for frame in wanted if item.start <= frame < item.stop]
            found = {frame for _, frame in cases}
            if lost := [frame for frame in wanted if frame not in found]:
                ranges = ", ".join(sorted({f"{item.start} to {item.stop - 1}" for item in segments}))
                raise InputError(f"Frame {lost[0]} is not in split {split!r}, whose frames are {ranges}.")
        if not cases:
            raise InputError(f"No segment of {split!r} has {leads * stride + 1} frames; ask for fewer lead times.")
        chosen = tuple(segment for segment, _ in cases)
        frames = None if start is None else torch.tensor([frame for _, frame in cases])
        index = torch.tensor([segment.trajectory for segment in chosen])
        return Initial(self, index, frames, chosen, stride, every=start == "all")


@dataclass(frozen=True, eq=False)
class Initial:
    """Initial states of forecasts: which trajectories, and the frame of lead 0 in each.

    Args:
        data: Where they come from.
        trajectories: (case,), long.
        frames: Frame of lead 0, (case,), long; None for "as early as the context allows" (see `resolved`).
        segments: Segment of each case.
        stride: Frames per step.
        every: All frames were asked for, so `resolved` may drop those without room for the context.
    """

    data: Dataset
    trajectories: Tensor
    frames: Tensor | None
    segments: tuple[Segment, ...]
    stride: int = 1
    every: bool = False

    def __len__(self) -> int:
        return len(self.trajectories)

    def resolved(self, context: int) -> Initial:
        """The same with frames that have `context` states up to and including lead 0.

        The context of an explicit frame may reach back before its segment (a forecast knows the past); that of the
        earliest frame stays inside.
        Raises: InputError where a trajectory is too short.
        """
        reach = (context - 1) * self.stride
        if self.frames is None:
            for segment in self.segments:
                if len(segment) <= reach:
                    raise InputError(
                        f"Trajectory {segment.trajectory} is too short: the context needs {reach + 1} frames, "
                        f"this split has {len(segment)}."
                    )
            frames = torch.tensor([segment.start + reach for segment in self.segments])
            return replace(self, frames=frames)
        enough = self.frames >= reach
        if bool(enough.all()):
            return self
        if not self.every or not bool(enough.any()):
            raise InputError(
                f"Frame {int(self.frames[~enough][0])} has too short a past: the context needs {reach} frames before it."
            )
        keep = enough.nonzero()[:, 0]
        return self.select(keep)

    def select(self, index: Sequence[int] | Tensor) -> Initial:
        """Some of the cases."""
        rows = torch.as_tensor(index)
        frames = None if self.frames is None else self.frames[rows]
        segments = tuple(self.segments[row] for row in rows.tolist())
        return replace(self, trajectories=self.trajectories[rows], frames=frames, segments=segments)

    def _frames(self) -> Tensor:
        if self.frames is None:
            raise ValueError("The frames are not known yet: call resolved(context) first.")
        return self.frames

    def context(self, frames: int) -> Tensor:
        """The last `frames` states up to lead 0, (case, frames, channel, *space); invalid points are NaN."""
        ready = self.resolved(frames)
        reach = (frames - 1) * self.stride
        cases = zip(ready.trajectories.tolist(), ready._frames().tolist(), strict=True)
        return torch.stack([self.data.read(one, at - reach, at + 1, self.stride) for one, at in cases])

    def conditions(self) -> Conditions:
        """Conditions with the origin at lead 0; batch (case,)."""
        return self.data.conditions(self.trajectories, self._frames(), self.stride)

    def times(self) -> np.ndarray:
        """Valid time of lead 0 of each case."""
        cases = zip(self.trajectories.tolist(), self._frames().tolist(), strict=True)
        return np.stack([self.data.times(one, at) for one, at in cases])

    def truth(self, steps: int) -> Tensor:
        """Verifying states 1 ... steps after lead 0, (case, steps, channel, *space); NaN beyond the end of the data."""
        states = torch.full((len(self), steps, *self.data.state_shape), torch.nan)
        for row, (one, at) in enumerate(zip(self.trajectories.tolist(), self._frames().tolist(), strict=True)):
            first, stop = at + self.stride, min(at + steps * self.stride + 1, self.data.lengths[one])
            if first < stop:
                frames = self.data.read(one, first, stop, self.stride)
                states[row, : len(frames)] = frames
        return states
