"""By what a state counts as rare. To add a statistic: a function here, its name in `STATISTICS` and in `TrainingSettings.balance`."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.data import Rarity
from eddycast.data.balance import Statistic
from eddycast.errors import InputError
from eddycast.metrics.jets import count_jets

PROMINENCE = 0.5
"""How far a jet stands out, in standard deviations of its own profile."""


def energy(states: Tensor) -> Tensor:
    """Mean square over all fields and points, (state, channel, *space) -> (state,); in mixed units where there are several fields."""
    return states.double().square().flatten(1).nanmean(dim=1)


def peak(states: Tensor) -> Tensor:
    """Largest absolute value of all fields and points, (state,)."""
    return torch.nan_to_num(states.abs().flatten(1), nan=0.0).amax(dim=1)


def jets(states: Tensor) -> Tensor:
    """Number of jets of the first field round a periodic axis, (state,). Raises: InputError for more than one space axis."""
    if states.ndim != 3:
        raise InputError(
            f"training.balance=jets needs states on one axis, such as zonal means; these have {states.ndim - 2}: take energy or peak."
        )
    profile = states[:, 0].double()
    scale = profile.std(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return count_jets(profile / scale, prominence=PROMINENCE)


STATISTICS: dict[str, Statistic] = {"energy": energy, "peak": peak, "jets": jets}


def rarity(name: str) -> Rarity | None:
    """The rule of a setting `training.balance`; None for `none`."""
    return None if name == "none" else Rarity(STATISTICS[name])
