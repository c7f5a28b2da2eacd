"""What is wrong with the spread of an ensemble: members that agree on a mistake, too little spread, too much, or too late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from eddycast.evaluation.evidence import (
    LASTING,
    SKILL_THAT_MATTERS,
    Signature,
    bound,
    extreme_of,
    first_of,
    lasting,
    normalised,
    series,
    time_of,
    time_words,
)
from eddycast.evaluation.windows import ends_words

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

# Spread / skill of a reliable ensemble is 1, of a plainly under-dispersed one 0.5; a fifth of it says that members agree
# on something wrong.
COLLAPSED_RATIO = 0.2

# Half of the squared error is not in the spread at 0.7; at 1.4 the variance is twice the squared error. Published ensembles that their
# authors call calibrated have 0.82 to 1.13, dropout and perturbed starts 0.41 to 0.72 (arXiv:2306.01984, tables 1 and 2).
TOO_LITTLE, TOO_MUCH = 0.7, 1.4

# At the first leads: spread that explains a quarter of the squared error at most, and reaches half of it later on. An error below two
# per cent of a climatological deviation is of no interest, however little the members say of it.
LATE = 0.5
EARLY_ERROR = 0.02

MORE_SPREAD = {
    "forecast": "noise on the context in training, perturbed or assimilated initial states, more sampler steps, or "
    "training on several steps",
    "analysis": "inflation, a larger observation error, or weaker guidance",
}
LESS_SPREAD = {
    "forecast": "more sampler steps or a smaller lowest noise level, longer training, or smaller initial perturbations",
    "analysis": "less inflation, a smaller observation error, or stronger guidance",
}


def collapse(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that are copies, or agree on what is wrong."""
    if "spread_skill" not in scores.data:
        return
    ratio, spread = series(scores, "spread_skill", field), series(scores, "spread", field)
    error = normalised(scores, "rmse_mean", field)
    what = "analysis" if scores.analysis else "forecast"
    advice = "draw them with different noise, or use a model that draws at all"
    if np.isfinite(ratio).any() and float(np.nanmax(spread)) == 0.0 and bool((error > SKILL_THAT_MATTERS).any()):
        yield Signature(
            "mode collapse",
            field,
            time_of(scores, 0),
            f"Mode collapse in {field} at every lead time: the {what} has no spread at all, its members are identical; {advice}.",
        )
        return
    copies = scores.data["copies"].values if "copies" in scores.data else np.zeros_like(error)
    copied = lasting((copies >= 1) & (error > SKILL_THAT_MATTERS))
    if copied.any():
        first, worst = first_of(copied), extreme_of(copies, copied, np.nanargmax)
        yield Signature(
            "mode collapse",
            field,
            time_of(scores, first),
            f"Mode collapse in {field} from {time_words(scores, first)} on: {copies[worst]:.3g} of {scores.members} members are "
            f"copies of others; {advice}.",
        )
        return
    alike = lasting((ratio < COLLAPSED_RATIO) & (error > SKILL_THAT_MATTERS))
    if alike.any():
        first, worst = first_of(alike), extreme_of(ratio, alike, np.nanargmin)
        cure = (
            "a larger gamma or observation error in the guidance, weaker guidance, or inflation"
            if scores.analysis
            else "more sampler steps, noise on the context, perturbed initial states, or a generative model in the place of "
            "regression"
        )
        yield Signature(
            "mode collapse",
            field,
            time_of(scores, first),
            f"Mode collapse in {field} from {time_words(scores, first)} on: spread/skill is {ratio[worst]:.2f} at "
            f"{time_words(scores, worst)} while the mean errs by {error[worst]:.2f} climatological deviations; try {cure}.",
        )


def dispersion(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that know too little of their error, or too much; which way, from when on, and how at the ends of windows."""
    if "spread_skill" not in scores.data:
        return
    ratio, low, high = (series(scores, f"spread_skill{end}", field) for end in ("", "_low", "_high"))
    error, spread = (normalised(scores, name, field) for name in ("rmse_mean", "spread"))
    little = (ratio < bound(scores, TOO_LITTLE)) & ~(high >= 1) & (error > SKILL_THAT_MATTERS)
    much = (ratio > bound(scores, TOO_MUCH)) & ~(low <= 1) & (spread > SKILL_THAT_MATTERS)
    early = _early(scores, ratio, high, error)
    if early:
        recovered = int(np.flatnonzero(ratio >= TOO_LITTLE)[0])
        little[:recovered] = False
        yield Signature(
            "late spread",
            field,
            time_of(scores, 0),
            f"Late spread in {field} up to {time_words(scores, early - 1)}: at first spread/skill is {ratio[0]:.2f} while the mean errs "
            f"by {error[0]:.2g} climatological deviations, and {TOO_LITTLE:g} is reached at {time_words(scores, recovered)}; try "
            "perturbed or assimilated initial states, or noise that enters with the first step.",
        )
    for chosen, name, pick, cure in (
        (lasting(little), "under-dispersion", np.nanargmin, MORE_SPREAD["forecast"]),
        (lasting(much), "over-dispersion", np.nanargmax, LESS_SPREAD["forecast"]),
    ):
        if chosen.any():
            first, worst = first_of(chosen), extreme_of(ratio, chosen, pick)
            yield Signature(
                name,
                field,
                time_of(scores, first),
                f"{name.capitalize()} in {field} from {time_words(scores, first)} on: spread/skill is {ratio[worst]:.2f} at "
                f"{time_words(scores, worst)}{ends_words(scores, field)}; try {cure}.",
            )


def _early(scores: Scores, ratio: np.ndarray, high: np.ndarray, error: np.ndarray) -> int:
    """Leads from the first one on that lack spread which comes later; 0 for none."""
    lacking = (ratio < bound(scores, LATE)) & ~(high >= TOO_LITTLE) & (error > EARLY_ERROR)
    count = int(np.argmin(lacking)) if not lacking.all() else len(lacking)
    recovers = lasting(ratio[count:] >= TOO_LITTLE).any() if count < len(ratio) else False
    return count if count >= LASTING and recovers else 0
