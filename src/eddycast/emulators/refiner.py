"""PDE-Refiner: a prediction, and then corrections of smaller and smaller amplitude by the same network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.increments import increment_scale
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import valid_mean
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.networks import NetworkConfig, UNetConfig
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class RefinerConfig:
    """Settings of a PDE-Refiner.

    The default of `min_noise_std` is the root of 4e-7, the number in the released settings for the Kuramoto-Sivashinsky equation, which
    the released code takes as a variance. The paper's pseudo-code takes such a number as a standard deviation; single precision would
    hardly resolve it beside increments of order one.

    Args:
        context: Known states the network sees.
        refinements: Corrections K after the first prediction; a step costs K + 1 passes. 3 in the released settings.
        min_noise_std: Standard deviation of the noise of the last correction, in units of the root-mean-square increment of a step.
        network: The backbone. The published one is `unet-modern`.
    """

    kind: Literal["refiner"] = "refiner"
    context: int = 1
    refinements: int = 3
    min_noise_std: float = 6.3e-4
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if self.context < 1 or self.refinements < 1:
            raise ValueError(
                f"context and refinements of a refiner must be positive, got {self.context} and {self.refinements}: "
                "without refinements it is the family 'regression'."
            )
        if not 0 < self.min_noise_std < 1:
            raise ValueError(f"min_noise_std of a refiner must lie between 0 and 1, got {self.min_noise_std}.")

    def noise_std(self, step: Tensor) -> Tensor:
        """sigma_k for steps k = 1 ... K: geometric, down to `min_noise_std`."""
        return self.min_noise_std ** (step / self.refinements)


class Refiner(nn.Module):
    """x(t + 1) = x(t) + scale d_K, where one network u(noised d, context, k) makes d_0 and corrects it K times.

        d_0 = u(0, context, 0),   y_k = d_{k-1} + sigma_k eps_k,   d_k = y_k - sigma_k u(y_k, context, k),   sigma_k = sigma_min^(k / K)

    It is trained with the squared error of u on d at k = 0 and on eps at k = 1 ... K, where y_k = d + sigma_k eps, all k being equally
    likely. Published networks are told k; this one k / K, as scalar 0. Released code predicts a mixture of d and eps (the "velocity") on
    a variance-preserving schedule; what stands here is the algorithm of the paper.

    Members differ by eps_k, but the ensemble is narrow. If d given the context is Gaussian with variance s^2 in some mode, the
    ideal network makes d_k the posterior mean given y_k, hence, with gain g_k = s^2 / (s^2 + sigma_k^2),

        variance:  v_0 = 0,   v_k = g_k^2 (v_{k-1} + sigma_k^2)  <  s^2,

    about the sum of all sigma_k^2 where s^2 is much larger: the spread is that of the noise put in, not of the future. The mean is right.
    Source: arXiv:2308.05732, pseudo-code of appendix C; settings of the released code.
    """

    scales: Tensor

    def __init__(self, config: RefinerConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.context,
            out_frames=1,
            in_channels=2 * shape.channels,
            out_channels=shape.channels,
            num_scalars=1,
            shared_channels=shape.channels,
        )
        self.register_buffer("scales", torch.ones(1, shape.channels))

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def overlap(self) -> int:
        return self.config.context

    @property
    def window(self) -> int:
        return self.config.context + 1

    @property
    def continuous(self) -> bool:
        return False

    def prepare(self, x: Tensor) -> None:
        """Measure the scale of increments on windows of training data (batch, time, channel, *space)."""
        self.scales.copy_(increment_scale(x, 1))

    def correction(self, noised: Tensor, context: Tensor, conditions: Conditions, step: Tensor) -> Tensor:
        """u of the class: noised (batch, channel, *space), context (batch, time, channel, *space), step k (batch,), shaped as noised."""
        candidate = noised[:, None].expand(-1, context.shape[1], *noised.shape[1:])
        scalars = step[:, None].to(context) / self.config.refinements
        return self.network(torch.cat([context, candidate], dim=2), conditions, scalars)[:, 0]

    def predict(self, context: Tensor, conditions: Conditions, noise: Tensor) -> Tensor:
        """The next state (batch, channel, *space) after a context (batch, time, channel, *space), with the noise of all steps.

        Args:
            noise: eps_k, (batch, refinements, channel, *space).
        """
        noise = _where_valid(noise, conditions)
        steps = torch.arange(self.config.refinements + 1, device=context.device).expand(len(context), -1)
        change = self.correction(torch.zeros_like(context[:, -1]), context, conditions, steps[:, 0])
        for k in range(1, self.config.refinements + 1):
            std = self.config.noise_std(steps[0, k]).to(context)
            noised = change + std * noise[:, k - 1]
            change = noised - std * self.correction(noised, context, conditions, steps[:, k])
        return context[:, -1] + change * self._scale(context)

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        context = known[:, known_mask]
        draws = [
            noise.draw(known.shape[2:], key=(window, k, "refiner"), dtype=known.dtype, device=known.device)
            for k in range(1, self.config.refinements + 1)
        ]
        return torch.cat([context, self.predict(context, conditions, torch.stack(draws, dim=1))[:, None]], dim=1)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("refiner", self.window, self, self._loss),)

    def _loss(self, batch: TrainingBatch) -> Tensor:
        x, generator = batch.x, batch.generator
        context, conditions = x[:, : self.context], batch.conditions.shifted(self.context - 1)
        step = torch.randint(0, self.config.refinements + 1, (batch.size,), generator=generator, device=x.device)
        noise = torch.randn((batch.size, *x.shape[2:]), generator=generator, device=x.device, dtype=x.dtype)
        step, noise = batch.own(step), batch.own(noise)
        spread = (...,) + (None,) * (x.ndim - 2)
        change = (x[:, -1] - context[:, -1]) / self._scale(x)
        first, std = (step == 0)[spread], self.config.noise_std(step)[spread].to(x)
        noised = _where_valid(torch.where(first, 0.0, change + std * noise), conditions)
        error = self.correction(noised, context, conditions, step) - torch.where(first, change, noise)
        return valid_mean(error.square(), conditions)

    def _scale(self, x: Tensor) -> Tensor:
        """Scales of increments, shaped (channel, 1, ...) for states of as many axes as x."""
        return self.scales[0][(...,) + (None,) * (x.ndim - 3)]


def _where_valid(field: Tensor, conditions: Conditions) -> Tensor:
    """Zero at points that are not valid: the network says nothing there, and noise would pile up in a rollout."""
    return field if conditions.valid is None else torch.where(conditions.valid.to(field.device), field, 0.0)
