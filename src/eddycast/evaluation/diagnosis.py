"""Scores in words: what has failed, what is wrong, from when on, and what usually helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from eddycast.evaluation.dispersion import LESS_SPREAD, MORE_SPREAD
from eddycast.evaluation.evidence import when
from eddycast.evaluation.physics_words import broken_laws
from eddycast.evaluation.signatures import EMPTY_MODES, signatures
from eddycast.evaluation.table import spectral
from eddycast.evaluation.windows import ends_words

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

# Outside these a score is called out. Spread/skill between 0.9 and 1.1 is hardly told from 1 in practice.
LOW_RATIO, HIGH_RATIO = 0.9, 1.1
SPECTRUM = 0.1  # decades
CENSORED = 0.5
SATURATED = 1.3  # RMSE of one member in climatological deviations; sqrt(2) is a random state of the attractor
OUTLIERS = 1.5

SPREAD = {"mode collapse", "under-dispersion", "over-dispersion", "late spread", "compounding"}
"""Signatures that have said what there is to say of the spread."""
BANDS = {"low": "Large scales", "mid": "Middle scales", "high": "Small scales"}
TOO_STRONG = {"high": "more sampler steps, or a limit to the resolved band"}
TOO_WEAK = {
    "high": "a probabilistic emulator instead of regression, a larger network, or a loss that weighs small scales"
}


def diagnosis(scores: Scores, baselines: Mapping[str, Scores]) -> list[str]:
    """Sentences, most urgent first; at least one. `baselines` by name, scored on the same cases."""
    failures = signatures(scores)
    found = [one.sentence for one in failures]
    for field in scores.fields:
        where = f"{field}: " if len(scores.fields) > 1 else ""
        named = {one.name for one in failures if one.field == field}
        sentences = [
            *_against(scores, field, baselines),
            *([] if named & SPREAD else _dispersion(scores, field)),
            *_calibration(scores, field),
            *_spectrum(scores, field, smoothed="regression to climatology" in named),
            *_reach(scores, field),
        ]
        found += [where + sentence for sentence in sentences]
    found += broken_laws(scores)
    if int(scores.attributes["num_blocks"]) < 8:
        found.append(
            f"Only {scores.attributes['num_blocks']} independent blocks of cases: the intervals say little; "
            "start forecasts from more trajectories or times."
        )
    return found or ["Nothing stands out: errors, spread and spectrum are within the usual bounds at every lead time."]


def _dispersion(scores: Scores, field: str) -> list[str]:
    """Spread/skill is called out only where its whole interval lies on one side of 1, if it has one."""
    if "spread_skill" not in scores.data:
        return []
    ratio, low, high = (scores.series(f"spread_skill{end}", field) for end in ("", "_low", "_high"))
    if not np.isfinite(ratio).any():
        return []
    if float(np.nanmax(scores.series("spread", field))) == 0.0:
        return ["Has no spread at all: its members are identical; draw them with different noise."]
    kind = "analysis" if scores.analysis else "forecast"
    under = _persistent((ratio < LOW_RATIO) & ~(high >= 1))
    over = _persistent((ratio > HIGH_RATIO) & ~(low <= 1))
    sentences = []
    if under.any():
        worst = int(np.where(under, ratio, np.inf).argmin())
        sentences.append(
            f"Under-dispersed {_span(scores, under, ratio, worst)}{ends_words(scores, field)}: try {MORE_SPREAD[kind]}."
        )
    if over.any():
        worst = int(np.where(over, ratio, -np.inf).argmax())
        sentences.append(
            f"Over-dispersed {_span(scores, over, ratio, worst)}{ends_words(scores, field)}: try {LESS_SPREAD[kind]}."
        )
    return sentences


def _persistent(chosen: np.ndarray) -> np.ndarray:
    """Nothing, unless three lead times in a row (or all there are) stand out: one in twenty does by chance."""
    need = min(3, len(chosen))
    runs = np.convolve(chosen, np.ones(need), mode="valid") == need
    return chosen if runs.any() else np.zeros_like(chosen)


def _span(scores: Scores, chosen: np.ndarray, ratio: np.ndarray, worst: int) -> str:
    """Which lead times were chosen, and the worst of them."""
    times = scores.lead_times
    first, last = np.flatnonzero(chosen)[[0, -1]]
    figure = f"(spread/skill {ratio[worst]:.2f} at {when(scores, times[worst])})"
    if chosen.mean() >= 0.9:
        return f"at nearly every lead time {figure}"
    if last == len(times) - 1 and chosen[first:].mean() > 0.7:
        return f"after {when(scores, times[first])} {figure}"
    if chosen[: last + 1].mean() > 0.7:
        return f"at short lead times, up to {when(scores, times[last])} {figure}"
    return f"at {chosen.mean():.0%} of lead times {figure}"


def _calibration(scores: Scores, field: str) -> list[str]:
    if "rank_histogram" not in scores.data:
        return []
    ranks = scores.data["rank_histogram"].sel(field=field).values
    ranks = ranks[np.isfinite(ranks).all(axis=-1)]
    if len(ranks) == 0:
        return []
    pooled = ranks.mean(axis=0)
    members = len(pooled) - 1
    below, above = pooled[0] * (members + 1), pooled[-1] * (members + 1)
    if max(below, above) > OUTLIERS and max(below, above) > 2 * min(below, above):
        side = "below" if below > above else "above"
        return [
            f"Biased: the truth lies {side} all members {max(below, above):.1f} times as often as it should; "
            "check the normalisation and conserved means."
        ]
    return []


def _spectrum(scores: Scores, field: str, *, smoothed: bool) -> list[str]:
    """Bands whose power is wrong; what a signature has said (`smoothed`) is not said again."""
    if "spectral_error_pooled" not in scores.data:
        return []
    sentences = []
    for band, words in BANDS.items():
        bias, size = spectral(scores, field, band, "bias"), spectral(scores, field, band, "mean")
        if not size > SPECTRUM:
            continue
        if bias > 0.5 * size:
            advice = TOO_STRONG.get(band, "longer training, or keeping conserved means")
            sentences.append(f"{words} are too energetic ({10**bias:.2g} times, log10 error {size:.2f}): try {advice}.")
        elif bias < -0.5 * size:
            if smoothed:
                continue
            advice = TOO_WEAK.get(band, "longer training, or training on several steps")
            sentences.append(f"{words} are too weak ({10**bias:.2g} times, log10 error {size:.2f}): try {advice}.")
        else:
            sentences.append(f"{words} are wrong in both directions (log10 error {size:.2f}): try longer training.")
    empty = float(scores.data["empty_mode_power"].sel(field=field))
    if empty > EMPTY_MODES:
        sentences.append(
            f"Modes that the truth leaves empty hold up to {empty:.1e} of the peak power: long rollouts may blow up; "
            "limit the rollout to the resolved band."
        )
    return sentences


def _against(scores: Scores, field: str, baselines: Mapping[str, Scores]) -> list[str]:
    """Where a baseline has the lower CRPS (the absolute error, where it has one member)."""
    sentences = []
    for name, other in baselines.items():
        if field not in other.fields or "crps" not in other.data or "crps" not in scores.data:
            continue
        shared, own, theirs = np.intersect1d(
            np.round(scores.lead_times, 6), np.round(other.lead_times, 6), return_indices=True
        )
        if len(shared) == 0:
            continue
        ours, reference = scores.series("crps", field)[own], other.series("crps", field)[theirs]
        loses = ~(ours <= reference) & np.isfinite(reference)
        if not loses.any():
            continue
        if loses.all():
            words, advice = "at every lead time", "it has learned nothing useful, so train longer or check the data"
        elif loses[-1] and not loses[0]:
            words = f"after {when(scores, shared[np.flatnonzero(~loses)[-1]])}"
            advice = "there a forecast should fade to climatology, so it lacks spread or drifts"
        elif loses[0]:
            words = f"up to {when(scores, shared[np.flatnonzero(~loses)[0] - 1])}"
            advice = "predict increments, train longer, or use more sampler steps"
        else:
            words = f"around {when(scores, shared[np.nanargmax(ours - reference)])}"
            advice = "compare the intervals before reading much into it"
        sentences.append(f"Loses to {name} {words} (CRPS): {advice}.")
    return sentences


def _reach(scores: Scores, field: str) -> list[str]:
    data, sentences = scores.data, []
    if "censored" in data:
        still = float(data["censored"].sel(field=field, forecast="member"))
        if still > CENSORED:
            sentences.append(
                f"{still:.0%} of cases are still well correlated at the last lead time, so high-correlation times are "
                "lower bounds: forecast further."
            )
    if scores.members == 1 and "rmse_member" in data and not scores.analysis:
        late = np.flatnonzero(scores.normalised("rmse_member", field) > SATURATED)
        if len(late):
            sentences.append(
                f"Beyond {when(scores, scores.lead_times[late[0]])} the single forecast is about as far from the "
                "truth as a random state: an ensemble, or its mean, scores better there."
            )
    return sentences
