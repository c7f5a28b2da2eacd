"""Unknown parameters of the dynamics as part of the ensemble: each member runs with a value of its own.

Members whose parameter is wrong forecast worse, so that the forecast of what is observed is correlated with the parameter: the weights that
update the states update the parameter too. It has no dynamics that would restore its spread, which each update takes some of; a random
walk and a floor keep it from being trusted too early.
Source: Evensen (2009), doi:10.1109/MCS.2009.932223; floor: Aksoy et al. (2006), doi:10.1175/MWR3224.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class ParameterPriors:
    """Laws of the unknown parameters before any observation; their values travel as z, the logarithm of positive ones.

    Args:
        names: Of the unknown parameters.
        columns: Their columns in `Conditions.parameters`.
        means, stds: Of z.
        positive: Whether z is a logarithm: a prior of positive mean is log-normal, with the mean and deviation that were given.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    means: tuple[float, ...]
    stds: tuple[float, ...]
    positive: tuple[bool, ...]

    @classmethod
    def of(cls, estimate: Mapping[str, Sequence[float]], known: Sequence[str]) -> ParameterPriors:
        """From (mean, standard deviation) by name, in physical units, and the names of the columns of `Conditions.parameters`.

        Raises: InputError for a name that the data do not have, or a deviation that is not positive.
        """
        laws = []
        for name, (mean, std) in estimate.items():
            if name not in known:
                raise InputError(
                    f"There is no parameter {name!r} to estimate: the observations have {', '.join(known) or 'none'}."
                )
            if not (math.isfinite(mean) and 0 < std < math.inf):
                raise InputError(
                    f"The prior of {name} must be a finite mean and a positive deviation, got {mean:g} and {std:g}."
                )
            if mean > 0:
                spread = math.log1p((std / mean) ** 2)
                laws.append((math.log(mean) - spread / 2, math.sqrt(spread), True))
            else:
                laws.append((float(mean), float(std), False))
        means, stds, positive = zip(*laws, strict=True) if laws else ((), (), ())
        return cls(tuple(estimate), tuple(map(list(known).index, estimate)), means, stds, positive)

    def draw(self, noise: MemberNoise) -> Tensor:
        """z of each member (member, case, P), float64; mean and deviation over the members are exactly those of the prior."""
        if not self.names:
            return torch.zeros(*noise.batch, 0, dtype=torch.float64)
        drawn = noise.draw((len(self.names),), key=(0, 0, "parameter prior"), dtype=torch.float64)
        drawn = (drawn - drawn.mean(dim=0)) / drawn.std(dim=0)
        return drawn * torch.tensor(self.stds, dtype=torch.float64) + torch.tensor(self.means, dtype=torch.float64)

    def physical(self, z: Tensor) -> Tensor:
        """Values in their units, (*batch, P)."""
        return torch.where(torch.tensor(self.positive, device=z.device), z.exp(), z)

    def told(self, conditions: Conditions, z: Tensor) -> Conditions:
        """Conditions (member, case) in which each member has its own values."""
        values = conditions.parameters.to(torch.promote_types(conditions.parameters.dtype, torch.float32)).clone()
        values[..., list(self.columns)] = self.physical(z).to(values)
        return replace(conditions, parameters=values)

    def walked(self, z: Tensor, step: float, noise: MemberNoise, *, frame: int) -> Tensor:
        """A step of a random walk; its deviation is `step` times that of the prior."""
        if step == 0:
            return z
        kick = noise.draw(tuple(z.shape[2:]), key=(frame, 0, "parameter walk"), dtype=z.dtype, device=z.device)
        return z + step * torch.tensor(self.stds, dtype=z.dtype, device=z.device) * kick

    def kept_apart(self, z: Tensor, floor: float) -> Tensor:
        """Members spread again where their deviation has fallen below `floor` times that of the prior."""
        if floor == 0:
            return z
        mean, std = z.mean(dim=0, keepdim=True), z.std(dim=0, keepdim=True)
        least = floor * torch.tensor(self.stds, dtype=z.dtype, device=z.device)
        return mean + (z - mean) * torch.where((std > 0) & (std < least), least / std, torch.ones_like(std))
