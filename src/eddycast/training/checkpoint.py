"""All that an exact resume needs, in one file that is replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eddycast.errors import InputError, reason
from eddycast.files import parse_json
from eddycast.training.average import WeightAverage
from eddycast.training.files import read_tensors, write_tensors
from eddycast.training.optimiser import Muon
from eddycast.training.preconditioned import is_soap, load_soap, soap_shapes, soap_tensors


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
        states = soap_tensors(optimiser) if is_soap(optimiser) else optimiser.state_dict()["state"]
        for index, state in states.items():
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
    header = _header(path, metadata)
    changed = sorted(key for key in settings if header["settings"].get(key) != settings[key])
    if changed:
        raise InputError(
            f"{path} was trained with another {', '.join(changed)}: resume with the same settings, or start anew in another --out."
        )
    return Position(**header["position"]), tensors, header["updates"]


def _header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """What the checkpoint says of itself. Raises: InputError where it cannot be."""
    header = parse_json(metadata.get("state", "null"), f"The state in {path}")
    position = header.get("position") if isinstance(header, dict) else None
    if not isinstance(position, dict) or set(position) != {item.name for item in fields(Position)}:
        raise _damaged(path)
    if not isinstance(header.get("settings"), dict):
        raise _damaged(path)
    if not all(_fits(position[name]) for name in ("done", "seconds", "cpu_seconds")):
        raise _damaged(path)
    steps, stage, updates = position["steps"], position["stage"], header.get("updates")
    plain = isinstance(steps, dict) and all(isinstance(one, int) and one > 0 for one in steps.values())
    if not plain or not isinstance(stage, str) or not isinstance(position["complete"], bool):
        raise _damaged(path)
    stages = header["settings"].get("stages")
    if not isinstance(stages, list) or stage not in stages or not set(steps) <= set(stages):
        raise _damaged(path)
    if not isinstance(position["done"], int) or position["done"] > steps.get(stage, position["done"]):
        raise _damaged(path)
    if updates is not None and not (isinstance(updates, int) and updates >= 0):
        raise _damaged(path)
    return header


def _fits(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _damaged(path: Path) -> InputError:
    return InputError(f"{path} is damaged (its state cannot be): restore it, or train anew in another --out.")


def restore(
    tensors: dict[str, Tensor],
    updates: int | None,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    average: WeightAverage | None,
) -> None:
    """Put the tensors of a checkpoint back where they came from.

    Raises: InputError when they are of another model or optimiser, or not finite.
    """
    try:
        _restore(tensors, updates, model, optimisers, average)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:  # of torch: names and shapes that do not fit
        raise InputError(
            f"The checkpoint does not fit the model ({reason(error)}): restore it, or train anew in another --out."
        ) from error


def _restore(
    tensors: dict[str, Tensor],
    updates: int | None,
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    average: WeightAverage | None,
) -> None:
    if lost := [
        name for name, value in tensors.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]:
        raise ValueError(f"{lost[0]} is not finite")
    _require_like(_part(tensors, "model."), model.state_dict())
    model.load_state_dict(_part(tensors, "model."))
    for number, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, f"optimiser.{number}.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        _require_state(state, optimiser)
        if is_soap(optimiser):
            load_soap(optimiser, state)
            continue
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if average is not None:
        _require_like(_part(tensors, "average."), average.weights)
        for name, value in _part(tensors, "average.").items():
            average.weights[name].copy_(value)
        average.num_updates = updates or 0


def _require_like(tensors: dict[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raises: ValueError unless there are the same tensors of the same shape and kind."""
    if different := sorted(set(tensors) ^ set(own)):
        raise ValueError(f"{different[0]} is missing or not known")
    for name, value in own.items():
        if tensors[name].shape != value.shape or tensors[name].dtype != value.dtype:
            raise ValueError(f"{name} is {tensors[name].dtype} of shape {tuple(tensors[name].shape)}")


def _require_state(state: dict[int, dict[str, Tensor]], optimiser: torch.optim.Optimizer) -> None:
    """Raises: ValueError unless each state belongs to a parameter and has all entries in their shapes."""
    parameters = [one for group in optimiser.param_groups for one in group["params"]]
    for index, entries in state.items():
        expected = _shapes(optimiser, parameters[index]) if 0 <= index < len(parameters) else {}
        if not expected or set(entries) != set(expected):
            raise ValueError(f"the state of the optimiser for parameter {index} is not whole")
        for key, value in entries.items():
            if tuple(value.shape) != expected[key] or not value.is_floating_point():
                raise ValueError(f"{key} of parameter {index} is {value.dtype} of shape {tuple(value.shape)}")


def _shapes(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, tuple[int, ...]]:
    """Name and shape of what an optimiser keeps for a parameter."""
    if is_soap(optimiser):
        return soap_shapes(parameter)
    shape = tuple(parameter.shape)
    return {"momentum": shape} if isinstance(optimiser, Muon) else {"step": (), "exp_avg": shape, "exp_avg_sq": shape}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
