"""Pictures of fields: space-time strips in 1-D, maps at several leads in 2-D (and of the middle plane in 3-D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine

from eddycast.errors import InputError
from eddycast.report.canvas import (
    INK,
    MISSING,
    colour_scale,
    lyapunov_axis,
    new_figure,
    plain,
    spread_scale,
    styled,
    with_units,
)
from eddycast.report.lines import time_lines
from eddycast.report.view import SpaceAxis, View

_MOST_DOTS = 20_000  # observations above this number are drawn as an image


@dataclass(frozen=True)
class Panel:
    """One row of a picture: values (lead_time, *space), or observations, drawn as dots where they are not missing.

    `scale` joins rows to one colour bar: `state` or `spread`. `space` and `leads` are given where they differ from the
    view's.
    """

    title: str
    values: np.ndarray
    scale: str = "state"
    dots: bool = False
    space: tuple[SpaceAxis, ...] | None = None
    leads: np.ndarray | None = None


def panels_of(view: View, truth: View | None = None, observations: View | None = None) -> list[Panel]:
    """Rows of a picture from top to bottom: truth, observations, mean, members, spread and the error of the mean."""
    rows = []
    word = {"analysis": "analysis", "joined": "analysis and forecast"}.get(view.kind, "forecast")
    if truth is not None:
        rows.append(Panel("truth", truth.mean))
    if observations is not None:
        counted = int(np.isfinite(observations.mean).sum())
        share = counted / max(1, observations.mean.size)
        text = f"observations ({100 * share:.3g} % of points)" if counted else "observations (none in this window)"
        rows.append(Panel(text, observations.mean, dots=True, space=observations.space, leads=observations.leads))
    if view.members > 1:
        rows.append(Panel(f"{word}: mean of {view.members} members", view.mean))
        rows += [Panel(f"{word}: member {i + 1}", values) for i, values in enumerate(view.examples)]
    else:
        rows.append(Panel(word, view.mean))
    if view.spread is not None:
        rows.append(Panel("spread of the members", view.spread, "spread"))
    if truth is not None:
        name = "error of the mean" if view.members > 1 else f"error of the {word}"
        rows.append(Panel(f"{name}, absolute", np.abs(view.mean - truth.mean), "spread"))
    return rows


def field_picture(view: View, truth: View | None = None, observations: View | None = None, *, leads: int = 5) -> Figure:
    """Picture of a forecast or an analysis, of the kind that its dimension asks for.

    Args:
        view: What to draw, with one axis of space (strips) or two (maps at `leads` lead times).
        truth: The same case of the truth, at the same leads.
        observations: What was seen of it, missing elsewhere; may have a grid and times of its own.
    """
    if len(view.space) == 1:
        return space_time(view, panels_of(view, truth, observations))
    if len(view.space) == 2:
        return maps(view, panels_of(view, truth, observations), leads)
    raise InputError(f"Field {view.name!r} has {len(view.space)} dimensions of space; 1 to 3 can be drawn.")


def space_time(view: View, panels: Sequence[Panel], *, mark: float | None = None) -> Figure:
    """Space-time (Hovmoeller) strips under one time axis: lead time to the right, space upwards.

    Rows of one scale share colours and colour bar. `mark` draws a line at that time (end of the observations). A field
    of one point becomes lines over time instead.
    """
    if view.space[0].values.size == 1:
        return time_lines(view, panels, _time_label(view), mark=mark)
    with styled():
        height = 0.98 * len(panels) + 0.85
        figure = new_figure(9.6, height)
        rows = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        _pack(figure)
        scales = _scales(view, panels)
        for axes, panel in zip(rows, panels, strict=True):
            leads = view.leads if panel.leads is None else panel.leads
            space = (panel.space or view.space)[0]
            time = SpaceAxis("lead_time", view.lead_units, leads)
            axes.set_title(panel.title)
            if panel.dots:
                positions, heights = np.meshgrid(leads, space.values, indexing="ij")
                _dots(axes, positions, heights, panel.values, scales["state"], (time, space))
            else:
                draw_image(axes, panel.values.T, time, space, scales[panel.scale])
            if mark is not None:
                axes.axvline(mark, color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        low, high = _limits(view.space[0].values)
        rows[0].set_ylim((high, low) if view.space[0].downwards else (low, high))
        rows[0].set_xlim(*_limits(_all_leads(view, panels)))
        rows[-1].set_xlabel(_time_label(view))
        figure.supylabel(with_units(view.space[0].name, view.space[0].units), fontsize=8.5, color=INK)
        if view.lyapunov_time:
            rows[0].set_title(panels[0].title, y=1.0, pad=17)
            lyapunov_axis(rows[0], view.lyapunov_time)
        _colour_bars(figure, view, panels, scales, rows[:, None])
        figure.suptitle(plain(view.title), x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def maps(view: View, panels: Sequence[Panel], leads: int = 5) -> Figure:
    """Maps: a row for each panel, a column for each of `leads` lead times spread over the file."""
    with styled():
        across, upwards, transpose = orient(view.space)
        aspect = map_aspect(across, upwards)
        ratio = aspect * np.ptp(_limits(upwards.values)) / np.ptp(_limits(across.values)) if aspect else 0.45
        ratio = float(np.clip(ratio, 0.25, 2.5))
        # Wide fields get fewer and wider columns, narrow ones narrower columns, so that the maps fill their places.
        chosen = pick_leads(view, leads if ratio > 0.5 else min(leads, 3))
        width = min(9.0 / len(chosen), 3.0, 2.6 / ratio)
        figure = new_figure(max(width * len(chosen) + 1.4, 4.8), (width * ratio + 0.3) * len(panels) + 0.75)
        grid = figure.subplots(len(panels), len(chosen), sharex=True, sharey=True, squeeze=False)
        _pack(figure)
        scales = _scales(view, panels)
        for row, panel in zip(grid, panels, strict=True):
            space = panel.space or view.space
            horizontal, vertical, _ = orient(space)
            for column, axes in zip(chosen, row, strict=True):
                nearest = column if panel.leads is None else int(np.abs(panel.leads - view.leads[column]).argmin())
                values = panel.values[nearest].T if transpose else panel.values[nearest]
                if panel.dots:
                    x, y = np.meshgrid(horizontal.values, vertical.values)
                    _dots(axes, x, y, values, scales["state"], (horizontal, vertical))
                else:
                    draw_image(axes, values, horizontal, vertical, scales[panel.scale])
                axes.set_aspect(aspect or "auto")
            row[0].set_title(panel.title)
        for column, axes in zip(chosen, grid[0], strict=True):
            when = lead_words(view, column)
            axes.set_title(f"{when}\n{panels[0].title if axes is grid[0, 0] else ''}", linespacing=1.5)
            axes.set_xlim(*_limits(across.values))
        low, high = _limits(upwards.values)
        grid[0, 0].set_ylim((high, low) if upwards.downwards else (low, high))
        figure.supxlabel(with_units(across.name, across.units), fontsize=8.5, color=INK)
        figure.supylabel(with_units(upwards.name, upwards.units), fontsize=8.5, color=INK)
        _colour_bars(figure, view, panels, scales, grid)
        figure.suptitle(plain(view.title), x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def joined(analysis: View, forecast: View) -> View | None:
    """Analysis and the forecast that starts in it as one view, with the lead time negative before the forecast.

    `None` when they are not of one case, one field and one step, or when the forecast does not start within the
    analysis.
    """
    same = (analysis.name, analysis.trajectory, analysis.plane) == (forecast.name, forecast.trajectory, forecast.plane)
    offset = forecast.offset(analysis)
    if not same or offset is None or not forecast.step:
        return None
    if analysis.mean.shape[1:] != forecast.mean.shape[1:] or analysis.thinned != forecast.thinned:
        return None
    leads = analysis.leads - offset
    before = leads < forecast.leads[0] - 1e-3 * forecast.step
    if not before.any() or forecast.leads[0] - leads[before].max() > 1.5 * forecast.step * forecast.thinned:
        return None
    kept = min(len(analysis.examples), len(forecast.examples))
    spread = None
    if analysis.spread is not None and forecast.spread is not None:
        spread = np.concatenate([analysis.spread[before], forecast.spread])
    return replace(
        forecast,
        kind="joined",
        mean=np.concatenate([analysis.mean[before], forecast.mean]),
        spread=spread,
        examples=np.concatenate([analysis.examples[:kept, before], forecast.examples[:kept]], axis=1),
        leads=np.concatenate([leads[before], forecast.leads]),
        valid=(),
    )


def pick_leads(view: View, leads: int) -> list[int]:
    """Indices of at most that many lead times, from the first after the start to the last."""
    first = 1 if view.leads.size > leads and view.kind == "forecast" and view.leads[0] == 0 else 0
    return sorted({int(i) for i in np.linspace(first, view.leads.size - 1, leads).round()})


def lead_words(view: View, index: int) -> str:
    """`lead 3 months` or, with a calendar, `1990-05-16`."""
    if view.valid:
        return view.valid[index]
    unit = "" if view.lead_units in ("1", "") else f" {view.lead_units}"
    return f"{'lead' if view.kind == 'forecast' else 'time'} {view.leads[index]:.4g}{unit}"


def orient(space: Sequence[SpaceAxis]) -> tuple[SpaceAxis, SpaceAxis, bool]:
    """Axis across, axis upwards, and whether values (*space) must be transposed to (upwards, across).

    Longitude and `x` lie across; with other names the last axis does.
    """
    first, last = space
    swapped = (
        first.longitude
        or last.latitude
        or (first.name.lower(), last.name.lower()) in (("x", "y"), ("x", "z"), ("y", "z"))
    )
    return (first, last, True) if swapped else (last, first, False)


def map_aspect(across: SpaceAxis, upwards: SpaceAxis) -> float | None:
    """Height of a unit upwards over the width of a unit across; `None` to fill the place.

    That is so where the two cannot be compared, or where the field is too long and narrow to be drawn true to scale.

    On latitude and longitude a degree of longitude shrinks with the cosine of the middle latitude.
    """
    if min(across.values.size, upwards.values.size) < 2:
        return None
    aspect = 1.0
    if across.longitude and upwards.latitude:
        middle = 0.5 * (upwards.values.min() + upwards.values.max())
        aspect = float(1 / max(np.cos(np.deg2rad(middle)), 0.3))
    elif across.units != upwards.units:
        return None
    return aspect if 0.15 <= aspect * np.ptp(upwards.values) / np.ptp(across.values) <= 5 else None


Scale = tuple[Colormap, float, float]


def draw_image(
    axes: Axes, values: np.ndarray, across: SpaceAxis, upwards: SpaceAxis, scale: Scale
) -> AxesImage | QuadMesh:
    """Draw values (upwards, across) as they are: an image on even axes, cells of different sizes on uneven ones.

    Missing values (land) keep the colour of the paper's grey; latitudes that fall with the index are turned upwards.
    """
    colours, low, high = scale
    x, y = across.values, upwards.values
    if x.size > 1 and x[0] > x[-1]:
        x, values = x[::-1], values[:, ::-1]
    if y.size > 1 and y[0] > y[-1]:
        y, values = y[::-1], values[::-1]
    shown = np.ma.masked_invalid(values)
    if _even(x) and _even(y):
        extent = (*_limits(x), *_limits(y))
        return axes.imshow(
            shown,
            origin="lower",
            extent=extent,
            aspect="auto",
            cmap=colours,
            vmin=low,
            vmax=high,
            interpolation="nearest",
        )
    axes.set_facecolor((*to_rgb(MISSING), 0.45))
    return axes.pcolormesh(x, y, shown, shading="nearest", cmap=colours, vmin=low, vmax=high, rasterized=True)


def _dots(
    axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, scale: Scale, axis: tuple[SpaceAxis, SpaceAxis]
) -> None:
    seen = np.isfinite(values)
    axes.set_facecolor((*to_rgb(MISSING), 0.13))
    colours, low, high = scale
    if not seen.any():
        axes.text(
            0.5, 0.5, "no observations", transform=axes.transAxes, ha="center", va="center", fontsize=8, color=INK
        )
    elif seen.sum() > _MOST_DOTS or seen.mean() > 0.5:
        draw_image(
            axes, values.T if values.shape == (axis[0].values.size, axis[1].values.size) else values, *axis, scale
        )
    else:
        size = float(np.clip(16_000 / values.size, 1.6, 16))
        axes.scatter(
            x[seen],
            y[seen],
            c=values[seen],
            s=size,
            marker="s",
            linewidths=0,
            cmap=colours,
            vmin=low,
            vmax=high,
            rasterized=True,
        )


def _even(values: np.ndarray) -> bool:
    steps = np.diff(values)
    return values.size < 3 or bool(np.ptp(steps) <= 1e-3 * np.abs(steps).mean())


def _limits(values: np.ndarray) -> tuple[float, float]:
    """Outer edges of the cells around sorted points."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if ordered.size == 1:
        return float(ordered[0] - 0.5), float(ordered[0] + 0.5)
    return (
        float(ordered[0] - 0.5 * (ordered[1] - ordered[0])),
        float(ordered[-1] + 0.5 * (ordered[-1] - ordered[-2])),
    )


