"""Ensemble transform Kalman filter and smoother with any forecast model.

With the ensemble E = mean + A (rows are members) and Y = H(E) - H-mean, the analysis of y = H x + e, e ~ N(0, R), is

    S = Y R^-1 Y^T + (N - 1) I,    w = (y - H-mean) R^-1 Y^T S^-1,    T = sqrt(N - 1) S^-1/2,    E_a = mean + (w + T) A,

which has exactly the mean and the covariance of the Kalman update with the sample covariance of E. The rows of w + T
act on any other state of the same members too: applied to earlier states, that is the smoother.
Source: Bishop et al. (2001), doi:10.1175/1520-0493(2001)129<0420:ASWTET>2.0.CO;2; symmetric root: Hunt et al. (2007),
doi:10.1016/j.physd.2006.11.008; smoother: Evensen and van Leeuwen (2000),
doi:10.1175/1520-0493(2000)128<1852:AEKSFN>2.0.CO;2; repeated with tempered noise: Emerick and Reynolds (2013),
doi:10.1016/j.cageo.2012.03.011.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.assimilation.protocols import ForecastModel, Mode
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement, Observations

ADDRESSES = 2**32
"""Numbers of windows wrap around here: frame -1 of a continued cycle has an address of its own."""


@dataclass(frozen=True)
class ETKFOptions:
    """Settings of the ensemble transform Kalman filter and smoother.

    Args:
        inflation: Factor on the deviations of the analysis from which the next forecast starts, >= 1; makes up for
            sampling and model errors. 1 where the model is perfect and the ensemble large.
        rotate: Mix the deviations by a random rotation that keeps mean and covariance; prevents outliers in long
            cycles.
        passes: Times that a block is gone through, each with the noise variance times `passes`: the nonlinear way from
            a poor start is then taken in small steps. More than one pays for deterministic models only, since the
            noise of a stochastic one is not estimated.
    """

    inflation: float = 1.02
    rotate: bool = False
    passes: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.inflation < 3:
            raise InputError(f"inflation must lie in [1, 3), got {self.inflation:g}: 1.02 is usual.")
        if self.passes < 1:
            raise InputError(f"passes must be at least 1, got {self.passes}.")


def etkf_weights(deviations: Tensor, innovation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean weights w and transform T of the analysis, from observations in units of their noise.

    Args:
        deviations: Y R^-1/2, observed deviations of the members from their mean, (*batch, member, observed); 0 where a
            case has no observation.
        innovation: (y - H-mean) R^-1/2, (*batch, observed); 0 there as well.

    Returns: w (*batch, member) and symmetric T (*batch, member, member), float64.
    Raises: ValueError for fewer than two members.
    """
    members = deviations.shape[-2]
    if members < 2:
        raise ValueError(f"An ensemble filter needs at least 2 members, got {members}.")
    y, d = deviations.double(), innovation.double()[..., None]
    identity = torch.eye(members, dtype=torch.float64, device=y.device)
    freedom = members - 1
    if y.shape[-1] < members:  # few observations: the same from the small matrix Y^T Y = V s V^T
        values, vectors = torch.linalg.eigh(y.mT @ y)
        total = values.clamp(min=0)[..., None, :] + freedom
        image = y @ vectors
        weights = (image / total) @ (vectors.mT @ d)
        # (sqrt(N - 1) / sqrt(total) - 1) / s, without a division by s
        shrink = -1 / (total.sqrt() * (total.sqrt() + math.sqrt(freedom)))
        return weights[..., 0], identity + (image * shrink) @ image.mT
    values, vectors = torch.linalg.eigh(y @ y.mT + freedom * identity)
    total = values.clamp(min=freedom)[..., None, :]  # rounding only: Y Y^T is positive semi-definite
    weights = (vectors / total) @ (vectors.mT @ (y @ d))
    return weights[..., 0], math.sqrt(freedom) * (vectors * total.rsqrt()) @ vectors.mT


def transform_ensemble(ensemble: Tensor, weights: Tensor, transform: Tensor) -> Tensor:
    """mean + (w + T) A for an ensemble (member, *batch, ...), w (*batch, member), T (*batch, member, member).

    Computed in float64, returned in the dtype of the ensemble.
    """
    batch = weights.shape[:-1]
    rows = ensemble.double().reshape(ensemble.shape[0], *batch, -1).movedim(0, -2)  # (*batch, member, n)
    mean = rows.mean(dim=-2, keepdim=True)
    rows = mean + (weights[..., None, :] + transform) @ (rows - mean)
    return rows.movedim(-2, 0).reshape(ensemble.shape).to(ensemble.dtype)


