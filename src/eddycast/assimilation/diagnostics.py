"""Whether an ensemble and its observations agree: innovations, ranks, spread and error, coverage, and the errors that were assumed.

All is said in units of the observations' errors, R = I (`Measurement.whitened`), so that observations of different fields count alike and
correlated errors are taken apart. Most of it holds for observations that the ensemble has *not* seen: the next ones of a filter, or
withheld ones. An analysis fits what it has seen better than its spread says, and rightly so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eddycast.metrics import coverage, rank_flatness, rank_histogram
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement

LEVEL = 0.9
"""Of central intervals; less where an ensemble has too few members to span it."""

DIVERGED = 3.0
"""Errors of withheld observations over what spread and errors allow, from which on an analysis is said to have diverged."""


class Seen(NamedTuple):
    """An ensemble as observations see it, in units of their errors: members (member, case, entry), observed (case, entry), mask alike."""

    members: Tensor
    observed: Tensor
    mask: Tensor


def seen_by(measurement: Measurement, ensemble: Tensor) -> Seen:
    """An ensemble (member, case, time, channel, *space) of the frames that a measurement looks at; float64."""
    members, observed = measurement.whitened(ensemble.double())
    return Seen(members, observed, measurement.mask.to(members.device))


def innovation_chi_square(seen: Seen) -> Tensor:
    """d^T (H P H^T + I)^-1 d over the number of entries m, with d = y - H-mean, (case,); NaN for cases without entries.

    1 on average for an ensemble that did not see y, however its errors and those of y go together: more where spread or stated errors are
    too small, less where they are too large. P is the sample covariance times (M + 1) / M, which the error of the mean of M members adds.
    Bias: the inverse of a covariance from few members is too large, by about m / M where the spread is much larger than the errors; 1 + 1/M
    otherwise.
    """
    members = len(seen.members)
    mean = seen.members.mean(dim=0)
    innovation = torch.where(seen.mask, seen.observed - mean, 0)
    deviations = (seen.members - mean).movedim(0, 1) * math.sqrt((members + 1) / (members * (members - 1)))
    # (I + Y^T Y)^-1 = I - Y^T (I + Y Y^T)^-1 Y, a matrix of members
    gram = deviations @ deviations.mT + torch.eye(members, dtype=deviations.dtype, device=deviations.device)
    projected = (deviations @ innovation[..., None])[..., 0]
    explained = (projected * torch.linalg.solve(gram, projected)).sum(dim=1)
    count = seen.mask.sum(dim=1)
    square = innovation.square().sum(dim=1) - explained
    return torch.where(count > 0, square / count.clamp(min=1), torch.nan)


def expected_square(seen: Seen) -> Tensor:
    """Expected square of y - H-mean at each entry, (M + 1) / M var(H x) + 1, (case, entry)."""
    members = len(seen.members)
    return seen.members.var(dim=0) * ((members + 1) / members) + 1


def observed_spread_skill(seen: Seen) -> float:
    """sqrt(mean expected square / mean square of y - H-mean) over all entries: 1 for a reliable ensemble of any size."""
    square = (seen.observed - seen.members.mean(dim=0)).square()
    return math.sqrt(expected_square(seen)[seen.mask].mean().item() / max(square[seen.mask].mean().item(), 1e-300))


def with_errors(seen: Seen, noise: MemberNoise, *, key: tuple[int, int, str] = (0, 0, "errors of members")) -> Seen:
    """The members with an error of observation each, drawn from R: exchangeable with what is observed, if all is right.

    Args:
        noise: Addresses (member, case).
    """
    shape = tuple(seen.observed.shape[1:])
    drawn = noise.draw(shape, key=key, dtype=seen.members.dtype, device=seen.members.device)
    return seen._replace(members=seen.members + torch.where(seen.mask, drawn, 0))


def observed_ranks(seen: Seen) -> Tensor:
    """Frequencies of the ranks of what is observed among members `with_errors`, over all entries, (member + 1): flat if reliable."""
    return rank_histogram(seen.members.flatten(1), seen.observed.flatten(), seen.mask.double().flatten())


class Desroziers(NamedTuple):
    """Errors as the analysis shows them, over those that were assumed; 1 where these are right.

    `observation`: of the observations' variance; `background`: of the variance of H x_b.
    """

    observation: float
    background: float


def desroziers(forecast: Seen, analysis: Tensor) -> Desroziers:
    """Consistency of the assumed errors, from departures before and after an analysis.

        observation = mean d_a d_f,    background = mean (d_f - d_a) d_f / mean var(H x_b),
        d_f = y - H x_b,    d_a = y - H x_a

    For a linear analysis with the gain of the assumed errors, E[d_a d_f^T] = R exactly where these are true. With S_a = H B_a H^T + R_a
    assumed and S true it is R_a S_a^-1 S: a first step towards R, to be repeated, where they are not.

    Args:
        forecast: The ensemble before the analysis.
        analysis: H x_a of the members after it, in the same units, (member, case, entry).

    Source: Desroziers et al. (2005), doi:10.1256/qj.05.108, eqs. 1 to 3.
    """
    before = (forecast.observed - forecast.members.mean(dim=0))[forecast.mask]
    after = (forecast.observed - analysis.mean(dim=0))[forecast.mask]
    spread = forecast.members.var(dim=0)[forecast.mask].mean().item() if len(forecast.members) > 1 else math.nan
    shift = ((before - after) * before).mean().item()
    return Desroziers((after * before).mean().item(), shift / spread if spread > 0 else math.nan)


@dataclass(frozen=True)
class Agreement:
    """An ensemble against observations. Numbers are in units of the stated errors, NaN where the ensemble has too few members.

    Args:
        count: Of observations.
        departure_rms: Root mean square of y - H-mean. At least 1 for what was not seen, less than 1 for what was.
        expected_rms: What spread and stated errors make of it.
        bias: Mean of y - H-mean.
        spread_skill: expected_rms / departure_rms.
        chi_square: `innovation_chi_square`, mean over the cases.
        coverage, level: Share of observations within the central interval of that level of the members with errors added.
        ranks: `observed_ranks`.
        flatness: Distance of the ranks from flat, `metrics.rank_flatness`.
        departures: departure_rms frame by frame, NaN where nothing is observed.
    """

    count: int
    departure_rms: float
    expected_rms: float = math.nan
    bias: float = math.nan
    spread_skill: float = math.nan
    chi_square: float = math.nan
    coverage: float = math.nan
    level: float = math.nan
    ranks: tuple[float, ...] = ()
    flatness: float = math.nan
    departures: tuple[float, ...] = ()


def agreement(measurement: Measurement, ensemble: Tensor, *, seed: int, cases: Tensor) -> Agreement:
    """Compare an ensemble (member, case, time, channel, *space) with what is observed of its frames.

    Args:
        seed, cases: Address of the errors that are added to members, by the numbers of the cases (case,).
    """
    seen = seen_by(measurement, ensemble)
    departure = seen.observed - seen.members.mean(dim=0)
    kept = departure[seen.mask]
    frames = measurement.frames.to(departure.device)
    series = []
    for frame in range(int(frames.max()) + 1):
        here = departure[seen.mask & (frames == frame)]
        series.append(here.square().mean().sqrt().item() if here.numel() else math.nan)
    plain: dict[str, Any] = {
        "count": measurement.count,
        "departure_rms": kept.square().mean().sqrt().item(),
        "bias": kept.mean().item(),
        "departures": tuple(series),
    }
    members = len(ensemble)
    if members < 2:
        return Agreement(**plain)
    noisy = with_errors(seen, MemberNoise.grid(seed, cases, members))
    level = min(LEVEL, (members - 1) / (members + 1))
    ranks = observed_ranks(noisy)
    return Agreement(
        **plain,
        expected_rms=expected_square(seen)[seen.mask].mean().sqrt().item(),
        spread_skill=observed_spread_skill(seen),
        chi_square=innovation_chi_square(seen).nanmean().item(),
        coverage=coverage(noisy.members[:, seen.mask], seen.observed[seen.mask], level).mean().item(),
        level=level,
        ranks=tuple(ranks.tolist()),
        flatness=rank_flatness(ranks).item(),
    )


def divergence_reason(
    ensemble: Tensor, withheld: Agreement | None, used: Agreement | None, found: str | None
) -> str | None:
    """Why an analysis is not to be trusted, in one line; None where nothing speaks against it.

    Args:
        ensemble: (member, case, time, ...), without points that are not defined.
        withheld, used: Agreement with observations that the analysis has not seen, and has.
        found: What the method itself has noticed.
    """
    if found:
        return found
    finite = ensemble.isfinite().all(dim=0).flatten(2).all(dim=2)  # (case, time)
    if not bool(finite.all()):
        case, frame = (int(n) for n in (~finite).nonzero()[0])
        return f"The analysis of case {case} is not finite from frame {frame} on."
    if len(ensemble) > 1 and bool((ensemble.std(dim=0).flatten(1).amax(dim=1) == 0).any()):
        return "All members of a case are the same: the ensemble has collapsed."
    for agrees, what in ((withheld, "withheld"), (used, "assimilated")):
        if agrees is None:
            continue
        allowed = agrees.expected_rms if math.isfinite(agrees.expected_rms) else 1.0
        if agrees.departure_rms > DIVERGED * allowed:
            words = "spread and errors allow" if math.isfinite(agrees.expected_rms) else "errors allow"
            return (
                f"The analysis misses {what} observations by {agrees.departure_rms:.3g} times their error, {words} {allowed:.3g}: "
                "take more members or inflation, or check the stated errors."
            )
    return None


@dataclass(frozen=True)
class Diagnostics:
    """What there is to say of one analysis besides its states.

    Args:
        used: Against the observations that went in.
        withheld: Against those kept back, the test; None without.
        divergence: Why the analysis is not to be trusted, in one line; None where nothing speaks against it.
        seconds: Of the analysis.
        peak_memory: Largest memory in use, bytes: of the device during the analysis, or of the process so far where that is a CPU;
            None where it is not known.
        passes: Of networks, forward and back, per member and case.
        found: What the method reports besides: minimisations, solver residuals, unknown parameters.
    """

    used: Agreement | None
    withheld: Agreement | None
    divergence: str | None
    seconds: float
    peak_memory: int | None
    passes: tuple[float, float]
    found: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: null in the place of NaN, tensors of findings as lists of their means over members."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def attributes(self) -> dict[str, Any]:
        """The numbers that belong into the file of an analysis; the same for every run of it, and so without time and memory."""
        told: dict[str, Any] = {} if self.divergence is None else {"eddycast_divergence": self.divergence}
        if self.used is not None:
            told["eddycast_observed_departure_rms"] = self.used.departure_rms
        if self.withheld is not None:
            told |= {
                "withheld_observations": float(self.withheld.count),
                "withheld_departure_rms": self.withheld.departure_rms,
            }
            more = ("expected_rms", "spread_skill", "chi_square", "coverage", "level")
            told |= {f"withheld_{name}": getattr(self.withheld, name) for name in more}
        return {name: value for name, value in told.items() if not (isinstance(value, float) and math.isnan(value))}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.double().mean(dim=0).tolist() if value.ndim else value.item())
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
