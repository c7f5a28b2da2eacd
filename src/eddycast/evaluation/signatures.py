"""Failure signatures: ways in which generative forecasts and analyses are known to fail, told by name.

They are read off the scores alone, so scores from a file tell them too. Each has a threshold that a reliable ensemble does
not reach but by the chance of few cases, and must hold at `LASTING` lead times in a row (or all there are). Those of the spread are in
`dispersion`, those of rollouts in `windows`.

To add one: a generator of `Signature`s, called in `signatures`; its name in `FORECAST` or `ANALYSIS` and in `report.html.grade`
(a test compares them); a health check in `test_signatures.py`; a row in `docs/scores.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from eddycast.assimilation import METHODS
from eddycast.evaluation.dispersion import collapse, dispersion
from eddycast.evaluation.evidence import (
    Signature,
    bound,
    enough,
    extreme_of,
    first_of,
    lasting,
    normalised,
    series,
    time_of,
    time_words,
    when,
)
from eddycast.evaluation.windows import compounding, jumps

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

# Mean square deviation from climatology against the truth's, as a ratio of roots. Energy doubles at 1.4 and halves at 0.7;
# states drawn from the attractor itself differ by a few per cent over a handful of cases.
AMPLITUDE_LOW, AMPLITUDE_HIGH = 0.7, 1.4

# RMSE of one member over sqrt(2) climatological deviations, where two random states of the attractor are: error growth
# has saturated at 1. A quarter more is 56 % more squared error than having no skill at all.
BEYOND_SATURATION = 1.25

# Rate of change against the truth's. Coarse or smooth models move at half of it; a fifth is a picture that stands still.
FROZEN = 0.2
STEADY = 1e-4  # climatological deviations per step: a truth that hardly moves itself cannot tell
FLAT = 1e-2  # climatological deviations: nor can one that has hardly any amplitude left

# Power of the small scales against the truth's: half of it is gone. A perfect ensemble is within some ten per cent.
SMOOTH_POWER = 0.5

# Of analyses. Guidance that overshoots fills small scales first; three times the truth's power is beyond what noise of
# observations adds. Climatology alone, with M members, has an RMSE of sqrt(1 + 1 / M) deviations.
ROUGH_POWER = 3.0
WORSE_THAN_CLIMATOLOGY = 1.2
# Departure from the observations that were used, in deviations of their noise: 1 fits, 5 ignores or overshoots them.
DEPARTURE = 5.0

EMPTY_MODES = 1e-4  # of the peak power

FORECAST = (
    "mode collapse", "error growth", "frozen forecast", "regression to climatology", "compounding", "window jumps",
    "under-dispersion", "over-dispersion", "late spread",
)  # fmt: skip
ANALYSIS = ("mode collapse", "guidance instability", "frozen analysis", "regression to climatology")
UNGUIDED = tuple(name for name, method in METHODS.items() if method.needs != "denoiser")  # theirs is called divergence


def signatures(scores: Scores) -> list[Signature]:
    """What has failed, most urgent first; empty for a healthy ensemble. Scores of older files tell what they can."""
    found = [*_blow_up(scores), *_departure(scores)]
    broken = {one.name for one in found}
    for field in scores.fields:
        still = list(_frozen(scores, field))
        if scores.analysis:  # standing still is error enough
            unstable = [] if still else list(_unstable(scores, field))
        else:
            unstable = list(_growth(scores, field))
        found += [one for one in unstable[:1] if one.name not in broken]
        collapsed = list(collapse(scores, field))
        fading = [] if unstable else list(_fading(scores, field))[:1]
        fading = fading or still  # what has faded to a mean moves as little as that does
        found += collapsed + fading
        if not scores.analysis:
            grown = list(compounding(scores, field))
            found += [*grown, *jumps(scores, field)]
            if not any((broken, unstable, collapsed, fading, grown)):  # else the spread is the least of it
                found += dispersion(scores, field)
    return found


def looked_for(scores: Scores) -> tuple[str, ...]:
    """Names of the signatures that these scores could show."""
    names = ANALYSIS if scores.analysis else FORECAST
    return tuple(_unstable_name(scores) if name == "guidance instability" else name for name in names)


def _blow_up(scores: Scores) -> Iterator[Signature]:
    """Members that are not finite or leave the range of the data, doubled about its middle.

    Five standard deviations would be the usual bound; fields with rare large values (vorticity, rain) pass it in health.
    """
    facts = scores.attributes
    total = facts["members"] * facts["num_cases"]
    bad = facts["nonfinite_members"] + facts["runaway_members"]
    if not bad:
        return
    empty = float(scores.data["empty_mode_power"].max()) if "empty_mode_power" in scores.data else 0.0
    if scores.analysis:
        advice = _steadier(scores)
    elif empty > EMPTY_MODES:
        advice = (
            "modes that the data leave empty fill up first: limit the rollout to the resolved band (the guard) and keep "
            "conserved means"
        )
    else:
        advice = (
            "train on longer rollouts, add noise to the context, or limit the rollout to the resolved band (the guard)"
        )
    name = _unstable_name(scores) if scores.analysis else "error growth"
    time = facts["first_bad_lead"]
    yield Signature(
        name,
        "",
        time,
        f"{name.capitalize()}. Blows up: {bad} of {total} members leave the range of the data or become non-finite, first "
        f"at {when(scores, time)}; {advice}.",
    )


def _growth(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that gain energy, or err more than a random state would."""
    ratio = _amplitude(scores, field)
    # The interval guards against few cases; where there is none, the figure stands alone.
    own = ratio * normalised(scores, "amplitude_truth", field)  # a truth that is weak by chance is no fault of theirs
    grown = (ratio > bound(scores, AMPLITUDE_HIGH)) & ~(series(scores, "amplitude_ratio_low", field) <= 1)
    grown = lasting(grown & ((own > 1) | enough(scores)))
    advice = (
        "noise on the context in training, a shorter stride between windows, more sampler steps, or the guard of the resolved "
        "band"
    )
    if grown.any():
        first, worst = first_of(grown), extreme_of(ratio, grown, np.nanargmax)
        yield Signature(
            "error growth",
            field,
            time_of(scores, first),
            f"Error growth in {field} from {time_words(scores, first)} on: members deviate from the climatological mean "
            f"{ratio[worst]:.2g} times as much as the truth at {time_words(scores, worst)}; try {advice}.",
        )
    lively = _lively(scores, field)
    error = normalised(scores, "rmse_member", field) / math.sqrt(2) / lively
    low = normalised(scores, "rmse_member_low", field) / math.sqrt(2) / lively
    beyond = lasting((error > bound(scores, BEYOND_SATURATION)) & ~(low <= 1))
    if beyond.any():
        first, worst = first_of(beyond), extreme_of(error, beyond, np.nanargmax)
        yield Signature(
            "error growth",
            field,
            time_of(scores, first),
            f"Error growth in {field} from {time_words(scores, first)} on: a member errs {error[worst]:.2f} times as much as a "
            f"random state of the climate would, at {time_words(scores, worst)}; try {advice}.",
        )


