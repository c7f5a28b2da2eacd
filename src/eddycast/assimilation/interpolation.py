"""Optimal interpolation in space and time: the baseline that knows no dynamics.

The state is taken as Gaussian, with the mean m and the separable covariance

    C((t, x), (t', x')) = s(x) s(x') exp(-(t - t')^2 / (2 tau^2)) prod_axes exp(-(x - x')^2 / (2 l^2)),

wrapped around periodic axes, channels independent of each other. The analysis is m + C H^T (H C H^T + R)^-1 (y - H m);
members are exact draws from the Gaussian posterior, by Matheron's rule. The solve is a conjugate gradient on the grid,
each product of C one small matrix per axis, so that the cost grows like points times the sum of the axes' lengths. The
scales tau and l are those that predict withheld observations best.
Source: Rasmussen and Williams (2006), section 2.2; sampling: Journel and Huijbregts (1978), as in arXiv:2011.04026.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from eddycast.assimilation.protocols import Mode
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.grid import Axis
from eddycast.noise import MemberNoise
from eddycast.numerics.krylov import conjugate_gradients
from eddycast.observations import Observations

CANDIDATES = (0.5, 0.7, 1.4, 2.0)  # factors tried on each scale in turn
IMAGES = 5  # periodic images on each side, ample for scales up to half a period; longer ones are not tried


@dataclass(frozen=True)
class InterpolationOptions:
    """Settings of optimal interpolation.

    Args:
        scales: Length scales: time in frames, then one per space axis in the unit of its coordinates. None fits them.
        rounds: Rounds of the fit, each trying factors on every scale in turn.
        cases: Cases used by the fit at most.
        tolerance: Relative residual at which the solve stops.
        iterations: Steps of the solve at most.
    """

    scales: tuple[float, ...] | None = None
    rounds: int = 3
    cases: int = 8
    tolerance: float = 1e-6
    iterations: int = 1000


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Mean m, standard deviation s, both (channel, *space) or broadcasting to it, and correlation matrices per axis,
    time first."""

    mean: Tensor
    std: Tensor
    correlations: tuple[Tensor, ...]

    def covariance(self, v: Tensor) -> Tensor:
        """C v for v (*batch, time, channel, *space)."""
        return self.std * self._apply(self.correlations, self.std * v)

    def draw(self, noise: Tensor) -> Tensor:
        """A draw of the deviations from m, from standard normal numbers (*batch, time, channel, *space)."""
        return self.std * self._apply(tuple(square_root(matrix) for matrix in self.correlations), noise)

    @staticmethod
    def _apply(matrices: tuple[Tensor, ...], v: Tensor) -> Tensor:
        space = len(matrices) - 1
        axes = (-space - 2, *range(-space, 0))
        for matrix, axis in zip(matrices, axes, strict=True):
            v = (v.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
        return v


def square_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix (rounding below zero is cut off)."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def correlation(axis: Axis, scale: float) -> Tensor:
    """Gaussian correlation between the points of an axis, wrapped where it is periodic, (point, point), float64."""
    position = torch.tensor(axis.coordinates, dtype=torch.float64)
    distance = position[:, None] - position[None, :]
    if axis.period is None:
        return torch.exp(-0.5 * (distance / scale).square())
    images = axis.period * torch.arange(-IMAGES, IMAGES + 1, dtype=torch.float64)
    wrapped = torch.exp(-0.5 * ((distance[..., None] + images) / scale).square()).sum(dim=-1)
    return wrapped / wrapped[0, 0]


def interpolate(
    observations: Observations, prior: GaussianPrior, *, options: InterpolationOptions, extra: Tensor | None = None
) -> Tensor:
    """Posterior mean (*member, case, time, channel, *space), float64.

    Args:
        observations: Of all cases.
        prior: Gaussian prior.
        options: Of the solve.
        extra: Residuals y - H m to be used instead of those of the observations, (*member, case, time, channel,
            *observed).
    """
    operator, mask = observations.operator(), observations.mask
    shape = (observations.num_cases, observations.num_times, len(observations.fields), *observations.grid.shape)
    state = prior.mean.expand(shape)
    residual = observations.filled.double() - operator(state) if extra is None else extra
    variance = observations.noise_field.double().square()
    lead = residual.shape[: residual.ndim - len(shape)]
    point = torch.zeros(*lead, *shape, dtype=torch.float64)
    adjoint = torch.func.vjp(operator, point)[1]

    def product(v: Tensor) -> Tensor:
        return operator(prior.covariance(adjoint(v)[0])) + torch.where(mask, variance * v, torch.zeros_like(v))

    solution = solve(product, residual, batch=len(lead) + 1, options=options)
    return state + prior.covariance(adjoint(solution)[0])


class SolveOptions(Protocol):
    """Relative residual at which a solve stops, and its steps at most."""

    @property
    def tolerance(self) -> float: ...
    @property
    def iterations(self) -> int: ...


def solve(product: Callable[[Tensor], Tensor], target: Tensor, *, batch: int, options: SolveOptions) -> Tensor:
    """Solve product(u) = target, symmetric and positive definite, for each entry of the first `batch` axes by itself.

    Raises: InputError when the residual has not fallen below twice the tolerance after the given number of steps.
    """
    shape = target.shape

    def flat_product(u: Tensor) -> Tensor:
        return product(u.reshape(shape)).flatten(batch).flatten(0, batch - 1)

    b = target.flatten(batch).flatten(0, batch - 1)
    u = conjugate_gradients(flat_product, b, iterations=options.iterations, tolerance=options.tolerance)
    missed = (b - flat_product(u)).norm(dim=-1) / b.norm(dim=-1).clamp(min=1e-300)
    if (missed > 2 * options.tolerance).any():
        raise InputError(
            f"The analysis did not converge in {options.iterations} iterations (residual {missed.max().item():.1e}): "
            "observations of very small noise are stiff; raise iterations or tolerance."
        )
    return u.reshape(shape)


def gaussian_prior(
    observations: Observations, scales: tuple[float, ...], background: Tensor | None = None
) -> GaussianPrior:
    """Mean and spread from climatological states (member, case, time, channel, *space), at each point, or else from the
    observations themselves, one number per channel.

    A channel that is never observed has mean 0 and spread 1 then. With a spread below the noise, the observations say
    nothing about the variance, and it is set to that of the noise.
    """
    if background is not None:
        mean, std = climate(background, observations.valid)
    else:
        mask, filled = observations.mask, observations.filled.double()
        dims = (0, 1, *range(3, mask.ndim))
        count = mask.sum(dim=dims).clamp(min=1)
        mean = filled.sum(dim=dims) / count
        shape = (-1, *(1,) * len(observations.grid.axes))
        square = (
            torch.where(mask, filled - mean.reshape(shape), torch.zeros_like(filled)).square().sum(dim=dims) / count
        )
        noise = observations.noise_std.double().square()
        seen = mask.any(dim=(0, 1)).flatten(1).any(dim=1)
        std = torch.where(seen, (square - noise).maximum(noise), torch.ones_like(noise)).sqrt()
        mean, std = mean.reshape(shape), std.reshape(shape)
    frames = torch.arange(observations.num_times, dtype=torch.float64)
    time = torch.exp(-0.5 * ((frames[:, None] - frames[None, :]) / scales[0]).square())
    space = [correlation(axis, scale) for axis, scale in zip(observations.grid.axes, scales[1:], strict=True)]
    return GaussianPrior(mean, std, (time, *space))


def climate(states: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channel, *space) over states (member, case, time, channel, *space), float64; 0 where not `valid`."""
    samples = states.double().flatten(0, 2)
    mean, std = samples.mean(dim=0), samples.std(dim=0)
    if valid is None:
        return mean, std
    return torch.where(valid, mean, torch.zeros_like(mean)), torch.where(valid, std, torch.zeros_like(std))


def fit_scales(
    observations: Observations, *, seed: int, options: InterpolationOptions, background: Tensor | None = None
) -> tuple[float, ...]:
    """Scales (time, *axes) that predict a withheld fifth of the observations best, by trying factors on one scale at a
    time; cases of fewer than two observed points do not take part.

    Raises: InputError when there are no others.
    """
    enough = (observations.mask.any(dim=2).flatten(1).sum(dim=1) > 1).nonzero()[:, 0][: options.cases]
    if len(enough) == 0:
        raise InputError(
            "Interpolation fits its scales to observations, and no case has two of them: set scales, or observe more."
        )
    some = observations.select(enough)
    if background is not None:
        background = background[:, enough]
    used, withheld = some.withhold(0.2, seed=seed)
    weight = withheld.mask.double() / withheld.noise_field.double().square()
    operator = withheld.operator()
    axes = observations.grid.axes
    spacings = [_extent(axis) / axis.size for axis in axes]
    highest = [observations.num_times, *(_extent(axis) / 2 for axis in axes)]
    lowest = [0.3, *(0.3 * spacing * cells for spacing, cells in zip(spacings, observations.factor, strict=True))]
    quick = InterpolationOptions(tolerance=1e-3, iterations=options.iterations)

    def error(scales: tuple[float, ...]) -> float:
        guess = interpolate(used, gaussian_prior(used, scales, background), options=quick)
        return (weight * (operator(guess) - withheld.filled.double()).square()).sum().item()

    best = tuple(
        min(max(3 * low, low), high) for low, high in zip((0.7, *(2 * s for s in spacings)), highest, strict=True)
    )
    least = error(best)
    for _ in range(options.rounds):
        before = best
        for axis in range(len(best)):
            for factor in CANDIDATES:
                value = min(max(before[axis] * factor, lowest[axis]), highest[axis])
                trial = (*best[:axis], value, *best[axis + 1 :])
                if trial != best and (found := error(trial)) < least:
                    best, least = trial, found
        if best == before:
            break
    return best


def interpolation(
    emulator: Any,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    options: InterpolationOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `interpolation`; asks nothing of the emulator.

    The draws are shifted so that their mean is the exact posterior mean, and stretched by sqrt(M / (M - 1)) so that
    their expected variance is that of the posterior; a single member is the posterior mean. `background`, if given, is
    a climatological sample.

    Returns: (member, case, time, channel, *space) in the dtype of the observed values.
    Raises: InputError when the solve does not converge, or nothing can be withheld for the fit.
    """
    options = options or InterpolationOptions()
    scales = options.scales or fit_scales(observations, seed=seed, options=options, background=background)
    if len(scales) != 1 + len(observations.grid.axes) or min(scales) <= 0:
        raise InputError(f"scales must be positive: time in frames and one per space axis, got {scales}.")
    prior = gaussian_prior(observations, tuple(scales), background)
    mean = interpolate(observations, prior, options=options)
    if members == 1:
        return mean[None].to(observations.values.dtype)
    noise = MemberNoise.grid(seed, observations.trajectories, members)
    operator = observations.operator()
    outcome = []
    for member in range(members):
        here = noise.select(torch.tensor([member]))
        draw = prior.draw(here.draw(tuple(mean.shape[1:]), key=(0, 0, "prior draw"), dtype=torch.float64))
        error = here.draw(tuple(observations.values.shape[1:]), key=(0, 0, "observation draw"), dtype=torch.float64)
        error = torch.where(observations.mask, observations.noise_field.double() * error, torch.zeros_like(error))
        update = interpolate(observations, prior, options=options, extra=-operator(draw) - error)
        outcome.append((draw + update - prior.mean)[0])
        if progress is not None:
            progress(member + 1, members)
    deviations = torch.stack(outcome)
    deviations = deviations - deviations.mean(dim=0)
    return (mean + math.sqrt(members / (members - 1)) * deviations).to(observations.values.dtype)


def _extent(axis: Axis) -> float:
    if axis.period is not None:
        return axis.period
    return abs(axis.coordinates[-1] - axis.coordinates[0]) if axis.size > 1 else 1.0
