"""The result of an evaluation: numbers with intervals, a table, a diagnosis, and a file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eddycast.errors import InputError
from eddycast.evaluation.convention import convention_summary
from eddycast.evaluation.diagnosis import diagnosis
from eddycast.evaluation.evidence import Signature
from eddycast.evaluation.horizons import ENDS, horizons_summary
from eddycast.evaluation.physics import physics_summary
from eddycast.evaluation.signatures import signatures
from eddycast.evaluation.table import PASSES, table
from eddycast.evaluation.windows import FIRST_WINDOW, WINDOW
from eddycast.files import atomic_output, read_json

SCHEMA = 1
MEASURED = frozenset(
    {*PASSES.values(), "eddycast_observed_departure_rms", "withheld_departure_rms", WINDOW, FIRST_WINDOW}
)
"""Attributes of forecasts and analyses that are numbers, and travel with the scores."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of one forecast or analysis.

    Args:
        data: Everything, by name. Each score is (field, lead_time), with `<score>_low` and `<score>_high` the ends
            of its block-bootstrap interval over cases. `cases` (lead_time) counts verified cases. Profiles are
            pooled over groups of lead times (coordinates `group_start`, `group_stop`): `rank_histogram` (field, group,
            rank), `power_truth` and `power_member` (field, group, wavenumber). `spectral_error` (field, group, band,
            statistic) is in decades. `high_correlation_time` (field, forecast, convention, average), in units of lead
            time, with `_low`, `_high`; `censored` (field, forecast) is the part of cases still above the threshold at
            the last lead. `rmsd` (field, forecast, norm) is over all lead times; it and the times have `_se` too, the
            standard error over cases. `spectrum_bands` (field, stage, spectrum_band) is log10 of the members' over the
            truth's power. `amplitude_ratio`, `change_member`, `change_truth` (field, lead_time) and `copies` (lead_time)
            are what failures are told by. `nonfinite` and `runaway` (lead_time) count members. `climatology_std` (field).
            Where horizons were asked for, `horizon_scores` (field, horizon, score, averaging) and `horizon_means` (horizon,
            score, averaging), see `evaluation.horizons`; where a convention was, `convention_leads` (measure, pooling, lead_time) and
            `convention_means` (measure, pooling), see `evaluation.convention`. `physics_member`, `physics_truth` and `physics_error`
            (quantity, lead_time) and `physics_start` (quantity), see `evaluation.physics`.
        attributes: What was scored: members, cases, time units, Lyapunov time, counts of members that blew up, notes, the run
            that the truth has passed through (`truth_through`, empty without), `window` and `first_window`, the steps of the data in
            the windows that the forecast was made of, network passes per member and case where they were counted.
    """

    data: xr.Dataset
    attributes: Mapping[str, Any]

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(str(name) for name in self.data["field"].values)

    @property
    def members(self) -> int:
        return int(self.attributes["members"])

    @property
    def lead_times(self) -> np.ndarray:
        """In `time_units`."""
        return self.data["lead_time"].values

    @property
    def time_units(self) -> str:
        return str(self.attributes["time_units"])

    @property
    def lyapunov_time(self) -> float | None:
        return self.attributes["lyapunov_time"]

    @property
    def analysis(self) -> bool:
        """True for an analysis: lead times are times since its first frame."""
        return self.attributes["kind"] == "analysis"

    def value(self, score: str, field: str, lead: int = -1) -> float:
        """One number, by score, field and index of the lead time. Raises: KeyError for an unknown name."""
        return float(self.data[score].sel(field=field).values[lead])

    def series(self, score: str, field: str) -> np.ndarray:
        """One score at every lead time. Raises: KeyError for an unknown name."""
        return self.data[score].sel(field=field).values

    def normalised(self, score: str, field: str) -> np.ndarray:
        """One score at every lead time, in climatological standard deviations of the field."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.series(score, field) / float(self.data["climatology_std"].sel(field=field))

    def horizon(
        self, score: str, horizon: str, field: str | None = None, *, averaging: str = "pooled"
    ) -> tuple[float, float, float]:
        """One score over one horizon ("1:20"), with the ends of its interval; without a field the mean over fields.

        `averaging` is `pooled` (a root or ratio of means over cases and leads) or `frames` (mean of each frame's own number,
        as published). Raises: KeyError for an unknown name, or without horizons.
        """
        place = {"horizon": horizon, "score": score, "averaging": averaging} | ({"field": field} if field else {})
        name = "horizon_scores" if field else "horizon_means"
        value, low, high = (float(self.data[name + end].sel(place)) for end in ENDS)
        return value, low, high

    def in_convention(self, measure: str, pooling: str = "trajectories") -> tuple[float, float, float]:
        """`crps`, `mse`, `ssr` or a fair one over all leads in the published convention, with the ends of its interval.

        `pooling` is `trajectories` (each case on its own, then their mean) or `pooled`. Raises: KeyError without a convention.
        """
        place = {"measure": measure, "pooling": pooling}
        value, low, high = (float(self.data["convention_means" + end].sel(place)) for end in ENDS)
        return value, low, high

    @property
    def summary(self) -> dict[str, Any]:
        """Headline numbers, plain and nested by field: for logs and for machines."""
        data = self.data
        content: dict[str, Any] = {
            "members": self.members,
            "cases": int(self.attributes["num_cases"]),
            "time_units": self.time_units,
            "lyapunov_time": self.lyapunov_time,
            "nonfinite_members": int(self.attributes["nonfinite_members"]),
            "runaway_members": int(self.attributes["runaway_members"]),
            "first_bad_lead": self.attributes["first_bad_lead"],
            "network_passes": {way: self.attributes.get(name) for way, name in PASSES.items()},
            "failures": [asdict(one) for one in self.signatures],
            "fields": {},
        }
        for field in self.fields:
            one: dict[str, Any] = {"climatology_std": float(data["climatology_std"].sel(field=field))}
            for place, label in ((0, "first"), (len(self.lead_times) // 2, "middle"), (-1, "last")):
                one[f"{label}_lead"] = {
                    "lead_time": float(self.lead_times[place]),
                    **{name: self.value(name, field, place) for name in self.attributes["scores"]},
                }
            if "high_correlation_time" in data:
                times = data["high_correlation_time"].sel(field=field)
                one["high_correlation_time"] = {
                    f"{forecast}_{convention}_{average}": float(
                        times.sel(forecast=forecast, convention=convention, average=average)
                    )
                    for forecast in times["forecast"].values
                    for convention in times["convention"].values
                    for average in times["average"].values
                }
            if "rmsd" in data:
                one["rmsd"] = {
                    f"{forecast}_{norm}": {
                        name: float(data[f"rmsd{end}"].sel(field=field, forecast=forecast, norm=norm))
                        for name, end in (("value", ""), ("low", "_low"), ("high", "_high"), ("standard_error", "_se"))
                    }
                    for forecast in data["forecast"].values
                    for norm in data["norm"].values
                }
            if "spectrum_bands" in data:
                power = data["spectrum_bands"].sel(field=field)
                one["spectrum_bands"] = {
                    str(stage): {
                        str(band): float(power.sel(stage=stage, spectrum_band=band))
                        for band in power["spectrum_band"].values
                    }
                    for stage in power["stage"].values
                }
            if "spectral_error" in data:
                errors = data["spectral_error_pooled"].sel(field=field)
                one["spectral_error"] = {
                    str(band): {
                        str(kind): float(errors.sel(band=band, statistic=kind)) for kind in errors["statistic"].values
                    }
                    for band in errors["band"].values
                }
            content["fields"][field] = one
        content |= {"horizons": horizons_summary(data)} if "horizon_scores" in data else {}
        content |= {"convention": convention_summary(data)} if "convention_means" in data else {}
        return content | ({"physics": physics_summary(data)} if "physics_member" in data else {})

    @property
    def signatures(self) -> list[Signature]:
        """Failures by name (mode collapse, error growth, ...), each with its sentence; none for a healthy ensemble."""
        return signatures(self)

    def table(self, leads: int = 7) -> str:
        """A readable table: a few lead times per field, then what is one number per forecast."""
        return table(self, leads=leads)

    def diagnosis(self, baselines: Mapping[str, Scores] | None = None) -> list[str]:
        """What is good and what is wrong, in words, with what to try; `baselines` by name (persistence, ...)."""
        return diagnosis(self, baselines or {})

    def to_xarray(self) -> xr.Dataset:
        """A copy of everything; attributes that are not text or numbers are left out."""
        plain = {
            k: v for k, v in self.attributes.items() if isinstance(v, (str, int, float)) and not isinstance(v, bool)
        }
        return self.data.copy(deep=True).assign_attrs(plain)

    def to_json(self, path: str | Path) -> Path:
        """Write everything, atomically: the file is complete or as it was before.

        Raises: InputError when the place cannot be written, or is a directory.
        """
        path = Path(path)
        content = {
            "schema": SCHEMA,
            "attributes": _encode(dict(self.attributes)),
            "summary": _encode(self.summary),
            "coordinates": {str(name): _array(item) for name, item in self.data.coords.items()},
            "variables": {str(name): _array(item) for name, item in self.data.data_vars.items()},
        }
        text = _text(content | {"digest": _digest(content)})
        with atomic_output(path, overwrite=True, is_ours=Path.is_file) as temporary:
            temporary.write_text(text)
        return path

    @classmethod
    def from_json(cls, path: str | Path) -> Scores:
        """Read what `to_json` wrote. Raises: InputError for anything else."""
        content = read_json(Path(path))
        if not isinstance(content, dict) or "schema" not in content or "digest" not in content:
            raise InputError(f"{path}: not a file of scores written by `eddycast evaluate`.")
        if content["schema"] != SCHEMA:
            raise InputError(
                f"{path}: scores of schema {content['schema']!r}, this version reads {SCHEMA}; evaluate again."
            )
        if content.pop("digest") != _digest(content):
            raise InputError(f"{path}: these scores were edited or damaged after they were written; evaluate again.")
        parts = {
            kind: {name: (item["dims"], _decode(item)) for name, item in content[kind].items()}
            for kind in ("coordinates", "variables")
        }
        return cls(xr.Dataset(parts["variables"], parts["coordinates"]), _restore(content["attributes"]))


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, allow_nan=False, indent=None, separators=(",", ":"))


def _digest(content: Mapping[str, Any]) -> str:
    """Tells whether scores are as they were written; whoever reads them may then rely on what they hold."""
    return hashlib.sha256(_text(content).encode()).hexdigest()


def _array(item: xr.DataArray) -> dict[str, Any]:
    return {"dims": list(item.dims), "dtype": item.dtype.kind, "values": _encode(item.values.tolist())}


def _decode(item: dict[str, Any]) -> np.ndarray:
    kinds = {"f": np.float64, "i": np.int64}
    return np.asarray(_restore(item["values"]), dtype=kinds.get(item["dtype"], np.str_))


def _encode(value: Any) -> Any:
    """JSON has no NaN or infinity: they become {"number": "nan"}."""
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    return value


def _restore(value: Any) -> Any:
    if isinstance(value, dict):
        return (
            float(value["number"]) if set(value) == {"number"} else {key: _restore(item) for key, item in value.items()}
        )
    return [_restore(item) for item in value] if isinstance(value, list) else value
