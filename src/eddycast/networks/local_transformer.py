"""A transformer whose points attend to the points around them: local, commuting with shifts by single points, for grids of any length.

    z = W_in [frames, coordinates of bounded axes]            at each point
    z = mu(z) + sigma(z) eps                                  only with noise: latent
    z = z + A(h(z)),  z = z + M(h'(z))                        in each block
    h(z) = gamma n(z) + delta                                 n: mean 0, variance 1 over the features of a point, nothing learned
    y = W_out z

A is attention to the window (`local_attention`), M a hidden layer with GELU. gamma and delta, for each feature and the same at all
points, come from the scalars: (gamma - 1, delta) is the last layer of an MLP, which starts at zero. Until that layer is trained the map
does not know the scalars at all: this is what the first of two stages of training freezes (`LocalTransformer.modulations`).

What a point knows: after N blocks the points within R = N r, r = (window - 1) / 2. It should hold what can reach the point in one step,
    R dx >= max |speed| dt + the width of what the linear part smears in dt.

Source: arXiv:2509.09599, section 2 and figure 1. Width, heads, blocks, window and the hidden layer's width are ours: the text that
could be read does not give them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.layers import bounded_coordinates, run_block, stack_frames, stacked_channels, unstack_frames
from eddycast.networks.local_attention import BACKENDS, effective_radii, local_attention, require_window

LOG_SIGMA = (-7.0, 2.0)
"""Bounds of the logarithm of the latent standard deviation; beyond them it gets no gradient."""
PHYSICAL_WIDTH = 32
"""Hidden features of the map from an offset in physical units to a bias."""


@dataclass(frozen=True)
class LocalTransformerConfig:
    """Size and form of the local transformer.

    Args:
        window: Points that a point attends to along each axis, itself in the middle: odd, one number for all axes or one for each.
        width: Features of a point.
        heads: Attention heads, of width / heads features each.
        blocks: Number of blocks.
        expansion: Width of the hidden layer of each block, relative to `width`.
        hidden: The hidden layer. `gelu`, as published; `gated`: gelu(W x) times V x (GEGLU, arXiv:2002.05202), which holds products of
            features such as u du/dx without having to learn multiplication, at half as many weights again.
        positions: How attention knows offsets. `bias`: a learned number per head and offset, added to the logits; `vectors`: learned
            vectors added to keys and values, as figure 1 of the paper says it, at more time.
        units: What an offset is. `points`: a number of points. `physical`: points times spacing; the bias is a smooth learned function
            of it, so that another resolution does not stretch the kernel. The network then asks for the spacing.
        reference: With physical units, the spacing at which `window` counts points: at half of it the window has (nearly) twice as many,
            over the same length. None: the window counts points at any spacing.
        gate: Multiply what each sub-layer adds by 1 + alpha, alpha from the scalars too, starting at zero (so, unlike in
            arXiv:2212.09748, blocks start open: the first stage of training needs them).
        noise: What makes members differ. `none`: nothing. `latent`, as published: each point and feature of z gets its own number, with
            mean and standard deviation that depend on the state; blocks give it a correlation length of up to R. `global`: one vector for
            the whole field, through its own maps to gamma and delta as in arXiv:2506.10772, for what is uncertain on the scale of
            the domain.
        noise_size: Length of the global vector.
        noise_start: Size of the noise at the start: standard deviation of the latent, or of gamma and delta.
        embedding: Width of the two hidden layers of the MLP of the scalars.
        backend: How attention is computed, `local_attention.BACKENDS`; `auto` picks by the grid.
        dropout: Rate of what attention brings together, before its last map, and of the hidden layer; 0 drops nothing.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that do not fit together, such as an even window.
    """

    kind: Literal["transformer-local"] = "transformer-local"
    window: int | tuple[int, ...] = 9
    width: int = 128
    heads: int = 4
    blocks: int = 6
    expansion: float = 4.0
    hidden: Literal["gelu", "gated"] = "gelu"
    positions: Literal["bias", "vectors"] = "bias"
    units: Literal["points", "physical"] = "points"
    reference: float | None = None
    gate: bool = False
    noise: Literal["none", "latent", "global"] = "none"
    noise_size: int = 32
    noise_start: float = 0.05
    embedding: int = 64
    backend: Literal["auto", "dense", "blocks", "offsets", "unfold"] = "auto"
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        require_window((self.window,) if isinstance(self.window, int) else self.window)
        sizes = (self.width, self.heads, self.blocks, self.noise_size, self.embedding)
        if min(sizes) < 1 or self.expansion <= 0 or self.noise_start <= 0:
            raise ValueError(
                "width, heads, blocks, expansion, noise_size, noise_start and embedding of a local transformer must be positive."
            )
        if self.width % self.heads != 0:
            raise ValueError(f"width must be a multiple of heads = {self.heads}, got {self.width}.")
        for name, value, valid in (
            ("hidden", self.hidden, ("gelu", "gated")),
            ("positions", self.positions, ("bias", "vectors")),
            ("units", self.units, ("points", "physical")),
            ("noise", self.noise, ("none", "latent", "global")),
            ("backend", self.backend, ("auto", *BACKENDS)),
        ):
            if value not in valid:
                raise ValueError(f"{name} must be one of {', '.join(valid)}, got {value!r}.")
        if self.units == "physical" and self.positions == "vectors":
            raise ValueError("units 'physical' know positions 'bias' only: vectors have one entry for each point.")
        if self.reference is not None and (self.units == "points" or self.reference <= 0):
            raise ValueError("reference is a positive spacing and needs units 'physical'.")
        require_rate(self.dropout, "dropout of a local transformer")


class LocalAttention(nn.Module):
    """Attention of points (batch, *space, width) to the windows around them.

    Physical units take `offsets` (*window, axes + 1): those of the window, of order one, and the logarithm of the weight of each point.
    """

    def __init__(self, config: LocalTransformerConfig, window: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.heads, self.window, self.periodic, self.backend = config.heads, window, periodic, config.backend
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)
        self.bias = self.key_vectors = self.value_vectors = self.smooth = None
        if config.units == "physical":
            layers = nn.Linear(len(window), PHYSICAL_WIDTH), nn.SiLU(), nn.Linear(PHYSICAL_WIDTH, config.heads)
            self.smooth = nn.Sequential(*layers)
        elif config.positions == "bias":
            self.bias = nn.Parameter(torch.zeros(config.heads, *window))
        else:
            shape = (config.heads, *window, config.width // config.heads)
            self.key_vectors = nn.Parameter(0.02 * torch.randn(shape))
            self.value_vectors = nn.Parameter(0.02 * torch.randn(shape))

    def forward(self, x: Tensor, offsets: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each (batch, *space, head, feature)
        window, bias = self.window, self.bias
        if self.smooth is not None and offsets is not None:
            window = tuple(offsets.shape[:-1])
            bias = (self.smooth(offsets[..., :-1]) + offsets[..., -1:]).movedim(-1, 0)
        mixed = local_attention(
            q,
            k,
            v,
            window=window,
            periodic=self.periodic,
            bias=bias,
            key_vectors=self.key_vectors,
            value_vectors=self.value_vectors,
            backend=self.backend,
        )
        return self.out(self.dropout(mixed.flatten(-2)))


class LocalBlock(nn.Module):
    """z + A(h(z)), then z + M(h'(z)), with `told` (batch, parts * width): gamma - 1 and delta of both, and their gates if there are any."""

    def __init__(self, config: LocalTransformerConfig, window: tuple[int, ...], periodic: tuple[bool, ...]) -> None:
        super().__init__()
        hidden = max(1, round(config.expansion * config.width))
        self.parts = modulation_parts(config)
        self.attention = LocalAttention(config, window, periodic)
        self.gated = config.hidden == "gated"
        self.there = nn.Linear(config.width, (1 + self.gated) * hidden)
        self.back = nn.Linear(hidden, config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, told: Tensor | None, offsets: Tensor | None) -> Tensor:
        parts: list[Tensor] | list[None] = [None] * self.parts
        if told is not None:
            parts = list(told[(slice(None),) + (None,) * (x.ndim - 2)].chunk(self.parts, dim=-1))
        x = gated(x, self.attention(modulated(x, *parts[:2]), offsets), *parts[4:5])
        hidden = self.there(modulated(x, *parts[2:4]))
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = F.gelu(gate) * hidden
        else:
            hidden = F.gelu(hidden)
        return gated(x, self.back(self.dropout(hidden)), *parts[5:])


def modulation_parts(config: LocalTransformerConfig) -> int:
    """How many numbers each feature of a block is told: scale and shift of both sub-layers, and their gates."""
    return 6 if config.gate else 4


def modulated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """(1 + scale) n(x) + shift, over features last."""
    x = F.layer_norm(x, x.shape[-1:])
    return x if scale is None or shift is None else torch.addcmul(shift, x, 1 + scale)


def gated(x: Tensor, y: Tensor, gate: Tensor | None = None) -> Tensor:
    """x + (1 + gate) y."""
    return x + y if gate is None else torch.addcmul(x, y, 1 + gate)


class LatentGaussian(nn.Module):
    """z = mu + sigma eps from the features z of a point, (batch, *space, width); starts at mu = z with a small sigma everywhere."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.eye_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, math.log(start))

    def forward(self, z: Tensor, noise: Tensor | None) -> Tensor:
        """Without noise, the mean."""
        mean = self.mean(z)
        return mean if noise is None else torch.addcmul(mean, self.log_std(z).clamp(*LOG_SIGMA).exp(), noise)


class LocalTransformer(nn.Module):
    """A `Network` of blocks of local attention; the module's beginning has the formulas.

    Time is stacked into channels. On periodic axes the map commutes with shifts by single points, for any length, also another than in
    training; a window larger than a ring becomes the largest odd one that fits, so that no point is visited twice. Beyond the ends of
    bounded axes nothing stands, and the map is told the coordinate, from -1 to 1. The output layer starts at zero.

    Scalars go through a plain MLP of two hidden layers, not through the sines of `ScalarEmbedding`: parameters are few and seen at few
    values in training, between which sines of short periods wiggle. Without scalars there is neither MLP nor modulation.

    Attributes:
        physical: Whether offsets are in physical units.
        modulations: All weights that only scalars reach: the MLP, and its last layer for each block. As long as they are as at the
            start, gamma is 1 and delta 0, exactly. The maps of global noise are not among them.

    Raises: InputError when the window has another number of axes than space, or when physical units find no spacing; ValueError for other
        than 1 to 3 space axes, or noise of another shape than `noise_shape`.
    """

    def __init__(
        self,
        config: LocalTransformerConfig,
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
            raise ValueError(f"A local transformer needs 1 to 3 space axes, got {axes}.")
        self.config, self.window, self.periodic = config, window_sizes(config.window, axes), periodic
        self.out_frames, self.shared, self.physical = out_frames, shared_channels, config.units == "physical"
        width, told = config.width, modulation_parts(config) * config.width
        stacked = stacked_channels(in_frames, in_channels, shared_channels) + sum(not wrap for wrap in periodic)
        self.stem = nn.Linear(stacked, width)
        self.latent = LatentGaussian(width, config.noise_start) if config.noise == "latent" else None
        self.blocks = nn.ModuleList(LocalBlock(config, self.window, periodic) for _ in range(config.blocks))
        self.head = nn.Linear(width, out_frames * out_channels)
        self.modulations = nn.ModuleList()
        if num_scalars > 0:
            hidden = config.embedding
            layers = nn.Linear(num_scalars, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
            self.modulations.append(nn.Sequential(*layers))
            self.modulations.extend(nn.Linear(hidden, told) for _ in self.blocks)
        self.noise_maps = nn.ModuleList()
        if config.noise == "global":
            self.noise_maps.extend(nn.Linear(config.noise_size, told, bias=False) for _ in self.blocks)
        for layer in (*self.modulations[1:], self.head):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer in self.noise_maps:
            assert isinstance(layer, nn.Linear)
            # Not zero: members that are equal feel no spread in their score, and would have to part by chance.
            nn.init.normal_(layer.weight, std=config.noise_start / math.sqrt(config.noise_size))

    def noise_shape(self, space: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the standard normal numbers that each entry of a batch takes on a grid; None for none."""
        shapes = {"latent": (self.config.width, *space), "global": (self.config.noise_size,)}
        return shapes.get(self.config.noise)

    def forward(
        self, x: Tensor, scalars: Tensor, *, noise: Tensor | None = None, spacing: Sequence[float] | None = None
    ) -> Tensor:
        """Frames (batch, in_frames, in_channels, *space), scalars (batch, num_scalars) -> (batch, out_frames, out_channels, *space).

        Args:
            noise: Standard normal numbers (batch, *noise_shape(space)). None: none, the deterministic pass.
            spacing: Distance of points along each axis, the same for the batch; only physical units look at it.
        """
        space = tuple(x.shape[3:])
        if noise is not None and noise.shape[1:] != (self.noise_shape(space) or ()):
            raise ValueError(
                f"noise {self.config.noise!r} on {space} points takes numbers of shape (batch, *{self.noise_shape(space)}), "
                f"got {tuple(noise.shape)}."
            )
        offsets = self._offsets(space, spacing).to(x) if self.physical else None
        stacked = stack_frames(x, self.shared)
        where = bounded_coordinates(x, self.periodic)
        if len(where):
            stacked = torch.cat([stacked, where.expand(len(x), *where.shape)], dim=1)
        z = self.stem(stacked.movedim(1, -1))
        if self.latent is not None:
            z = self.latent(z, None if noise is None else noise.movedim(1, -1))
        for block, told in zip(self.blocks, self._told(scalars, noise), strict=True):
            z = run_block(block, z, told, offsets, again=self.config.checkpoint)
        return unstack_frames(self.head(z).movedim(-1, 1), self.out_frames)

    def _told(self, scalars: Tensor, noise: Tensor | None) -> list[Tensor] | list[None]:
        """What each block is told, (batch, parts * width), or None: from scalars plus from global noise."""
        told: list[Tensor] = []
        if len(self.modulations):
            embedding = self.modulations[0](scalars)
            told = [last(embedding) for last in self.modulations[1:]]
        if len(self.noise_maps) and noise is not None:
            drawn = [layer(noise) for layer in self.noise_maps]
            told = [one + other for one, other in zip(told, drawn, strict=True)] if told else drawn
        return told or [None] * len(self.blocks)

    def _offsets(self, space: tuple[int, ...], spacing: Sequence[float] | None) -> Tensor:
        """Offsets in units of half the window at `reference`, and log weights, (*window, axes + 1).

        A sum over offsets is the quadrature of an integral over the physical window: its two end points count by half, unless the
        window goes round a whole ring. Away from walls the map then converges with order 2 in the spacing.
        """
        if spacing is None or len(spacing) != len(space):
            raise InputError(
                "units 'physical' need the spacing of the grid along each axis, and this emulator passes "
                f"{'none' if spacing is None else list(spacing)}: set units to 'points'."
            )
        reference = self.config.reference
        lines, weights = [], []
        for points, size, step, wrap in zip(
            self.window, space, (float(step) for step in spacing), self.periodic, strict=True
        ):
            wanted = points // 2
            if reference is not None and wanted > 0:
                wanted = max(1, round(wanted * reference / step))
            (radius,) = effective_radii((2 * wanted + 1,), (size,), (wrap,))
            offset = torch.arange(-radius, radius + 1, dtype=torch.float64)
            lines.append(offset * step / (max(points // 2, 1) * (reference or 1.0)))
            ends = (offset.abs() == wanted) & (wanted > 0 and not (wrap and 2 * radius + 1 >= size))
            weights.append(math.log(0.5) * ends.double())
        grids = torch.meshgrid(*lines, indexing="ij")
        weight = torch.stack(torch.meshgrid(*weights, indexing="ij")).sum(dim=0)
        return torch.stack([*grids, weight], dim=-1)


def window_sizes(window: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Points of the window along each space axis. Raises: InputError when `window` has another number of entries."""
    sizes = (window,) * axes if isinstance(window, int) else tuple(window)
    if len(sizes) != axes:
        raise InputError(
            f"window {list(sizes)} has {len(sizes)} entries, but the data have {axes} space axes: "
            "give one per axis, or one number."
        )
    return sizes
