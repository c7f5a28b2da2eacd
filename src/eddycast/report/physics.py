"""Sections of a report for physics checks, and for scores in a published convention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from eddycast.report.canvas import inline_svg
from eddycast.report.curves import Chart, Curve, score_curves
from eddycast.report.html import Picture, Section, Table
from eddycast.report.scorecard import number, time_words

if TYPE_CHECKING:
    from eddycast.evaluation import Scores


def further_sections(scores: Mapping[str, Scores], lead: str, ranks: Mapping[str, int]) -> list[Section]:
    """What an evaluation adds only where it was asked for, or where the fields allow it; empty where there is neither.

    Args:
        lead: Label of the axis of lead times.
        ranks: Colour number of each method.
    """
    return [*_convention(scores, lead, ranks), *_physics(scores, lead, ranks)]


def _convention(scores: Mapping[str, Scores], lead: str, ranks: Mapping[str, int]) -> list[Section]:
    """Table and curves; methods in different units go to different sections."""
    from eddycast.evaluation.convention_table import TITLES, UNITS  # and with it torch, which pictures do without

    sections = []
    for name in dict.fromkeys(str(one.attributes.get("convention", "")) for one in scores.values()):
        shown = {
            method: one
            for method, one in scores.items()
            if "convention_means" in one.data and one.attributes["convention"] == name
        }
        if not shown:
            continue
        rows = []
        for method, one in shown.items():
            for pooling, words in (("trajectories", "each case on its own"), ("pooled", "cases pooled")):
                rows.append((method, words, *(_between(*one.in_convention(measure, pooling)) for measure in TITLES)))
        caption = (
            f"All fields and points alike, {UNITS.get(name, '')}, mean over lead times, with intervals over cases. CRPS and "
            "spread over skill (SSR) depend on the number of members as published; the fair ones do not."
        )
        table = Table(("Method", "Average", *TITLES.values()), tuple(rows), caption)
        charts = []
        for measure in ("crps", "mse", "ssr"):
            curves = tuple(
                Curve(method, one.lead_times, *(_curve(one, measure, end) for end in ("", "_low", "_high")))
                for method, one in shown.items()
            )
            guide, label = (1.0, "reliable") if measure == "ssr" else (None, "")
            charts.append(Chart(TITLES[measure], curves, "1", guide, label, better="" if measure == "ssr" else "lower"))
        picture = Picture(
            inline_svg(score_curves(charts, lead, ranks=ranks), f"convention-{name}"),
            "CRPS, MSE of the mean and SSR in this convention over lead time, each case on its own.",
        )
        sections.append(Section(f"In the convention {name}", tables=(table,), pictures=(picture,)))
    return sections


def _curve(scores: Scores, measure: str, end: str) -> np.ndarray:
    values = scores.data[f"convention_leads{end}"].sel(measure=measure, pooling="trajectories").values
    return np.where(np.isfinite(values), values, np.nan)


def _physics(scores: Mapping[str, Scores], lead: str, ranks: Mapping[str, int]) -> list[Section]:
    from eddycast.evaluation.physics import QUANTITIES

    shown = {method: one for method, one in scores.items() if "physics_member" in one.data}
    names = list(dict.fromkeys(str(name) for one in shown.values() for name in one.data["quantity"].values))
    charts, rows = [], []
    for name in names:
        curves = []
        for method, one in shown.items():
            if name not in one.data["quantity"].values:
                continue
            data = one.data.sel(quantity=name)
            if not curves:
                curves.append(Curve("truth", one.lead_times, data["physics_truth"].values))
            parts = (data[f"physics_member{end}"].values for end in ("", "_low", "_high"))
            values = [np.where(np.isfinite(part), part, np.nan) for part in parts]
            curves.append(Curve(method, one.lead_times, *values))
            ends = [
                f"{number(float(data['physics_member'].values[place]))} ({number(float(data['physics_truth'].values[place]))})"
                for place in (0, -1)
            ]
            rows.append((QUANTITIES[name].title, method, *ends, number(float(data["physics_error"].values[-1]))))
        charts.append(Chart(QUANTITIES[name].title, tuple(curves)))
    if not charts:
        return []
    times = next(iter(shown.values())).lead_times
    first, last = (time_words(next(iter(shown.values())), float(times[place])) for place in (0, -1))
    header = ("Quantity", "Method", f"At {first} (truth)", f"At {last} (truth)", "Relative error, last")
    caption = (
        "Means over cases and members. Relative error: mean distance of a member from the truth over the mean of the truth; none for "
        "residuals, which should be no larger than the truth's."
    )
    colours = {"truth": len(ranks), **ranks}
    picture = Picture(
        inline_svg(score_curves(charts, lead, ranks=colours), "physics"),
        "Physics checks over lead time, members and truth, with intervals over cases.",
    )
    return [Section("Physics", tables=(Table(header, tuple(rows), caption),), pictures=(picture,))]


def _between(value: float, low: float, high: float) -> str:
    ends = f" [{number(low)}, {number(high)}]" if np.isfinite(low) and np.isfinite(high) else ""
    return number(value) + ends
