"""How the published networks of dynamics-informed diffusion are told the time: sinusoids of it, then a scale and a shift everywhere.

    e = W2 gelu(W1 [sin(omega tau), cos(omega tau)]) + V s,    tau = time_factor s_0,    omega_j = 10^(-4 j / (n - 1)), j = 0 ... n - 1
    y = x (1 + a) + b,    (a, b) = W silu(e)

with s_0 the first scalar and s the others. The published nets are told the time in steps of the data and nothing else: here the first
scalar is of order one (a lead time over the horizon), so `time_factor` is the horizon; V starts at zero and is absent without
further scalars. Without any scalar there is neither embedding nor modulation: the single-step network.
Source: arXiv:2306.01984; sinusoids as in arXiv:1706.03762.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOWEST = 1e-4
"""Slowest frequency in radians per step; the fastest is 1."""


def require_embedding(embedding: int, name: str) -> None:
    """Raises: ValueError unless half of the embedding holds as many sines as cosines."""
    if embedding < 4 or embedding % 4 != 0:
        raise ValueError(f"embedding of {name} must be a positive multiple of 4, got {embedding}.")


class RawTimeEmbedding(nn.Module):
    """Scalars (batch, S) to features (batch, embedding), or None where S is 0; see above."""

    frequencies: Tensor

    def __init__(self, num_scalars: int, embedding: int, time_factor: float) -> None:
        super().__init__()
        count = embedding // 4
        exponent = torch.arange(count) / max(count - 1, 1)
        self.register_buffer("frequencies", time_factor * SLOWEST**exponent, persistent=False)
        self.layers = self.further = None
        if num_scalars > 0:
            first, second = nn.Linear(2 * count, embedding), nn.Linear(embedding, embedding)
            self.layers = nn.Sequential(first, nn.GELU(), second)
        if num_scalars > 1:
            self.further = nn.Linear(num_scalars - 1, embedding, bias=False)
            nn.init.zeros_(self.further.weight)

    def forward(self, scalars: Tensor) -> Tensor | None:
        if self.layers is None:
            return None
        phase = scalars[:, :1] * self.frequencies
        told = self.layers(torch.cat([phase.sin(), phase.cos()], dim=-1))
        return told if self.further is None else told + self.further(scalars[:, 1:])


class FiLM(nn.Module):
    """x (1 + a) + b at every point, a and b of each channel linear in silu(embedding); the identity without an embedding."""

    def __init__(self, embedding: int, channels: int, *, told: bool) -> None:
        super().__init__()
        self.modulation = nn.Linear(embedding, 2 * channels) if told else None

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        if self.modulation is None or embedding is None:
            return x
        scale, shift = self.modulation(F.silu(embedding))[(...,) + (None,) * (x.ndim - 2)].chunk(2, dim=1)
        return torch.addcmul(shift, x, 1 + scale)
