"""Failure signatures: ways in which generative forecasts and analyses are known to fail, told by name.

They are read off the scores alone, so scores from a file tell them too. Each has a threshold that a reliable ensemble does
not reach but by the chance of few cases, and must hold at `LASTING` lead times in a row (or all there are).

To add one: a generator of `Signature`s here, called in `signatures`; its name in `FORECAST` or `ANALYSIS` and in `report.html.grade`
(a test compares them); a health check in `test_signatures.py`; a row in `docs/scores.md`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from eddycast.evaluation.scores import Scores

LASTING = 3  # lead times in a row: single ones stand out by chance
ENOUGH = 8  # independent blocks of cases; with fewer, bounds on ratios are squared (1.4 becomes 2)

# Spread / skill of a reliable ensemble is 1, of a plainly under-dispersed one 0.5; a fifth of it says that members agree
# on something wrong. It means nothing while the error is within a tenth of a climatological deviation.
COLLAPSED_RATIO = 0.2
SKILL_THAT_MATTERS = 0.1

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

FORECAST = ("mode collapse", "error growth", "frozen forecast", "regression to climatology")
ANALYSIS = ("mode collapse", "guidance instability", "frozen analysis", "regression to climatology")
UNGUIDED = ("etkf", "interpolation")  # methods that cannot suffer from guidance: theirs is called divergence


@dataclass(frozen=True)
class Signature:
    """One failure.

    Args:
        name: `mode collapse`, `error growth`, ...
        field: Where; empty where it is of whole members.
        lead_time: From when on, in the time units of the scores; None if at no particular time.
        sentence: With the figure and what to do.
    """

    name: str
    field: str
    lead_time: float | None
    sentence: str


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
        found += _collapse(scores, field)
        fading = [] if unstable else list(_fading(scores, field))[:1]
        found += fading or still  # what has faded to a mean moves as little as that does
    return found


def looked_for(scores: Scores) -> tuple[str, ...]:
    """Names of the signatures that these scores could show."""
    names = ANALYSIS if scores.analysis else FORECAST
    return tuple(_unstable_name(scores) if name == "guidance instability" else name for name in names)


def when(scores: Scores, time: Any) -> str:
    """A time in words; `time` is a number or an array of one."""
    if scores.lyapunov_time:
        return f"{time / scores.lyapunov_time:.1f} Lyapunov times"
    return f"{time:.4g} {scores.time_units}" if scores.time_units not in ("", "1") else f"time {time:.4g}"


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
    own = ratio * _normalised(scores, "amplitude_truth", field)  # a truth that is weak by chance is no fault of theirs
    grown = (ratio > _bound(scores, AMPLITUDE_HIGH)) & ~(_series(scores, "amplitude_ratio_low", field) <= 1)
    grown = _lasting(grown & ((own > 1) | _enough(scores)))
    advice = (
        "noise on the context in training, a shorter stride between windows, more sampler steps, or the guard of the resolved "
        "band"
    )
    if grown.any():
        first, worst = _first(grown), _extreme(ratio, grown, np.nanargmax)
        yield Signature(
            "error growth",
            field,
            _time(scores, first),
            f"Error growth in {field} from {_when(scores, first)} on: members deviate from the climatological mean "
            f"{ratio[worst]:.2g} times as much as the truth at {_when(scores, worst)}; try {advice}.",
        )
    lively = _lively(scores, field)
    error = _normalised(scores, "rmse_member", field) / math.sqrt(2) / lively
    low = _normalised(scores, "rmse_member_low", field) / math.sqrt(2) / lively
    beyond = _lasting((error > _bound(scores, BEYOND_SATURATION)) & ~(low <= 1))
    if beyond.any():
        first, worst = _first(beyond), _extreme(error, beyond, np.nanargmax)
        yield Signature(
            "error growth",
            field,
            _time(scores, first),
            f"Error growth in {field} from {_when(scores, first)} on: a member errs {error[worst]:.2f} times as much as a "
            f"random state of the climate would, at {_when(scores, worst)}; try {advice}.",
        )


def _unstable(scores: Scores, field: str) -> Iterator[Signature]:
    """An analysis that is worse than none, or rough."""
    name = _unstable_name(scores)
    bound = _bound(scores, WORSE_THAN_CLIMATOLOGY) * math.sqrt(1 + 1 / scores.members)
    lively = _lively(scores, field)
    error, low = (_normalised(scores, f"rmse_mean{end}", field) / lively for end in ("", "_low"))
    worse = _lasting((error > bound) & ~(low <= 1))
    if worse.any():
        first, worst = _first(worse), _extreme(error, worse, np.nanargmax)
        yield Signature(
            name,
            field,
            _time(scores, first),
            f"{name.capitalize()} in {field} from {_when(scores, first)} on: the mean errs {error[worst]:.2f} times as much as "
            f"climatology at {_when(scores, worst)}, so it is worse than without observations; {_steadier(scores)}.",
        )
    for stage, power in _stages(scores, field, "high"):
        if power > _bound(scores, ROUGH_POWER):
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


def _collapse(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that are copies, or agree on what is wrong."""
    if "spread_skill" not in scores.data:
        return
    ratio, spread = _series(scores, "spread_skill", field), _series(scores, "spread", field)
    error = _normalised(scores, "rmse_mean", field)
    what = "analysis" if scores.analysis else "forecast"
    advice = "draw them with different noise, or use a model that draws at all"
    if np.isfinite(ratio).any() and float(np.nanmax(spread)) == 0.0 and bool((error > SKILL_THAT_MATTERS).any()):
        yield Signature(
            "mode collapse",
            field,
            _time(scores, 0),
            f"Mode collapse in {field} at every lead time: the {what} has no spread at all, its members are identical; {advice}.",
        )
        return
    copies = scores.data["copies"].values if "copies" in scores.data else np.zeros_like(error)
    copied = _lasting((copies >= 1) & (error > SKILL_THAT_MATTERS))
    if copied.any():
        first, worst = _first(copied), _extreme(copies, copied, np.nanargmax)
        yield Signature(
            "mode collapse",
            field,
            _time(scores, first),
            f"Mode collapse in {field} from {_when(scores, first)} on: {copies[worst]:.3g} of {scores.members} members are "
            f"copies of others; {advice}.",
        )
        return
    alike = _lasting((ratio < COLLAPSED_RATIO) & (error > SKILL_THAT_MATTERS))
    if alike.any():
        first, worst = _first(alike), _extreme(ratio, alike, np.nanargmin)
        cure = (
            "a larger gamma or observation error in the guidance, weaker guidance, or inflation"
            if scores.analysis
            else "more sampler steps, noise on the context, perturbed initial states, or a generative model in the place of "
            "regression"
        )
        yield Signature(
            "mode collapse",
            field,
            _time(scores, first),
            f"Mode collapse in {field} from {_when(scores, first)} on: spread/skill is {ratio[worst]:.2f} at "
            f"{_when(scores, worst)} while the mean errs by {error[worst]:.2f} climatological deviations; try {cure}.",
        )


