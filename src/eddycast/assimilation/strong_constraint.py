"""Four-dimensional variational analysis with the model as a strong constraint: the start from which a forecast fits all observations.

    J(v) = 1/2 |v|^2 + 1/2 sum_k |y_k - H_k M_k(x_0)|^2_{R^-1},    x_0 = x_b + B^1/2 v,

minimised by limited-memory BFGS, its gradient by autograd through the forecast model, piece by piece: each piece is run again on the way
back, so that the memory is that of one piece and the states between. The Hessian is I and more, so that |grad J| bounds the distance from
a local minimum in posterior standard deviations: the stop has that unit.

A chaotic model gives J many minima. The window grows in steps, each beginning at the minimum before, whose basin is wide while the window
is short. Members are analyses of perturbed backgrounds and perturbed observations: for linear models exact draws from the posterior,
shifted to its exact mean; they begin at the unperturbed analysis, and so know one minimum only.
Source: Le Dimet and Talagrand (1986), doi:10.1111/j.1600-0870.1986.tb00459.x; growing windows: Pires, Vautard and Talagrand (1996),
Tellus A 48, 96; members as posterior samples: Oliver, He and Reynolds (1996), Conditioning permeability fields to pressure data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from eddycast.assimilation.cycle import BlockResult, Cycle, Standing, require_finite
from eddycast.assimilation.findings import report
from eddycast.assimilation.interpolation import GaussianPrior
from eddycast.assimilation.protocols import ForecastModel, Mode
from eddycast.assimilation.static_covariance import (
    Background,
    SpectralCovariance,
    background_of,
    climatological_prior,
    scaled,
)
from eddycast.assimilation.variational import ADDRESSES, check_variances, perturbations
from eddycast.conditions import Conditions
from eddycast.emulators import Diffusing
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.lbfgs import Minimum, lbfgs
from eddycast.observations import Measurement, ObservationSet

NO_GRADIENTS = (
    "This forecaster gives no gradients (a diffusion samples without them): 4dvar needs a simulator or an emulator of one pass; "
    "etkf takes any."
)


@dataclass(frozen=True)
class FourDVarOptions:
    """Settings of 4D-Var.

    Args:
        start_variance: Variance of the errors of x_b as a share of the climatological one, in a first window that starts from the mean
            of the background.
        forecast_variance: The same in windows that go on from an analysis.
        lengths: Of the correlations, as in `ThreeDVarOptions`.
        window: Frames that are fitted as one forecast; the next window starts from the last state of the analysis before, and a state
            knows what is observed up to the end of its own. None for all. In a chaotic system a window of more than a few Lyapunov
            times has no minimum that can be found.
        grow: Frames by which a window grows from one minimisation to the next, half a Lyapunov time at most; None for the whole at once.
        grow_iterations, iterations: Steps of the minimisations of growing windows, and of whole ones, at most.
        tolerance: Norm of the gradient at which a minimisation stops, in posterior standard deviations.
        piece: Frames of one call of the forecast model, whose graph is held at a time.
        memory: Pairs of states and gradients that the minimisation keeps.
        climatology: As in `ThreeDVarOptions`.
    """

    __pydantic_config__: ClassVar[Any] = {"arbitrary_types_allowed": True}

    start_variance: float = 1.0
    forecast_variance: float = 0.1
    lengths: tuple[float, ...] | None = None
    window: int | None = None
    grow: int | None = 4
    grow_iterations: int = 15
    iterations: int = 100
    tolerance: float = 0.02
    piece: int = 4
    memory: int = 10
    climatology: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_variances(self.start_variance, self.forecast_variance)
        for name in ("window", "grow", "grow_iterations", "iterations", "piece", "memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")
        if not self.tolerance > 0:
            raise InputError(
                f"tolerance must be positive, got {self.tolerance:g}: 0.02 posterior deviations are ample."
            )


class Piece(NamedTuple):
    """Frames [start, stop) of a window, what is observed of them, and the values that each member is to fit, (member, case, entry)."""

    start: int
    stop: int
    measurement: Measurement | None
    targets: Tensor | None


@dataclass(frozen=True)
class Minimisation:
    """How a minimisation ended, of all its problems (members and cases) together.

    Args:
        frames: Of the window, from its first one on.
        cost: J, mean over the problems.
        cost_per_observation: 2 J over the number of observations: 1 where the errors are as stated, 2 for perturbed members.
        gradient_norm, first_gradient_norm: At the end and at the start, the largest and the mean over the problems.
        iterations: Most of any problem.
        reached: Share of the problems whose gradient fell to the tolerance.
    """

    frames: tuple[int, int]
    cost: float
    cost_per_observation: float
    gradient_norm: float
    first_gradient_norm: float
    iterations: int
    reached: float


@dataclass(frozen=True, eq=False)
class WindowProblem:
    """J of one window for a batch of members and cases.

    Args:
        model: M.
        conditions: Batch (case,), origin at frame 0 of the observations.
        noise: Addresses (member, case) of what is random in the model: the same in every evaluation.
        known: x_b.
        covariance: B.
        pieces: What to fit. Where the first is frame `origin` itself, it is seen without a forecast.
        origin: Frame of the last state of x_b.
        offset: Number of frame 0 of the observations in the addresses of the noise.
        dtype: Of the states given to the model.
    """

    model: ForecastModel
    conditions: Conditions
    noise: MemberNoise
    known: Background
    covariance: SpectralCovariance | GaussianPrior
    pieces: tuple[Piece, ...]
    origin: int
    offset: int
    dtype: torch.dtype

    def start(self, v: Tensor) -> Tensor:
        """x_0 of the control variable v, both (member, case, context, channel, *space), float64."""
        return self.known.states + self.covariance.draw(v)

    def value_and_gradient(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """J (member, case) and its gradient, for v (member, case, context, channel, *space)."""
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            value = self.cost(v)
            (gradient,) = torch.autograd.grad(value.sum(), v)
        return value.detach(), gradient

    def cost(self, v: Tensor) -> Tensor:
        """J (member, case)."""
        context = self.start(v).to(self.dtype)
        cost = 0.5 * v.square().flatten(2).sum(dim=2)
        for piece in self.pieces:
            # deterministic: draws are addressed, and torch's own generators are not used
            context, misfit = checkpoint(self._run, context, piece, use_reentrant=False, preserve_rng_state=False)  # type: ignore[misc]
            cost = cost + misfit
        return cost

    @torch.no_grad()
    def states(self, v: Tensor) -> Tensor:
        """x_b's context as analysed and the states that follow, (member, case, time, channel, *space)."""
        states = self.start(v).to(self.dtype)
        for piece in self.pieces:
            if piece.start > self.origin:
                states = torch.cat([states, self._forecast(states[:, :, -self.model.context :], piece)], dim=2)
        return states

    def _run(self, context: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """The next context, and what the piece adds to J (member, case)."""
        looked_at = context[:, :, -1:]
        if piece.start > self.origin:
            states = self._forecast(context, piece)
            if context.requires_grad and not states.requires_grad:
                raise InputError(NO_GRADIENTS)
            # an entry may look at the frame before as well
            looked_at = torch.cat([context[:, :, -1:], states], dim=2)
            context = torch.cat([context, states], dim=2)[:, :, -context.shape[2] :]
        if piece.measurement is None or piece.targets is None:
            return context, looked_at.new_zeros(looked_at.shape[:2], dtype=torch.float64)
        predicted = piece.measurement.whitened(looked_at.double())[0]
        misfit = predicted - piece.targets.to(predicted)
        return context, 0.5 * misfit.square().sum(dim=2)

    def _forecast(self, context: Tensor, piece: Piece) -> Tensor:
        last = piece.start - 1
        return self.model.advance(
            context,
            self.conditions.shifted(last).expand(context.shape[0]),
            torch.arange(1.0, piece.stop - piece.start + 1.0, dtype=torch.float64),
            noise=self.noise,
            first_window=(last + self.offset) % ADDRESSES,
        )


def pieces_of(
    observations: ObservationSet, noise: MemberNoise, first: int, last: int, *, begun: bool, length: int, offset: int
) -> tuple[Piece, ...]:
    """The window [first, last) cut into pieces; for a first analysis the first piece is frame `first` itself."""
    cuts = [] if begun else [(first, first + 1, first)]
    begin = first if begun else first + 1
    cuts += [(start, min(start + length, last), start - 1) for start in range(begin, last, length)]
    pieces = []
    for start, stop, back in cuts:
        measurement = observations.seen(back, stop, since=start)
        targets = None
        if measurement is not None:
            nothing = (1, observations.num_cases, stop - back, len(observations.fields), *observations.grid.shape)
            observed = measurement.whitened(torch.zeros(nothing, dtype=torch.float64))[1]
            shifts = perturbations(noise, measurement, (start + offset) % ADDRESSES)
            targets = observed.expand(noise.batch[0], *observed.shape) if shifts is None else observed + shifts
        pieces.append(Piece(start, stop, measurement, targets))
    return tuple(pieces)


def minimise(
    problem: WindowProblem,
    start: Tensor,
    options: FourDVarOptions,
    *,
    iterations: int,
    observer: Callable[[int], None] | None = None,
) -> tuple[Tensor, Minimisation]:
    """v at the minimum of J, and how it was found. Raises: InputError where J is not finite at the start."""
    shape, batch = start.shape, start.shape[:2]
    first_norm: list[float] = []

    def objective(flat: Tensor) -> tuple[Tensor, Tensor]:
        try:
            value, gradient = problem.value_and_gradient(flat.reshape(shape))
        except InputError:
            if not first_norm:
                raise
            # a step too far, at which the solver leaves the range of numbers: it is cut
            return torch.full((len(flat),), torch.inf, dtype=flat.dtype, device=flat.device), torch.zeros_like(flat)
        if not first_norm:
            if not bool(value.isfinite().all()):
                raise InputError(
                    "The cost of the background is not finite: take a shorter window, or a more stable emulator."
                )
            first_norm.append(gradient.flatten(2).norm(dim=2).mean().item())
        return value.flatten(), gradient.reshape(flat.shape)

    rounding = 100 * torch.finfo(problem.dtype).eps
    found: Minimum = lbfgs(
        objective, start.reshape(batch.numel(), -1), target=options.tolerance, iterations=iterations,
        memory=options.memory, rounding=rounding, observer=observer,
    )  # fmt: skip
    count = sum(0 if piece.measurement is None else piece.measurement.count for piece in problem.pieces)
    told = Minimisation(
        frames=(problem.pieces[0].start, problem.pieces[-1].stop),
        cost=found.value.mean().item(),
        cost_per_observation=2 * found.value.reshape(batch).mean(dim=0).sum().item() / max(1, count),
        gradient_norm=found.gradient_norm.max().item(),
        first_gradient_norm=first_norm[0],
        iterations=int(found.iterations.max()),
        reached=found.reached.double().mean().item(),
    )
    return found.point.reshape(shape), told


@dataclass(frozen=True, eq=False)
class StrongConstraintAnalysis:
    """Blocks by 4D-Var, each one window.

    Args:
        options: Of the method.
        climate: Climatological covariance of contexts.
        minimisations: Those of all blocks so far, of the whole window, the unperturbed one before that of the members.
    """

    options: FourDVarOptions
    climate: SpectralCovariance | GaussianPrior
    minimisations: list[Minimisation] = field(default_factory=list)

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
        standing, options = cycle.standing, self.options
        assert standing.states is not None, "variational methods start from a background"
        begun, offset, dtype = standing.begun, standing.frame - first, standing.states.dtype
        covariance = scaled(self.climate, options.forecast_variance if begun else options.start_variance)
        noise = MemberNoise.grid(cycle.seed, cycle.cases, cycle.members)
        known = background_of(
            standing.states, covariance, observations.valid, noise=noise, context=cycle.model.context, continued=begun
        )

        def problem(known: Background, noise: MemberNoise) -> WindowProblem:
            pieces = pieces_of(observations, noise, first, last, begun=begun, length=options.piece, offset=offset)
            return WindowProblem(
                cycle.model, cycle.conditions.shifted(offset), noise, known, covariance, pieces,
                origin=first - 1 if begun else first, offset=offset, dtype=dtype,
            )  # fmt: skip

        alone = MemberNoise.grid(cycle.seed, cycle.cases, 1)
        mean = known.states.mean(dim=0, keepdim=True)
        control = problem(Background(mean, torch.zeros_like(mean)), alone)
        done, total = 0, options.iterations * (2 if cycle.members > 1 else 1)

        def observer(number: int) -> None:
            if progress is not None:
                progress(done + number, total)

        v = torch.zeros_like(mean)
        for stop in growing(control.pieces, options.grow):
            v, _ = minimise(
                replace(control, pieces=control.pieces[:stop]), v, options, iterations=options.grow_iterations
            )
        v, told = minimise(control, v, options, iterations=options.iterations, observer=observer)
        self.minimisations.append(told)
        whole = control
        if cycle.members > 1:
            done = options.iterations
            whole = problem(known, noise)
            v, told = minimise(whole, v - known.draws, options, iterations=options.iterations, observer=observer)
            self.minimisations.append(told)
        report(minimisations=[asdict(one) for one in self.minimisations])
        states = whole.states(v)
        require_finite(states, last - 1, cycle.cases, observations.valid)
        kept = last - first
        after = replace(standing, states=states, frame=standing.frame + kept, begun=True)
        return BlockResult(states[:, :, -kept:], after)


def growing(pieces: tuple[Piece, ...], grow: int | None) -> list[int]:
    """Numbers of pieces of the windows before the whole one, each `grow` frames longer (at least a piece) and with more to fit."""
    stops: list[int] = []
    if grow is None:
        return stops
    reached = pieces[0].start
    fresh = False
    for number, piece in enumerate(pieces[:-1], 1):
        fresh = fresh or piece.measurement is not None
        if fresh and piece.stop - reached >= grow:
            stops.append(number)
            reached, fresh = piece.stop, False
    return stops


def four_dvar(
    emulator: ForecastModel,
    observations: ObservationSet,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    options: FourDVarOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `4dvar`: needs gradients of the forecast model, which simulators and emulators of one pass give.

    Findings: `minimisations`, see `Minimisation`. A random model is taken with the noise of each member held fixed.

    Returns: (member, case, time, channel, *space) in the dtype of the background: forecasts from the analysed starts.
    Raises: InputError without states to start from, for a model without gradients, and on divergence.
    """
    options = options or FourDVarOptions()
    cycle = four_dvar_cycle(
        emulator, conditions, background,
        members=members, seed=seed, options=options, cases=observations.trajectories, continued=continued,
    )  # fmt: skip
    return cycle.run(observations, options.window or observations.num_times, progress=progress)


def four_dvar_cycle(
    model: ForecastModel,
    conditions: Conditions,
    background: Tensor | None,
    *,
    members: int,
    seed: int,
    options: FourDVarOptions | None = None,
    cases: Tensor | None = None,
    continued: bool = False,
) -> Cycle:
    """A cycle of 4D-Var, each block one window; arguments as `Cycle`. Raises: InputError without climatological states."""
    options = options or FourDVarOptions()
    # its samplers hide the network from autograd, while what they start from gets through: gradients would be wrong, not absent
    if isinstance(getattr(model, "model", None), Diffusing):
        raise InputError(NO_GRADIENTS)
    climate = climatological_prior(
        options.climatology, background, conditions.grid, conditions.valid,
        context=model.context, continued=continued, lengths=options.lengths,
    )  # fmt: skip
    return Cycle(
        model, StrongConstraintAnalysis(options, climate), conditions,
        members=members, seed=seed, cases=cases, background=background, continued=continued,
    )  # fmt: skip
