"""What each case contributes to an evaluation, gathered piece by piece and across processes, and finished once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast import distributed
from eddycast.evaluation.behaviour import Behaviour
from eddycast.evaluation.profiles import Profiles, lead_groups
from eddycast.evaluation.resampling import Resampling
from eddycast.evaluation.verification import Climatology
from eddycast.grid import Grid
from eddycast.metrics import Score


@dataclass(frozen=True)
class Leads:
    """The lead times that are scored: where in the file, how long, and how many frames of the truth."""

    index: np.ndarray
    times: np.ndarray
    frames: np.ndarray


class Tally:
    """What each case contributes at each lead time; filled piece by piece, finished once."""

    def __init__(
        self,
        scores: tuple[Score, ...],
        grid: Grid,
        climate: Climatology,
        channels: list[int],
        weights: Tensor,
        members: int,
        cases: int,
        leads: Leads,
    ) -> None:
        self.scores, self.leads, self.weights = scores, leads, weights
        self.masses = climate.low[channels] >= 0
        self.std = climate.std[channels]
        space = (1,) * weights.ndim
        middle = ((climate.high + climate.low) / 2)[channels].reshape(-1, *space)
        reach = (climate.high - climate.low)[channels].reshape(-1, *space)
        self.middle, self.reach = middle, reach
        shape = (cases, len(leads.times), len(channels))
        self.available = torch.zeros(shape, dtype=torch.bool)
        self.parts: dict[str, tuple[Tensor, ...]] = {}
        self.shape = shape
        self.nonfinite = torch.zeros(cases, members, len(leads.times), dtype=torch.bool)
        self.runaway = torch.zeros_like(self.nonfinite)
        self.grid = grid
        own = Climatology(*(part[channels] for part in (climate.mean, climate.std, climate.low, climate.high)))
        self.behaviour = Behaviour(shape, weights, own.mean)
        self.profiles = Profiles(grid, weights, lead_groups(len(leads.times)), len(channels), members, own)

    def add(self, case: int, part: slice, ensemble: Tensor, truth: Tensor) -> None:
        """One case: ensemble (member, lead, channel, *space) and truth (lead, channel, *space)."""
        ensemble, truth = ensemble.to(torch.float64), truth.to(torch.float64)
        self.available[case, part] = has_truth(truth, self.weights)
        space = tuple(range(-self.weights.ndim, 0))
        counted = self.weights > 0
        finite = (torch.isfinite(ensemble) | ~counted).all(dim=space)
        inside = ((ensemble - self.middle).abs() <= self.reach) | ~counted
        self.nonfinite[case, :, part] = ~finite.all(dim=-1)
        self.runaway[case, :, part] = ~inside.all(dim=space).all(dim=-1) & finite.all(dim=-1)
        computed: dict[tuple[int, bool], tuple[Tensor, ...]] = {}
        for score in self.scores:
            work = (id(score.compute), score.nonnegative)
            if work not in computed:
                computed[work] = self._contributions(score, ensemble, truth)
            values = computed[work]
            if score.name not in self.parts:
                empty = tuple(torch.full(self.shape, torch.nan, dtype=torch.float64) for _ in values)
                self.parts[score.name] = empty
            for store, value in zip(self.parts[score.name], values, strict=True):
                store[case, part] = value if score.lost is None else value.nan_to_num(nan=score.lost)
        self.behaviour.add(case, part, ensemble, truth, finite)
        self.profiles.add(part, ensemble, truth, finite, self.available[case, part])

    def join(self, own: slice) -> None:
        """Add what the other processes have tallied; each case is one process's, so only the sums of the profiles are rounded anew.

        Args:
            own: Cases of this process.
        """
        if distributed.size() == 1:
            return
        for store in (self.available, self.nonfinite, self.runaway):
            store.copy_(distributed.total(store.to(torch.int64)) > 0)
        for score in self.scores:
            stores = self.parts.get(score.name, ())
            joined = []
            for number in range(int(distributed.largest(len(stores)))):  # none here, if no case here has a truth
                mine = torch.zeros(self.shape, dtype=torch.float64)
                if stores:
                    mine[own] = stores[number][own]
                joined.append(distributed.total(mine))
            if joined:
                self.parts[score.name] = tuple(joined)
        for store in (*self.behaviour.stores(), *self.profiles.sums()):
            store.copy_(distributed.total(store))

    def scored(self, score: Score) -> Tensor:
        """Which channels a score is of, (channel,): masses alone where it asks for them."""
        return self.masses if score.nonnegative else torch.ones_like(self.masses)

    def _contributions(self, score: Score, ensemble: Tensor, truth: Tensor) -> tuple[Tensor, ...]:
        """Of each (lead, channel); NaN for channels that the score is not of."""
        kept = self.scored(score)
        if bool(kept.all()):
            return score.contributions(ensemble, truth, self.weights, self.grid)
        parts = score.contributions(ensemble[:, :, kept], truth[:, kept], self.weights, self.grid)
        whole = [truth.new_full((len(truth), len(kept)), torch.nan) for _ in parts]
        for store, part in zip(whole, parts, strict=True):
            store[:, kept] = part
        return tuple(whole)

    def finish(self, names: list[str], resampling: Resampling) -> xr.Dataset:
        shown = self.available
        count = shown.sum(dim=0)
        variables: dict[str, Any] = {}
        for score in self.scores:
            parts = self.parts[score.name]
            means = [torch.where(shown, part, 0.0).sum(dim=0) / count for part in parts]
            interval = resampling.interval(parts, score.finish, available=shown)
            for suffix, value in (("", score.finish(*means)), ("_low", interval.low), ("_high", interval.high)):
                variables[score.name + suffix] = (("field", "lead_time"), value.T.numpy())
        variables["climatology_std"] = ("field", self.std.numpy())
        variables["lead_number"] = ("lead_time", self.leads.frames)
        variables["cases"] = ("lead_time", shown.any(dim=-1).sum(dim=0).numpy())
        variables["nonfinite"] = ("lead_time", self.nonfinite.sum(dim=(0, 1)).numpy())
        variables["runaway"] = ("lead_time", self.runaway.sum(dim=(0, 1)).numpy())
        coordinates = {"field": np.asarray(names, dtype=np.str_), "lead_time": self.leads.times}
        return xr.Dataset(variables, coordinates).merge(self.profiles.finish(self.leads.times))


def has_truth(states: Tensor, weights: Tensor) -> Tensor:
    """(lead, channel): True where every counted point is finite."""
    return (torch.isfinite(states) | (weights == 0)).all(dim=tuple(range(-weights.ndim, 0)))