def _unstable(scores: Scores, field: str) -> Iterator[Signature]:
    """An analysis that is worse than none, or rough."""
    name = _unstable_name(scores)
    limit = bound(scores, WORSE_THAN_CLIMATOLOGY) * math.sqrt(1 + 1 / scores.members)
    lively = _lively(scores, field)
    error, low = (normalised(scores, f"rmse_mean{end}", field) / lively for end in ("", "_low"))
    worse = lasting((error > limit) & ~(low <= 1))
    if worse.any():
        first, worst = first_of(worse), extreme_of(error, worse, np.nanargmax)
        yield Signature(
            name,
            field,
            time_of(scores, first),
            f"{name.capitalize()} in {field} from {time_words(scores, first)} on: the mean errs {error[worst]:.2f} times as much as "
            f"climatology at {time_words(scores, worst)}, so it is worse than without observations; {_steadier(scores)}.",
        )
    for stage, power in _stages(scores, field, "high"):
        if power > bound(scores, ROUGH_POWER):
            start = float(scores.data["stage_start"].values[stage])
            yield Signature(
                name,
                field,
                start,
                f"{name.capitalize()} in {field} from {when(scores, start)} on: small scales hold {power:.2g} times the "
                f"power of the truth; {_steadier(scores)}.",
            )


