"""Averages and scores that families minimise.

To add a loss of ensembles: a function here, its name among the values of `score` (or `spectral`) in `ScoringConfig`, its case in
`ScoringRule._score`; a test of what minimises it in `test_ensemble_losses.py`, a row in `docs/emulators.md`.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.errors import InputError

COINCIDENT = 1e-12
"""Added to mean squares of distances before the root, whose slope is infinite at 0: members that coincide are 1e-6 apart."""


def valid_mean(values: Tensor, conditions: Conditions) -> Tensor:
    """Mean of (..., *space) over all points where the fields are defined."""
    if conditions.valid is None:
        return values.mean()
    valid = conditions.valid.to(values)
    return (values * valid).mean() / valid.mean()


def almost_fair_crps(ensemble: Tensor, truth: Tensor, fairness: float) -> Tensor:
    """fairness * fair CRPS + (1 - fairness) * CRPS of the ensemble's own distribution, at each point.

        mean_i |x_i - y| - (fairness / (M (M - 1)) + (1 - fairness) / M^2) sum_{i < j} |x_i - x_j|

    The fair score alone lets one member go astray at no cost when another is exact; a little of the other term mends that.

    Args:
        ensemble: (member, *shape) with M >= 2 members; a handful, for the pairs are written out.
        truth: (*shape).
        fairness: Between 0 and 1.

    Source: Lang et al. (2024), arXiv:2412.15832, eq. 4; fair score: Ferro (2014), doi:10.1002/qj.2270.
    """
    members = len(ensemble)
    pairs = [(ensemble[i] - ensemble[j]).abs() for i in range(members) for j in range(i)]
    weight = fairness / (members * (members - 1)) + (1 - fairness) / members**2
    return (ensemble - truth).abs().mean(dim=0) - weight * torch.stack(pairs).sum(dim=0)


def almost_fair_energy_score(
    ensemble: Tensor, truth: Tensor, fairness: float, *, axes: int, valid: Tensor | None = None
) -> Tensor:
    """Energy score of whole fields: `almost_fair_crps` with the root mean square over the field in place of absolute values.

        mean_i |x_i - y| - (fairness / (M (M - 1)) + (1 - fairness) / M^2) sum_{i < j} |x_i - x_j|,   |d| = sqrt(mean d^2 + 1e-12)

    Strictly proper for the joint law of the field, where the CRPS at each point asks for right margins only; in one point the two are
    the same. In many points it sees means and variances far better than correlations. It is not the CRPS: it weighs a field by its error.
    With the constant in the root the gradient stays finite where members coincide: it is 0 there, so nothing parts members that are
    exactly the same, and they must differ at the start. With fairness 1 it is unbiased in M; with 0 two members halve the reward of spread.

    Args:
        ensemble: (member, *batch, channel, *space) with M >= 2 members; a handful, for the pairs are written out.
        truth: (*batch, channel, *space).
        fairness: Between 0 and 1.
        axes: Number of space axes.
        valid: Points that count, (*space); None for all.

    Returns: (*batch), in the unit of the field, whatever its number of points.
    Source: Gneiting & Raftery (2007), doi:10.1198/016214506000001437, eq. 22. Fair, two members and divided by the root of the number of
    points it is what public code of the authors of arXiv:2509.09599 calls CRPS. That code takes torch.cdist, with no constant; the gradient
    of that is 0 too where members coincide.
    """
    members = len(ensemble)
    pairs = [_distance(ensemble[i] - ensemble[j], axes, valid) for i, j in combinations(range(members), 2)]
    weight = fairness / (members * (members - 1)) + (1 - fairness) / members**2
    return _distance(ensemble - truth, axes, valid).mean(dim=0) - weight * torch.stack(pairs).sum(dim=0)


def _distance(difference: Tensor, axes: int, valid: Tensor | None) -> Tensor:
    """Root mean square of (..., channel, *space) over channels and points."""
    square = difference.square()
    if valid is None:
        mean = square.flatten(-axes - 1).mean(dim=-1)
    else:
        counted = valid.to(square)
        mean = (square * counted).flatten(-axes - 1).mean(dim=-1) / counted.mean()
    return (mean + COINCIDENT).sqrt()


def spectrum(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Complex Fourier coefficients of x along `dims`, the last of which keeps wavenumbers from 0 up; divided by the number of points."""
    return torch.fft.rfftn(x, dim=dims, norm="forward")


def spectral_amplitude_error(x: Tensor, truth: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Error of the amplitudes of Fourier modes, phases left out: mean over everything of | |x_k| - |y_k| |.

    Not a proper score for ensembles: each member is compared with the one truth on its own, and the least value is that of members which
    all have the conditional median of the amplitude. It keeps small scales from being smoothed away, and takes spread: keep its weight
    small beside a proper score, or take `spectral_crps`. Coefficients of noise fall with the root of the number of points, and it too.

    Args:
        x: (*more, *shape): a forecast, or members of an ensemble.
        truth: (*shape).
        dims: Axes to transform, negative numbers, periodic ones; others are averaged over.

    Source: public code of the authors of arXiv:2509.09599 in one dimension, where it is added to the energy score with weight 1.
    """
    return (spectrum(x, dims).abs() - spectrum(truth, dims).abs()).abs().mean()


def spectral_crps(ensemble: Tensor, truth: Tensor, fairness: float, dims: tuple[int, ...]) -> Tensor:
    """`almost_fair_crps` of complex Fourier coefficients, absolute values being those in the complex plane; mean over everything.

    A proper score for the law of each coefficient, amplitude and phase together (the energy score in two dimensions), and the same
    wherever the origin of a periodic axis lies. What different modes have to do with each other it does not see.

    Args:
        ensemble: (member, *shape) with at least 2 members.
        truth: (*shape).
        fairness: Between 0 and 1.
        dims: Axes to transform, negative numbers, periodic ones; others are averaged over.
    """
    return almost_fair_crps(spectrum(ensemble, dims), spectrum(truth, dims), fairness).mean()


def spread_and_error(ensemble: Tensor, truth: Tensor, conditions: Conditions) -> dict[str, Tensor]:
    """Mean squares of the spread of members and of the error of their mean, which are equal for a calibrated ensemble.

    The spread is that of many members, and has the factor (M + 1) / M by which the mean of M members is in error for being one of M.

    Args:
        ensemble: (member, ..., *space), without gradients in what comes back.
        truth: (..., *space).
    """
    ensemble, members = ensemble.detach(), len(ensemble)
    spread = (members + 1) / members * valid_mean(ensemble.var(dim=0), conditions)
    return {"spread": spread, "error": valid_mean((ensemble.mean(dim=0) - truth).square(), conditions)}


def periodic_dims(periodic: tuple[bool, ...]) -> tuple[int, ...]:
    """Negative dimensions of the periodic axes of `*space`, for spectral terms. Raises: InputError where there is none."""
    dims = tuple(axis - len(periodic) for axis, rings in enumerate(periodic) if rings)
    if not dims:
        raise InputError(
            "A spectral term needs a periodic axis, and these data have none: set emulator.spectral to none "
            "(emulator.spectral_weight to 0 in a regression)."
        )
    return dims


def refuse_land(conditions: Conditions) -> None:
    """Raises: InputError where fields are not defined everywhere, of which there is no spectrum."""
    if conditions.valid is not None:
        raise InputError(
            f"A spectral term needs fields that are defined at all points, {int((~conditions.valid).sum())} of "
            f"{conditions.valid.numel()} are land: set emulator.spectral to none (emulator.spectral_weight to 0 in a regression)."
        )
