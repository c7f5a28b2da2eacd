"""The network of DYffusion for the spring mesh: a few wide convolutions at full resolution, told the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from eddycast.networks.batch_norm import BatchNorm
from eddycast.networks.dropout import Dropout, require_rate
from eddycast.networks.film import FiLM, RawTimeEmbedding, require_embedding
from eddycast.networks.layers import ChannelNorm, PaddedConv, run_block, stack_frames, stacked_channels, unstack_frames


@dataclass(frozen=True)
class DyffusionCNNConfig:
    """Size of the convolutional network; the defaults are the published ones but for `zero_start`.

    Args:
        width: Channels of every block.
        kernels: Odd size of the kernel of each block. They see sum(kernel - 1) / 2 points to each side: 10 with the defaults.
        embedding: Width of the embedding of the scalars, a multiple of 4.
        dropout: Rate after the activation of each block; published are 0.05 and, for the forecaster, 0.
        norm: `batch`, as published, with all that `batch_norm` says of it; `channel` normalises over channels at each point instead.
        padding: `zeros` beyond all ends, as published, so that the edges are seen and periodic axes have a seam; `boundary` wraps
            periodic axes and repeats the edge value of bounded ones.
        time_factor: What the first scalar is multiplied by: the horizon in steps where it is a time over the horizon.
        zero_start: The last layer starts at zero, as in all networks here; not so in the published one.
        checkpoint: Compute blocks again in the backward pass instead of keeping what they computed: less memory, more time.

    Raises: ValueError for sizes that make no network.
    """

    kind: Literal["cnn-dyffusion"] = "cnn-dyffusion"
    width: int = 64
    kernels: tuple[int, ...] = (9, 7, 5, 3)
    embedding: int = 128
    dropout: float = 0.0
    norm: Literal["batch", "channel"] = "batch"
    padding: Literal["zeros", "boundary"] = "zeros"
    time_factor: float = 134.0
    zero_start: bool = True
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if not self.kernels or min(*self.kernels, self.width) < 1:
            raise ValueError("kernels (at least one block) and width of a DYffusion CNN must be positive.")
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"kernels of a DYffusion CNN must be odd, got {self.kernels}.")
        require_rate(self.dropout, "dropout of a DYffusion CNN")
        require_embedding(self.embedding, "a DYffusion CNN")


class ConvBlock(nn.Module):
    """drop(gelu(film(norm(conv(x))))), plus x where widths agree."""

    def __init__(
        self, in_channels: int, kernel: int, config: DyffusionCNNConfig, periodic: tuple[bool, ...], *, told: bool
    ) -> None:
        super().__init__()
        width = config.width
        self.conv = PaddedConv(in_channels, width, kernel, periodic, zeros=config.padding == "zeros")
        self.norm = BatchNorm(width) if config.norm == "batch" else ChannelNorm()
        self.film = FiLM(config.embedding, width, told=told)
        self.dropout = Dropout(config.dropout)
        self.residual = in_channels == width

    def forward(self, x: Tensor, embedding: Tensor | None) -> Tensor:
        y = self.dropout(nn.functional.gelu(self.film(self.norm(self.conv(x)), embedding)))
        return x + y if self.residual else y


class DyffusionCNN(nn.Module):
    """A `Network` that stacks time into channels, channel by channel, and never leaves the grid it is given.

    Scalars enter as `film` says. With one scalar or none, and `norm` batch, the weights are in number and shape those of the published
    nets: 478 532 with 9 channels in and 4 out (interpolator and forecaster), 457 796 with 5 in (the Dropout baseline). The order of the
    layers within a block follows the fact sheet of the released code, which gives no more than their list; where exactly
    the residual is added is our reading.
    With padding `boundary` the map commutes with shifts by single points along periodic axes; with `zeros` with none.
    Bias: nothing beyond the reach of the kernels is seen, so that large grids want deeper networks.
    Source: arXiv:2306.01984, spring mesh.

    Raises: ValueError when there are other than 1 to 3 space axes.
    """

    def __init__(
        self,
        config: DyffusionCNNConfig,
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
            raise ValueError(f"A DYffusion CNN needs 1 to 3 space axes, got {len(periodic)}.")
        self.out_frames, self.shared, self.checkpoint = out_frames, shared_channels, config.checkpoint
        stacked = stacked_channels(in_frames, in_channels, shared_channels)
        widths = [stacked] + [config.width] * (len(config.kernels) - 1)
        self.embedding = RawTimeEmbedding(num_scalars, config.embedding, config.time_factor)
        self.blocks = nn.ModuleList(
            ConvBlock(width, kernel, config, periodic, told=num_scalars > 0)
            for width, kernel in zip(widths, config.kernels, strict=True)
        )
        self.head = PaddedConv(config.width, out_frames * out_channels, 1, periodic)
        if config.zero_start:
            nn.init.zeros_(self.head.conv.weight)
            nn.init.zeros_(self.head.conv.bias)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        embedding = self.embedding(scalars)
        y = stack_frames(x, self.shared)
        for block in self.blocks:
            y = run_block(block, y, embedding, again=self.checkpoint)
        return unstack_frames(self.head(y), self.out_frames)
