"""Trajectories in The Well's HDF5 layout, read lazily.

One file holds trajectories of one length: fields of tensor order 0, 1, 2 in `t0_fields`, `t1_fields`, `t2_fields` with
the axes (trajectory, time, *space, *components), coordinates in `dimensions`, parameters in `scalars`,
`boundary_conditions` as masks.
Layout: Ohana et al. (2024), arXiv:2412.00568, and https://polymathic-ai.org/the_well/data_format.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eddycast.data.clock import PlainClock, plain_clock
from eddycast.data.dataset import SPLITS, Dataset, Field, Segment
from eddycast.data.quadrature import plain_axis
from eddycast.data.splits import DEFAULT_FRACTIONS, make_splits
from eddycast.data.static import StaticFields
from eddycast.data.well_schema import BETWEEN_COMPONENTS, GROUPS, file_problems, names_of
from eddycast.data.well_source import Component, WellSource, find_files, open_hdf5, require_plain
from eddycast.errors import DAMAGE, InputError, reason
from eddycast.grid import Axis, Boundary, Grid

LARGEST_SCALAR = 1e30  # beyond, statistics of parameters overflow in single precision
STANDARD_ATTRIBUTES = {"dataset_name", "n_spatial_dims", "n_trajectories", "simulation_parameters", "grid_type"}


def _components(handle: Any) -> list[Component]:
    found = []
    for order, group in enumerate(GROUPS):
        for name in names_of(handle.get(group)):
            attributes = handle[group][name].attrs
            found.append(
                Component(
                    name,
                    group,
                    order,
                    bool(attributes["sample_varying"]),
                    bool(attributes["time_varying"]),
                    tuple(bool(varies) for varies in attributes["dim_varying"]),
                )
            )
    return found


def boundaries(handle: Any, dims: Sequence[str]) -> dict[str, tuple[Boundary, Boundary]]:
    """Kind of boundary at both sides of each axis, open where the file says nothing.

    A side that is only partly wall counts as open, one that is partly open or periodic as that (as The Well's own
    loader has it).
    """
    kinds: dict[str, list[Boundary]] = {dim: ["open", "open"] for dim in dims}
    for condition in handle.get("boundary_conditions", {}).values():
        kind = str(condition.attrs["bc_type"]).lower()
        mask = np.asarray(condition["mask"])
        associated = [str(dim) for dim in condition.attrs["associated_dims"]]
        for position, dim in enumerate(associated):
            for side in (0, -1):
                edge = np.take(mask, side, axis=position) if mask.ndim == len(associated) else mask
                holds = edge.all() if kind == "wall" else edge.any()
                if dim in kinds and kind in ("wall", "open", "periodic") and holds:
                    kinds[dim][side] = kind  # pyright: ignore[reportArgumentType]
    return {dim: (low, high) for dim, (low, high) in kinds.items()}


def _axis(handle: Any, dim: str, sides: tuple[Boundary, Boundary], grid_type: str) -> Axis:
    data = handle["dimensions"][dim]
    values = np.asarray(data, dtype=np.float64)
    values = values[0] if values.ndim == 2 else values
    units = str(data.attrs.get("units", "1"))
    whole = "periodic" in sides
    period = data.attrs.get("eddycast_period")
    axis = plain_axis(
        dim, values, periodic=whole, boundary=sides, units=units, period=None if period is None else float(period)
    )
    if (
        grid_type in ("spherical", "equiangular")
        and dim == "theta"
        and not whole
        and 0 <= values.min() < values.max() < 3.2
    ):
        sines = tuple(float(value) for value in np.sin(values).clip(min=0))
        return Axis(axis.name, axis.coordinates, axis.boundary, axis.units, None, sines)
    return axis


def _scalars(handle: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters constant in time, (trajectory,) or (), and the names of those that are not."""
    constant, varying = {}, []
    group = handle.get("scalars")
    for name in names_of(group):
        if bool(group[name].attrs["time_varying"]):
            varying.append(name)
        else:
            constant[name] = np.asarray(group[name], dtype=np.float64)
    for name in (str(one) for one in handle.attrs.get("simulation_parameters", ())):
        value = handle.attrs.get(name)
        if name not in constant and name not in varying and isinstance(value, (int, float, np.number)):
            constant[name] = np.asarray(float(value))
    return constant, varying


def _plain(value: Any) -> Any:
    return (
        value.item() if isinstance(value, np.generic) else str(value) if not isinstance(value, (int, float)) else value
    )


