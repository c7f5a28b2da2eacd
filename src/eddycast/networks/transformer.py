"""Space-time transformer for 1-, 2- and 3-D fields on periodic or bounded axes, conditioned on scalars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.layers import ScalarEmbedding, bounded_coordinates, pad_to_multiple, run_block

SHORTEST, LONGEST = 4.0, 400.0
"""Wavelengths of the rotary code, in tokens: the first turns by a right angle from one token to the next."""


@dataclass(frozen=True)
class TransformerConfig:
    """Size of a space-time transformer.

    Args:
        patch: Points of a token along each space axis: one number for all axes, or one for each. Time has a token for each frame.
        width: Features of a token.
        heads: Attention heads; each has width / heads features, an even number, at least 2 (1 + space axes).
        blocks: Number of transformer blocks.
        expansion: Width of the hidden layer of each block, relative to `width`.
        embedding: Width of the embedding of the conditioning scalars.
        attention: `full`, all tokens of all frames with each other, cost O(tokens^2); `axial`, along time and each space axis on
            its own, cost O(tokens x axis lengths): a token sees all others after as many blocks as there are axes.
        dropout: Rate of what attention brings together, before its last map, and of the hidden layer; 0 drops nothing.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that do not fit together.
    """

    kind: Literal["transformer"] = "transformer"
    patch: int | tuple[int, ...] = 4
    width: int = 128
    heads: int = 4
    blocks: int = 4
    expansion: float = 2.0
    embedding: int = 64
    attention: Literal["full", "axial"] = "full"
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        sizes = (self.patch,) if isinstance(self.patch, int) else self.patch
        if not sizes or min(*sizes, self.width, self.heads, self.blocks, self.embedding) < 1 or self.expansion <= 0:
            raise ValueError("patch, width, heads, blocks, embedding and expansion of a transformer must be positive.")
        if self.width % (2 * self.heads) != 0:
            raise ValueError(f"width must be a multiple of 2 heads = {2 * self.heads}, got {self.width}.")
        require_rate(self.dropout, "dropout of a transformer")


def rotary_frequencies(pairs: int, period: float | None, device: torch.device | None = None) -> Tensor:
    """Radians per token of the rotary code of one axis, (pairs,), float64.

    Wavelengths are in geometric order, from 4 tokens to 400 on a bounded axis and to the period, in tokens, on a periodic one.
    Rotary codes enter attention by the difference of two positions only. On a periodic axis that difference is known modulo the
    period, so there each frequency is moved to the nearest multiple of 2 pi / period, at least one: the code is then the same
    whichever way round one counts, and attention commutes with shifts by whole tokens.

    Limits: a ring of n tokens has at most n / 4 distinct frequencies; pairs beyond that repeat some of them. The frequencies follow the
    period, so a network meets others on a ring of another length than that of its training. On bounded axes nothing but training says
    what differences longer than any in the data mean.
    Source: RoFormer, arXiv:2104.09864, eq. 34; the wavelengths and the rounding are ours.
    """
    longest = LONGEST if period is None else max(period, SHORTEST)
    exponent = torch.arange(pairs, dtype=torch.float64, device=device) / max(pairs - 1, 1)
    frequencies = 2 * math.pi / SHORTEST * (SHORTEST / longest) ** exponent
    if period is None:
        return frequencies
    unit = 2 * math.pi / period
    return unit * (frequencies / unit).round().clamp_min(1.0)


def rotary_angles(
    tokens: tuple[int, ...], periods: tuple[float | None, ...], pairs: int, device: torch.device
) -> Tensor:
    """Angles (*tokens, pairs) in float64 of tokens on a lattice; the pairs are dealt out to the axes in turn."""
    axes = len(tokens)
    angles = torch.zeros(*tokens, pairs, dtype=torch.float64, device=device)
    for axis, (size, period) in enumerate(zip(tokens, periods, strict=True)):
        mine = torch.arange(axis, pairs, axes, device=device)
        frequencies = rotary_frequencies(len(mine), period, device)
        angle = torch.arange(size, dtype=torch.float64, device=device)[:, None] * frequencies
        angles[..., mine] = angle.reshape(*(size if other == axis else 1 for other in range(axes)), -1).expand(
            *tokens, -1
        )
    return angles


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2) of the last axis, of D features, by angles of the shape (..., D / 2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    """Attention of tokens (batch, *tokens, width) to one another, with normalised queries and keys, and rotary positions.

    Queries and keys have a root mean square of one, which bounds the logits by the root of the head width: no run-away
    of attention at high learning rates (arXiv:2302.05442). `axial` attends along each axis with the same queries, keys and
    values, and averages.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.axial = config.heads, config.attention == "axial"
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each (batch, *tokens, head, feature)
        q, k = (rotate(F.rms_norm(part, part.shape[-1:], eps=1e-6), cos, sin).to(v.dtype) for part in (q, k))
        if not self.axial:
            q, k, flat = (part.flatten(1, -3).transpose(1, 2) for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, flat).transpose(1, 2).reshape(v.shape)
            return self.out(self.dropout(mixed.flatten(-2)))
        axes = range(1, x.ndim - 1)
        mixed = sum((along(axis, q, k, v) for axis in axes), start=torch.zeros_like(v)) / len(axes)
        return self.out(self.dropout(mixed.flatten(-2)))


