"""All that an exact resume needs, in one file that is replaced atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.training.average import WeightAverage
from eddycast.training.files import read_tensors, write_tensors


@dataclass
class Position:
    """Where a run stands: stages by name, with steps to do and done, and what it has cost so far."""

    stage: str
    done: int
    steps: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    complete: bool = False


def save_checkpoint(
    path: Path,
    position: Position,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    average: WeightAverage | None,
    settings: dict[str, Any],
) -> None:
    """Weights, optimiser states and averaged weights as tensors, everything else as JSON in the header of the file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, optimiser in enumerate(optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimiser.{number}.{index}.{key}"] = value
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.weights.items()}
    header = {
        "position": vars(position),
        "updates": None if average is None else average.num_updates,
        "settings": settings,
    }
    write_tensors(path, tensors, metadata={"state": json.dumps(header)})


def read_position(path: Path, settings: dict[str, Any]) -> tuple[Position, dict[str, Tensor], int | None]:
    """Position, tensors and number of average updates of a checkpoint.

    Raises: InputError when it belongs to other settings.
    """
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["state"])
    changed = sorted(key for key in settings if header["settings"].get(key) != settings[key])
    if changed:
        raise InputError(
            f"{path} was trained with another {', '.join(changed)}: resume with the same settings, or start anew in another --out."
        )
    return Position(**header["position"]), tensors, header["updates"]


def restore(
    tensors: dict[str, Tensor],
    updates: int | None,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    average: WeightAverage | None,
) -> None:
    """Put the tensors of a checkpoint back where they came from."""
    model.load_state_dict(_part(tensors, "model."))
    for number, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, f"optimiser.{number}.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if average is not None:
        for name, value in _part(tensors, "average.").items():
            average.weights[name].copy_(value)
        average.num_updates = updates or 0


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
