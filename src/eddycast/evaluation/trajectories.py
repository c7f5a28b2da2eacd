"""What is one number per forecast: high-correlation times, and deviations over all lead times, in the conventions in use."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.evaluation.resampling import Resampling
from eddycast.metrics import (
    counted_time,
    first_crossing_time,
    never_crossed,
    root_mean_over_leads,
    standard_error,
)

CONVENTIONS = {"count": counted_time, "first": first_crossing_time}
PUBLISHED = "count-given"
"""The convention that counts the given states too; there where their number is known."""


def high_correlation_times(
    curves: Mapping[str, Tensor],
    available: Tensor,
    lead_times: np.ndarray,
    resampling: Resampling,
    *,
    threshold: float,
    given: float = 0.0,
) -> xr.Dataset:
    """High-correlation times with intervals, in units of lead time.

    Args:
        curves: Correlation by forecast (`member`, `mean`), each (case, lead, field).
        available: Where there is truth, (case, lead, field). A case ends with its truth: its own time can only be too
            short then, and `censored` counts it.
        lead_times: (lead,).
        given: Time of the given states, which `PUBLISHED` adds; without it there is no such convention.

    Returns: `high_correlation_time` (field, forecast, convention, average), `_low`, `_high`: `average` is `cases` (mean
        of each case's time, as published) or `curve` (time of the curve averaged over cases); `_se`, the standard error
        over cases, NaN for `curve`.
    """
    leads = torch.as_tensor(lead_times, dtype=torch.float64)
    shown = available.movedim(-1, 1)  # (case, field, lead)
    values, low, high, error = (np.full((shown.shape[1], len(curves), len(CONVENTIONS), 2), np.nan) for _ in range(4))
    censored = np.full((shown.shape[1], len(curves)), np.nan)
    for row, curve in enumerate(curves.values()):
        curve = curve.movedim(-1, 1)
        censored[:, row] = (
            never_crossed(curve.masked_fill(~shown, 1.0), threshold=threshold).double().mean(dim=0).numpy()
        )
        curve = curve.masked_fill(~shown, 0.0)
        mean = curve.sum(dim=0) / shown.sum(dim=0)
        for column, measure in enumerate(CONVENTIONS.values()):

            def measured(correlation: Tensor, measure=measure) -> Tensor:
                return measure(correlation, leads, threshold=threshold)

            each = measured(curve)
            of_curve = resampling.interval(curve, measured, available=shown)
            of_cases = resampling.interval(each)
            for place, (value, ends) in enumerate(((each.mean(dim=0), of_cases), (measured(mean), of_curve))):
                values[:, row, column, place] = value.numpy()
                low[:, row, column, place], high[:, row, column, place] = ends.low.numpy(), ends.high.numpy()
            error[:, row, column, 0] = standard_error(each).numpy()
    names = list(CONVENTIONS)
    if given > 0:  # a constant: it moves times and intervals and leaves errors
        values, low, high = (np.concatenate([array, array[:, :, :1] + given], axis=2) for array in (values, low, high))
        error, names = np.concatenate([error, error[:, :, :1]], axis=2), [*names, PUBLISHED]
    dims = ("field", "forecast", "convention", "average")
    parts = {"": values, "_low": low, "_high": high, "_se": error}
    return xr.Dataset(
        {
            **{f"high_correlation_time{end}": (dims, array) for end, array in parts.items()},
            "censored": (dims[:2], censored),
        },
        {
            "forecast": np.asarray(list(curves), dtype=np.str_),
            "convention": np.asarray(names, dtype=np.str_),
            "average": np.asarray(["cases", "curve"], dtype=np.str_),
        },
    )


def trajectory_deviations(
    squares: Mapping[str, Tensor],
    available: Tensor,
    points: int,
    resampling: Resampling,
    *,
    given: int = 0,
) -> xr.Dataset:
    """RMSD over all lead times, of each case and then averaged over cases, in units of the field.

    Args:
        squares: Mean square error over space by forecast (`member`, `mean`), each (case, lead, field).
        available: Where there is truth, (case, lead, field); cases without any are left out.
        points: Number of points of positive weight.
        given: Number of given states, which have no error; `state-given` counts them.

    Returns: `rmsd` (field, forecast, norm), `_low`, `_high` (block bootstrap), `_se` (standard error). Norms are `point`
        (root mean square over points), `state` (summed over points, as published: sqrt(points) times the other) and,
        where `given` is positive, `state-given`, over forecast and given states.
    """
    shown = available.movedim(-1, 1)
    counted = shown.any(dim=-1)  # (case, field)
    norms = ["point", "state", *(["state-given"] if given else [])]
    arrays = {end: np.full((shown.shape[1], len(squares), len(norms)), np.nan) for end in ("", "_low", "_high", "_se")}
    for row, square in enumerate(squares.values()):
        square = square.movedim(-1, 1)
        each = root_mean_over_leads(square, shown)
        kinds = [each, each * math.sqrt(points)]
        if given:
            kinds.append(root_mean_over_leads(square, shown, given=given) * math.sqrt(points))
        stacked, kept = torch.stack(kinds, dim=-1), counted[..., None].expand(*counted.shape, len(norms))
        ends = resampling.interval(stacked, available=kept)
        mean = torch.where(kept, stacked, 0.0).sum(dim=0) / kept.sum(dim=0)
        values = (mean, ends.low, ends.high, standard_error(stacked, kept))
        for array, value in zip(arrays.values(), values, strict=True):
            array[:, row] = value.numpy()
    dims = ("field", "forecast", "norm")
    return xr.Dataset(
        {f"rmsd{end}": (dims, array) for end, array in arrays.items()},
        {"forecast": np.asarray(list(squares), dtype=np.str_), "norm": np.asarray(norms, dtype=np.str_)},
    )
