"""The space-time transformer of latent diffusion: every token of every frame attends to all others, in latent or in pixel space.

A block modulates, attends, and passes a hidden layer in one branch with one norm, and adds it so that variance is kept:

    y = (1 + a) n(x) + b
    y = y + attention(y)
    y = hidden layer(y)
    x = (x + c y) / sqrt(1 + c^2)

with a, b, c, d, numbers for each feature, from the scalars (learned constants where there are none). What d does makes two forms:

    re-injection      x = (x + d x_in) / sqrt(1 + d^2) at the end, x_in the tokens before their positions were added
    value-residual    v = (v + d v_1) / sqrt(1 + d^2) for the values v of attention, v_1 those of the first block

The published program has the first. The published text says "value residual learning" and cites arXiv:2410.17897, where the values of a
layer are mixed with those of the first by two learned scalars. The second form is our reading: it keeps the four modulations, hence the
published number of weights (a block with two branches of three modulations, as in arXiv:2212.09748, has 8 million more), and mixes each
feature by its own d. The first block has v = v_1, which d scales.

Source: arXiv:2507.02608, section 3.3 and table 5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks.layers import pad_to_multiple, run_block
from eddycast.networks.transformer import patch_sizes, patches, rotary_angles, unpatched

EPS = 1e-5
SLOWEST = 1000.0
"""Frequencies of sinusoids go from 1 to 1 / SLOWEST radians per unit."""


@dataclass(frozen=True)
class SpaceTimeTransformerConfig:
    """Size and form of the space-time transformer of latent diffusion.

    Published in latent space: patch 1, width 1024, heads 8, blocks 16, embedding 256; with pixels: patch 16, width 2048, heads 16. Both:
    ffn_factor 4, block re-injection, positions learned, zero_start false; timed false for solvers. The defaults are for small machines.

    Args:
        patch: Points of a token along each space axis: one number for all axes, or one for each. Time has a token for each frame.
        width: Features of a token.
        heads: Attention heads, of width / heads features each.
        blocks: Number of transformer blocks.
        ffn_factor: Width of the hidden layer of each block, relative to `width`.
        embedding: Width of the embedding of the conditioning scalars.
        block: Which of the two forms, see above.
        positions: `lattice`: rotary codes that know which axes are periodic (`transformer.rotary_frequencies`), and an embedding of
            the place in time and along bounded axes, so that the map commutes with shifts by tokens along periodic ones. `learned`, as
            published: each pair of features turns by its own learned combination of all axes, and places along all axes are embedded.
        timed: Whether the first scalar is the diffusion time, which goes through sinusoids; the others enter as they are. A network
            without diffusion has no such scalar.
        time_factor: What that scalar is multiplied by. 40 makes the published 10 log(sigma / alpha) of log(sigma / alpha) / 4, which
            the parametrisation `preconditioned` tells; for those that tell the time t itself, say 1000.
        zero_start: The last layer starts at zero, as in all networks here; not so in the published one.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that do not fit together.
    """

    kind: Literal["transformer-latent"] = "transformer-latent"
    patch: int | tuple[int, ...] = 1
    width: int = 128
    heads: int = 4
    blocks: int = 4
    ffn_factor: float = 4.0
    embedding: int = 64
    block: Literal["re-injection", "value-residual"] = "re-injection"
    positions: Literal["lattice", "learned"] = "lattice"
    timed: bool = True
    time_factor: float = 40.0
    zero_start: bool = True
    checkpoint: bool = False

    def __post_init__(self) -> None:
        sizes = (self.patch,) if isinstance(self.patch, int) else self.patch
        if not sizes or min(*sizes, self.width, self.heads, self.blocks, self.embedding) < 1 or self.ffn_factor <= 0:
            raise ValueError(
                "patch, width, heads, blocks, embedding and ffn_factor of a space-time transformer must be positive."
            )
        if self.width % (2 * self.heads) != 0:
            raise ValueError(f"width must be a multiple of 2 heads = {2 * self.heads}, got {self.width}.")
        if self.embedding % 2 != 0:
            raise ValueError(f"embedding holds sines and cosines and must be even, got {self.embedding}.")
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}.")
        if self.positions not in ("lattice", "learned"):
            raise ValueError(f"positions must be lattice or learned, got {self.positions!r}.")


def sinusoid(x: Tensor, features: int) -> Tensor:
    """Sines, then cosines, of x at features / 2 frequencies 1000^(-j), j evenly from 0 to 1: (*shape) -> (*shape, features)."""
    exponent = torch.linspace(0, 1, features // 2, dtype=x.dtype, device=x.device)
    phase = x[..., None] * SLOWEST**-exponent
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def gated(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """(x + g y) / sqrt(1 + g^2): of variance one where x and y are, and independent."""
    return (x + gate * y) * torch.rsqrt(1 + gate.square())


def normalised(x: Tensor) -> Tensor:
    """Mean zero and variance one over the features of each token."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (2 i, 2 i + 1) of the last axis, of D features, by angles of the shape (..., D / 2)."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


