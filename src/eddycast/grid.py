"""Extent, points, boundaries and quadrature of a grid; the axis convention of the package.

Tensors have the axes `(*batch, time, channel, *space)`, an ensemble puts `member` in front. A `Grid` describes `*space`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from eddycast.errors import InputError

Boundary = Literal["periodic", "wall", "open"]
BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)
LARGEST = 1e100
"""Of what is stored: products of larger numbers overflow."""


@dataclass(frozen=True)
class Axis:
    """One axis of a grid.

    Args:
        name: Dimension name, as in the file (`x`, `latitude`).
        coordinates: Strictly monotonic positions of the points, in `units`.
        boundary: Kind at the lower and at the upper side; `periodic` on both sides or on neither.
        units: Unit of the coordinates, `1` where the problem is dimensionless.
        period: Length after which a periodic axis repeats; `None` on a bounded axis.
        weights: Quadrature weights, any scale (cosine of latitude, Chebyshev weights); `None` means equal weights.

    Raises: ValueError when periodicity and sides disagree, or lengths do.
    """

    name: str
    coordinates: tuple[float, ...]
    boundary: tuple[Boundary, Boundary] = ("periodic", "periodic")
    units: str = "1"
    period: float | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        sides = [side == "periodic" for side in self.boundary]
        if any(sides) != all(sides):
            raise ValueError(f"Axis {self.name!r} is periodic on one side only: {self.boundary}.")
        if all(sides) and self.period is None:
            raise ValueError(f"The periodic axis {self.name!r} needs its period.")
        if self.weights is not None and len(self.weights) != len(self.coordinates):
            raise ValueError(f"Axis {self.name!r} has {len(self.coordinates)} points but {len(self.weights)} weights.")

    @property
    def size(self) -> int:
        return len(self.coordinates)

    @property
    def periodic(self) -> bool:
        return self.boundary[0] == "periodic"


def periodic_axis(name: str, points: int, length: float, units: str = "1") -> Axis:
    """Uniform periodic axis with the points `length * k / points`."""
    coordinates = tuple(length * k / points for k in range(points))
    return Axis(name, coordinates, period=length, units=units)


@dataclass(frozen=True)
class Grid:
    """The axes of `*space`, in the order of the tensor's last dimensions."""

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    @property
    def periodic(self) -> tuple[bool, ...]:
        return tuple(axis.periodic for axis in self.axes)

    @property
    def num_points(self) -> int:
        return math.prod(self.shape)

    @property
    def dims(self) -> tuple[int, ...]:
        """Negative tensor dimensions of space: (-1,) in 1-D, (-2, -1) in 2-D."""
        return tuple(range(-len(self.axes), 0))

    def weights(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Quadrature weights (*space), with mean one: a weighted mean is `(w * f).mean()`."""
        product = np.ones(())
        for axis in self.axes:
            weights = np.ones(axis.size) if axis.weights is None else np.asarray(axis.weights)
            product = np.multiply.outer(product, weights / weights.mean())
        return torch.as_tensor(product, dtype=dtype)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any, where: str = "The grid") -> Grid:
        """Inverse of `to_dict`. Raises: InputError for plain values that are no grid; `where` begins the message."""
        axes = content.get("axes") if isinstance(content, dict) else None
        if not isinstance(axes, (list, tuple)) or not 1 <= len(axes) <= 3:
            raise InputError(f"{where}: expected a grid of 1 to 3 axes; the file was edited or damaged.")
        return cls(tuple(_restored(axis, where) for axis in axes))


def periodic_box(grid: Grid, shape: tuple[int, ...]) -> Grid:
    """The box of a periodic grid with other points, `shape[i]` along axis i."""
    axes = zip(grid.axes, shape, strict=True)
    return Grid(tuple(periodic_axis(axis.name, points, axis.period or 1.0, axis.units) for axis, points in axes))


def _restored(content: Any, where: str) -> Axis:
    """An axis from plain values. Raises: InputError."""
    known = {"name", "coordinates", "boundary", "units", "period", "weights"}
    if not isinstance(content, dict) or not {"name", "coordinates"} <= set(content) <= known:
        raise InputError(f"{where}: expected an axis with {', '.join(sorted(known))}; the file was edited or damaged.")
    name, units = content["name"], content.get("units", "1")
    sides = content.get("boundary", ["periodic", "periodic"])
    period, weights = content.get("period"), content.get("weights")
    points = _numbers(content["coordinates"])
    steps = [after - before for before, after in pairwise(points)]
    checks = {
        "name": isinstance(name, str),
        "units": isinstance(units, str),
        "coordinates": len(points) > 0 and (all(step > 0 for step in steps) or all(step < 0 for step in steps)),
        "boundary": isinstance(sides, (list, tuple)) and len(sides) == 2 and all(side in BOUNDARIES for side in sides),
        "period": period is None or (_is_number(period) and period > 0),
        "weights": weights is None or (min(_numbers(weights), default=-1) >= 0 and sum(_numbers(weights)) > 0),
    }
    if wrong := [key for key, fine in checks.items() if not fine]:
        raise InputError(f"{where}: the {wrong[0]} of the axis {name!r} cannot be; the file was edited or damaged.")
    try:
        return Axis(name, points, tuple(sides), units, period, None if weights is None else _numbers(weights))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST


def _numbers(value: Any) -> tuple[float, ...]:
    """Plain numbers, or nothing where it is anything else."""
    fine = isinstance(value, (list, tuple)) and all(map(_is_number, value))
    return tuple(map(float, value)) if fine else ()