def open_well(path: Path, *, fields: Sequence[str] | None = None, fractions: Sequence[float] | None = None) -> Dataset:
    """Open a directory of The Well (`data/{train,valid,test}/*.hdf5`, the parent of these folders, or loose files) or
    one file.

    Splits are those of the folders unless `fractions` are given; a missing `valid` is cut from the end of `train`, and
    with folders other than these everything is cut by trajectory. Vectors become the channels `<name>_x`, `<name>_y`,
    tensors `<name>_xx`, ...; fields constant in time become static fields, those that differ between trajectories read
    when they are asked for. One of these that `fields` names is a channel that does not change.

    Raises: InputError for damaged files, files that do not belong together, or unknown fields.
    """
    files = find_files(path)
    if not files:
        raise InputError(f"{path}: no HDF5 files; expected data/train/*.hdf5 (and valid, test), or *.hdf5.")
    ordered = [(split, file) for split, group in files.items() for file in group]
    first: dict[str, Any] = {}
    index: list[tuple[int, int]] = []
    lengths: list[int] = []
    origins: list[float] = []
    rows: list[list[float]] = []
    owner: list[str] = []
    steps: list[float] = []
    notes: list[str] = []
    for number, (split, file) in enumerate(ordered):
        with open_hdf5(file) as handle:
            require_plain(handle)
            try:
                content = _describe(handle, str(file))
            except DAMAGE as error:
                if isinstance(error, InputError):
                    raise
                problems = file_problems(handle) or [reason(error)]
                raise InputError(
                    f"{file}: not The Well's layout: {problems[0]}"
                    + (f" (and {len(problems) - 1} more)" if problems[1:] else "")
                    + "."
                ) from error
            _require_shapes(content, str(file))
            first = first or content
            _compare(first, content, str(file), str(ordered[0][1]))
            known = content["attributes"]
            first["attributes"] = {
                name: value for name, value in first["attributes"].items() if known.get(name) == value
            }
            for sample in range(content["count"]):
                times = content["time"][sample if len(content["time"]) > 1 else 0]
                clock = plain_clock(times, "1", str(file))
                steps += [clock.dt] if len(times) > 1 else []
                origins.append(clock.origins[0])
                index.append((number, sample))
                lengths.append(len(times))
                owner.append(split)
                scalars = content["scalars"].values()
                rows.append([float(value[sample] if value.ndim else value) for value in scalars])
    steps = steps or [1.0]  # single frames have no step
    if not np.allclose(steps, steps[0], rtol=1e-4):
        raise InputError(
            f"{path}: trajectories have different time steps ({min(steps)} to {max(steps)}); open them apart."
        )
    paths = tuple(str(file) for _, file in ordered)
    static, static_names, valid, carried = _constants(first, paths, tuple(index), fields or (), notes)
    chosen = _in_order([item for item in first["components"] if item.time_varying], first) + carried
    channels, chosen = _channels(first, chosen, fields, str(path))
    if first["varying"]:
        notes.append(f"Scalars that change in time are not used: {', '.join(first['varying'])}.")
    shared = len(set(origins)) == 1
    attributes = {"path": str(path), "format": "The Well", **first["attributes"]}
    if not first["extra"].get("boundary", True):
        notes.append("The file names no boundary conditions: all sides are taken as open.")
    source = WellSource(
        paths,
        tuple(index),
        tuple(lengths),
        tuple(chosen),
        first["grid"].shape,
    )
    return Dataset(
        source=source,
        fields=tuple(channels),
        grid=first["grid"],
        clock=PlainClock(
            steps[0], first["extra"]["time_units"], (origins[0],) if shared else tuple(origins), first["extra"]["cycle"]
        ),
        splits=_splits(owner, lengths, fractions, notes),
        parameter_names=tuple(first["scalars"]),
        parameter_values=torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(first["scalars"])),
        valid=valid,
        static=static,
        static_names=tuple(static_names),
        attributes=attributes,
        notes=tuple(notes),
    )


