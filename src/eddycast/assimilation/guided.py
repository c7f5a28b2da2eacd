"""Posterior sampling with a diffusion emulator: its denoiser, guided by observations (SDA, MMPS).

Mode `smooth` denoises the whole series at once, nothing known and everything observed in its place. Mode `online`
slides windows: the last states of one are given to the next, and each window sees its own observations; so an analysis
never knows observations later than its window. With a background the first window starts from its last states, which
stay as they are.
Sources: arXiv:2306.10574 (SDA), 2405.13712 (MMPS), 2410.16415 sections 3 and 4 (universal models, sliding windows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from eddycast.assimilation.etkf import fit_background
from eddycast.assimilation.protocols import Mode
from eddycast.conditions import Conditions
from eddycast.diffusion import SAMPLERS, Denoiser, Schedule, make_sampler, starting_noise
from eddycast.emulators import Diffusing, Emulator, OpenWindow, WindowModel, compose, window_starts
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood, MMPSGuidance, SDAGuidance
from eddycast.noise import MemberNoise
from eddycast.observations import Observations


@dataclass(frozen=True)
class SDAOptions:
    """Settings of SDA guidance.

    Args:
        gamma: Width of the guess of what is not known yet; smaller follows the observations more closely, too small is
            unstable.
        sampler: Of the guided diffusion; fresh noise (`ancestral`) repairs what guidance gets wrong.
        num_steps: Its steps, many more than a forecast needs.
        corrections: Langevin steps after each step, instead of `sampler`; for series much longer than the window.
        stride: Distance of the windows that cover a series longer than one; None is a quarter of the window.
    """

    gamma: float = 0.03
    sampler: str = "ancestral"
    num_steps: int = 64
    corrections: int = 0
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise InputError(f"gamma must not be negative, got {self.gamma:g}: 0.01 to 0.3 are usual.")
        _check_steps(self)


@dataclass(frozen=True)
class MMPSOptions:
    """Settings of moment-matching guidance.

    Args:
        iterations: Krylov iterations at most; 1 is published, a few more are worth it where observations are dense.
        solver: `gmres`, or `cg`, which stops at negative curvature.
        sampler, num_steps, corrections, stride: As for `SDAOptions`.
    """

    iterations: int = 3
    solver: Literal["gmres", "cg"] = "gmres"
    sampler: str = "ancestral"
    num_steps: int = 64
    corrections: int = 0
    stride: int | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations must be at least 1, got {self.iterations}.")
        _check_steps(self)


Guide = Callable[[Denoiser, Schedule, Callable[[Tensor], Tensor]], Denoiser]
"""Denoiser, schedule, to_state -> a denoiser that knows observations."""

GuideFrom = Callable[[tuple[GaussianLikelihood, ...]], Guide]


def guided_analysis(
    emulator: Emulator,
    observations: Observations,
    conditions: Conditions,
    *,
    guide: GuideFrom,
    options: SDAOptions | MMPSOptions,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Members of p(states | observations), (member, case, time, channel, *space), physical, in the dtype of the values.

    Raises: InputError for a model that is no denoiser, a mode that guidance does not know, a background in mode
        `smooth` for a series longer than the window, or samples that are not finite.
    """
    if mode == "filter":
        raise InputError("Guided diffusion smooths or works online; use method 'etkf' for mode filter.")
    window = require_denoiser(emulator.model).frames
    num_times, cases = observations.num_times, observations.num_cases
    if background is not None:
        background = fit_background(background, members, cases, emulator.context)
        if mode == "smooth" and num_times + emulator.context - 1 > window:
            raise InputError(
                f"With a background, mode smooth reaches over one window of {window} states; {num_times} are "
                "observed: use mode online, or no background."
            )
        background = background.flatten(0, 1)
    everyone = conditions.expand(members).flatten()
    addresses = MemberNoise.grid(seed, observations.trajectories, members).flatten()
    stride = options.stride or max(1, window // 4)
    series = mode == "smooth" and background is None
    windows = len(window_starts(max(num_times, window), window, stride)) if series else 1
    chunk = max(1, emulator.chunk // windows)
    outcome = []
    for start in range(0, members * cases, chunk):
        part = slice(start, min(start + chunk, members * cases))
        case = torch.arange(part.start, part.stop) % cases
        here = everyone.select(part).to(emulator.device)
        task = _Task(emulator, observations, case, here, addresses.select(part), guide, options)
        if series:
            states = task.at_once(max(num_times, window), stride)
        else:
            states = task.sliding(num_times, None if background is None else background[part])
        outcome.append(states[:, :num_times].cpu())
        if progress is not None:
            progress(part.stop, members * cases)
    analysis = torch.cat(outcome).unflatten(0, (members, cases)).to(observations.values.dtype)
    defined = analysis if observations.valid is None else analysis[..., observations.valid]
    if not defined.isfinite().all():
        raise InputError(
            "The guided samples are not finite (divergence): take a larger gamma, fewer iterations, or more num_steps."
        )
    return analysis


@dataclass(frozen=True, eq=False)
class _Task:
    """One chunk of members: `case` tells the case of each."""

    emulator: Emulator
    observations: Observations
    case: Tensor
    conditions: Conditions
    noise: MemberNoise
    guide: GuideFrom
    options: SDAOptions | MMPSOptions

    def at_once(self, num_times: int, stride: int) -> Tensor:
        """The whole series, physical (batch, time, channel, *space)."""
        like = self._encoded(self._blank(num_times), 0)
        window = compose(require_denoiser(self.emulator.model), like, self.conditions, stride=stride)
        return self._decoded(self._guarded(self._sample(window, like, 0, 0), like[:, :0]), 0)

    def sliding(self, num_times: int, background: Tensor | None) -> Tensor:
        """Window after window, physical (batch, time, channel, *space), at least `num_times` frames."""
        model, size = self.emulator.model, require_denoiser(self.emulator.model).frames
        if background is None:
            known = self._encoded(self._blank(size), 0)[:, :0]
            first = 0
        else:
            first = 1 - background.shape[1]
            known = self._encoded(background.to(self.emulator.device), first)
        finished = [self._decoded(known[:, -1:], 0)] if background is not None else []
        done, number = (1 if background is not None else 0), 0
        while done < num_times:
            new = size - known.shape[1]
            fill = self._encoded(self._blank(new), done)
            filled = torch.cat([known, fill], dim=1)
            mask = torch.arange(size) < known.shape[1]
            leads = torch.arange(first, first + size, dtype=torch.float64)
            window = require_denoiser(model).open(filled, mask, self.conditions, leads)
            x = self._guarded(self._sample(window, filled, first, number)[:, known.shape[1] :], known)
            finished.append(self._decoded(x, done))
            known = torch.cat([known, x], dim=1)[:, -model.overlap :]
            done, number = done + new, number + 1
            first = done - model.overlap
        return torch.cat(finished, dim=1)

    def _sample(self, window: OpenWindow, like: Tensor, first: int, number: int) -> Tensor:
        """One guided sample of the frames from `first` on, in model space."""
        frames = like.shape[1]
        leads = torch.arange(first, first + frames, dtype=torch.float64)
        likelihood = self._likelihood(first, frames, leads)
        likelihoods = window.likelihoods if likelihood is None else (*window.likelihoods, likelihood)
        denoiser = window.denoiser
        if likelihoods:
            denoiser = self.guide(likelihoods)(denoiser, window.schedule, window.to_x)

        def draw(site: str, step: int) -> Tensor:
            key = (number, step, f"assimilation {site}")
            return self.noise.draw(tuple(like.shape[1:]), key=key, dtype=like.dtype, device=like.device)

        options = self.options
        if options.corrections:
            sampler = make_sampler(
                "predictor-corrector", window.schedule, options.num_steps, num_corrections=options.corrections
            )
        else:
            sampler = make_sampler(options.sampler, window.schedule, options.num_steps)
        start = starting_noise(window.schedule, draw("start", 0))
        return window.to_x(sampler(denoiser, start, noise=lambda step: draw("sampler", step)))

    def _guarded(self, x: Tensor, known: Tensor) -> Tensor:
        """New states within the band and, where states were known, with the means of the training data."""
        guard = self.emulator.guard
        return x if guard is None else guard(x, guard.means(known) if known.shape[1] else None)

    def _likelihood(self, first: int, frames: int, leads: Tensor) -> GaussianLikelihood | None:
        """Of the observations in frames [first, first + frames); those outside the series are missing."""
        o = self.observations
        inside = slice(max(first, 0), min(first + frames, o.num_times))
        values = o.values.new_full((len(self.case), frames, *o.values.shape[2:]), torch.nan)
        if inside.start < inside.stop:
            values[:, inside.start - first : inside.stop - first] = o.values[self.case, inside]
        mask = ~values.isnan()
        if not mask.any():
            return None
        operator = replace(o.operator(), mask=mask)
        decode, conditions = self.emulator.space.decode, self.conditions
        return GaussianLikelihood(lambda x: operator(decode(x, conditions, leads)), values, o.noise_field)

    def _blank(self, frames: int) -> Tensor:
        o = self.observations
        shape = (len(self.case), frames, len(o.fields), *o.grid.shape)
        return torch.zeros(shape, dtype=o.values.dtype, device=self.emulator.device)

    def _encoded(self, states: Tensor, first: int) -> Tensor:
        leads = torch.arange(first, first + states.shape[1], dtype=torch.float64)
        return self.emulator.space.encode(states, self.conditions, leads)

    def _decoded(self, x: Tensor, first: int) -> Tensor:
        leads = torch.arange(first, first + x.shape[1], dtype=torch.float64)
        states = self.emulator.space.decode(x, self.conditions, leads)
        return states if self.emulator.hook is None else self.emulator.hook(states, self.conditions, leads)


def require_denoiser(model: WindowModel) -> Diffusing:
    """The model, if it is a denoiser. Raises: InputError when it is not."""
    if not isinstance(model, Diffusing):
        raise InputError(f"This method guides a denoiser, which {type(model).__name__} is not: use 'etkf'.")
    return model


def sda(
    emulator: Emulator,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    options: SDAOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `sda`; see `guided_analysis`."""
    settings = options or SDAOptions()
    return guided_analysis(
        emulator, observations, conditions, guide=lambda likelihoods: SDAGuidance(likelihoods, gamma=settings.gamma),
        options=settings, members=members, seed=seed, mode=mode, background=background, progress=progress,
    )  # fmt: skip


def mmps(
    emulator: Emulator,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    options: MMPSOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `mmps`; see `guided_analysis`."""
    settings = options or MMPSOptions()

    def guide(likelihoods: tuple[GaussianLikelihood, ...]) -> Guide:
        return MMPSGuidance(likelihoods, iterations=settings.iterations, solver=settings.solver)

    return guided_analysis(
        emulator, observations, conditions, guide=guide, options=settings,
        members=members, seed=seed, mode=mode, background=background, progress=progress,
    )  # fmt: skip


def _check_steps(options: SDAOptions | MMPSOptions) -> None:
    if options.sampler not in SAMPLERS:
        raise InputError(f"sampler must be one of {', '.join(SAMPLERS)}, got {options.sampler!r}.")
    if options.num_steps < 1 or options.corrections < 0 or (options.stride is not None and options.stride < 1):
        raise InputError("num_steps and stride must be at least 1, corrections at least 0.")
