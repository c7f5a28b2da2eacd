"""Boundary values that forecasts keep: points that are held, and values that are prescribed.

A hook (`rollout.StateHook`) works on all members and cases at once, each with its own masks, parameters, start and time. The published
ensembles of flow past obstacles got their boundary values in the first cases only: there, the index of the case went to the member axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.simulators.protocols import BoundaryValues


@dataclass(frozen=True)
class HeldPoints:
    """Where a static field is 1, fields keep the values that they have at the start of the forecast.

    Args:
        static: Which of the static fields of the conditions.
        channels: Fields that are held; None for all.
    """

    static: int
    channels: tuple[int, ...] | None = None

    def __call__(self, states: Tensor, conditions: Conditions, lead_times: Tensor, start: Tensor) -> Tensor:
        """See `rollout.StateHook`."""
        axes = len(conditions.grid.axes)
        mask = mask_of(conditions, self.static).to(states.device)[..., None, None, *(slice(None),) * axes]
        if self.channels is not None:
            chosen = torch.zeros(states.shape[2], dtype=torch.bool, device=states.device)
            chosen[list(self.channels)] = True
            mask = mask & chosen.reshape(-1, *(1,) * axes)
        return torch.where(mask, start[:, None].to(states), states)


@dataclass(frozen=True)
class PrescribedValues:
    """Values that a function of time, parameters and static fields says, such as those of a system.

    Time is that of the conditions, and so counts from where the clock of the data begins: neither from the start of the forecast nor from
    that of a window.

    Args:
        values: Puts them in; see `simulators.protocols.BoundaryValues`.
        static_names: Of the static fields of the conditions, in their order.
    """

    values: BoundaryValues
    static_names: tuple[str, ...] = ()

    def __call__(self, states: Tensor, conditions: Conditions, lead_times: Tensor, start: Tensor) -> Tensor:
        """See `rollout.StateHook`."""
        place, batch, space = states.device, states.shape[0], conditions.grid.shape
        steps = conditions.time.to(place, torch.float64)[:, None] + lead_times.to(place, torch.float64)
        fields = conditions.static_fields()
        named: dict[str, Tensor] = {}
        if fields is not None:
            told = fields.to(place).expand(batch, *fields.shape[-len(space) - 1 :])
            named = dict(zip(self.static_names, told.unbind(1), strict=True))
        return self.values(
            states,
            start=start.to(states),
            parameters=conditions.parameters.to(place),
            static=named,
            time=conditions.dt * steps,
            grid=conditions.grid,
        )


def mask_of(conditions: Conditions, static: int) -> Tensor:
    """Where a static field is 1, (*space) or (*batch, *space), bool. Raises: ValueError where there is no such field."""
    fields = conditions.static_fields()
    axes = len(conditions.grid.axes)
    if fields is None or not 0 <= static < fields.shape[-axes - 1]:
        raise ValueError(f"There is no static field number {static} among these conditions.")
    return fields.select(-axes - 1, static) > 0.5