def _describe(handle: Any, file: str) -> dict[str, Any]:
    """All of one file but the fields themselves."""
    dims = [str(dim) for dim in handle["dimensions"].attrs["spatial_dims"]]
    kinds = boundaries(handle, dims)
    grid_type = str(handle.attrs.get("grid_type", "cartesian"))
    scalars, varying = _scalars(handle)
    time = np.atleast_2d(np.asarray(handle["dimensions"]["time"], dtype=np.float64))
    attributes = {
        str(name): _plain(value)
        for name, value in handle.attrs.items()
        if name not in STANDARD_ATTRIBUTES | set(scalars) and not str(name).startswith("eddycast_")
    }
    attributes |= json.loads(str(handle.attrs.get("eddycast_attributes", "{}")))
    attributes["system"] = str(handle.attrs.get("dataset_name", attributes.get("system", "")))
    cycle = handle.attrs.get("eddycast_cycle")
    components = _components(handle)
    if not any(item.time_varying for item in components):
        raise InputError(f"{file}: no field changes in time; expected t0_fields, t1_fields or t2_fields with some.")
    return {
        "count": int(handle.attrs["n_trajectories"]),
        "time": time,
        "grid": Grid(tuple(_axis(handle, dim, kinds[dim], grid_type) for dim in dims)),
        "components": components,
        "dims": dims,
        "units": {c.name: str(handle[c.group][c.name].attrs.get("units", "1")) for c in components},
        "long_names": {c.name: str(handle[c.group][c.name].attrs.get("long_name", "")) for c in components},
        "roles": {c.name: str(handle[c.group][c.name].attrs.get("eddycast_role", "")) for c in components},
        "shapes": {c.name: (handle[c.group][c.name].shape, handle[c.group][c.name].dtype.kind) for c in components},
        "scalars": scalars,
        "varying": varying,
        "order": [str(name) for name in handle.attrs.get("eddycast_fields", ())],
        "attributes": attributes,
        "extra": {
            "time_units": str(handle["dimensions"]["time"].attrs.get("units", "1")),
            "cycle": None if cycle is None else float(cycle),
            "boundary": len(handle.get("boundary_conditions", {})) > 0,
        },
    }


def _require_shapes(content: dict[str, Any], file: str) -> None:
    """Raise an InputError unless times, scalars and fields have the shapes that their attributes announce."""
    count, times, space = content["count"], content["time"], content["grid"].shape
    if count < 1 or times.ndim != 2 or len(times) not in (1, count) or times.shape[1] < 1:
        raise InputError(f"{file}: not The Well's layout: times of shape {times.shape} for {count} trajectories.")
    for name, value in content["scalars"].items():
        if value.shape not in ((), (count,)):
            raise InputError(
                f"{file}: not The Well's layout: scalars/{name} has shape {value.shape}, expected ({count},)."
            )
        if not bool((np.abs(value) < LARGEST_SCALAR).all()):
            raise InputError(f"{file}: scalars/{name} must be finite numbers below {LARGEST_SCALAR:g}.")
    for item in content["components"]:
        varies = item.dim_varying
        expected = ((count,) if item.sample_varying else ()) + ((times.shape[1],) if item.time_varying else ())
        expected += tuple(size for size, one in zip(space, varies, strict=False) if one) + (len(space),) * item.order
        shape, kind = content["shapes"][item.name]
        if len(varies) != len(space) or shape != expected or kind not in "fiub":
            raise InputError(
                f"{file}: not The Well's layout: {item.group}/{item.name} has shape {shape} of kind {kind!r}, "
                f"its attributes say numbers of shape {expected}."
            )


def _compare(first: dict[str, Any], content: dict[str, Any], file: str, other: str) -> None:
    """Raise an InputError unless two files have the same grid, fields and parameters."""
    here, there = content["grid"], first["grid"]
    same = here.shape == there.shape and here.names == there.names and here.periodic == there.periodic
    same = same and all(
        np.allclose(a.coordinates, b.coordinates, rtol=1e-4, atol=1e-6)
        for a, b in zip(here.axes, there.axes, strict=True)
    )
    if not same:
        raise InputError(
            f"{file}: its grid {here.shape} differs from {there.shape} of {other}; keep them in separate folders."
        )
    if content["components"] != first["components"]:
        names = [item.name for item in content["components"]]
        raise InputError(
            f"{file}: its fields ({', '.join(names)}) differ from those of {other}; keep them in separate folders."
        )
    if list(content["scalars"]) != list(first["scalars"]):
        raise InputError(
            f"{file}: its scalars ({', '.join(content['scalars']) or 'none'}) differ from those of {other}; keep them "
            "in separate folders."
        )


