"""Moving pictures of a forecast or an analysis: GIF through pillow, MP4 through PyAV (extra `video`)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from PIL import Image

from eddycast.errors import InputError
from eddycast.files import write_bytes
from eddycast.report.canvas import INK, LINES, colour_scale, new_figure, plain, spread_scale, styled, with_units
from eddycast.report.fields import draw_image, lead_words, map_aspect, orient, panels_of
from eddycast.report.view import SpaceAxis, View, aligned, lead_times, open_result, view

_POINTS = 320  # most points of an axis in a movie's frame

Update = Callable[[int], list[Artist]]


def animate(
    source: xr.Dataset | str | Path,
    out: str | Path,
    *,
    field: str | None = None,
    init: int = 0,
    truth: xr.Dataset | str | Path | None = None,
    frames: int = 90,
    rate: int = 12,
) -> Path:
    """Write a movie over lead time: lines of all that a 1-D field's members do, maps side by side in 2-D and 3-D.

    Args:
        frames: Most frames; a longer forecast is thinned evenly, its first and last lead times kept.
        rate: Frames per second.

    Raises: InputError for a suffix other than .gif and .mp4, for .mp4 without the extra `video`, and for what `view`
    refuses.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise InputError(f"{path}: a movie ends in .gif or .mp4, not {suffix or 'nothing'!r}.")
    if suffix == ".mp4":
        _require_video(path)
    whole = view(source, field, init, examples=8, leads=_chosen(source, frames), points=_POINTS)
    reference = None if truth is None else aligned(truth, whole, init, points=_POINTS)
    images = list(_frames(whole, reference))
    ramps = (
        []
        if len(whole.space) == 1
        else [colour_scale((reference or whole).mean, whole.hint)[0], spread_scale(np.ones(1))[0]]
    )
    encoded = _gif(images, rate, ramps) if suffix == ".gif" else _mp4(images, rate)
    write_bytes(path, encoded)
    return path


def _chosen(source: xr.Dataset | str | Path, frames: int) -> np.ndarray:
    leads, _ = lead_times(open_result(source))
    return leads[np.unique(np.linspace(0, leads.size - 1, min(frames, leads.size)).round().astype(int))]


def _frames(whole: View, truth: View | None) -> Iterator[Image.Image]:
    """Draw what stays once, and over it what moves for each frame."""
    with styled():
        one_point = len(whole.space) == 1 and whole.space[0].values.size == 1
        draw = _growing if one_point else _lines if len(whole.space) == 1 else _maps
        figure, update = draw(whole, truth)
        canvas = cast(FigureCanvasAgg, figure.canvas)
        for artist in update(0):
            artist.set_animated(True)
        canvas.draw()
        background = canvas.copy_from_bbox(figure.bbox)
        for number in range(whole.leads.size):
            canvas.restore_region(background)
            for artist in update(number):
                figure.draw_artist(artist)
            yield Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _growing(whole: View, truth: View | None) -> tuple[Figure, Update]:
    """A field of one point: its lines over time, drawn as far as the movie has come."""
    time = SpaceAxis("time" if whole.kind == "analysis" else "lead time", whole.lead_units, whole.leads)

    def on_time(values: np.ndarray) -> np.ndarray:
        """(*few, lead_time, 1) to (*few, frame, lead_time), missing after the frame."""
        later = np.triu(np.ones((len(whole.leads), len(whole.leads)), dtype=bool), k=1)
        return np.where(later, np.nan, np.moveaxis(values, -1, -2))

    known = None if truth is None else replace(truth, mean=on_time(truth.mean))
    return _lines(replace(whole, space=(time,), mean=on_time(whole.mean), examples=on_time(whole.examples)), known)


def _lines(whole: View, truth: View | None) -> tuple[Figure, Update]:
    """Members as thin lines, their mean, the truth."""
    axis = whole.space[0]
    figure = new_figure(7.6, 3.4)
    axes = figure.subplots()
    values = np.concatenate([whole.examples.ravel(), (truth or whole).mean.ravel()])
    finite = values[np.isfinite(values)]
    low, high = (float(q) for q in np.percentile(finite, [0.1, 99.9])) if finite.size else (0.0, 1.0)
    margin = 0.12 * (high - low) or 1.0
    axes.set(xlim=(axis.values.min(), axis.values.max()), ylim=(low - margin, high + margin))
    axes.set_xlabel(with_units(axis.name, axis.units))
    axes.set_ylabel(with_units(whole.label, whole.units))
    clock = axes.set_title(" ")
    figure.suptitle(plain(whole.title), x=0.01, ha="left", fontsize=10, color=INK)
    thin = [
        axes.plot(axis.values, axis.values * 0, color=LINES[0], linewidth=0.8, alpha=0.45)[0] for _ in whole.examples
    ]
    thin[0].set_label("members" if whole.members > 1 else whole.kind)
    lines: list[tuple[Any, np.ndarray]] = [(line, states) for line, states in zip(thin, whole.examples, strict=True)]
    if whole.members > 1:
        mean = axes.plot(axis.values, axis.values * 0, color=LINES[0], linewidth=2.2, label=f"mean of {whole.members}")[
            0
        ]
        lines.append((mean, whole.mean))
    if truth is not None:
        line = axes.plot(
            axis.values, axis.values * 0, color=INK, linewidth=1.6, linestyle=(0, (4, 1.5)), label="truth"
        )[0]
        lines.append((line, truth.mean))
    axes.legend(loc="lower right", ncols=3, bbox_to_anchor=(1.0, 1.0), borderaxespad=0.1)

    def update(number: int) -> list[Artist]:
        for line, states in lines:
            line.set_ydata(states[number])
        clock.set_text(lead_words(whole, number))
        return [line for line, _ in lines] + [clock]

    return figure, update


