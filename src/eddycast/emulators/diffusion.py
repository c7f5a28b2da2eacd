"""Diffusion emulators of whole windows: joint, amortised and universal models in one class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.diffusion import SCHEDULES, TIME_LAWS, PreconditionedDenoiser, denoising_loss
from eddycast.diffusion.schedules import scales
from eddycast.emulators.composition import compose
from eddycast.emulators.departures import departure, departure_scales, states_alone
from eddycast.emulators.diffusion_kinds import DiffusionConfig, InputSettings, JointConfig
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.protocols import OpenWindow, Stage, TrainingBatch
from eddycast.guidance import GaussianLikelihood, SDAGuidance
from eddycast.noise import MemberNoise


class WindowDiffusion(nn.Module):
    """p(unknown states of a window | known states) by conditional diffusion; `diffusion_kinds` tells the kinds apart.

    What is diffused are the states, or their standardised departures

        w = (x - base) / scale,   base: the nearest known state (0 when none is),   scale: rms change over that many steps.

    Sources: arXiv:2410.16415, sections 2 and 3; joint models arXiv:2306.10574; noised known states arXiv:2309.01745; the departures are
    ours. Bias: few steps of the sampler make the spread somewhat too large or small, see `num_steps`; guidance has its own, see
    `guidance.SDAGuidance`; and what a window of a rollout does not see, it forgets.
    """

    scales: Tensor

    def __init__(self, config: DiffusionConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.schedule = SCHEDULES[config.schedule]()
        copies = {None: 1, "concat": 1, "in-place": 1, "in-place-full": 2, "beside": 3}[config.layout]
        in_channels = copies * shape.channels
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=config.frames,
            out_frames=config.frames,
            in_channels=in_channels + (config.layout == "in-place"),
            out_channels=shape.channels,
            num_scalars=1 + (config.frames if config.layout == "in-place" else 0),
        )
        self.register_buffer("scales", torch.ones(config.frames - 1, shape.channels))

    @property
    def context(self) -> int:
        return self.config.context

    @property
    def overlap(self) -> int:
        return self.config.overlap

    @property
    def frames(self) -> int:
        return self.config.frames

    @property
    def window(self) -> int | None:
        return None if self._composed else self.config.frames

    @property
    def continuous(self) -> bool:
        return False

    @property
    def _composed(self) -> bool:
        return isinstance(self.config, JointConfig) and self.config.rollout == "all-at-once"

    def prepare(self, x: Tensor) -> None:
        """Measure the scale of increments on windows of training data (batch, time, channel, *space)."""
        self.scales.copy_(departure_scales(x, self.config.frames))

    def departure(self, x: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Base (batch, time, channel, *space) and scale (batch, time, channel, 1, ...) of what is diffused; 0 and 1 for states.

        Args:
            x: Window whose known frames are valid.
            known: Which frames are known, (batch, time).
        """
        return states_alone(x) if self.config.variable == "state" else departure(x, known, self.scales)

    def _conditioned(self, x: Tensor, known: Tensor, conditions: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
        """F(w_in, told) of `diffusion` that knows the frames `known` (batch, time) of x, in the layout of the settings."""
        spread = (...,) + (None,) * (x.ndim - 2)
        bits = known.to(x.dtype)

        def network(w_in: Tensor, told: Tensor) -> Tensor:
            scalars = told.expand(len(x))[:, None]
            if self.config.layout is None:
                return self.network(w_in, conditions, scalars)
            if self.config.layout == "beside":
                masks = bits[spread].expand_as(x)
                return self.network(torch.cat([masks, masks * x, w_in], dim=2), conditions, scalars)
            frames = torch.where(known[spread], x, w_in)
            if self.config.layout == "concat":
                return self.network(frames, conditions, scalars)
            if self.config.layout == "in-place-full":
                return self.network(torch.cat([frames, bits[spread].expand_as(x)], dim=2), conditions, scalars)
            planes = bits[spread].expand(*known.shape, 1, *x.shape[3:])
            return self.network(torch.cat([frames, planes], dim=2), conditions, torch.cat([scalars, bits], dim=1))

        return network

    def open(self, known: Tensor, known_mask: Tensor, conditions: Conditions, lead_times: Tensor) -> OpenWindow:
        """The denoiser of what is diffused in one window; at known frames it says what is known, at points that are not valid 0.

        Raises: ValueError for a window of another length, and known states where an amortised model was trained with others.
        """
        config, size = self.config, self.config.frames
        if known.shape[1] != size or known_mask.shape != (size,):
            raise ValueError(
                f"A window of this emulator has {size} states, got {known.shape[1]} with a mask of {tuple(known_mask.shape)}."
            )
        if config.kind == "amortised" and not torch.equal(known_mask.cpu(), torch.arange(size) < config.context):
            raise ValueError(
                f"An amortised model knows exactly the first {config.context} of {size} states, got {known_mask.tolist()}: use a "
                "universal or joint model."
            )
        mask = known_mask.to(known.device).expand(len(known), size)
        spread = (...,) + (None,) * (known.ndim - 2)
        base, scale = self.departure(known, mask)
        here = conditions.shifted(float(lead_times[0]))
        denoiser = PreconditionedDenoiser(
            self._conditioned(known, mask, here), self.schedule, parametrisation=config.parametrisation
        )
        if isinstance(config, JointConfig):
            if config.conditioning == "guidance" and bool(known_mask.any()):
                return self._joint(denoiser, known, known_mask, conditions)
            # the sampler itself gives known states the noise of the moment: x_t = alpha known + sigma noise
            settled = torch.where(mask[spread], known, 0.0)
        else:
            settled = (
                torch.zeros_like(known) if config.variable == "departure" else torch.where(mask[spread], known, 0.0)
            )
        unknown = ~mask[spread]
        if conditions.valid is not None:
            unknown = unknown & conditions.valid.to(known.device)

        def masked(x_t: Tensor, time: Tensor) -> Tensor:
            return torch.where(unknown, denoiser(x_t, time), settled)

        return OpenWindow(
            masked,
            self.schedule,
            lambda w: torch.where(unknown, base + scale * w, known),
            settled=settled if config.variable == "state" else None,
        )

    def _joint(
        self, denoiser: PreconditionedDenoiser, known: Tensor, mask: Tensor, conditions: Conditions
    ) -> OpenWindow:
        """A window of which the denoiser knows nothing, with the likelihood of its known frames."""
        if conditions.valid is None:
            return OpenWindow(denoiser, self.schedule, lambda w: w, self._likelihoods(known, mask))
        valid = conditions.valid.to(known.device)

        def masked(x_t: Tensor, time: Tensor) -> Tensor:
            return torch.where(valid, denoiser(x_t, time), 0.0)

        return OpenWindow(masked, self.schedule, lambda w: torch.where(valid, w, 0.0), self._likelihoods(known, mask))

    def _likelihoods(self, known: Tensor, mask: Tensor) -> tuple[GaussianLikelihood, ...]:
        index = mask.nonzero()[:, 0].to(known.device)
        assert isinstance(self.config, JointConfig)
        return (GaussianLikelihood(lambda x: x[:, index], known[:, index], self.config.std),)

    def series(self, known: Tensor, known_mask: Tensor, conditions: Conditions, lead_times: Tensor) -> OpenWindow:
        """The denoiser of a series of any length >= W, composed of windows of which nothing is known; known frames as a likelihood."""
        assert isinstance(self.config, JointConfig)
        window = compose(self, known, conditions.shifted(float(lead_times[0])), stride=self.config.stride)
        return OpenWindow(window.denoiser, window.schedule, window.to_x, self._likelihoods(known, known_mask))

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
        wanted = known.shape[1]
        if self._composed:
            missing = max(0, self.config.frames - wanted)
            known = torch.cat([known, known[:, -1:].expand(-1, missing, *known.shape[2:])], dim=1)
            known_mask = torch.cat([known_mask, known_mask.new_zeros(missing)])
            problem = self.series(known, known_mask, conditions, lead_times)
        else:
            problem = self.open(known, known_mask, conditions, lead_times)
        denoiser = problem.denoiser
        if problem.likelihoods:
            assert isinstance(self.config, JointConfig)
            guidance = SDAGuidance(problem.likelihoods, gamma=self.config.gamma)
            denoiser = guidance(denoiser, problem.schedule, problem.to_x)

        def draw(site: str, step: int) -> Tensor:
            return noise.draw(known.shape[1:], key=(window, step, site), dtype=known.dtype, device=known.device)

        sampler = self.config.make_sampler()
        given = known_mask.to(known.device)[(...,) + (None,) * (known.ndim - 2)]
        x = problem.to_x(sampler(denoiser, problem.start(draw("start", 0)), noise=lambda step: draw("sampler", step)))
        return torch.where(given, known, x)[:, :wanted]

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("diffusion", self.config.frames, self, self._loss),)

    def _loss(self, batch: TrainingBatch) -> Tensor:
        config, x, generator = self.config, batch.x, batch.generator
        known = batch.own(config.masks(batch.size, generator))
        base, scale = self.departure(x, known)
        w = (x - base) / scale
        noise = batch.own(torch.randn(batch.size, *x.shape[1:], generator=generator, dtype=x.dtype, device=x.device))
        uniform = torch.rand(batch.size, generator=generator, dtype=x.dtype, device=x.device)
        time = batch.own(TIME_LAWS[config.time_law](self.schedule, uniform))
        if config.levels is not None:
            time = torch.ceil(time * config.levels).clamp_min(1) / config.levels
        if isinstance(config, InputSettings) and config.layout != "beside" and config.loss_on == "all":
            noise = self._clean(known, noise, w, time)
        counted = (torch.ones_like(known) if config.loss_on == "all" else ~known)[(...,) + (None,) * (x.ndim - 2)]
        if batch.conditions.valid is not None:
            counted = counted & batch.conditions.valid.to(x.device)
        network = self._conditioned(x, known, batch.conditions)
        loss = denoising_loss(
            network, self.schedule, w, noise, time, counted=counted, parametrisation=config.parametrisation,
            absolute=config.loss == "absolute",
        )  # fmt: skip
        return loss.mean()

    def _clean(self, known: Tensor, noise: Tensor, w: Tensor, time: Tensor) -> Tensor:
        """Noise with which alpha w + sigma noise is s w in known frames, s^2 = alpha^2 + sigma^2.

        The network sees known states as they are, in their frames; what it is asked for there is what it would have to say of x_t = s w
        (arXiv:2507.02608, in whose code known frames are fed at that scale and count in the loss).
        """
        alpha, sigma = scales(self.schedule, time, w)
        settled = (torch.sqrt(alpha**2 + sigma**2) - alpha) / sigma * w
        return torch.where(known[(...,) + (None,) * (w.ndim - 2)], settled, noise)
