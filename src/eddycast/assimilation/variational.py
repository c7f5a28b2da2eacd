"""Three-dimensional variational analysis: forecasts corrected with a covariance that is the same at all times.

    x_a = x_b + B H^T (H B H^T + R)^-1 (y - H x_b),    B = variance * climatological covariance,

the minimum of 1/2 |x - x_b|^2_{B^-1} + 1/2 |y - H x|^2_{R^-1}. Each member sees observations with errors of its own, drawn from R, so that
for linear dynamics the members keep the spread that the analysis has with this gain, and their mean is the analysis of the mean. A
nonlinear H is linearised again at each new state (Gauss-Newton). The solve is a conjugate gradient in the space of observations.
Source: Lorenc (1986), doi:10.1002/qj.49711247414; perturbed members: Burgers et al. (1998),
doi:10.1175/1520-0493(1998)126<1719:ASITEK>2.0.CO;2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from eddycast.assimilation.cycle import BlockResult, Cycle, Standing, require_finite
from eddycast.assimilation.interpolation import GaussianPrior, solve
from eddycast.assimilation.protocols import ForecastModel, Mode
from eddycast.assimilation.static_covariance import (
    SpectralCovariance,
    StaticCovariance,
    background_of,
    climatological_prior,
    scaled,
)
from eddycast.assimilation.updates import recentred_perturbations
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement, ObservationSet

ADDRESSES = 2**32
"""Numbers of windows wrap around here: frame -1 of a continued cycle has an address of its own."""

LINEAR = 1e-3
"""What the linearised observations may miss of the true ones, in units of their error, before H is linearised again."""


@dataclass(frozen=True)
class ThreeDVarOptions:
    """Settings of 3D-Var.

    Args:
        forecast_variance: Variance of the errors of forecasts, as a share of the climatological one: the number to tune. 0.1 suits
            observations that leave a third of a climatological deviation unknown; well observed systems take 0.01 to 0.05.
        start_variance: The same for the state from which a first analysis starts, the mean of the background.
        lengths: Lengths of Gaussian correlations, one per axis of space in the unit of its coordinates. None takes the correlations
            of space and channels from the spectrum of the climatological states.
        linearisations: Times that a nonlinear operator is linearised at most.
        tolerance, iterations: Relative residual at which the solve stops, and its steps at most.
        climatology: States (state, case, time, channel, *space) of the climatological covariance; None for the background.
    """

    __pydantic_config__: ClassVar[Any] = {"arbitrary_types_allowed": True}

    forecast_variance: float = 0.1
    start_variance: float = 1.0
    lengths: tuple[float, ...] | None = None
    linearisations: int = 5
    tolerance: float = 1e-6
    iterations: int = 1000
    climatology: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_variances(self.start_variance, self.forecast_variance)
        if self.linearisations < 1 or self.iterations < 1:
            raise InputError(
                f"linearisations and iterations must be at least 1, got {self.linearisations} and {self.iterations}."
            )


def check_variances(start: float, forecast: float) -> None:
    """Raises: InputError for shares of the climatological variance that are not positive."""
    if not (0 < start < float("inf") and 0 < forecast < float("inf")):
        raise InputError(
            f"start_variance and forecast_variance must be positive shares of the climatological variance, got {start:g} and {forecast:g}."
        )


def static_update(
    states: Tensor,
    measurement: Measurement,
    covariance: StaticCovariance,
    *,
    perturbations: Tensor | None = None,
    options: ThreeDVarOptions | None = None,
) -> Tensor:
    """The analysis of the last of some states.

    Args:
        states: (member, case, time, channel, *space), the frames that the measurement looks at; earlier ones than the last are taken
            as known.
        measurement: y and H, in units of the noise: R = I.
        covariance: B.
        perturbations: Added to y for each member, (member, case, entry), variance 1.
        options: Of the solve.

    Returns: the last states (member, case, 1, channel, *space), float64.
    Raises: InputError when the solve does not converge.
    """
    options = options or ThreeDVarOptions()
    earlier, background = states[:, :, :-1].double(), states[:, :, -1:].double()

    def see(last: Tensor) -> Tensor:
        return measurement.whitened(torch.cat([earlier, last], dim=2))[0]

    observed = measurement.whitened(torch.cat([earlier, background], dim=2))[1]
    entries = measurement.mask.to(observed.device)
    if perturbations is not None:
        observed = observed + torch.where(entries, perturbations.to(observed), 0)
    x = background
    for _ in range(options.linearisations):
        predicted, adjoint = torch.func.vjp(see, x)[:2]

        def seen(v: Tensor, x: Tensor = x) -> Tensor:
            return torch.func.jvp(see, (x,), (v,))[1]

        def product(u: Tensor, adjoint: Callable[[Tensor], Any] = adjoint, seen: Callable = seen) -> Tensor:
            return u + seen(covariance.covariance(adjoint(u)[0]))

        residual = observed - predicted + seen(x - background)
        weights = solve(product, residual, batch=2, options=options)
        new = background + covariance.covariance(adjoint(weights)[0])
        missed = (see(new) - predicted - seen(new - x)).abs()
        x = new
        if missed.numel() == 0 or not missed.max() > LINEAR:  # at once where H is linear
            break
    return x


@dataclass(frozen=True, eq=False)
class StaticAnalysis:
    """Blocks by 3D-Var, frame by frame: within a block, too, states know the past only.

    Args:
        options: Of the method.
        climate: Climatological covariance of contexts.
    """

    options: ThreeDVarOptions
    climate: SpectralCovariance | GaussianPrior

    def told(self, conditions: Conditions, standing: Standing) -> Conditions:
        return conditions

    def __call__(
        self,
        cycle: Cycle,
        observations: ObservationSet,
        first: int,
        last: int,
        progress: Callable[[int, int], None] | None,
    ) -> BlockResult:
        standing, options, context = cycle.standing, self.options, cycle.model.context
        assert standing.states is not None, "variational methods start from a background"
        noise = MemberNoise.grid(cycle.seed, cycle.cases, cycle.members)
        start = scaled(self.climate, options.start_variance)
        known = background_of(
            standing.states, start, observations.valid, noise=noise, context=context, continued=standing.begun
        )
        states = known.states.to(standing.states.dtype)
        now, misfit = first - 1 if standing.begun else first, standing.misfit
        offset, seen = standing.frame - first, cycle.observed_frames(observations)
        for k in range(first, last):
            if not seen[k] and k < last - 1:
                continue
            if k > now:
                frame = now + offset
                ahead = cycle.model.advance(
                    states[:, :, -context:],
                    cycle.conditions.shifted(frame).expand(cycle.members),
                    torch.arange(1.0, k - now + 1.0, dtype=torch.float64),
                    noise=noise,
                    first_window=frame % ADDRESSES,
                )
                states, now = torch.cat([states, ahead], dim=2), k
            require_finite(states[:, :, -1], k, cycle.cases, observations.valid)
            fresh = k == first and not standing.begun
            looks = 1 if fresh else 2  # an entry may look at the frame before as well
            if (measurement := observations.seen(k + 1 - looks, k + 1, since=k)) is None:
                continue
            if cycle.members > 1:
                misfit = watched(cycle, states[:, :, -looks:], measurement, misfit, k + offset)
            analysis = static_update(
                states[:, :, -looks:],
                measurement,
                scaled(at_end(self.climate), options.start_variance if fresh else options.forecast_variance),
                perturbations=perturbations(noise, measurement, (k + offset) % ADDRESSES),
                options=options,
            )
            states = torch.cat([states[:, :, :-1], analysis.to(states.dtype)], dim=2)
            require_finite(states[:, :, -1], k, cycle.cases, observations.valid)
            if progress is not None:
                progress(k + 1 - first, last - first)
        kept = last - first
        after = replace(standing, states=states, frame=standing.frame + kept, begun=True, misfit=misfit)
        return BlockResult(states[:, :, -kept:], after)


def perturbations(noise: MemberNoise, measurement: Measurement, frame: int) -> Tensor | None:
    """Errors of the observations for each member, (member, case, entry), in units of the noise; None for a single member."""
    if noise.batch[0] == 1:
        return None
    drawn = recentred_perturbations(noise, measurement.values.shape[1], key=(frame, 0, "observation draw"))
    return torch.where(measurement.mask, drawn.movedim(1, 0), 0)


def watched(cycle: Cycle, forecast: Tensor, measurement: Measurement, misfit: Tensor | None, frame: int) -> Tensor:
    """Tell the cycle how far a forecast is from what is observed; see `Cycle.watch`."""
    predicted, observed = measurement.whitened(forecast.double())
    mean = predicted.mean(dim=0)
    entries = measurement.mask.to(mean.device)
    return cycle.watch((predicted - mean).movedim(0, 1), observed - mean, entries, misfit, frame)


def three_dvar(
    emulator: ForecastModel,
    observations: ObservationSet,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "filter",
    background: Tensor | None = None,
    continued: bool = False,
    options: ThreeDVarOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `3dvar`: a filter with any forecast model, without an ensemble's sampling errors and without its flow dependence.

    A single member is the unperturbed analysis.

    Returns: (member, case, time, channel, *space) in the dtype of the background.
    Raises: InputError without states to start from, and on divergence.
    """
    cycle = three_dvar_cycle(
        emulator, conditions, background,
        members=members, seed=seed, options=options, cases=observations.trajectories, continued=continued,
    )  # fmt: skip
    return cycle.run(observations, 1, progress=progress)


def three_dvar_cycle(
    model: ForecastModel,
    conditions: Conditions,
    background: Tensor | None,
    *,
    members: int,
    seed: int,
    options: ThreeDVarOptions | None = None,
    cases: Tensor | None = None,
    continued: bool = False,
) -> Cycle:
    """A cycle of 3D-Var; arguments as `Cycle`. Raises: InputError without climatological states."""
    options = options or ThreeDVarOptions()
    climate = climatological_prior(
        options.climatology, background, conditions.grid, conditions.valid,
        context=model.context, continued=continued, lengths=options.lengths,
    )  # fmt: skip
    return Cycle(
        model, StaticAnalysis(options, climate), conditions,
        members=members, seed=seed, cases=cases, background=background, continued=continued,
    )  # fmt: skip


def at_end(climate: SpectralCovariance | GaussianPrior) -> SpectralCovariance | GaussianPrior:
    """The covariance of one state alone, where it was that of a context of several."""
    if isinstance(climate, GaussianPrior):
        return replace(climate, correlations=(torch.ones(1, 1, dtype=torch.float64), *climate.correlations[1:]))
    return replace(climate, time=torch.ones(1, 1, dtype=torch.float64))
