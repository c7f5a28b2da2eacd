"""Trajectories of any system: states at given times, with memory for the result only.

Without gradients, on a CPU, the batch is shared among torch's threads by blocks of trajectories (`blocks.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint as run_checkpointed

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.simulators.blocks import Advance, row_blocks, run_blocks
from eddycast.simulators.protocols import Flow, Forced, ForcedFlow, System

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
    store: Callable[[Tensor], Tensor] | None = None,
    discard: int = 0,
    observer: Callable[[int], None] | None = None,
    noise: MemberNoise | None = None,
    first_step: int = 0,
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
        store: What to keep of each output (*batch, channel, *space), say a coarser version of it, or fewer axes; the integration goes
            on from the state itself. Default: all.
        discard: Leading outputs that are not returned: a spin-up, in pieces that report progress.
        observer: Called with the number of outputs done, discarded ones included.
        noise: Addresses of the random forcing, (*batch), for systems that have one (`Forced`); others ignore it. None: no forcing.
        first_step: Number of the interval that ends at the first output, part of the address of its forcing; the next have the next.

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
    if not isinstance(system, Forced):
        noise = None
    elif noise is not None and noise.batch != state.shape[:-space]:
        raise ValueError(f"noise {tuple(noise.batch)} must have the batch {tuple(state.shape[:-space])} of the state.")

    needs_grad = torch.is_grad_enabled() and (state.requires_grad or parameters.requires_grad)
    advance = _recomputed if checkpoint and needs_grad else _applied
    keep = _itself if store is None else store
    notify = _ignore if observer is None else observer

    def flows_of(rows: Tensor) -> Sequence[Flow | ForcedFlow | None]:
        forced = noise is not None
        return _flows(system, rows, grid, targets, rounding, state.dtype, state.device, inner_dt, forced=forced)

    if needs_grad or not (is_plain(state) and is_plain(parameters)):
        outputs: list[Tensor] = []
        with torch.set_grad_enabled(needs_grad):
            for index, flow in enumerate(_bound(flows_of(parameters), noise, first_step)):
                state = state if flow is None else advance(flow, state)
                if index >= discard:
                    outputs.append(keep(state))
                notify(index + 1)
            return torch.stack(outputs, dim=state.ndim - space)

    with torch.no_grad():
        stored = keep(state)  # its shape is that of every output
        axis = state.ndim - space  # the axes of the batch come first, whatever is kept
        result = stored.new_empty((*stored.shape[:axis], len(targets) - discard, *stored.shape[axis:]))
        blocks = _blocks(state, parameters, space)

        def follow(flows: list[Flow | None], state: Tensor, result: Tensor, advance: Advance) -> None:
            times = state.ndim - space
            for index, flow in enumerate(flows):
                state = state if flow is None else flow(state)
                if index >= discard:
                    result.select(times, index - discard).copy_(keep(state))
                if not advance():
                    return

        if len(blocks) == 1:
            done = iter(range(1, len(targets) + 1))

            def tell() -> bool:
                notify(next(done))
                return True

            follow(_bound(flows_of(parameters), noise, first_step), state, result, tell)
            return result

        rows, flat = state.reshape(-1, *state.shape[-space:]), result.reshape(-1, *result.shape[axis:])
        columns = parameters.reshape(-1, parameters.shape[-1])
        addresses = None if noise is None else noise.flatten()
        shared = flows_of(columns[0]) if bool((columns == columns[0]).all()) else None

        def one(block: slice, advance: Advance) -> None:
            own = None if addresses is None else addresses.select(block)
            follow(_bound(shared or flows_of(columns[block]), own, first_step), rows[block], flat[block], advance)

        run_blocks(one, blocks, threads=min(torch.get_num_threads(), len(blocks)), total=len(targets), observer=notify)
        return result


def _blocks(state: Tensor, parameters: Tensor, space: int) -> list[slice]:
    """Blocks of rows of the flattened batch; one where they cannot be shared among threads."""
    batch, rows = state.shape[:-space], math.prod(state.shape[:-space])
    apart = parameters.ndim == 1 or parameters.shape[:-1] == batch
    if state.device.type != "cpu" or not apart:
        return [slice(0, rows)]
    return row_blocks(rows, math.prod(state.shape[-space:]), torch.get_num_threads())


def _flows(
    system: System,
    parameters: Tensor,
    grid: Grid,
    targets: list[float],
    rounding: float,
    dtype: torch.dtype,
    device: torch.device,
    inner_dt: float | None,
    *,
    forced: bool,
) -> Sequence[Flow | ForcedFlow | None]:
    """The flow that leads to each target from the one before, with its random forcing or without; None where no time passes."""
    build = system.forced_flow if forced and isinstance(system, Forced) else system.flow
    flows: dict[float, Flow | ForcedFlow] = {}
    chain: list[Flow | ForcedFlow | None] = []
    reached = 0.0
    for target in targets:
        if not target > reached:
            chain.append(None)
            continue
        interval = target - reached
        slack = SAME_INTERVAL * interval + rounding * target
        known = [duration for duration in flows if abs(duration - interval) <= slack]
        if known:
            interval = known[0]
        else:
            flows[interval] = build(parameters, grid, interval, dtype=dtype, device=device, inner_dt=inner_dt)
        chain.append(flows[interval])
        reached += interval
    return chain


def _bound(flows: Sequence[Any], noise: MemberNoise | None, first_step: int) -> list[Flow | None]:
    """Maps of the state alone: those of a forced system with the noise of its rows, each with the number of its step."""
    if noise is None:
        return list(flows)
    return [
        None if flow is None else partial(flow, noise=noise, step=first_step + index)
        for index, flow in enumerate(flows)
    ]


def uniform_times(dt: float, num_outputs: int, *, start: int = 1) -> Tensor:
    """Times dt * (start, start + 1, ...), (num_outputs,), float64."""
    return dt * torch.arange(start, start + num_outputs, dtype=torch.float64)


def is_plain(tensor: Tensor) -> bool:
    """True where no derivative is being taken of it and it owns its memory, so that threads may share its rows.

    False under autograd, for a tangent of forward mode, within the transforms of `torch.func` (they wrap tensors
    that have no storage of their own) and while a graph is traced.
    """
    if torch.compiler.is_compiling() or (tensor.requires_grad and torch.is_grad_enabled()):
        return False
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return forward_ad.unpack_dual(tensor).tangent is None


def _applied(flow: Flow, state: Tensor) -> Tensor:
    return flow(state)


def _recomputed(flow: Flow, state: Tensor) -> Tensor:
    result = run_checkpointed(flow, state, use_reentrant=False)
    assert isinstance(result, Tensor)
    return result


def _itself(state: Tensor) -> Tensor:
    return state


def _ignore(_: int) -> None:
    return None


def _shortened(values: list[float]) -> str:
    text = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{text}, ...]" if len(values) > 6 else f"[{text}]"
