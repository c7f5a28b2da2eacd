"""Stochastic emulator trained with a proper scoring rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.increments import average_weights, increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import almost_fair_crps, valid_mean
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.networks import NetworkConfig, UNetConfig
from eddycast.noise import MemberNoise

ENSEMBLE_RATE = 0.2
"""Learning rate of the stages with noise, relative to that of the first: at full rate they would undo the accuracy it reached."""


@dataclass(frozen=True)
class ScoringConfig:
    """Settings of a scoring-rule emulator.

    Args:
        context: Known states the network sees.
        horizon: Longest lead time of one pass, in steps, as in `RegressionConfig`.
        members: Members drawn per case in training, at least 2.
        fairness: Weight of the fair CRPS against the one that counts the ensemble as it is; 1 is fair.
        noise_channels: White-noise fields that the network sees beside the context, the same with every state of it.
        gain: Gain of the noise at the start. Small, the ensemble begins narrow, at the deterministic forecast, and widens slowly
            as the score asks for it; near 1 it finds its spread within some hundred steps.
        noise_scale: Factor on the noise in use, not in training: the width of the ensemble, set on the validation split.
        pretrain: Part of the budget for a first stage that minimises the squared error without noise.
        unroll: Steps through which a last stage is differentiated, with the same score at every step; 1 leaves that stage out.
        base: What the network adds to. `last`: the last state; the network sees the states. `average`: the average of the context that
            predicts best in the training data (weights from `increments.average_weights`); the network sees departures from
            it. A record whose mean drifts then looks the same wherever it has drifted to. Needs a horizon of 1.
        network: The backbone.
    """

    kind: Literal["scoring"] = "scoring"
    context: int = 1
    horizon: int = 1
    members: int = 2
    fairness: float = 0.95
    noise_channels: int = 2
    gain: float = 0.05
    noise_scale: float = 1.0
    pretrain: float = 0.5
    unroll: int = 1
    base: Literal["last", "average"] = "last"
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if self.base == "average" and self.horizon > 1:
            raise ValueError(f"base 'average' forecasts one step at a time, got a horizon of {self.horizon}.")
        if self.members < 2:
            raise ValueError(f"The fair CRPS needs at least 2 members in training, got {self.members}.")


class ScoringRule(nn.Module):
    """x(t + lead) = base + scale(lead) F(context, noise, lead, conditions), one pass per member; base = x(t) by default.

    Trained with the (almost) fair CRPS at each point. The score is proper point by point: it rewards right margins, while the
    correlation between points is learned only through the rollout and the shared network.
    """

    scales: Tensor
    weights: Tensor

    def __init__(self, config: ScoringConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.context,
            out_frames=1,
            in_channels=shape.channels + config.noise_channels,
            out_channels=shape.channels,
            num_scalars=1,
            shared_channels=config.noise_channels,
        )
        self.gain = nn.Parameter(torch.full((config.noise_channels,), config.gain))
        self.register_buffer("scales", torch.ones(config.horizon, shape.channels))
        if config.base == "average":
            self.register_buffer("weights", torch.full((config.context, shape.channels), 1 / config.context))

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
        if self.config.base == "last":
            self.scales.copy_(increment_scale(x, self.config.horizon))
            return
        self.weights.copy_(average_weights(x, self.context))
        windows = x.unfold(1, self.context + 1, 1).movedim(-1, 2).flatten(0, 1)
        departure = windows[:, -1] - self._base(windows[:, :-1])[:, 0]
        self.scales.copy_(departure.square().transpose(0, 1).flatten(1).mean(1).sqrt().clamp_min(1e-4))

    def _base(self, context: Tensor) -> Tensor:
        """What increments are added to, (batch, 1, channel, *space), from a context (batch, time, channel, *space)."""
        if self.config.base == "last":
            return context[:, -1:]
        return (context * self.weights[(...,) + (None,) * (context.ndim - 3)]).sum(1, keepdim=True)

    def predict(self, context: Tensor, noise: Tensor, conditions: Conditions, leads: Tensor) -> Tensor:
        """States (batch, lead, channel, *space) at leads (lead,), with one noise field (batch, noise, *space) for all of them."""
        batch, spread = len(context), (...,) + (None,) * (context.ndim - 3)
        gain = self.gain[(...,) + (None,) * (noise.ndim - 2)]
        base = self._base(context)
        seen = context if self.config.base == "last" else context - base
        fields = (gain * noise)[:, None].expand(-1, context.shape[1], *noise.shape[1:])
        inputs = torch.cat([seen, fields], dim=2)
        scalars = (leads.to(context) / self.config.horizon).unbind()
        increments = [self.network(inputs, conditions, scalar.expand(batch, 1)) for scalar in scalars]
        scale = scale_at(self.scales, leads.to(context.device))
        return base + torch.cat(increments, dim=1) * scale[spread]

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
        shape = (self.config.noise_channels, *known.shape[3:])
        fields = noise.draw(shape, key=(window, 0, "scoring"), dtype=known.dtype, device=known.device)
        fields = self.config.noise_scale * fields
        return torch.cat([context, self.predict(context, fields, conditions, lead_times[~known_mask])], dim=1)

    def stages(self) -> tuple[Stage, ...]:
        config = self.config
        unrolled = config.context + config.unroll * config.horizon
        stages = []
        if config.pretrain > 0:
            stages.append(Stage("pretrain", self.window, self, self._pretraining_loss, share=config.pretrain))
        share = 1.0 - config.pretrain
        rate = ENSEMBLE_RATE if config.pretrain > 0 else 1.0
        if config.unroll == 1:
            stages.append(Stage("ensemble", self.window, self, self._score_loss, share=share, learning_rate=rate))
        else:
            stages.append(Stage("ensemble", self.window, self, self._score_loss, share=share / 2, learning_rate=rate))
            stages.append(
                Stage("unroll", unrolled, self, self._unrolled_loss, share=share / 2, learning_rate=0.5 * rate)
            )
        return tuple(stages)

    def _fields(self, batch: TrainingBatch, copies: int) -> Tensor:
        x = batch.x
        shape = (copies, batch.size, self.config.noise_channels, *x.shape[3:])
        drawn = torch.randn(shape, generator=batch.generator, device=x.device, dtype=x.dtype)
        return batch.own(drawn, dim=1).flatten(0, 1)

    def _leads(self, batch: TrainingBatch) -> Tensor:
        """One lead for the whole batch: all leads share the network, and a batch is one pass."""
        horizon = self.config.horizon
        return torch.randint(1, horizon + 1, (1,), generator=batch.generator, device=batch.x.device)

    def _pretraining_loss(self, batch: TrainingBatch) -> Tensor:
        x, leads = batch.x, self._leads(batch)
        conditions = batch.conditions.shifted(self.context - 1)
        silence = x.new_zeros(len(x), self.config.noise_channels, *x.shape[3:])
        predicted = self.predict(x[:, : self.context], silence, conditions, leads)
        error = (predicted - x[:, self.context - 1 + leads]) / self._scale(leads, x.ndim)
        return valid_mean(error.square(), conditions)

    def _score_loss(self, batch: TrainingBatch) -> Tensor:
        x, leads, members = batch.x, self._leads(batch), self.config.members
        conditions = batch.conditions.shifted(self.context - 1)
        repeated = conditions.expand(members).flatten()
        context = x[:, : self.context].repeat(members, *[1] * (x.ndim - 1))
        predicted = self.predict(context, self._fields(batch, members), repeated, leads).unflatten(0, (members, -1))
        scale = self._scale(leads, x.ndim)
        truth = x[:, self.context - 1 + leads]
        return valid_mean(almost_fair_crps(predicted / scale, truth / scale, self.config.fairness), conditions)

    def _unrolled_loss(self, batch: TrainingBatch) -> Tensor:
        x, members, horizon = batch.x, self.config.members, self.config.horizon
        leads = torch.arange(1, horizon + 1)
        context = x[:, : self.context].repeat(members, *[1] * (x.ndim - 1))
        scale = self._scale(leads.to(x.device), x.ndim)
        losses = []
        for step in range(self.config.unroll):
            origin = self.context - 1 + step * horizon
            conditions = batch.conditions.shifted(origin)
            repeated = conditions.expand(members).flatten()
            predicted = self.predict(context, self._fields(batch, members), repeated, leads)
            context = torch.cat([context, predicted], dim=1)[:, -self.context :]
            ensemble = predicted.unflatten(0, (members, -1)) / scale
            truth = x[:, origin + 1 : origin + 1 + horizon] / scale
            losses.append(valid_mean(almost_fair_crps(ensemble, truth, self.config.fairness), conditions))
        return torch.stack(losses).mean()

    def _scale(self, leads: Tensor, ndim: int) -> Tensor:
        """Scales of increments at integer leads, shaped (lead, channel, 1, ...) for states of `ndim` axes."""
        return self.scales[leads - 1][(...,) + (None,) * (ndim - 3)]
