"""Backbones: maps of frames of channels, and scalars, to frames of channels. They know nothing of ensembles or diffusion.

A new network is one file with a config and a module of the signature of `UNet` that fulfils `protocols.Network`, one entry in
`NETWORKS` and one alternative in `NetworkConfig`.
"""

from __future__ import annotations

from torch import nn

from eddycast.networks.batch_norm import BatchNorm, batch_norms, running_statistics
from eddycast.networks.dropout import MemberMasks, TrainingMasks, has_dropout, masks_from, number_sites
from eddycast.networks.dyffusion_cnn import DyffusionCNN, DyffusionCNNConfig
from eddycast.networks.fno import FNO, FNOConfig
from eddycast.networks.local_transformer import LocalTransformer, LocalTransformerConfig
from eddycast.networks.mlp import MLP, MLPConfig
from eddycast.networks.modern_unet import ModernUNet, ModernUNetConfig
from eddycast.networks.otness_unet import OtnessUNet, OtnessUNetConfig
from eddycast.networks.protocols import Network
from eddycast.networks.resnet_unet import ResNetUNet, ResNetUNetConfig
from eddycast.networks.sda_unet import SDAUNet, SDAUNetConfig
from eddycast.networks.space_time_transformer import SpaceTimeTransformer, SpaceTimeTransformerConfig
from eddycast.networks.transformer import Transformer, TransformerConfig
from eddycast.networks.unet import UNet, UNetConfig

NetworkConfig = (
    UNetConfig
    | TransformerConfig
    | FNOConfig
    | SDAUNetConfig
    | ModernUNetConfig
    | SpaceTimeTransformerConfig
    | DyffusionCNNConfig
    | OtnessUNetConfig
    | ResNetUNetConfig
    | MLPConfig
    | LocalTransformerConfig
)
NETWORKS: dict[str, type[nn.Module]] = {
    "unet": UNet,
    "transformer": Transformer,
    "fno": FNO,
    "unet-sda": SDAUNet,
    "unet-modern": ModernUNet,
    "transformer-latent": SpaceTimeTransformer,
    "cnn-dyffusion": DyffusionCNN,
    "unet-otness": OtnessUNet,
    "unet-resnet": ResNetUNet,
    "mlp": MLP,
    "transformer-local": LocalTransformer,
}


def build_network(
    config: NetworkConfig,
    *,
    in_frames: int,
    out_frames: int,
    in_channels: int,
    out_channels: int,
    num_scalars: int,
    periodic: tuple[bool, ...],
    shared_channels: int = 0,
) -> nn.Module:
    """The network that `config.kind` names; `Network` says what the arguments are.

    Raises: ValueError for numbers of axes, frames or channels that no network takes.
    """
    if len(periodic) not in (1, 2, 3):
        raise ValueError(f"A network needs 1 to 3 space axes, got {len(periodic)}.")
    if not 1 <= out_frames <= in_frames:
        raise ValueError(f"out_frames must lie in 1 ... in_frames = {in_frames}, got {out_frames}.")
    if not 0 <= shared_channels <= in_channels:
        raise ValueError(f"shared_channels must lie in 0 ... in_channels = {in_channels}, got {shared_channels}.")
    network = NETWORKS[config.kind](
        config,
        in_frames=in_frames,
        out_frames=out_frames,
        in_channels=in_channels,
        out_channels=out_channels,
        num_scalars=num_scalars,
        periodic=periodic,
        shared_channels=shared_channels,
    )
    number_sites(network)
    return network


__all__ = [
    "FNO",
    "MLP",
    "NETWORKS",
    "BatchNorm",
    "DyffusionCNN",
    "DyffusionCNNConfig",
    "FNOConfig",
    "LocalTransformer",
    "LocalTransformerConfig",
    "MLPConfig",
    "MemberMasks",
    "ModernUNet",
    "ModernUNetConfig",
    "Network",
    "NetworkConfig",
    "OtnessUNet",
    "OtnessUNetConfig",
    "ResNetUNet",
    "ResNetUNetConfig",
    "SDAUNet",
    "SDAUNetConfig",
    "SpaceTimeTransformer",
    "SpaceTimeTransformerConfig",
    "TrainingMasks",
    "Transformer",
    "TransformerConfig",
    "UNet",
    "UNetConfig",
    "batch_norms",
    "build_network",
    "has_dropout",
    "masks_from",
    "running_statistics",
]
