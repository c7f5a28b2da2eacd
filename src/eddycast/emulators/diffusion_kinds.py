"""The kinds of diffusion emulators: what they know of a window while training, and how they are told what is known in use.

    kind        knows in training                       told what is known           source
    joint       nothing                                 by guidance, or noised       arXiv:2306.10574, 2410.16415; noised: 2309.01745
    amortised   the first C states, always              as input of the network      arXiv:2410.16415, "plain"
    universal   states drawn anew for each window       as input of the network      arXiv:2410.16415

All are one class, `WindowDiffusion`. A window of W states gives P = W - C new ones where C are known (P | C in the papers).

To add a kind: a config here with `layout`, `variable`, `loss_on` and `masks`, and an alternative in `DiffusionConfig`; an entry in
`FAMILIES` and `FamilyConfig` (`emulators/__init__.py`), in `TITLES` (`recipes/sizes.py`) and in `SAMPLING` (`api/settings.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from eddycast.diffusion import PARAMETRISATIONS, SCHEDULES, TIME_LAWS, Sampler, make_sampler
from eddycast.emulators.mask_laws import PREFIX_LAWS, draw_counts, prefixes
from eddycast.networks import NetworkConfig, UNetConfig

Variable = Literal["departure", "state"]
Layout = Literal["in-place", "in-place-full", "beside", "concat"]


@dataclass(frozen=True)
class DiffusionSettings:
    """What all kinds share.

    Args:
        frames: States of a window, W.
        context: Known states with which a forecast starts, C.
        overlap: States given to each further window.
        schedule: Noise schedule, a key of `diffusion.SCHEDULES`.
        parametrisation: What the network says, a key of `diffusion.PARAMETRISATIONS`.
        time_law: Diffusion times in training, a key of `diffusion.TIME_LAWS`.
        levels: Noise levels in training: times are rounded up to k / levels, k = 1 ... levels, as in models of discrete steps; None for
            any time. A forecast then has to keep to them: `grid` linear, and `num_steps` a divisor of `levels`.
        loss: `squared` error of what the network says, or `absolute`, see `diffusion.denoising_loss`.
        sampler: A key of `diffusion.SAMPLERS`.
        num_steps: Steps of the sampler in a forecast.
        grid: How its steps are spread, a key of `diffusion.GRIDS`; None for the sampler's own.
        sampler_options: Its further settings, such as {"eta": 0.5}.
        network: The backbone.
    """

    frames: int = 5
    context: int = 1
    overlap: int = 1
    schedule: str = "rectified"
    parametrisation: str = "preconditioned"
    time_law: str = "uniform"
    levels: int | None = None
    loss: Literal["squared", "absolute"] = "squared"
    sampler: str = "ancestral"
    num_steps: int = 16
    grid: str | None = None
    sampler_options: dict[str, Any] = field(default_factory=dict)
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        for name, known in (
            ("schedule", SCHEDULES),
            ("parametrisation", PARAMETRISATIONS),
            ("time_law", TIME_LAWS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}.")
        if self.levels is not None and (
            self.levels < 1 or self.levels % self.num_steps or self.grid not in (None, "linear")
        ):
            raise ValueError(
                f"a network trained at {self.levels} levels knows those alone: num_steps must divide them and grid be linear, got "
                f"{self.num_steps} and {self.grid}."
            )
        self.make_sampler()
        if not (1 <= self.context < self.frames and 1 <= self.overlap < self.frames):
            raise ValueError(
                f"context and overlap must lie in 1 ... frames - 1 = {self.frames - 1}, got {self.context} and {self.overlap}."
            )

    def make_sampler(self) -> Sampler:
        """The sampler of a forecast. Raises: InputError for a name, a grid or an option that does not exist."""
        schedule = SCHEDULES[self.schedule]()
        return make_sampler(self.sampler, schedule, self.num_steps, self.grid, **self.sampler_options)


@dataclass(frozen=True)
class JointConfig(DiffusionSettings):
    """Settings of a model of whole windows, p(x_1 ... x_W), of which nothing is known while it learns.

    Args:
        conditioning: How known states enter a sample. `guidance` adds the gradient of a likelihood N(known; D, std^2 + gamma rho^2),
            rho = sigma / alpha, back through the network. `replacement` puts them in with the noise of the moment, which is
            autoregressive conditional diffusion (ACDM): no gradients, and biased, since noisy known states say less than clean ones. On
            states of an AR(1) process with correlation 0.8 the exact network pulls the next one by 0.52 (fresh noise in each step) or
            0.36 (the same noise, sampler `ddim`); smooth data suffer less.
        gamma, std: Of the guidance; std is the error that known states are said to have, in model space.
        rollout: `autoregressive` slides windows; `all-at-once` denoises the whole forecast, composed of windows (with guidance only).
        stride: Distance of those windows.
        Others as in `DiffusionSettings`.

    Source of the defaults of guidance: arXiv:2410.16415, whose gamma is for its cosine schedule and carries over roughly.
    """

    kind: Literal["joint"] = "joint"
    conditioning: Literal["guidance", "replacement"] = "guidance"
    gamma: float = 0.1
    std: float = 0.01
    rollout: Literal["autoregressive", "all-at-once"] = "autoregressive"
    stride: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.gamma >= 0 and self.std > 0):
            raise ValueError(f"gamma must not be negative and std must be positive, got {self.gamma} and {self.std}.")
        if not 1 <= self.stride <= self.frames:
            raise ValueError(f"stride must lie in 1 ... frames = {self.frames}, got {self.stride}.")
        if self.rollout == "all-at-once" and self.conditioning != "guidance":
            raise ValueError("rollout all-at-once needs conditioning guidance.")

    @property
    def layout(self) -> None:
        """Nothing is told as input."""

    @property
    def variable(self) -> Variable:
        return "state"

    @property
    def loss_on(self) -> Literal["all"]:
        return "all"

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        """Known frames of `count` training windows, (count, time): none."""
        return torch.zeros(count, self.frames, dtype=torch.bool, device=generator.device)


@dataclass(frozen=True)
class InputSettings(DiffusionSettings):
    """What kinds share that are told known states as input of the network.

    Args:
        variable: What is diffused. `state`: the states, as published. `departure`: their standardised departures from the nearest known
            one, of unit variance at any dt and mask, so that one schedule fits all.
        layout: How the network is shown what is known. `in-place`: known states stand in their frames, with a plane that says so.
            `in-place-full`, as in arXiv:2507.02608: the same with a plane for each channel.
            `beside`, as published: mask, mask times states, and x_t, in channels beside each other. `concat`, as in arXiv:2306.01984 and
            2205.09853: known states stand in their frames and nothing says so; for amortised models, which always know the same ones.
        loss_on: Frames whose error counts: the `unknown` ones, or `all` as published (of states, not of departures).
        Others as in `DiffusionSettings`.
    """

    variable: Variable = "departure"
    layout: Layout = "in-place"
    loss_on: Literal["unknown", "all"] = "unknown"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_on == "all" and self.variable != "state":
            raise ValueError("loss_on all needs variable state: the departures of known states are zero.")


@dataclass(frozen=True)
class AmortisedConfig(InputSettings):
    """Settings of a model of p(P new states | C known ones) for one C = `context`: one training for each pair.

    Args: as in `InputSettings`; `overlap` must equal `context`, for nothing else was trained.
    """

    kind: Literal["amortised"] = "amortised"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlap != self.context:
            raise ValueError(
                f"An amortised model knows exactly context = {self.context} states, got overlap = {self.overlap}: set both alike."
            )

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        """Known frames of `count` training windows, (count, time): the first C."""
        known = torch.arange(self.frames, device=generator.device) < self.context
        return known.expand(count, self.frames)


@dataclass(frozen=True)
class UniversalConfig(InputSettings):
    """Settings of a universal diffusion emulator, which takes any set of known states.

    Args:
        unconditional, forecast, scattered: Probabilities of training masks: nothing known; exactly `context` first states known;
            each state known or not by the toss of a coin. The rest knows the first C states, C in 1 ... W - 1 by `context_law`.
            Published: unconditional = 1 / W, the others 0, which is C uniform in 0 ... W - 1.
        shared_mask: One mask for all windows of a batch, as published, instead of one each.
        context_law: Number of known states in the rest, a key of `mask_laws.PREFIX_LAWS`.
        backward: Share of the rest whose last states are known instead of the first.
        Others as in `InputSettings`.
    """

    kind: Literal["universal"] = "universal"
    unconditional: float = 0.15
    forecast: float = 0.5
    scattered: float = 0.1
    shared_mask: bool = False
    context_law: str = "uniform"
    backward: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout == "concat":
            raise ValueError("layout concat does not say which states are known: choose in-place or beside.")
        if self.context_law not in PREFIX_LAWS:
            raise ValueError(f"context_law must be one of {', '.join(PREFIX_LAWS)}, got {self.context_law!r}.")
        if not 0 <= self.backward <= 1:
            raise ValueError(f"backward is a share in [0, 1], got {self.backward}.")
        shares = (self.unconditional, self.forecast, self.scattered)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"unconditional, forecast and scattered are shares of at most 1 in all, got {shares}.")

    def masks(self, count: int, generator: torch.Generator) -> Tensor:
        """Known frames of `count` training windows, (count, time), drawn by the law of the settings; never all are known."""
        size, device = self.frames, generator.device
        draws = 1 if self.shared_mask else count
        kind = torch.rand(draws, generator=generator, device=device)
        counts = draw_counts(self.context_law, size, draws, generator)
        known = prefixes(counts, size, self.backward, generator)
        forecast = torch.arange(size, device=device) < self.context
        known = torch.where((kind < self.unconditional + self.forecast)[:, None], forecast, known)
        known = known & (kind >= self.unconditional)[:, None]
        coins = torch.rand(draws, size, generator=generator, device=device) < 0.5
        free = torch.randint(size, (draws, 1), generator=generator, device=device)
        coins = coins.scatter(1, free, False)
        return torch.where((kind > 1 - self.scattered)[:, None], coins, known).expand(count, size)


DiffusionConfig = JointConfig | AmortisedConfig | UniversalConfig
