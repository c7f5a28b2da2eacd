"""Trajectories of any system: states at given times, with memory for the result only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as run_checkpointed

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.simulators.protocols import Flow, System

SAME_INTERVAL = 1e-6


def integrate(
    system: System,
    state: Tensor,
    parameters: Tensor,
    grid: Grid,
    times: Tensor | Sequence[float],
    *,
    inner_dt: float | None = None,
    checkpoint: bool = False,
    observer: Callable[[int], None] | None = None,
) -> Tensor:
    """States at `times` of the trajectories that start from `state` at time 0.

    Args:
        system: What to integrate.
        state: Start, (*batch, channel, *space). Device and dtype of the arithmetic follow it.
        parameters: (*batch, P), or (P,) for the whole batch.
        grid: Grid of `state`.
        times: Times of the output, (time,), in time units, >= 0 and strictly increasing, otherwise arbitrary. Each
            interval is cut into equal inner steps; intervals that are equal to 1e-6 and to the rounding of `times`
            (neither adds up) share their coefficients.
        inner_dt: Largest inner step; default the system's.
        checkpoint: Keep only the outputs for the backward pass and compute each interval again there.
        observer: Called with the number of outputs done.

    Returns: (*batch, time, channel, *space), differentiable with respect to `state` and `parameters`. Without
        gradients the memory is that of the result and a few states.
    Raises: InputError for times that are not increasing or negative; ValueError for shapes that disagree.
    """
    single = isinstance(times, Tensor) and times.dtype == torch.float32
    targets = torch.as_tensor(times, dtype=torch.float64).tolist()
    rounding = 2 * torch.finfo(torch.float32 if single else torch.float64).eps
    if not targets or not targets[0] >= 0 or not all(later > earlier for earlier, later in pairwise(targets)):
        raise InputError(
            f"Output times must be one or more, non-negative and strictly increasing; got {_shortened(targets)}."
        )
    space = 1 + len(grid.axes)
    if state.ndim < space or tuple(state.shape[1 - space :]) != grid.shape:
        raise ValueError(f"state {tuple(state.shape)} must be (*batch, channel, *space) with space {grid.shape}.")
    if parameters.shape[-1] != len(system.info.parameters):
        raise ValueError(f"parameters {tuple(parameters.shape)} must end in {len(system.info.parameters)}.")

    needs_grad = torch.is_grad_enabled() and (state.requires_grad or parameters.requires_grad)
    batch = state.shape[:-space]
    outputs: list[Tensor] = []
    result = None if needs_grad else state.new_empty((*batch, len(targets), *state.shape[-space:]))
    flows: dict[float, Flow] = {}
    advance = _recomputed if checkpoint and needs_grad else _applied
    reached = 0.0
    with torch.set_grad_enabled(needs_grad):
        for index, target in enumerate(targets):
            if target > reached:
                interval = target - reached
                slack = SAME_INTERVAL * interval + rounding * target
                known = [duration for duration in flows if abs(duration - interval) <= slack]
                if known:
                    interval = known[0]
                else:
                    flows[interval] = system.flow(
                        parameters, grid, interval, dtype=state.dtype, device=state.device, inner_dt=inner_dt
                    )
                state = advance(flows[interval], state)
                reached += interval
            if result is None:
                outputs.append(state)
            else:
                result.select(-space - 1, index).copy_(state)
            if observer is not None:
                observer(index + 1)
    return torch.stack(outputs, dim=-space - 1) if result is None else result


def uniform_times(dt: float, num_outputs: int, *, start: int = 1) -> Tensor:
    """Times dt * (start, start + 1, ...), (num_outputs,), float64."""
    return dt * torch.arange(start, start + num_outputs, dtype=torch.float64)


def _applied(flow: Flow, state: Tensor) -> Tensor:
    return flow(state)


def _recomputed(flow: Flow, state: Tensor) -> Tensor:
    result = run_checkpointed(flow, state, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result


def _shortened(values: list[float]) -> str:
    text = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{text}, ...]" if len(values) > 6 else f"[{text}]"
