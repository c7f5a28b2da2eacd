"""Slide windows of any model over any lead times, in model space."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.emulators.guard import SpectralGuard
from eddycast.emulators.protocols import Space, WindowModel
from eddycast.errors import InputError
from eddycast.noise import MemberNoise

TOLERANCE = 1e-6


class StateHook(Protocol):
    """Re-imposes boundary values. What it has set once it sets to the same again."""

    def __call__(self, states: Tensor, conditions: Conditions, lead_times: Tensor, start: Tensor) -> Tensor:
        """States with boundary values.

        Args:
            states: Physical, (batch, time, channel, *space).
            conditions: Batch (batch,), with any origin.
            lead_times: Of the states, in steps of dt since that origin, (time,).
            start: Physical state of each entry at the start of the forecast, (batch, channel, *space); NaN where undefined.
        """
        ...


class Filled(NamedTuple):
    """New states of one window: positions among the lead times that are wanted, in model space, and physical where there is a hook."""

    positions: Tensor
    x: Tensor
    states: Tensor | None


@dataclass(frozen=True)
class Window:
    """One window of a plan: its origin and the lead times of its new states, in steps from the start of the rollout."""

    number: int
    origin: int
    leads: tuple[float, ...]


def plan_windows(model: WindowModel, lead_times: Tensor) -> list[Window]:
    """The windows that reach all lead times.

    A model of whole steps fills every step up to the last lead; a continuous one only the leads that are asked for and the states
    that the next window needs.

    Raises: InputError for leads that are not positive and ascending, or between steps where the model cannot.
    """
    leads = [float(lead) for lead in lead_times]
    steps = [b - a for a, b in zip([0.0, *leads], leads, strict=False)]
    if not leads or not all(2 * TOLERANCE < step < math.inf for step in steps):
        raise InputError(f"Lead times must be positive and ascend, got {leads[:6]}: sort them and drop doubles.")
    between = [lead for lead in leads if abs(lead - round(lead)) > TOLERANCE]
    if between and not model.continuous:
        raise InputError(
            f"This emulator forecasts whole steps only, lead {between[0]:g} steps lies between: choose multiples of dt, or an "
            "emulator trained with horizon > 1."
        )
    windows: list[Window] = []
    origin = 0
    while origin < leads[-1] - TOLERANCE:
        if model.window is None:
            end = math.ceil(leads[-1] - TOLERANCE)
        else:
            end = origin + model.window - (model.context if not windows else model.overlap)
        inside = [lead for lead in leads if origin + TOLERANCE < lead <= end + TOLERANCE]
        if model.continuous:
            last = end >= leads[-1] - TOLERANCE
            needed = [] if last else list(range(max(origin + 1, end - model.overlap + 1), end + 1))
            whole = {round(lead) for lead in inside if abs(lead - round(lead)) <= TOLERANCE}
            times = sorted(inside + [float(step) for step in needed if step not in whole])
        else:
            times = [float(step) for step in range(origin + 1, end + 1)]
        windows.append(Window(len(windows), origin, tuple(times)))
        origin = end
    return windows


def rollout(
    model: WindowModel,
    context: Tensor,
    conditions: Conditions,
    lead_times: Tensor,
    *,
    noise: MemberNoise,
    guard: SpectralGuard | None = None,
    space: Space | None = None,
    hook: StateHook | None = None,
    start: Tensor | None = None,
    first_window: int = 0,
) -> Iterator[Filled]:
    """Yield the forecast window by window: positions in `lead_times` and the states there.

    Without gradients, unless the context asks for them (`requires_grad`).

    Args:
        model: Any window model.
        context: The last states known, in model space, (batch, time, channel, *space); `model.context` of them, or more.
        conditions: Batch (batch,), with the origin at the last state of the context.
        lead_times: In steps of dt, ascending, (time,).
        noise: Addresses (batch,).
        guard: Keeps each member in the band and with the means of the training data.
        space: Needed by `hook` only, which sees physical states.
        hook: Re-imposes boundary values on every member after each window; what it leaves is yielded as physical states too, and the next
            window goes on from it.
        start: Physical states at lead 0 for `hook`, (batch, channel, *space).
        first_window: Number of the first window in the addresses of the noise, for a rollout that goes on with an earlier one.

    Raises: InputError when the context is too short or the lead times cannot be reached.
    """
    asked = torch.is_grad_enabled() and context.requires_grad
    # a decorated generator has its mode while it runs, and its caller the own one between
    windows = (torch.enable_grad() if asked else torch.no_grad())(_windows)
    return windows(model, context, conditions, lead_times, noise, guard, space, hook, start, first_window)


def _windows(
    model: WindowModel,
    context: Tensor,
    conditions: Conditions,
    lead_times: Tensor,
    noise: MemberNoise,
    guard: SpectralGuard | None,
    space: Space | None,
    hook: StateHook | None,
    start: Tensor | None,
    first_window: int,
) -> Iterator[Filled]:
    """See `rollout`."""
    if context.shape[1] < model.context:
        raise InputError(
            f"The emulator continues {model.context} states, the context has {context.shape[1]}: start later in the trajectory."
        )
    wanted = torch.as_tensor(lead_times, dtype=torch.float64)
    means = None if guard is None else guard.means(context[:, -1:])
    known = context[:, -model.context :]
    for window in plan_windows(model, wanted):
        size = known.shape[1]
        new = known[:, -1:].expand(-1, len(window.leads), *known.shape[2:])
        past = torch.arange(1 - size, 1, dtype=torch.float64)
        leads = torch.cat([past, torch.tensor(window.leads, dtype=torch.float64) - window.origin])
        mask = torch.arange(len(leads)) < size
        here = conditions.shifted(window.origin)
        number = first_window + window.number
        filled = model.advance(torch.cat([known, new], dim=1), mask, here, leads, noise=noise, window=number)
        states = filled[:, size:]
        if guard is not None:
            states = guard(states, means)
        physical = None
        if hook is not None:
            assert space is not None and start is not None, (
                "a hook sees physical states: it needs the space and the start"
            )
            physical = hook(space.decode(states, here, leads[size:]), here, leads[size:], start)
            states = space.encode(physical, here, leads[size:])
        at = torch.tensor(window.leads, dtype=torch.float64)
        position = torch.searchsorted(wanted, at - TOLERANCE).clamp_max(len(wanted) - 1)
        found = (wanted[position] - at).abs() <= TOLERANCE
        yield Filled(position[found], states[:, found], None if physical is None else physical[:, found])
        whole = (at - at.round()).abs() <= TOLERANCE
        known = torch.cat([known, states[:, whole]], dim=1)[:, -model.overlap :]
