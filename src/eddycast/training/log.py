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


def trim_log(path: Path, position: Position) -> None:
    """Drop what the log says of steps after the checkpoint: they will be taken again."""
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    order = list(position.steps)
    kept = []
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the last line of a process that was killed
            continue
        if not isinstance(record, dict) or not isinstance(record.get("step"), int) or "stage" not in record:
            continue
        before = order.index(record["stage"]) < order.index(position.stage) if record["stage"] in order else False
        if before or (record["stage"] == position.stage and record["step"] <= position.done):
            kept.append(line)
    write_bytes(path, "".join(f"{line}\n" for line in kept).encode())
