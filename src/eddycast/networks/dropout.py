"""Dropout whose masks come from whoever runs the network, never from a hidden generator.

A network with `Dropout` layers is deterministic until somebody opens a source of masks around it: the training loop opens
`TrainingMasks`, a forecast that wants the masks of its members opens `MemberMasks`. With none open every layer is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from eddycast.noise import MemberNoise


class Masks(Protocol):
    """A source of uniform numbers for dropout.

    Attributes:
        calls: How often each site has drawn since the source was opened.
    """

    calls: dict[int, int]

    def uniform(self, like: Tensor, site: int, call: int) -> Tensor:
        """Numbers in [0, 1) of the shape of `like` (batch, *shape) for the `call`-th pass through the layer `site`.

        Asked again, the same numbers come.
        """
        ...


_OPEN: ContextVar[Masks | None] = ContextVar("open source of dropout masks", default=None)


@contextmanager
def masks_from(source: Masks | None) -> Iterator[None]:
    """Dropout layers draw from `source` while this is open; None closes them (they are the identity)."""
    token = _OPEN.set(source)
    try:
        yield
    finally:
        _OPEN.reset(token)


def repeatable(block: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The block with the masks of its first call, or none, whenever it is called again, in whatever thread and under whatever masks.

    What recomputation needs: passes that go on in between count on as if there had been none.
    """
    source = _OPEN.get()
    before = {} if source is None else dict(source.calls)

    def same(*inputs: Tensor) -> Tensor:
        with masks_from(source):
            if source is None:
                return block(*inputs)
            reached = dict(source.calls)
            source.calls.clear()
            source.calls.update(before)
            try:
                return block(*inputs)
            finally:  # also where the recomputation stops half way, having all that it needs
                source.calls.update({site: max(calls, source.calls.get(site, 0)) for site, calls in reached.items()})

    return same


def require_rate(rate: float, name: str) -> None:
    """Raises: ValueError for a rate of dropout outside [0, 1)."""
    if not 0 <= rate < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {rate}.")


class Dropout(nn.Module):
    """Each number of x (batch, *shape) is zero with probability `rate`, or divided by 1 - rate; the identity without open masks.

    Args:
        rate: In [0, 1).

    Attributes:
        site: Number of the layer within its network, set by `number_sites`: part of the address of its masks.

    Raises: ValueError for a rate outside [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        require_rate(rate, "A dropout rate")
        self.rate = rate
        self.site = 0

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0:  # first of all: torch.compile cannot look into context variables
            return x
        source = _OPEN.get()
        if source is None:
            return x
        call = source.calls.get(self.site, 0)
        source.calls[self.site] = call + 1
        keep = source.uniform(x, self.site, call) >= self.rate
        return torch.where(keep, x / (1 - self.rate), 0.0)


def number_sites(network: nn.Module) -> None:
    """Number the dropout layers of a network in the order of its modules."""
    for site, layer in enumerate(module for module in network.modules() if isinstance(module, Dropout)):
        layer.site = site


def has_dropout(network: nn.Module) -> bool:
    """Whether any layer of the network drops anything."""
    return any(isinstance(module, Dropout) and module.rate > 0 for module in network.modules())


@dataclass
class TrainingMasks:
    """Masks of one training pass.

    Args:
        seed: Of the step; the same for every part of its batch.
        first, whole: Place of this part within the batch, and windows of the batch. A pass over several copies of each window draws
            for all copies, copy by copy.
    """

    seed: int
    first: int
    whole: int
    size: int
    calls: dict[int, int] = field(default_factory=dict)

    def uniform(self, like: Tensor, site: int, call: int) -> Tensor:
        words = np.random.SeedSequence([self.seed, site, call]).generate_state(1, np.uint64)
        generator = torch.Generator(like.device).manual_seed(int(words[0]))
        copies = len(like) // self.size
        if copies * self.size != len(like):
            raise ValueError(f"{len(like)} rows are no whole number of copies of the {self.size} windows of this pass.")
        shape = (copies, self.whole, *like.shape[1:])
        drawn = torch.rand(shape, generator=generator, device=like.device)
        return drawn[:, self.first : self.first + self.size].flatten(0, 1)


@dataclass
class MemberMasks:
    """Masks of the members of an ensemble, at addresses that nothing else uses.

    Args:
        noise: Addresses of the members, (batch,).
        window: First entry of the key of every draw.
        step: Second entry; or one for each of the copies of a member that stand beside each other in the network's batch,
            (batch * copies, ...), where equal entries share their masks.
        name: Of the network, so that two of them do not share masks.
    """

    noise: MemberNoise
    window: int
    step: int | tuple[int, ...]
    name: str
    calls: dict[int, int] = field(default_factory=dict)

    def uniform(self, like: Tensor, site: int, call: int) -> Tensor:
        steps = (self.step,) if isinstance(self.step, int) else self.step
        address = f"{self.name}/{site}/{call}"
        drawn = {
            step: self.noise.uniform(tuple(like.shape[1:]), key=(self.window, step, address), device=like.device)
            for step in set(steps)
        }
        return torch.stack([drawn[step] for step in steps], dim=1).flatten(0, 1)
