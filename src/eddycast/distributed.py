"""Processes that work together, as torchrun starts them: which one this is, and what they tell each other.

Without torchrun there is one process, and every function here is the identity. What travels is tensors, never pickled objects.
torch is loaded with its first use, so that the command line may ask who speaks before it has loaded anything.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from eddycast.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = timedelta(hours=2)
"""Longest wait for another process, which may be validating or reading meanwhile. One that died is noticed at once."""
LOST = ("closed by peer", "reset by peer", "Broken pipe")
_groups = itertools.count()


def launched() -> bool:
    """Whether torchrun (or something that sets the same variables) started more than one process."""
    return all(name in os.environ for name in VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def speaks() -> bool:
    """Whether this process is the one that prints: the first of those that were started together."""
    return not launched() or os.environ["RANK"] == "0"


def _joined() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Number of this process among those that have joined, 0 when there is one."""
    import torch.distributed as dist

    return dist.get_rank() if _joined() else 0


def size() -> int:
    """Processes that have joined."""
    import torch.distributed as dist

    return dist.get_world_size() if _joined() else 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return rank() == 0


def local_device(device: str) -> str:
    """The device of this process: `cuda` under torchrun is the GPU of its local rank, anything else is what it says.

    Raises: InputError for a device that is not here.
    """
    import torch

    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"--device must be cpu, cuda, cuda:1 or mps, got {device!r}.") from error
    if place.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("--device mps: there is no such device here; use --device cpu.")
    if place.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = place.index or 0
    if launched():
        if place.index is not None:
            raise InputError(
                f"--device {device}: under torchrun each process takes the GPU of its own; use --device cuda."
            )
        index = int(os.environ["LOCAL_RANK"])
    if index >= count:
        raise InputError(
            f"--device {device}: GPU {index} was asked for, this machine has {count}; start fewer processes or use --device cpu."
        )
    return f"cuda:{index}"


@contextmanager
def process_group(device: str = "cpu") -> Iterator[str]:
    """Join the processes that torchrun started for the length of the block; yields the device of this one.

    Tensors on the CPU travel by gloo, those on a GPU by NCCL. A group that exists already is used and left as it is. When the
    block fails the group is not taken down in order, which would wait for the others: the process ends, and torchrun ends them.

    Raises: InputError for a device that is not here, or when another process of the group has died.
    """
    place = local_device(device)
    if not launched() or _joined():
        yield place
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if place.startswith("cuda"):
        torch.cuda.set_device(place)
        backend = "cpu:gloo,cuda:nccl"
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))  # pyright: ignore[reportPrivateImportUsage]
    # A second group of the same process must not read the addresses that the first one left in the store.
    store = dist.PrefixStore(f"eddycast-{next(_groups)}", store)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    try:
        yield place
        barrier()
    except RuntimeError as error:
        if any(word in str(error) for word in LOST):
            raise InputError(
                "Another process of this run has ended, so this one ends too; its own message says why."
            ) from error
        raise
    dist.destroy_process_group()


def part(total: int, number: int | None = None, count: int | None = None) -> slice:
    """The entries of `total` that fall to one of `count` (default: this process among all), in order; sizes differ by one at most."""
    number, count = rank() if number is None else number, size() if count is None else count
    return slice(total * number // count, total * (number + 1) // count)


def total(values: Tensor) -> Tensor:
    """Sum over all processes, on the CPU, in float64 for floating-point numbers and whole otherwise."""
    import torch
    import torch.distributed as dist

    own = values.detach().to("cpu", torch.float64 if values.is_floating_point() else torch.int64, copy=True)
    if size() > 1:
        dist.all_reduce(own)
    return own


def largest(value: float) -> float:
    """Largest of a number of each process; NaN counts as infinite."""
    import torch
    import torch.distributed as dist

    own = torch.tensor(value, dtype=torch.float64).nan_to_num(nan=float("inf"), posinf=float("inf"))
    if size() > 1:
        dist.all_reduce(own, dist.ReduceOp.MAX)
    return own.item()


def anyone(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    return largest(float(flag)) > 0


def from_first(value: float) -> float:
    """What the first process says, whatever the others bring."""
    import torch
    import torch.distributed as dist

    own = torch.tensor(value, dtype=torch.float64)
    if size() > 1:
        dist.broadcast(own, 0)
    return own.item()


def barrier() -> None:
    """Wait until all processes have come here."""
    largest(0.0)


def collected(piece: Tensor, lengths: list[int]) -> Tensor | None:
    """Rows of all processes one below the other in the first one, None in the others.

    Args:
        piece: Rows of this process on the CPU, (lengths[rank], ...).
        lengths: Rows of each process; they travel one at a time, so that nobody holds them twice.
    """
    import torch.distributed as dist

    if size() == 1:
        return piece
    if not is_first():
        for row in piece:
            dist.send(row.contiguous(), 0)
        return None
    rows = piece.new_empty((sum(lengths), *piece.shape[1:]))
    rows[: lengths[0]] = piece
    start = lengths[0]
    for source, length in enumerate(lengths[1:], start=1):
        for row in rows[start : start + length]:
            dist.recv(row, source)
        start += length
    return rows
