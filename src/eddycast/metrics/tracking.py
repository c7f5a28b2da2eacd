"""How long a forecast tracks the truth: normalised error over lead time, first crossing of a threshold, and quantiles over cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eddycast.metrics.field import mse
from eddycast.metrics.time import lead_intervals


class ValidTime(NamedTuple):
    """Time of the first crossing, and whether there was none before the end, so that the time is a lower bound; both (*batch)."""

    time: Tensor
    censored: Tensor


def normalised_error(forecast: Tensor, truth: Tensor, weights: Tensor, mean_square: Tensor | float) -> Tensor:
    """Error in root mean squares of the truth.

        NRMSE(t) = ||x(t) - y(t)|| / sqrt(<||y||^2>)

    Of two independent states with mean zero it is sqrt(2), so that 0.5 lies well within reach of the truth.

    Args:
        forecast, truth: (*batch, lead, *space).
        weights: (*space).
        mean_square: <||y||^2>, the mean square of the truth over space *and* time (its climatology, not that of one frame).

    Returns: (*batch, lead). Raises: ValueError for shapes that disagree.
    """
    return (mse(forecast, truth, weights) / mean_square).sqrt()


def valid_time(error: Tensor, lead_times: Tensor, *, threshold: float, shown: Tensor | None = None) -> ValidTime:
    """First time at which the error exceeds the threshold, linear in between; at lead 0 the error is 0.

    Args:
        error: (*batch, lead). NaN where shown is a forecast that is lost: it counts as exceeding, and what lies in between is not
            interpolated then.
        lead_times: (lead,), positive and increasing.
        threshold: Positive.
        shown: (*batch, lead), False where there is no truth; a case ends before its first such lead. None means everywhere.

    Returns: times in units of `lead_times`; a curve that never exceeds has its last time, `censored`.
    Raises: ValueError for lead times that do not increase, or a threshold that is not positive.
    """
    lead_intervals(lead_times)
    if not threshold > 0:
        raise ValueError(f"The threshold of an error must be positive, got {threshold}.")
    kept = torch.ones_like(error, dtype=torch.bool) if shown is None else shown.to(torch.bool)
    kept = kept.cumprod(dim=-1).bool()
    values = torch.where(error.isfinite(), error, math.inf).to(torch.float64)
    over = kept & (values > threshold)
    crossed = over.any(dim=-1)
    place = torch.where(
        crossed, over.to(torch.int8).argmax(dim=-1), kept.sum(dim=-1)
    )  # first lead over, or number of leads
    times = torch.cat([lead_times.new_zeros(1), lead_times]).to(device=error.device, dtype=torch.float64)
    errors = torch.nn.functional.pad(values, (1, 0))
    before = errors.gather(-1, place[..., None])[..., 0]
    after = errors.gather(-1, (place + 1).clamp(max=errors.shape[-1] - 1)[..., None])[..., 0]
    start, stop = times[place], times[(place + 1).clamp(max=len(times) - 1)]
    share = torch.where(after.isfinite(), (threshold - before) / (after - before), 0.0)
    return ValidTime(torch.where(crossed, start + share * (stop - start), start), ~crossed)


def survival(times: Tensor, censored: Tensor) -> tuple[Tensor, Tensor]:
    """Share of cases that have not ended by each time of an end, with cases that were lost from sight on the way.

        S(t) = prod_{t_i <= t} (1 - d_i / n_i),  d_i ends among the n_i cases still in sight

    Args:
        times: (case,), of the end, or of the last sight.
        censored: (case,), True where it is the latter.

    Returns: the distinct times of ends, ascending, and S just after each. Without censoring 1 - S is the empirical law.
    Source: Kaplan and Meier (1958), doi:10.1080/01621459.1958.10501452.
    """
    ends = times[~censored].to(torch.float64).unique()
    at_risk = (times.to(torch.float64)[:, None] >= ends).sum(dim=0)
    died = ((times.to(torch.float64)[:, None] == ends) & ~censored[:, None]).sum(dim=0)
    return ends, (1 - died / at_risk).cumprod(dim=0)


def survival_quantiles(times: Tensor, censored: Tensor, levels: Sequence[float] = (0.25, 0.5, 0.75)) -> list[float]:
    """Times by which these shares of the cases have ended; infinite where that is beyond what was seen.

    Args: as `survival`. Raises: ValueError without a case.
    """
    if len(times) == 0:
        raise ValueError("Quantiles need at least one case.")
    ends, left = survival(times, censored)
    found = []
    for level in levels:
        place = (left <= 1 - level + 1e-12).nonzero()
        found.append(float(ends[place[0, 0]]) if len(place) else math.inf)
    return found
