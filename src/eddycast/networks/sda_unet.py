"""The U-Net of score-based data assimilation: additive skips, additive conditioning, no learned normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.networks.layers import (
    ChannelNorm,
    PaddedConv,
    ScalarEmbedding,
    resize,
    run_block,
    stack_frames,
    stacked_channels,
    unstack_frames,
)

FREQUENCIES, FEATURES = 64, 256


@dataclass(frozen=True)
class SDAUNetConfig:
    """Size of an SDA U-Net; the defaults are the published ones for the Kuramoto-Sivashinsky equation.

    Args:
        channels: Width of each level; each level halves the resolution of the one before.
        blocks: Residual blocks of each level on the way down, one number for all or one each; the way up has as many.
        embedding: Width of the embedding of the conditioning scalars.
        kernel: Odd size of all kernels.
        spare_outputs: Channels that the last layer computes and nobody sees. The published nets for Kolmogorov flow have one, which
            stands opposite to the forcing among their inputs.
        checkpoint: Compute residual blocks again in the backward pass instead of keeping what they computed: less memory, more time.
    """

    kind: Literal["unet-sda"] = "unet-sda"
    channels: tuple[int, ...] = (64, 128, 256, 1024)
    blocks: int | tuple[int, ...] = 3
    embedding: int = 32
    kernel: int = 3
    spare_outputs: int = 0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, *self.level_blocks, self.embedding) < 1:
            raise ValueError("channels (at least one level), blocks and embedding of an SDA U-Net must be positive.")
        if len(self.level_blocks) != len(self.channels):
            raise ValueError(
                f"blocks of an SDA U-Net must be one number or one for each of its {len(self.channels)} levels, "
                f"got {len(self.level_blocks)}."
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel of an SDA U-Net must be odd and positive, got {self.kernel}.")
        if self.spare_outputs < 0:
            raise ValueError(f"spare_outputs of an SDA U-Net must not be negative, got {self.spare_outputs}.")

    @property
    def level_blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level on one of the two ways."""
        return (self.blocks,) * len(self.channels) if isinstance(self.blocks, int) else tuple(self.blocks)


class TimeEmbedding(nn.Module):
    """Scalar (batch,) to features (batch, width): cosines and sines at 64 frequencies, then two linear layers.

        omega_j = pi / 2 * 10^(3 j / 63),  j = 0 ... 63

    The slowest wave is a quarter of its length over the unit interval, the fastest 250 lengths: meant for a diffusion time in [0, 1].
    """

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", math.pi / 2 * torch.logspace(0, 3, FREQUENCIES), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * FREQUENCIES, FEATURES), nn.SiLU(), nn.Linear(FEATURES, width))

    def forward(self, scalar: Tensor) -> Tensor:
        phase = scalar[:, None] * self.frequencies
        return self.layers(torch.cat([phase.cos(), phase.sin()], dim=-1))


class AdditiveBlock(nn.Module):
    """x + conv(act(conv(norm(x + shift)))), the shift of each channel being linear in the embedding."""

    def __init__(self, channels: int, config: SDAUNetConfig, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.shift = nn.Linear(config.embedding, channels)
        self.residue = nn.Sequential(
            ChannelNorm(),
            PaddedConv(channels, channels, config.kernel, periodic),
            nn.SiLU(),
            PaddedConv(channels, channels, config.kernel, periodic),
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        shift = self.shift(embedding)[(...,) + (None,) * (x.ndim - 2)]
        return x + self.residue(x + shift)


class SDAUNet(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and maps them by a U-Net in space.

    Scalar 0 has the published embedding, made for the diffusion time t in [0, 1] (as the `noise`, `velocity` and `data`
    parametrisations tell it). Published nets know no other; here further scalars share a `ScalarEmbedding`, which is added to
    that of the first. With one scalar the weights are, in number and shape, those of the published nets.

    Any size of each axis is accepted: a level has ceil(size / 2) points, and the way up repeats points to the size of the skip
    connection. Where axes are periodic and of a size that is a multiple of 2^(levels - 1), this is the published map, which then
    commutes with shifts by that many points. Departures from it: the output layer starts at zero, as all networks here do;
    the normalisation divides the sum of squares by C channels, not C - 1; axes that are not periodic are padded with the edge value.
    Source: arXiv:2306.10574, sizes from arXiv:2410.16415 and their released code.

    Raises: ValueError when there are other than 1 to 3 space axes, or no scalar.
    """

    def __init__(
        self,
        config: SDAUNetConfig,
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
            raise ValueError(f"An SDA U-Net needs 1 to 3 space axes, got {len(periodic)}.")
        if num_scalars < 1:
            raise ValueError(f"An SDA U-Net is conditioned on at least one scalar, got num_scalars = {num_scalars}.")
        self.config = config
        self.out_frames, self.shared, self.outputs = out_frames, shared_channels, out_frames * out_channels
        self.time = TimeEmbedding(config.embedding)
        self.further = ScalarEmbedding(num_scalars - 1, config.embedding) if num_scalars > 1 else None
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        widths, kernel = config.channels, config.kernel
        self.descent = nn.ModuleList()
        self.ascent = nn.ModuleList()
        for width, blocks in zip(widths, config.level_blocks, strict=True):
            self.descent.append(nn.ModuleList(AdditiveBlock(width, config, periodic) for _ in range(blocks)))
            self.ascent.append(nn.ModuleList(AdditiveBlock(width, config, periodic) for _ in range(blocks)))
        self.stem = PaddedConv(stacked, widths[0], kernel, periodic)
        steps = list(pairwise(widths))
        self.downs = nn.ModuleList(PaddedConv(fine, coarse, kernel, periodic, stride=2) for fine, coarse in steps)
        self.ups = nn.ModuleList(PaddedConv(coarse, fine, kernel, periodic) for fine, coarse in steps)
        self.norm = ChannelNorm()
        self.head = PaddedConv(widths[0], self.outputs + config.spare_outputs, kernel, periodic)
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        embedding = self.time(scalars[:, 0])
        if self.further is not None:
            embedding = embedding + self.further(scalars[:, 1:])
        x = self.stem(stack_frames(x, self.shared))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.descent):
            if level > 0:
                skips.append(x)
                x = self.downs[level - 1](x)
            x = self._through(blocks, x, embedding)
        for level in reversed(range(len(self.ascent))):
            x = self._through(self.ascent[level], x, embedding)
            if level > 0:
                skip = skips.pop()
                x = skip + self.ups[level - 1](resize(self.norm(x), skip.shape[2:]))
        return unstack_frames(self.head(x)[:, : self.outputs], self.out_frames)

    def _through(self, blocks: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
        for block in blocks.children():
            x = run_block(block, x, embedding, again=self.config.checkpoint)
        return x
