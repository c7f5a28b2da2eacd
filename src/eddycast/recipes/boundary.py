"""Boundary values of forecasts: from the setting of a recipe, or of a command, to a hook of the rollout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eddycast.emulators import HeldPoints, PrescribedValues, StateHook
from eddycast.errors import InputError
from eddycast.recipes.recipe import Boundary
from eddycast.simulators import SYSTEMS

ADAPTER: TypeAdapter[Boundary] = TypeAdapter(Boundary)


def read_boundary(value: Any) -> Boundary:
    """The setting from plain values. Raises: InputError for anything else."""
    try:
        return ADAPTER.validate_python(value)
    except ValidationError as error:
        raise InputError(
            f"boundary must be system, none, or {{held: NAME}} with the name of a static field of the data; got {value!r}."
        ) from error


def boundary_hook(
    setting: Boundary,
    *,
    system: str,
    fields: Sequence[str],
    parameter_names: Sequence[str],
    static_names: Sequence[str],
) -> StateHook | None:
    """What re-imposes the boundary values of forecasts; None for nothing.

    Args:
        setting: Of the recipe, or of the command.
        system: Of the data, empty where it is not known.
        fields, parameter_names, static_names: Of the data, in their order.

    Raises: InputError where the data lack what the boundary values are made of.
    """
    if setting == "none":
        return None
    if setting == "system":
        return _of_system(system, fields, parameter_names, static_names)
    if setting.held not in static_names:
        raise InputError(
            f"boundary: there is no static field {setting.held!r} to hold points by; the data have "
            f"{', '.join(static_names) or 'none'}."
        )
    if strange := [name for name in setting.fields if name not in fields]:
        raise InputError(f"boundary: there is no field {strange[0]!r} to hold; the data have {', '.join(fields)}.")
    channels = tuple(list(fields).index(name) for name in setting.fields)
    return HeldPoints(list(static_names).index(setting.held), channels or None)


def _of_system(
    name: str, fields: Sequence[str], parameter_names: Sequence[str], static_names: Sequence[str]
) -> StateHook | None:
    info = SYSTEMS[name].info if name in SYSTEMS else None
    values = None if info is None else info.boundary_values
    if info is None or values is None:
        return None
    expected = {"fields": [field.name for field in info.fields], "parameters": list(info.parameter_names)}
    for what, came in (("fields", fields), ("parameters", parameter_names)):
        if list(came) != expected[what]:
            raise InputError(
                f"The boundary values of {name} are made of the {what} {', '.join(expected[what])}; the data have "
                f"{', '.join(came) or 'none'}: give all, or set boundary=none."
            )
    if lost := [field for field in info.static if field not in static_names]:
        raise InputError(
            f"The boundary values of {name} need the static field {lost[0]!r}; the data have "
            f"{', '.join(static_names) or 'none'}: give data with it, or set boundary=none."
        )
    return PrescribedValues(values, tuple(static_names))
