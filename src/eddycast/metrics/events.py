"""How probable an event is by each lead time, how long it takes, and how sure an ensemble can be of either."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from eddycast.metrics.bootstrap import Interval
from eddycast.metrics.wasserstein import wasserstein


def time_to_event(happening: Tensor, lead_times: Tensor) -> Tensor:
    """First lead time at which the event is there, infinite where it never is: (*batch, lead) -> (*batch), float64."""
    first = happening.to(torch.int8).argmax(dim=-1)
    times = lead_times.to(device=happening.device, dtype=torch.float64)[first]
    return torch.where(happening.any(dim=-1), times, math.inf)


def event_counts(times: Tensor, lead_times: Tensor) -> Tensor:
    """Number of members in which the event has happened by each lead: (member, *batch) -> (*batch, lead), long."""
    return (times[..., None] <= lead_times.to(times)).sum(dim=0)


def binomial_interval(
    hits: Tensor, trials: Tensor | int, *, level: float = 0.95, method: Literal["wilson", "exact"] = "wilson"
) -> Interval:
    """Interval of a probability from `hits` of `trials` independent members.

    `wilson` inverts the score test: its coverage is close to the level on average, and falls to 0.83 (of 0.95) where less than one hit
    is expected. `exact` inverts the binomial law: never below the level, and wider, the one to take for what is very rare.

    Args:
        hits: Whole numbers, any shape.
        trials: Positive, of the same shape or a number.
        level: Of the two-sided interval.

    Returns: low and high, float64, within [0, 1].
    Raises: ValueError for impossible counts or level.
    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953; Clopper and Pearson (1934), doi:10.1093/biomet/26.4.404.
    """
    k = hits.to(torch.float64)
    n = torch.as_tensor(trials, dtype=torch.float64, device=k.device).expand(k.shape)
    if not 0 < level < 1 or bool((n < 1).any()) or bool((k < 0).any()) or bool((k > n).any()):
        raise ValueError(
            f"Expected 0 <= hits <= trials, at least one trial and a level within (0, 1), got level {level}."
        )
    tail = (1 - level) / 2
    if method == "exact":
        low = _beta_quantile(k, n - k + 1, tail)
        high = _beta_quantile(k + 1, n - k, 1 - tail)
        return Interval(torch.where(k == 0, 0.0, low), torch.where(k == n, 1.0, high))
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    p = k / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)).sqrt()
    low, high = (centre - half).clamp(min=0), (centre + half).clamp(max=1)
    return Interval(torch.where(k == 0, 0.0, low), torch.where(k == n, 1.0, high))


def difference_interval(
    hits: Tensor, trials: Tensor | int, other_hits: Tensor, other_trials: Tensor | int, *, level: float = 0.95
) -> Interval:
    """Interval of the difference of two probabilities, first minus other, from independent ensembles.

    Each end combines the Wilson ends of the two: d - sqrt((p - l)^2 + (u' - p')^2), d + sqrt((u - p)^2 + (p' - l')^2). Coverage is close
    to the level also for rare events. Where 0 is outside, the ensembles differ.

    Args and raises: as `binomial_interval`. Source: Newcombe (1998), doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I,
    method 10.
    """
    one = binomial_interval(hits, trials, level=level)
    two = binomial_interval(other_hits, other_trials, level=level)
    p = hits.to(torch.float64) / torch.as_tensor(trials, dtype=torch.float64, device=hits.device)
    q = other_hits.to(torch.float64) / torch.as_tensor(other_trials, dtype=torch.float64, device=other_hits.device)
    difference = p - q
    down = ((p - one.low).square() + (two.high - q).square()).sqrt()
    up = ((one.high - p).square() + (q - two.low).square()).sqrt()
    return Interval((difference - down).clamp(min=-1), (difference + up).clamp(max=1))


def rate_interval(count: int, exposure: float, *, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of the rate of a Poisson process from `count` events in a time `exposure`.

    Events that come in bunches, or after a dead time, are no such process: the interval is then too narrow, or too wide.
    Raises: ValueError for a negative count, an exposure that is not positive, or an impossible level.
    Source: Garwood (1936), doi:10.1093/biomet/28.3-4.437.
    """
    from scipy.special import gammaincinv

    if count < 0 or not exposure > 0 or not 0 < level < 1:
        raise ValueError(f"A rate needs a count from 0 on and a positive exposure, got {count} and {exposure}.")
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(gammaincinv(count, tail))
    return low / exposure, float(gammaincinv(count + 1, 1 - tail)) / exposure


class EventTimes(NamedTuple):
    """What a sample of times to an event tells: the probability by the horizon, and quantiles, infinite where they lie beyond it."""

    probability: float
    median: float
    half: tuple[float, float]
    """Central 50 % of the mass."""
    most: tuple[float, float]
    """Central 90 %."""


def event_times(times: Tensor) -> EventTimes:
    """Median and central intervals of the time to an event, (member,); infinite is "not by the end of the forecast".

    A quantile is the first time by which that share of members has had the event. Raises: ValueError without a member.
    """
    if len(times) == 0:
        raise ValueError("Times to an event need at least one member.")
    ordered = times.to(torch.float64).sort().values

    def quantile(level: float) -> float:
        return float(ordered[max(0, math.ceil(level * len(ordered) - 1e-9) - 1)])

    share = float(ordered.isfinite().double().mean())
    return EventTimes(share, quantile(0.5), (quantile(0.25), quantile(0.75)), (quantile(0.05), quantile(0.95)))


def event_time_distance(times: Tensor, other: Tensor, horizon: float) -> Tensor:
    """Wasserstein-1 distance of two laws of times to an event, each time cut at the horizon, in units of time.

        W_1 = int_0^horizon |F(t) - G(t)| dt

    the mean difference of the probabilities by each lead, times the horizon. What happens beyond the horizon goes unseen.

    Args:
        times, other: (*batch, member); infinite where the event does not happen.
        horizon: Last lead time.
    """
    return wasserstein(times.clamp(max=horizon), other.clamp(max=horizon))


class DistanceTest(NamedTuple):
    """A distance, what it is on average between two draws of one law, and how often that is as large (the p-value)."""

    distance: float
    by_chance: float
    p_value: float


def compare_event_times(
    times: Tensor, other: Tensor, horizon: float, *, permutations: int = 500, generator: torch.Generator
) -> DistanceTest:
    """Whether two ensembles have the same law of times, by dealing their members to two ensembles at random.

    Args:
        times, other: (member,) each, independent members of one start.
        horizon: As `event_time_distance`.
        permutations: Number of deals; the p-value cannot fall below 1 / (permutations + 1).
        generator: Of the deals, on the CPU.
    """
    pooled = torch.cat([times, other]).to(torch.float64).clamp(max=horizon)
    own = float(event_time_distance(times, other, horizon))
    order = torch.rand(permutations, len(pooled), generator=generator).argsort(dim=-1).to(pooled.device)
    dealt = pooled[order]
    chance = wasserstein(dealt[:, : len(times)], dealt[:, len(times) :])
    larger = int((chance >= own - 1e-12).sum())
    return DistanceTest(own, float(chance.mean()), (larger + 1) / (permutations + 1))


def _beta_quantile(a: Tensor, b: Tensor, q: float) -> Tensor:
    """Quantile of the beta law; where a or b is 0 the caller knows better."""
    from scipy.special import betaincinv

    values = betaincinv(a.clamp(min=0.5).cpu().numpy(), b.clamp(min=0.5).cpu().numpy(), q)
    return torch.as_tensor(values, dtype=torch.float64, device=a.device)
