"""Numbers and tables as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Three decimals, or an exponent where these would not do; `-` for NaN."""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1000 else f"{value:.1e}"


def signed(value: float) -> str:
    """Two decimals with a sign; `-` for NaN."""
    return "-" if math.isnan(value) else f"{value:+.2f}"


def spread_out(value: float, low: float, high: float) -> str:
    """A number with half the width of its interval, where there is one."""
    half = (high - low) / 2
    return f"{number(value)} +- {number(half)}" if math.isfinite(half) else number(value)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under each other, to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