def _fading(scores: Scores, field: str) -> Iterator[Signature]:
    """Members that lose amplitude, or their small scales."""
    ratio = _amplitude(scores, field)
    own = ratio * _normalised(scores, "amplitude_truth", field)
    faded = (ratio < _bound(scores, AMPLITUDE_LOW)) & ~(_series(scores, "amplitude_ratio_high", field) >= 1)
    faded = _lasting(faded & ((own < 1) | _enough(scores)))
    advice = (
        "stronger or more observations, or draws in the place of a mean"
        if scores.analysis
        else "a generative model in the place of regression, more sampler steps, a larger network, or a shorter stride"
    )
    if faded.any():
        first, worst = _first(faded), _extreme(ratio, faded, np.nanargmin)
        yield Signature(
            "regression to climatology",
            field,
            _time(scores, first),
            f"Regression to climatology in {field} from {_when(scores, first)} on: members deviate from the climatological "
            f"mean {ratio[worst]:.2g} times as much as the truth at {_when(scores, worst)}; try {advice}.",
        )
    smooth = [(stage, power) for stage, power in _stages(scores, field, "high") if power < _bound(scores, SMOOTH_POWER)]
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
    moved, expected = _series(scores, "change_member", field), _series(scores, "change_truth", field)
    std = float(scores.data["climatology_std"].sel(field=field))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(expected > STEADY * std, moved / expected, np.nan)
    still = _lasting(ratio < FROZEN, of=int(np.isfinite(ratio).sum()))
    if still.any():
        first, worst = _first(still), _extreme(ratio, still, np.nanargmin)
        name = "frozen analysis" if scores.analysis else "frozen forecast"
        yield Signature(
            name,
            field,
            _time(scores, first),
            f"{name.capitalize()} in {field} from {_when(scores, first)} on: from one lead time to the next members change "
            f"{ratio[worst]:.2g} times as much as the truth; "
            + (
                "give the dynamics more weight, or assimilate window by window."
                if scores.analysis
                else "predict increments with noise on the context, or check that states and increments are normalised alike."
            ),
        )


