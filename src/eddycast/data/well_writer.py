"""Write and check data sets in The Well's layout."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from torch import Tensor

from eddycast.data.dataset import SPLITS, Dataset, Segment
from eddycast.data.static import StaticFields
from eddycast.data.well_schema import BETWEEN_COMPONENTS, GROUPS, file_problems
from eddycast.data.well_source import find_files, open_hdf5
from eddycast.errors import InputError
from eddycast.files import atomic_output, require_space

MARK = "# Statistics of the train split, written by eddycast."
FRAMES_PER_CHUNK = 16
CHUNK_CACHE_BYTES = 2**20  # of HDF5, written when the file is closed
PLAIN_TYPES = (str, int, float, bool)


@dataclass
class _Moments:
    """Sums over all points of one component, for mean, std and rms."""

    count: int = 0
    total: float = 0.0
    square: float = 0.0

    def add(self, values: np.ndarray) -> None:
        flat = values.astype(np.float64).reshape(-1)
        self.count += flat.size
        self.total += float(flat.sum())
        self.square += float(flat @ flat)

    def summary(self) -> tuple[float, float, float]:
        number = max(self.count, 1)
        mean, square = self.total / number, self.square / number
        return mean, math.sqrt(max(square - mean**2, 0.0)), math.sqrt(square)


@dataclass(frozen=True)
class _Group:
    """Channels that are one field of the file."""

    name: str
    order: int
    channels: tuple[int, ...]
    values: list[_Moments] = field(default_factory=list)
    changes: list[_Moments] = field(default_factory=list)


def _groups(dataset: Dataset) -> list[_Group]:
    """Scalars, and vectors and tensors whose components are complete and stand in a row; others are scalars."""
    dims, groups, at = len(dataset.grid.axes), [], 0
    while at < len(dataset.fields):
        vector = dataset.fields[at].vector
        stop = at
        while vector and stop < len(dataset.fields) and dataset.fields[stop].vector == vector:
            stop += 1
        order = 1 if stop - at == dims and vector else 2 if stop - at == dims**2 and vector else 0
        count = max(dims**order, 1)
        name = vector if order else dataset.fields[at].name
        groups.append(_Group(name, order, tuple(range(at, at + count))))
        at += count
    for group in groups:
        group.values.extend(_Moments() for _ in group.channels)
        group.changes.extend(_Moments() for _ in group.channels)
    return groups


def _is_ours(path: Path) -> bool:
    stats = path / "stats.yaml"
    return stats.is_file() and stats.read_text().startswith(MARK)


def write_well(
    dataset: Dataset,
    directory: str | Path,
    *,
    overwrite: bool = False,
    manifest: Mapping[str, Any] | None = None,
    beside: Callable[[Path], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write all splits as `data/{train,valid,test}/*.hdf5` and `stats.yaml`, as The Well's own loader reads them.

    Segments become trajectories, one file for those of equal length in a split. States pass through memory in pieces of
    one trajectory. Points that are not valid are stored as 0, beside a constant field `valid`. Dates become numbers of
    steps times dt since 1 January of the first year.

    Args:
        dataset: Opened data.
        directory: Target; appears only when all is written.
        overwrite: Replace a directory that this function wrote before.
        manifest: Plain values to keep beside the data, as `manifest.json`.
        beside: Writes further files into the directory, before it appears.
        progress: Called with (trajectories written, of how many).

    Raises: InputError where the directory exists or cannot be written, or the data have missing values.
    """
    target = Path(directory)
    groups = _groups(dataset)
    jobs = [
        (split, [item for item in dataset.splits.get(split, ()) if len(item) == length])
        for split in SPLITS
        for length in sorted({len(item) for item in dataset.splits.get(split, ())}, reverse=True)
    ]
    total, done = sum(len(segments) for _, segments in jobs), 0
    stem = "".join(
        char if char.isalnum() or char in "-_" else "_" for char in str(dataset.attributes.get("system") or "data")
    )
    with atomic_output(target, overwrite=overwrite, is_ours=_is_ours) as temporary:
        for split in SPLITS:
            (temporary / "data" / split).mkdir(parents=True, exist_ok=True)
        for split, segments in jobs:
            several = sum(other == split for other, _ in jobs) > 1
            name = f"{stem}_{len(segments[0])}_frames.hdf5" if several else f"{stem}.hdf5"
            with h5py.File(temporary / "data" / split / name, "w") as file:
                for _ in _write_file(file, dataset, groups, segments, stem, moments=split == "train"):
                    done += 1
                    if progress is not None:
                        progress(done, total)
        if beside is not None:
            beside(temporary)
        if manifest is not None:
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        (temporary / "stats.yaml").write_text(MARK + "\n" + yaml.safe_dump(_stats(dataset, groups), sort_keys=True))
    return target


