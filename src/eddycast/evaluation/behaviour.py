"""How an ensemble behaves, whatever it is right about: its amplitude, its rate of change, and members that are copies."""

from __future__ import annotations

import torch
import xarray as xr
from torch import Tensor

from eddycast.evaluation.resampling import Resampling
from eddycast.metrics import weighted_mean
from eddycast.metrics.score import root_of_ratio


class Behaviour:
    """Per case, so that processes and pieces join; members that are not finite are left out.

    - Amplitude: mean square deviation from the climatological mean, over points and members; it sees a drift of the mean
      as well as waves that grow or fade.
    - Rate of change: mean of |x_t - x_{t-1}| over points and members, between lead times that are scored; none for the
      first. A forecast that freezes has none (Kohl et al., arXiv:2309.01745, report the sum over points).
    - Copies: members with the amplitude of another one, to the last bit.

    Args:
        shape: (case, lead, channel).
        weights: (*space).
        mean: Climatological mean of each channel.
    """

    def __init__(self, shape: tuple[int, int, int], weights: Tensor, mean: Tensor) -> None:
        self.weights, self.middle = weights, mean.reshape(-1, *(1,) * weights.ndim)
        self.amplitude_truth, self.amplitude_member, self.change_truth, self.change_member = (
            torch.zeros(shape, dtype=torch.float64) for _ in range(4)
        )
        self.copies = torch.zeros(shape[:2], dtype=torch.float64)
        self._before: tuple[int, int, Tensor, Tensor] | None = None  # case, next lead, last frames

    def add(self, case: int, part: slice, ensemble: Tensor, truth: Tensor, finite: Tensor) -> None:
        """Ensemble (member, lead, channel, *space), truth (lead, channel, *space), finite (member, lead, channel)."""
        square = weighted_mean((ensemble - self.middle).square(), self.weights)
        self.amplitude_truth[case, part] = weighted_mean((truth - self.middle).square(), self.weights)
        self.amplitude_member[case, part] = _mean_of_finite(square, finite)
        ordered = square.sum(dim=-1).sort(dim=0).values
        self.copies[case, part] = (ordered[1:] == ordered[:-1]).sum(dim=0).to(torch.float64)
        start, first = part.start, 1
        if self._before is not None and self._before[:2] == (case, start):
            ensemble = torch.cat([self._before[2], ensemble], dim=1)
            truth = torch.cat([self._before[3], truth])
            finite, first = torch.cat([finite[:, :1], finite], dim=1), 0
        self._before = (case, start + square.shape[1], ensemble[:, -1:].clone(), truth[-1:].clone())
        if first:  # nothing before it that it could have changed from
            self.change_member[case, start] = self.change_truth[case, start] = torch.nan
        if truth.shape[0] > 1:
            places = slice(start + first, start + square.shape[1])
            moved = weighted_mean((ensemble[:, 1:] - ensemble[:, :-1]).abs(), self.weights)
            usable = finite[:, 1:] & moved.isfinite()
            self.change_member[case, places] = _mean_of_finite(moved, usable)
            self.change_truth[case, places] = weighted_mean((truth[1:] - truth[:-1]).abs(), self.weights)

    def stores(self) -> list[Tensor]:
        """Everything, zero for the cases of other processes: to be summed over processes in place."""
        return [self.amplitude_truth, self.amplitude_member, self.change_truth, self.change_member, self.copies]

    def finish(self, available: Tensor, resampling: Resampling) -> xr.Dataset:
        """Amplitude of the truth and ratio to it, with its interval, rates of change (field, lead_time); copies (lead_time)."""
        shown = available & self.amplitude_member.isfinite() & self.amplitude_truth.isfinite()
        count = shown.sum(dim=0)
        parts = (self.amplitude_member, self.amplitude_truth)
        means = [torch.where(shown, part, 0.0).sum(dim=0) / count for part in parts]
        interval = resampling.interval(parts, root_of_ratio, available=shown)
        data = xr.Dataset()
        for suffix, value in (("", root_of_ratio(*means)), ("_low", interval.low), ("_high", interval.high)):
            data["amplitude_ratio" + suffix] = (("field", "lead_time"), value.T.numpy())
        data["amplitude_truth"] = (("field", "lead_time"), means[1].sqrt().T.numpy())
        moved = available & self.change_member.isfinite() & self.change_truth.isfinite()
        for name, part in (("change_member", self.change_member), ("change_truth", self.change_truth)):
            mean = torch.where(moved, part, 0.0).sum(dim=0) / moved.sum(dim=0)
            data[name] = (("field", "lead_time"), mean.T.numpy())
        whole = available.all(dim=-1)
        copies = torch.where(whole, self.copies, 0.0).sum(dim=0) / whole.sum(dim=0)
        data["copies"] = ("lead_time", copies.numpy())
        return data


def _mean_of_finite(values: Tensor, finite: Tensor) -> Tensor:
    """Mean over members that are finite, (member, ...) -> (...); NaN where none is."""
    return torch.where(finite, values, 0.0).sum(dim=0) / finite.sum(dim=0)
