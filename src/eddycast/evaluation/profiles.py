"""What is a curve and not a number: ranks, calibration and spectra by group of lead times, high-correlation times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.evaluation.reliability import ReliabilityProfiles
from eddycast.evaluation.verification import Climatology
from eddycast.grid import Grid
from eddycast.metrics import (
    bands,
    block_bootstrap,
    counted_time,
    excess_in_empty_modes,
    first_crossing_time,
    never_crossed,
    power_spectrum,
    rank_histogram,
    shells,
    spectral_errors,
)

STATISTICS = ("bias", "mean", "largest", "modes")
CONVENTIONS = {"count": counted_time, "first": first_crossing_time}


def lead_groups(number: int, groups: int = 12) -> np.ndarray:
    """Group of each of `number` lead times, (lead,): evenly wide in the logarithm, every group occupied."""
    edges = np.unique(np.rint(np.geomspace(1, number, groups)).astype(int))
    return np.searchsorted(edges, np.arange(1, number + 1))


class Profiles:
    """Sums over cases and the lead times of a group; members that are not finite are left out (`nonfinite` counts)."""

    def __init__(
        self, grid: Grid, weights: Tensor, groups: np.ndarray, channels: int, members: int, climate: Climatology
    ) -> None:
        self.weights, self.groups = weights, torch.as_tensor(groups)
        self.reliability = ReliabilityProfiles(weights, self.groups, channels, members, climate)
        self.shells = shells(grid) if grid.num_points > 1 else None
        number = int(groups[-1]) + 1
        modes = 0 if self.shells is None else len(self.shells.wavenumber)
        self.ranks = torch.zeros(number, channels, members + 1, dtype=torch.float64)
        self.rank_count = torch.zeros(number, channels, dtype=torch.float64)
        self.truth = torch.zeros(number, channels, modes, dtype=torch.float64)
        self.truth_count = torch.zeros(number, channels, dtype=torch.float64)
        self.member = torch.zeros(number, channels, modes, dtype=torch.float64)
        self.member_count = torch.zeros(number, channels, dtype=torch.float64)

    def add(self, part: slice, ensemble: Tensor, truth: Tensor, finite: Tensor, available: Tensor) -> None:
        """Ensemble (member, lead, channel, *space); finite (member, lead, channel); available (lead, channel)."""
        groups = self.groups[part]
        ranks = rank_histogram(ensemble, truth, self.weights)
        usable = available & ranks.isfinite().all(dim=-1)
        self.ranks.index_add_(0, groups, torch.where(usable[..., None], ranks, 0.0))
        self.rank_count.index_add_(0, groups, usable.to(torch.float64))
        self.reliability.add(part, ensemble, truth, available)
        if self.shells is None:
            return
        power = power_spectrum(truth, self.shells, self.weights)
        self.truth.index_add_(0, groups, torch.where(available[..., None], power, 0.0))
        self.truth_count.index_add_(0, groups, available.to(torch.float64))
        for member, whole in zip(ensemble, finite & available, strict=True):
            power = power_spectrum(member, self.shells, self.weights)
            self.member.index_add_(0, groups, torch.where(whole[..., None], power, 0.0))
            self.member_count.index_add_(0, groups, whole.to(torch.float64))

    def sums(self) -> list[Tensor]:
        """Everything that adds up over cases, to be changed in place by whoever joins the sums of several processes."""
        own = [self.ranks, self.rank_count, self.truth, self.truth_count, self.member, self.member_count]
        return own + self.reliability.sums()

    def finish(self, lead_times: np.ndarray) -> xr.Dataset:
        number, channels = self.rank_count.shape
        groups = self.groups.numpy()
        coordinates = {
            "group_start": ("group", np.array([lead_times[groups == g].min() for g in range(number)])),
            "group_stop": ("group", np.array([lead_times[groups == g].max() for g in range(number)])),
        }
        ranks = self.ranks / self.rank_count[..., None]
        data = self.reliability.finish(ranks).assign_coords(coordinates)
        if self.ranks.shape[-1] > 2:
            data["rank_histogram"] = (("field", "group", "rank"), ranks.movedim(1, 0).numpy())
        if self.shells is None:
            return data
        truth = self.truth / self.truth_count[..., None]
        member = self.member / self.member_count[..., None]
        pooled_truth = self.truth.sum(dim=0) / self.truth_count.sum(dim=0)[:, None]
        pooled_member = self.member.sum(dim=0) / self.member_count.sum(dim=0)[:, None]
        masks = bands(self.shells)
        names = [*masks, "all"]
        errors = np.full((channels, number, len(names), len(STATISTICS)), np.nan)
        pooled = np.full((channels, len(names), len(STATISTICS)), np.nan)
        excess = np.zeros(channels)
        for channel in range(channels):
            for group in range(number):
                found = spectral_errors(member[group, channel], truth[group, channel], masks)
                errors[channel, group] = [astuple(found[name]) for name in names]
            found = spectral_errors(pooled_member[channel], pooled_truth[channel], masks)
            pooled[channel] = [astuple(found[name]) for name in names]
            excess[channel] = excess_in_empty_modes(pooled_member[channel], pooled_truth[channel])
        data = data.assign_coords(
            wavenumber=self.shells.wavenumber.numpy(),
            band=np.asarray(names, dtype=np.str_),
            statistic=np.asarray(STATISTICS, dtype=np.str_),
        )
        data["power_truth"] = (("field", "group", "wavenumber"), truth.movedim(1, 0).numpy())
        data["power_member"] = (("field", "group", "wavenumber"), member.movedim(1, 0).numpy())
        data["spectral_error"] = (("field", "group", "band", "statistic"), errors)
        data["spectral_error_pooled"] = (("field", "band", "statistic"), pooled)
        data["empty_mode_power"] = ("field", excess)
        return data


def high_correlation_times(
    curves: Mapping[str, Tensor],
    available: Tensor,
    lead_times: np.ndarray,
    blocks: Tensor,
    generator: torch.Generator,
    *,
    threshold: float,
    resamples: int,
    level: float,
) -> xr.Dataset:
    """High-correlation times with intervals, in units of lead time.

    Args:
        curves: Correlation by forecast (`member`, `mean`), each (case, lead, field).
        available: Where there is truth, (case, lead, field). A case ends with its truth: its own time can only be too
            short then, and `censored` counts it.
        lead_times: (lead,).

    Returns: `high_correlation_time` (field, forecast, convention, average), `_low`, `_high`: `average` is `cases` (mean
        of each case's time, as published) or `curve` (time of the curve averaged over cases).
    """
    leads = torch.as_tensor(lead_times, dtype=torch.float64)
    shown = available.movedim(-1, 1)  # (case, field, lead)
    fields = shown.shape[1]
    shape = (fields, len(curves), len(CONVENTIONS), 2)
    values, low, high = (np.full(shape, np.nan) for _ in range(3))
    censored = np.full((fields, len(curves)), np.nan)
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
            of_curve = block_bootstrap(
                curve, blocks, measured, available=shown, resamples=resamples, level=level, generator=generator
            )
            of_cases = block_bootstrap(each, blocks, resamples=resamples, level=level, generator=generator)
            for place, (value, ends) in enumerate(((each.mean(dim=0), of_cases), (measured(mean), of_curve))):
                values[:, row, column, place] = value.numpy()
                low[:, row, column, place], high[:, row, column, place] = ends.low.numpy(), ends.high.numpy()
    dims = ("field", "forecast", "convention", "average")
    return xr.Dataset(
        {
            "high_correlation_time": (dims, values),
            "high_correlation_time_low": (dims, low),
            "high_correlation_time_high": (dims, high),
            "censored": (dims[:2], censored),
        },
        {
            "forecast": np.asarray(list(curves), dtype=np.str_),
            "convention": np.asarray(list(CONVENTIONS), dtype=np.str_),
            "average": np.asarray(["cases", "curve"], dtype=np.str_),
        },
    )
