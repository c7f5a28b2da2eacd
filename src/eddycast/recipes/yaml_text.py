"""YAML as a person writes it: plain values, no repetition by reference, no key twice."""

from __future__ import annotations

import math
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.events import AliasEvent

from eddycast.errors import InputError, reason


class _Loader(yaml.SafeLoader):
    """Plain values only. Aliases are refused: a few lines of them can stand for more values than a machine can hold, or for themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "aliases (*) are not known here; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        content = super().construct_mapping(node, deep)
        if len(content) != len(node.value):
            raise ConstructorError(None, None, "a key stands twice", node.start_mark)
        return content


def parse_yaml(text: str, where: str) -> Any:
    """Plain values from YAML (or JSON). Raises: InputError for text that is none, and for numbers that are not finite."""
    try:
        loader = _Loader(text)
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        raise InputError(f"{where} is neither YAML nor JSON: {error.problem or error.context}{place}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or number that cannot be
        raise InputError(f"{where} is neither YAML nor JSON: {reason(error)}.") from error
    _require_plain(content, where)
    return content


def _require_plain(content: Any, where: str, depth: int = 0) -> None:
    if depth > 20:
        raise InputError(f"{where}: settings are nested more than 20 deep; nothing here is.")
    if isinstance(content, float) and not math.isfinite(content):
        raise InputError(f"{where}: {content} is no setting; numbers must be finite.")
    for part in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        _require_plain(part, where, depth + 1)
