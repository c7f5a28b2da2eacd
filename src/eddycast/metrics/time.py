"""How long a forecast stays close: high-correlation times, in both conventions in use."""

from __future__ import annotations

import torch
from torch import Tensor

THRESHOLD = 0.8


def lead_intervals(lead_times: Tensor) -> Tensor:
    """Time each lead stands for, back to the lead before it (the first: back to the start); dt each where uniform.

    Raises: ValueError unless lead times are positive and increase.
    """
    widths = torch.diff(lead_times, prepend=lead_times.new_zeros(1))
    if lead_times.ndim != 1 or not bool((widths > 0).all()):
        raise ValueError("Lead times must be positive and increase; drop lead 0, it is given and not forecast.")
    return widths


def counted_time(
    correlation: Tensor, lead_times: Tensor, *, threshold: float = THRESHOLD, given: float = 0.0
) -> Tensor:
    """High-correlation time as published: number of leads with correlation >= threshold, times dt.

    Counts *all* such leads, also those after a first failure. Taken of each trajectory's curve and then averaged
    (arXiv:2410.16415), or of the curve averaged over trajectories (PDE-Refiner, arXiv:2308.05732): the two differ, so
    say which. The first of them counts the C given states as well, which correlate perfectly: `given` = C dt.

    Args:
        correlation: (*batch, lead); NaN counts as lost.
        lead_times: (lead,), positive; steps need not be equal, each lead counts for the interval before it.
        threshold: Usually 0.8.
        given: Time of the given states that is added; 0 counts only what was forecast.

    Returns: (*batch), units of `lead_times`; divide by the Lyapunov time for Lyapunov times.
    """
    widths = lead_intervals(lead_times).to(correlation)
    return ((correlation >= threshold) * widths).sum(dim=-1) + given


def first_crossing_time(correlation: Tensor, lead_times: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """Last lead time before the first lead whose correlation is below the threshold; zero if that is the first lead.

    Equal to `counted_time` for a curve that falls monotonically, else smaller. A curve that never crosses gives the
    last lead time, which is only a lower bound: see `never_crossed`.

    Args and returns: as `counted_time`.
    """
    widths = lead_intervals(lead_times).to(correlation)
    unbroken = (correlation >= threshold).to(widths.dtype).cumprod(dim=-1)
    return (unbroken * widths).sum(dim=-1)


def never_crossed(correlation: Tensor, *, threshold: float = THRESHOLD) -> Tensor:
    """True where the correlation stays above the threshold to the last lead, (*batch, lead) -> (*batch)."""
    return (correlation >= threshold).all(dim=-1)
