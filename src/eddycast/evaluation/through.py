"""The truth as an autoencoder gives it back: what a latent forecast can reach at best, to be scored against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.data import Dataset
from eddycast.emulators.protocols import Space
from eddycast.errors import InputError

THROUGH = "truth_through"
"""Attribute of a data set whose states have passed through a space: the name of the run."""
POINTS = 2**20
"""Points of the frames that pass at once, which bounds the memory of the networks: 4 frames of 512 x 512, or of 64^3."""
MOST_FRAMES = 64


@dataclass(frozen=True, eq=False)
class PassedSource:
    """Frames of a data set, each decode(encode(frame)): a `Source`.

    Args:
        data: Where the frames come from, physical.
        space: What they pass through.
        name: Of the run, for messages.
        device: Where the space computes.
        chunk: Frames that pass at once.
    """

    data: Dataset
    space: Space
    name: str
    device: torch.device | str
    chunk: int

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.data.lengths

    @torch.no_grad()
    def read(self, trajectory: int, start: int, stop: int, stride: int) -> Tensor:
        """As `Source.read`. Raises: InputError where what comes back is not finite, or of another shape."""
        passed = []
        for first in range(start, stop, stride * self.chunk):
            states = self.data.read(trajectory, first, min(stop, first + stride * self.chunk), stride)
            conditions = self.data.conditions([trajectory], [first]).to(self.device)
            lead_times = stride * torch.arange(len(states), dtype=torch.float64)
            latent = self.space.encode(states[None].to(self.device), conditions, lead_times)
            back = self.space.decode(latent, conditions, lead_times)[0].to("cpu", torch.float32)
            if back.shape != states.shape:
                raise InputError(
                    f"{self.name} gives states of shape {tuple(back.shape[1:])} back, the truth has {tuple(states.shape[1:])}: "
                    "name the run that these data belong to."
                )
            if not bool((torch.isfinite(back) | ~torch.isfinite(states)).all()):
                raise InputError(
                    f"{self.name} gives values back that are not finite, in trajectory {trajectory} at frames {first} to "
                    f"{first + stride * (len(states) - 1)}: score against the truth itself."
                )
            passed.append(torch.where(torch.isfinite(states), back, torch.nan))
        return torch.cat(passed)


def passed_through(
    data: Dataset, space: Space, name: str, *, device: torch.device | str = "cpu", chunk: int | None = None
) -> Dataset:
    """A data set whose states are those of another after `space.encode` and `space.decode`, lazily and in chunks.

    Args:
        data: The truth.
        space: An autoencoder on top of a normalisation; a normalisation alone changes nothing but the last digits.
        name: What to call it; stands in the attributes.
        device: Where the space computes.
        chunk: Frames at once; None for as many as have a million points.

    Raises: ValueError for a chunk below 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"A chunk needs at least one frame, got {chunk}.")
    frames = chunk or max(1, min(MOST_FRAMES, POINTS // data.grid.num_points))
    source = PassedSource(data, space, name, device, frames)
    return replace(data, source=source, attributes={**data.attributes, THROUGH: name})