def mean_preserving_rotation(members: int, noise: MemberNoise, *, key: tuple[int, int, str]) -> Tensor:
    """Random orthogonal matrices (*batch, member, member) that map the vector of ones to itself; uniform among these.

    Source: Sakov and Oke (2008), doi:10.1175/2007MWR2021.1.
    """
    gaussian = noise.draw((members - 1, members - 1), key=key, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[..., None, :]
    inner = torch.zeros(*noise.batch, members, members, dtype=torch.float64)
    inner[..., 0, 0] = 1.0
    inner[..., 1:, 1:] = q
    column = torch.full((members, 1), members**-0.5, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.cat([column, torch.eye(members, dtype=torch.float64)[:, : members - 1]], dim=1))
    return basis @ inner @ basis.mT


def ensemble_kalman(
    model: ForecastModel,
    observations: Observations,
    conditions: Conditions,
    background: Tensor,
    *,
    seed: int,
    block: int = 1,
    continued: bool = False,
    options: ETKFOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Cycle of forecasts and analyses; each state knows the observations up to the end of its block.

    Args:
        model: Forecast model.
        observations: Of all cases.
        conditions: Batch (case,), origin at the first observed frame.
        background: Ensemble before any observation, (member, case, context, channel, *space); its last state stands at
            the first observed frame.
        seed: Of the model's noise and of the rotations.
        block: Frames that are smoothed together: 1 filters, all frames smooth.
        continued: The background is an analysis, whose last state stands one frame earlier.
        options: Settings.
        progress: Called with (frames done, frames in all).

    Returns: analysis (member, case, time, channel, *space) in the dtype of the background.
    Raises: InputError for a background that does not fit, or an ensemble that is no longer finite (divergence).
    """
    options = options or ETKFOptions()
    members = background.shape[0]
    if members < 2:
        raise InputError(f"An ensemble Kalman method needs at least 2 members, got {members}: 30 to 100 are usual.")
    start = fit_background(background, members, observations.num_cases, model.context)
    past = model.context - 1
    num_times = observations.num_times
    finished: list[Tensor] = []
    for first in range(0, num_times, block):
        last = min(first + block, num_times)
        states = start
        for sweep in range(options.passes):
            states = _sweep(model, observations, conditions, start, first, last, sweep, seed, continued, options)
            start = states[:, :, : past + 1]
            if progress is not None:
                progress(first * options.passes + (last - first) * (sweep + 1), num_times * options.passes)
        start = states[:, :, states.shape[2] - past - 1 :]
        finished.append(states[:, :, past + (first > 0 or continued) :])
    return torch.cat(finished, dim=2)


def _sweep(
    model: ForecastModel,
    observations: Observations,
    conditions: Conditions,
    start: Tensor,
    first: int,
    last: int,
    sweep: int,
    seed: int,
    continued: bool,
    options: ETKFOptions,
) -> Tensor:
    """Go through the frames [first, last) once and smooth all states on the way.

    `start` holds `context` states, the last of them frame first - 1, but frame 0 in the first block if that is not
    `continued`. Returns `start` and the frames that follow it, as they are known at the end of the block.
    """
    members = start.shape[0]
    noise = MemberNoise.grid(seed, observations.trajectories, members)
    rotation_noise = MemberNoise(seed, observations.trajectories, observations.frames)
    seen = observations.observed_frames()
    states = start
    now = first - 1 if continued else max(first - 1, 0)
    for k in range(first, last):
        if not seen[k] and k < last - 1:
            continue
        if k > now:
            context = states[:, :, -model.context :]
            states = torch.cat([states, model.advance(
                _inflated(context, options.inflation) if now < 0 or seen[now] else context,
                conditions.shifted(now).expand(members),
                torch.arange(1.0, k - now + 1.0, dtype=torch.float64),
                noise=noise,
                first_window=(sweep * observations.num_times + now) % ADDRESSES,
            )], dim=2)  # fmt: skip
            now = k
        _require_finite(states[:, :, -1], k, observations)
        if (measurement := observations.seen(k, k + 1)) is not None:
            weights, transform = _analyse(states[:, :, -1:], measurement, options.passes)
            if options.rotate:
                key = (k, sweep, "ensemble rotation")
                transform = mean_preserving_rotation(members, rotation_noise, key=key).to(transform) @ transform
            states = transform_ensemble(states, weights, transform)
    return states


def _analyse(ensemble: Tensor, measurement: Measurement, passes: int) -> tuple[Tensor, Tensor]:
    """w and T for a measurement, from an ensemble (member, case, time, channel, *space) of its frames."""
    seen, observed = measurement.whitened(ensemble.double())
    seen, observed = seen.movedim(0, 1) / math.sqrt(passes), observed / math.sqrt(passes)  # (case, member, entry)
    mean = seen.mean(dim=1)
    return etkf_weights(seen - mean[:, None], observed - mean)


def _inflated(ensemble: Tensor, inflation: float) -> Tensor:
    mean = ensemble.mean(dim=0, keepdim=True)
    return mean + inflation * (ensemble - mean)


def _require_finite(ensemble: Tensor, frame: int, observations: Observations) -> None:
    """Divergence is told, not passed on."""
    values = ensemble if observations.valid is None else ensemble[..., observations.valid.to(ensemble.device)]
    finite = values.isfinite().flatten(2).all(dim=2).all(dim=0)
    if not finite.all():
        case = int((~finite).nonzero()[0])
        raise InputError(
            f"The ensemble of trajectory {int(observations.trajectories[case])} is no longer finite at frame {frame} "
            "of the "
            "observations (divergence): take more members, less inflation, or a more stable emulator."
        )


def fit_background(background: Tensor | None, members: int, cases: int, context: int) -> Tensor:
    """The first `members` members and the last `context` states of a background.

    Raises: InputError when there is none, or too few of something.
    """
    if background is None:
        raise InputError(
            "This method starts from an ensemble of states: pass a background (climatology, or a forecast)."
        )
    if background.shape[0] < members or background.shape[1] != cases or background.shape[2] < context:
        raise InputError(
            f"The background has {background.shape[0]} members, {background.shape[1]} cases and "
            f"{background.shape[2]} states; "
            f"{members}, {cases} and {context} are needed."
        )
    return background[:members, :, background.shape[2] - context :]


def etkf(
    emulator: ForecastModel,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    options: ETKFOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The method `etkf`: filter or fixed-interval smoother; see `ensemble_kalman`."""
    options = options or ETKFOptions()
    start = fit_background(background, members, observations.num_cases, emulator.context)
    block = {"filter": 1, "smooth": observations.num_times}[mode]
    return ensemble_kalman(
        emulator, observations, conditions, start,
        seed=seed, block=block, continued=continued, options=options, progress=progress,
    )  # fmt: skip
