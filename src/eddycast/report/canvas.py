"""Canvas of every picture: palette, style, units in words, and bytes that are the same each time they are drawn.

Only matplotlib's object interface is used (`Figure` with an Agg canvas), so nothing depends on a display, on a backend
or on what the caller does with pyplot; style settings hold inside `styled()` and are put back afterwards.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure

with warnings.catch_warnings():
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # cmocean builds its maps in a way that matplotlib 3.11 frowns at
    import cmocean

INK = "#18222d"  # text and axes; becomes the page's own text colour where a picture is embedded
MISSING = "#8c929a"  # land, and whatever else has no value
GRID = "#8c929a"
LINES = (
    "#2f7fd1",
    "#e0702c",
    "#2a9d6f",
    "#a06cc9",
    "#d2475a",
    "#1a9cb0",
    "#b38a1d",
    "#7d8590",
)  # legible on light and on dark

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 4.0,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "text.color": INK,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.7,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": None,
    "savefig.transparent": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "eddycast",
    "pdf.fonttype": 42,
    "image.interpolation": "nearest",
    "path.simplify": True,
}


@contextmanager
def styled() -> Iterator[None]:
    """The package's style for the pictures drawn inside; the caller's settings come back on leaving."""
    with matplotlib.rc_context(cast(Any, _STYLE)):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Figure of that size in inches, laid out so that labels do not overlap, on an Agg canvas."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure, suffix: str, dpi: int = 150) -> bytes:
    """The picture as PNG, PDF or SVG; the same figure gives the same bytes, for no date is written."""
    metadata: dict[str, dict[str, str | None]] = {
        ".png": {"Software": "eddycast"},
        ".pdf": {"CreationDate": None, "Creator": "eddycast"},
        ".svg": {"Date": None, "Creator": "eddycast"},
    }
    stream = io.BytesIO()
    with styled():
        figure.savefig(stream, format=suffix[1:], dpi=dpi, metadata=metadata[suffix])
    return stream.getvalue()


def inline_svg(figure: Figure, name: str, dpi: int = 130) -> str:
    """The picture as an `<svg>` element whose ink is the page's text colour and whose paper is the page's.

    Args:
        figure: Picture drawn with `INK`; images inside it are embedded as PNG.
        name: Prefix of the element's identifiers, unique in the page.
    """
    figure.patch.set_facecolor("none")
    text = encode(figure, ".svg", dpi).decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:\w+)?)="[^"]*"', "", text)  # namespaces are implied inside HTML
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'xlink:href="(#?)', lambda match: f'href="#{name}-' if match[1] else 'href="', text)
    text = text.replace("url(#", f"url(#{name}-")
    text = re.sub(r'(<svg[^>]*?)\s(width|height)="[^"]*pt"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?)\s(width|height)="[^"]*pt"', r"\1", text)
    # Glyphs carry no fill of their own in SVG: black unless the page says otherwise.
    return text.replace(INK, "currentColor").replace("<svg ", '<svg role="img" fill="currentColor" ', 1)


def pretty_units(units: str) -> str:
    """`m s-1` as it is typeset, the degree signs; empty where there is no unit."""
    known = {"1": "", "": "", "degC": "°C", "celsius": "°C", "kelvin": "K", "degrees": "°", "degree": "°"}
    if units in known:
        return known[units]
    compass = re.fullmatch(r"degrees?_?([nesw])\w*", units.lower())
    if compass:
        return "°" + compass[1].upper()
    return re.sub(r"(?<=[A-Za-z])\^?(\*\*)?(-?\d+)", r"$^{\2}$", plain(units))


def with_units(name: str, units: str) -> str:
    """Axis label: `lead time (days)`; the bare name where there is no unit."""
    unit = pretty_units(units)
    return f"{plain(name)} ({unit})" if unit else plain(name)


def plain(text: str) -> str:
    """A user's words as they are: a dollar sign does not start a formula."""
    return text.replace("$", r"\$")


def colour_scale(values: np.ndarray, hint: str = "") -> tuple[Colormap, float, float]:
    """Colour map with its lower and upper end for the finite values of a field.

    Values on both sides of zero get a diverging map with zero in its middle, others a sequential one: thermal where
    `hint` (name, standard name, units) speaks of temperature. The ends are the 0.2 and 99.8 percentiles, so that one
    wild point does not bleach a picture.
    """
    finite = values[np.isfinite(values)]
    low, high = (float(q) for q in np.percentile(finite, [0.2, 99.8])) if finite.size else (0.0, 1.0)
    if low < 0 < high and min(-low, high) > 0.15 * max(-low, high):
        top = max(-low, high)
        return _map(cmocean.cm.balance), -top, top  # pyright: ignore[reportAttributeAccessIssue]
    if not high > low:
        width = max(abs(low), 1.0) * 1e-3
        low, high = low - width, high + width
    warm = re.search(r"temperature|degc|celsius|kelvin|\bsst\b|\bk\b", hint.lower())
    chosen = cmocean.cm.thermal if warm else cmocean.cm.haline  # pyright: ignore[reportAttributeAccessIssue]
    return _map(chosen), low, high


def spread_scale(values: np.ndarray) -> tuple[Colormap, float, float]:
    """Colour map from zero upwards for what cannot be negative: ensemble spread, size of an error."""
    finite = values[np.isfinite(values)]
    top = float(np.percentile(finite, 99.8)) if finite.size else 1.0
    return _map(cmocean.cm.amp), 0.0, top if top > 0 else 1.0  # pyright: ignore[reportAttributeAccessIssue]


def _map(colours: Colormap) -> Colormap:
    return colours.with_extremes(bad=(*to_rgb(MISSING), 0.45))


def lyapunov_axis(axes: Axes, lyapunov_time: float | None) -> None:
    """Second axis above, counting the lead time in Lyapunov times; none where that time is unknown."""
    if lyapunov_time is None or not lyapunov_time > 0:
        return
    scale = float(lyapunov_time)
    second = axes.secondary_xaxis("top", functions=(lambda t: np.asarray(t) / scale, lambda t: np.asarray(t) * scale))
    second.set_xlabel("Lyapunov times", fontsize=8.0, labelpad=3, loc="right")
    second.tick_params(labelsize=7.5, length=2.5, pad=1)


def is_solver(name: str) -> bool:
    """Whether a method is the numerical solver or a perfect model, by its name."""
    return re.search(r"solver|simulator|system:|oracle|perfect model", name.lower()) is not None


def line_style(name: str, rank: int) -> dict[str, Any]:
    """Colour and dashes of a method's line; baselines are dashed, a numerical solver is dotted."""
    lower = name.lower()
    dashes = "-"
    if re.search(r"persist|climat|interpol|baseline", lower):
        dashes = "--"
    elif is_solver(name):
        dashes = ":"
    return {"color": LINES[rank % len(LINES)], "linestyle": dashes}
