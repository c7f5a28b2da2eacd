"""U-Net for 1-, 2- and 3-D fields on periodic or bounded axes, conditioned on scalars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.networks.dropout import Dropout, require_rate
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


@dataclass(frozen=True)
class UNetConfig:
    """Size of a U-Net.

    Args:
        channels: Width of each level; each level halves the resolution of the one before.
        blocks: Residual blocks of each level on the way down; the way up has as many.
        kernel: Odd size of the kernels inside residual blocks.
        embedding: Width of the embedding of the conditioning scalars.
        normalise: Normalise over channels before each convolution pair.
        dropout: Rate after the modulated activation inside residual blocks; 0 drops nothing.
        checkpoint: Compute residual blocks again in the backward pass instead of keeping what they computed: less memory, more time.
    """

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = (64, 128, 128)
    blocks: int = 2
    kernel: int = 5
    embedding: int = 64
    normalise: bool = True
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, self.blocks, self.embedding) < 1:
            raise ValueError("channels (at least one level), blocks and embedding of a U-Net must be positive.")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel of a U-Net must be odd and positive, got {self.kernel}.")
        require_rate(self.dropout, "dropout of a U-Net")


class ResidualBlock(nn.Module):
    """x + conv(drop(act(modulate(conv(act(norm(x))))))), the modulation being a scale and a shift from the embedding."""

    def __init__(self, in_channels: int, channels: int, config: UNetConfig, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.norm = ChannelNorm() if config.normalise else nn.Identity()
        self.first = PaddedConv(in_channels, channels, config.kernel, periodic)
        self.second = PaddedConv(channels, channels, config.kernel, periodic)
        self.modulation = nn.Linear(config.embedding, 2 * channels)
        self.skip = nn.Identity() if in_channels == channels else PaddedConv(in_channels, channels, 1, periodic)
        self.activation = nn.SiLU()
        self.dropout = Dropout(config.dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.second.conv.weight)
        nn.init.zeros_(self.second.conv.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        y = self.first(self.activation(self.norm(x)))
        scale, shift = self.modulation(embedding).unflatten(1, (2, -1)).unbind(1)
        spread = (...,) + (None,) * (y.ndim - 2)
        y = self.activation(torch.addcmul(shift[spread], y, 1 + scale[spread]))
        return self.skip(x) + self.second(self.dropout(y))


class ResidualStage(nn.ModuleList):
    """The residual blocks of one level, one after the other."""

    def __init__(self, in_channels: int, channels: int, config: UNetConfig, periodic: tuple[bool, ...]) -> None:
        widths = [in_channels] + [channels] * (config.blocks - 1)
        super().__init__(ResidualBlock(width, channels, config, periodic) for width in widths)
        self.checkpoint = config.checkpoint

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = run_block(block, x, embedding, again=self.checkpoint)
        return x


class UNet(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and maps them by a U-Net in space.

    Any size of each axis is accepted, odd ones included: a level has ceil(size / 2) points and the way up interpolates to the
    size of the skip connection. On periodic axes whose size is a multiple of 2^(levels - 1) the map commutes with shifts by that many
    points; smaller shifts are learned. The output layer starts at zero, so an untrained network predicts zero.
    Source: Ronneberger et al. (2015), arXiv:1505.04597; scale-shift conditioning as in arXiv:2105.05233.

    Raises: ValueError when there are other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: UNetConfig,
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
            raise ValueError(f"A U-Net needs 1 to 3 space axes, got {len(periodic)}.")
        self.out_frames, self.shared = out_frames, shared_channels
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        self.config = config
        self.embedding = ScalarEmbedding(num_scalars, config.embedding)
        widths = config.channels
        self.stem = PaddedConv(stacked, widths[0], config.kernel, periodic)
        self.descent = nn.ModuleList()
        self.downs = nn.ModuleList()
        self.ascent = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level, width in enumerate(widths):
            if level > 0:
                self.downs.append(PaddedConv(widths[level - 1], width, 3, periodic, stride=2))
            self.descent.append(ResidualStage(width, width, config, periodic))
        for level in reversed(range(len(widths) - 1)):
            self.ups.append(PaddedConv(widths[level + 1], widths[level], 3, periodic))
            self.ascent.append(ResidualStage(2 * widths[level], widths[level], config, periodic))
        self.norm = ChannelNorm() if config.normalise else nn.Identity()
        self.head = PaddedConv(widths[0], out_frames * out_channels, config.kernel, periodic)
        nn.init.zeros_(self.head.conv.weight)
        nn.init.zeros_(self.head.conv.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        embedding = self.embedding(scalars)
        x = self.stem(stack_frames(x, self.shared))
        skips: list[Tensor] = []
        for level, stage in enumerate(self.descent):
            if level > 0:
                x = self.downs[level - 1](x)
            x = stage(x, embedding)
            skips.append(x)
        skips.pop()
        for up, stage in zip(self.ups, self.ascent, strict=True):
            skip = skips.pop()
            x = stage(torch.cat([up(resize(x, skip.shape[2:])), skip], dim=1), embedding)
        return unstack_frames(self.head(nn.functional.silu(self.norm(x))), self.out_frames)
