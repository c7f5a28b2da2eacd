"""An ensemble whose members and cases are shared by the processes that torchrun started."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from eddycast import distributed
from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, Passes
from eddycast.emulators.emulator import Progress
from eddycast.evaluation.table import PASSES
from eddycast.evaluation.windows import FIRST_WINDOW, WINDOW
from eddycast.noise import MemberNoise


def shared_advance(
    emulator: Emulator,
    context: Tensor,
    conditions: Conditions,
    lead_times: Tensor,
    *,
    noise: MemberNoise,
    progress: Progress | None = None,
) -> Tensor | None:
    """`Emulator.advance`, each process computing its part of the batch; the whole in the first process, None in the others.

    The parts are whole chunks. With a chunk that leaves work for every process (chunk * processes <= members * cases) they are those
    of one process, and the states are so bit by bit; otherwise the chunk is made smaller, and they agree to rounding.

    Args: as `Emulator.advance`, with the batch (member, case).
    """
    if distributed.size() == 1:
        return emulator.advance(context, conditions, lead_times, noise=noise, progress=progress)
    members, cases = noise.batch
    starts = part_starts(members * cases, emulator.chunk, distributed.size())
    rows = torch.arange(*starts[distributed.rank() : distributed.rank() + 2])
    own = context[rows // cases, rows % cases]  # of an expanded context too, this copies only what is used here
    if len(rows):
        states = replace(emulator, chunk=chunk_size(members * cases, emulator.chunk, distributed.size())).advance(
            own, conditions.flatten().select(rows), lead_times, noise=noise.flatten().select(rows), progress=progress
        )
    else:  # more processes than members
        states = own.new_empty((0, len(lead_times), *own.shape[2:]))
    whole = distributed.collected(states.cpu(), [stop - start for start, stop in pairwise(starts)])
    return None if whole is None else whole.unflatten(0, (members, cases))


def pass_attributes(passes: Passes, entries: int) -> dict[str, Any]:
    """What a result cost: windows that went through networks, forward and back, per entry (member of a case).

    Every process calls it with what it has counted itself.
    """
    counted = distributed.total(torch.tensor([passes.forward, passes.backward]))
    forward, backward = (counted.double() / max(1, entries)).tolist()
    return {PASSES["forward"]: forward, PASSES["backward"]: backward}


def window_lengths(emulator: Emulator) -> dict[str, Any]:
    """New states of each window of a rollout, and of the first one where it has others; empty for one window, however long.

    Scores tell by them whether a forecast jumps where windows meet, and whether errors compound from one to the next.
    """
    model = emulator.model
    if model.window is None:
        return {}
    first, later = model.window - model.context, model.window - model.overlap
    return {WINDOW: later} | ({} if first == later else {FIRST_WINDOW: first})


def passes_line(attributes: Mapping[Hashable, Any]) -> str:
    """What `pass_attributes` wrote, in a line to be printed."""
    forward, backward = (attributes[PASSES[way]] for way in ("forward", "backward"))
    return f"Network passes per member: {forward:g} forward, {backward:g} backward"


def chunk_size(entries: int, chunk: int, processes: int) -> int:
    """Entries per pass: `chunk`, or fewer so that each process gets some."""
    return max(1, min(chunk, -(-entries // processes)))


def part_starts(entries: int, chunk: int, processes: int) -> list[int]:
    """Where the part of each process begins, and the end of the last: multiples of the chunk size."""
    size = chunk_size(entries, chunk, processes)
    chunks = -(-entries // size)
    return [min(entries, size * (chunks * number // processes)) for number in range(processes + 1)]
