"""The U-Net of DYffusion for sea surface temperature, of the lineage that began with denoising diffusion: residual blocks and attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.film import FiLM, RawTimeEmbedding, require_embedding
from eddycast.networks.layers import (
    CONVOLUTIONS,
    ChannelNorm,
    PaddedConv,
    group_norm,
    pad,
    pad_to_multiple,
    resize,
    run_block,
    stack_frames,
    stacked_channels,
    unstack_frames,
)

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@dataclass(frozen=True)
class ResNetUNetConfig:
    """Size of the U-Net; the defaults are the published ones but for `zero_start`.

    Args:
        width: Channels of the first level, even.
        multipliers: Width of each level relative to `width`; each level halves the resolution of the one before.
        heads, head_width: Attention heads of every attention, and features of each.
        embedding: Width of the embedding of the scalars, a multiple of 4.
        dropout: Rate after the second activation of a residual block (published `block_dropout`).
        first_dropout: Rate after the first one (published `block_dropout1`).
        attention_dropout: Rate of what the linear attentions read, and of the weights of the full one. Published for dropout,
            first_dropout, attention_dropout: interpolator 0.6, 0.2, 0.6; forecaster 0.3, 0, 0.1; Dropout baseline 0.6, 0.3, 0.6.
        padding: `zeros` beyond all ends, as published, so that periodic axes have a seam; `boundary` wraps periodic axes and repeats
            the edge value of bounded ones.
        time_factor: What the first scalar is multiplied by: the horizon in steps where it is a time over the horizon.
        zero_start: The last layer starts at zero, as in all networks here; not so in the published one.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that make no network.
    """

    kind: Literal["unet-resnet"] = "unet-resnet"
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4)
    heads: int = 4
    head_width: int = 32
    embedding: int = 128
    dropout: float = 0.0
    first_dropout: float = 0.0
    attention_dropout: float = 0.0
    padding: Literal["zeros", "boundary"] = "zeros"
    time_factor: float = 7.0
    zero_start: bool = True
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.multipliers or min(*self.multipliers, self.heads, self.head_width) < 1:
            raise ValueError(
                "multipliers (at least one level), heads and head_width of a ResNet U-Net must be positive."
            )
        if self.width < 2 or self.width % 2 == 1:
            raise ValueError(f"width of a ResNet U-Net must be even and positive, got {self.width}.")
        for name in ("dropout", "first_dropout", "attention_dropout"):
            require_rate(getattr(self, name), f"{name} of a ResNet U-Net")
        require_embedding(self.embedding, "a ResNet U-Net")


class StandardisedConv(nn.Module):
    """Convolution, kernel 3, whose weights have mean 0 and variance 1 for each channel that comes out. Source: arXiv:1903.10520."""

    def __init__(self, in_channels: int, channels: int, periodic: tuple[bool, ...], *, zeros: bool) -> None:
        super().__init__()
        self.periodic, self.zeros = periodic, zeros
        self.conv = CONVOLUTIONS[len(periodic)](in_channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        variance, mean = torch.var_mean(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, correction=0)
        weight = (weight - mean) * torch.rsqrt(variance + 1e-5)
        x = x if self.zeros else pad(x, 1, self.periodic)
        return CONVOLVE[len(self.periodic)](x, weight, self.conv.bias, padding=int(self.zeros))


class ResNetBlock(nn.Module):
    """skip(x) + drop(silu(norm(conv(drop(silu(film(norm(conv(x)))))))))."""

    def __init__(
        self, in_channels: int, channels: int, config: ResNetUNetConfig, periodic: tuple[bool, ...], *, told: bool
    ) -> None:
        super().__init__()
        zeros = config.padding == "zeros"
        self.first = StandardisedConv(in_channels, channels, periodic, zeros=zeros)
        self.first_norm = group_norm(channels)
        self.film = FiLM(config.embedding, channels, told=told)
        self.first_dropout = Dropout(config.first_dropout)
        self.second = StandardisedConv(channels, channels, periodic, zeros=zeros)
        self.second_norm = group_norm(channels)
        self.dropout = Dropout(config.dropout)
        self.skip = nn.Identity() if in_channels == channels else PaddedConv(in_channels, channels, 1, periodic)

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        y = self.first_dropout(F.silu(self.film(self.first_norm(self.first(x)), embedding)))
        return self.skip(x) + self.dropout(F.silu(self.second_norm(self.second(y))))


class GainedNorm(nn.Module):
    """Normalise over channels at each point, with a learned gain of each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.gain[(...,) + (None,) * (x.ndim - 2)]


class AttentionBlock(nn.Module):
    """x + attention of the points of norm(x) (batch, channel, *space) to each other.

        full:    softmax(q k^T / sqrt(d)) v, cost O(points^2)
        linear:  q' (k'^T v) / sqrt(d), q' = softmax of q over features, k' = softmax of k over points, cost O(points)

    What linear attention makes is normalised before it is added. Source: arXiv:1812.01243 (linear).
    """

    def __init__(self, channels: int, config: ResNetUNetConfig, axes: int, *, linear: bool) -> None:
        super().__init__()
        self.heads, self.linear = config.heads, linear
        inner = config.heads * config.head_width
        self.norm = GainedNorm(channels)
        self.dropout = Dropout(config.attention_dropout)
        self.qkv = CONVOLUTIONS[axes](channels, 3 * inner, 1, bias=False)
        self.out = CONVOLUTIONS[axes](inner, channels, 1)
        self.out_norm = GainedNorm(channels) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        seen = self.dropout(y) if self.linear else y
        q, k, v = self.qkv(seen).flatten(2).transpose(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scale = 1 / math.sqrt(q.shape[-1])  # each (batch, head, point, feature)
        if self.linear:
            mixed = scale * q.softmax(dim=-1) @ (k.softmax(dim=-2).transpose(-1, -2) @ v)
        elif self.dropout.rate == 0:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = self.dropout((scale * q @ k.transpose(-1, -2)).softmax(dim=-1)) @ v
        back = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])
        return x + self.out_norm(self.out(back))


