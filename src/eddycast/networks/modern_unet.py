"""The "modern" U-Net of PDE-Arena and PDE-Refiner: group normalisation, scale and shift by the scalars, concatenated skips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.networks.layers import (
    TRANSPOSED,
    PaddedConv,
    pad,
    run_block,
    stack_frames,
    stacked_channels,
    unstack_frames,
)

TIME_SCALE = 1000.0
SLOWEST = 1e-4


@dataclass(frozen=True)
class ModernUNetConfig:
    """Size of a modern U-Net; the defaults are the published ones in one dimension.

    In two dimensions hidden 128, multipliers (1, 1, 2, 4) and first_factor 2 are published.

    Args:
        hidden: Width of the stem, even; the embedding of the scalars is four times as wide.
        multipliers: Of the width, from level to level; each level halves the resolution of the one before. (1, 2, 2, 4) has the
            widths 1, 2, 4 and 16 times `hidden`.
        blocks: Residual blocks of each level on the way down; the way up has one more.
        first_factor: Times as many blocks at the first level, on the way down only.
        wrap_transposed: Wrap periodic axes in transposed convolutions as in all others. The published nets do not: False puts zeros
            beyond the ends of periodic axes there, which leaves a seam, so that shifts no longer commute with the network.
        spare_outputs: Channels that the last layer computes and nobody sees, as in `SDAUNetConfig`.
        checkpoint: Compute residual blocks again in the backward pass instead of keeping what they computed: less memory, more time.
    """

    kind: Literal["unet-modern"] = "unet-modern"
    hidden: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    first_factor: int = 1
    wrap_transposed: bool = True
    spare_outputs: int = 0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.multipliers or min(*self.multipliers, self.blocks, self.first_factor) < 1:
            raise ValueError(
                "multipliers (at least one level), blocks and first_factor of a modern U-Net must be positive."
            )
        if self.hidden < 2 or self.hidden % 2 == 1:
            raise ValueError(f"hidden of a modern U-Net must be even and positive, got {self.hidden}.")
        if self.spare_outputs < 0:
            raise ValueError(f"spare_outputs of a modern U-Net must not be negative, got {self.spare_outputs}.")

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each level."""
        found = [self.hidden]
        for factor in self.multipliers:
            found.append(found[-1] * factor)
        return tuple(found[1:])


class SinusoidalEmbedding(nn.Module):
    """Scalar (batch,) to features (batch, 4 hidden): `hidden` cosines and sines, then two linear layers.

    omega_j = scale * 10^(-4 j / n),  j = 0 ... n - 1,  n = hidden / 2
    """

    frequencies: Tensor

    def __init__(self, hidden: int, scale: float) -> None:
        super().__init__()
        exponent = torch.arange(hidden // 2) / (hidden // 2)
        self.register_buffer("frequencies", scale * SLOWEST**exponent, persistent=False)
        self.layers = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, 4 * hidden))

    def forward(self, scalar: Tensor) -> Tensor:
        phase = scalar[:, None] * self.frequencies
        return self.layers(torch.cat([phase.cos(), phase.sin()], dim=-1))


