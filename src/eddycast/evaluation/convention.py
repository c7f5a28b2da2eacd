"""Scores in the published convention of DYffusion (arXiv:2306.01984), and the fair ones beside them, all channels as one.

The convention differs from ours in four ways: the CRPS is biased in the number of members, the spread has no correction for it, every
point and every channel counts alike, and spread over skill is a mean of ratios where each trajectory is scored on its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.data import statistics
from eddycast.errors import InputError
from eddycast.evaluation.resampling import Resampling
from eddycast.evaluation.verification import Verification
from eddycast.metrics import fair_crps, fair_ratio, fair_square, pooled_parts, published_ratio

CONVENTIONS: dict[str, str] = {"dyffusion": "data", "dyffusion-normalised": "field", "dyffusion-pixelwise": "pixel"}
"""Names of the convention by the units of the fields: those of the data (flow, springs), training deviations of each field, or of
each field at each point (sea surface temperature)."""
MEASURES = ("crps", "crps_fair", "mse", "mse_fair", "ssr", "ssr_fair")
POOLINGS = ("trajectories", "pooled")
"""Each case and lead on its own, then the mean over cases, then over leads (flow, springs); or all cases of a lead pooled before the
ratio, then the mean over leads (sea surface temperature). Only spread over skill tells them apart."""
ENDS = ("", "_low", "_high")


class PooledScores:
    """Per case and lead, so that pieces and processes join.

    Args:
        shape: (case, lead).
        counted: Points that count, bool (*space).
        scale: What fields are divided by, (channel, *space) or with ones; None for nothing.
        members: Of the ensemble.
    """

    def __init__(self, shape: tuple[int, int], counted: Tensor, scale: Tensor | None, members: int) -> None:
        self.counted, self.scale, self.members = counted, scale, members
        self.parts = torch.zeros(4, *shape, dtype=torch.float64)

    def add(self, case: int, part: slice, ensemble: Tensor, truth: Tensor) -> None:
        """One case: ensemble (member, lead, channel, *space) and truth (lead, channel, *space)."""
        if self.scale is not None:
            ensemble, truth = ensemble / self.scale, truth / self.scale
        self.parts[:, case, part] = torch.stack(pooled_parts(ensemble, truth, self.counted))

    def stores(self) -> list[Tensor]:
        """Zero for the cases of other processes: to be summed over processes in place."""
        return [self.parts]

    def finish(self, available: Tensor, resampling: Resampling) -> xr.Dataset:
        """`convention_leads` (measure, pooling, lead_time) and their means over leads, `convention_means` (measure, pooling).

        Both have `_low` and `_high`, block bootstraps over cases. A frame with neither spread nor error has no ratio, and none is
        averaged for it. Units: of the fields for the CRPS, squared for the MSE.

        Args:
            available: Where there is truth, (case, lead, field); a frame counts where all fields have one.
        """
        shown = available.all(dim=-1)
        kept = shown.any(dim=0)  # leads with a truth
        parts, shown = self.parts[:, :, kept], shown[:, kept]
        ratio, told = published_ratio(parts[3], parts[2]), shown & ((parts[2] != 0) | (parts[3] != 0))
        factor = fair_ratio(torch.ones(()), torch.ones(()), self.members)

        def pooled(*means: Tensor) -> Tensor:
            absolute, crps, square, variance = means
            return torch.stack(
                [
                    crps,
                    fair_crps(absolute, crps, self.members),
                    square,
                    fair_square(square, variance, self.members),
                    published_ratio(variance, square),
                    fair_ratio(variance, square, self.members),
                ],
                dim=-2,
            )

        def of_frames(mean: Tensor) -> Tensor:
            return torch.stack([mean, factor * mean], dim=-2)

        shape = (len(MEASURES), len(POOLINGS), len(kept))
        curves, means = ({end: np.full(size, np.nan) for end in ENDS} for size in (shape, shape[:2]))
        for averaged, target in ((False, curves), (True, means)):

            def finished(values: Tensor, averaged: bool = averaged) -> Tensor:
                return values.mean(dim=-1) if averaged else values

            def both(*values: Tensor, finished=finished) -> Tensor:
                return finished(pooled(*values))

            def ratios(values: Tensor, finished=finished) -> Tensor:
                return finished(of_frames(values))

            all_parts = [both(*_means(parts, shown)), *resampling.interval(list(parts), both, available=shown)]
            own_ratios = [ratios(*_means(ratio[None], told)), *resampling.interval(ratio, ratios, available=told)]
            for end, value, own in zip(ENDS, all_parts, own_ratios, strict=True):
                place = np.index_exp[...] if averaged else np.index_exp[..., kept.numpy()]
                for column, rows in enumerate(((value[:4], own), (value,))):
                    target[end][:, column][place] = torch.cat(rows).numpy()
        dims = ("measure", "pooling", "lead_time")
        variables: dict[str, Any] = {f"convention_leads{end}": (dims, array) for end, array in curves.items()}
        variables |= {f"convention_means{end}": (dims[:2], array) for end, array in means.items()}
        names = {"measure": np.asarray(MEASURES, dtype=np.str_), "pooling": np.asarray(POOLINGS, dtype=np.str_)}
        return xr.Dataset(variables, names)


def _means(parts: Tensor, shown: Tensor) -> list[Tensor]:
    """Means over the cases that are shown, (part, case, lead) -> (lead,) each."""
    return list(torch.where(shown, parts, 0.0).sum(dim=1) / shown.sum(dim=0))


def convention_summary(data: xr.Dataset) -> dict[str, Any]:
    """Plain and nested: by pooling, then measure: mean over lead times with its interval."""
    ends = dict(zip(("value", "low", "high"), ENDS, strict=True))
    return {
        str(pooling): {
            str(measure): {
                word: float(data[f"convention_means{end}"].sel(measure=measure, pooling=pooling))
                for word, end in ends.items()
            }
            for measure in data["measure"].values
        }
        for pooling in data["pooling"].values
    }


def pooled_scores(
    name: str, truth: Verification, channels: list[int], *, cases: int, leads: int, members: int
) -> PooledScores:
    """The convention of a name of `CONVENTIONS`, for what is scored.

    Raises: InputError for another name, or training deviations of data without training split.
    """
    if name not in CONVENTIONS:
        raise InputError(f"There is no convention {name!r}: use {', '.join(CONVENTIONS)}, or leave --convention out.")
    counted = torch.ones(truth.grid.shape, dtype=torch.bool) if truth.valid is None else truth.valid
    units, scale = CONVENTIONS[name], None
    if units != "data":
        if truth.dataset is None or not truth.dataset.splits.get("train"):
            raise InputError(
                f"--convention {name} divides by deviations of the training data, and this truth has no training split: pass the data "
                "set that the model was trained on, or use dyffusion."
            )
        kind = "field" if units == "field" else "pixel"
        scale = statistics(truth.dataset, "train", mean=kind, std=kind).std[channels].to(torch.float64)
    return PooledScores((cases, leads), counted, scale, members)
