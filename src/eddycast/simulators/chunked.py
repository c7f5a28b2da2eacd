"""Flows that work through the batch in pieces that fit the cache, with or without parameters per trajectory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eddycast.simulators.protocols import Flow


def chunked_flow(build: Callable[[Tensor], Flow], parameters: Tensor, state_dims: int, size: int) -> Flow:
    """The flow of a batch, assembled from flows of at most `size` trajectories.

    Args:
        build: From parameters (rows, P) to the flow of states (group, rows, channel, *space); called here, once where
            the whole batch has the same parameters (then rows = 1), else once per piece.
        parameters: (*batch, P) or (P,).
        state_dims: Number of axes of one state, channel and space.
        size: Trajectories per piece.

    Returns: a map of states (*batch, channel, *space), or (*group, *batch, channel, *space); with equal parameters any
        batch will do.
    """
    rows = parameters.reshape(-1, parameters.shape[-1])
    if len(rows) == 1 or (not rows.requires_grad and bool((rows == rows[0]).all())):
        shared = build(rows[:1])

        def flow_of_equals(state: Tensor) -> Tensor:
            flat = state.reshape(-1, 1, *state.shape[-state_dims:])
            pieces = [shared(piece) for piece in flat.split(size)]
            return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(state.shape)

        return flow_of_equals

    flows = [build(piece) for piece in rows.split(size)]
    batch = parameters.shape[:-1]

    def flow(state: Tensor) -> Tensor:
        if state.shape[-state_dims - len(batch) : -state_dims] != batch:
            raise ValueError(f"state {tuple(state.shape)} must have the batch {tuple(batch)} of its parameters.")
        flat = state.reshape(-1, len(rows), *state.shape[-state_dims:])
        pieces = [apply(piece) for apply, piece in zip(flows, flat.split(size, dim=1), strict=True)]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)).reshape(state.shape)

    return flow


def chunk_size(num_points: int, device: torch.device | str, *, points_per_chunk: int) -> int:
    """Trajectories per piece: as many as hold `points_per_chunk` grid points on a CPU, all elsewhere."""
    return max(1, points_per_chunk // num_points) if torch.device(device).type == "cpu" else 2**31