def _maps(whole: View, truth: View | None) -> tuple[Figure, Update]:
    """Truth, mean, a member, spread: maps side by side, each with its own colour bar below."""
    panels = [panel for panel in panels_of(whole, truth) if not panel.title.startswith("error")]
    panels = [panel for panel in panels if not panel.title.endswith(tuple(f"member {i}" for i in range(2, 100)))]
    across, upwards, transpose = orient(whole.space)
    aspect = map_aspect(across, upwards)
    ratio = (aspect or 1.0) * np.ptp(upwards.values) / max(float(np.ptp(across.values)), 1e-30) if aspect else 0.8
    ratio = float(np.clip(ratio, 0.3, 2.0))
    width = min(2.7, 2.9 / ratio) if len(panels) > 2 else min(3.6, 3.6 / ratio)
    figure = new_figure(width * len(panels) + 0.5, width * ratio + 1.35)
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    spread = [panel.values for panel in panels if panel.scale == "spread"]
    scales = {
        "state": colour_scale((truth or whole).mean, whole.hint),
        "spread": spread_scale(np.stack(spread) if spread else np.zeros(1)),
    }
    shown: list[tuple[Any, np.ndarray]] = []
    for axes, panel in zip(grid, panels, strict=True):
        values = panel.values.transpose(0, 2, 1) if transpose else panel.values
        drawn = draw_image(axes, values[0], across, upwards, scales[panel.scale])
        flips = tuple(
            slice(None, None, -1) if a.values.size > 1 and a.values[0] > a.values[-1] else slice(None)
            for a in (upwards, across)
        )
        shown.append((drawn, np.ma.masked_invalid(values[(slice(None), *flips)])))
        axes.set_title(panel.title.removeprefix("forecast: ").removeprefix("analysis: "))
        axes.set_xlabel(with_units(across.name, across.units))
        axes.set_aspect(aspect or "auto")
        bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", fraction=0.06, pad=0.03, aspect=28)
        bar.set_label(with_units("spread" if panel.scale == "spread" else whole.label, whole.units), fontsize=8)
        bar.ax.locator_params(nbins=5)
    grid[0].set_ylabel(with_units(upwards.name, upwards.units))
    figure.suptitle(plain(whole.title), x=0.01, ha="left", fontsize=10, color=INK)
    clock = figure.text(0.99, 0.985, " ", ha="right", va="top", fontsize=10, weight="bold")

    def update(number: int) -> list[Artist]:
        for drawn, values in shown:
            drawn.set_array(values[number].ravel() if isinstance(drawn, QuadMesh) else values[number])
        clock.set_text(lead_words(whole, number))
        return [drawn for drawn, _ in shown] + [clock]

    return figure, update


def _gif(images: list[Image.Image], rate: int, ramps: list[Colormap]) -> bytes:
    """Frames of one palette, from a few of them and the colour maps: colours do not flicker."""
    width, height = images[0].size
    sample = Image.new("RGB", (width, 4 * height), "white")
    for place, number in enumerate((0, len(images) // 2, len(images) - 1)):
        sample.paste(images[number], (0, place * height))
    for row, colours in enumerate(ramps):
        ramp = (colours(np.linspace(0, 1, width))[None, :, :3] * 255).astype(np.uint8)
        band = Image.fromarray(ramp).resize((width, height // len(ramps)))
        sample.paste(band, (0, 3 * height + row * (height // len(ramps))))
    palette = sample.quantize(colors=255, method=Image.Quantize.MEDIANCUT)
    entries = np.asarray(palette.getpalette(), dtype=int).reshape(-1, 3)
    entries[entries.sum(axis=1).argmax()] = 255  # paper stays white
    palette.putpalette(entries.ravel().tolist())
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    stream = io.BytesIO()
    indexed[0].save(
        stream,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=round(1000 / rate),
        loop=0,
        optimize=False,
    )
    return stream.getvalue()


def _require_video(path: Path) -> Any:
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"{path}: MP4 needs the extra `video`: pip install 'eddycast[video]', or write a .gif instead."
        ) from error
    return av


def _mp4(images: list[Image.Image], rate: int) -> bytes:
    av = _require_video(Path("movie.mp4"))
    width, height = (size - size % 2 for size in images[0].size)  # the codec halves its colours: even sizes only
    stream = io.BytesIO()
    with av.open(stream, mode="w", format="mp4") as container:
        track = container.add_stream("libx264", rate=rate, options={"crf": "18"})
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        for image in images:
            container.mux(track.encode(av.VideoFrame.from_ndarray(np.asarray(image)[:height, :width], format="rgb24")))
        container.mux(track.encode())
    return stream.getvalue()
