"""How many states of a training window are known, and at which end."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

PrefixLaw = Callable[[int], Tensor]


def uniform(frames: int) -> Tensor:
    """1 ... W - 1 alike."""
    return torch.full((frames - 1,), 1 / (frames - 1), dtype=torch.float64)


def truncated_poisson(frames: int) -> Tensor:
    """Poisson with mean 2, truncated to 1 ... W - 1: the text of arXiv:2507.02608; (.333, .333, .222, .111) for W = 5."""
    mass = torch.tensor([2.0**count / math.factorial(count) for count in range(1, frames)], dtype=torch.float64)
    return mass / mass.sum()


def wrapped_poisson(frames: int) -> Tensor:
    """1 + (Poisson with mean 1, modulo W - 1): the published code; (.383, .371, .184, .061) for W = 5."""
    count = torch.arange(60)
    mass = torch.exp(-1 - torch.lgamma(count.double() + 1))
    return torch.zeros(frames - 1, dtype=torch.float64).index_add(0, count % (frames - 1), mass)


PREFIX_LAWS: dict[str, PrefixLaw] = {
    "uniform": uniform,
    "truncated-poisson": truncated_poisson,
    "wrapped-poisson": wrapped_poisson,
}
"""Probabilities of C = 1 ... W - 1 known states, (W - 1,)."""


def draw_counts(law: str, frames: int, draws: int, generator: torch.Generator) -> Tensor:
    """Numbers of known states by a law of `PREFIX_LAWS`, (draws,)."""
    if law == "uniform":
        return torch.randint(1, frames, (draws,), generator=generator, device=generator.device)
    below = PREFIX_LAWS[law](frames).cumsum(0).to(generator.device)
    drawn = torch.rand(draws, generator=generator, dtype=torch.float64, device=generator.device)
    return 1 + torch.searchsorted(below, drawn).clamp_max(frames - 2)


def prefixes(counts: Tensor, frames: int, backward: float, generator: torch.Generator) -> Tensor:
    """The first (draws,) states known, (draws, time); with probability `backward` the last ones, to predict back in time."""
    known = torch.arange(frames, device=counts.device) < counts[:, None]
    if backward == 0:
        return known
    coin = torch.rand(len(counts), generator=generator, device=counts.device) < backward
    return torch.where(coin[:, None], known.flip(1), known)
