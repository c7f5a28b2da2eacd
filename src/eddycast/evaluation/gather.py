"""Sums over the runs of one group of parameters, from which statistics are made: histograms, spectra, correlation, jets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.runs import Run
from eddycast.grid import Grid
from eddycast.metrics import mask_weights
from eddycast.metrics.density import Histogram, empty_histogram
from eddycast.metrics.derivatives import axis_derivative, is_uniform
from eddycast.metrics.jets import count_jets, jet_events, waiting_times
from eddycast.metrics.space_time import LaggedProducts, empty_products
from eddycast.metrics.spectrum import Shells, power_spectrum, shells

PIECE_BYTES = 2**26
MOST_PARTS = 64
ENOUGH_PARTS = 8
FOLDS = 8
MOST_SPECTRA = 4096


@dataclass(frozen=True)
class JetSettings:
    """What counts as a jet, and as an event.

    Args:
        width: Standard deviation of the smoothing, in grid steps.
        prominence: Of a jet, in standard deviations of the truth.
        hold: States that a change of their number must last.
    """

    width: float = 2.0
    prominence: float = 0.5
    hold: int = 5


def check_jet_settings(settings: JetSettings) -> None:
    """Raises: InputError for numbers with which nothing is a jet."""
    if settings.width < 0 or not settings.prominence > 0 or settings.hold < 1:
        raise InputError(
            f"Jets need --width 0 or more, a positive --prominence and --hold 1 or more, got {settings.width:g}, "
            f"{settings.prominence:g} and {settings.hold}."
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """What is gathered, the same for forecast and truth.

    Args:
        field: Name of the field.
        grid: In physical units.
        axis: Number of the axis along which derivatives and correlation are taken.
        dt: Time between states.
        valid: Mask (*space), or None.
        with_time: Whether there is a time derivative, central over three states.
        lags: Number of lags of the correlation; 0 for none.
        skip: States left out at the start of each run.
        jets: Settings, with the prominence in units of the field; None without jets.
    """

    field: str
    grid: Grid
    axis: int
    dt: float
    valid: Tensor | None
    with_time: bool
    lags: int
    skip: int
    jets: JetSettings | None = None

    @property
    def dim(self) -> int:
        return self.axis - len(self.grid.axes)

    @property
    def weights(self) -> Tensor:
        return mask_weights(self.grid.weights(), self.valid)

    @property
    def law_weights(self) -> Tensor:
        """Weights of points at which all derivatives exist."""
        weights = self.weights.clone()
        along, dim = self.grid.axes[self.axis], self.dim
        known = weights > 0
        if not along.periodic:
            weights.narrow(dim, 0, 1).zero_()
            weights.narrow(dim, along.size - 1, 1).zero_()
        if self.valid is not None:
            known = known & known.roll(1, dim) & known.roll(-1, dim)
        return torch.where(known, weights, 0.0)

    @property
    def names(self) -> tuple[str, ...]:
        axis = self.grid.names[self.axis]
        own = (self.field, f"{self.field}_{axis}", f"{self.field}_{axis * 2 if len(axis) == 1 else f'{axis}_{axis}'}")
        return (*own, f"{self.field}_t") if self.with_time else own

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        return ((0, 1), (0, 2), (1, 2), *([(0, 3)] if self.with_time else []))

    @property
    def correlates(self) -> bool:
        return self.lags > 0 and self.grid.shape[self.axis] > 1 and is_uniform(self.grid.axes[self.axis])

    def quantities(self, states: Tensor) -> list[Tensor]:
        """States (frame, *space) to one tensor for each of `names`, all at the same states: without the first and last if `with_time`."""
        values = states.to(torch.float64)
        inner = values[1:-1] if self.with_time else values
        axis, central = self.grid.axes[self.axis], self.valid is not None
        found = [inner, *(axis_derivative(inner, axis, self.dim, order, central=central) for order in (1, 2))]
        return [*found, (values[2:] - values[:-2]) / (2 * self.dt)] if self.with_time else found

    def pieces(self, run: Run) -> Iterator[Tensor]:
        """States of a run in stretches that memory holds, (frame, *space)."""
        most = max(64, PIECE_BYTES // (8 * self.grid.num_points))
        for first in range(self.skip, run.frames, most):
            stop = min(first + most, run.frames)
            if stop - first >= (3 if self.with_time else 1):
                yield run.fetch(first, stop)


@dataclass(frozen=True, eq=False)
class Extent:
    """Lowest and highest value of each quantity, and mean and mean square of the field about it."""

    low: Tensor
    high: Tensor
    mean: float
    variance: float


def extent(plan: Plan, runs: Sequence[Run]) -> Extent:
    """Of all runs, read once."""
    weights, known = plan.weights, plan.law_weights > 0
    low = torch.full((len(plan.names),), torch.inf, dtype=torch.float64)
    high = -low
    total, square, mass = 0.0, 0.0, 0.0
    for run in runs:
        for states in plan.pieces(run):
            for place, values in enumerate(plan.quantities(states)):
                counted = values[:, known]
                counted = counted[counted.isfinite()]
                if counted.numel():
                    low[place] = torch.minimum(low[place], counted.min())
                    high[place] = torch.maximum(high[place], counted.max())
            values = states.to(torch.float64)
            share = torch.where(values.isfinite(), weights, 0.0)
            total += float((share * values.nan_to_num(0.0)).sum())
            square += float((share * values.nan_to_num(0.0).square()).sum())
            mass += float(share.sum())
    mean = total / mass if mass else float("nan")
    return Extent(low, high, mean, max(0.0, square / mass - mean**2) if mass else float("nan"))


@dataclass(eq=False)
class Gathered:
    """Of one source.

    Args:
        runs, states: Numbers of what was read.
        marginals, pairs: One histogram for each quantity, and for each pair, of each part.
        power: Summed spectra of each part, (part, shell), and `counted`, their number, (part,).
        sample: Spectra of single states, thinned, (state, shell).
        products: Of the correlation, one for each fold of the runs; empty where there is none.
        jets: Number of states with 0, 1, 2, ... jets; `nucleations` and `coalescences` of all runs in the time `exposure`, and `waits`
            between such events, (wait,).
    """

    runs: int
    states: int
    marginals: list[list[Histogram]]
    pairs: list[list[Histogram]]
    power: Tensor
    counted: Tensor
    sample: Tensor
    products: list[LaggedProducts]
    jets: Tensor
    nucleations: int
    coalescences: int
    exposure: float
    waits: Tensor

    @property
    def parts(self) -> int:
        return len(self.marginals)


def edges_of(bounds: Extent, place: int, bins: int) -> Tensor:
    """Equal bins over the range of a quantity; around it where it does not vary."""
    low, high = float(bounds.low[place]), float(bounds.high[place])
    if not high > low:
        half = 0.5 * max(abs(low), 1.0)
        low, high = low - half, high + half
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    edges[0], edges[-1] = low, high
    return edges


def gather(plan: Plan, runs: Sequence[Run], bounds: Extent, *, bins: int, pair_bins: int) -> Gathered:
    """Read the runs once.

    Parts are what is taken for independent: runs, dealt to 64 parts at most, or stretches of runs where there are fewer than 8.
    """
    per_run = 1 if len(runs) >= ENOUGH_PARTS else -(-ENOUGH_PARTS // len(runs))
    number = min(MOST_PARTS, len(runs) * per_run)
    singles = [empty_histogram(edges_of(bounds, place, bins)) for place in range(len(plan.names))]
    doubles = [
        empty_histogram(edges_of(bounds, one, pair_bins), edges_of(bounds, other, pair_bins))
        for one, other in plan.pairs
    ]
    marginals, pairs = [list(singles) for _ in range(number)], [list(doubles) for _ in range(number)]
    where: Shells | None = shells(plan.grid) if plan.grid.num_points > 1 else None
    size = 0 if where is None else len(where.wavenumber)
    power, counted = torch.zeros(number, size, dtype=torch.float64), torch.zeros(number, dtype=torch.float64)
    along = plan.grid.axes[plan.axis]
    folds = min(FOLDS, len(runs)) if plan.correlates else 0
    products = [empty_products(along.size, plan.lags, periodic=along.periodic) for _ in range(folds)]
    total = sum(max(0, run.frames - plan.skip) for run in runs)
    every, seen, sample = max(1, -(-total // MOST_SPECTRA)), 0, []
    weights, law_weights = plan.weights, plan.law_weights
    counts: list[Tensor] = []
    for index, run in enumerate(runs):
        own, done = [], 0
        for states in plan.pieces(run):
            values = plan.quantities(states)
            count = len(values[0])
            for stretch in range(per_run):
                part = slice(count * stretch // per_run, count * (stretch + 1) // per_run)
                place = (index * per_run + stretch) % number
                some = [value[part] for value in values]
                for row, value in enumerate(some):
                    marginals[place][row] = marginals[place][row].add(value, weights=law_weights)
                for row, (one, other) in enumerate(plan.pairs):
                    pairs[place][row] = pairs[place][row].add(some[one], some[other], weights=law_weights)
            seen += len(states)
            if where is not None:
                spectra = power_spectrum(states.to(torch.float64), where, weights)
                finite = spectra.isfinite().all(dim=-1)
                cuts = [len(states) * stretch // per_run for stretch in range(per_run + 1)]
                for stretch in range(per_run):
                    kept = spectra[cuts[stretch] : cuts[stretch + 1]][finite[cuts[stretch] : cuts[stretch + 1]]]
                    place = (index * per_run + stretch) % number
                    power[place] += kept.sum(dim=0)
                    counted[place] += len(kept)
                sample.append(spectra[finite][(-done) % every :: every].float())
            done += len(states)
            if products:
                lines, land = _lines(plan, states)
                products[index % folds] = products[index % folds].add(lines, land)
            if plan.jets is not None:
                found = count_jets(states.double(), prominence=plan.jets.prominence, width=plan.jets.width)
                own.append(torch.where(states.isfinite().all(dim=-1), found, -1))
        if own:  # a run ends where it is no longer finite: that is no event
            whole = torch.cat(own)
            counts.append(whole[(whole < 0).cumsum(dim=0) == 0])
    jets, nucleations, coalescences, exposure, waits = _jets(plan, counts)
    drawn = torch.cat(sample) if sample else torch.zeros(0, size)
    return Gathered(
        len(runs), seen, marginals, pairs, power, counted, drawn, products, jets, nucleations, coalescences, exposure, waits
    )  # fmt: skip


def _lines(plan: Plan, states: Tensor) -> tuple[Tensor, Tensor | None]:
    """States (frame, *space) as lines along the axis, (line, frame, points), with the mask of each, (line, points)."""
    points = plan.grid.shape[plan.axis]
    lines = states.movedim(plan.dim, -1).reshape(len(states), -1, points).transpose(0, 1)
    land = None if plan.valid is None else plan.valid.movedim(plan.dim, -1).reshape(-1, points)
    return lines, land


def _jets(plan: Plan, counts: list[Tensor]) -> tuple[Tensor, int, int, float, Tensor]:
    if plan.jets is None or not counts:
        return torch.zeros(0), 0, 0, 0.0, torch.zeros(0)
    hold, up, down, exposure, waits = plan.jets.hold, 0, 0, 0.0, []
    for count in counts:
        if len(count) <= hold:
            continue
        events = jet_events(count, hold)
        up += int(events.clamp(min=0).sum())
        down -= int(events.clamp(max=0).sum())
        exposure += (len(count) - hold) * plan.dt
        waits.append(waiting_times(events, torch.arange(len(count), dtype=torch.float64) * plan.dt))
    pooled = torch.cat(counts)
    return torch.bincount(pooled).double(), up, down, exposure, torch.cat(waits) if waits else torch.zeros(0)
