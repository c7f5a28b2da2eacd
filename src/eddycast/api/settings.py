"""Settings of a trained emulator that may differ between training and use."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eddycast.api.solvers import refuse
from eddycast.emulators import Emulator, LatentSpace
from eddycast.errors import InputError
from eddycast.recipes import explain

_STEPS = ("sampler", "num_steps", "grid", "sampler_options")
SAMPLING = {
    "regression": ("ensemble", "perturbation", "sharing"),
    "scoring": ("noise_scale",),
    "joint": ("context", "overlap", *_STEPS, "conditioning", "gamma", "std", "rollout", "stride"),
    "amortised": _STEPS,
    "universal": ("context", "overlap", *_STEPS),
    "neural-solver": ("context", "overlap"),
    "dyffusion": ("sampler", "sampling", "sampling_times", "last", "refine", "sharing"),
}
"""Settings of each family that may differ between training and use."""


def configured(emulator: Emulator, given: dict[str, Any]) -> Emulator:
    """A trained emulator with other sampling settings, and perhaps without its guard."""
    config = emulator.model.config  # type: ignore[attr-defined]
    own = SAMPLING.get(config.kind, ())
    dressable = isinstance(emulator.space, LatentSpace) and emulator.space.residual is not None
    refuse(given, (*own, "guard", "chunk", "boundary", *(["dress"] if dressable else [])))
    if given.get("dress"):
        emulator = replace(emulator, dress=True)
    if given.get("guard") is False:
        emulator = emulator.without_guard()
    if "chunk" in given:
        emulator = replace(emulator, chunk=int(given["chunk"]))
    changes = {key: value for key, value in given.items() if key in own}
    if changes:
        model = copy(emulator.model)  # shares the weights; the run keeps its own settings
        model.config = rebuilt(config, changes)  # type: ignore[attr-defined]
        emulator = replace(emulator, model=model)
    return emulator


def rebuilt(settings: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen dataclass with some fields replaced and checked. Raises: InputError for a name or value that does not fit."""
    assert is_dataclass(settings), "settings are dataclasses"
    refuse(changes, tuple(field.name for field in fields(settings)))
    content = {field.name: getattr(settings, field.name) for field in fields(settings)} | dict(changes)
    try:
        return TypeAdapter(type(settings)).validate_python(content)
    except ValidationError as error:
        raise InputError(f"--set: {explain(error)}") from error