def _all_leads(view: View, panels: Sequence[Panel]) -> np.ndarray:
    return np.unique(np.concatenate([view.leads if panel.leads is None else panel.leads for panel in panels]))


def _pack(figure: Figure) -> None:
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(hspace=0.01, h_pad=0.025, wspace=0.01, w_pad=0.03)


def _scales(view: View, panels: Sequence[Panel]) -> dict[str, Scale]:
    """Colours of each group; the truth sets those of all states, so that a wild member shows as such."""
    state = [panel.values for panel in panels if panel.scale == "state" and not panel.dots] or [panels[0].values]
    truths = [panel.values for panel in panels if panel.title == "truth"] or state
    spread = [panel.values for panel in panels if panel.scale == "spread"]
    return {
        "state": colour_scale(np.concatenate([values.ravel() for values in truths]), view.hint),
        "spread": spread_scale(np.concatenate([values.ravel() for values in spread]) if spread else np.zeros(1)),
    }


def _colour_bars(
    figure: Figure, view: View, panels: Sequence[Panel], scales: dict[str, Scale], grid: np.ndarray
) -> None:
    for group in ("state", "spread"):
        rows = [index for index, panel in enumerate(panels) if panel.scale == group]
        if not rows:
            continue
        colours, low, high = scales[group]
        mappable = ScalarMappable(Normalize(low, high), colours)
        name = view.label if group == "state" else ", ".join(panels[index].title.split()[0] for index in rows)
        bar = figure.colorbar(
            mappable, ax=list(grid[rows].ravel()), fraction=0.03, pad=0.012, aspect=max(8, 9 * len(rows))
        )
        bar.set_label(with_units(name, view.units), fontsize=8)
        bar.outline.set_linewidth(0.4)  # pyright: ignore[reportCallIssue]


def _time_label(view: View) -> str:
    name = {"analysis": "time since the first frame", "joined": "lead time, observations before 0"}.get(
        view.kind, "lead time"
    )
    label = with_units(name, view.lead_units)
    return f"{label}, from {view.valid[0]} to {view.valid[-1]}" if view.valid else label