class ModulatedBlock(nn.Module):
    """skip(x) + conv(act(modulate(norm(conv(act(norm(x))))))), the modulation being a scale and a shift from the embedding.

    Norms take all channels and points of an entry together and have a learned scale and shift of each channel.
    """

    def __init__(self, in_channels: int, channels: int, embedding: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.first_norm = nn.GroupNorm(1, in_channels)
        self.first = PaddedConv(in_channels, channels, 3, periodic)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.second_norm = nn.GroupNorm(1, channels)
        self.second = PaddedConv(channels, channels, 3, periodic)
        self.skip = nn.Identity() if in_channels == channels else PaddedConv(in_channels, channels, 1, periodic)
        self.activation = nn.GELU()
        nn.init.zeros_(self.second.conv.weight)
        nn.init.zeros_(self.second.conv.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.second_norm(self.first(self.activation(self.first_norm(x))))
        scale, shift = self.modulation(embedding).unflatten(1, (2, -1)).unbind(1)
        spread = (...,) + (None,) * (y.ndim - 2)
        y = torch.addcmul(shift[spread], y, 1 + scale[spread])
        return self.skip(x) + self.second(self.activation(y))


class Doubling(nn.Module):
    """Transposed convolution, kernel 4 and stride 2: twice as many points along each axis, then cut to `size`.

    Beyond the ends, periodic axes are wrapped (zeros without `wrap`, as published) and bounded ones keep the edge value.
    """

    def __init__(self, channels: int, periodic: tuple[bool, ...], *, wrap: bool) -> None:
        super().__init__()
        self.periodic = periodic
        zeros = [axis and not wrap for axis in periodic]
        # A point put beyond each end shifts the result by two points: 3 = 1 + 2 are cut off there.
        self.inside = tuple(slice(1, -1) if empty else slice(None) for empty in zeros)
        padding = tuple(1 if empty else 3 for empty in zeros)
        self.conv = TRANSPOSED[len(periodic)](channels, channels, 4, stride=2, padding=padding)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        y = self.conv(pad(x, 1, self.periodic)[(..., *self.inside)])
        return y[(..., *(slice(points) for points in size))]


class ModernUNet(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and maps them by a U-Net in space.

    Scalar 0 is embedded times 1000, as published for the diffusion time t in [0, 1] or for the fraction k / K of refinement steps.
    Each further scalar has an embedding of its own, without that factor, which is added: as published for parameters of the
    equation. With one scalar the weights are, in number and shape, those of the published nets.

    Any size of each axis is accepted: a level has ceil(size / 2) points, and the way up is cut to the size of the skip connections.
    On periodic axes whose size is a multiple of 2^(levels - 1) the map commutes with shifts by that many points, and is the
    published one but for `wrap_transposed`. Second convolutions of blocks and the output layer start at zero. The output is normalised
    in groups of channels over all points: 8 groups, fewer if `hidden` has no 8 groups of two channels or more.
    Source: arXiv:2209.15616 (modern U-Net), arXiv:2308.05732 (one dimension), sizes from arXiv:2410.16415.

    Raises: ValueError when there are other than 1 to 3 space axes, or no scalar.
    """

    def __init__(
        self,
        config: ModernUNetConfig,
        *,
        in_frames: int,
        out_frames: int,
        in_channels: int,
        out_channels: int,
        num_scalars: int,
        periodic: tuple[bool, ...],
        shared_channels: int = 0,
    ) -> None:
        super().__init__()
        if len(periodic) not in (1, 2, 3):
            raise ValueError(f"A modern U-Net needs 1 to 3 space axes, got {len(periodic)}.")
        if num_scalars < 1:
            raise ValueError(f"A modern U-Net is conditioned on at least one scalar, got num_scalars = {num_scalars}.")
        self.config = config
        self.out_frames, self.shared, self.outputs = out_frames, shared_channels, out_frames * out_channels
        hidden, widths = config.hidden, config.widths
        embedding = 4 * hidden
        scales = (TIME_SCALE,) + (1.0,) * (num_scalars - 1)
        self.embeddings = nn.ModuleList(SinusoidalEmbedding(hidden, scale) for scale in scales)
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        self.stem = PaddedConv(stacked, hidden, 3, periodic)
        self.descent = nn.ModuleList()
        self.downs = nn.ModuleList()
        skips, width = [hidden], hidden
        for level, wide in enumerate(widths):
            if level > 0:
                self.downs.append(PaddedConv(width, width, 3, periodic, stride=2))
                skips.append(width)
            blocks = nn.ModuleList()
            for _ in range(config.blocks * (config.first_factor if level == 0 else 1)):
                blocks.append(ModulatedBlock(width, wide, embedding, periodic))
                width = wide
                skips.append(width)
            self.descent.append(blocks)
        self.middle = nn.ModuleList(ModulatedBlock(width, width, embedding, periodic) for _ in range(2))
        self.ascent = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level in reversed(range(len(widths))):
            below = widths[level - 1] if level > 0 else hidden
            blocks = nn.ModuleList()
            for wide in [widths[level]] * config.blocks + [below]:
                blocks.append(ModulatedBlock(width + skips.pop(), wide, embedding, periodic))
                width = wide
            self.ascent.append(blocks)
            if level > 0:
                self.ups.append(Doubling(width, periodic, wrap=config.wrap_transposed))
        self.norm = nn.GroupNorm(math.gcd(8, hidden // 2), hidden)
        self.head = PaddedConv(hidden, self.outputs + config.spare_outputs, 3, periodic)
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        told = [embed(scalar) for embed, scalar in zip(self.embeddings, scalars.unbind(1), strict=True)]
        embedding = torch.stack(told).sum(0)
        again = self.config.checkpoint
        x = self.stem(stack_frames(x, self.shared))
        skips = [x]
        for level, blocks in enumerate(self.descent):
            if level > 0:
                x = self.downs[level - 1](x)
                skips.append(x)
            for block in blocks.children():
                x = run_block(block, x, embedding, again=again)
                skips.append(x)
        for block in self.middle:
            x = run_block(block, x, embedding, again=again)
        for number, blocks in enumerate(self.ascent):
            if number > 0:
                x = self.ups[number - 1](x, skips[-1].shape[2:])
            for block in blocks.children():
                x = run_block(block, torch.cat([x, skips.pop()], dim=1), embedding, again=again)
        x = nn.functional.gelu(self.norm(x))
        return unstack_frames(self.head(x)[:, : self.outputs], self.out_frames)
