"""Windows in one pass: what is unknown of them predicted from what is known, by a squared error or a scoring rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.departures import departure, departure_scales, states_alone
from eddycast.emulators.mask_laws import PREFIX_LAWS, draw_counts, prefixes
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import almost_fair_crps
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.networks import NetworkConfig, UNetConfig
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class NeuralSolverConfig:
    """Settings of a neural solver of windows.

    Args:
        frames: States of a window, W.
        context: Known states with which a forecast starts, C.
        overlap: States given to each further window.
        score: `squared-error`: the conditional mean. `crps`: an ensemble, each member with its own noise as input.
        members: Members drawn per window in training with `crps`.
        fairness: Weight of the fair CRPS, see `objectives.almost_fair_crps`.
        noise_channels: White-noise fields beside each frame, with `crps`.
        variable: What is predicted. `state`, as published; `departure`: standardised departures from the nearest known state.
        loss_on: Frames whose error counts: `all` as published, or the `unknown` ones.
        context_law: Number of known states in training, a key of `mask_laws.PREFIX_LAWS`.
        backward: Share of training windows whose last states are known instead of the first.
        network: The backbone.
    """

    kind: Literal["neural-solver"] = "neural-solver"
    frames: int = 5
    context: int = 1
    overlap: int = 1
    score: Literal["squared-error", "crps"] = "squared-error"
    members: int = 2
    fairness: float = 0.95
    noise_channels: int = 2
    variable: Literal["departure", "state"] = "departure"
    loss_on: Literal["unknown", "all"] = "unknown"
    context_law: str = "uniform"
    backward: float = 0.0
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if not (1 <= self.context < self.frames and 1 <= self.overlap < self.frames):
            raise ValueError(
                f"context and overlap must lie in 1 ... frames - 1 = {self.frames - 1}, got {self.context} and {self.overlap}."
            )
        if self.context_law not in PREFIX_LAWS:
            raise ValueError(f"context_law must be one of {', '.join(PREFIX_LAWS)}, got {self.context_law!r}.")
        if not 0 <= self.backward <= 1:
            raise ValueError(f"backward is a share in [0, 1], got {self.backward}.")
        if self.score == "crps" and (self.members < 2 or self.noise_channels < 1):
            raise ValueError(
                f"score crps needs members >= 2 and noise_channels >= 1, got {self.members} and {self.noise_channels}."
            )

    @property
    def noise(self) -> int:
        """Channels of noise that the network sees."""
        return self.noise_channels if self.score == "crps" else 0


class NeuralSolver(nn.Module):
    """Unknown states of a window = F(known states, zeros elsewhere; which are known; theta [; noise]) in one pass.

    The same window, masks and backbone as a diffusion emulator; the loss is the squared error, whose minimiser is the conditional mean
    (every member the same, smooth where the future is uncertain), or the almost fair CRPS at each point, which asks for an ensemble.

    Source: the neural solver of arXiv:2507.02608, section 3; the scoring rule in its place as in arXiv:2606.12997.
    """

    scales: Tensor

    def __init__(self, config: NeuralSolverConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.frames,
            out_frames=config.frames,
            in_channels=2 * shape.channels + config.noise,
            out_channels=shape.channels,
            num_scalars=0,
        )
        self.register_buffer("scales", torch.ones(config.frames - 1, shape.channels))

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def overlap(self) -> int:
        return self.config.overlap

    @property
    def window(self) -> int:
        return self.config.frames

    @property
    def continuous(self) -> bool:
        return False

    def prepare(self, x: Tensor) -> None:
        """Measure the scale of increments on windows of training data (batch, time, channel, *space)."""
        self.scales.copy_(departure_scales(x, self.config.frames))

    def predict(self, x: Tensor, known: Tensor, conditions: Conditions, noise: Tensor | None) -> Tensor:
        """All states of windows x of which the frames `known` (batch, time) are given; noise (batch, time, noise, *space)."""
        mask = known[(...,) + (None,) * (x.ndim - 2)]
        base, scale = departure(x, known, self.scales) if self.config.variable == "departure" else states_alone(x)
        parts = [torch.where(mask, x, 0.0), mask.to(x).expand_as(x)] + ([] if noise is None else [noise])
        return base + scale * self.network(torch.cat(parts, dim=2), conditions, x.new_zeros(len(x), 0))

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
        size = self.config.frames
        if known.shape[1] != size:
            raise ValueError(f"A window of this emulator has {size} states, got {known.shape[1]}.")
        drawn = None
        if self.config.noise:
            shape = (size, self.config.noise, *known.shape[3:])
            drawn = noise.draw(shape, key=(window, 0, "solver"), dtype=known.dtype, device=known.device)
        mask = known_mask.to(known.device).expand(len(known), size)
        x = self.predict(known, mask, conditions.shifted(float(lead_times[0])), drawn)
        return torch.where(mask[(...,) + (None,) * (known.ndim - 2)], known, x)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("solver", self.config.frames, self, self._loss),)

    def _loss(self, batch: TrainingBatch) -> Tensor:
        config, x, generator = self.config, batch.x, batch.generator
        counts = draw_counts(config.context_law, config.frames, batch.size, generator)
        known = batch.own(prefixes(counts, config.frames, config.backward, generator))
        scale = departure(x, known, self.scales)[1] if config.variable == "departure" else 1.0
        if config.score == "squared-error":
            error = ((self.predict(x, known, batch.conditions, None) - x) / scale).square()
        else:
            shape = (config.members, batch.size, config.frames, config.noise, *x.shape[3:])
            noise = batch.own(torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device), 1)
            ensemble = self.predict(
                x.expand(config.members, *x.shape).flatten(0, 1),
                known.expand(config.members, *known.shape).flatten(0, 1),
                batch.conditions.expand(config.members).flatten(),
                noise.flatten(0, 1),
            )
            members = ensemble.unflatten(0, (config.members, -1)) / scale
            error = almost_fair_crps(members, x / scale, config.fairness)
        return counted_mean(error, known, batch.conditions, everything=config.loss_on == "all").mean()


def counted_mean(error: Tensor, known: Tensor, conditions: Conditions, *, everything: bool) -> Tensor:
    """Mean of errors (batch, time, channel, *space) over unknown frames (or all) and valid points, (batch,)."""
    counted = (torch.ones_like(known) if everything else ~known)[(...,) + (None,) * (error.ndim - 2)].expand_as(error)
    if conditions.valid is not None:
        counted = counted & conditions.valid.to(error.device)
    return torch.where(counted, error, 0.0).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp_min(1)