def _write_file(
    file: Any, dataset: Dataset, groups: list[_Group], segments: list[Segment], system: str, *, moments: bool
) -> Iterator[None]:
    """Write one file, yielding after each trajectory."""
    grid, steps = dataset.grid, len(segments[0])
    _write_header(file, dataset, segments, system)
    targets = []
    for order, group in enumerate(GROUPS):
        members = [item for item in groups if item.order == order]
        node = file.create_group(group)
        names = [item.name for item in members]
        for item in members:
            shape = (len(segments), steps, *grid.shape, *(len(grid.axes),) * order)
            data = node.create_dataset(
                item.name,
                shape,
                dtype="float32",
                chunks=(1, min(FRAMES_PER_CHUNK, steps), *shape[2:]),
                compression="gzip",
                compression_opts=4,
                shuffle=True,
            )
            _flags(data, sample=True, time=True, dims=[True] * len(grid.axes))
            first = dataset.fields[item.channels[0]]
            texts = [dataset.fields[channel].long_name for channel in item.channels]
            data.attrs["units"] = first.units
            data.attrs["long_name"] = texts[0] if len(set(texts)) == 1 else BETWEEN_COMPONENTS.join(texts)
            targets.append((item, data))
        if order == 0:
            names += _write_constants(node, dataset, segments)
        node.attrs["field_names"] = _texts(names)
    valid = slice(None) if dataset.valid is None else dataset.valid.numpy()
    piece = FRAMES_PER_CHUNK * max(1, 2**26 // (4 * FRAMES_PER_CHUNK * math.prod(dataset.state_shape)))
    for row, segment in enumerate(segments):
        last: np.ndarray | None = None
        for start in range(segment.start, segment.stop, piece):
            stop = min(start + piece, segment.stop)
            states = dataset.read(segment.trajectory, start, stop).nan_to_num(0.0).numpy()
            require_space(Path(file.filename), states.nbytes + CHUNK_CACHE_BYTES)
            for item, data in targets:
                part = np.moveaxis(states[:, list(item.channels)], 1, -1)
                tail = (len(grid.axes),) * item.order
                data[row, start - segment.start : stop - segment.start] = part.reshape(*part.shape[:-1], *tail)
            if moments:
                joined = states if last is None else np.concatenate([last, states])
                for item in groups:
                    for channel, value, change in zip(item.channels, item.values, item.changes, strict=True):
                        value.add(states[:, channel][:, valid])
                        change.add(np.diff(joined[:, channel].astype(np.float64), axis=0)[:, valid])
            last = states[-1:]
        yield


def _texts(names: list[str]) -> np.ndarray:
    return np.array(names, dtype=h5py.string_dtype())


def _flags(data: Any, *, sample: bool, time: bool, dims: list[bool] | None = None) -> None:
    data.attrs["sample_varying"], data.attrs["time_varying"] = sample, time
    if dims is not None:
        data.attrs["dim_varying"] = np.array(dims)


def _write_header(file: Any, dataset: Dataset, segments: list[Segment], system: str) -> None:
    grid = dataset.grid
    file.attrs["dataset_name"] = system
    file.attrs["grid_type"] = str(dataset.attributes.get("grid_type", "cartesian"))
    file.attrs["n_spatial_dims"] = len(grid.axes)
    file.attrs["n_trajectories"] = len(segments)
    file.attrs["simulation_parameters"] = _texts(list(dataset.parameter_names))
    attributes = {name: value for name, value in dataset.attributes.items() if isinstance(value, PLAIN_TYPES)}
    attributes.pop("path", None)
    file.attrs["eddycast_attributes"] = json.dumps(attributes)
    if "source" in attributes:
        file.attrs["source"] = str(attributes["source"])
    if dataset.cycle is not None:
        file.attrs["eddycast_cycle"] = dataset.cycle
    file.attrs["eddycast_fields"] = _texts(list(dataset.field_names))  # the layout puts scalars before vectors
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = _texts(list(grid.names))
    begins = [dataset.clock.step(item.trajectory, item.start) * dataset.dt for item in segments]
    times = np.asarray(begins)[:, None] + dataset.dt * np.arange(len(segments[0]))
    shared = len(set(begins)) == 1
    time = dimensions.create_dataset("time", data=(times[0] if shared else times).astype(np.float32))
    time.attrs["units"] = dataset.time_units
    _flags(time, sample=not shared, time=True)
    conditions = file.create_group("boundary_conditions")
    for axis in grid.axes:
        data = dimensions.create_dataset(axis.name, data=np.asarray(axis.coordinates, dtype=np.float32))
        data.attrs["units"] = axis.units
        if axis.period is not None:
            data.attrs["eddycast_period"] = axis.period
        _flags(data, sample=False, time=False)
        for kind in sorted(set(axis.boundary)):
            node = conditions.create_group(f"{axis.name}_{kind}")
            node.attrs["associated_dims"], node.attrs["associated_fields"] = _texts([axis.name]), _texts([])
            node.attrs["bc_type"] = kind.upper()
            _flags(node, sample=False, time=False)
            mask = np.zeros(axis.size, dtype=bool)
            mask[0], mask[-1] = axis.boundary[0] == kind, axis.boundary[1] == kind
            node.create_dataset("mask", data=mask)
            node.create_dataset("values", data=np.zeros(2, dtype=np.float32))
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = _texts(list(dataset.parameter_names))
    values = np.stack([dataset.parameters(item.trajectory).numpy() for item in segments])
    for column, name in enumerate(dataset.parameter_names):
        constant = bool((values[:, column] == values[0, column]).all())
        data = scalars.create_dataset(name, data=values[0, column] if constant else values[:, column])
        _flags(data, sample=not constant, time=False)


def _write_constants(node: Any, dataset: Dataset, segments: list[Segment]) -> list[str]:
    """Static fields and the mask, as order-0 fields constant in time; returns their names."""
    dims = [True] * len(dataset.grid.axes)
    names = list(dataset.static_names)
    if isinstance(dataset.static, StaticFields):
        shape = (len(segments), *dataset.grid.shape)
        options: dict[str, Any] = {"chunks": (1, *shape[1:]), "compression": "gzip", "compression_opts": 4}
        targets = [node.create_dataset(name, shape, dtype="float32", shuffle=True, **options) for name in names]
        for row, segment in enumerate(segments):
            for data, values in zip(targets, dataset.static[segment.trajectory], strict=True):
                data[row] = values.numpy()
        for data in targets:
            _flags(data, sample=True, time=False, dims=dims)
    elif dataset.static is not None:
        for name, values in zip(names, dataset.static, strict=True):
            _flags(node.create_dataset(name, data=values.float().numpy()), sample=False, time=False, dims=dims)
    if dataset.valid is not None:
        data = node.create_dataset("valid", data=dataset.valid.float().numpy())
        data.attrs["eddycast_role"] = "valid"
        _flags(data, sample=False, time=False, dims=dims)
        names.append("valid")
    return names


def _stats(dataset: Dataset, groups: list[_Group]) -> dict[str, dict[str, Any]]:
    """The content of The Well's stats.yaml: unweighted mean, std and rms of states and of one-step differences."""
    content: dict[str, dict[str, Any]] = {
        name + suffix: {} for name in ("mean", "std", "rms") for suffix in ("", "_delta")
    }

    def nested(values: list[float], order: int) -> Any:
        side = len(dataset.grid.axes)
        return np.asarray(values).reshape((side,) * order).tolist() if order else values[0]

    for group in groups:
        for suffix, moments in (("", group.values), ("_delta", group.changes)):
            for at, name in enumerate(("mean", "std", "rms")):
                content[name + suffix][group.name] = nested([one.summary()[at] for one in moments], group.order)
    constants = {name: _Moments() for name in dataset.static_names}
    maps: Iterable[Tensor] = [dataset.static] if isinstance(dataset.static, Tensor) else []
    if isinstance(dataset.static, StaticFields):  # of the train split, as for the states
        own = dataset.static
        maps = (own[segment.trajectory] for segment in dataset.splits.get("train", ()))
    for fields in maps:
        for name, values in zip(dataset.static_names, fields, strict=True):
            constants[name].add(values.float().numpy())
    if dataset.valid is not None:
        constants["valid"] = _Moments()
        constants["valid"].add(dataset.valid.float().numpy())
    for name, moments in constants.items():
        for at, kind in enumerate(("mean", "std", "rms")):
            content[kind][name] = moments.summary()[at]
    return content


def validate_well(path: str | Path) -> list[str]:
    """Problems of a file or directory in The Well's layout, in words; an empty list for a good one.

    Raises: InputError where there is nothing to check.
    """
    root = Path(path)
    files = find_files(root) if root.exists() else {}
    if not files:
        raise InputError(f"{path}: no HDF5 files; expected data/train/*.hdf5 (and valid, test), or *.hdf5.")
    problems: list[str] = []
    seen: dict[str, set[Any]] = {"dataset_name": set(), "n_spatial_dims": set()}
    for file in (file for group in files.values() for file in group):
        try:
            with open_hdf5(file) as handle:
                problems += [f"{file.name}: {problem}" for problem in file_problems(handle)]
                for name, values in seen.items():
                    values.add(str(handle.attrs.get(name)))
        except InputError as error:
            problems.append(str(error))
    problems += [
        f"files disagree about {name}: {', '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1
    ]
    if root.is_dir():
        if "all" in files:
            problems.append("there are no folders data/train, data/valid, data/test")
        elif lost := [split for split in SPLITS if split not in files]:
            problems.append(f"there are no files for {', '.join(lost)}")
        if not (root / "stats.yaml").is_file():
            problems.append("stats.yaml is missing")
    return problems
