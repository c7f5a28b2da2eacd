"""What the sums of a forecast and of the truth say: distances of laws, spectra, space-time correlation, jets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.evaluation.gather import Gathered, Plan
from eddycast.metrics.density import Histogram, hellinger
from eddycast.metrics.events import rate_interval
from eddycast.metrics.halves import random_splits, split_hellinger, split_sums
from eddycast.metrics.space_time import LaggedProducts, e_folding
from eddycast.metrics.spectrum import bands, shells, spectral_errors

SPLITS = 200


@dataclass(frozen=True)
class Distance:
    """Hellinger distance of the law of one quantity, or of two jointly, from the truth's.

    Args:
        quantities: Names: u, u_x (first derivative along the axis), u_xx, u_t.
        hellinger: In [0, 1]; None for data alone.
        by_chance: Between two parts of the truth, on average, and `bound`, its 95 % quantile; None where the truth cannot be split.
        outside: Probability of the forecast beyond the truth's range.
        lost: Share of its points that are not finite.
    """

    quantities: tuple[str, ...]
    hellinger: float | None
    by_chance: float | None
    bound: float | None
    outside: float | None
    lost: float | None


@dataclass(frozen=True, eq=False)
class Density:
    """PDFs of one quantity: edges (bin + 1,), densities (bin,) of truth and forecast (None for data alone)."""

    quantity: str
    edges: list[float]
    truth: list[float]
    forecast: list[float] | None


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mean power by wavenumber with the quartiles over states, and the mean absolute log10 ratio by band.

    Args:
        wavenumber: Physical, radians per unit of length.
        truth, forecast: `mean`, `low` (25 %), `high` (75 %).
        error: By band and under `all`; `bound` what two parts of the truth give in 95 % of the splits.
    """

    wavenumber: list[float]
    truth: dict[str, list[float]]
    forecast: dict[str, list[float]] | None
    error: dict[str, float] | None
    bound: dict[str, float] | None


@dataclass(frozen=True, eq=False)
class Reach:
    """Space-time correlation of one source; e-folding lengths and times with jackknife standard errors over folds of the runs.

    Args:
        offsets, lags: In physical units.
        correlation: (lag, offset).
        length: Along the axis at the same time; `time` at the same place; infinite beyond what is seen.
    """

    offsets: list[float]
    lags: list[float]
    correlation: list[list[float]]
    length: float
    length_error: float
    time: float
    time_error: float


@dataclass(frozen=True)
class Jets:
    """Jets of one source.

    Args:
        mean: Number of jets in a state, and `share`, of states with 0, 1, 2, ... jets.
        nucleations, coalescences: Counted in a time `exposure`, with rates and their 95 % intervals (as of Poisson processes).
        waits: Number of waits between events of a run, with their median and quartiles; None without one.
    """

    mean: float
    share: list[float]
    exposure: float
    nucleations: int
    nucleation_rate: tuple[float, float, float]
    coalescences: int
    coalescence_rate: tuple[float, float, float]
    waits: int
    wait_quartiles: tuple[float, float, float] | None


def distances(plan: Plan, made: Gathered | None, truth: Gathered, seed: int) -> tuple[list[Distance], Distance | None]:
    """Of each quantity and pair of the plan, and their average over the first three quantities; `made` None for data alone."""
    groups = [(plan.names[place],) for place in range(len(plan.names))]
    groups += [tuple(plan.names[place] for place in pair) for pair in plan.pairs]
    parts = [[*one, *two] for one, two in zip(truth.marginals, truth.pairs, strict=True)]
    used = [number for number, part in enumerate(parts) if float(part[0].mass.sum()) > 0]
    chosen = None
    if len(used) > 1 and made is not None:
        share = made.states / truth.states
        chosen = random_splits(len(used), share, SPLITS, torch.Generator().manual_seed(seed))
    found, chances = [], []
    for row, names in enumerate(groups):
        whole = sum((parts[number][row] for number in used[1:]), parts[used[0]][row])
        chance = None
        if chosen is not None:
            chance = split_hellinger(torch.stack([parts[number][row].mass for number in used]), chosen)
            chances.append(chance)
        if made is None:
            found.append(Distance(names, None, None, None, None, whole.lost / _points(whole)))
            continue
        lists = made.marginals if row < len(plan.names) else made.pairs
        place = row if row < len(plan.names) else row - len(plan.names)
        own = sum((part[place] for part in lists[1:]), lists[0][place])
        found.append(Distance(names, hellinger(own, whole), *_chance(chance), own.outside, own.lost / _points(own)))
    if made is None:
        return found, None
    values = [one.hellinger for one in found[:3] if one.hellinger is not None]
    average = Distance(
        tuple(plan.names[:3]),
        sum(values) / len(values),
        *_chance(torch.stack(chances[:3]).mean(dim=0) if chances else None),
        None,
        None,
    )
    return found, average


