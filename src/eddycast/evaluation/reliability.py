"""Profiles of calibration: coverage, reliability of an event, spread against error, and the law of the values."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.evaluation.verification import Climatology
from eddycast.metrics import (
    EventTable,
    Histogram,
    SpreadErrorTable,
    central_coverage,
    event_table,
    hellinger,
    spread_error_table,
)

PARTS = ("score", "reliability", "resolution", "uncertainty")
VALUE_BINS = 48
SPREADS = torch.logspace(-3, 1, 25, dtype=torch.float64)  # edges of the bins of spread, in climatological deviations


class ReliabilityProfiles:
    """Sums over cases and the lead times of a group.

    The event is a value of more than one climatological deviation above the climatological mean. Values are counted in
    `VALUE_BINS` equal bins over the climatological range, and in two tails beyond it.
    """

    def __init__(self, weights: Tensor, groups: Tensor, channels: int, members: int, climate: Climatology) -> None:
        self.weights, self.groups = weights, groups
        number, self.members = int(groups[-1]) + 1, members
        self.threshold = climate.mean + climate.std
        self.edges = climate.std[:, None] * SPREADS
        votes, bins = (number, channels, members + 1), (number, channels, len(SPREADS) + 1)
        self.events = [torch.zeros(votes, dtype=torch.float64) for _ in range(3)]
        self.spread = [torch.zeros(bins, dtype=torch.float64) for _ in range(4)]
        flat = climate.high <= climate.low
        self.low = torch.where(flat, climate.low - 0.5 * climate.low.abs().clamp(min=1), climate.low)
        self.high = torch.where(flat, climate.high + 0.5 * climate.high.abs().clamp(min=1), climate.high)
        self.truth, self.member = (torch.zeros(number, channels, VALUE_BINS + 2, dtype=torch.float64) for _ in "tm")

    def add(self, part: slice, ensemble: Tensor, truth: Tensor, available: Tensor) -> None:
        """Ensemble (member, lead, channel, *space), truth (lead, channel, *space), available (lead, channel)."""
        groups, space = self.groups[part], (1,) * self.weights.ndim
        kept = available[..., None]
        self.truth.index_add_(0, groups, torch.where(kept, self._values(truth), 0.0))
        for member in ensemble:
            self.member.index_add_(0, groups, torch.where(kept, self._values(member), 0.0))
        if self.members < 2:
            return
        events = event_table(ensemble, truth, self.weights, self.threshold.reshape(-1, *space))
        for store, value in zip(self.events, (events.mass, events.hits, events.count), strict=True):
            store.index_add_(0, groups, torch.where(kept, value, 0.0))
        table = spread_error_table(ensemble, truth, self.weights, self.edges)
        for store, value in zip(self.spread, (table.mass, table.variance, table.error, table.count), strict=True):
            store.index_add_(0, groups, torch.where(kept, value, 0.0))

    def sums(self) -> list[Tensor]:
        """Everything that adds up over cases, as `Profiles.sums`."""
        return [*self.events, *self.spread, self.truth, self.member]

    def _values(self, states: Tensor) -> Tensor:
        """Weight of the values in each bin, tails first and last: (lead, channel, *space) -> (lead, channel, bin)."""
        space = (1,) * self.weights.ndim
        low, high = self.low.reshape(-1, *space), self.high.reshape(-1, *space)
        usable = torch.isfinite(states) & (self.weights > 0)
        place = (torch.where(usable, states, low) - low) / ((high - low) / VALUE_BINS)
        bins = place.floor().clamp(-1, VALUE_BINS).long() + 1
        bins = torch.where(states == high, VALUE_BINS, bins)
        mass = torch.where(usable, self.weights, 0.0).flatten(start_dim=2)
        return mass.new_zeros(*mass.shape[:2], VALUE_BINS + 2).scatter_add(-1, bins.flatten(start_dim=2), mass)

    def finish(self, ranks: Tensor) -> xr.Dataset:
        """Ranks (group, channel, member + 1), frequencies."""
        data = xr.Dataset()
        steps = torch.linspace(0, 1, VALUE_BINS + 1, dtype=torch.float64)
        edges = self.low[:, None] + (self.high - self.low)[:, None] * steps
        distance = np.array(
            [
                [hellinger(*(Histogram((line,), one[group, row]) for one in (self.member, self.truth)))
                 for group in range(len(self.truth))]
                for row, line in enumerate(edges)
            ]
        )  # fmt: skip
        data["pdf_edges"] = (("field", "value_edge"), edges.numpy())
        for name, mass in (("pdf_truth", self.truth), ("pdf_member", self.member)):
            data[name] = (
                ("field", "group", "value_bin"),
                (mass / mass.sum(dim=-1, keepdim=True)).movedim(1, 0).numpy(),
            )
        data["pdf_distance"] = (("field", "group"), distance)
        if self.members < 2:
            return data
        nominal, observed = central_coverage(ranks)
        events = EventTable(*self.events)
        data = data.assign_coords(
            interval=nominal.numpy(),
            votes=events.probability.numpy(),
            brier_part=np.asarray(PARTS, dtype=np.str_),
        )
        data["interval_coverage"] = (("field", "group", "interval"), observed.movedim(1, 0).numpy())
        data["event_threshold"] = ("field", self.threshold.numpy())
        for name, value in (("event_mass", events.mass), ("event_hits", events.hits), ("event_count", events.count)):
            data[name] = (("field", "group", "votes"), value.movedim(1, 0).numpy())
        parts = torch.stack(list(events.brier()), dim=-1)
        data["brier"] = (("field", "group", "brier_part"), parts.movedim(1, 0).numpy())
        table = SpreadErrorTable(self.edges, *self.spread)
        for name, value in (
            ("binned_spread", table.spread),
            ("binned_error", table.skill),
            ("binned_count", table.count),
        ):
            data[name] = (("field", "group", "spread_bin"), value.movedim(1, 0).numpy())
        return data