def mixed_frequencies(axes: int, pairs: int) -> Tensor:
    """Start of the learned rotary codes, (axes, pairs): length 100^(-u), u uniform in [0, 1], any direction among the axes."""
    direction = torch.randn(axes, pairs)
    return 100 ** -torch.rand(pairs) * direction / direction.norm(dim=0)


class Attention(nn.Module):
    """Attention of tokens (batch, token, width) to one another, with normalised queries and keys, and rotary positions.

    Queries and keys have a root mean square of one, which bounds the logits by the root of the head width (arXiv:2302.05442). Angles
    are never computed in less than single precision. With `learned` positions each pair of features of each head turns by the sum over
    axes of frequency times index (arXiv:2403.13298); `where` then holds indices (token, axes), otherwise cosines and sines
    (2, token, 1, pair) for all heads.
    """

    def __init__(self, config: SpaceTimeTransformerConfig, axes: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width)
        learned = config.positions == "learned"
        self.frequencies = nn.Parameter(mixed_frequencies(axes, config.width // 2)) if learned else None

    def values(self, y: Tensor) -> Tensor:
        """Values (batch, token, width) of tokens as `forward` takes them."""
        return F.linear(y, self.qkv.weight.chunk(3)[2])

    def turns(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles, (token, head or 1, pair)."""
        if self.frequencies is None:
            cos, sin = where
            return cos, sin
        angles = (where[:, :, None] * self.frequencies.to(where.dtype)).sum(dim=1).unflatten(-1, (self.heads, -1))
        return angles.cos(), angles.sin()

    def forward(self, y: Tensor, where: Tensor, mix: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        q, k, v = self.qkv(y).chunk(3, dim=-1)
        v = v if mix is None else mix(v).to(v.dtype)
        q, k, v = (part.unflatten(-1, (self.heads, -1)) for part in (q, k, v))
        cos, sin = self.turns(where)
        q, k = (turned(F.rms_norm(part, part.shape[-1:], eps=EPS), cos, sin).to(v.dtype) for part in (q, k))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class Modulation(nn.Module):
    """The four modulations of a block: (batch, 1, width) from an embedding of scalars, or learned (width,) when it has no features.

    They start near zero, not at it: the weights of the last layer are a hundredth of the usual ones, its bias is the usual one.
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.constants = None if embedding else nn.Parameter(0.01 * torch.randn(4, width))
        self.layers = None
        if embedding:
            last = nn.Linear(embedding, 4 * width)
            with torch.no_grad():
                last.weight.mul_(0.01)
            self.layers = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), last)

    def forward(self, told: Tensor) -> tuple[Tensor, ...]:
        if self.layers is None:
            assert self.constants is not None
            return self.constants.unbind()
        return self.layers(told)[:, None].chunk(4, dim=-1)


def hidden_layer(config: SpaceTimeTransformerConfig) -> nn.Sequential:
    """Features of each token -> `ffn_factor` times as many -> features."""
    hidden = max(1, round(config.ffn_factor * config.width))
    return nn.Sequential(nn.Linear(config.width, hidden), nn.SiLU(), nn.Linear(hidden, config.width))


class ReinjectionBlock(nn.Module):
    """The block whose d brings the tokens back that came in, `source`: x, source (batch, token, width) -> x."""

    def __init__(self, config: SpaceTimeTransformerConfig, axes: int, embedding: int) -> None:
        super().__init__()
        self.modulation = Modulation(embedding, config.width)
        self.attention = Attention(config, axes)
        self.ffn = hidden_layer(config)

    def forward(self, x: Tensor, source: Tensor, told: Tensor, where: Tensor) -> Tensor:
        a, b, c, d = self.modulation(told)
        y = (1 + a) * normalised(x) + b
        y = y + self.attention(y, where)
        return gated(gated(x, c, self.ffn(y)), d, source)


class ValueResidualBlock(nn.Module):
    """The block whose d mixes its values with those of the first block, `source`: x, source (batch, token, width) -> x."""

    def __init__(self, config: SpaceTimeTransformerConfig, axes: int, embedding: int) -> None:
        super().__init__()
        self.modulation = Modulation(embedding, config.width)
        self.attention = Attention(config, axes)
        self.ffn = hidden_layer(config)

    def values(self, x: Tensor, told: Tensor) -> Tensor:
        """What this block hands to the others when it is the first."""
        a, b, _, _ = self.modulation(told)
        return self.attention.values((1 + a) * normalised(x) + b)

    def forward(self, x: Tensor, source: Tensor, told: Tensor, where: Tensor) -> Tensor:
        a, b, c, d = self.modulation(told)
        y = (1 + a) * normalised(x) + b
        y = y + self.attention(y, where, lambda v: gated(v, d, source))
        return gated(x, c, self.ffn(y))


BLOCKS: dict[str, type[nn.Module]] = {"re-injection": ReinjectionBlock, "value-residual": ValueResidualBlock}


class ToldScalars(nn.Module):
    """Scalars (batch, S) to one embedding (batch, width): of the diffusion time by sinusoids, of the rest as they are, summed."""

    def __init__(self, config: SpaceTimeTransformerConfig, num_scalars: int) -> None:
        super().__init__()
        width, rest = config.embedding, num_scalars - config.timed
        self.width, self.factor = width, config.time_factor
        self.time = two_layers(width, width) if config.timed else None
        self.rest = two_layers(rest, width) if rest else None

    def forward(self, scalars: Tensor) -> Tensor:
        parts = []
        if self.time is not None:
            parts.append(self.time(sinusoid(self.factor * scalars[:, 0], self.width)))
            scalars = scalars[:, 1:]
        if self.rest is not None:
            parts.append(self.rest(scalars))
        return torch.stack(parts).sum(dim=0) if parts else scalars


def two_layers(features: int, width: int) -> nn.Sequential:
    """Embedding (batch, features) -> (batch, width)."""
    return nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))


