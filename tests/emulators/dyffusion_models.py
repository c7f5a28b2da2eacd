"""Small dynamics-informed diffusions, and backbones of one line, shared by their tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from exact_models import normal
from torch import Tensor, nn

from eddycast.emulators import DYffusion, DYffusionConfig, InterpolatorConfig, ModelShape
from eddycast.networks import UNetConfig, number_sites
from eddycast.networks.dropout import Dropout
from eddycast.noise import MemberNoise

KINDS = ("dropout", "noise", "bridge")
TINY = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=6)


def interpolator(kind: str, *, rate: float = 0.3, **changes) -> InterpolatorConfig:
    network = replace(TINY, dropout=rate) if kind == "dropout" else TINY
    return InterpolatorConfig(**{"noise": kind, "network": network, **changes})  # type: ignore[arg-type]


def build(kind: str = "dropout", *, channels: int = 1, axes: int = 1, static: int = 0, **settings) -> DYffusion:
    """In float64, with all weights and scales set, so that everything is in use."""
    config = DYffusionConfig(**{"horizon": 4, "interpolator": interpolator(kind), "network": TINY, **settings})
    model = DYffusion(config, ModelShape(channels, (True,) * axes, static=static)).double().eval()
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
        lag = torch.arange(1, config.horizon + 1, dtype=torch.float64)[:, None]
        model.scales.copy_((0.3 * lag.sqrt()).expand_as(model.scales))
        model.interpolator.scales.copy_(0.2 * (lag * (1 - lag / config.horizon)).clamp_min(0).sqrt())
    return model


class OneLine(nn.Module):
    """A backbone that treats each number alone: `gain` times the frames' mean with dropout, and some of the first scalar."""

    def __init__(self, rate: float = 0.0, *, outputs: int = 1, gain: float = 0.5, told: float = 0.1) -> None:
        super().__init__()
        self.dropout, self.outputs, self.told = Dropout(rate), outputs, told
        self.gain = nn.Parameter(torch.tensor(gain, dtype=torch.float64))

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        y = x[:, :, :1].mean(dim=1, keepdim=True) + self.told * scalars[:, 0][(...,) + (None,) * (x.ndim - 1)]
        return self.gain * self.dropout(y).repeat_interleave(self.outputs, dim=2)


def one_line(kind: str = "dropout", *, rate: float = 0.3, **settings) -> DYffusion:
    """A model whose two backbones are such lines: fast, and the same for a number in whatever batch."""
    model = build(kind, **settings)
    model.interpolator.network.backbone = OneLine(
        rate if kind == "dropout" else 0.0, outputs=2 if kind == "bridge" else 1
    )
    model.forecaster.backbone = Noisy() if model.config.loss == "crps" else OneLine()
    if kind == "noise":
        model.interpolator.network.backbone = Noisy()
    for network in (model.interpolator.network, model.forecaster):
        number_sites(network)
    return model


class Noisy(nn.Module):
    """A noise field where the network is shown one: channel 1 of the first frame."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        return self.gain * (x[:, :1, :1] + x[:, :1, 1:2])


@dataclass(frozen=True)
class Spy(MemberNoise):
    """Remembers the keys of all draws."""

    keys: list[tuple[int, int, str]] = field(default_factory=list)

    @classmethod
    def of(cls, noise: MemberNoise) -> Spy:
        return cls(noise.seed, noise.cases, noise.members)

    def _fill(self, shape, key, dtype, device, uniform):
        self.keys.append(key)
        return super()._fill(shape, key, dtype, device, uniform)
