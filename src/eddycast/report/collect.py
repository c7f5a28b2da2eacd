"""One report from whatever there is: run directories, forecasts, analyses, observations, scores."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from eddycast.errors import InputError
from eddycast.files import read_json
from eddycast.report.canvas import inline_svg
from eddycast.report.curves import training_curve
from eddycast.report.html import Finding, KeyFigure, Picture, ReportContent, Section, Table, slug, write_report
from eddycast.report.scorecard import key_figures
from eddycast.report.story import diagnosed, facts_of, field_section, score_sections
from eddycast.report.view import open_result

if TYPE_CHECKING:
    from eddycast.data import Dataset
    from eddycast.evaluation import Scores

_MOST_SETTINGS = 60

CURVES = (
    ("loss", "training loss"),
    ("validation_crps", "validation CRPS"),
    ("validation_vrmse", "validation VRMSE of reconstructions"),
)
"""Keys of the log of a training and what they are."""


def report_from(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    truth: xr.Dataset | Dataset | None = None,
    title: str | None = None,
) -> Path:
    """Write one HTML report on everything in `inputs`.

    Args:
        inputs: Run directories (settings, training curve, scores), forecasts, analyses and observations (.nc, .zarr:
            pictures) and scores (.json: tables, curves, diagnosis), in any order. Several scores are compared, the
            first with the others.
        out: The .html file.
        truth: Verifying states for the pictures; an opened data set, or xarray laid out as the forecasts without
            members.
        title: First line; follows from the inputs when absent.

    Returns: the path written.
    Raises: InputError, one line, naming the input that is missing, unreadable or none of these; nothing is written
    then.
    """
    if not inputs:
        raise InputError("Nothing to report on: give run directories, forecasts, analyses or scores.json files.")
    if Path(out).suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{out}: a report is one HTML file; give a name that ends in .html.")
    scores: dict[str, Scores] = {}
    fields: list[Section] = []
    runs: list[Section] = []
    provenance: dict[str, str] = {}
    kinds = [_kind_of(Path(item)) for item in inputs]  # before a picture is drawn
    for item, kind in zip(inputs, kinds, strict=True):
        path = Path(item)
        if kind == "run":
            section, facts = _run_section(path, _label(path.name, [one.title for one in runs]))
            runs.append(section)
            provenance |= facts
            if (path / "scores.json").is_file():
                _add_scores(scores, path / "scores.json", path.name)
        elif kind == "scores":
            _add_scores(scores, path, path.parent.name if path.stem == "scores" else path.stem)
        else:
            result = open_result(path)
            kind = str(result.attrs.get("eddycast_kind", "forecast")).capitalize()
            words = kind if kind not in [one.title for one in fields] else f"{kind}: {path.stem}"
            fields.append(field_section(_label(words, [one.title for one in fields]), result, truth))
            provenance |= facts_of(result.attrs)
    findings: list[Finding] = []
    figures: list[KeyFigure] = []
    measured: list[Section] = []
    for group in _comparable(scores):
        found = score_sections(group)
        (name, first), *_ = group.items()
        prefix = "" if not measured else "Analysis: " if first.analysis else f"{name}: "
        measured += [_renamed(section, prefix + section.title) for section in found]
        if not findings:
            findings, figures = diagnosed(group), key_figures(group, next(iter(group.values())).fields[0])
    content = ReportContent(
        title=title or _title(scores, provenance, [Path(item).name for item in inputs]),
        subtitle=" · ".join(Path(item).name for item in inputs),
        findings=tuple(findings),
        key_figures=tuple(figures),
        sections=(*fields, *measured, *runs),
        provenance=provenance,
        reproduce=(f"eddycast report {' '.join(str(item) for item in inputs)} --out {out}",),
        next_steps=tuple(_next_steps(bool(scores), bool(fields), bool(runs))),
    )
    return write_report(content, out)


def _kind_of(path: Path) -> str:
    if not path.exists():
        raise InputError(
            f"{path}: no such file or directory; give a run directory, a forecast, an analysis or scores.json."
        )
    if path.is_dir() and (path / "config.json").is_file():
        return "run"
    if path.suffix == ".json":
        return "scores"
    if path.suffix in (".nc", ".zarr", ".nc4", ".netcdf"):
        return "field"
    what = "directory without config.json" if path.is_dir() else f"file that ends in {path.suffix or 'nothing'!r}"
    raise InputError(
        f"{path}: a {what} is neither a run directory, nor a forecast or analysis (.nc, .zarr), nor scores (.json)."
    )


def _add_scores(scores: dict[str, Scores], path: Path, name: str) -> None:
    from eddycast.evaluation import Scores  # and with it torch, which pictures do without

    found = Scores.from_json(path)
    name = str(found.attributes.get("eddycast_recipe") or found.attributes.get("eddycast_run") or name or path.stem)
    if found.analysis:
        method = str(found.attributes.get("eddycast_method", ""))
        name = f"analysis by {method}" if method else f"analysis, {name}"
    scores[_label(name, list(scores))] = found


def _comparable(scores: Mapping[str, Scores]) -> Iterator[dict[str, Scores]]:
    """Scores of the same kind and first field belong into one table; analyses are not compared with forecasts."""
    groups: dict[tuple[bool, str], dict[str, Scores]] = {}
    for name, one in scores.items():
        groups.setdefault((one.analysis, one.fields[0]), {})[name] = one
    yield from groups.values()


def _label(name: str, taken: Sequence[str]) -> str:
    """The name, or the name with a number behind it where it is taken."""
    label, count = name, 1
    while label in taken:
        count += 1
        label = f"{name} ({count})"
    return label


def _renamed(section: Section, title: str) -> Section:
    return Section(title, section.words, section.tables, section.pictures, section.commands)


def _run_section(path: Path, name: str) -> tuple[Section, dict[str, str]]:
    """Settings and training curve of a run, and its provenance."""
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise InputError(
            f"{path / 'config.json'}: expected the settings of a run, found {type(config).__name__}; train again."
        )
    recipe = config.get("recipe", {})
    rows = list(_flattened(recipe))
    table = Table(
        ("Setting", "Value"),
        tuple(rows[:_MOST_SETTINGS]),
        "" if len(rows) <= _MOST_SETTINGS else f"and {len(rows) - _MOST_SETTINGS} more",
    )
    pictures = []
    losses, starts = _training_log(path / "log.jsonl")
    if losses:
        figure = training_curve(starts, losses)
        words = "Training loss (running median) over steps" + (
            ", and the validation score." if len(losses) > 1 else "."
        )
        pictures.append(Picture(inline_svg(figure, f"training-{slug(name)}"), words))
    facts = (
        {"Run": path.name, "Made by": f"eddycast {config['eddycast_version']}"}
        if "eddycast_version" in config
        else {"Run": path.name}
    )
    for key, value in _flattened(config.get("provenance", {})):
        facts[key.replace("_", " ").capitalize()] = value
    return Section(f"Run {name}", tables=(table,) if rows else (), pictures=tuple(pictures)), facts


def _flattened(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value)."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _flattened(value, f"{prefix}.{key}" if prefix else str(key))
    elif content is not None and content != "" and content != []:
        text = (
            f"{content:.6g}"
            if isinstance(content, float)
            else content
            if isinstance(content, str)
            else json.dumps(content)
        )
        yield prefix, text if len(text) <= 120 else text[:117] + "…"


def _training_log(path: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Losses and validation scores over steps, and where stages start; a torn last line is left out."""
    if not path.is_file():
        return {}, np.zeros(0)
    series: dict[str, tuple[list[float], list[float]]] = {}
    starts: list[float] = []
    before, last, stage = 0.0, 0.0, None
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(record, dict) or not _is_count(record.get("step", 0)):
                break
            if record.get("stage") != stage:
                stage, before = record.get("stage"), last
                starts.append(before)
            last = before + float(record.get("step", 0))
            for key, name in CURVES:
                if isinstance(record.get(key), float) and math.isfinite(record[key]):
                    steps, values = series.setdefault(name, ([], []))
                    steps.append(last)
                    values.append(float(record[key]))
    return {name: (np.asarray(steps), np.asarray(values)) for name, (steps, values) in series.items()}, np.asarray(
        starts
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _title(scores: Mapping[str, Scores], provenance: Mapping[str, str], names: Sequence[str]) -> str:
    subject = provenance.get("System") or provenance.get("Recipe") or next(iter(scores), "") or names[0]
    compared = max((len(group) for group in _comparable(scores)), default=0)
    return f"{subject}: comparison of {compared} methods" if compared > 1 else f"{subject}: report"


def _next_steps(scores: bool, fields: bool, runs: bool) -> list[str]:
    steps = []
    if not scores:
        steps.append(
            "Score the forecast: eddycast evaluate FORECAST --truth DATA --out scores.json; report on both together."
        )
    if runs and not fields:
        steps.append("See what the run does: eddycast forecast RUN --data DATA --members 16 --out forecast.nc.")
    if fields:
        steps.append("Watch it move: eddycast plot FORECAST --out movie.gif.")
    steps.append("Compare with simpler methods: eddycast compare RUN baseline:persistence --data DATA --out DIR.")
    return steps
