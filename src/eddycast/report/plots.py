"""`plot`: one picture or movie, of the kind that file, dimension and suffix ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from eddycast.errors import InputError
from eddycast.files import write_bytes
from eddycast.report.animation import animate
from eddycast.report.canvas import encode, with_units
from eddycast.report.curves import score_curves
from eddycast.report.fields import Panel, field_picture, maps, panels_of, space_time
from eddycast.report.truth import states_of, truth_of_view
from eddycast.report.view import View, aligned, observed, open_result, view

if TYPE_CHECKING:
    from eddycast.data import Dataset

PICTURES = (".png", ".pdf", ".svg")
MOVIES = (".gif", ".mp4")
_FRAMES = {1: 720, 2: 6, 3: 6}  # frames of a trajectory that a picture shows, by dimension
_MOVIE_FRAMES = 90


def plot(
    source: xr.Dataset | Dataset | str | Path,
    out: str | Path,
    *,
    field: str | None = None,
    init: int = 0,
    truth: xr.Dataset | Dataset | None = None,
    observations: xr.Dataset | str | Path | None = None,
) -> Path:
    """Draw a forecast, an analysis, observations, data or scores, and write the picture where `out` says.

    Fields in 1-D become space-time strips, in 2-D maps at five lead times, in 3-D maps of the middle plane; each with
    truth and the error of the mean where `truth` is given, and with mean, members and spread where there are several.
    Scores become curves over lead time.

    Args:
        source: Data set with dimensions (init, member, lead_time, *space), or its file; an opened data set of
            trajectories, or its path; scores.json.
        out: File ending in .png, .pdf or .svg for a picture, .gif or .mp4 for a movie.
        field: Name of the variable; the first one when absent.
        init: Index of the initial time; of the trajectory, for data.
        truth: Verifying states: data, or xarray laid out as `source` without members.
        observations: What an analysis was made of, on a grid: a row of dots in pictures, between the truth and the analysis.

    Returns: the path written.
    Raises: InputError, one line, for another suffix, a file that cannot be read or is something else, an unknown field
        or init, observations of another case or field, a place that cannot be written.
    """
    path = Path(out)
    suffix = known_suffix(path, PICTURES + MOVIES)
    if not isinstance(source, xr.Dataset) and str(source).endswith(".json"):
        if suffix in MOVIES:
            raise InputError(f"{path}: scores do not move; choose one of {', '.join(PICTURES)}.")
        write_bytes(path, encode(_score_picture(Path(str(source)), field), suffix))
        return path
    result, place = _states(source, init, moving=suffix in MOVIES)
    if truth is not None and not isinstance(truth, xr.Dataset):
        shown = view(result, field, place)
        truth = truth_of_view(truth, shown)
    if suffix in MOVIES:
        if observations is not None:
            raise InputError(f"{path}: observations are drawn in pictures only; choose one of {', '.join(PICTURES)}.")
        return animate(result, path, field=field, init=place, truth=truth)
    drawn = view(result, field, place)
    if drawn.kind == "observations":
        rows = [panel for panel in panels_of(drawn, None, drawn) if panel.dots]
        figure = _rows(drawn, rows)
    elif drawn.kind == "truth":
        figure = _rows(drawn, [Panel("data", drawn.mean)])
    else:
        seen = observed(observations, drawn)
        if observations is not None and seen is None:
            raise InputError(
                f"The observations hold nothing of the field {drawn.name!r} of this case: give those that the analysis was made of."
            )
        figure = field_picture(drawn, None if truth is None else aligned(truth, drawn, place), seen)
    write_bytes(path, encode(figure, suffix))
    return path


def known_suffix(path: Path, suffixes: tuple[str, ...]) -> str:
    """The suffix of a picture. Raises: InputError for one that is not among those."""
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        raise InputError(
            f"{path}: cannot draw into a file that ends in {suffix or 'nothing'!r}; choose one of {', '.join(suffixes)}."
        )
    return suffix


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a drawn picture. Raises: InputError for another suffix, or a place that cannot be written."""
    write_bytes(path, encode(figure, known_suffix(path, PICTURES)))
    return path


def _rows(drawn: View, rows: list[Panel]) -> Figure:
    return space_time(drawn, rows) if len(drawn.space) == 1 else maps(drawn, rows)


def _states(source: xr.Dataset | Dataset | str | Path, init: int, *, moving: bool) -> tuple[xr.Dataset, int]:
    """What to draw and its place along `init`; of trajectories only the frames that will be shown are read."""
    if isinstance(source, xr.Dataset):
        return open_result(source), init
    if isinstance(source, (str, Path)):
        try:
            return open_result(source), init
        except InputError as refused:
            if not Path(source).exists():
                raise
            from eddycast.data import open_dataset  # and with it torch, which pictures do without

            try:
                data = open_dataset(source)
            except InputError as error:
                folder = Path(source).is_dir() and Path(source).suffix != ".zarr"  # a run, or a family of data sets
                raise (error if folder else refused) from error
    else:
        data = source
    if not 0 <= init < data.num_trajectories:
        raise InputError(f"There is no trajectory {init}: the data have {data.num_trajectories}, counted from 0.")
    most = _MOVIE_FRAMES if moving else _FRAMES[len(data.grid.axes)]
    frames = np.unique(np.linspace(0, data.lengths[init] - 1, min(most, data.lengths[init])).round().astype(int))
    return states_of(data, [init], [0], frames * data.dt), 0


def _score_picture(source: Path, field: str | None) -> Figure:
    from eddycast.evaluation import Scores  # and with it torch
    from eddycast.report.scorecard import score_charts

    scores = Scores.from_json(source)
    if field is not None and field not in scores.fields:
        raise InputError(f"No field {field!r} to draw; the scores have {', '.join(scores.fields)}.")
    label = with_units("time since the first frame" if scores.analysis else "lead time", scores.time_units)
    charts = score_charts({source.stem: scores}, field or scores.fields[0])
    return score_curves(charts, label, lyapunov_time=scores.lyapunov_time)
