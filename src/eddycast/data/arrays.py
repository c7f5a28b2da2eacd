"""Trajectories in memory, and `.npy` / `.npz` files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from eddycast.data.clock import Clock, PlainClock, plain_clock
from eddycast.data.dataset import Dataset, Field, Segment
from eddycast.data.quadrature import plain_axis
from eddycast.data.splits import DEFAULT_FRACTIONS, make_splits
from eddycast.data.static import StaticFields
from eddycast.errors import InputError, reading
from eddycast.grid import Grid

Missing = Literal["error", "union"]
SPACE_NAMES = ("x", "y", "z")
NUMBERS = ("time", "dt", "parameters", *SPACE_NAMES)


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Trajectories in memory: one tensor (time, channel, *space) each, or a tensor with the trajectory in front."""

    states: Tensor | tuple[Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(len(trajectory) for trajectory in self.states)

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        # A copy, so that whoever changes a window in place does not change the data.
        return self.states[trajectory][start:stop:stride].to(torch.float32, copy=True)


def constant_mask(
    names: Sequence[str], missing: Tensor, present: Tensor, *, policy: Missing, where: str, counts: Tensor | None = None
) -> tuple[Tensor | None, tuple[str, ...]]:
    """The mask of valid points, from what is ever missing and ever present.

    Args:
        names: Field names.
        missing: Point is missing or infinite in some frame, (channel, *space).
        present: Point is finite in some frame, (channel, *space).
        policy: "error" refuses masks that change in time, "union" leaves out every point that is ever missing.
        where: File, for the message.
        counts: Missing values per field over all frames, (channel,), for the message.

    Returns: mask (*space) or None for everywhere, and notes.
    Raises: InputError for a mask that changes in time, or without any valid point.
    """
    if not bool(missing.any()):
        return None, ()
    for channel, name in enumerate(names):
        if not bool(present[channel].any()):
            raise InputError(f"{where}: field {name!r} has no finite value anywhere; choose other fields.")
    varies = missing & present
    if policy == "error" and bool(varies.any()):
        channel = int(varies.flatten(1).any(1).nonzero()[0, 0])
        number = int(varies[channel].sum())
        total = "" if counts is None else f", {int(counts[channel])} missing values in all"
        raise InputError(
            f"{where}: field {names[channel]!r} has missing or infinite values that come and go at {number} "
            f"points{total}; "
            "fill them, choose other fields, or open with missing=union to leave those points out."
        )
    valid = ~missing.any(0)
    if not bool(valid.any()):
        raise InputError(
            f"{where}: every point is missing in some frame or field; fill the gaps or choose other fields."
        )
    notes = [f"{100 * (1 - valid.double().mean().item()):.1f} % of the points have no values (land?) and are masked."]
    if len(names) > 1 and bool((missing != missing[:1]).any()):
        notes.append("The fields have different masks: points missing in any of them are masked in all.")
    if bool(varies.any()):
        notes.append("Points that are missing in some frames only are masked in all.")
    return valid, tuple(notes)


def from_arrays(
    states: Tensor | np.ndarray | Sequence[Tensor],
    *,
    fields: Sequence[Field | str],
    grid: Grid,
    dt: float | None = None,
    time_units: str = "1",
    clock: Clock | None = None,
    parameters: Tensor | np.ndarray | None = None,
    parameter_names: Sequence[str] = (),
    splits: dict[str, tuple[Segment, ...]] | None = None,
    fractions: Sequence[float] = DEFAULT_FRACTIONS,
    valid: Tensor | None = None,
    static: Tensor | None = None,
    static_names: Sequence[str] = (),
    attributes: Mapping[str, Any] | None = None,
    missing: Missing = "error",
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set in memory.

    Args:
        states: (trajectory, time, channel, *space), or a sequence of (time, channel, *space) of different lengths.
        fields: One per channel; a name stands for a dimensionless field.
        grid: Axes of `*space`.
        dt: Time between frames in `time_units`; a `clock` (dates) replaces both.
        parameters: (trajectory, P) physical values, named by `parameter_names`.
        splits: Segments of train, valid and test; otherwise cut by `fractions` (see `make_splits`).
        valid: Mask (*space) of defined points; None finds it from NaN that is constant in time.
        static: Fields constant in time, (S, *space), or (trajectory, S, *space) where they differ; named by `static_names`.
        attributes: `system`, `source`, `lyapunov_time`, ...
        missing: What to do with gaps that change in time: see `constant_mask`.

    Raises: InputError for missing values that are no constant mask; ValueError for shapes that disagree.
    """
    tensors = torch.as_tensor(states) if isinstance(states, (Tensor, np.ndarray)) else tuple(states)
    tensors = tensors.float() if isinstance(tensors, Tensor) else tuple(one.float() for one in tensors)
    channels = tuple(Field(item) if isinstance(item, str) else item for item in fields)
    shape = (len(channels), *grid.shape)
    for one in tensors:
        if tuple(one.shape[1:]) != shape:
            raise ValueError(f"A trajectory must be (time, *{shape}) as fields and grid say, got {tuple(one.shape)}.")
    if clock is None:
        if dt is None or dt <= 0:
            raise ValueError(f"from_arrays needs a positive dt or a clock, got dt = {dt}.")
        clock = PlainClock(float(dt), time_units)
    values = torch.zeros(len(tensors), 0) if parameters is None else torch.as_tensor(parameters, dtype=torch.float32)
    if tuple(values.shape) != (len(tensors), len(parameter_names)):
        raise ValueError(
            f"parameters must be ({len(tensors)} trajectories, {len(parameter_names)} names), got "
            f"{tuple(values.shape)}."
        )
    details = dict(attributes or {})
    where = str(details.get("path", "The data"))
    found: tuple[str, ...] = ()
    if valid is None:
        lost = torch.stack([~torch.isfinite(one).all(0) for one in tensors]).any(0)
        if bool(lost.any()):
            seen = torch.stack([torch.isfinite(one).any(0) for one in tensors]).any(0)
            counts = torch.stack([(~torch.isfinite(one)).transpose(0, 1).flatten(1).sum(1) for one in tensors]).sum(0)
            names = [item.name for item in channels]
            valid, found = constant_mask(names, lost, seen, policy=missing, where=where, counts=counts)
    fixed, count = _static(static, len(tensors), grid)
    return Dataset(
        source=ArraySource(tensors),
        fields=channels,
        grid=grid,
        clock=clock,
        splits=splits or make_splits([len(one) for one in tensors], fractions),
        parameter_names=tuple(parameter_names),
        parameter_values=values,
        valid=valid,
        static=fixed,
        static_names=tuple(static_names) or tuple(f"static_{index}" for index in range(count)),
        attributes=details,
        notes=(*notes, *found),
    )


def _static(static: Tensor | None, trajectories: int, grid: Grid) -> tuple[Tensor | StaticFields | None, int]:
    """Static fields as a data set has them, and their number. Raises: ValueError for another shape."""
    if static is None:
        return None, 0
    shape = tuple(static.shape)
    if len(shape) == 1 + len(grid.axes) and shape[1:] == grid.shape:
        return static, len(static)
    if len(shape) != 2 + len(grid.axes) or shape[0] != trajectories or shape[2:] != grid.shape:
        raise ValueError(
            f"static must be (S, *{grid.shape}), or ({trajectories} trajectories, S, *{grid.shape}); got {shape}."
        )
    return StaticFields(ArraySource(static[:, None].float())), shape[1]


def _single(values: np.ndarray) -> np.ndarray:
    """A copy in float32; what does not fit becomes infinite, and thus missing."""
    with np.errstate(over="ignore"):
        return np.array(values, dtype=np.float32)


def _load(path: Path) -> dict[str, np.ndarray]:
    """Arrays by name; never a pickle. Raises: InputError for anything else."""
    with reading(path, "save it again", kind=f"{path.suffix} file of plain arrays"):
        content = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(content, np.ndarray):
            return {"states": content}
        with content:
            found = {name: content[name] for name in content.files}
    if strange := [name for name, value in found.items() if not isinstance(value, np.ndarray)]:
        raise InputError(f"{path}: {strange[0]!r} in it is no array; save plain arrays only.")
    return found


def _space_dims(shape: tuple[int, ...], wanted: int | None, where: str) -> tuple[int, str]:
    """Number of space axes of (trajectory, time, [channel,] *space), and a note on what was guessed."""
    if wanted is not None:
        if not 1 <= wanted <= 3 or len(shape) not in (wanted + 2, wanted + 3):
            raise InputError(f"{where}: shape {shape} has no {wanted} space axes after (trajectory, time, [channel]).")
        return wanted, ""
    if len(shape) == 3:
        return 1, ""
    if len(shape) == 6:
        return 3, ""
    channels = shape[2] <= 8 and shape[2] < min(shape[3:])
    dims = len(shape) - (3 if channels else 2)
    meaning = "(trajectory, time, channel, *space)" if channels else "(trajectory, time, *space)"
    return (
        dims,
        f"Shape {shape} was read as {meaning}; pass space_dims={dims - 1 if not channels else dims + 1} if it is not.",
    )


def _texts(content: Mapping[str, np.ndarray], name: str, where: str) -> list[str]:
    """A list of names. Raises: InputError where it is none."""
    value = content[name]
    if value.ndim != 1 or value.dtype.kind not in "US":
        raise InputError(f"{where}: {name!r} must be a list of names, got {value.dtype} of shape {value.shape}.")
    return [one.decode("latin1") if isinstance(one, bytes) else str(one) for one in value.tolist()]


def _parameters(content: Mapping[str, np.ndarray], count: int, where: str) -> tuple[np.ndarray | None, list[str]]:
    """Parameters (trajectory, P) and their names. Raises: InputError for shapes or numbers that do not fit."""
    values = content.get("parameters")
    if values is None:
        return None, []
    if values.ndim not in (1, 2) or len(values) != count or not np.isfinite(values).all():
        raise InputError(
            f"{where}: 'parameters' must be finite numbers ({count} trajectories, P), got the shape {values.shape}."
        )
    values = values.reshape(count, -1)
    names = [f"parameter_{index}" for index in range(values.shape[1])]
    if "parameter_names" in content:
        names = _texts(content, "parameter_names", where)
    if len(names) != values.shape[1]:
        raise InputError(f"{where}: {len(names)} 'parameter_names' for {values.shape[1]} parameters; give one each.")
    return values, names


def _constants(
    content: Mapping[str, np.ndarray], count: int, space: tuple[int, ...], where: str
) -> tuple[Tensor | None, list[str]]:
    """Static fields (S, *space) or (trajectory, S, *space) and their names. Raises: InputError for shapes or numbers that do not fit."""
    values = content.get("static")
    if values is None:
        return None, []
    front = values.shape[: max(0, values.ndim - len(space))]  # (S,) or (trajectory, S)
    fits = values.shape[len(front) :] == space and (len(front) == 1 or (len(front) == 2 and front[0] == count))
    if not fits or values.dtype.kind not in "biuf" or not np.isfinite(values).all():
        raise InputError(
            f"{where}: 'static' must be finite numbers (S, {', '.join(map(str, space))}), with the {count} trajectories in "
            f"front where they differ; got {values.dtype} of shape {values.shape}."
        )
    size = front[-1]
    names = [f"static_{index}" for index in range(size)]
    if "static_names" in content:
        names = _texts(content, "static_names", where)
    if len(names) != size:
        raise InputError(f"{where}: {len(names)} 'static_names' for {size} static fields; give one each.")
    return torch.from_numpy(_single(values)), names


def open_numpy(
    path: Path,
    *,
    fields: Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
    periodic: Sequence[str] = (),
    missing: Missing = "error",
    dt: float | None = None,
    space_dims: int | None = None,
) -> Dataset:
    """Open `.npy`, (trajectory, time, [channel,] *space), or `.npz`.

    An `.npz` holds `states` of that shape, or one array (trajectory, time, *space) per field under the field's name;
    optionally `x`, `y`, `z` (coordinates), `time`, `dt`, `parameters` (trajectory, P), `parameter_names`, `fields`
    (names of the channels), `static` (S, *space) or (trajectory, S, *space) for fields constant in time, and `static_names`.

    Raises: InputError for files and shapes that cannot be understood.
    """
    where, content, notes = str(path), _load(path), []
    known = {"time", "dt", "parameters", "parameter_names", "fields", "static", "static_names", *SPACE_NAMES}
    arrays = {name: value for name, value in content.items() if name not in known and value.ndim >= 3}
    if not arrays:
        raise InputError(
            f"{where}: expected an array (trajectory, time, [channel,] *space) of 3 to 6 axes, "
            f"found { ({name: value.shape for name, value in content.items()}) }."
        )
    first = arrays.get("states", next(iter(arrays.values())))
    for name, value in [*arrays.items(), *((name, content[name]) for name in NUMBERS if name in content)]:
        if value.dtype.kind not in "fiu":
            raise InputError(f"{where}: expected real numbers in {name!r}, got {value.dtype} of shape {value.shape}.")
    if first.ndim > 6 or 0 in first.shape:
        raise InputError(f"{where}: expected 3 to 6 axes, none of them empty, got the shape {first.shape}.")
    if "states" in arrays or len(arrays) == 1:
        dims, note = _space_dims(first.shape, space_dims, where)
        notes += [note] if note else []
        stacked = first if first.ndim == dims + 3 else first[:, :, None]
        stem = next(name for name, value in arrays.items() if value is first)
        stem = "u" if stem == "states" else stem
        default = [stem] if stacked.shape[2] == 1 else [f"{stem}_{index}" for index in range(stacked.shape[2])]
        names = _texts(content, "fields", where) if "fields" in content else default
    else:
        shapes = {value.shape for value in arrays.values()}
        if len(shapes) > 1 or first.ndim > 5:
            raise InputError(
                f"{where}: all fields must have one shape (trajectory, time, *space), got {sorted(shapes)}."
            )
        dims, names, stacked = first.ndim - 2, list(arrays), np.stack(list(arrays.values()), axis=2)
    if len(names) != stacked.shape[2]:
        raise InputError(f"{where}: {len(names)} names in 'fields' for {stacked.shape[2]} channels; give one each.")
    if fields is not None:
        if unknown := [name for name in fields if name not in names]:
            raise InputError(f"{where}: no field {unknown[0]!r}; valid ones: {', '.join(names)}.")
        stacked, names = stacked[:, :, [names.index(name) for name in fields]], list(fields)
    axes = []
    for name, size in zip(SPACE_NAMES[:dims], stacked.shape[3:], strict=True):
        coordinates = content[name] if name in content else np.arange(size)
        if coordinates.shape != (size,):
            raise InputError(f"{where}: {name!r} has shape {coordinates.shape}, the states have {size} points there.")
        axes.append(plain_axis(name, coordinates, periodic=name in periodic))
    if not periodic:
        notes.append("All axes are taken as bounded (open); pass periodic=x,y for those that repeat.")
    if "time" in content and dt is None:
        if content["time"].shape != (stacked.shape[1],):
            raise InputError(
                f"{where}: 'time' has shape {content['time'].shape}, the states have {stacked.shape[1]} frames."
            )
        clock = plain_clock(content["time"], "1", where)
    else:
        if "dt" in content and (content["dt"].size != 1 or not 0 < float(content["dt"].reshape(())) < np.inf):
            raise InputError(f"{where}: 'dt' must be one positive number, got {content['dt']}.")
        step = float(content["dt"].reshape(())) if dt is None and "dt" in content else dt
        notes += ["The time step is not known and taken as 1; pass dt=..."] if step is None else []
        clock = PlainClock(1.0 if step is None else float(step))
    parameters, labels = _parameters(content, len(stacked), where)
    static, static_names = _constants(content, len(stacked), stacked.shape[3:], where)
    return from_arrays(
        torch.from_numpy(_single(stacked)),
        fields=names,
        grid=Grid(tuple(axes)),
        clock=clock,
        parameters=parameters,
        parameter_names=labels,
        fractions=fractions or DEFAULT_FRACTIONS,
        static=static,
        static_names=static_names,
        missing=missing,
        attributes={"path": where, "source": where, "format": "NumPy"},
        notes=notes,
    )