def _points(histogram: Histogram) -> float:
    return float(histogram.mass.sum()) + histogram.lost or math.nan


def _chance(values: Tensor | None) -> tuple[float | None, float | None]:
    return (None, None) if values is None else (float(values.mean()), float(values.quantile(0.95)))


def densities(plan: Plan, made: Gathered | None, truth: Gathered) -> tuple[Density, ...]:
    """PDF of each quantity of the plan."""
    found = []
    for place, name in enumerate(plan.names):
        sides = [
            sum((part[place] for part in side.marginals[1:]), side.marginals[0][place])
            for side in (truth, made)
            if side is not None
        ]
        lines = [side.density.tolist() for side in sides]
        found.append(Density(name, sides[0].edges[0].tolist(), lines[0], lines[1] if made is not None else None))
    return tuple(found)


def spectrum(plan: Plan, made: Gathered | None, truth: Gathered, seed: int) -> Spectrum | None:
    """None on a grid of one point."""
    if plan.grid.num_points < 2:
        return None
    where = shells(plan.grid)
    masks = bands(where)
    of_truth = truth.power.sum(dim=0) / truth.counted.sum()
    error, bound = None, None
    if made is not None:
        of_forecast = made.power.sum(dim=0) / made.counted.sum()
        error = {name: one.mean for name, one in spectral_errors(of_forecast, of_truth, masks).items()}
        used = truth.counted > 0
        if int(used.sum()) > 1:
            chosen = random_splits(
                int(used.sum()), made.states / truth.states, SPLITS, torch.Generator().manual_seed(seed)
            )
            sums, sizes = (split_sums(values, chosen) for values in (truth.power[used], truth.counted[used, None]))
            sides = [total / size for total, size in zip(sums, sizes, strict=True)]
            each = [spectral_errors(one, other, masks) for one, other in zip(*sides, strict=True)]
            bound = {
                name: float(torch.tensor([one[name].mean for one in each], dtype=torch.float64).quantile(0.95))
                for name in error
            }
    return Spectrum(where.wavenumber.tolist(), _power(truth), None if made is None else _power(made), error, bound)


def _power(side: Gathered) -> dict[str, list[float]]:
    mean = (side.power.sum(dim=0) / side.counted.sum()).tolist()
    if not len(side.sample):
        return {"mean": mean, "low": mean, "high": mean}
    low, high = side.sample.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0).tolist()
    return {"mean": mean, "low": low, "high": high}


def reach(plan: Plan, side: Gathered) -> Reach | None:
    """None where nothing was correlated."""
    if not side.products:
        return None
    axis = plan.grid.axes[plan.axis]
    turn = abs(axis.coordinates[-1] - axis.coordinates[0]) / (axis.size - 1)
    whole = sum(side.products[1:], side.products[0])
    correlation = whole.correlation()
    offsets, lags = whole.offsets * turn, torch.arange(len(correlation)) * plan.dt

    def read(products: LaggedProducts) -> tuple[float, float]:
        table, centre = products.correlation(), products.product.shape[1] // 2
        return e_folding(table[0, centre:], offsets[centre:]), e_folding(table[:, centre], lags)

    length, time = read(whole)
    errors = [math.nan, math.nan]
    if len(side.products) > 1:
        left_out = [
            read(sum(rest[1:], rest[0]))
            for rest in (
                [one for place, one in enumerate(side.products) if place != fold] for fold in range(len(side.products))
            )
        ]
        errors = [_jackknife([one[which] for one in left_out]) for which in (0, 1)]
    return Reach(offsets.tolist(), lags.tolist(), correlation.tolist(), length, errors[0], time, errors[1])


def _jackknife(values: list[float]) -> float:
    """Standard error from the values with one fold left out each."""
    sample = torch.tensor(values, dtype=torch.float64)
    if not bool(sample.isfinite().all()):
        return math.nan
    return float(((len(values) - 1) / len(values) * (sample - sample.mean()).square().sum()).sqrt())


def jets_of(plan: Plan, side: Gathered) -> Jets | None:
    """None where no jets were asked for."""
    if plan.jets is None or not len(side.jets):
        return None
    share = side.jets / side.jets.sum()
    mean = float((share * torch.arange(len(share))).sum())
    rates = [
        (count / side.exposure, *rate_interval(count, side.exposure))
        if side.exposure > 0
        else (math.nan, math.nan, math.nan)
        for count in (side.nucleations, side.coalescences)
    ]
    quartiles = None
    if len(side.waits):
        levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        low, middle, high = side.waits.double().quantile(levels).tolist()
        quartiles = (low, middle, high)
    return Jets(
        mean, share.tolist(), side.exposure, side.nucleations, rates[0], side.coalescences, rates[1], len(side.waits), quartiles
    )  # fmt: skip
