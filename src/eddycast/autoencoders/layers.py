"""What autoencoders are made of: resampling that loses nothing, convolutions that begin as copies, bounded latents."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.networks.layers import CONVOLUTIONS, pad

NEAR_IDENTITY = 0.01
"""Share of the usual random weights that is left beside the identity, and in the last layer of each residual block."""


def space_to_depth(x: Tensor, axes: int) -> Tensor:
    """Blocks of two points along each axis into channels: (batch, channel, *space) -> (batch, channel 2^axes, *space / 2).

    Of the new channels the old ones vary slowest, then the place in the block, last axis fastest.
    """
    for axis in range(axes):
        x = x.unflatten(2 + 2 * axis, (-1, 2))
    places, blocks = range(3, 3 + 2 * axes, 2), range(2, 2 + 2 * axes, 2)
    return x.permute(0, 1, *places, *blocks).flatten(1, 1 + axes)


def depth_to_space(x: Tensor, axes: int) -> Tensor:
    """Inverse of `space_to_depth`."""
    x = x.unflatten(1, (-1, *(2,) * axes))
    order = [position for axis in range(axes) for position in (2 + axes + axis, 2 + axis)]
    x = x.permute(0, 1, *order)
    for axis in range(axes):
        x = x.flatten(2 + axis, 3 + axis)
    return x


SATURATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "root": lambda z, bound: z * torch.rsqrt(1 + z.square() / bound**2),
    "rational": lambda z, bound: z / (1 + z.abs() / bound),
    "tanh": lambda z, bound: bound * torch.tanh(z / bound),
    "none": lambda z, bound: z,
}
"""Odd, increasing, of slope 1 at 0 and, but for `none`, smaller than the bound.

`root`, z / sqrt(1 + (z / bound)^2), is that of arXiv:2507.02608."""


class PlacedConv(nn.Module):
    """Convolution of width 3 on (batch, channel, *space) with padding that follows the boundaries, or with zeros as published.

    Args:
        periodic: Kind of each axis: wrapped where periodic, the edge value repeated where bounded.
        zeros: Pad with zeros on all axes.
        identity: Begin near a copy: output channel i is input channel i mod C_in plus `NEAR_IDENTITY` times the usual random
            weights. Where there are more outputs than inputs these repeat, so a convolution before `depth_to_space` begins as nearest
            neighbour interpolation only if its inputs vary slowest; as published they do not, see `Autoencoder`.
        scale: Factor on the initial weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        periodic: tuple[bool, ...],
        *,
        zeros: bool = False,
        identity: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.periodic = None if zeros else periodic
        axes = len(periodic)
        self.conv = CONVOLUTIONS[axes](in_channels, out_channels, 3, padding=1 if zeros else 0)
        with torch.no_grad():
            weight = self.conv.weight
            weight.mul_(NEAR_IDENTITY if identity else scale)
            if identity:
                index = torch.arange(out_channels, device=weight.device)
                centre = (1,) * axes
                weight[(index, index % in_channels, *centre)] += 1

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.periodic is None else pad(x, 1, self.periodic))


class SiteNorm(nn.Module):
    """Normalise over channels at each point with the unbiased variance, without learned scale, as published."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        return (x - mean) * torch.rsqrt(variance + 1e-5)


class ResidualBlock(nn.Module):
    """x + conv(dropout(SiLU(conv(norm(x))))), which begins close to the identity.

    Dropout draws from torch's default generator; whoever trains seeds it (`emulators.autoencoding`).
    """

    def __init__(self, channels: int, periodic: tuple[bool, ...], *, zeros: bool, dropout: float) -> None:
        super().__init__()
        self.norm = SiteNorm()
        self.first = PlacedConv(channels, channels, periodic, zeros=zeros)
        self.second = PlacedConv(channels, channels, periodic, zeros=zeros, scale=NEAR_IDENTITY)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.first(self.norm(x)))
        return x + self.second(F.dropout(y, self.dropout, self.training))


class ResidualScale(nn.Module):
    """Standard deviation of state less reconstruction at each point, from the reconstruction: (batch, channel, *space), positive.

    What is lost is lost at fronts, and a reconstruction shows where they are. Begins at 0.1 of a standard deviation of the field.
    """

    def __init__(self, channels: int, width: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.first = PlacedConv(channels, width, periodic)
        self.second = PlacedConv(width, width, periodic)
        self.last = PlacedConv(width, channels, periodic, scale=NEAR_IDENTITY)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.second(F.silu(self.first(x))))
        return 1e-4 + F.softplus(self.last(y) - 2.25)


def latent_points(shape: tuple[int, ...], factor: int) -> tuple[int, ...] | None:
    """Points of the latent grid, or None for a grid that is not divisible by the downsampling."""
    return None if any(size % factor for size in shape) else tuple(size // factor for size in shape)


def compression(channels: int, latent_channels: int, factor: int, axes: int) -> float:
    """Numbers of a state to one number of its latent."""
    return channels * math.prod((factor,) * axes) / latent_channels
