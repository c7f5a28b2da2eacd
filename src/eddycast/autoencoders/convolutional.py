"""A convolutional autoencoder of single states, for 1-, 2- and 3-D."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from eddycast.autoencoders.layers import (
    SATURATIONS,
    PlacedConv,
    ResidualBlock,
    compression,
    depth_to_space,
    latent_points,
    space_to_depth,
)
from eddycast.errors import InputError


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of a convolutional autoencoder.

    Args:
        channels: Width of each level, finest first; each further one halves the points along every axis.
        blocks: Residual blocks per level, in the encoder and in the decoder.
        latent_channels: Channels of the latent: these and the levels set the compression.
        padding: `boundary`: wrapped where periodic, edge repeated where bounded; `zeros`, as published, whatever the boundary.
        init: `identity`: resampling convolutions begin as copies; `default`: with torch's usual weights.
        saturation: A key of `layers.SATURATIONS`.
        bound: What latents stay below (unless `saturation` is none), so that nothing needs to standardise them.
        dropout: Within residual blocks, in training.

    Raises: ValueError for sizes that no network has.
    """

    channels: tuple[int, ...] = (16, 32, 64, 64)
    blocks: int = 1
    latent_channels: int = 16
    padding: str = "boundary"
    init: str = "identity"
    saturation: str = "root"
    bound: float = 5.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.channels or min(*self.channels, self.latent_channels) < 1 or self.blocks < 0:
            raise ValueError(
                f"channels and latent_channels must be positive and blocks not negative, got {self.channels}, "
                f"{self.latent_channels} and {self.blocks}."
            )
        if self.blocks and min(self.channels) < 2:
            raise ValueError(
                f"residual blocks normalise over channels and need at least 2 on each level, got {self.channels}."
            )
        choices = (
            ("padding", ("boundary", "zeros")),
            ("init", ("identity", "default")),
            ("saturation", tuple(SATURATIONS)),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if not (self.bound > 0 and 0 <= self.dropout < 1):
            raise ValueError(f"bound must be positive and dropout in [0, 1), got {self.bound} and {self.dropout}.")

    @property
    def factor(self) -> int:
        """Points of the state to one point of the latent, along each axis."""
        return 2 ** (len(self.channels) - 1)


class Autoencoder(nn.Module):
    """z = saturate(encoder(x)), x' = decoder(z) for normalised states x (batch, channel, *space).

    Encoder: a convolution; at each further level `space_to_depth` and a convolution to its width; residual blocks; a convolution to the
    latent channels. The decoder mirrors it. Resampling loses no number by itself: what is lost is lost where channels are fewer.
    There is no noise, no prior and no adversary: what the latents look like is left to the emulator, which needs them bounded only.

    With `init` identity and without the random part an encoder level followed by its decoder level returns what fits in its channels. The
    convolution before `depth_to_space` copies its C_in channels cyclically into 2^d C_out, C_out slowest: with C_in = 2^d C_out
    that is the identity, with fewer the copies begin in the wrong places and are learned away.

    Args:
        channels: Channels of a state.
        periodic: Whether each space axis is periodic; its length is the number of axes.

    Source: arXiv:2507.02608, appendix B, after DC-AE, arXiv:2410.10733, without its attention and averaging; boundary padding is ours.
    Bias: what is finer than the latent can hold is smoothed, so variances and high wavenumbers come out too small.
    """

    def __init__(self, config: AutoencoderConfig, channels: int, periodic: tuple[bool, ...]) -> None:
        super().__init__()
        self.config, self.axes, self.state_channels = config, len(periodic), channels
        zeros, near = config.padding == "zeros", config.init == "identity"
        points = 2**self.axes
        widths = config.channels

        def conv(inputs: int, outputs: int, identity: bool = near) -> PlacedConv:
            return PlacedConv(inputs, outputs, periodic, zeros=zeros, identity=identity)

        def blocks(width: int) -> nn.Sequential:
            return nn.Sequential(
                *(ResidualBlock(width, periodic, zeros=zeros, dropout=config.dropout) for _ in range(config.blocks))
            )

        self.stem = conv(channels, widths[0], identity=False)
        self.down = nn.ModuleList(conv(points * a, b) for a, b in pairwise(widths))
        self.encoder = nn.ModuleList(blocks(width) for width in widths)
        self.to_latent = conv(widths[-1], config.latent_channels)
        self.from_latent = conv(config.latent_channels, widths[-1])
        self.decoder = nn.ModuleList(blocks(width) for width in widths)
        self.up = nn.ModuleList(conv(b, points * a) for a, b in pairwise(widths))
        self.head = conv(widths[0], channels, identity=False)

    @property
    def compression(self) -> float:
        """Numbers of a state to one of its latent."""
        return compression(self.state_channels, self.config.latent_channels, self.config.factor, self.axes)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Points of the latent of a grid. Raises: InputError for a grid that is not divisible by the downsampling."""
        found = latent_points(shape, self.config.factor)
        if found is None:
            raise InputError(
                f"The autoencoder halves each axis {len(self.config.channels) - 1} times: a grid of "
                f"{' x '.join(map(str, shape))} points is not divisible by {self.config.factor}; regrid the data, or take fewer levels."
            )
        return found

    def encode(self, x: Tensor) -> Tensor:
        """Normalised states (batch, channel, *space) -> latents (batch, latent_channels, *space / factor), below the bound."""
        self.latent_shape(tuple(x.shape[2:]))
        x = self.stem(x)
        for level, blocks in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](space_to_depth(x, self.axes))
            x = blocks(x)
        return SATURATIONS[self.config.saturation](self.to_latent(x), self.config.bound)

    def decode(self, z: Tensor) -> Tensor:
        """Latents, as `encode` gives them, -> normalised states."""
        x = self.from_latent(z)
        for level in reversed(range(len(self.decoder))):
            x = self.decoder[level](x)
            if level:
                x = depth_to_space(self.up[level - 1](x), self.axes)
        return self.head(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """States -> their reconstruction and their latents."""
        z = self.encode(x)
        return self.decode(z), z
