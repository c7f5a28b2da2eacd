"""Deterministic emulator trained with the mean squared error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.increments import increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import valid_mean
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.networks import NetworkConfig, UNetConfig
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class RegressionConfig:
    """Settings of a regression emulator.

    Args:
        context: Known states the network sees.
        horizon: Longest lead time of one pass, in steps; beyond 1 the network is told the lead and can be asked for any in (0, horizon].
        unroll: Steps through which a last stage of training is differentiated; 1 leaves that stage out.
        network: The backbone.
    """

    kind: Literal["regression"] = "regression"
    context: int = 1
    horizon: int = 1
    unroll: int = 1
    network: NetworkConfig = field(default_factory=UNetConfig)


class Regression(nn.Module):
    """x(t + lead) = x(t) + scale(lead) F(context, lead, conditions), trained on the mean squared error of F.

    The conditional mean is all it can learn: every member of its ensemble is the same, its spread is zero, and where the future is
    uncertain its forecast is smooth.
    """

    scales: Tensor

    def __init__(self, config: RegressionConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.context,
            out_frames=1,
            in_channels=shape.channels,
            out_channels=shape.channels,
            num_scalars=1,
        )
        self.register_buffer("scales", torch.ones(config.horizon, shape.channels))

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def overlap(self) -> int:
        return self.config.context

    @property
    def window(self) -> int:
        return self.config.context + self.config.horizon

    @property
    def continuous(self) -> bool:
        return self.config.horizon > 1

    def prepare(self, x: Tensor) -> None:
        """Measure the scale of increments on windows of training data (batch, time, channel, *space)."""
        self.scales.copy_(increment_scale(x, self.config.horizon))

    def normalised_increment(self, context: Tensor, conditions: Conditions, lead: Tensor) -> Tensor:
        """F of the class: context (batch, time, channel, *space), lead (batch,) -> (batch, channel, *space)."""
        return self.network(context, conditions, lead[:, None] / self.config.horizon)[:, 0]

    def predict(self, context: Tensor, conditions: Conditions, leads: Tensor) -> Tensor:
        """States (batch, lead, channel, *space) at the given lead times (lead,) after the last state of the context."""
        batch, spread = len(context), (...,) + (None,) * (context.ndim - 3)
        increments = [
            self.normalised_increment(context, conditions, lead.to(context).expand(batch)) for lead in leads.unbind()
        ]
        scale = scale_at(self.scales, leads.to(context.device))
        return context[:, -1:] + torch.stack(increments, dim=1) * scale[spread]

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
        targets = lead_times[~known_mask]
        return torch.cat([context, self.predict(context, conditions, targets)], dim=1)

    def stages(self) -> tuple[Stage, ...]:
        one = Stage("regression", self.window, self, self._one_step_loss)
        if self.config.unroll == 1:
            return (one,)
        frames = self.context + self.config.unroll * self.config.horizon
        unrolled = Stage("unroll", frames, self, self._unrolled_loss, share=0.5, learning_rate=0.2)
        return (one, unrolled)

    def _one_step_loss(self, batch: TrainingBatch) -> Tensor:
        x, generator = batch.x, batch.generator
        context = x[:, : self.context]
        if self.config.horizon == 1:
            lead = torch.ones(len(x), dtype=torch.long, device=x.device)
        else:
            lead = torch.randint(1, self.config.horizon + 1, (batch.size,), generator=generator, device=x.device)
            lead = batch.own(lead)
        target = x[torch.arange(len(x), device=x.device), self.context - 1 + lead]
        conditions = batch.conditions.shifted(self.context - 1)
        spread = (...,) + (None,) * (x.ndim - 3)
        increment = (target - context[:, -1]) / self.scales[lead - 1][spread]
        return valid_mean((self.normalised_increment(context, conditions, lead.to(x)) - increment).square(), conditions)

    def _unrolled_loss(self, batch: TrainingBatch) -> Tensor:
        x, horizon = batch.x, self.config.horizon
        leads = torch.arange(1, horizon + 1)
        context = x[:, : self.context]
        losses = []
        for step in range(self.config.unroll):
            origin = self.context - 1 + step * horizon
            conditions = batch.conditions.shifted(origin)
            predicted = self.predict(context, conditions, leads)
            context = torch.cat([context, predicted], dim=1)[:, -self.context :]
            spread = (...,) + (None,) * (x.ndim - 3)
            error = (predicted - x[:, origin + 1 : origin + 1 + horizon]) / self.scales[spread]
            losses.append(valid_mean(error.square(), conditions))
        return torch.stack(losses).mean()