def _departure(scores: Scores) -> Iterator[Signature]:
    """An analysis far from the very observations that it used."""
    departure = scores.attributes.get("eddycast_observed_departure_rms", float("nan"))
    if not DEPARTURE < departure < math.inf:  # infinite where observations are said to be exact
        return
    name = _unstable_name(scores)
    yield Signature(
        name,
        "",
        None,
        f"{name.capitalize()}: at the observed points the analysis departs from the observations by {departure:.2g} "
        f"deviations of their noise, where 1 is a fit; {_steadier(scores)}.",
    )


def _fading(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that lose amplitude, or their small scales."""
    ratio = _amplitude(scores, field)
    own = ratio * normalised(scores, "amplitude_truth", field)
    faded = (ratio < bound(scores, AMPLITUDE_LOW)) & ~(series(scores, "amplitude_ratio_high", field) >= 1)
    faded = lasting(faded & ((own < 1) | enough(scores)))
    advice = (
        "stronger or more observations, or draws in the place of a mean"
        if scores.analysis
        else "a generative model in the place of regression, more sampler steps, a larger network, or a shorter stride"
    )
    if faded.any():
        first, worst = first_of(faded), extreme_of(ratio, faded, np.nanargmin)
        yield Signature(
            "regression to climatology",
            field,
            time_of(scores, first),
            f"Regression to climatology in {field} from {time_words(scores, first)} on: members deviate from the climatological "
            f"mean {ratio[worst]:.2g} times as much as the truth at {time_words(scores, worst)}; try {advice}.",
        )
    smooth = [(stage, power) for stage, power in _stages(scores, field, "high") if power < bound(scores, SMOOTH_POWER)]
    if smooth and len(smooth) >= min(2, scores.data.sizes["stage"]):
        start = float(scores.data["stage_start"].values[smooth[0][0]])
        yield Signature(
            "regression to climatology",
            field,
            start,
            f"Regression to climatology in {field} from {when(scores, start)} on: small scales hold only "
            f"{min(power for _, power in smooth):.2g} times the power of the truth, members are smoothed; try {advice}.",
        )


def _frozen(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that do not move while the truth does."""
    moved, expected = series(scores, "change_member", field), series(scores, "change_truth", field)
    std = float(scores.data["climatology_std"].sel(field=field))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(expected > STEADY * std, moved / expected, np.nan)
    still = lasting(ratio < FROZEN, of=int(np.isfinite(ratio).sum()))
    if still.any():
        first, worst = first_of(still), extreme_of(ratio, still, np.nanargmin)
        name = "frozen analysis" if scores.analysis else "frozen forecast"
        yield Signature(
            name,
            field,
            time_of(scores, first),
            f"{name.capitalize()} in {field} from {time_words(scores, first)} on: from one lead time to the next members change "
            f"{ratio[worst]:.2g} times as much as the truth; "
            + (
                "give the dynamics more weight, or assimilate window by window."
                if scores.analysis
                else "predict increments with noise on the context, or check that states and increments are normalised alike."
            ),
        )


def _unstable_name(scores: Scores) -> str:
    method = str(scores.attributes.get("eddycast_method", ""))
    return "analysis divergence" if method in UNGUIDED else "guidance instability"


def _steadier(scores: Scores) -> str:
    if _unstable_name(scores) == "analysis divergence":
        return "try inflation, more members, or a larger observation error"
    return "try a larger gamma or observation error, more sampler steps, or a method that bounds its step (MMPS)"


def _stages(scores: Scores, field: str, band: str) -> Iterator[tuple[int, float]]:
    """Power of the members over the truth's in a band, by stage of lead times."""
    if "spectrum_bands" in scores.data:
        values = scores.data["spectrum_bands"].sel(field=field, spectrum_band=band).values
        with np.errstate(over="ignore"):
            yield from ((stage, float(10**value)) for stage, value in enumerate(values) if not math.isnan(value))


def _lively(scores: Scores, field: str) -> np.ndarray:
    """Climatological deviations of the truth now, one at least: livelier than on average, it is further from any guess."""
    return np.fmax(1.0, normalised(scores, "amplitude_truth", field))


def _amplitude(scores: Scores, field: str) -> np.ndarray:
    """Amplitude of the members over the truth's, NaN where the truth has hardly any."""
    told = normalised(scores, "amplitude_truth", field) > FLAT
    return np.where(told, series(scores, "amplitude_ratio", field), np.nan)
