"""Twisted particles: members of one case are weighed against each other, which makes guidance exact as they become many.

Guidance alone takes p(x | x_t) as one Gaussian, and so shares samples wrongly between modes: what a mode gets depends on where it lies as
much as on how likely it is. Sequential Monte Carlo corrects that. Members are guided by moment matching, and each step multiplies the
weight of a member by

    psi_s(x_s) / psi_t(x_t)  p(x_s | x_t) / q(x_s | x_t),    psi = exp(-r^T (R + H' V H'^T)^-1 r / 2),

with p the step of the denoiser and q that of the guided one (Gaussians of one variance, whose means differ), r the misfit at D, and psi the
likelihood itself at the end. psi only steers: any positive function gives the right law, so its determinant is left out, which for a
Gaussian prior is the same for all members. Where the weights degenerate, members are drawn anew from among themselves.

Source: Wu et al. (2023), arXiv:2306.17775, algorithm 1, with the twist of arXiv:2405.13712 and steps of second order (arXiv:2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from eddycast.assimilation.guided import guided
from eddycast.assimilation.guided_options import Draw, WindowOptions
from eddycast.assimilation.protocols import Mode
from eddycast.conditions import Conditions
from eddycast.diffusion import GRIDS, StochasticDPMSolverSampler
from eddycast.diffusion.dpm_solver import plan_bends
from eddycast.diffusion.sampling import clocks, combine
from eddycast.emulators import Emulator, OpenWindow
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood, MMPSGuidance
from eddycast.guidance.likelihood import Linearisation
from eddycast.guidance.posterior import guided_denoiser
from eddycast.observations import Observations


@dataclass(frozen=True)
class TwistedOptions(WindowOptions):
    """Settings of twisted particles.

    Args:
        num_steps: Evaluations of the denoiser.
        grid: How they are spread, a key of `diffusion.GRIDS`; `quadratic` has the short last steps that weights need (`linear` loses two
            thirds of the members in the last one).
        iterations, solver: Of the guidance, as for `mmps`.
        threshold: Members are drawn anew where the effective number of them, 1 / sum w^2, falls below this share.
        Others as in `WindowOptions`; a series longer than the window is covered `all-at-once`.
    """

    together = True

    num_steps: int = 64
    grid: str = "quadratic"
    iterations: int = 16
    solver: Literal["gmres", "cg"] = "gmres"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout != "all-at-once":
            raise InputError(
                "Twisted particles are drawn anew among members, whose earlier windows differ: use rollout=all-at-once."
            )
        if self.num_steps < 2:
            raise InputError(f"num_steps must be at least 2, got {self.num_steps}.")
        if self.grid not in GRIDS:
            raise InputError(f"Unknown grid '{self.grid}': choose one of {', '.join(GRIDS)}.")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold is a share of the members, in [0, 1], got {self.threshold:g}.")
        try:
            MMPSGuidance((), self.iterations, self.solver)
        except ValueError as error:
            raise InputError(f"Twisted particles: {error}") from error

    def sample(
        self, window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], start: Tensor, draw: Draw, case: Tensor
    ) -> Tensor:
        """Members of equal weight; `case` (batch,) tells whose weights belong together. See `PosteriorSampler`."""
        return twisted_particles(window, likelihoods, start, draw, Groups.of(case), self)


@dataclass(frozen=True)
class Groups:
    """Members that are weighed against each other: their places in the batch, (case, member)."""

    places: Tensor

    @classmethod
    def of(cls, case: Tensor) -> Groups:
        """From the case of each entry of a batch. Raises: ValueError where cases have different numbers of members."""
        order, counts = torch.argsort(case, stable=True), torch.unique(case, return_counts=True)[1]
        if bool((counts != counts[0]).any()):
            raise ValueError(f"Cases must have equal numbers of members, got {counts.tolist()}.")
        return cls(order.reshape(len(counts), -1))

    def normalised(self, log_weight: Tensor) -> Tensor:
        """Weights of each case, (case, member), summing to 1."""
        return torch.softmax(log_weight[self.places.to(log_weight.device)], dim=1)

    def each(self, value: Tensor) -> Tensor:
        """What holds for each case, (case,), for each entry of the batch, (batch,)."""
        places = self.places.to(value.device)
        spread = value.new_empty(places.numel())
        spread[places.flatten()] = value[:, None].expand_as(places).flatten()
        return spread

    def redrawn(self, weight: Tensor, uniform: Tensor, where: Tensor) -> Tensor:
        """For each entry of the batch the one that takes its place, (batch,): systematic resampling of the cases in `where` (case,).

        Args:
            weight: (case, member).
            uniform: One number in [0, 1) for each case, (case,).
        """
        members = weight.shape[1]
        marks = (torch.arange(members, dtype=weight.dtype, device=weight.device) + uniform[:, None]) / members
        chosen = torch.searchsorted(weight.cumsum(dim=1), marks).clamp(max=members - 1)
        own = torch.arange(members, device=weight.device).expand_as(chosen)
        places = self.places.to(weight.device)
        index = torch.empty(places.numel(), dtype=torch.long, device=weight.device)
        index[places.flatten()] = places.gather(1, torch.where(where[:, None], chosen, own)).flatten()
        return index


def twisted_particles(
    window: OpenWindow,
    likelihoods: tuple[GaussianLikelihood, ...],
    start: Tensor,
    draw: Draw,
    groups: Groups,
    options: TwistedOptions,
) -> Tensor:
    """Members of p(window | likelihoods), of equal weight, in the variable that is diffused: the shape of `start`.

    Some may come twice: the last weights are made equal by systematic resampling. The error of what is averaged over the members falls
    like one over the root of their number, as for independent draws, with a constant near 1 where resampling is rare (measured in
    `docs/guidance.md`); 64 members and more are worth it. Likelihoods must be the same for all members of a case.
    """
    sampler = StochasticDPMSolverSampler(window.schedule, options.num_steps, grid=options.grid)
    steps, bends = plan_bends(sampler, sampler.order, True)
    evaluate = _twisted_denoiser(window, likelihoods, MMPSGuidance(likelihoods, options.iterations, options.solver))
    x_t = start
    log_weight = torch.zeros(len(start), dtype=torch.float64, device=start.device)
    before: tuple[Tensor, Tensor, Tensor] | None = None  # plain and guided mean, log psi, of the last step
    for count, ((now, _, then), bend, time) in enumerate(
        zip(steps, bends, clocks((step.now for step in steps), start), strict=True)
    ):
        mean, pulled, log_twist = evaluate(x_t, time)
        log_weight = log_weight + log_twist if before is None else log_weight + log_twist - before[2]
        if then.sigma == 0:
            log_weight = log_weight + _log_likelihood(window, likelihoods, mean) - log_twist
            weight = groups.normalised(log_weight)
            every = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            return mean[groups.redrawn(weight, _uniform(draw, count, groups), every)].to(start.dtype)
        weight = groups.normalised(log_weight)
        poor = 1 / weight.square().sum(dim=1) < options.threshold * weight.shape[1]
        if bool(poor.any()):
            index = groups.redrawn(weight, _uniform(draw, count, groups), poor)
            x_t, mean, pulled, log_twist = x_t[index], mean[index], pulled[index], log_twist[index]
            before = None if before is None else (before[0][index], before[1][index], before[2][index])
            log_weight = torch.where(groups.each(poor), 0, log_weight)
        shrink = then.rho / now.rho
        gain = then.alpha * (1 - shrink**2)
        size = then.sigma * math.sqrt(1 - shrink**2)
        change = pulled - mean
        ahead = pulled
        if before is not None and bend != 0:
            change = change + bend * (change - (before[1] - before[0]))
            ahead = pulled + bend * (pulled - before[1])
        noise = draw("sampler", count)
        push = gain / size * change
        # log p(x_s) - log q(x_s) = (|noise|^2 - |noise + push|^2) / 2
        log_weight = log_weight - (push * (noise + push / 2)).double().flatten(1).sum(dim=1)
        x_t = combine(x_t, shrink * then.sigma / now.sigma, (gain, ahead), (size, noise))
        before = (mean, pulled, log_twist)
    raise AssertionError("the last step goes to sigma = 0")


def _twisted_denoiser(
    window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], rule: MMPSGuidance
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """x_t, time -> D, guided D and log psi (batch,), float64; psi is 1 where nothing is observed."""
    found: list[tuple[Tensor, Tensor]] = []

    def weigh(model: Linearisation, spread: Callable[[Tensor], Tensor], rho: Tensor) -> Tensor:
        u = rule.weigh(model, spread, rho)
        found.append((model.mean, -0.5 * (model.residual.to(u) * u).sum(dim=1).double()))
        return u

    denoiser = guided_denoiser(window.denoiser, window.schedule, window.to_x, likelihoods, weigh, covariance=None)

    def evaluate(x_t: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found.clear()
        with torch.no_grad():
            pulled = denoiser(x_t, time)
        if not found:
            return pulled, pulled, torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device)
        mean, log_twist = found[0]
        return mean, pulled, log_twist

    return evaluate


def _log_likelihood(window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], x: Tensor) -> Tensor:
    """log p(values | x) up to a number that is the same for all members, (batch,), float64."""
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for likelihood in likelihoods:
        residual, _ = likelihood.whitened(likelihood.operator(window.to_x(x)))
        total = total - 0.5 * residual.double().square().sum(dim=1)
    return total


def _uniform(draw: Draw, count: int, groups: Groups) -> Tensor:
    """A number in [0, 1) for each case, from the address of its first member."""
    numbers = draw("resampling", count).flatten(1)[:, 0].double()
    normal = numbers[groups.places[:, 0].to(numbers.device)]
    return torch.special.ndtr(normal).clamp(max=1 - 1e-12)


def twisted(
    emulator: Emulator,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    options: TwistedOptions,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Members of p(states | observations), as `guided` has them, by twisted particles; all of them in one batch.

    Raises: InputError as `guided` does, for a single member, and for a background, whose members are no draws of one law.
    """
    if background is not None:
        raise InputError(
            "Twisted particles begin with nothing known or with states that are given: leave the background out."
        )
    if members < 2:
        raise InputError(f"Twisted particles weigh members against each other, got {members}: take 64 or more.")
    return guided(
        emulator, observations, conditions,
        members=members, seed=seed, options=options, mode=mode, progress=progress,
    )  # fmt: skip
