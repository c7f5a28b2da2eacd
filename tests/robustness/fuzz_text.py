"""Ways to spoil JSON, YAML and CSV."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from fuzz_bytes import Mutation, Rng, pick

ODD = (
    None,
    True,
    -1,
    0,
    2**63,
    10**30,
    1e308,
    0.5,
    "text",
    "",
    "é\n\t",
    [],
    {},
    [[1], [2, 3]],
    ["a", 1],
    {"a": {"b": []}},
)
ODD_TEXT = (
    "nan",
    "1e999",
    "-7",
    "x",
    "",
    "0x10",
    "1,2",
    "99999999999999999999",
    "é",
    '"',
    "None",
    "-1e999",
    "inf",
    "1.5",
)


# JSON


def _nodes(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(content, dict):
        for key, value in content.items():
            found += _nodes(value, (*path, key))
    elif isinstance(content, list):
        for at, value in enumerate(content[:4]):
            found += _nodes(value, (*path, at))
    return found


def mutated_tree(content: Any, rng: Rng) -> Any:
    """One node of plain values replaced, removed, renamed or wrapped."""
    content = json.loads(json.dumps(content))
    nodes = _nodes(content)
    if not nodes or rng.random() < 0.03:
        return ODD[int(rng.integers(len(ODD)))]
    *parents, last = nodes[int(rng.integers(len(nodes)))]
    target = content
    for key in parents:
        target = target[key]
    how = rng.random()
    if how < 0.2:
        del target[last]
    elif how < 0.3 and isinstance(target, dict):
        target[f"{last}_"] = target.pop(last)
    elif how < 0.4:
        target[last] = [target[last]]
    elif how < 0.5 and isinstance(target[last], list):
        target[last] = target[last] * 2 if rng.random() < 0.5 else target[last][:-1]
    else:
        target[last] = ODD[int(rng.integers(len(ODD)))]
    return content


def json_tree(path: Path, rng: Rng) -> None:
    path.write_text(json.dumps(mutated_tree(json.loads(path.read_text()), rng)))


def json_number(path: Path, rng: Rng) -> None:
    """One number becomes NaN, infinity or too large to hold."""
    content = json.loads(path.read_text())
    nodes = [node for node in _nodes(content) if isinstance(_at(content, node), (int, float))]
    if not nodes:
        return
    *parents, last = nodes[int(rng.integers(len(nodes)))]
    _at(content, parents)[last] = "@@"
    text = json.dumps(content).replace('"@@"', ("NaN", "1e999", "-Infinity", "9" * 400, "-1")[int(rng.integers(5))])
    path.write_text(text)


def _at(content: Any, path: Any) -> Any:
    for key in path:
        content = content[key]
    return content


def json_deep(path: Path, rng: Rng) -> None:
    """Brackets a hundred thousand deep."""
    path.write_text("[" * 100_000 + "]" * 100_000)


def json_deep_value(path: Path, rng: Rng) -> None:
    content = json.loads(path.read_text())
    key = list(content)[int(rng.integers(len(content)))]
    text = json.dumps(content | {key: "@@"})
    path.write_text(text.replace('"@@"', '{"a":' * 600 + "1" + "}" * 600))


JSON: tuple[Mutation, ...] = (json_tree, json_tree, json_tree, json_number)
JSON_ONCE: tuple[Mutation, ...] = (json_deep, json_deep_value)


def json_lines(path: Path, rng: Rng) -> None:
    """One line of a log becomes something else."""
    lines = path.read_text().splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = json.dumps(mutated_tree(json.loads(lines[at]), rng))
    path.write_text("\n".join(lines) + "\n")


# YAML


def yaml_tree(path: Path, rng: Rng) -> None:
    path.write_text(json.dumps(mutated_tree(yaml.safe_load(path.read_text()), rng)))


def yaml_value(path: Path, rng: Rng) -> None:
    """The text of one value becomes another."""
    lines = path.read_text().splitlines()
    at = int(rng.integers(len(lines)))
    key, colon, _ = lines[at].partition(":")
    value = (
        *ODD_TEXT,
        ".nan",
        ".inf",
        "2020-01-01",
        "!!binary aGk=",
        "0o17",
        "~",
        "*unknown",
        "&a [*a]",
        "? x",
        "- y",
        "1_000:3",
    )
    lines[at] = f"{key}{colon} {value[int(rng.integers(len(value)))]}"
    path.write_text("\n".join(lines) + "\n")


def yaml_key(path: Path, rng: Rng) -> None:
    """A key of another kind, twice, or none."""
    lines = path.read_text().splitlines()
    odd = ("1: 2", "[a, b]: c", "{a: b}: c", "~: x", "true: false", lines[0], "<<: {name: z}", "<<: 5", "2020-01-01: x")
    lines.insert(int(rng.integers(len(lines))), odd[int(rng.integers(len(odd)))])
    path.write_text("\n".join(lines) + "\n")


def _yaml(name: str, text: str) -> Mutation:
    def mutation(path: Path, rng: Rng) -> None:
        path.write_text(text.replace("@@", path.read_text()))

    mutation.__name__ = name
    return mutation


yaml_cycle = _yaml("yaml_cycle", "@@published: &a\n  x: *a\n")
yaml_cycle_list = _yaml("yaml_cycle_list", "@@simulation: &a [*a, *a]\n")
yaml_self = _yaml("yaml_self", "&a [*a]\n")
yaml_bomb = _yaml(
    "yaml_bomb",
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "@@description: *i\n",
)
yaml_bomb_published = _yaml(
    "yaml_bomb_published",
    "published: &p\n  a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(
        f"  {new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "@@",
)
yaml_deep = _yaml("yaml_deep", "name: " + "[" * 20_000 + "]" * 20_000 + "\n")
yaml_python = _yaml("yaml_python", "@@published: !!python/object/apply:os.system ['touch pwned']\n")
yaml_python_name = _yaml("yaml_python_name", "@@description: !!python/name:os.system ''\n")
yaml_documents = _yaml("yaml_documents", "@@---\n@@")
yaml_tabs = _yaml("yaml_tabs", "name:\tx\n\t- y\n")
YAML: tuple[Mutation, ...] = (yaml_tree, yaml_value, yaml_value, yaml_key)
YAML_ONCE: tuple[Mutation, ...] = (
    yaml_cycle,
    yaml_cycle_list,
    yaml_self,
    yaml_bomb,
    yaml_bomb_published,
    yaml_deep,
    yaml_python,
    yaml_python_name,
    yaml_documents,
    yaml_tabs,
)


# CSV


def csv_cell(path: Path, rng: Rng) -> None:
    lines = path.read_text().splitlines()
    at = int(rng.integers(4, len(lines)))
    cells = lines[at].split(",")
    cells[int(rng.integers(len(cells)))] = pick(list(ODD_TEXT), rng)
    lines[at] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


def csv_rows(path: Path, rng: Rng) -> None:
    lines = path.read_text().splitlines()
    at, how = int(rng.integers(2, len(lines))), int(rng.integers(6))
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(at, lines[at])
    elif how == 2:
        lines[at] += ",1,2"
    elif how == 3:
        lines[at] = lines[at].rpartition(",")[0]
    elif how == 4:
        lines = lines[:4]
    else:
        lines[at] = '"unclosed' + lines[at]
    path.write_text("\n".join(lines) + "\n")


def csv_column(path: Path, rng: Rng) -> None:
    lines = path.read_text().splitlines()
    names = lines[3].split(",")
    names[int(rng.integers(len(names)))] = pick(["other", "", "value", "field"], rng)
    lines[3] = ",".join(names)
    path.write_text("\n".join(lines) + "\n")


def csv_header(path: Path, rng: Rng) -> None:
    """The line of JSON that describes the observations."""
    lines = path.read_text().splitlines()
    mark = "# eddycast: "
    at = next(i for i, line in enumerate(lines) if line.startswith(mark))
    lines[at] = mark + json.dumps(mutated_tree(json.loads(lines[at].removeprefix(mark)), rng))
    path.write_text("\n".join(lines) + "\n")


CSV: tuple[Mutation, ...] = (csv_cell, csv_cell, csv_rows, csv_column, csv_header, csv_header, csv_header)
