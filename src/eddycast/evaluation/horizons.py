"""Scores averaged over horizons, ranges of lead times: as numbers with intervals, and as they stand in files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.resampling import Resampling
from eddycast.evaluation.tally import Tally
from eddycast.metrics import Score

HorizonsLike = str | Sequence[tuple[int, int]]
AVERAGES = ("pooled", "frames")
"""How a horizon is averaged. Pooled: what a score averages (squares, products) over all cases and leads, then its root or
ratio, once. Frames: the score of each case and lead on its own, then their mean, as published. Most scores are means of
frames already, and do not tell the two apart."""
ENDS = ("", "_low", "_high")
FORM = "horizons are ranges of lead numbers such as 1:20,21:60"


@dataclass(frozen=True, order=True)
class Horizon:
    """Leads first, ..., last, in steps of the truth; both ends are included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}" if self.first == self.last else f"{self.first}:{self.last}"


def read_horizons(given: HorizonsLike, leads: np.ndarray) -> tuple[Horizon, ...]:
    """The first lead alone, then the horizons as they were asked for.

    Args:
        given: "1:20,21:60", or pairs (first, last).
        leads: Numbers of the leads that are scored, ascending.

    Raises: InputError, in one line, for another form, and for ranges that are empty, overlap, or leave the leads.
    """
    asked = _from_text(given) if isinstance(given, str) else _from_pairs(given)
    if not asked:
        raise InputError(f"No horizon was given: {FORM}.")
    for one in asked:
        if one.first > one.last:
            raise InputError(f"The horizon {one} is empty: put the smaller lead number first.")
        if one.last > leads[-1] or one.first < min(1, leads[0]):
            raise InputError(
                f"The horizon {one} is outside of the leads, {leads[0]} to {leads[-1]} in steps of the data: stay within "
                "them, or forecast longer."
            )
        if not ((leads >= one.first) & (leads <= one.last)).any():
            raise InputError(f"The horizon {one} holds no lead; the first ones are {', '.join(map(str, leads[:4]))}.")
    for before, after in pairwise(sorted(asked)):
        if after.first <= before.last:
            raise InputError(f"The horizons {before} and {after} overlap: let each lead belong to one.")
    alone = Horizon(int(leads[0]), int(leads[0]))
    return (alone, *(one for one in asked if one != alone))


def _from_text(text: str) -> list[Horizon]:
    found = []
    for part in text.split(","):
        if not (numbers := re.fullmatch(r"\s*([0-9]{1,9})\s*(?::\s*([0-9]{1,9})\s*)?", part)):
            raise InputError(f"{FORM.capitalize()}, got {text!r}.")
        first, last = numbers.groups()
        found.append(Horizon(int(first), int(last or first)))
    return found


def _from_pairs(pairs: Sequence[tuple[int, int]]) -> list[Horizon]:
    found = []
    for pair in pairs:
        whole = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
        if not whole or not all(isinstance(end, (int, np.integer)) and not isinstance(end, bool) for end in pair):
            raise InputError(f"{FORM.capitalize()} or [(1, 20), (21, 60)], got {pair!r} among them.")
        found.append(Horizon(int(pair[0]), int(pair[1])))
    return found


def horizon_scores(
    tally: Tally, horizons: Sequence[Horizon], names: Sequence[str], resampling: Resampling
) -> xr.Dataset:
    """Every score averaged over each horizon.

    Returns: `horizon_scores` (field, horizon, score, averaging), in units of the field where the score has some;
        `horizon_means` (horizon, score, averaging), their mean over the fields the score is of, with units taken out by
        the climatological deviation; both with `_low` and `_high`, block bootstraps over cases that keep the leads of a
        case together. `horizon_start`, `horizon_stop` (horizon) are lead numbers, `horizon_frames` (horizon) counts the
        (case, lead) pairs.
    """
    shape = (len(names) + 1, len(horizons), len(tally.scores), len(AVERAGES))
    values = {end: np.full(shape, np.nan) for end in ENDS}
    frames = []
    for column, horizon in enumerate(horizons):
        index = torch.as_tensor((tally.leads.frames >= horizon.first) & (tally.leads.frames <= horizon.last))
        shown = tally.available[:, index].flatten(0, 1)
        frames.append(int(shown.any(dim=-1).sum()))
        for row, score in enumerate(tally.scores):
            parts = [part[:, index].flatten(0, 1) for part in tally.parts[score.name]]
            kept = tally.scored(score)
            scale = torch.where(tally.std > 0, tally.std, 1.0) if score.physical else torch.ones_like(tally.std)
            for end, found in zip(ENDS, _averages(score, parts, shown, kept, scale, resampling), strict=True):
                values[end][:, column, row] = found.numpy()
    dims = ("field", "horizon", "score", "averaging")
    variables: dict[str, Any] = {f"horizon_scores{end}": (dims, array[:-1]) for end, array in values.items()}
    variables |= {f"horizon_means{end}": (dims[1:], array[-1]) for end, array in values.items()}
    variables["horizon_frames"] = ("horizon", np.asarray(frames))
    coordinates = {
        "field": np.asarray(names, dtype=np.str_),
        "horizon": np.asarray([str(one) for one in horizons], dtype=np.str_),
        "horizon_start": ("horizon", np.asarray([one.first for one in horizons])),
        "horizon_stop": ("horizon", np.asarray([one.last for one in horizons])),
        "score": np.asarray([score.name for score in tally.scores], dtype=np.str_),
        "averaging": np.asarray(AVERAGES, dtype=np.str_),
    }
    return xr.Dataset(variables, coordinates)


def _averages(
    score: Score, parts: list[Tensor], shown: Tensor, kept: Tensor, scale: Tensor, resampling: Resampling
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, low and high end, (field + 1, averaging); the last row is the mean over the fields that are kept."""
    parts = [*parts, score.finish(*parts)]  # the score of each frame is averaged like the rest

    def both(*means: Tensor) -> Tensor:
        each = torch.stack([score.finish(*means[:-1]), means[-1]], dim=-1)
        overall = (each / scale[:, None])[..., kept, :].mean(dim=-2, keepdim=True)
        return torch.cat([each, overall], dim=-2)

    means = [torch.where(shown, part, 0.0).sum(dim=0) / shown.sum(dim=0) for part in parts]
    interval = resampling.interval(parts, both, available=shown)
    return both(*means), interval.low, interval.high


def horizons_summary(data: xr.Dataset) -> dict[str, Any]:
    """Plain and nested: by horizon, then `fields` by name or `mean_of_fields`, by score, by averaging."""
    content: dict[str, Any] = {}
    for label in data["horizon"].values:
        here = data.sel(horizon=label)

        def told(name: str, here: xr.Dataset = here, **place: Any) -> dict[str, Any]:
            ends = {word: here[name + end].sel(place) for word, end in zip(("value", "low", "high"), ENDS, strict=True)}
            return {
                str(score): {
                    str(way): {word: float(end.sel(score=score, averaging=way)) for word, end in ends.items()}
                    for way in data["averaging"].values
                }
                for score in data["score"].values
            }

        content[str(label)] = {
            "first_lead": int(here["horizon_start"]),
            "last_lead": int(here["horizon_stop"]),
            "frames": int(here["horizon_frames"]),
            "fields": {str(field): told("horizon_scores", field=field) for field in data["field"].values},
            "mean_of_fields": told("horizon_means"),
        }
    return content