def _constants(
    first: dict[str, Any],
    files: tuple[str, ...],
    index: tuple[tuple[int, int], ...],
    channels: Sequence[str],
    notes: list[str],
) -> tuple[Tensor | StaticFields | None, list[str], Tensor | None, list[Component]]:
    """Static fields and their names, the mask of valid points, and fields constant in time that are asked for as channels."""
    maps: dict[Component, np.ndarray] = {}
    own: list[Component] = []  # those of each trajectory
    carried: list[Component] = []
    valid = None
    for item in first["components"]:
        if item.time_varying:
            continue
        found = []
        for file in files if not item.sample_varying else ():
            with open_hdf5(file) as handle:
                probe = WellSource((file,), ((0, 0),), (1,), (item,), first["grid"].shape)
                found.append(probe.one(handle, item, 0, 0, 1, 1, 1)[0])
        varies = item.sample_varying or any(not np.array_equal(found[0], other) for other in found[1:])
        if varies and (item.name in channels or first["roles"][item.name] == "valid"):
            carried.append(item)
            notes.append(f"{item.name!r} is constant in time but differs between trajectories: carried as a field.")
        elif varies:
            own.append(item)
            maps[item] = np.empty(0)
        elif first["roles"][item.name] == "valid":
            valid = torch.from_numpy(found[0][0] > 0.5)
        else:
            maps[item] = np.array(found[0])
    names = [name for item in maps for name, _ in _component_names(item, first["dims"])]
    if not own:
        static = torch.from_numpy(np.concatenate(list(maps.values()))) if maps else None
        return static, names, valid, carried
    notes.append(
        f"Static fields that differ between trajectories: {', '.join(item.name for item in own)}; fields=... that names one "
        "makes it a channel."
    )
    source = WellSource(files, index, (1,) * len(index), tuple(maps), first["grid"].shape, cache_bytes=0)
    return StaticFields(source), names, valid, carried


def _component_names(item: Component, dims: Sequence[str]) -> list[tuple[str, str]]:
    """(channel name, name of the vector) of each component."""
    if item.order == 0:
        return [(item.name, "")]
    parts = ("".join(part) for part in itertools.product(dims, repeat=item.order))
    return [(f"{item.name}_{part}", item.name) for part in parts]


def _channels(
    first: dict[str, Any], components: list[Component], fields: Sequence[str] | None, where: str
) -> tuple[list[Field], list[Component]]:
    """Channels of the components; `fields` picks whole components (a vector by its own name)."""
    valid = [item.name for item in components]
    if fields is not None:
        if unknown := [name for name in fields if name not in valid]:
            raise InputError(f"{where}: no field {unknown[0]!r}; valid ones: {', '.join(valid)}.")
        components = [next(item for item in components if item.name == name) for name in fields]
    channels = []
    for item in components:
        named = list(_component_names(item, first["dims"]))
        texts = first["long_names"][item.name].split(BETWEEN_COMPONENTS)
        texts = texts if len(texts) == len(named) else [first["long_names"][item.name]] * len(named)
        channels += [
            Field(name, first["units"][item.name], text, vector=vector)
            for (name, vector), text in zip(named, texts, strict=True)
        ]
    return channels, components


def _in_order(components: list[Component], first: dict[str, Any]) -> list[Component]:
    """Components in the order of the channels of the data that we have written; as they come in files of others."""
    order = {name: place for place, name in enumerate(first["order"])}
    names = [_component_names(item, first["dims"])[0][0] for item in components]
    if not set(names) <= set(order):
        return components
    return [item for _, item in sorted(zip(names, components, strict=True), key=lambda pair: order[pair[0]])]


def _splits(
    owner: list[str], lengths: list[int], fractions: Sequence[float] | None, notes: list[str]
) -> dict[str, tuple[Segment, ...]]:
    if fractions is not None or "train" not in owner or "test" not in owner:
        if "all" not in owner and fractions is None:
            notes.append(f"The folders hold {', '.join(sorted(set(owner)))} only: everything was cut anew.")
        return make_splits(lengths, fractions or DEFAULT_FRACTIONS)
    whole: dict[str, tuple[Segment, ...]] = {
        split: tuple(Segment(at, 0, length) for at, length in enumerate(lengths) if owner[at] == split)
        for split in SPLITS
    }
    if not whole["valid"]:
        notes.append("There is no valid folder: valid was cut from the end of train.")
        train = list(whole["train"])
        cut = min(max(1, round(0.9 * len(train))), len(train) - 1)
        whole["train"], whole["valid"] = tuple(train[:cut]), tuple(train[cut:])
        if len(train) == 1:
            only = train[0]
            cut = max(1, min(only.stop - 1, round(0.9 * only.stop)))
            whole["train"] = (Segment(only.trajectory, 0, cut),)
            whole["valid"] = (Segment(only.trajectory, cut, only.stop),)
    return whole
