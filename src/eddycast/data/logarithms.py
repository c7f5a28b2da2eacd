"""Log fields: log(state + offset) in place of the state, for fields that are positive and span decades."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.data.dataset import Dataset, Source
from eddycast.errors import InputError

LARGEST_LOG = 60.0
"""Of a decoded log field: an emulator that goes astray gives huge numbers, not infinite ones."""


def logarithms(state: Tensor, offsets: tuple[float | None, ...], dim: int) -> Tensor:
    """log(state + offset) of the channels along `dim` that have an offset."""
    if not any(offset is not None for offset in offsets):
        return state
    parts = [
        part if offset is None else torch.log(part + offset)
        for part, offset in zip(state.unbind(dim), offsets, strict=True)
    ]
    return torch.stack(parts, dim)


def exponentials(state: Tensor, offsets: tuple[float | None, ...], dim: int) -> Tensor:
    """Inverse of `logarithms`."""
    if not any(offset is not None for offset in offsets):
        return state
    parts = [
        part if offset is None else torch.exp(part.clamp_max(LARGEST_LOG)) - offset
        for part, offset in zip(state.unbind(dim), offsets, strict=True)
    ]
    return torch.stack(parts, dim)


@dataclass(frozen=True, eq=False)
class LogSource:
    """A source whose log fields come as log(value + offset)."""

    source: Source
    offsets: tuple[float | None, ...]
    names: tuple[str, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.source.lengths

    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        """Raises: InputError for values that have no logarithm."""
        states = self.source.read(trajectory, start, stop, stride)
        for channel, offset in enumerate(self.offsets):
            if offset is not None and bool((states[:, channel] <= -offset).any()):
                raise InputError(
                    f"The field {self.names[channel]!r} has values as low as {float(states[:, channel].nan_to_num(0).min()):g} (trajectory "
                    f"{trajectory}): its logarithm with offset {offset:g} does not exist; raise the offset, or leave it out of space.log."
                )
        return logarithms(states, self.offsets, 1)


def log_offsets(dataset: Dataset, log: Mapping[str, float]) -> tuple[float | None, ...]:
    """Offset of each channel. Raises: InputError for a field that the data do not have, or an offset that is not positive."""
    for name, offset in log.items():
        if name not in dataset.field_names:
            raise InputError(f"space.log names {name!r}; the data have the fields {', '.join(dataset.field_names)}.")
        if not 0 < offset < math.inf:
            raise InputError(f"space.log: the offset of {name!r} must be positive, got {offset:g}.")
    return tuple(log.get(name) for name in dataset.field_names) if log else ()
