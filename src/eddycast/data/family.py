"""Several data sets as one, on grids of their own, and the trajectories of a data set by the values of its parameters.

The lengths of a periodic domain, say, or resolutions: what differs is the grid, and the parameters with it. The fields, the time step and
the names of the parameters are the same, so that one emulator, of a kind that takes any grid, learns them all.
`mixture` draws batches from several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from eddycast.data.dataset import Dataset
from eddycast.data.opening import file_format, open_dataset
from eddycast.errors import InputError

SAME = 1e-5
"""Relative difference up to which two values of a parameter, stored in float32, count as one."""


@dataclass(frozen=True, eq=False)
class Family:
    """Data sets by name, in order of the number of points of their grids.

    Raises: InputError where fields, dimension, boundaries, time step or parameters differ.
    """

    members: Mapping[str, Dataset]

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("A family needs a data set at least.")
        ordered = dict(sorted(self.members.items(), key=lambda item: item[1].grid.num_points))
        object.__setattr__(self, "members", ordered)
        (first, one), *others = ordered.items()
        for name, other in others:
            for what, mine, theirs in (
                ("fields", one.field_names, other.field_names),
                ("boundaries", one.grid.periodic, other.grid.periodic),
                ("parameters", one.parameter_names, other.parameter_names),
                ("static fields", one.static_names, other.static_names),
            ):
                if mine != theirs:
                    raise InputError(
                        f"{first} has the {what} {_listed(mine)}, {name} has {_listed(theirs)}: data sets of one family have the same."
                    )
            if abs(one.dt - other.dt) > 1e-4 * one.dt:
                raise InputError(
                    f"{first} has a time step of {one.dt:g}, {name} of {other.dt:g}: one family has one step."
                )

    def __repr__(self) -> str:
        return f"Family({'; '.join(f'{name}: {one!r}' for name, one in self.members.items())})"

    def __getitem__(self, name: str) -> Dataset:
        return self.members[name]

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return tuple(self.members.values())


def _listed(values: tuple) -> str:
    return ", ".join(map(str, values)) or "none"


def is_family(path: str | Path) -> bool:
    """Whether a folder is no data set itself, but every folder in it is one."""
    place = Path(path).expanduser()
    if not place.is_dir():
        return False
    inside = _folders(place)
    return bool(inside) and not _is_data(place) and all(map(_is_data, inside))


def _folders(place: Path) -> list[Path]:
    """Folders in a folder, by name; hidden ones are none of ours."""
    return sorted(item for item in place.iterdir() if item.is_dir() and not item.name.startswith("."))


def _is_data(place: Path) -> bool:
    try:
        file_format(place)
    except InputError:
        return False
    return True


def open_family(path: str | Path) -> Family:
    """The data sets in a folder, each a folder of its own. Raises: InputError where they make no family."""
    place = Path(path).expanduser()
    try:
        return Family({item.name: open_dataset(item) for item in _folders(place)})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def with_parameters(dataset: Dataset, values: Mapping[str, float]) -> Dataset | None:
    """The data set with those trajectories whose parameters have these values; None where it has no such trajectories to train on."""
    return _taken(dataset, same_parameters(dataset, values))


def without_parameters(dataset: Dataset, values: Mapping[str, float]) -> Dataset | None:
    """The data set without those trajectories; None where no other is there to train on."""
    return _taken(dataset, ~same_parameters(dataset, values))


def same_parameters(dataset: Dataset, values: Mapping[str, float]) -> Tensor:
    """Which trajectories have these values, (trajectory,) bool. Raises: InputError for a parameter that the data do not have."""
    if strange := [name for name in values if name not in dataset.parameter_names]:
        raise InputError(
            f"There is no parameter {strange[0]!r} in the data: they have {_listed(dataset.parameter_names)}."
        )
    chosen = torch.ones(dataset.num_trajectories, dtype=torch.bool)
    for name, value in values.items():
        assert dataset.parameter_values is not None, "data with names of parameters have values"
        column = dataset.parameter_values[:, dataset.parameter_names.index(name)].double()
        chosen &= (column - value).abs() <= SAME * max(abs(value), 1e-30)
    return chosen


def by_parameters(dataset: Dataset, most: int = 32) -> tuple[Dataset, ...]:
    """Parts of the data set with parameters of one value each; the whole where there are more than `most` values."""
    train = sorted({segment.trajectory for segment in dataset.segments("train")})
    if dataset.parameter_values is None or not dataset.parameter_names:
        return (dataset,)
    values = dataset.parameter_values[train].unique(dim=0)
    if not 1 < len(values) <= most:
        return (dataset,)
    parts = [with_parameters(dataset, dict(zip(dataset.parameter_names, row, strict=True))) for row in values.tolist()]
    return tuple(part for part in parts if part is not None)


def _taken(dataset: Dataset, chosen: Tensor) -> Dataset | None:
    splits = {
        name: tuple(segment for segment in segments if bool(chosen[segment.trajectory]))
        for name, segments in dataset.splits.items()
    }
    return replace(dataset, splits=splits) if splits.get("train") else None
