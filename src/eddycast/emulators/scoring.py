"""Stochastic emulator trained with a proper scoring rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.increments import average_weights, increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import (
    almost_fair_crps,
    almost_fair_energy_score,
    periodic_dims,
    refuse_land,
    spectral_amplitude_error,
    spectral_crps,
    spread_and_error,
    valid_mean,
)
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
        score: What the members are scored by: `crps` at each point, or `energy`, the energy score of the whole field.
        fairness: Weight of the fair score against the one that counts the ensemble as it is; 1 is fair.
        spectral: What is added of the Fourier modes along periodic axes: `none`; `amplitude`, the error of each member's amplitudes,
            published but not proper, it takes spread; or `crps`, proper. Not on land.
        spectral_weight: Weight of that term, relative to the score.
        noise: Where it enters: `input`, white-noise fields beside the states, or `network`, inside a backbone that takes it.
        noise_channels: White-noise fields that the network sees beside the context, the same with every state of it; with `input`.
        gain: Gain of these fields at the start. Small, the ensemble begins narrow, at the deterministic forecast, and widens slowly
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
    score: Literal["crps", "energy"] = "crps"
    fairness: float = 0.95
    spectral: Literal["none", "amplitude", "crps"] = "none"
    spectral_weight: float = 1.0
    noise: Literal["input", "network"] = "input"
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
            raise ValueError(f"A fair score needs at least 2 members in training, got {self.members}.")
        if not 0 <= self.fairness <= 1:
            raise ValueError(f"fairness is a share in [0, 1], got {self.fairness}.")
        if not 0 <= self.spectral_weight < float("inf"):
            raise ValueError(f"spectral_weight must be 0 or more, got {self.spectral_weight}.")

    @property
    def fields(self) -> int:
        """Noise fields beside the states."""
        return self.noise_channels if self.noise == "input" else 0


class ScoringRule(nn.Module):
    """x(t + lead) = base + scale(lead) F(context, noise, lead, conditions), one pass per member; base = x(t) by default.

    Trained with the (almost) fair CRPS at each point. The score is proper point by point: it rewards right margins, while the
    correlation between points is learned only through the rollout and the shared network. The energy score is proper for the field,
    a spectral term looks at its Fourier modes; all are in units of the scale of increments.

    Noise in the network is N(0, 1) of the shape that the backbone says, new at each step and for each member, the same for all leads of a
    window; the first stage gives it zeros. How wide the ensemble begins is then up to the backbone.
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
            in_channels=shape.channels + config.fields,
            out_channels=shape.channels,
            num_scalars=1,
            shared_channels=config.fields,
            noisy=config.noise == "network",
        )
        self.dims = () if config.spectral == "none" else periodic_dims(shape.periodic)
        if config.noise == "input":
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
        """States (batch, lead, channel, *space) at leads (lead,), with noise (batch, *noise_shape) that is the same for all of them."""
        batch, spread = len(context), (...,) + (None,) * (context.ndim - 3)
        base = self._base(context)
        inputs = context if self.config.base == "last" else context - base
        inside = {} if self.config.noise == "input" else {"noise": noise}
        if self.config.noise == "input":
            gain = self.gain[(...,) + (None,) * (noise.ndim - 2)]
            fields = (gain * noise)[:, None].expand(-1, context.shape[1], *noise.shape[1:])
            inputs = torch.cat([inputs, fields], dim=2)
        scalars = (leads.to(context) / self.config.horizon).unbind()
        increments = [self.network(inputs, conditions, scalar.expand(batch, 1), **inside) for scalar in scalars]
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
        site = "scoring" if self.config.noise == "input" else "scoring-network"
        shape = self.noise_shape(tuple(known.shape[3:]))
        drawn = noise.draw(shape, key=(window, 0, site), dtype=known.dtype, device=known.device)
        drawn = self.config.noise_scale * drawn
        return torch.cat([context, self.predict(context, drawn, conditions, lead_times[~known_mask])], dim=1)

    def noise_shape(self, space: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the noise of one member for a window on a grid of `space` points."""
        if self.config.noise == "input":
            return (self.config.noise_channels, *space)
        shape = self.network.noise_shape(space)
        assert shape is not None, "the network was built with noise"
        return shape

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

    def _noise(self, batch: TrainingBatch, copies: int) -> Tensor:
        x = batch.x
        shape = (copies, batch.size, *self.noise_shape(tuple(x.shape[3:])))
        drawn = torch.randn(shape, generator=batch.generator, device=x.device, dtype=x.dtype)
        return batch.own(drawn, dim=1).flatten(0, 1)

    def _leads(self, batch: TrainingBatch) -> Tensor:
        """One lead for the whole batch: all leads share the network, and a batch is one pass."""
        horizon = self.config.horizon
        return torch.randint(1, horizon + 1, (1,), generator=batch.generator, device=batch.x.device)

    def _pretraining_loss(self, batch: TrainingBatch) -> Tensor:
        x, leads = batch.x, self._leads(batch)
        conditions = batch.conditions.shifted(self.context - 1)
        self._check(conditions)
        silence = x.new_zeros(len(x), *self.noise_shape(tuple(x.shape[3:])))
        predicted = self.predict(x[:, : self.context], silence, conditions, leads)
        error = (predicted - x[:, self.context - 1 + leads]) / self._scale(leads, x.ndim)
        return valid_mean(error.square(), conditions)

    def _score_loss(self, batch: TrainingBatch) -> Tensor:
        x, leads, members = batch.x, self._leads(batch), self.config.members
        conditions = batch.conditions.shifted(self.context - 1)
        repeated = conditions.expand(members).flatten()
        context = x[:, : self.context].repeat(members, *[1] * (x.ndim - 1))
        predicted = self.predict(context, self._noise(batch, members), repeated, leads).unflatten(0, (members, -1))
        scale = self._scale(leads, x.ndim)
        ensemble, truth = predicted / scale, x[:, self.context - 1 + leads] / scale
        batch.told.update(spread_and_error(ensemble, truth, conditions))
        return self._score(ensemble, truth, conditions)

    def _unrolled_loss(self, batch: TrainingBatch) -> Tensor:
        x, members, horizon = batch.x, self.config.members, self.config.horizon
        leads = torch.arange(1, horizon + 1)
        context = x[:, : self.context].repeat(members, *[1] * (x.ndim - 1))
        scale = self._scale(leads.to(x.device), x.ndim)
        losses, told = [], []
        for step in range(self.config.unroll):
            origin = self.context - 1 + step * horizon
            conditions = batch.conditions.shifted(origin)
            repeated = conditions.expand(members).flatten()
            predicted = self.predict(context, self._noise(batch, members), repeated, leads)
            context = torch.cat([context, predicted], dim=1)[:, -self.context :]
            ensemble = predicted.unflatten(0, (members, -1)) / scale
            truth = x[:, origin + 1 : origin + 1 + horizon] / scale
            losses.append(self._score(ensemble, truth, conditions))
            told.append(spread_and_error(ensemble, truth, conditions))
        batch.told.update({name: torch.stack([each[name] for each in told]).mean() for name in told[0]})
        return torch.stack(losses).mean()

    def _score(self, ensemble: Tensor, truth: Tensor, conditions: Conditions) -> Tensor:
        """Loss of members (member, batch, lead, channel, *space) in units of increments, with truth likewise."""
        config = self.config
        self._check(conditions)
        if config.score == "energy":
            axes = len(conditions.grid.axes)
            loss = almost_fair_energy_score(ensemble, truth, config.fairness, axes=axes, valid=conditions.valid).mean()
        else:
            loss = valid_mean(almost_fair_crps(ensemble, truth, config.fairness), conditions)
        if config.spectral == "amplitude":
            loss = loss + config.spectral_weight * spectral_amplitude_error(ensemble, truth, self.dims)
        elif config.spectral == "crps":
            loss = loss + config.spectral_weight * spectral_crps(ensemble, truth, config.fairness, self.dims)
        return loss

    def _check(self, conditions: Conditions) -> None:
        """Raises: InputError for what the spectral term cannot treat; the first stage asks too, before time is spent."""
        if self.config.spectral != "none":
            refuse_land(conditions)

    def _scale(self, leads: Tensor, ndim: int) -> Tensor:
        """Scales of increments at integer leads, shaped (lead, channel, 1, ...) for states of `ndim` axes."""
        return self.scales[leads - 1][(...,) + (None,) * (ndim - 3)]
