"""Statistics and events: what long forecasts and large ensembles are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr

from eddycast import evaluation
from eddycast.api.data import Data, opened
from eddycast.data import Dataset, Family
from eddycast.evaluation import EventStudy, JetEvent, JetSettings, Statistics, ThresholdEvent
from eddycast.evaluation.event_kinds import read_event
from eddycast.files import keep_inputs, write_json
from eddycast.report.plots import write_figure
from eddycast.report.statistics import event_picture, statistics_picture


def statistics(
    source: xr.Dataset | Data,
    *,
    truth: xr.Dataset | Data | None = None,
    out: str | Path | None = None,
    picture: str | Path | None = None,
    jets: bool = False,
    width: float = 2.0,
    prominence: float = 0.5,
    hold: int = 5,
    **options: Any,
) -> Statistics:
    """Laws of values, spectra, space-time correlation, tracking and jets by parameter value; see `evaluation.statistics` for options.

    Args:
        source: A long forecast, or data.
        truth: The data that it was made from, or a forecast of the solver; None for the statistics of `source` alone.
        out: JSON file to write.
        picture: Picture to write: PDFs, spectra, correlations.
        jets: Whether to count and follow jets, for a field along one periodic axis.
        width, prominence, hold: What a jet is and how long a change must last; see `evaluation.JetSettings`.
    """
    for path in (out, picture):
        keep_inputs(path, source, truth)
    settings = JetSettings(width, prominence, hold) if jets else None
    found = evaluation.statistics(
        _readable(source), None if truth is None else _readable(truth), jets=settings, **options
    )
    if picture is not None:
        write_figure(statistics_picture(found), Path(picture))
    if out is not None:
        write_json(Path(out), found.to_dict())
    return found


def events(
    forecast: xr.Dataset | Data,
    *,
    event: str | JetEvent | ThresholdEvent = "jets",
    truth: xr.Dataset | Data | None = None,
    out: str | Path | None = None,
    picture: str | Path | None = None,
    width: float = 2.0,
    prominence: float = 0.5,
    hold: int = 5,
    **options: Any,
) -> EventStudy:
    """Probability of an event by each lead time in an ensemble; see `evaluation.event_study` for options.

    Args:
        forecast: Ensemble forecast, or data whose trajectories are members of one case.
        event: `jets` (their number changes), `nucleation`, `coalescence`, or a bound on a number of the field: "mean>0.5",
            "max<2"; mean, max, min or rms.
        truth: The solver's ensemble from the same states.
        out: JSON file to write.
        picture: Picture to write: probability by lead, and times to the event.
        width, prominence, hold: Of jets.
    """
    for path in (out, picture):
        keep_inputs(path, forecast, truth)
    wanted = read_event(event, JetSettings(width, prominence, hold)) if isinstance(event, str) else event
    found = evaluation.event_study(
        _readable(forecast), None if truth is None else _readable(truth), event=wanted, **options
    )
    if picture is not None:
        write_figure(event_picture(found), Path(picture))
    if out is not None:
        write_json(Path(out), found.to_dict())
    return found


def _readable(source: xr.Dataset | Data) -> xr.Dataset | Dataset | str | Path:
    """A path with options behind a question mark is a data set; others are looked into. Raises: InputError for a family."""
    if isinstance(source, Family):
        return opened(source)
    if isinstance(source, (str, Path)) and "?" in str(source) and not Path(source).exists():
        return opened(source)
    return source
