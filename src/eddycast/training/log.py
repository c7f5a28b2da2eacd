"""The log of a run, one line of JSON per step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eddycast.files import write_bytes
from eddycast.training.checkpoint import Position


def append_log(path: Path, record: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Records with their stage and step, oldest first; lines that are none are left out, and a log that is not there is empty."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a process that was killed
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int) and "stage" in record:
            records.append(record)
    return records


def trim_log(path: Path, position: Position) -> None:
    """Drop what the log says of steps after the checkpoint: they will be taken again."""
    if not path.is_file():
        return
    order = list(position.steps)
    kept = []
    for record in read_log(path):
        before = order.index(record["stage"]) < order.index(position.stage) if record["stage"] in order else False
        if before or (record["stage"] == position.stage and record["step"] <= position.done):
            kept.append(record)
    write_bytes(path, "".join(f"{json.dumps(record)}\n" for record in kept).encode())


def collapsed_stages(path: Path) -> list[str]:
    """Stages whose members the log says have become one."""
    return [str(record["stage"]) for record in read_log(path) if record.get("collapsed") is True]
