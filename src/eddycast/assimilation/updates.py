"""Updates of an ensemble by observations, all of one form: new deviations and mean are mixtures of the old deviations.

With the ensemble E = mean + A (rows are members), Y = H(E) - H-mean and d = y - H-mean in units of the noise (R = I), an update is a
matrix of weights W (member, member) with

    E_a = mean + W A.

Ensemble transform (ETKF):      S = Y Y^T + (N - 1) I,    W = 1 d^T Y^T S^-1 + sqrt(N - 1) S^-1/2
Perturbed observations (EnKF):  W = I + (1 d^T + e - Y) Y^T S^-1,    e ~ N(0, I) for each member, of mean 0 over the members

The first has exactly the mean and the covariance of the Kalman update with the sample covariance of E; the second has that mean, and that
covariance in the average over e. The rows of W act on anything else that the same members hold: earlier states (a smoother), unknown
parameters.
Source: Bishop et al. (2001), doi:10.1175/1520-0493(2001)129<0420:ASWTET>2.0.CO;2; symmetric root: Hunt et al. (2007),
doi:10.1016/j.physd.2006.11.008; perturbed observations: Burgers et al. (1998), doi:10.1175/1520-0493(1998)126<1719:ASITEK>2.0.CO;2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.observations import Measurement


class Update(Protocol):
    """What the observations of one time make of an ensemble."""

    @property
    def shared(self) -> Tensor:
        """W for whatever has no place on the grid, (case, member, member), float64."""
        ...

    def __call__(self, ensemble: Tensor) -> Tensor:
        """The analysis of states (member, case, time, channel, *space), in their dtype."""
        ...


@dataclass(frozen=True, eq=False)
class SharedUpdate:
    """The same weights (case, member, member) at every point."""

    shared: Tensor

    def __call__(self, ensemble: Tensor) -> Tensor:
        return mixed(ensemble, self.shared)


def etkf_weights(deviations: Tensor, innovation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean weights w and transform T of the ensemble transform, W = 1 w^T + T, from observations in units of their noise.

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
    return transform_of(y @ y.mT, (y @ d)[..., 0])


def transform_of(gram: Tensor, projected: Tensor) -> tuple[Tensor, Tensor]:
    """w and T of the ensemble transform from Y Y^T (*batch, member, member) and Y d (*batch, member), in units of the noise."""
    freedom = gram.shape[-1] - 1
    values, vectors = torch.linalg.eigh(gram)
    total = (values.clamp(min=0) + freedom)[..., None, :]  # rounding only: Y Y^T is positive semi-definite
    weights = (vectors / total) @ (vectors.mT @ projected[..., None])
    return weights[..., 0], math.sqrt(freedom) * (vectors * total.rsqrt()) @ vectors.mT


def enkf_weights(deviations: Tensor, innovation: Tensor, perturbations: Tensor) -> Tensor:
    """W of the update with perturbed observations, from everything in units of the noise.

    Args:
        deviations, innovation: As in `etkf_weights`.
        perturbations: e of each member, (*batch, member, observed), variance 1 and mean 0 over the members; 0 where a case has no
            observation.

    Returns: (*batch, member, member), float64.
    Raises: ValueError for fewer than two members.
    """
    members = deviations.shape[-2]
    if members < 2:
        raise ValueError(f"An ensemble filter needs at least 2 members, got {members}.")
    y, pull = deviations.double(), (innovation[..., None, :] + perturbations - deviations).double()
    identity = torch.eye(members, dtype=torch.float64, device=y.device)
    gram = y @ y.mT + (members - 1) * identity
    return identity + torch.linalg.solve(gram, y @ pull.mT).mT


def recentred_perturbations(noise: MemberNoise, entries: int, *, key: tuple[int, int, str]) -> Tensor:
    """Standard normal numbers (case, member, entry) of mean 0 over the members of `noise` (member, case), variance kept.

    Without the recentring the mean of the analysis would be off by the mean of the perturbations.
    """
    drawn = noise.draw((entries,), key=key, dtype=torch.float64).movedim(0, 1)
    members = drawn.shape[1]
    return (drawn - drawn.mean(dim=1, keepdim=True)) * math.sqrt(members / max(1, members - 1))


def whitened_departures(ensemble: Tensor, measurement: Measurement, tempering: float = 1.0) -> tuple[Tensor, Tensor]:
    """Y (case, member, entry) and d (case, entry) in units of the noise, its variance times `tempering`; float64.

    The ensemble (member, case, time, channel, *space) holds the frames that the measurement looks at.
    """
    seen, observed = measurement.whitened(ensemble.double())
    seen, observed = seen.movedim(0, 1) / math.sqrt(tempering), observed / math.sqrt(tempering)
    mean = seen.mean(dim=1)
    return seen - mean[:, None], observed - mean


def mixed(ensemble: Tensor, weights: Tensor) -> Tensor:
    """mean + W A for an ensemble (member, *batch, ...) and W (*batch, member, member).

    Computed in float64, returned in the dtype of the ensemble.
    """
    batch = weights.shape[:-2]
    rows = ensemble.double().reshape(ensemble.shape[0], *batch, -1).movedim(0, -2)  # (*batch, member, n)
    mean = rows.mean(dim=-2, keepdim=True)
    rows = mean + weights @ (rows - mean)
    return rows.movedim(-2, 0).reshape(ensemble.shape).to(ensemble.dtype)


def transform_ensemble(ensemble: Tensor, weights: Tensor, transform: Tensor) -> Tensor:
    """mean + (1 w^T + T) A for an ensemble (member, *batch, ...), w (*batch, member), T (*batch, member, member), as `mixed`."""
    return mixed(ensemble, weights[..., None, :] + transform)


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
