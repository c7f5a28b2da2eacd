"""A residual network of dense layers at each point: for states without space, such as those of ordinary differential equations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.layers import ScalarEmbedding, run_block, stack_frames, stacked_channels, unstack_frames


@dataclass(frozen=True)
class MLPConfig:
    """Size of a pointwise network.

    Args:
        width: Features of a point.
        blocks: Residual blocks of two dense layers.
        embedding: Width of the embedding of the conditioning scalars.
        dropout: Rate after the activation inside blocks; 0 drops nothing.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that make no network.
    """

    kind: Literal["mlp"] = "mlp"
    width: int = 64
    blocks: int = 3
    embedding: int = 32
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.embedding) < 1:
            raise ValueError("width, blocks and embedding of an MLP must be positive.")
        require_rate(self.dropout, "dropout of an MLP")


class DenseBlock(nn.Module):
    """x + W2 drop(silu(W1 norm(x) + V e)), with e the embedding; W2 starts at zero."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.first = nn.Linear(config.width, config.width)
        self.told = nn.Linear(config.embedding, config.width, bias=False)
        self.second = nn.Linear(config.width, config.width)
        self.dropout = Dropout(config.dropout)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        told = self.told(embedding)[(slice(None),) + (None,) * (x.ndim - 2)]
        y = F.silu(self.first(F.layer_norm(x, x.shape[-1:])) + told)
        return x + self.second(self.dropout(y))


class MLP(nn.Module):
    """A `Network` that maps what stands at a point, of all frames and channels, to what will stand there.

    It knows neither neighbours nor place: of fields on more than one point it is the local part alone. A U-Net of one level with
    kernel 1 is as able; on states of one point it takes twice the time, as its convolutions find channels apart in memory.
    The output layer starts at zero.

    Raises: ValueError when there are other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: MLPConfig,
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
            raise ValueError(f"An MLP needs 1 to 3 space axes, got {len(periodic)}.")
        self.out_frames, self.shared, self.checkpoint = out_frames, shared_channels, config.checkpoint
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        self.embedding = ScalarEmbedding(num_scalars, config.embedding)
        self.stem = nn.Linear(stacked, config.width)
        self.blocks = nn.ModuleList(DenseBlock(config) for _ in range(config.blocks))
        self.head = nn.Linear(config.width, out_frames * out_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        embedding = self.embedding(scalars)
        y = self.stem(stack_frames(x, self.shared).movedim(1, -1))
        for block in self.blocks:
            y = run_block(block, y, embedding, again=self.checkpoint)
        y = self.head(F.silu(F.layer_norm(y, y.shape[-1:])))
        return unstack_frames(y.movedim(-1, 1), self.out_frames)
