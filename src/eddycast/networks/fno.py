"""Fourier neural operator for 1-, 2- and 3-D fields on periodic or bounded axes, conditioned on scalars."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.layers import (
    CONVOLUTIONS,
    ScalarEmbedding,
    bounded_coordinates,
    run_block,
    stack_frames,
    stacked_channels,
    unstack_frames,
)


@dataclass(frozen=True)
class FNOConfig:
    """Size of a Fourier neural operator.

    Args:
        modes: Highest wavenumber that is mixed along each axis, in cycles per (extended) length: one number for all axes, or one for
            each. Grids too coarse for it use what they have: wavenumbers below half their points.
        width: Channels between the blocks.
        blocks: Number of Fourier blocks.
        embedding: Width of the embedding of the conditioning scalars.
        padding: Length by which a bounded axis is extended with zeros, relative to its own.
        dropout: Rate after the activation inside blocks; 0 drops nothing.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that make no network.
    """

    kind: Literal["fno"] = "fno"
    modes: int | tuple[int, ...] = 12
    width: int = 48
    blocks: int = 4
    embedding: int = 64
    padding: float = 0.25
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        modes = (self.modes,) if isinstance(self.modes, int) else self.modes
        if not modes or min(modes) < 0:
            raise ValueError(f"modes of a Fourier neural operator must be 0 or more, got {self.modes}.")
        if min(self.width, self.blocks, self.embedding) < 1 or self.padding < 0:
            raise ValueError(
                "width, blocks and embedding of a Fourier neural operator must be positive, padding not negative."
            )
        require_rate(self.dropout, "dropout of a Fourier neural operator")


class SpectralMixing(nn.Module):
    """(K v)_k = R_k v_k for the wavenumbers |k_a| <= modes_a, 0 for all others; v is (batch, width, *space).

    Coefficients are those of the Fourier series, whatever the number of points, so R means the same at any resolution. The mode at
    half the points of an even axis is left out: it has no sign, and a multiplier would break the symmetry under shifts.
    """

    def __init__(self, width: int, modes: tuple[int, ...]) -> None:
        super().__init__()
        self.modes = modes
        lattice = [2 * count + 1 for count in modes[:-1]] + [modes[-1] + 1]
        gain = 1 / math.sqrt(2 * width)
        self.weight = nn.Parameter(
            gain * torch.randn(width, width, *lattice, 2)
        )  # (out, in, *wavenumber, real and imaginary)

    def forward(self, v: Tensor) -> Tensor:
        space, axes = v.shape[2:], len(self.modes)
        dims = tuple(range(2, 2 + axes))
        work = v if v.dtype in (torch.float32, torch.float64) else v.float()  # there is no FFT in half precision
        spectrum = torch.fft.rfftn(work, dim=dims, norm="forward")
        weight = torch.view_as_complex(self.weight.to(work.dtype))
        result = torch.zeros_like(spectrum)
        highest = [min(count, (size - 1) // 2) for count, size in zip(self.modes, space, strict=True)]
        sides = [(slice(0, top + 1), slice(-top, None)) if top else (slice(0, 1),) for top in highest[:-1]]
        for corner in itertools.product(*sides, (slice(0, highest[-1] + 1),)):
            at = (slice(None), slice(None), *corner)
            result[at] = torch.einsum("bi...,oi...->bo...", spectrum[at], weight[at])
        return torch.fft.irfftn(result, s=space, dim=dims, norm="forward").to(v.dtype)


class FourierBlock(nn.Module):
    """v + P drop(gelu((1 + s) (K v + W v) + b)): spectral and pointwise mixing, scale s and shift b from the embedding.

    The paper has v <- gelu(K v + W v); the residual form with a pointwise P that starts at zero, as in arXiv:2111.13802, trains
    at any depth and starts as the identity.
    """

    def __init__(self, config: FNOConfig, modes: tuple[int, ...]) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(modes)]
        self.spectral = SpectralMixing(config.width, modes)
        self.pointwise = convolution(config.width, config.width, 1)
        self.modulation = nn.Linear(config.embedding, 2 * config.width)
        self.back = convolution(config.width, config.width, 1)
        self.dropout = Dropout(config.dropout)
        for layer in (self.modulation, self.back):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, v: Tensor, embedding: Tensor) -> Tensor:
        spread = (...,) + (None,) * (v.ndim - 2)
        scale, shift = self.modulation(embedding)[spread].chunk(2, dim=1)
        y = self.spectral(v) + self.pointwise(v)
        return v + self.back(self.dropout(F.gelu(torch.addcmul(shift, y, 1 + scale))))


class FNO(nn.Module):
    """A `Network` of Fourier multipliers and pointwise maps; time is stacked into channels.

    It acts on functions rather than on grids: the same weights give the same output, at shared points, at any resolution that resolves
    what comes in and what the pointwise maps make of it (they alias as any product on a grid does). It commutes with shifts by single
    points on periodic axes. On bounded axes it sees the coordinate, from -1 to 1, and works on an extension by zeros whose length is
    rounded up to points, so that resolutions agree exactly only where `padding` times the points is whole.

    Bias: fields that do not vanish at a wall jump there to the zeros of the extension, and the truncated series rings near the
    wall (Gibbs); the pointwise maps make up for some of it. Structures beyond `modes` are made by pointwise maps alone. Prefer
    the U-Net or the transformer for fronts and walls. The output layer starts at zero.
    Source: Li et al. (2021), arXiv:2010.08895.

    Raises: InputError when modes have another number of axes than space; ValueError for other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: FNOConfig,
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
            raise ValueError(f"A Fourier neural operator needs 1 to 3 space axes, got {axes}.")
        modes = (config.modes,) * axes if isinstance(config.modes, int) else config.modes
        if len(modes) != axes:
            raise InputError(
                f"modes {list(modes)} have {len(modes)} entries, but the data have {axes} space axes: give one per axis, or one number."
            )
        self.periodic, self.out_frames, self.shared = periodic, out_frames, shared_channels
        self.padding, self.checkpoint = config.padding, config.checkpoint
        stacked = stacked_channels(in_frames, in_channels, shared_channels) + sum(not wrap for wrap in periodic)
        convolution = CONVOLUTIONS[axes]
        self.embedding = ScalarEmbedding(num_scalars, config.embedding)
        self.stem = convolution(stacked, config.width, 1)
        self.blocks = nn.ModuleList(FourierBlock(config, modes) for _ in range(config.blocks))
        self.hidden = convolution(config.width, 2 * config.width, 1)
        self.head = convolution(2 * config.width, out_frames * out_channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        space = x.shape[3:]
        embedding = self.embedding(scalars)
        where = bounded_coordinates(x, self.periodic)
        v = self.stem(torch.cat([stack_frames(x, self.shared), where.expand(len(x), *where.shape)], dim=1))
        extra = [0 if wrap else math.ceil(self.padding * size) for size, wrap in zip(space, self.periodic, strict=True)]
        if any(extra):
            v = F.pad(v, [width for after in reversed(extra) for width in (0, after)])
        for block in self.blocks:
            v = run_block(block, v, embedding, again=self.checkpoint)
        v = v[(...,) + tuple(slice(size) for size in space)]
        return unstack_frames(self.head(F.gelu(self.hidden(v))), self.out_frames)
