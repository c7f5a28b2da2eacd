"""The report: one HTML file that needs nothing else, neither network nor folder, and prints well.

Words and numbers are escaped; pictures are embedded (SVG inline in the page's own text colour, PNG and GIF as base64),
so that the page follows a light or a dark desktop. Nothing in the file depends on when it was written.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eddycast.errors import InputError
from eddycast.files import write_bytes

Level = Literal["good", "fair", "poor", "note"]


@dataclass(frozen=True)
class Finding:
    """A sentence of the diagnosis, and how good the news is."""

    text: str
    level: Level = "note"


@dataclass(frozen=True)
class KeyFigure:
    """A number that stands for the result: `valid forecast`, `4.2`, `Lyapunov times`."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An `<svg>` element as text, or the bytes of a PNG or GIF; `narrow` ones do not fill the page."""

    content: str | bytes
    caption: str
    alt: str = ""
    narrow: bool = False

    @property
    def markup(self) -> Markup:
        if isinstance(self.content, str):
            return Markup(self.content)
        kind = "gif" if self.content[:3] == b"GIF" else "png"
        data = base64.b64encode(self.content).decode("ascii")
        return Markup('<img alt="{}" src="data:image/{};base64,{}">').format(self.alt or self.caption, kind, data)


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `best` names the cells (row, column) to emphasise."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    best: frozenset[tuple[int, int]] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in self.rows):
            raise ValueError(f"Every row needs the {len(self.header)} columns of the header {self.header}.")


@dataclass(frozen=True)
class Section:
    """A heading with words, tables, pictures and commands below it, in that order."""

    title: str
    words: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def anchor(self) -> str:
        return slug(self.title)


@dataclass(frozen=True)
class ReportContent:
    """All that a report says.

    Args:
        title, subtitle: First lines of the page.
        findings: Headline in words; the diagnosis.
        key_figures: Numbers at the top.
        sections: The body, in order.
        provenance: What made it (version, recipe, seed, hardware, cost ...).
        reproduce: Commands that make the same result again.
        next_steps: What to try next.
    """

    title: str
    subtitle: str = ""
    findings: tuple[Finding, ...] = ()
    key_figures: tuple[KeyFigure, ...] = ()
    sections: tuple[Section, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    reproduce: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()


def slug(title: str) -> str:
    """Anchor of a heading: `Rank histogram` becomes `rank-histogram`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def render(content: ReportContent) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("eddycast.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(content=content)


def write_report(content: ReportContent, out: str | Path) -> Path:
    """Write the page, whole or not at all, and return its path.

    Raises: InputError for a suffix other than .html, or a place that cannot be written.
    """
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report is one HTML file; give a name that ends in .html.")
    write_bytes(path, render(content).encode("utf-8"))
    return path


def grade(text: str) -> Level:
    """How good the news of a diagnosis is, from its words; `note` when they do not tell."""
    lower = text.lower()
    failed = r"mode collapse|error growth|guidance instability|analysis divergence|regression to climatology|frozen"
    failed += r"|(under|over)-dispersion|late spread|window jumps|compounding"
    if re.search(rf"blows up|non-finite|loses to|no spread at all|nothing useful|{failed}", lower):
        return "poor"
    if re.search(r"-dispersed|biased|too (energetic|weak)|wrong spectrum|\btry\b|\bonly\b", lower):
        return "fair"
    return "good" if re.search(r"nothing stands out|\bbeats\b|reliable", lower) else "note"
