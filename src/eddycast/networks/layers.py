"""Layers that work alike in 1, 2 and 3 dimensions, on periodic and bounded axes, at any size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, noop_context_fn

from eddycast.networks.batch_norm import batch_norms, settled
from eddycast.networks.dropout import repeatable

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


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


def pad_to_multiple(x: Tensor, multiples: tuple[int, ...], periodic: tuple[bool, ...]) -> Tensor:
    """Fill up the end of each space axis, one per entry of `periodic`, to a multiple: wrapped where periodic, else by the edge value."""
    for axis, (multiple, wrap) in enumerate(zip(multiples, periodic, strict=True), start=x.ndim - len(periodic)):
        size = x.shape[axis]
        if size % multiple != 0:
            index = torch.arange(-(-size // multiple) * multiple, device=x.device)
            x = x.index_select(axis, index.remainder(size) if wrap else index.clamp_max(size - 1))
    return x


def bounded_coordinates(x: Tensor, periodic: tuple[bool, ...]) -> Tensor:
    """Position on each bounded axis, -1 at the first point and 1 at the last, as channels (bounded axes, *space) like x."""
    space = x.shape[x.ndim - len(periodic) :]
    channels = [x.new_zeros(0, *space)]
    for axis, (size, wrap) in enumerate(zip(space, periodic, strict=True)):
        if not wrap:
            line = torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) if size > 1 else x.new_zeros(1)
            shape = [size if other == axis else 1 for other in range(len(space))]
            channels.append(line.reshape(shape).expand(1, *space))
    return torch.cat(channels)


class PaddedConv(nn.Module):
    """Convolution with an odd kernel whose padding follows the boundary of each axis, or with `zeros` beyond all ends.

    The output has ceil(size / stride) points along each axis.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        periodic: tuple[bool, ...],
        *,
        stride: int = 1,
        zeros: bool = False,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"The kernel must be odd to be centred, got {kernel}.")
        self.periodic = periodic
        self.width = 0 if zeros else kernel // 2
        empty = kernel // 2 if zeros else 0
        self.conv = CONVOLUTIONS[len(periodic)](in_channels, out_channels, kernel, stride=stride, padding=empty)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(pad(x, self.width, self.periodic))


class ChannelNorm(nn.Module):
    """Normalise over channels at each point, without learned scale: what follows learns its own."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
        return (x - mean) * torch.rsqrt(variance + 1e-5)


def group_norm(channels: int) -> nn.GroupNorm:
    """Over all points and groups of channels, with learned scale and shift: 8 groups, fewer where these would have one channel each."""
    groups = next(count for count in range(min(8, max(channels // 2, 1)), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


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
        with warnings.catch_warnings():
            # without scalars the first layer is its bias, and torch warns of weights that are none
            warnings.simplefilter("ignore", UserWarning)
            first = nn.Linear(features, width)
        self.layers = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, scalars: Tensor) -> Tensor:
        phase = scalars[..., None] * self.frequencies
        features = torch.cat([scalars[..., None], phase.sin(), phase.cos()], dim=-1)
        return self.layers(features.flatten(1))


def stack_frames(x: Tensor, shared: int = 0) -> Tensor:
    """Time into channels, channel by channel: (batch, time, channel, *space) -> (batch, time * (channel - shared) + shared, *space).

    The last `shared` channels, the same in all frames, are taken once.
    """
    own = x.shape[2] - shared
    stacked = x[:, :, :own].transpose(1, 2).flatten(1, 2)
    return torch.cat([stacked, x[:, -1, own:]], dim=1) if shared else stacked


def stacked_channels(frames: int, channels: int, shared: int) -> int:
    """Channels that `stack_frames` gives for frames of so many channels."""
    return frames * (channels - shared) + shared


def unstack_frames(y: Tensor, frames: int) -> Tensor:
    """Inverse of `stack_frames`: (batch, channel * time, *space) -> (batch, time, channel, *space)."""
    return y.unflatten(1, (-1, frames)).transpose(1, 2)


def run_block(block: Callable[..., Tensor], *inputs: Tensor | None, again: bool) -> Tensor:
    """block(*inputs); with `again`, what it computes inside is not kept for the backward pass but computed a second time there.

    The block draws no random numbers but masks of dropout, which are the same the second time; its batch norms count the batch once.
    """
    if not (again and torch.is_grad_enabled()):
        return block(*inputs)
    norms = batch_norms(block) if isinstance(block, nn.Module) else []
    around = (lambda: (nullcontext(), settled(norms))) if norms else noop_context_fn
    return checkpoint(repeatable(block), *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=around)
