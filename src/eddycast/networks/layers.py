"""Layers that work alike in 1, 2 and 3 dimensions, on periodic and bounded axes, at any size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def pad(x: Tensor, width: int, periodic: tuple[bool, ...]) -> Tensor:
    """Pad `width` points on both sides of each space axis: wrapped where periodic, edge value repeated where bounded.

    Args:
        x: (batch, channel, *space), one space axis per entry of `periodic`.

    An axis shorter than `width` is wrapped or repeated as often as needed.
    """
    if width == 0:
        return x
    for axis, wrap in enumerate(periodic, start=2):
        size = x.shape[axis]
        if wrap and width <= size:
            parts = (x.narrow(axis, size - width, width), x, x.narrow(axis, 0, width))
            x = torch.cat(parts, dim=axis)
        else:
            index = torch.arange(-width, size + width, device=x.device)
            index = index.remainder(size) if wrap else index.clamp(0, size - 1)
            x = x.index_select(axis, index)
    return x


class PaddedConv(nn.Module):
    """Convolution with an odd kernel whose padding follows the boundary of each axis.

    The output has ceil(size / stride) points along each axis.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, periodic: tuple[bool, ...], *, stride: int = 1
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"The kernel must be odd to be centred, got {kernel}.")
        self.periodic = periodic
        self.width = kernel // 2
        self.conv = CONVOLUTIONS[len(periodic)](in_channels, out_channels, kernel, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, self.width, self.periodic))


class ChannelNorm(nn.Module):
    """Normalise over channels at each point, without learned scale: what follows learns its own."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * torch.rsqrt(variance + 1e-5)


def resize(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Nearest-neighbour interpolation to exactly `size`, odd or even."""
    return x if x.shape[2:] == size else F.interpolate(x, size=size, mode="nearest")


class ScalarEmbedding(nn.Module):
    """Scalars (batch, S) to features (batch, width): sines and cosines of each scalar, then two linear layers.

    Frequencies are spaced in octaves from pi / 16 to 4 pi, which resolves scalars of order one; feed normalised values.
    """

    frequencies: Tensor

    def __init__(self, num_scalars: int, width: int, num_frequencies: int = 16) -> None:
        super().__init__()
        frequencies = math.pi * torch.logspace(-4, 2, num_frequencies, base=2)
        self.register_buffer("frequencies", frequencies, persistent=False)
        features = num_scalars * (1 + 2 * num_frequencies)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, scalars: Tensor) -> Tensor:
        phase = scalars[..., None] * self.frequencies
        features = torch.cat([scalars[..., None], phase.sin(), phase.cos()], dim=-1)
        return self.layers(features.flatten(1))
