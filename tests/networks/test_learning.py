"""Each network learns an operator with a known answer, in a few hundred cheap steps."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.networks import (
    DyffusionCNNConfig,
    FNOConfig,
    LocalTransformerConfig,
    ModernUNetConfig,
    NetworkConfig,
    ResNetUNetConfig,
    SDAUNetConfig,
    SpaceTimeTransformerConfig,
    TransformerConfig,
    UNetConfig,
    build_network,
)

STEPS, POINTS = 250, 16
SMALL = {"patch": 2, "width": 32, "heads": 2, "blocks": 2, "embedding": 16}
CONFIGS: dict[str, tuple[NetworkConfig, float]] = {
    "unet": (UNetConfig(channels=(16, 16), blocks=1, kernel=3, embedding=16), 0.08),
    "transformer": (TransformerConfig(**SMALL), 0.10),
    "transformer-axial": (TransformerConfig(**SMALL, attention="axial"), 0.12),
    "fno": (FNOConfig(modes=7, width=16, blocks=2, embedding=16), 0.05),
    "unet-sda": (SDAUNetConfig(channels=(16, 16), blocks=1, embedding=16), 0.045),
    "unet-modern": (ModernUNetConfig(hidden=16, multipliers=(1, 1), blocks=1), 0.045),
    "transformer-latent": (SpaceTimeTransformerConfig(**SMALL, timed=False), 0.11),
    "transformer-local": (LocalTransformerConfig(window=9, width=32, heads=2, blocks=2, embedding=16), 0.15),
    "cnn-dyffusion": (
        DyffusionCNNConfig(
            width=16, kernels=(5, 3, 3), embedding=16, norm="channel", padding="boundary", time_factor=3.0
        ),
        0.1,
    ),
    "unet-resnet": (
        ResNetUNetConfig(width=16, multipliers=(1, 1), heads=2, head_width=8, embedding=16, padding="boundary"),
        0.1,
    ),
}
"""Network and the relative error it must fall below: about twice what one run reached."""


def moved_heat(step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Waves k <= 4 in two frames, a diffusivity s in (0, 1), and what is asked for: the last frame one cell further, with
    each wave damped by exp(-0.2 s k^2)."""
    generator = torch.Generator().manual_seed(step)
    wave, phase = torch.arange(1, 5)[:, None], 2 * math.pi * torch.arange(POINTS) / POINTS
    amplitude = torch.randn(64, 2, 4, 1, generator=generator)
    start = 2 * math.pi * torch.rand(64, 2, 4, 1, generator=generator)
    diffusivity = torch.rand(64, 1, generator=generator)
    damping = torch.exp(-0.2 * diffusivity[:, :, None, None] * wave**2)
    waves = amplitude * (wave * phase + start).cos()
    x, y = waves.sum(dim=2), (damping * waves).sum(dim=2)[:, -1:].roll(1, dims=-1)
    return x[:, :, None], diffusivity, y[:, :, None]


@pytest.mark.parametrize("name", CONFIGS)
def test_network_learns_to_shift_and_to_diffuse(name):
    """The right frame, the right direction and the right use of the scalar: the
    best linear map blind to the scalar has an error of 0.27."""
    config, bound = CONFIGS[name]
    net = build_network(
        config, in_frames=2, out_frames=1, in_channels=1, out_channels=1, num_scalars=1, periodic=(True,)
    )
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            if weight.ndim > 1 and weight.abs().max() > 0:
                random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
                weight.copy_(random / math.sqrt(weight[0].numel()))
            elif weight.ndim == 1 and not (weight == 1).all():  # norms start with a scale of one
                weight.zero_()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for step in range(STEPS):
        x, scalars, y = moved_heat(step)
        loss = (net(x, scalars) - y).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
    x, scalars, y = moved_heat(10**6)
    with torch.no_grad():
        error = ((net(x, scalars) - y).square().mean() / y.square().mean()).sqrt().item()
        blind = ((net(x, scalars.roll(1, 0)) - y).square().mean() / y.square().mean()).sqrt().item()
    assert error < bound and blind > 2 * error, (error, blind)
