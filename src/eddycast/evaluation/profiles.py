"""What is a curve and not a number: ranks, calibration and spectra by group of lead times."""

from __future__ import annotations

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
    excess_in_empty_modes,
    power_spectrum,
    rank_flatness,
    rank_histogram,
    shells,
    spectral_errors,
)
from eddycast.metrics.spectrum import NEARLY_EMPTY

TINY = 1e-12  # of the truth: the least that an empty band of the members counts
STATISTICS = ("bias", "mean", "largest", "modes")
STAGES = {1: ("all",), 2: ("early", "late"), 3: ("early", "middle", "late")}


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
            data["rank_flatness"] = (("field", "group"), rank_flatness(ranks).T.numpy())
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
        return data.merge(self._bands_by_stage(lead_times, masks))

    def _bands_by_stage(self, lead_times: np.ndarray, masks: dict[str, Tensor]) -> xr.Dataset:
        """`spectrum_bands` (field, stage, spectrum_band): log10 of the members' over the truth's power in each band.

        Stages are thirds of the groups of lead times, so evenly wide in the logarithm as those are. Modes that the truth
        leaves empty (`NEARLY_EMPTY` of its peak) do not count: NaN for a band of only such modes.
        """
        groups = self.groups.numpy()
        thirds = np.array_split(np.arange(groups[-1] + 1), min(3, groups[-1] + 1))
        values = np.full((self.truth.shape[1], len(thirds), len(masks)), np.nan)
        for place, third in enumerate(thirds):
            truth, member = (
                power[third].sum(dim=0) / count[third].sum(dim=0)[:, None]
                for power, count in ((self.truth, self.truth_count), (self.member, self.member_count))
            )
            resolved = truth > NEARLY_EMPTY * truth[:, 1:].amax(dim=-1, keepdim=True)
            for column, mask in enumerate(masks.values()):
                sums = [torch.where(resolved & mask, power, 0.0).sum(dim=-1) for power in (member, truth)]
                ratio = torch.where(sums[1] > 0, sums[0].clamp(min=TINY * sums[1]) / sums[1], torch.nan)
                values[:, place, column] = ratio.log10().numpy()
        ends = [lead_times[np.isin(groups, third)] for third in thirds]
        return xr.Dataset(
            {"spectrum_bands": (("field", "stage", "spectrum_band"), values)},
            {
                "stage": np.asarray(STAGES[len(thirds)], dtype=np.str_),
                "stage_start": ("stage", np.array([times.min() for times in ends])),
                "stage_stop": ("stage", np.array([times.max() for times in ends])),
                "spectrum_band": np.asarray(list(masks), dtype=np.str_),
            },
        )
