"""Results from their files, and tables in Markdown: what all pages of tables share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def results(prefix: str) -> list[dict[str, Any]]:
    """Results whose job starts with `prefix`, by name."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "results").glob(f"{prefix}*.json"))]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text; a bar inside of a cell does not end it."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in escaped]) + "\n"
