"""Sections of a report from data sets and scores, and the report that tells a whole story with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from eddycast.report.calibration import calibration_diagrams, density_charts
from eddycast.report.canvas import inline_svg, is_solver, with_units
from eddycast.report.curves import calibration, densities, rank_histogram, score_curves, spectra, spread_skill
from eddycast.report.fields import Panel, field_picture, joined, panels_of, space_time
from eddycast.report.html import Finding, KeyFigure, Picture, ReportContent, Section, Table, grade, slug, write_report
from eddycast.report.physics import further_sections
from eddycast.report.scorecard import (
    comparison_table,
    key_figures,
    number,
    rank_counts,
    score_charts,
    spectra_charts,
    spread_skill_curves,
    strengths,
)
from eddycast.report.truth import truth_of_view
from eddycast.report.view import View, aligned, field_names, observed, open_result, place_of, view
from eddycast.report.whole import bands_table, conventions_table, horizons_table

if TYPE_CHECKING:
    from eddycast.data import Dataset
    from eddycast.evaluation import Scores

MOST_FIELDS = 3  # fields that get pictures of their own


def story_report(
    out: str | Path,
    *,
    forecast: xr.Dataset | str | Path,
    scores: Mapping[str, Scores],
    truth: xr.Dataset | Dataset | None = None,
    analysis: xr.Dataset | str | Path | None = None,
    observations: xr.Dataset | str | Path | None = None,
    analysis_scores: Mapping[str, Scores] | None = None,
    title: str = "Forecast report",
    subtitle: str = "",
    words: Sequence[str] = (),
    findings: Sequence[Finding | str] | None = None,
    more_key_figures: Sequence[KeyFigure] = (),
    more_sections: Sequence[Section] = (),
    provenance: Mapping[str, str] | None = None,
    reproduce: Sequence[str] = (),
    next_steps: Sequence[str] = (),
    field: str | None = None,
    init: int = 0,
) -> Path:
    """Write the story of a forecast: what was seen, what was made of it, how far it holds, next to simpler methods.

    Args:
        out: The .html file.
        forecast: Dimensions (init, member, lead_time, *space), or its file.
        scores: Name to scores on the same cases, the method of the story first, then what it is compared with.
        truth: Verifying states: the opened data set that the forecast started from, or xarray laid out as the forecast
            without members.
        analysis, observations: What the forecast started from; laid out alike, observations missing where nothing is
            seen.
        analysis_scores: Name to scores of analyses, the story's own first.
        words: Paragraphs that open the section on the forecast.
        findings: Headline in words; the diagnosis of the first scores when absent.
        more_key_figures, more_sections: Appended to what follows from the scores.
        provenance: What made it; the forecast's own attributes are added.
        field, init: What the pictures show; every picture says which.

    Returns: the path written.
    Raises: InputError for files that are none, an unknown field or init, a place that cannot be written.
    """
    result = open_result(forecast)
    shown = view(result, field, init)
    sections = []
    if analysis is not None:
        sections.append(
            _analysis_section(open_result(analysis), shown, init, truth, observations, analysis_scores or {})
        )
    sections.append(_forecast_section(result, shown, init, truth, analysis, observations, tuple(words)))
    figures: list[KeyFigure] = []
    told = (
        []
        if findings is None
        else [item if isinstance(item, Finding) else Finding(item, grade(item)) for item in findings]
    )
    if scores:
        figures += key_figures(
            scores, shown.name if shown.name in next(iter(scores.values())).fields else _first_field(scores)
        )
        sections += score_sections(scores, shown.name)
        if findings is None:
            told = diagnosed(scores)
    if analysis_scores:
        figures += _analysis_figures(analysis_scores, shown.name)
    content = ReportContent(
        title=title,
        subtitle=subtitle or shown.title,
        findings=tuple(told),
        key_figures=(*figures, *more_key_figures),
        sections=(*sections, *more_sections),
        provenance={**(provenance or {}), **facts_of(result.attrs)},
        reproduce=tuple(reproduce),
        next_steps=tuple(next_steps),
    )
    return write_report(content, out)


def diagnosed(scores: Mapping[str, Scores]) -> list[Finding]:
    """What the first method does better than the others, and its diagnosis with the simple ones as baselines."""
    (_, main), *others = scores.items()
    good = [Finding(text, "good") for text in strengths(scores)]
    baselines = {name: one for name, one in others if not is_solver(name)}  # a perfect model is no baseline to beat
    return good + [Finding(text, grade(text)) for text in main.diagnosis(baselines)]


def score_sections(scores: Mapping[str, Scores], field: str | None = None) -> list[Section]:
    """Table, curves, spectra, rank histogram and spread against error, for each of the first fields."""
    (name, main), *others = scores.items()
    fields = [field] if field in main.fields else list(main.fields)[:MOST_FIELDS]
    ranks = {method: rank for rank, method in enumerate(scores)}
    lead = with_units("time since the first frame" if main.analysis else "lead time", main.time_units)
    compared: list[Table] = []
    conventions: list[Table] = []
    balance: list[Table] = []
    curves, powers, histograms, reliability, laws = [], [], [], [], []
    for one in fields:
        suffix = f" of {one}" if len(fields) > 1 else ""
        units = str(main.attributes.get("units", {}).get(one, "1"))
        compared.append(comparison_table(scores, one))
        conventions += [table for table in [conventions_table(scores, one)] if table is not None]
        balance += [table for table in [bands_table(scores, one)] if table is not None]
        charts = score_charts(scores, one)
        if charts:
            figure = score_curves(charts, lead, lyapunov_time=main.lyapunov_time, ranks=ranks)
            level = 100 * float(main.attributes.get("level", 0.95))
            caption = (
                f"Scores{suffix} over lead time; shaded, {level:.3g} % intervals over cases. "
                "Baselines are dashed, solvers dotted."
            )
            curves.append(_picture(figure, f"curves-{slug(one)}", caption))
        charts = spectra_charts(scores, one)
        if charts:
            caption = f"Power spectrum{suffix} of single members over wavenumber; the wide grey line is the truth."
            powers.append(_picture(spectra(charts, "wavenumber", ranks=ranks), f"spectra-{slug(one)}", caption))
        counts = rank_counts(main, one)
        if counts:
            caption = (
                f"Where the truth{suffix} ranks among the members of {name}: flat at the dashed line is reliable, "
                "a valley says too little spread, a hill too much, a slope a bias."
            )
            histograms.append(_picture(rank_histogram(counts), f"ranks-{slug(one)}", caption))
        pairs = spread_skill_curves(scores, one)
        if pairs:
            caption = (
                f"Spread against error of the mean{suffix}, over lead time; a reliable ensemble follows the diagonal."
            )
            picture = _picture(spread_skill(pairs, units, ranks), f"reliability-{slug(one)}", caption)
            reliability.append(replace(picture, narrow=True))
        diagrams = calibration_diagrams(scores, one, units)
        if diagrams:
            caption = (
                f"Calibration{suffix}, all lead times; a reliable ensemble follows the diagonals. Event: a value more than "
                "one climatological deviation above the mean. Spread by point: flatter for few members, reliable or not."
            )
            reliability.append(_picture(calibration(diagrams, ranks), f"calibration-{slug(one)}", caption))
        charts = density_charts(scores, one)
        if charts:
            caption = f"Probability density of the values{suffix}, members pooled; the wide grey line is the truth."
            laws.append(_picture(densities(charts, with_units(one, units), ranks=ranks), f"pdf-{slug(one)}", caption))
    title = "Comparison with baselines" if others else "Scores"
    sections = [Section(title, tables=tuple(compared), pictures=tuple(curves))]
    if (averages := horizons_table(scores)) is not None:
        sections.append(Section("Over horizons", tables=(averages,)))
    sections += further_sections(scores, lead, ranks)
    if conventions:
        sections.append(Section("Over all lead times", tables=tuple(conventions)))
    if powers or balance:
        sections.append(Section("Spectra", tables=tuple(balance), pictures=tuple(powers)))
    if laws:
        sections.append(Section("Distribution of the values", pictures=tuple(laws)))
    if histograms or reliability:
        sections.append(Section("Reliability of the ensemble", pictures=(*histograms, *reliability)))
    return sections


def comparison(scores: Mapping[str, Scores], *, title: str = "", subtitle: str = "") -> ReportContent:
    """Report on several methods on the same cases, the first one compared with the others.

    Raises: ValueError without scores.
    """
    if not scores:
        raise ValueError("A comparison needs the scores of at least one method.")
    main = next(iter(scores.values()))
    system = str(main.attributes.get("eddycast_system", ""))
    return ReportContent(
        title=title or ": ".join(part for part in (system, f"comparison of {len(scores)} methods") if part),
        subtitle=subtitle or ", ".join(scores),
        findings=tuple(diagnosed(scores)),
        key_figures=tuple(key_figures(scores, main.fields[0])),
        sections=tuple(score_sections(scores)),
        provenance=facts_of(main.attributes),
    )


def field_section(
    title: str,
    source: xr.Dataset | str | Path,
    truth: xr.Dataset | Dataset | None = None,
    field: str | None = None,
    init: int = 0,
) -> Section:
    """Pictures of a forecast or an analysis on its own: the given field, or the first few."""
    result = open_result(source)
    names = [field] if field is not None else field_names(result)[:MOST_FIELDS]
    pictures = []
    for name in names:
        shown = view(result, name, init)
        reference = _truth(truth, shown, init)
        figure = field_picture(shown, reference)
        pictures.append(
            _picture(figure, f"{slug(title)}-{slug(shown.name)}", _field_caption(shown, reference is not None))
        )
    return Section(title, pictures=tuple(pictures))


def facts_of(attributes: Mapping[Any, Any]) -> dict[str, str]:
    """Provenance among the attributes of a file or of scores: program, run, recipe, seed, system."""
    names = {
        "source": "Made by",
        "eddycast_system": "System",
        "eddycast_recipe": "Recipe",
        "eddycast_run": "Run",
        "eddycast_seed": "Seed",
        "eddycast_method": "Method",
        "eddycast_network_passes_forward": "Network passes forward, per member and case",
        "eddycast_network_passes_backward": "Network passes backward, per member and case",
        "history": "History",
    }
    return {words: str(attributes[name]) for name, words in names.items() if str(attributes.get(name, "")) != ""}


def _truth(truth: xr.Dataset | Dataset | None, shown: View, init: int) -> View | None:
    """The truth of a view, `None` where it covers less than half; of data only those frames are read."""
    if truth is None:
        return None
    if not isinstance(truth, xr.Dataset):
        truth = truth_of_view(truth, shown)
        if truth is None:
            return None
    found = aligned(truth, shown, init)
    if found is None:
        return None
    covered = np.isfinite(found.mean).any(axis=tuple(range(1, found.mean.ndim)))
    return found if covered.mean() >= 0.5 else None


def _forecast_section(
    result: xr.Dataset,
    shown: View,
    init: int,
    truth: xr.Dataset | Dataset | None,
    analysis: xr.Dataset | str | Path | None,
    observations: xr.Dataset | str | Path | None,
    words: tuple[str, ...],
) -> Section:
    """On a line, observations, analysis and forecast share one picture where they follow each other."""
    reference = _truth(truth, shown, init)
    before = None
    if analysis is not None and len(shown.space) == 1:
        before = _same_case(open_result(analysis), shown)
    whole = None if before is None else joined(before, shown)
    if whole is None:
        figure = field_picture(shown, reference)
        return Section(
            "Forecast", words, pictures=(_picture(figure, "forecast", _field_caption(shown, reference is not None)),)
        )
    past = _truth(truth, whole, init)
    panels: list[Panel] = panels_of(whole, past, observed(observations, shown))
    figure = space_time(whole, panels, mark=0.0)
    caption = (
        "From observations to forecast: left of the dashed line the analysis of what was observed, right of it the "
        "forecast, which sees nothing more. " + _field_caption(shown, past is not None)
    )
    return Section("From observations to forecast", words, pictures=(_picture(figure, "forecast", caption),))


def _analysis_section(
    result: xr.Dataset,
    shown: View,
    init: int,
    truth: xr.Dataset | Dataset | None,
    observations: xr.Dataset | str | Path | None,
    scores: Mapping[str, Scores],
) -> Section:
    seen = _same_case(result, shown, examples=1) or view(
        result, None, min(init, result.sizes.get("init", 1) - 1), examples=1
    )
    reference = _truth(truth, seen, init)
    figure = field_picture(seen, reference, observed(observations, seen))
    caption = "Observations and the analysis drawn from them. " + _field_caption(seen, reference is not None)
    pictures = [_picture(figure, "analysis", caption)]
    tables = []
    if scores:
        tables.append(_analysis_table(scores, seen.name))
    return Section("Analysis of the observations", tables=tuple(tables), pictures=tuple(pictures))


def _same_case(result: xr.Dataset, shown: View, examples: int = 2) -> View | None:
    """The view of the same trajectory and field; the same place along `init` does not suffice."""
    place = place_of(result, shown) if shown.name in result.data_vars else None
    return None if place is None else view(result, shown.name, place, examples=examples)


def _analysis_table(scores: Mapping[str, Scores], field: str) -> Table:
    """RMSE, CRPS and spread over error averaged over the window, a row for each method."""
    rows, values = [], []
    for name, one in scores.items():
        which = field if field in one.fields else one.fields[0]
        window = [_window_mean(one, score, which) for score in ("rmse_mean", "crps", "spread_skill")]
        deviation = float(one.data["climatology_std"].sel(field=which))
        cells = [window[0] / deviation if deviation > 0 else float("nan"), *window]
        values.append(cells[0])
        rows.append((name, str(one.members), *(number(value) for value in cells)))
    best = frozenset((row, 2) for row, value in enumerate(values) if len(values) > 1 and value == min(values))
    header = ("Method", "Members", "RMSE / climatological deviation", "RMSE", "CRPS", "Spread / error")
    return Table(header, tuple(rows), f"Field {field}, root mean square or mean over the window and all cases.", best)


def _window_mean(scores: Scores, name: str, field: str) -> float:
    if name not in scores.data:
        return float("nan")
    values = scores.series(name, field)
    return float((values**2).mean() ** 0.5) if name == "rmse_mean" else float(values.mean())


def _analysis_figures(scores: Mapping[str, Scores], field: str) -> list[KeyFigure]:
    name, one = next(iter(scores.items()))
    which = field if field in one.fields else one.fields[0]
    deviation = float(one.data["climatology_std"].sel(field=which))
    ratio = _window_mean(one, "rmse_mean", which) / deviation if deviation > 0 else float("nan")
    return [KeyFigure("Error of the analysis", number(ratio), f"climatological deviations, {name}")]


def _first_field(scores: Mapping[str, Scores]) -> str:
    return next(iter(scores.values())).fields[0]


def _field_caption(shown: View, truth: bool) -> str:
    parts = [f"{shown.title}."]
    if shown.spread is not None:
        parts.append(
            f"Spread is the standard deviation of {shown.members} members"
            + ("; it should be as large as the error." if truth else ".")
        )
    if shown.thinned > 1:
        parts.append(f"One in {shown.thinned} lead times is drawn.")
    return " ".join(parts)


def _picture(figure: Figure, name: str, caption: str) -> Picture:
    return Picture(inline_svg(figure, name), caption)
