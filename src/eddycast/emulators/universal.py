"""Diffusion emulator of whole windows that takes any set of known states: one model to forecast, interpolate and assimilate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.diffusion import (
    SCHEDULES,
    TIME_LAWS,
    PreconditionedDenoiser,
    Sampler,
    denoising_loss,
    make_sampler,
    starting_noise,
)
from eddycast.emulators.increments import increment_scale
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.protocols import Guide, OpenWindow, Stage, TrainingBatch
from eddycast.networks import NetworkConfig, UNetConfig
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class UniversalConfig:
    """Settings of a universal diffusion emulator.

    Args:
        frames: States of a window, W.
        context: Known states with which a forecast starts.
        overlap: States given to each further window.
        unconditional, forecast, scattered: Probabilities of training masks: nothing known; exactly `context` first states known;
            each state known or not by the toss of a coin. The rest knows the first C states, C uniform in 1 ... W - 1.
        schedule: Noise schedule, a key of `diffusion.SCHEDULES`.
        time_law: Diffusion times in training, a key of `diffusion.TIME_LAWS`.
        sampler: A key of `diffusion.SAMPLERS`.
        num_steps: Steps of the sampler in a forecast.
        grid: How its steps are spread, a key of `diffusion.GRIDS`; None for the sampler's own.
        sampler_options: Its further settings, such as {"eta": 0.5}.
        network: The backbone.
    """

    kind: Literal["universal"] = "universal"
    frames: int = 5
    context: int = 1
    overlap: int = 1
    unconditional: float = 0.15
    forecast: float = 0.5
    scattered: float = 0.1
    schedule: str = "rectified"
    time_law: str = "uniform"
    sampler: str = "ancestral"
    num_steps: int = 16
    grid: str | None = None
    sampler_options: dict[str, Any] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("time_law", TIME_LAWS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}.")
        self.make_sampler()
        if not (1 <= self.context < self.frames and 1 <= self.overlap < self.frames):
            raise ValueError(
                f"context and overlap must lie in 1 ... frames - 1 = {self.frames - 1}, got {self.context} and {self.overlap}."
            )
        shares = (self.unconditional, self.forecast, self.scattered)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"unconditional, forecast and scattered are shares of at most 1 in all, got {shares}.")

    def make_sampler(self) -> Sampler:
        """The sampler of a forecast. Raises: InputError for a name, a grid or an option that does not exist."""
        schedule = SCHEDULES[self.schedule]()
        return make_sampler(self.sampler, schedule, self.num_steps, self.grid, **self.sampler_options)


class UniversalDiffusion(nn.Module):
    """p(unknown states of a window | known states) by conditional diffusion, whatever is known.

    The diffusion does not act on the states but on their standardised departures

        w = (x - base) / scale,   base: the nearest known state (0 when none is),   scale: rms change over that many steps,

    of unit variance at any dt and mask, so that one schedule fits all. Known states enter the network clean, with a plane that says so.
    Sources: universal masks arXiv:2410.16415 section 3.2 (prefixes); the departures are ours; known states at scale 1 as in
    arXiv:2507.02608. Bias: with few sampler steps the spread is somewhat too large or small by the discretisation; see `num_steps`.
    """

    scales: Tensor

    def __init__(self, config: UniversalConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.schedule = SCHEDULES[config.schedule]()
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.frames,
            out_frames=config.frames,
            in_channels=shape.channels + 1,
            out_channels=shape.channels,
            num_scalars=1 + config.frames,
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
        self.scales.copy_(increment_scale(x, self.config.frames - 1).clamp_max(1.5))

    def departure(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Base (batch, time, channel, *space) and scale (batch, time, channel, 1, ...) of the departures.

        Args:
            x: Window whose known frames are valid.
            known: Which frames are known, (batch, time).
        """
        frames = torch.arange(known.shape[1], device=x.device)
        distance = (frames[:, None] - frames).abs().expand(len(known), -1, -1)
        distance = torch.where(known[:, None, :], distance, known.shape[1])
        nearest = distance.argmin(dim=-1)
        lag = distance.gather(2, nearest[..., None])[..., 0]
        spread = (...,) + (None,) * (x.ndim - 2)
        base = x.gather(1, nearest[spread].expand_as(x))
        anything = known.any(dim=1)[(...,) + (None,) * (x.ndim - 1)]
        table = torch.cat([torch.ones_like(self.scales[:1]), self.scales])
        scale = table[lag.clamp_max(len(table) - 1)][(...,) + (None,) * (x.ndim - 3)]
        return torch.where(anything, base, 0.0), torch.where(anything, scale, 1.0)

    def _conditioned(self, x: Tensor, known: Tensor, conditions: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
        """F(w_in, c_noise) of `diffusion`, with the known frames (batch, time) of x put in their places."""
        spread = (...,) + (None,) * (x.ndim - 2)
        bits = known.to(x.dtype)
        planes = bits[spread].expand(*known.shape, 1, *x.shape[3:])

        def network(w_in: Tensor, c_noise: Tensor) -> Tensor:
            frames = torch.where(known[spread], x, w_in)
            scalars = torch.cat([c_noise.expand(len(x))[:, None], bits], dim=1)
            return self.network(torch.cat([frames, planes], dim=2), conditions, scalars)

        return network

    def open(self, known: Tensor, known_mask: Tensor, conditions: Conditions, lead_times: Tensor) -> OpenWindow:
        """The denoiser of the departures w of one window; those of known frames and of points that are not valid are 0."""
        size = self.config.frames
        if known.shape[1] != size:
            raise ValueError(f"A window of this emulator has {size} states, got {known.shape[1]}.")
        mask = known_mask.to(known.device).expand(len(known), size)
        base, scale = self.departure(known, mask)
        first = conditions.shifted(float(lead_times[0]))
        denoiser = PreconditionedDenoiser(self._conditioned(known, mask, first), self.schedule)
        unknown = ~mask[(...,) + (None,) * (known.ndim - 2)]
        if conditions.valid is not None:
            unknown = unknown & conditions.valid.to(known.device)

        def masked(x_t: Tensor, time: Tensor) -> Tensor:
            return torch.where(unknown, denoiser(x_t, time), 0.0)

        return OpenWindow(masked, self.schedule, lambda w: torch.where(unknown, base + scale * w, known))

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
        guide: Guide | None = None,
    ) -> Tensor:
        problem = self.open(known, known_mask, conditions, lead_times)
        denoiser = problem.denoiser
        if guide is not None:
            denoiser = guide(denoiser, problem.schedule, problem.to_x)

        def draw(site: str, step: int) -> Tensor:
            return noise.draw(known.shape[1:], key=(window, step, site), dtype=known.dtype, device=known.device)

        sampler = self.config.make_sampler()
        start = starting_noise(self.schedule, draw("start", 0))
        return problem.to_x(sampler(denoiser, start, noise=lambda step: draw("sampler", step)))

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("diffusion", self.config.frames, self, self._loss),)

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        """Known frames of `count` training windows, (count, time), drawn by the law of the settings; never all are known."""
        config, size = self.config, self.config.frames
        device = generator.device
        kind = torch.rand(count, generator=generator, device=device)
        prefix = torch.randint(1, size, (count,), generator=generator, device=device)
        prefix = torch.where(kind < config.unconditional + config.forecast, config.context, prefix)
        prefix = torch.where(kind < config.unconditional, 0, prefix)
        known = torch.arange(size, device=device) < prefix[:, None]
        coins = torch.rand(count, size, generator=generator, device=device) < 0.5
        free = torch.randint(size, (count, 1), generator=generator, device=device)
        coins = coins.scatter(1, free, False)
        return torch.where((kind > 1 - config.scattered)[:, None], coins, known)

    def _loss(self, batch: TrainingBatch) -> Tensor:
        x, generator = batch.x, batch.generator
        known = batch.own(self.masks(batch.size, generator))
        base, scale = self.departure(x, known)
        w = (x - base) / scale
        noise = batch.own(torch.randn(batch.size, *x.shape[1:], generator=generator, dtype=x.dtype, device=x.device))
        uniform = torch.rand(batch.size, generator=generator, dtype=x.dtype, device=x.device)
        time = batch.own(TIME_LAWS[self.config.time_law](self.schedule, uniform))
        counted = ~known[(...,) + (None,) * (x.ndim - 2)]
        if batch.conditions.valid is not None:
            counted = counted & batch.conditions.valid.to(x.device)
        network = self._conditioned(x, known, batch.conditions)
        return denoising_loss(network, self.schedule, w, noise, time, counted=counted).mean()
