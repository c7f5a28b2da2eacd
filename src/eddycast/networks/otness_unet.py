"""The U-Net of DYffusion for flow past obstacles: any grid is brought to one square lattice, halved six times and back."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks.batch_norm import BatchNorm
from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.film import FiLM, RawTimeEmbedding, require_embedding
from eddycast.networks.layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    ChannelNorm,
    group_norm,
    run_block,
    stack_frames,
    stacked_channels,
    unstack_frames,
)

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
SLOPE, START_STD = 0.2, 0.02


@dataclass(frozen=True)
class OtnessUNetConfig:
    """Size of the U-Net; the defaults are the published ones but for `zero_start`.

    Args:
        size: Points of the inner lattice along each axis, multiples of 2^levels: one number for all axes, or one for each.
        stem: Width of the first, pointwise layer.
        channels: Width of each level; each halves the resolution of the one before, the first that of the inner lattice.
        kernels: Even size of the strided kernel of each level; on the way up it is one less.
        embedding: Width of the embedding of the scalars, a multiple of 4.
        dropout: Rate after every activation; published are 0.15, and 0.2 for the Dropout baseline.
        norm: `batch`, as published, with all that `batch_norm` says of it; `channel` normalises over channels at each point instead.
            The deepest level has groups of channels in both.
        time_factor: What the first scalar is multiplied by: the horizon in steps where it is a time over the horizon.
        zero_start: The last layer starts at zero, as in all networks here; not so in the published one.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that make no network.
    """

    kind: Literal["unet-otness"] = "unet-otness"
    size: int | tuple[int, ...] = 256
    stem: int = 64
    channels: tuple[int, ...] = (128, 128, 256, 512, 512, 512)
    kernels: tuple[int, ...] = (4, 4, 4, 4, 2, 2)
    embedding: int = 128
    dropout: float = 0.0
    norm: Literal["batch", "channel"] = "batch"
    time_factor: float = 16.0
    zero_start: bool = True
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, *self.kernels, self.stem) < 1:
            raise ValueError("channels (at least one level), kernels and stem of an Otness U-Net must be positive.")
        if len(self.kernels) != len(self.channels) or any(kernel % 2 for kernel in self.kernels):
            raise ValueError(
                f"kernels of an Otness U-Net must be one even number for each of its {len(self.channels)} levels, "
                f"got {self.kernels}."
            )
        sizes = (self.size,) if isinstance(self.size, int) else self.size
        multiple = 2 ** len(self.channels)
        if not sizes or min(sizes) < 1 or any(size % multiple for size in sizes):
            raise ValueError(
                f"size of an Otness U-Net must be a multiple of {multiple} for its {len(self.channels)} levels, got {self.size}."
            )
        require_rate(self.dropout, "dropout of an Otness U-Net")
        require_embedding(self.embedding, "an Otness U-Net")


class LevelBlock(nn.Module):
    """drop(act(film(norm(conv(x))))); on the way down a strided convolution, on the way up one after linear doubling.

    A kernel of 2 sees on the way down the two points it replaces by one, and on the way up (a kernel of 1) one point.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        norm: nn.Module,
        config: OtnessUNetConfig,
        axes: int,
        *,
        up: bool,
        told: bool,
    ) -> None:
        super().__init__()
        size, stride = (kernel - 1, 1) if up else (kernel, 2)
        self.conv = CONVOLUTIONS[axes](in_channels, channels, size, stride=stride, padding=kernel // 2 - 1)
        self.norm = norm
        self.film = FiLM(config.embedding, channels, told=told)
        self.activation = nn.ReLU() if up else nn.LeakyReLU(SLOPE)
        self.dropout = Dropout(config.dropout)
        self.doubling = LINEAR[axes] if up else None

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        if self.doubling is not None:
            x = F.interpolate(x, scale_factor=2, mode=self.doubling, align_corners=False)
        return self.dropout(self.activation(self.film(self.norm(self.conv(x)), embedding)))


class OtnessUNet(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and resamples whatever grid comes to its own lattice and back.

    Scalars enter as `film` says. With one scalar or none, and `norm` batch, the weights are in number and shape those of the published
    nets: 10 273 411 with 8 channels in and 3 out (interpolator). The last layer doubles the resolution once more, so the output
    is formed on twice the inner lattice (512 x 512) and brought to the grid from there, as published; weights of convolutions
    start as N(0, 0.02^2). The order of layers within a block (convolution, norm, time, activation, dropout) is our reading of the list that
    the fact sheet gives of the released code.

    Limits: resampling is linear and clamped at all ends and convolutions see zeros beyond them, so periodic axes have a seam; grids finer
    than the inner lattice lose what it does not resolve; cells of a grid far from square are stretched, which the published one
    (221 x 42) is too. The cost is that of the inner lattice, however small the grid: choose `size` near the grid for other data.
    Source: arXiv:2306.01984, Navier-Stokes; its backbone is that of Otness et al., arXiv:2108.07799.

    Raises: InputError when size has another number of axes than space; ValueError for other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: OtnessUNetConfig,
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
        axes = len(periodic)
        if axes not in (1, 2, 3):
            raise ValueError(f"An Otness U-Net needs 1 to 3 space axes, got {axes}.")
        self.size = (config.size,) * axes if isinstance(config.size, int) else tuple(config.size)
        if len(self.size) != axes:
            raise InputError(
                f"size {list(self.size)} has {len(self.size)} entries, but the data have {axes} space axes: "
                "give one per axis, or one number."
            )
        self.out_frames, self.shared, self.checkpoint = out_frames, shared_channels, config.checkpoint
        self.mode = LINEAR[axes]
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        widths, levels, told = (config.stem, *config.channels), len(config.channels), num_scalars > 0
        self.embedding = RawTimeEmbedding(num_scalars, config.embedding, config.time_factor)
        self.stem = CONVOLUTIONS[axes](stacked, config.stem, 1)

        def norm(channels: int) -> nn.Module:
            return BatchNorm(channels) if config.norm == "batch" else ChannelNorm()

        self.descent, self.ascent = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(pairwise(widths)):
            kernel, deepest = config.kernels[level], level == levels - 1
            own = group_norm(coarse) if deepest else norm(coarse)
            self.descent.append(LevelBlock(fine, coarse, kernel, own, config, axes, up=False, told=told))
            below = coarse if deepest else 2 * coarse  # with the skip connection
            self.ascent.insert(0, LevelBlock(below, fine, kernel, norm(fine), config, axes, up=True, told=told))
        self.head = TRANSPOSED[axes](2 * config.stem, out_frames * out_channels, 4, stride=2, padding=1)
        for part in self.modules():
            if isinstance(part, (*CONVOLUTIONS.values(), *TRANSPOSED.values())):
                nn.init.normal_(part.weight, std=START_STD)  # type: ignore[arg-type]
        if config.zero_start:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        space = x.shape[3:]
        embedding = self.embedding(scalars)
        y = self.stem(self._resampled(stack_frames(x, self.shared), self.size))
        skips = []
        for block in self.descent:
            skips.append(y)
            y = run_block(block, y, embedding, again=self.checkpoint)
        for block in self.ascent:
            y = run_block(block, y, embedding, again=self.checkpoint)
            y = torch.cat([y, skips.pop()], dim=1)
        return unstack_frames(self._resampled(self.head(y), tuple(space)), self.out_frames)

    def _resampled(self, x: Tensor, size: tuple[int, ...]) -> Tensor:
        return F.interpolate(x, size=size, mode=self.mode, align_corners=False)