def _enough(scores: Scores) -> bool:
    return int(scores.attributes["num_blocks"]) >= ENOUGH


def _bound(scores: Scores, value: float) -> float:
    return value if _enough(scores) else value**2


def _unstable_name(scores: Scores) -> str:
    method = str(scores.attributes.get("eddycast_method", ""))
    return "analysis divergence" if method in UNGUIDED else "guidance instability"


def _steadier(scores: Scores) -> str:
    if _unstable_name(scores) == "analysis divergence":
        return "try inflation, more members, or a larger observation error"
    return "try a larger gamma or observation error, more sampler steps, or a method that bounds its step (MMPS)"


def _lasting(chosen: np.ndarray, of: int | None = None) -> np.ndarray:
    """Nothing, unless `LASTING` lead times in a row (or all `of` that there are) are chosen; then those from the first such run."""
    need = max(1, min(LASTING, len(chosen) if of is None else of))
    runs = np.convolve(chosen, np.ones(need), mode="valid") == need
    if not runs.any():
        return np.zeros_like(chosen)
    kept = chosen.copy()
    kept[: int(runs.argmax())] = False
    return kept


def _stages(scores: Scores, field: str, band: str) -> Iterator[tuple[int, float]]:
    """Power of the members over the truth's in a band, by stage of lead times."""
    if "spectrum_bands" in scores.data:
        values = scores.data["spectrum_bands"].sel(field=field, spectrum_band=band).values
        with np.errstate(over="ignore"):
            yield from ((stage, float(10**value)) for stage, value in enumerate(values) if not math.isnan(value))


def _series(scores: Scores, name: str, field: str) -> np.ndarray:
    """A score at every lead time; NaN throughout where an older file has none."""
    return scores.series(name, field) if name in scores.data else np.full(len(scores.lead_times), np.nan)


def _normalised(scores: Scores, name: str, field: str) -> np.ndarray:
    std = float(scores.data["climatology_std"].sel(field=field))
    return _series(scores, name, field) / std if std > 0 else np.full(len(scores.lead_times), np.nan)


def _lively(scores: Scores, field: str) -> np.ndarray:
    """Climatological deviations of the truth now, one at least: livelier than on average, it is further from any guess."""
    return np.fmax(1.0, _normalised(scores, "amplitude_truth", field))


def _amplitude(scores: Scores, field: str) -> np.ndarray:
    """Amplitude of the members over the truth's, NaN where the truth has hardly any."""
    told = _normalised(scores, "amplitude_truth", field) > FLAT
    return np.where(told, _series(scores, "amplitude_ratio", field), np.nan)


def _first(chosen: np.ndarray) -> int:
    return int(np.flatnonzero(chosen)[0])


def _extreme(values: np.ndarray, chosen: np.ndarray, pick: Any) -> int:
    return int(pick(np.where(chosen, values, np.nan)))


def _time(scores: Scores, place: int) -> float:
    return float(scores.lead_times[place])


def _when(scores: Scores, place: int) -> str:
    return when(scores, scores.lead_times[place])
