"""`plot`: one picture or movie of a forecast, an analysis, observations or scores, of the kind that file and suffix ask for."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from eddycast.errors import InputError
from eddycast.files import write_bytes
from eddycast.report.animation import animate
from eddycast.report.canvas import encode
from eddycast.report.fields import field_picture, maps, panels_of, space_time
from eddycast.report.view import aligned, open_result, view

PICTURES = (".png", ".pdf", ".svg")
MOVIES = (".gif", ".mp4")


def plot(
    source: xr.Dataset | str | Path,
    out: str | Path,
    *,
    field: str | None = None,
    init: int = 0,
    truth: xr.Dataset | str | Path | None = None,
) -> Path:
    """Draw a forecast or an analysis and write it where `out` says.

    Fields in 1-D become space-time strips, in 2-D maps at five lead times, in 3-D maps of the middle plane; each with the
    truth and the error of the mean where `truth` is given, and with mean, members and spread where there are several.

    Args:
        source: Data set with dimensions (init, member, lead_time, *space), or the file that holds it; observations too.
        out: File ending in .png, .pdf or .svg for a picture, .gif or .mp4 for a movie.
        field: Name of the variable; the first one when absent.
        init: Index of the initial time.
        truth: Verifying states, laid out as `source` without members.

    Returns: the path written.
    Raises: InputError, one line, for another suffix, a file that cannot be read or is something else, an unknown field or
        init, a place that cannot be written.
    """
    path = Path(out)
    suffix = path.suffix.lower()
    if suffix not in PICTURES + MOVIES:
        known = ", ".join(PICTURES + MOVIES)
        raise InputError(f"{path}: cannot draw into a file that ends in {suffix or 'nothing'!r}; choose one of {known}.")
    if suffix in MOVIES:
        return animate(source, path, field=field, init=init, truth=truth)
    result = open_result(source)
    drawn = view(result, field, init)
    if drawn.kind == "observations":
        rows = [panel for panel in panels_of(drawn, None, drawn) if panel.dots]
        figure = (space_time if len(drawn.space) == 1 else maps)(drawn, rows)
    else:
        figure = field_picture(drawn, None if truth is None else aligned(truth, drawn, init))
    write_bytes(path, encode(figure, suffix))
    return path
