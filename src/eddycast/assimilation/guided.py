"""Posterior sampling with a diffusion emulator: its denoiser, guided by observations.

How a series longer than the window of the model is covered:

    all-at-once      Every frame is denoised at once, composed of overlapping windows of which nothing is known. Each frame
                     feels all observations, as far as they are carried: k frames of a window of 2 k + 1 per evaluation.
    autoregressive   Window after window, each sharing `overlap` states with the one before. A window sees its own observations, so
                     an analysis never knows later ones; what the overlap learns from them depends on how it enters:
                       by input      (universal, amortised; with guidance by observations the hybrid) it stays as it is. Observations
                                     of it say nothing more about the new states, and are left out.
                       by guidance   (joint) it is a second likelihood and is sampled again; observations of it have been used already
                                     and are masked out; the new sample replaces the old one.

A series within one window is one window in both. It may begin with nothing known, with a background, or with its first states where
they are completely observed. In `all-at-once` these enter by a likelihood, in one window as for `autoregressive`.
Sources: arXiv:2306.10574 (composition, SDA); arXiv:2410.16415, sections 3 and 4 (rollouts, universal models, hybrid), in whose code the
hybrid's network denoises the overlap as well, so that observations there have an effect on the new states, which exact conditioning
does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eddycast.assimilation.etkf import fit_background
from eddycast.assimilation.guided_options import PosteriorSampler
from eddycast.assimilation.protocols import Mode
from eddycast.conditions import Conditions
from eddycast.emulators import (
    AmortisedConfig,
    Diffusing,
    Emulator,
    OpenWindow,
    UniversalConfig,
    WindowModel,
    compose,
    window_starts,
)
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood
from eddycast.noise import MemberNoise
from eddycast.observations import Observations, ObservationTable

PREVIOUS_STD = 0.01


def guided(
    emulator: Emulator,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    options: PosteriorSampler,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Members of p(states | observations), (member, case, time, channel, *space), physical, in the dtype of the values.

    Args: as in `protocols.Assimilate`; the options say which rule.

    Raises: InputError for a model that is no denoiser or cannot be sampled in the way that is asked for, and for samples that
        are not finite.
    """
    model = require_denoiser(emulator.model)
    cases, num_times = observations.num_cases, observations.num_times
    overlap = checked_overlap(emulator.model, options)
    begin, first = _begin(emulator, observations, options, members, background, continued)
    total = num_times - first
    at_once = options.rollout == "all-at-once" and total > model.frames
    stride = max(1, model.frames // 4) if options.stride is None else options.stride
    if stride > model.frames:
        raise InputError(f"stride {stride} leaves frames out between windows of {model.frames}: lower it.")
    needed = _needs_known(emulator.model)
    if needed and (at_once or options.previous == "guidance"):
        raise InputError(
            f"{needed}, as all-at-once rollouts and previous states by guidance do: use rollout=autoregressive and "
            "previous=input."
        )
    everyone = conditions.expand(members).flatten()
    addresses = MemberNoise.grid(seed, observations.trajectories, members).flatten()
    chunk = max(1, emulator.chunk // (len(window_starts(total, model.frames, stride)) if at_once else 1))
    chunk = members * cases if options.together else chunk
    outcome = []
    for start in range(0, members * cases, chunk):
        part = slice(start, min(start + chunk, members * cases))
        case = torch.arange(part.start, part.stop) % cases
        here = everyone.select(part).to(emulator.device)
        task = _Task(emulator, observations, case, here, addresses.select(part), options)
        known = task.encoded(begin[part].to(emulator.device), first)
        start = begin[part, -1].to(emulator.device) if begin.shape[1] else None
        x = task.at_once(known, first, total, stride) if at_once else task.windows(known, first, total, overlap, start)
        outcome.append(task.decoded(x[:, -first if first < 0 else 0 :], max(first, 0), start).cpu())
        if progress is not None:
            progress(part.stop, members * cases)
    analysis = torch.cat(outcome).unflatten(0, (members, cases)).to(observations.values.dtype)
    defined = analysis if observations.valid is None else analysis[..., observations.valid]
    if not defined.isfinite().all():
        raise InputError(
            "The guided samples are not finite (divergence): take a larger gamma, fewer iterations, or more num_steps."
        )
    return analysis


def _begin(
    emulator: Emulator,
    observations: Observations,
    options: PosteriorSampler,
    members: int,
    background: Tensor | None,
    continued: bool,
) -> tuple[Tensor, int]:
    """States known at the start, physical (member * case, time, channel, *space) with time >= 0, and the frame of the first of them.

    Raises: InputError where a model cannot begin like that.
    """
    cases, context = observations.num_cases, emulator.context
    if background is not None:
        background = fit_background(background, members, cases, context)
        return background.flatten(0, 1), (0 if continued else 1) - context
    needed = _needs_known(emulator.model)
    given = options.given if options.given is not None else (context if needed else 0)
    if needed and given != context:
        raise InputError(f"{needed}: it continues {context} states, got given={given}.")
    if not 0 <= given < require_denoiser(emulator.model).frames:
        raise InputError(
            f"given={given} states do not leave a new one in a window of {require_denoiser(emulator.model).frames}."
        )
    if not _complete(observations, given):
        why = f"{needed}: pass a background (--background), or observe" if needed else f"given={given} needs"
        raise InputError(f"{why} the first {given} frames at every point (eddycast observe --complete {given}).")
    if given == 0:
        shape = (members * cases, 0, len(observations.fields), *observations.grid.shape)
        return torch.zeros(shape, dtype=observations.values.dtype), 0
    states = observations.filled[:, :given]
    return states.expand(members, *states.shape).flatten(0, 1), 0


def _complete(observations: Observations, frames: int) -> bool:
    """Whether the first frames are observed at all valid points of all fields."""
    if frames == 0:
        return True
    if isinstance(observations, ObservationTable) or observations.kind == "coarsen" or frames > observations.num_times:
        return False
    mask = observations.mask[:, :frames]
    return bool((mask if observations.valid is None else mask[..., observations.valid]).all())


def _needs_known(model: WindowModel) -> str:
    """Why a model cannot be asked with nothing known; empty for one that can."""
    config = getattr(model, "config", None)
    if isinstance(config, AmortisedConfig):
        return "An amortised model cannot start with nothing known"
    if isinstance(config, UniversalConfig) and config.unconditional == 0:
        return "A universal model trained with unconditional = 0 cannot start with nothing known"
    return ""


def checked_overlap(model: WindowModel, options: PosteriorSampler) -> int:
    """States that windows share. Raises: InputError for a number that the model does not take."""
    size = require_denoiser(model).frames
    overlap = model.overlap if options.overlap is None else options.overlap
    if not 1 <= overlap < size:
        raise InputError(f"overlap must lie in 1 ... {size - 1}, one less than the window of {size}; got {overlap}.")
    if isinstance(getattr(model, "config", None), AmortisedConfig) and overlap != model.overlap:
        raise InputError(f"An amortised model shares exactly {model.overlap} states, got overlap={overlap}.")
    return overlap


@dataclass(frozen=True, eq=False)
class _Task:
    """One chunk of members: `case` tells the case of each."""

    emulator: Emulator
    observations: Observations
    case: Tensor
    conditions: Conditions
    noise: MemberNoise
    options: PosteriorSampler

    def at_once(self, known: Tensor, first: int, total: int, stride: int) -> Tensor:
        """The series of `total` frames from `first` on, in model space; the states known at its start by a likelihood."""
        like = self.encoded(self._blank(total), first)
        window = compose(
            require_denoiser(self.emulator.model), like, self.conditions.shifted(float(first)), stride=stride
        )
        if count := known.shape[1]:
            start = GaussianLikelihood(lambda x: x[:, :count], known, self._std)
            window = replace(window, likelihoods=(start,))
        return self._guarded(self._sample(window, like, first, 0, count), known)

    def windows(self, known: Tensor, first: int, total: int, overlap: int, start: Tensor | None) -> Tensor:
        """The same window after window, each beginning with the last `overlap` states, the first one with all that are known.

        Each goes on from boundary values, held at those of `start` or, without one, of the first frame.
        """
        size = require_denoiser(self.emulator.model).frames
        x, number = known, 0
        while x.shape[1] < total:
            shared = min(x.shape[1], overlap if number else size - 1)
            begin = x.shape[1] - shared
            at = first + begin
            told = x[:, begin:]
            filled = torch.cat([told, self.encoded(self._blank(size - shared), at + shared)], dim=1)
            window = self._open(filled, shared, at)
            sample = self._guarded(self._sample(window, filled, at, number, shared), told)
            if self.emulator.hook is not None:
                states = self.decoded(sample, at, start)
                start = states[:, 0] if start is None else start
                sample = self.encoded(states, at)
            if window.likelihoods:  # known by guidance alone: sampled again
                x = torch.cat([x[:, :begin], sample], dim=1)
            else:
                x = torch.cat([x, sample[:, shared:]], dim=1)
            number += 1
        return x[:, :total]

    def _open(self, filled: Tensor, shared: int, at: int) -> OpenWindow:
        """A window whose first `shared` states are known, in the way that the options say."""
        model, size = require_denoiser(self.emulator.model), filled.shape[1]
        leads = torch.arange(at, at + size, dtype=torch.float64)
        by_likelihood = self.options.previous == "guidance"
        mask = torch.arange(size) < (0 if by_likelihood else shared)
        window = model.open(filled, mask, self.conditions, leads)
        if window.likelihoods and self.options.previous == "input":
            raise InputError("A joint model takes previous states by guidance only: leave previous out.")
        if by_likelihood and shared:
            told = GaussianLikelihood(lambda x: x[:, :shared], filled[:, :shared], self._std)
            return replace(window, likelihoods=(told,))
        if self.options.std is not None:
            return replace(window, likelihoods=tuple(replace(one, std=self._std) for one in window.likelihoods))
        return window

    @property
    def _std(self) -> float:
        return self._config("std", PREVIOUS_STD) if self.options.std is None else self.options.std

    def _config(self, name: str, otherwise: Any = None) -> Any:
        """A setting of the model, where it has one of that name."""
        return getattr(getattr(self.emulator.model, "config", None), name, otherwise)

    def _sample(self, window: OpenWindow, like: Tensor, at: int, number: int, known: int) -> Tensor:
        """One guided sample of the frames from `at` on, of which the first ones are `known`, in model space."""
        likelihood = self._likelihood(at, like.shape[1], known)
        likelihoods = window.likelihoods if likelihood is None else (*window.likelihoods, likelihood)

        def draw(site: str, step: int) -> Tensor:
            key = (number, step, f"assimilation {site}")
            return self.noise.draw(tuple(like.shape[1:]), key=key, dtype=like.dtype, device=like.device)

        start = window.start(draw("start", 0))
        return window.to_x(self.options.sample(window, likelihoods, start, draw, self.case))

    def _guarded(self, x: Tensor, known: Tensor) -> Tensor:
        """States within the band and, where states were known, with the means of the training data."""
        guard = self.emulator.guard
        return x if guard is None else guard(x, guard.means(known) if known.shape[1] else None)

    def _likelihood(self, at: int, frames: int, known: int) -> GaussianLikelihood | None:
        """Of the observations in frames [at + known, at + frames); those outside the series are missing."""
        if self.options.observed == "none":
            return None
        measurement = self.observations.seen(at, at + frames, since=at + known)
        if measurement is None:
            return None
        measurement = measurement.select(self.case).independent()
        leads = torch.arange(at, at + frames, dtype=torch.float64)
        decode, conditions, operator = self.emulator.space.decode, self.conditions, measurement.operator
        return GaussianLikelihood(lambda x: operator(decode(x, conditions, leads)), measurement.values, measurement.std)

    def _blank(self, frames: int) -> Tensor:
        o = self.observations
        shape = (len(self.case), frames, len(o.fields), *o.grid.shape)
        return torch.zeros(shape, dtype=o.values.dtype, device=self.emulator.device)

    def encoded(self, states: Tensor, first: int) -> Tensor:
        leads = torch.arange(first, first + states.shape[1], dtype=torch.float64)
        return self.emulator.space.encode(states, self.conditions, leads)

    def decoded(self, x: Tensor, first: int, start: Tensor | None) -> Tensor:
        """Physical states of frames from `first` on, with boundary values; `start` are the last known ones, None for none.

        Without a start, points are held at what the first frame says of them.
        """
        leads = torch.arange(first, first + x.shape[1], dtype=torch.float64)
        states = self.emulator.space.decode(x, self.conditions, leads)
        if self.emulator.hook is None:
            return states
        return self.emulator.hook(states, self.conditions, leads, states[:, 0] if start is None else start)


def require_denoiser(model: WindowModel) -> Diffusing:
    """The model, if it is a denoiser. Raises: InputError when it is not."""
    if not isinstance(model, Diffusing):
        raise InputError(f"This method guides a denoiser, which {type(model).__name__} is not: use 'etkf'.")
    return model
