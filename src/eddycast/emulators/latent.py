"""Latents as a model space: a normalisation, and an autoencoder on top of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.autoencoders import Autoencoder, ResidualScale
from eddycast.conditions import Conditions
from eddycast.emulators.protocols import Space

NUMBERS_PER_PASS = 2**22
"""Of the widest level of an autoencoder: states beyond are encoded and decoded in pieces, which bounds the memory."""


@dataclass(frozen=True)
class LatentSpace:
    """z = encoder(normalised state), frame by frame; `decode` gives physical states.

    Args:
        inner: Physical states to what the autoencoder sees.
        autoencoder: With frozen weights.
        residual: Standard deviation of what a reconstruction misses; None where it was not learned.
        frames: Frames in one pass; None for what `NUMBERS_PER_PASS` allows. Results are bitwise the same at a fixed number.
    """

    inner: Space
    autoencoder: Autoencoder
    residual: ResidualScale | None = None
    frames: int | None = None

    @property
    def lossy(self) -> bool:
        """A state does not come back as it was: what it has lost is an error of representation."""
        return True

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Physical (*batch, time, channel, *space) -> latents (*batch, time, latent channel, *latent space)."""
        return self.encode_normalised(self.inner.encode(state, conditions, lead_times), conditions)

    def encode_normalised(self, x: Tensor, conditions: Conditions) -> Tensor:
        """What the inner space made of states -> latents."""
        return self._each(self.autoencoder.encode, x, conditions)

    def decode(self, x: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Latents -> physical states."""
        return self.inner.decode(self._each(self.autoencoder.decode, x, conditions), conditions, lead_times)

    def dressed(self, x: Tensor, conditions: Conditions, lead_times: Tensor, noise: Tensor) -> Tensor:
        """Latents -> physical states with the uncertainty of their decoder: D(z) + scale(D(z)) noise.

        Args:
            noise: Standard normal numbers of the shape of the states.

        Bias: the noise is white in space and time, what is really lost is not; point by point the spread is right.
        Raises: ValueError where the scale was not learned.
        """
        if self.residual is None:
            raise ValueError("This autoencoder has not learned the scale of its residual.")
        y = self._each(self.autoencoder.decode, x, conditions)
        return self.inner.decode(y + self._each(self.residual, y, conditions) * noise, conditions, lead_times)

    def _each(self, network: Callable[[Tensor], Tensor], x: Tensor, conditions: Conditions) -> Tensor:
        """The network on each frame of x (*batch, channel, *space), piece by piece."""
        axes = len(conditions.grid.axes)
        flat = x.flatten(0, -axes - 2)
        if len(flat) == 0:  # nothing known: the shape alone is wanted
            return network(flat.new_zeros(1, *flat.shape[1:]))[:0].unflatten(0, x.shape[: -axes - 1])
        size = self.frames or max(
            1, NUMBERS_PER_PASS // (self.autoencoder.config.channels[0] * conditions.grid.num_points)
        )
        out = torch.cat([network(piece) for piece in flat.split(size)])
        return out.unflatten(0, x.shape[: -axes - 1])

    def to(self, device: torch.device | str) -> LatentSpace:
        inner = self.inner.to(device) if hasattr(self.inner, "to") else self.inner  # type: ignore[attr-defined]
        residual = None if self.residual is None else self.residual.to(device)
        return replace(self, inner=inner, autoencoder=self.autoencoder.to(device), residual=residual)
