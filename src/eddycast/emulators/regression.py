"""Deterministic emulator trained on the squared or absolute error, and the ensembles that it makes from masks or perturbed starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import EllipsisType
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.increments import increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import periodic_dims, refuse_land, spectral_amplitude_error, valid_mean
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.errors import InputError
from eddycast.networks import MemberMasks, NetworkConfig, UNetConfig, has_dropout, masks_from
from eddycast.noise import MemberNoise

POINTS_AT_ONCE = 2**16
"""Points that one pass of a forecast takes at most, where it takes several leads: memory stays that of one lead on larger fields."""


@dataclass(frozen=True)
class RegressionConfig:
    """Settings of a regression emulator.

    Args:
        context: Known states the network sees.
        horizon: Longest lead time of one pass, in steps; beyond 1 the network is told the lead and can be asked for any in (0, horizon].
        unroll: Steps through which a last stage of training is differentiated; 1 leaves that stage out.
        input_noise: Standard deviation, in model space, of white noise on the known states in training, whose targets stay as they are.
            Where the data show a mode only as a function of others (small scales slaved to large ones), nothing else tells the network
            to damp it, and in a long rollout it may grow. Modes of power S in the data are shrunk by S / (S + noise): keep it small.
        loss: `squared` error, whose minimiser is the conditional mean, or `absolute`, the median.
        spectral_weight: Weight of the error of Fourier amplitudes along periodic axes that is added to it; 0 for none. It keeps small
            scales from being smoothed away where they cannot be known, at some cost in the error. Not on land.
        variable: What the network says. `departure`: standardised increments from the last known state. `state`: the state itself.
        ensemble: What makes the members of a forecast differ: nothing; `dropout`, masks in the network, each pass its own; or
            `perturbation`, white noise on the known states with which a forecast starts. Training is the same in all three.
        perturbation: Standard deviation of that noise in model space.
        sharing: Masks of the passes of one member: `independent` (published), the same for all leads of a `window`, or in the whole
            `rollout`.
        network: The backbone; with `dropout` one that has dropout.
    """

    kind: Literal["regression"] = "regression"
    context: int = 1
    horizon: int = 1
    unroll: int = 1
    input_noise: float = 0.0
    loss: Literal["squared", "absolute"] = "squared"
    spectral_weight: float = 0.0
    variable: Literal["departure", "state"] = "departure"
    ensemble: Literal["none", "dropout", "perturbation"] = "none"
    perturbation: float = 0.0
    sharing: Literal["independent", "window", "rollout"] = "independent"
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.perturbation < float("inf"):
            raise ValueError(f"perturbation is a standard deviation, 0 or more, got {self.perturbation}.")
        if not 0 <= self.input_noise < float("inf"):
            raise ValueError(f"input_noise is a standard deviation, 0 or more, got {self.input_noise}.")
        if not 0 <= self.spectral_weight < float("inf"):
            raise ValueError(f"spectral_weight must be 0 or more, got {self.spectral_weight}.")
        if self.ensemble == "perturbation" and self.perturbation == 0:
            raise ValueError(
                "ensemble perturbation needs perturbation > 0: the standard deviation of the noise in model space (0.1, say)."
            )


class Regression(nn.Module):
    """x(t + lead) = x(t) + scale(lead) F(context, lead, conditions), trained on the error of F; with `variable` state, F itself.

    The conditional mean (or median) is all it can learn: where the future is uncertain its forecast is smooth. Its members are the same
    unless `ensemble` says otherwise; the spread is then whatever rate or perturbation make it, tuned by hand on the validation split.

        dropout        masks stay on in a forecast, Monte-Carlo dropout; a spread of the weights' uncertainty, not of the law of the future
        perturbation   each member starts from x + sigma eps, with one eps for all leads and windows; what comes later is deterministic

    Sources: both as baselines, with `variable` state: arXiv:2306.01984, section 5; in its code every lead of the first window has an eps
    of its own. Dropout as an ensemble: arXiv:1506.02142.
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
        self.dims = periodic_dims(shape.periodic) if config.spectral_weight > 0 else ()
        self.register_buffer("scales", torch.ones(config.horizon, shape.channels))
        self._check_ensemble()

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

    def said(self, context: Tensor, conditions: Conditions, lead: Tensor) -> Tensor:
        """F of the class: context (batch, time, channel, *space), lead (batch,) -> (batch, channel, *space)."""
        return self.network(context, conditions, lead[:, None] / self.config.horizon)[:, 0]

    def _states(self, context: Tensor, said: Tensor, leads: Tensor) -> Tensor:
        """States (batch, lead, channel, *space) from what the network says of them at leads (lead,)."""
        if self.config.variable == "state":
            return said
        return context[:, -1:] + said * scale_at(self.scales, leads.to(context.device))[_spread(context)]

    def predict(self, context: Tensor, conditions: Conditions, leads: Tensor) -> Tensor:
        """States (batch, lead, channel, *space) at leads (lead,) after the last state of the context, a pass for each."""
        batch = len(context)
        said = [self.said(context, conditions, lead.to(context).expand(batch)) for lead in leads.unbind()]
        return self._states(context, torch.stack(said, dim=1), leads)

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
        """As `WindowModel.advance`; several leads share a pass of the network, of at most `POINTS_AT_ONCE` points."""
        context, leads = known[:, known_mask], lead_times[~known_mask]
        self._check_ensemble()
        start = context
        if self.config.ensemble == "perturbation":
            start = self._perturbed(context, conditions, lead_times[known_mask], noise, window)
        batch = len(start)
        said = []
        for part in leads.split(max(1, POINTS_AT_ONCE // (batch * start[0, 0, 0].numel()))):
            copies = len(part)
            rows = torch.arange(batch, device=conditions.time.device).repeat_interleave(copies)
            with masks_from(self._masks(part, noise, window)):
                told = self.said(
                    start.repeat_interleave(copies, dim=0), conditions.select(rows), part.to(start).repeat(batch)
                )
            said.append(told.unflatten(0, (batch, copies)))
        return torch.cat([context, self._states(start, torch.cat(said, dim=1), leads)], dim=1)

    def _check_ensemble(self) -> None:
        if self.config.ensemble == "dropout" and not has_dropout(self.network):
            raise InputError(
                "ensemble dropout needs a network with dropout: train one with emulator.network.dropout above 0 (0.1, say), "
                "or set ensemble to none or perturbation."
            )

    def _masks(self, leads: Tensor, noise: MemberNoise, window: int) -> MemberMasks | None:
        """Masks of a pass over these leads. Those of a lead do not depend on the other leads that are asked for."""
        sharing = self.config.sharing
        if self.config.ensemble != "dropout":
            return None
        # leads may lie between steps, and numbers of draws are whole
        steps = tuple(round(lead * 2**16) if sharing == "independent" else 0 for lead in leads.tolist())
        return MemberMasks(noise, 0 if sharing == "rollout" else window, steps, "regression")

    def _perturbed(
        self, context: Tensor, conditions: Conditions, times: Tensor, noise: MemberNoise, window: int
    ) -> Tensor:
        """The context with the noise of each member on the states that were known at the start of the forecast.

        Such a state has the same noise in every window that sees it; forecast states, which follow from it, get none.
        """
        passed = [window * self.config.horizon + round(time) for time in times.tolist()]
        frames = list(context.unbind(dim=1))
        for frame, lead in enumerate(passed):
            if lead <= 0:
                drawn = noise.draw(
                    tuple(context.shape[2:]), key=(0, -lead, "perturbation"), dtype=context.dtype, device=context.device
                )
                if conditions.valid is not None:
                    drawn = torch.where(conditions.valid.to(drawn.device), drawn, 0.0)
                frames[frame] = frames[frame] + self.config.perturbation * drawn
        return torch.stack(frames, dim=1)

    def stages(self) -> tuple[Stage, ...]:
        one = Stage("regression", self.window, self, self._one_step_loss)
        if self.config.unroll == 1:
            return (one,)
        frames = self.context + self.config.unroll * self.config.horizon
        unrolled = Stage("unroll", frames, self, self._unrolled_loss, share=0.5, learning_rate=0.2)
        return (one, unrolled)

    def _one_step_loss(self, batch: TrainingBatch) -> Tensor:
        x, generator = batch.x, batch.generator
        context = self._known(batch)
        if self.config.horizon == 1:
            lead = torch.ones(len(x), dtype=torch.long, device=x.device)
        else:
            lead = torch.randint(1, self.config.horizon + 1, (batch.size,), generator=generator, device=x.device)
            lead = batch.own(lead)
        target = x[torch.arange(len(x), device=x.device), self.context - 1 + lead]
        conditions = batch.conditions.shifted(self.context - 1)
        scale = self.scales[lead - 1][_spread(x)] if self.config.variable == "departure" else None
        if scale is not None:
            target = (target - context[:, -1]) / scale
        said = self.said(context, conditions, lead.to(x))
        loss = self._mean(said - target, conditions)
        if self.config.spectral_weight == 0:
            return loss
        base = 0.0 if scale is None else context[:, -1] / scale
        return loss + self._spectral(base + said, base + target, conditions)

    def _known(self, batch: TrainingBatch) -> Tensor:
        """The known states of a batch as training shows them, (batch, context, channel, *space)."""
        known = batch.x[:, : self.context]
        if self.config.input_noise == 0:
            return known
        noise = torch.randn(batch.size, *known.shape[1:], generator=batch.generator, device=known.device)
        return known + self.config.input_noise * batch.own(noise).to(known)

    def _unrolled_loss(self, batch: TrainingBatch) -> Tensor:
        x, horizon = batch.x, self.config.horizon
        leads = torch.arange(1, horizon + 1)
        context = self._known(batch)
        losses = []
        for step in range(self.config.unroll):
            origin = self.context - 1 + step * horizon
            conditions = batch.conditions.shifted(origin)
            predicted = self.predict(context, conditions, leads)
            context = torch.cat([context, predicted], dim=1)[:, -self.context :]
            truth = x[:, origin + 1 : origin + 1 + horizon]
            scale = self.scales[_spread(x)] if self.config.variable == "departure" else 1.0
            loss = self._mean((predicted - truth) / scale, conditions)
            if self.config.spectral_weight > 0:
                loss = loss + self._spectral(predicted / scale, truth / scale, conditions)
            losses.append(loss)
        return torch.stack(losses).mean()

    def _spectral(self, x: Tensor, truth: Tensor, conditions: Conditions) -> Tensor:
        """What the error of amplitudes adds to the loss, for states in the unit of the error."""
        refuse_land(conditions)
        return self.config.spectral_weight * spectral_amplitude_error(x, truth, self.dims)

    def _mean(self, error: Tensor, conditions: Conditions) -> Tensor:
        return valid_mean(error.abs() if self.config.loss == "absolute" else error.square(), conditions)


def _spread(x: Tensor) -> tuple[EllipsisType | None, ...]:
    """Index that gives (*shape, channel) the space axes of x (batch, time, channel, *space)."""
    return (..., *(None,) * (x.ndim - 3))
