"""States to latents and back: the network, what it minimises, and the views of a state on which it is trained.

A new autoencoder has `encode`, `decode`, `latent_shape` and `compression` like `Autoencoder`; `emulators.Autoencoding` trains it and
`emulators.LatentSpace` makes a space of it.
"""

from __future__ import annotations

from eddycast.autoencoders.augmentation import KINDS, Components, View, draw_view, flip, permute, roll
from eddycast.autoencoders.convolutional import Autoencoder, AutoencoderConfig
from eddycast.autoencoders.layers import (
    SATURATIONS,
    ResidualScale,
    compression,
    depth_to_space,
    latent_points,
    space_to_depth,
)
from eddycast.autoencoders.losses import LOSSES, mae, variance_normalised, vmse, vrmse

__all__ = [
    "KINDS",
    "LOSSES",
    "SATURATIONS",
    "Autoencoder",
    "AutoencoderConfig",
    "Components",
    "ResidualScale",
    "View",
    "compression",
    "depth_to_space",
    "draw_view",
    "flip",
    "latent_points",
    "mae",
    "permute",
    "roll",
    "space_to_depth",
    "variance_normalised",
    "vmse",
    "vrmse",
]
