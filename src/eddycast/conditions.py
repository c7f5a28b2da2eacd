"""All that is known about a window besides its states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.grid import Boundary, Grid

BOUNDARY_CODES: dict[Boundary, float] = {"wall": 0.0, "open": 1.0, "periodic": 2.0}
"""Those of The Well."""


@dataclass(frozen=True)
class Conditions:
    """What every family is told besides the states.

    Args:
        grid: Coordinates, boundary kinds per axis and side, quadrature weights.
        dt: Time between two stored states, in the time unit of the data.
        parameters: Scalar PDE parameters in physical units, (*batch, P); P may be 0.
        time: Absolute time of the window's origin (lead time 0), in steps of `dt`, (*batch). Where there is a cycle,
            phase 0 (say 1 January) lies at multiples of `cycle`.
        cycle: Steps in one cycle of the calendar (12 for months), or None.
        static: Fields constant in time: (S, *space) for the whole batch, or a table (N, S, *space) of which `static_of` says the
            row; None for none. `static_fields` gives them to whoever need not care.
        valid: True where the fields are defined (ocean), (*space), or None for everywhere.
        boundary: Codes of the boundaries (*batch, axis, side) where they differ from those of the grid, or None.
        static_of: Row of the table of static fields that holds for each entry, (*batch), long; None where all have the same. The
            members of an ensemble, and windows of one trajectory, share a row.

    Raises: ValueError for static fields that are neither, or a table without rows or rows without a table.
    """

    grid: Grid
    dt: float
    parameters: Tensor
    time: Tensor
    cycle: float | None = None
    static: Tensor | None = None
    valid: Tensor | None = None
    boundary: Tensor | None = None
    static_of: Tensor | None = None

    def __post_init__(self) -> None:
        axes = len(self.grid.axes) + (1 if self.static_of is None else 2)
        if (self.static is None and self.static_of is not None) or (
            self.static is not None and self.static.ndim != axes
        ):
            came = None if self.static is None else tuple(self.static.shape)
            raise ValueError(
                f"static must be (S, *space), or (N, S, *space) with static_of; got {came} on {len(self.grid.axes)} axes, "
                f"{'without' if self.static_of is None else 'with'} static_of."
            )

    @property
    def batch(self) -> torch.Size:
        return self.time.shape

    def shifted(self, steps: float | Tensor) -> Conditions:
        """The same conditions with the origin moved by `steps` of dt."""
        return replace(self, time=self.time + steps)

    def select(self, index: Tensor | slice | int) -> Conditions:
        """Entries of the first batch axis."""
        return replace(
            self,
            parameters=self.parameters[index],
            time=self.time[index],
            boundary=None if self.boundary is None else self.boundary[index],
            static_of=None if self.static_of is None else self.static_of[index],
        )

    def expand(self, members: int) -> Conditions:
        """Put a member axis of the given size in front of the batch."""
        return replace(
            self,
            parameters=self.parameters.expand(members, *self.parameters.shape),
            time=self.time.expand(members, *self.time.shape),
            boundary=None if self.boundary is None else self.boundary.expand(members, *self.boundary.shape),
            static_of=None if self.static_of is None else self.static_of.expand(members, *self.static_of.shape),
        )

    def flatten(self) -> Conditions:
        """One batch axis."""
        parameters = self.parameters.reshape(self.time.numel(), self.parameters.shape[-1])
        boundary = None if self.boundary is None else self.boundary.reshape(-1, *self.boundary.shape[-2:])
        static_of = None if self.static_of is None else self.static_of.reshape(-1)
        return replace(self, parameters=parameters, time=self.time.reshape(-1), boundary=boundary, static_of=static_of)

    def to(self, device: torch.device | str) -> Conditions:
        """The same on a device; of a table of static fields, the rows that are used."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        static, static_of = self.static, self.static_of
        if static is not None and static_of is not None and len(static) > static_of.numel():
            used, static_of = static_of.unique(return_inverse=True)
            static = static[used]
        return replace(
            self,
            parameters=self.parameters.to(device),
            time=self.time.to(device),
            static=move(static),
            valid=move(self.valid),
            boundary=move(self.boundary),
            static_of=move(static_of),
        )

    def static_fields(self) -> Tensor | None:
        """Static fields, (S, *space) where all entries have the same, otherwise (*batch, S, *space); None where there are none."""
        return self.static if self.static is None or self.static_of is None else self.static[self.static_of]

    def boundary_codes(self) -> Tensor:
        """Kind of each side of each axis as a number (`BOUNDARY_CODES`), (*batch, axis, side), float32."""
        if self.boundary is not None:
            return self.boundary
        codes = [[BOUNDARY_CODES[side] for side in axis.boundary] for axis in self.grid.axes]
        return torch.tensor(codes, dtype=torch.float32).expand(*self.batch, len(codes), 2)

    def phase(self, lead_times: Tensor) -> Tensor | None:
        """Phase in [0, 1) of the cycle at each lead time (in steps), (*batch, time); None without a cycle."""
        if self.cycle is None:
            return None
        return torch.remainder((self.time[..., None] + lead_times) / self.cycle, 1.0)


def joined(parts: Sequence[Conditions]) -> Conditions:
    """Conditions one after the other along their (one) batch axis, on one grid with the same static fields.

    Raises: ValueError where static fields differ between the parts, or only some have boundaries of their own.
    """
    first = parts[0]
    if any(part.static is not first.static for part in parts) and not (
        first.static is not None
        and all(part.static is not None and torch.equal(part.static, first.static) for part in parts)
    ):
        raise ValueError("Conditions with static fields that differ cannot be joined.")
    if len({part.boundary is None for part in parts}) > 1 or len({part.static_of is None for part in parts}) > 1:
        raise ValueError("Conditions with boundaries or static fields of each entry cannot be joined to some without.")

    def along(values: list[Tensor | None]) -> Tensor | None:
        found = [value for value in values if value is not None]
        return torch.cat(found) if found else None

    return replace(
        first,
        parameters=torch.cat([part.parameters for part in parts]),
        time=torch.cat([part.time for part in parts]),
        boundary=along([part.boundary for part in parts]),
        static_of=along([part.static_of for part in parts]),
    )
