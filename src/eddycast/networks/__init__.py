"""Backbones: maps of channels and scalars to channels. They know nothing of time, ensembles or diffusion.

A new network is one file with a config and a module of the signature of `UNet`, and one line in `NETWORKS`.
"""

from __future__ import annotations

from torch import nn

from eddycast.networks.unet import UNet, UNetConfig

NetworkConfig = UNetConfig
NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


def build_network(
    config: NetworkConfig, *, in_channels: int, out_channels: int, num_scalars: int, periodic: tuple[bool, ...]
) -> nn.Module:
    """The network that `config.kind` names."""
    return NETWORKS[config.kind](
        config, in_channels=in_channels, out_channels=out_channels, num_scalars=num_scalars, periodic=periodic
    )


__all__ = ["NETWORKS", "NetworkConfig", "UNet", "UNetConfig", "build_network"]