class SpaceTimeTransformer(nn.Module):
    """A `Network` of blocks of full attention over time and space; the module's beginning has the formulas.

    Grids of any size, and any number of frames: positions are sinusoids and rotary codes of the index, defined beyond those of the
    training, where they are untrained. With other than `in_frames` frames as many first frames are left out of the output as in
    training. Grids that are not a multiple of the patch are filled up at their end and cropped, as in `Transformer`.

    Differences from the published network: no dropout (0.05 in the hidden layer), since networks draw no random numbers, without which no
    training could go on exactly where it stopped nor compute a block twice. Forward-mode and second derivatives are those of
    attention's plain kernel: `with torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` around the call and its derivatives.
    Cost O(tokens^2) in time; memory O(tokens) but for the plain kernel.

    Raises: InputError when the patch has another number of axes than space, when heads are too narrow for the axes of a lattice, or when
        `timed` finds no scalar; ValueError for other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: SpaceTimeTransformerConfig,
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
            raise ValueError(f"A space-time transformer needs 1 to 3 space axes, got {axes}.")
        self.patch = patch_sizes(config.patch, axes)
        self.learned, self.mixes_values = config.positions == "learned", config.block == "value-residual"
        self.pairs = config.width // config.heads // 2
        if not self.learned and self.pairs < 1 + axes:
            raise InputError(
                f"A head of {2 * self.pairs} features cannot hold positions on {1 + axes} axes: "
                f"width / heads must be at least {2 + 2 * axes}."
            )
        if config.timed and num_scalars == 0:
            raise InputError(
                "timed says that the first scalar is the diffusion time, but there are no scalars: set timed to false."
            )
        self.periodic, self.left_out, self.checkpoint = periodic, in_frames - out_frames, config.checkpoint
        self.width, points = config.width, math.prod(self.patch)
        self.placed = (True, *(self.learned or not wrap for wrap in periodic))
        self.told = ToldScalars(config, num_scalars)
        self.stem = nn.Linear(in_channels * points, config.width)
        self.place = nn.Linear(sum(self.placed) * config.width, config.width)
        embedding = config.embedding if num_scalars else 0
        self.blocks = nn.ModuleList(BLOCKS[config.block](config, 1 + axes, embedding) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, out_channels * points)
        if config.zero_start:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        space, dtype = x.shape[3:], x.dtype
        told = self.told(scalars)
        tokens = patches(pad_to_multiple(x, self.patch, self.periodic), self.patch)
        lattice = tuple(tokens.shape[1:-1])
        source = self.stem(tokens.flatten(1, -2)).to(dtype)
        index = lattice_index(lattice, torch.promote_types(dtype, torch.float32), x.device)
        places = torch.cat([sinusoid(index[:, axis], self.width) for axis in self.placed_axes], dim=-1)
        x = source + self.place(places.to(dtype))
        where = index if self.learned else self.turns(lattice, space, dtype, x.device)
        if self.mixes_values:
            first = self.blocks[0]
            assert isinstance(first, ValueResidualBlock)
            source = first.values(x, told)
        for block in self.blocks:
            x = run_block(block, x, source, told, where, again=self.checkpoint)
        x = self.head(x.unflatten(1, lattice)[:, self.left_out :])
        return unpatched(x, self.patch)[(...,) + tuple(slice(size) for size in space)]

    @property
    def placed_axes(self) -> list[int]:
        """Axes, 0 for time, along which the place of a token is embedded."""
        return [axis for axis, placed in enumerate(self.placed) if placed]

    def turns(self, lattice: tuple[int, ...], space: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Cosines and sines (2, token, 1, pair) of the rotary codes that know the periods."""
        periods = [
            size / points if wrap else None for size, points, wrap in zip(space, self.patch, self.periodic, strict=True)
        ]
        angles = rotary_angles(lattice, (None, *periods), self.pairs, device).flatten(0, -2)[:, None]
        return torch.stack([angles.cos(), angles.sin()]).to(dtype)


def lattice_index(lattice: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Index of each token of a lattice along each axis, the last axis fastest, (token, axes)."""
    lines = (torch.arange(size, dtype=dtype, device=device) for size in lattice)
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, -2)