class Halving(nn.Module):
    """Convolution, kernel 4 and stride 2: ceil(size / 2) points along each axis; an odd axis is filled up by one point at its end."""

    def __init__(self, in_channels: int, channels: int, periodic: tuple[bool, ...], *, zeros: bool) -> None:
        super().__init__()
        self.periodic, self.zeros = periodic, zeros
        self.conv = CONVOLUTIONS[len(periodic)](in_channels, channels, 4, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if self.zeros:
            x = F.pad(x, [width for size in reversed(x.shape[2:]) for width in (1, 1 + size % 2)])
        else:
            x = pad(pad_to_multiple(x, (2,) * len(self.periodic), self.periodic), 1, self.periodic)
        return self.conv(x)


class ResNetUNet(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and maps them by a U-Net in space.

    Scalars enter as `film` says. With one scalar or none the weights are in number and shape those of the published nets: 9 480 385 with
    2 channels in and 1 out (interpolator and forecaster), 9 477 249 with 1 in. Each level has two residual blocks and a linear
    attention on each way, the bottom two blocks around a full attention; the stem's output joins again before the last block. That linear
    attention normalises what it makes (704 weights, which the published figure in millions does not show) follows the lineage.

    Any size of each axis is accepted: a level has ceil(size / 2) points and the way up repeats points to the size of the skip connection.
    With padding `boundary`, on periodic axes whose size is a multiple of 2^(levels - 1), the map commutes with shifts by that many points.
    Group norms and attention see all points, so that a network trained on tiles of a map is another one on the whole of it. With
    attention_dropout the weights of the full attention are kept, O(points^2) at the lowest resolution.
    Source: arXiv:2306.01984, sea surface temperature; lineage of arXiv:2006.11239.

    Raises: ValueError when there are other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: ResNetUNetConfig,
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
            raise ValueError(f"A ResNet U-Net needs 1 to 3 space axes, got {axes}.")
        self.out_frames, self.shared, self.checkpoint = out_frames, shared_channels, config.checkpoint
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        zeros, told = config.padding == "zeros", num_scalars > 0
        widths = [config.width * factor for factor in config.multipliers]
        steps = list(pairwise([config.width, *widths]))

        def block(in_channels: int, channels: int) -> ResNetBlock:
            return ResNetBlock(in_channels, channels, config, periodic, told=told)

        def three(in_channels: int, channels: int) -> PaddedConv:
            return PaddedConv(in_channels, channels, 3, periodic, zeros=zeros)

        def level(in_channels: int, channels: int) -> nn.ModuleList:
            attention = AttentionBlock(channels, config, axes, linear=True)
            return nn.ModuleList([block(in_channels, channels), block(in_channels, channels), attention])

        self.embedding = RawTimeEmbedding(num_scalars, config.embedding, config.time_factor)
        self.stem = PaddedConv(stacked, config.width, 7, periodic, zeros=zeros)
        self.descent = nn.ModuleList(level(fine, fine) for fine, _ in steps)
        self.downs = nn.ModuleList(Halving(fine, coarse, periodic, zeros=zeros) for fine, coarse in steps[:-1])
        self.downs.append(three(*steps[-1]))
        bottom = widths[-1]
        full = AttentionBlock(bottom, config, axes, linear=False)
        self.middle = nn.ModuleList([block(bottom, bottom), full, block(bottom, bottom)])
        self.ascent = nn.ModuleList(level(fine + coarse, coarse) for fine, coarse in reversed(steps))
        self.ups = nn.ModuleList(three(coarse, fine) for fine, coarse in reversed(steps))
        self.last = block(2 * config.width, config.width)
        self.head = PaddedConv(config.width, out_frames * out_channels, 1, periodic)
        if config.zero_start:
            nn.init.zeros_(self.head.conv.weight)
            nn.init.zeros_(self.head.conv.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        embedding = self.embedding(scalars)

        def through(block: nn.Module, y: Tensor) -> Tensor:
            told = () if isinstance(block, AttentionBlock) else (embedding,)
            return run_block(block, y, *told, again=self.checkpoint)

        start = y = self.stem(stack_frames(x, self.shared))
        skips: list[Tensor] = []
        for level, down in zip(self.descent, self.downs, strict=True):
            first, second, attention = level.children()
            skips.append(y := through(first, y))
            skips.append(y := through(attention, through(second, y)))
            y = down(y)
        for block in self.middle:
            y = through(block, y)
        for level, up in zip(self.ascent, self.ups, strict=True):
            first, second, attention = level.children()
            y = through(first, torch.cat([y, skips.pop()], dim=1))
            y = through(attention, through(second, torch.cat([y, skips.pop()], dim=1)))
            y = up(resize(y, skips[-1].shape[2:]) if skips else y)
        y = through(self.last, torch.cat([y, start], dim=1))
        return unstack_frames(self.head(y), self.out_frames)