def along(axis: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention along one axis of (batch, *tokens, head, feature), each line of tokens on its own."""
    q, k, v = (part.movedim(axis, -3) for part in (q, k, v))
    queries, keys, values = (part.flatten(0, -4).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).reshape(v.shape).movedim(-3, axis)


class TransformerBlock(nn.Module):
    """x + g a(n(x)), then x + g' m(n(x)): attention and a gated hidden layer, both scaled, shifted and gated by the scalars.

    All six modulations start at zero (AdaLN-zero, arXiv:2212.09748), so a block starts as the identity. The hidden
    layer is SwiGLU, arXiv:2002.05202.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden = max(1, round(config.expansion * config.width))
        self.attention = Attention(config)
        self.gated = nn.Linear(config.width, 2 * hidden)
        self.back = nn.Linear(hidden, config.width)
        self.dropout = Dropout(config.dropout)
        self.modulation = nn.Linear(config.embedding, 6 * config.width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        spread = (slice(None),) + (None,) * (x.ndim - 2)
        modulation = self.modulation(embedding)[spread].chunk(6, dim=-1)
        scale, shift, gate, hidden_scale, hidden_shift, hidden_gate = modulation
        y = self.attention(normalised(x) * (1 + scale) + shift, cos, sin)
        x = x + gate * y
        gates, values = self.gated(normalised(x) * (1 + hidden_scale) + hidden_shift).chunk(2, dim=-1)
        return x + hidden_gate * self.back(self.dropout(F.silu(gates) * values))


def normalised(x: Tensor) -> Tensor:
    """Mean zero and variance one over the features of each token."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class Transformer(nn.Module):
    """A `Network` whose tokens are patches of single frames; attention runs over time and space.

    Positions: rotary codes over time and all space axes (`rotary_frequencies`), which know differences only. Where a frame stands in
    the window is told by a learned vector for each frame, where a point stands between walls by its coordinate on each bounded axis,
    from -1 to 1, beside the channels. On a periodic axis whose size is a multiple of the patch the map commutes with shifts by a patch.

    Grids that are not a multiple of the patch are filled up at their end, by wrapping round on periodic axes and by repeating the edge on
    bounded ones, and the output is cropped. The last patch of a periodic axis then shares points with the first; distances still
    count modulo the true period, but the symmetry under shifts is only learned. The output layer starts at zero.
    Block forms differ from those of arXiv:2507.02608, where attention and hidden layer share one norm and one branch.

    Raises: InputError when the patch has another number of axes than space, or heads are too narrow for the axes; ValueError for
        other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: TransformerConfig,
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
            raise ValueError(f"A transformer needs 1 to 3 space axes, got {axes}.")
        self.patch = patch_sizes(config.patch, axes)
        self.pairs = config.width // config.heads // 2
        if self.pairs < 1 + axes:
            raise InputError(
                f"A head of {2 * self.pairs} features cannot hold positions on {1 + axes} axes: "
                f"width / heads must be at least {2 + 2 * axes}."
            )
        self.periodic, self.out_frames, self.checkpoint = periodic, out_frames, config.checkpoint
        points, coordinates = math.prod(self.patch), sum(not wrap for wrap in periodic)
        self.embedding = ScalarEmbedding(num_scalars, config.embedding)
        self.stem = nn.Linear((in_channels + coordinates) * points, config.width)
        self.frames = nn.Parameter(0.02 * torch.randn(in_frames, config.width))
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.blocks))
        self.modulation = nn.Linear(config.embedding, 2 * config.width)
        self.head = nn.Linear(config.width, out_channels * points)
        for layer in (self.modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        space, axes = x.shape[3:], len(self.periodic)
        embedding = self.embedding(scalars)
        where = bounded_coordinates(x, self.periodic)
        x = torch.cat([x, where.expand(*x.shape[:2], *where.shape)], dim=2)
        x = self.stem(patches(pad_to_multiple(x, self.patch, self.periodic), self.patch))
        x = x + self.frames[(slice(None),) + (None,) * axes]
        periods = [
            size / points if wrap else None for size, points, wrap in zip(space, self.patch, self.periodic, strict=True)
        ]
        angles = rotary_angles(tuple(x.shape[1:-1]), (None, *periods), self.pairs, x.device)[..., None, :]
        cos, sin = angles.cos().to(scalars.dtype), angles.sin().to(scalars.dtype)
        for block in self.blocks:
            x = run_block(block, x, embedding, cos, sin, again=self.checkpoint)
        scale, shift = self.modulation(embedding)[(slice(None),) + (None,) * (axes + 1)].chunk(2, dim=-1)
        x = self.head(normalised(x[:, -self.out_frames :]) * (1 + scale) + shift)
        return unpatched(x, self.patch)[(...,) + tuple(slice(size) for size in space)]


def patch_sizes(patch: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Points of a patch along each space axis. Raises: InputError when `patch` has another number of entries."""
    sizes = (patch,) * axes if isinstance(patch, int) else patch
    if len(sizes) != axes:
        raise InputError(
            f"patch {list(sizes)} has {len(sizes)} entries, but the data have {axes} space axes: "
            "give one per axis, or one number."
        )
    return sizes


def patches(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """(batch, time, channel, *space) -> (batch, time, *tokens, channel * points); each axis a multiple of its patch."""
    for axis, points in enumerate(patch):
        x = x.unflatten(3 + 2 * axis, (-1, points))
    axes = len(patch)
    tokens, inner = range(3, 3 + 2 * axes, 2), range(4, 4 + 2 * axes, 2)
    return x.permute(0, 1, *tokens, 2, *inner).flatten(2 + axes)


def unpatched(x: Tensor, patch: tuple[int, ...]) -> Tensor:
    """Inverse of `patches`."""
    axes = len(patch)
    x = x.unflatten(-1, (-1, *patch))
    order = [position for axis in range(axes) for position in (2 + axis, 3 + axes + axis)]
    x = x.permute(0, 1, 2 + axes, *order)
    for axis in range(axes):
        x = x.flatten(3 + axis, 4 + axis)
    return x
