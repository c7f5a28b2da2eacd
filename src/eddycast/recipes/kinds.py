"""Settings that a `kind` chooses among, at any depth: which classes there are, and a choice checked by its own class alone.

pydantic tries every member of a union that carries no discriminator, and reports what each of them had against the input. The inner rooms
know nothing of pydantic, so their unions carry none; here the class that `kind` names is found from the type hints.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError


class KindError(ValueError):
    """Settings that do not fit: their place, what is wrong or the error that pydantic found, and the settings themselves."""

    def __init__(self, place: str, reason: str | ValidationError, settings: Any = None) -> None:
        super().__init__(place)
        self.place, self.reason, self.settings = place, reason, settings


@cache
def hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a settings class."""
    return get_type_hints(cls)


@cache
def adapter(cls: type) -> TypeAdapter[Any]:
    """The check of a settings class by pydantic, built once."""
    return TypeAdapter(cls)


def alternatives(hint: Any) -> dict[str, type]:
    """Classes by their kind where the hint is a dataclass with a field `kind`, or a union of such; else empty."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    found = {}
    for member in members:
        if not (isinstance(member, type) and is_dataclass(member) and "kind" in hints(member)):
            return {}
        found.update(dict.fromkeys(get_args(hints(member)["kind"]), member))
    return found


def resolved(content: Mapping[str, Any], cls: type, place: str = "") -> dict[str, Any]:
    """The content of a settings class with each mapping inside it that a `kind` chooses turned into an object of that class.

    A mapping without `kind` is one of the kind that the field has by default.

    Raises: KindError for a kind that does not exist or settings that its class refuses.
    """
    result = dict(content)
    for field in fields(cls):
        value = result.get(field.name)
        options = alternatives(hints(cls)[field.name])
        if not options or field.name not in content or isinstance(value, tuple(options.values())):
            continue
        where = f"{place}{field.name}"
        if not isinstance(value, Mapping):
            raise KindError(where, f"expected settings such as {{kind: {next(iter(options))}}}, got {value!r}")
        default = field.default if field.default is not MISSING else None
        if field.default_factory is not MISSING:
            default = field.default_factory()
        kind = value.get("kind", getattr(default, "kind", None))
        if not isinstance(kind, str) or kind not in options:
            raise KindError(f"{where}.kind", f"expected one of {', '.join(options)}, got {kind!r}")
        inner = resolved(value, options[kind], f"{where}.")
        try:
            result[field.name] = adapter(options[kind]).validate_python(inner)
        except ValidationError as error:
            raise KindError(where, error, value) from error
    return result


def choices_at(parents: list[str], content: Mapping[str, Any], cls: type) -> dict[str, type]:
    """The classes among which the mapping at that place in the content chooses by its kind; empty where there is no choice."""
    options: dict[str, type] = {}
    here: Any = content
    for part in parents:
        hint = hints(cls).get(part)
        here = here.get(part)
        if not isinstance(here, Mapping):
            return {}
        options = alternatives(hint)
        kind = here.get("kind")
        chosen = options.get(kind) if isinstance(kind, str) else None
        if chosen is None:
            if options or not (isinstance(hint, type) and is_dataclass(hint)):
                return options
            chosen = hint
        cls = chosen
    return options


def with_kind(content: Mapping[str, Any], kind: str, options: Mapping[str, type]) -> dict[str, Any]:
    """Settings of another kind: its defaults, save that what is itself chosen by kind, and can be in both, is kept.

    A scoring-rule emulator made from a diffusion one keeps its network; a network of another kind keeps nothing, for
    words such as `blocks` mean different things in each.
    """
    fresh = adapter(options[kind]).dump_python(options[kind](), mode="json")
    for field in fields(options[kind]):
        value, choice = content.get(field.name), alternatives(hints(options[kind])[field.name])
        if isinstance(value, Mapping) and value.get("kind") in choice:
            fresh[field.name] = value
    return fresh
