"""What a lossy model space (an autoencoder) cannot represent, as an error of the observations.

A state x = D(z) + r has a part r that no latent z decodes to. Observations see it, y = H x + e = H D(z) + H r + e, so that for whoever
samples z their error is H r + e, and not e alone: with the stated one an analysis follows r and is too certain.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.emulators import Space
from eddycast.observations import Observations, ObservationTable
from eddycast.observations.operators import ObservationOperator

CHUNK = 16


def is_lossy(space: Space) -> bool:
    """Whether a space loses something of the states; one that does not say so (`lossy`) loses nothing."""
    return bool(getattr(space, "lossy", False))


@torch.no_grad()
def representation_std(
    space: Space,
    states: Tensor,
    conditions: Conditions,
    operator: ObservationOperator,
    *,
    weight: Tensor | None = None,
) -> Tensor:
    """Root-mean-square error of a space seen through an operator, per channel, in the unit of the field.

        std_c^2 = mean over states and observed entries of (H(D(E(x))) - H(x))^2

    Args:
        space: With `encode` E and `decode` D.
        states: Physical states x, (batch, time, channel, *space), of the data and not of the analysis; what the space loses is taken to be
            alike in both.
        conditions: Batch (batch,), origin at the first frame of `states`.
        operator: H; keeps batch, time and channel, as those of `observations` do.
        weight: Weight of each observed entry, broadcasting against (batch, time, channel, *observed), 0 where nothing is observed; None for
            equal weights.

    Returns: (channel,), float64; 0 for a channel without weight.
    Bias: one number per field. Errors of neighbouring points, which an autoencoder makes alike, count as independent: dense observations
        are still trusted too much. A mean error counts as part of the variance.
    """
    leads = torch.arange(states.shape[1], dtype=torch.float64)
    total, norm = 0.0, 0.0
    for part in torch.arange(len(states)).split(CHUNK):
        state, here = states[part], conditions.select(part)
        error = (operator(space.decode(space.encode(state, here, leads), here, leads)) - operator(state)).double()
        share = torch.ones_like(error) if weight is None else weight.to(error).expand_as(error)
        square = torch.where(share > 0, share * error.square(), 0)
        axes = [axis for axis in range(error.ndim) if axis != 2]
        total, norm = total + square.sum(dim=axes), norm + share.sum(dim=axes)
    total, norm = torch.as_tensor(total), torch.as_tensor(norm)
    return torch.where(norm > 0, total / norm.clamp_min(torch.finfo(torch.float64).tiny), 0).sqrt().cpu()


def representation_of(
    observations: Observations | ObservationTable, space: Space, states: Tensor, conditions: Conditions
) -> Tensor:
    """The error of a space seen by observations: entries count as often as they are observed.

    (channel,) for gridded observations; (variable,) for a table, whose rows look at each state as if it stood still.

    Args:
        states: Physical states without time, (state, channel, *space), such as the climatology kept with a run.
        conditions: Of the observed cases, (case,); the states take their parameters and times in turn.
    """
    if isinstance(observations, ObservationTable):
        return _of_table(observations, space, states, conditions)
    seen = observations.mask.double().mean(dim=(0, 1))  # (channel, *observed)
    operator = replace(observations.operator(), mask=seen > 0)
    which = torch.arange(len(states)) % observations.num_cases
    turns = conditions.select(which).to(states.device)
    return representation_std(space, states[:, None], turns, operator, weight=seen)


@torch.no_grad()
def _of_table(table: ObservationTable, space: Space, states: Tensor, conditions: Conditions) -> Tensor:
    measurement = table.seen(0, table.num_times)
    assert measurement is not None, "a table has rows"
    variables = table.seen_variables()  # (case, entry)
    total = torch.zeros(len(table.variables), dtype=torch.float64)
    leads = torch.zeros(1, dtype=torch.float64)
    for number, state in enumerate(states):
        here = conditions.select(torch.tensor([number % table.num_cases])).to(states.device)
        both = torch.stack([state[None], space.decode(space.encode(state[None, None], here, leads), here, leads)[0]])
        still = both[:, None].expand(2, table.num_cases, table.num_times, *state.shape)
        known, back = measurement.operator(still).double().cpu()
        total.index_add_(0, variables[measurement.mask], (back - known)[measurement.mask].square())
    count = torch.bincount(variables[measurement.mask], minlength=len(total)).clamp(min=1)
    return (total / count / len(states)).sqrt()


def enlarged(observations: Any, std: Tensor) -> Any:
    """The same values with the error sqrt(stated^2 + std^2), std as from `representation_of`, for gridded observations and tables."""
    if isinstance(observations, ObservationTable):
        return observations.enlarged(std)
    total = (observations.noise_std.double().square() + std.double().square()).sqrt()
    return replace(observations, noise_std=total.to(observations.noise_std))
