"""What a file of The Well must contain, and what is wrong with one, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from eddycast.errors import InputError, reading

GROUPS = ("t0_fields", "t1_fields", "t2_fields")
ROOT_ATTRIBUTES = ("dataset_name", "grid_type", "n_spatial_dims", "n_trajectories", "simulation_parameters")
FIELD_ATTRIBUTES = ("dim_varying", "sample_varying", "time_varying")
BOUNDARY_TYPES = ("WALL", "OPEN", "PERIODIC")
BETWEEN_COMPONENTS = " | "  # of the long names of a vector, whose components lie in one array


def names_of(group: Any) -> list[str]:
    """Names that a group lists in its attribute `field_names`; none for a group that is absent."""
    return [] if group is None else [str(name) for name in group.attrs.get("field_names", ())]


def file_problems(handle: Any) -> list[str]:
    """Problems of one open HDF5 file, an empty list for a good one."""
    try:
        with reading("its layout", "attributes, groups or arrays are of another kind than expected", kind="one"):
            return _problems(handle)
    except InputError as error:
        return [str(error).rstrip(".")]


def _problems(handle: Any) -> list[str]:
    problems = [f"the root attribute {name!r} is missing" for name in ROOT_ATTRIBUTES if name not in handle.attrs]
    missing = [name for name in ("dimensions", "boundary_conditions", "scalars", *GROUPS) if name not in handle]
    problems += [f"the group {name!r} is missing" for name in missing]
    if "dimensions" in missing or "n_trajectories" not in handle.attrs:
        return problems
    dimensions, count = handle["dimensions"], int(handle.attrs["n_trajectories"])
    dims = [str(dim) for dim in dimensions.attrs.get("spatial_dims", ())]
    if not dims:
        return [*problems, "dimensions has no attribute 'spatial_dims'"]
    if lost := [name for name in ("time", *dims) if name not in dimensions]:
        return [*problems, *(f"the coordinate dimensions/{name} is missing" for name in lost)]
    for name in ("time", *dims):
        for attribute in ("sample_varying", "time_varying"):
            if attribute not in dimensions[name].attrs:
                problems.append(f"dimensions/{name} has no attribute {attribute!r}")
    if int(handle.attrs.get("n_spatial_dims", len(dims))) != len(dims):
        problems.append(f"n_spatial_dims is {handle.attrs['n_spatial_dims']}, but there are {len(dims)} spatial_dims")
    space = tuple(dimensions[dim].shape[-1] for dim in dims)
    steps = dimensions["time"].shape[-1]
    times = np.atleast_2d(np.asarray(dimensions["time"], dtype=np.float64))
    if steps > 1 and (np.diff(times) <= 0).any():
        problems.append("dimensions/time does not increase")
    for order, group in enumerate(GROUPS):
        problems += _field_problems(handle.get(group), group, order, count, steps, space)
    problems += _scalar_problems(handle.get("scalars"), count, steps)
    problems += _boundary_problems(handle.get("boundary_conditions"), dims)
    return problems


def _listed(group: Any, where: str) -> list[str]:
    """Problems between the attribute `field_names` and what a group holds."""
    if "field_names" not in group.attrs:
        return [f"{where} has no attribute 'field_names'"]
    named, held = set(names_of(group)), set(group)
    lost = [f"{where} names {name!r} but does not hold it" for name in sorted(named - held)]
    return lost + [f"{where} holds {name!r} but does not name it" for name in sorted(held - named)]


def _field_problems(group: Any, where: str, order: int, count: int, steps: int, space: tuple[int, ...]) -> list[str]:
    if group is None:
        return []
    problems = _listed(group, where)
    for name in (name for name in names_of(group) if name in group):
        data = group[name]
        if lost := [attribute for attribute in FIELD_ATTRIBUTES if attribute not in data.attrs]:
            problems += [f"{where}/{name} has no attribute {attribute!r}" for attribute in lost]
            continue
        varies = [bool(one) for one in data.attrs["dim_varying"]]
        expected = (count,) if data.attrs["sample_varying"] else ()
        expected += (steps,) if data.attrs["time_varying"] else ()
        expected += tuple(size for size, one in zip(space, varies, strict=False) if one)
        expected += (len(space),) * order
        if len(varies) != len(space):
            problems.append(f"{where}/{name}: dim_varying has {len(varies)} entries for {len(space)} dimensions")
        elif data.shape != expected:
            problems.append(f"{where}/{name} has shape {data.shape}, its attributes say {expected}")
        if data.dtype != np.float32:
            problems.append(f"{where}/{name} is {data.dtype}, expected float32")
    return problems


def _scalar_problems(group: Any, count: int, steps: int) -> list[str]:
    if group is None:
        return []
    problems = _listed(group, "scalars")
    for name in (name for name in names_of(group) if name in group):
        data = group[name]
        if lost := [attribute for attribute in FIELD_ATTRIBUTES[1:] if attribute not in data.attrs]:
            problems += [f"scalars/{name} has no attribute {attribute!r}" for attribute in lost]
            continue
        expected = ((count,) if data.attrs["sample_varying"] else ()) + ((steps,) if data.attrs["time_varying"] else ())
        if data.shape != expected:
            problems.append(f"scalars/{name} has shape {data.shape}, its attributes say {expected}")
    return problems


def _boundary_problems(group: Any, dims: list[str]) -> list[str]:
    problems = []
    for name, condition in ({} if group is None else group).items():
        kind = str(condition.attrs.get("bc_type", ""))
        if kind.upper() not in BOUNDARY_TYPES:
            problems.append(f"boundary_conditions/{name} has bc_type {kind!r}, valid ones: {', '.join(BOUNDARY_TYPES)}")
        if unknown := [str(dim) for dim in condition.attrs.get("associated_dims", ()) if str(dim) not in dims]:
            problems.append(f"boundary_conditions/{name} belongs to the unknown dimension {unknown[0]!r}")
        if "mask" not in condition:
            problems.append(f"boundary_conditions/{name} has no mask")
    return problems
