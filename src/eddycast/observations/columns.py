"""A table as users have it (pandas, or xarray without the axes of the grid) to rows: which column is what, and what is missing.

Long tables have the columns time, one per axis of the grid, variable, value, error, and may have quality, platform, trajectory, tolerance,
units. Wide ones have a column for each variable instead of variable and value. Means over boxes and lines have `<axis>_from` and
`<axis>_to`, or `<axis>_width` around the position; spectral coefficients the mode numbers `k_<axis>` and the part, `real` or `imag`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.observations.derived import FUNCTIONS, Derived, derived_from
from eddycast.observations.observation_table import ObservationTable, nearest_frame, observation_table
from eddycast.observations.rows import PARTS, USED, Rows

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "time": ("time", "date", "datetime", "valid_time", "t"),
    "time_index": ("time_index", "step"),
    "variable": ("variable", "field", "var"),
    "value": ("value", "observation", "obs"),
    "error": ("error", "std", "error_std", "sigma", "stderr", "uncertainty"),
    "quality": ("quality", "quality_flag", "qc", "flag"),
    "platform": ("platform", "platform_id", "station", "station_id", "sensor"),
    "trajectory": ("trajectory",),
    "start_frame": ("start_frame",),
    "tolerance": ("tolerance",),
    "part": ("part",),
    "units": ("units", "unit"),
}
"""Names under which columns are found, whatever their case; the first one that there is counts."""
AXIS_NAMES = (("latitude", "lat"), ("longitude", "lon", "long", "lng"))
GOOD_WORDS = ("good", "ok", "pass", "passed", "accepted", "true", "0")
MOST_FRAMES = 10**6

Steps = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(times as the table has them, which of them are of rows that count) -> steps since frame 0, float64; the first counted one may say
where frame 0 is."""
Functions = Mapping[str, tuple[Callable[..., Tensor], Sequence[str]]]


def table_from_frame(
    frame: pd.DataFrame,
    *,
    grid: Grid,
    fields: tuple[tuple[str, str], ...],
    dt: float,
    steps: Steps | None = None,
    error: float | Mapping[str, float] | None = None,
    accept: Sequence[Any] | None = None,
    functions: Functions | None = None,
    num_times: int | None = None,
    where: str = "The table",
    **settings: Any,
) -> ObservationTable:
    """Rows of a table, judged.

    Args:
        frame: Long or wide; see the module.
        grid, fields, dt: Of the run.
        steps: Times to steps; None for numbers, time / dt.
        error: Standard deviation of the errors of rows that do not state theirs, for all variables or by name.
        accept: Quality flags of rows that are used; by default true, 0, or a word such as `good`. Rows without a flag are.
        functions: Variables of one's own by name, each a differentiable function and the names of the fields that it takes.
        num_times: Frames of a case; None for all that the rows need.
        where: Begins messages.
        settings: Of `observation_table`; `parameters`, `time` and static fields of one case are those of all.

    Raises: InputError, one line, for a column that is missing, a variable that does not exist, numbers that are none, and as
        `observation_table`.
    """
    import pandas as pd

    columns = _columns(frame, grid, [name for name, _ in fields], where)
    names = [name for name, _ in fields]
    if "value" in columns:
        long: Any = frame.rename(
            columns={columns[key]: key for key in ("variable", "value", "error", "quality") if key in columns}
        )
        if "variable" not in columns:
            if len(names) > 1:
                raise InputError(f"{where} has no column variable: the run has {', '.join(names)}.")
            long = long.assign(variable=names[0])
    else:
        long = _melted(frame, columns, names, functions or {}, where)
    size = len(long)
    number = long.index.to_numpy() if "value" not in columns else np.arange(size)
    texts, of_text = _codes(long["variable"], where, "variable")
    variables, derived, variable = _variables(texts, of_text, names, functions or {})
    _check_units(long, columns, texts, of_text, fields, where)

    value = _numbers(long["value"], where, "value")
    std = _numbers(long["error"], where, "error") if "error" in long else np.full(size, np.nan)
    std = _errors(std, "error" in long, error, variables, variable, names, where)
    lower, upper = _places(long, columns, grid, where)
    wave, part = _spectral(long, columns, grid, where)
    named = "platform" in columns
    platforms, platform = _codes(long[columns["platform"]], where, "platform", missing=True) if named else ((), None)
    trajectories, frames, case = _cases(long, columns, where)
    nothing = np.full(size, np.nan)
    rows = Rows(
        case=case,
        time=nothing,
        lower=lower,
        upper=upper,
        wave=wave,
        part=part,
        variable=variable,
        value=value,
        std=std,
        platform=np.full(size, -1) if platform is None else platform,
        tolerance=_numbers(long[columns["tolerance"]], where, "tolerance") if "tolerance" in columns else nothing,
        reason=np.zeros(size, dtype=np.uint8),
        placed=np.ones(size, dtype=bool),
        number=number,
    )
    if "quality" in long:
        rows = rows.rejected(~_accepted(long["quality"], accept, where), "quality flag")
    elif accept is not None:
        raise InputError(f"{where} has no column quality whose flags could be accepted.")
    counted = np.isfinite(value) & np.isfinite(std) & (rows.reason == USED)
    if "time_index" in columns:
        time = _numbers(long[columns["time_index"]], where, "time_index")
    else:
        given = long[columns["time"]]
        if steps is None:
            time = _numbers(given, where, "time") / dt
        else:
            plain = (
                given.to_numpy()
                if not isinstance(given.dtype, pd.DatetimeTZDtype)
                else given.dt.tz_convert(None).to_numpy()
            )
            time = steps(plain, counted)
        time = time - frames.numpy()[case]
    if num_times is None:
        times = time[counted & np.isfinite(time)]
        last = nearest_frame(times) if settings.get("in_time") == "nearest" else np.ceil(times - 1e-6)
        num_times = 1 + int(max(last.max(initial=0), 0))
        if num_times > MOST_FRAMES:
            raise InputError(
                f"{where} needs {num_times} frames from the first one on: say the time at which the first one is (start)."
            )
    many = len(trajectories)
    for key in ("parameters", "time"):
        if settings.get(key) is not None:
            one = settings[key]
            settings[key] = one.expand(many, *one.shape[1:]) if key == "parameters" else one + frames
    return observation_table(
        replace(rows, time=time),
        grid=grid,
        fields=fields,
        dt=dt,
        trajectories=trajectories,
        frames=frames,
        num_times=num_times,
        variables=variables,
        derived=derived,
        platforms=platforms,
        **settings,
    )


def _columns(frame: pd.DataFrame, grid: Grid, names: Sequence[str], where: str) -> dict[str, Any]:
    """The column of each role that there is one for; axes under their name in the grid.

    Raises: InputError where a table has no time, or no way to tell where a row is.
    """
    known = {str(column).strip().lower(): column for column in reversed(list(frame.columns))}
    taken = {name.lower() for name in (*names, *grid.names)}
    found = {}
    for role, words in NAMES.items():
        if word := next((word for word in words if word in known and (word not in taken or word == role)), None):
            found[role] = known[word]
    for axis in grid.names:
        words = next((words for words in AXIS_NAMES if axis.lower() in words), ())
        for word in (axis.lower(), *words):
            for end in ("", "_from", "_to", "_width"):
                if word + end in known:
                    found.setdefault(axis + end, known[word + end])
            if f"k_{word}" in known:
                found.setdefault(f"k_{axis}", known[f"k_{word}"])
        if not any(key in found for key in (axis, f"{axis}_from", f"k_{axis}")):
            raise InputError(
                f"{where} has no column {axis!r} (or {axis}_from and {axis}_to) for the positions along this axis of the grid; "
                f"it has {', '.join(map(str, frame.columns))}."
            )
    if "time" not in found and "time_index" not in found:
        raise InputError(f"{where} has no column time; it has {', '.join(map(str, frame.columns))}.")
    return found


def _melted(
    frame: pd.DataFrame, columns: dict[str, Any], names: Sequence[str], functions: Functions, where: str
) -> pd.DataFrame:
    """A wide table as a long one; the index keeps the number of the row that each came from."""
    import pandas as pd

    roles = set(map(str, columns.values()))
    wide = [
        column
        for column in frame.columns
        if str(column) not in roles
        and (str(column) in names or str(column) in functions or _word(str(column)) in FUNCTIONS)
    ]
    if not wide:
        raise InputError(
            f"{where} has neither a column value nor one named after a field of the run ({', '.join(names)}); it has "
            f"{', '.join(map(str, frame.columns))}."
        )
    known = {str(column).lower(): column for column in frame.columns}
    shared = frame[[column for column in frame.columns if column not in wide]].reset_index(drop=True)
    pieces = []
    for column in wide:
        piece = shared.assign(variable=str(column), value=frame[column].to_numpy())
        for role, ends in (("error", ("_error", "_std")), ("quality", ("_quality", "_qc", "_flag"))):
            own = next(
                (known[str(column).lower() + end] for end in ends if str(column).lower() + end in known),
                columns.get(role),
            )
            if own is not None:
                piece[role] = frame[own].to_numpy()
        pieces.append(piece)
    return pd.concat(pieces)


def _word(column: str) -> str:
    called = re.fullmatch(r"\s*(\w+)\s*(?:\([^()]*\))?\s*", column)
    return called[1] if called else ""


def _variables(
    texts: tuple[str, ...], of_text: np.ndarray, names: Sequence[str], functions: Functions
) -> tuple[tuple[str, ...], tuple[Derived, ...], np.ndarray]:
    """Names in their order (fields, then functions by name), the functions, and the number of the variable of each row."""
    derived = {text: derived_from(text, names, functions) for text in texts if text not in names}
    ordered = (*(name for name in names if name in texts), *sorted(derived))
    place = np.array([ordered.index(text) for text in texts], dtype=np.int64)
    return ordered, tuple(derived[name] for name in sorted(derived)), place[of_text]


def _codes(column: Any, where: str, what: str, *, missing: bool = False) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, sorted, and which of them each row has; -1 for none. Raises: InputError for a row without one where it needs one."""
    import pandas as pd

    codes, found = pd.factorize(column)
    texts = [(text.decode() if isinstance(text, bytes) else str(text)).strip() for text in found]
    if len(codes) and codes.min() < 0 and not missing:
        raise InputError(f"{where}, row {int(np.argmin(codes)) + 1}: the {what} is missing.")
    ordered = tuple(sorted(set(texts)))
    place = np.array([ordered.index(text) for text in texts] + [-1], dtype=np.int64)
    return ordered, place[codes]


def _numbers(column: Any, where: str, what: str) -> np.ndarray:
    """A column as float64, NaN where it is empty. Raises: InputError for text."""
    import pandas as pd

    numbers: Any = pd.to_numeric(column, errors="coerce")
    if column.dtype.kind not in "fiu":
        strange = np.flatnonzero((numbers.isna() & column.notna()).to_numpy())
        strange = [at for at in strange if str(column.iloc[at]).strip().lower() not in ("", "nan", "na")]
        if strange:
            raise InputError(
                f"{where}, row {strange[0] + 1}: {what} is {column.iloc[strange[0]]!r}, expected a number."
            )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _errors(
    std: np.ndarray,
    stated: bool,
    error: float | Mapping[str, float] | None,
    variables: tuple[str, ...],
    variable: np.ndarray,
    names: Sequence[str],
    where: str,
) -> np.ndarray:
    """The stated errors, and the given one where none is stated."""
    if error is None:
        if not stated:
            raise InputError(
                f"{where} has no column error: give --error (in Python error=), such as 0.1, or {variables[0]}=0.1 for one variable."
            )
        return std
    if isinstance(error, Mapping):
        if strange := [name for name in error if name not in (*variables, *names)]:
            near = difflib.get_close_matches(strange[0], variables, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"{', '.join(variables)} are observed."
            raise InputError(f"An error is given for {strange[0]!r}: {hint}")
        if not stated and (lost := [name for name in variables if name not in error]):
            raise InputError(f"{where} has no column error and none is given for {lost[0]!r}: add it to --error.")
        given = np.array([error.get(name, np.nan) for name in variables])[variable]
    else:
        given = np.full(len(std), float(error))
    return np.where(np.isnan(std), given, std)


def _places(long: Any, columns: dict[str, Any], grid: Grid, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Where rows begin and end along each axis, (row, axis); NaN where that is not said."""
    lower = np.full((len(long), len(grid.axes)), np.nan)
    upper = lower.copy()
    for i, axis in enumerate(grid.names):
        if axis in columns:
            lower[:, i] = upper[:, i] = _numbers(long[columns[axis]], where, axis)
        if f"{axis}_width" in columns and axis in columns:
            half = _numbers(long[columns[f"{axis}_width"]], where, f"{axis}_width") / 2
            half = np.where(np.isnan(half), 0.0, half)
            if (half < 0).any():
                raise InputError(f"{where}, row {int(np.argmax(half < 0)) + 1}: {axis}_width is negative.")
            lower[:, i], upper[:, i] = lower[:, i] - half, upper[:, i] + half
        if (f"{axis}_from" in columns) != (f"{axis}_to" in columns):
            raise InputError(f"{where}: {axis}_from and {axis}_to come together, or neither does.")
        if f"{axis}_from" in columns:
            begin, end = (_numbers(long[columns[axis + side]], where, axis + side) for side in ("_from", "_to"))
            if (end < begin).any():
                at = int(np.argmax(end < begin))
                raise InputError(
                    f"{where}, row {at + 1}: {axis}_from = {begin[at]:g} lies beyond {axis}_to = {end[at]:g}; around a periodic axis go on "
                    "counting beyond the period."
                )
            said = ~np.isnan(begin) & ~np.isnan(end)
            lower[:, i], upper[:, i] = np.where(said, begin, lower[:, i]), np.where(said, end, upper[:, i])
    return lower, upper


def _spectral(long: Any, columns: dict[str, Any], grid: Grid, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Mode numbers (row, axis) and part of the rows that have them."""
    wave, part = np.zeros((len(long), len(grid.axes)), dtype=np.int64), np.zeros(len(long), dtype=np.int8)
    modes = [columns.get(f"k_{axis}") for axis in grid.names]
    if all(mode is None for mode in modes):
        return wave, part
    if None in modes or "part" not in columns:
        needed = ", ".join(f"k_{axis}" for axis in grid.names)
        raise InputError(
            f"{where}: a spectral coefficient needs the columns {needed} and part ({' or '.join(PARTS[1:])})."
        )
    numbers = np.stack([_numbers(long[mode], where, str(mode)) for mode in modes], axis=1)
    said = ~np.isnan(numbers).any(axis=1)
    if (numbers[said] != np.rint(numbers[said])).any():
        raise InputError(f"{where}: mode numbers are whole numbers, the waves that fit into the period.")
    words = long[columns["part"]].astype(str).str.strip().str.lower().to_numpy()
    for number, word in enumerate(PARTS[1:], start=1):
        part[said & (words == word)] = number
    if (said & (part == 0)).any():
        at = int(np.argmax(said & (part == 0)))
        raise InputError(f"{where}, row {at + 1}: part is {words[at]!r}, expected {' or '.join(PARTS[1:])}.")
    wave[said] = numbers[said].astype(np.int64)
    return wave, part


def _cases(long: Any, columns: dict[str, Any], where: str) -> tuple[Tensor, Tensor, np.ndarray]:
    """Trajectory and first frame of each case, and the case of each row; one case where a table does not say."""
    pairs = np.zeros((len(long), 2), dtype=np.int64)
    for i, key in enumerate(("trajectory", "start_frame")):
        if key in columns:
            numbers = _numbers(long[columns[key]], where, key)
            if not (np.isfinite(numbers).all() and (numbers >= 0).all() and (numbers == np.rint(numbers)).all()):
                raise InputError(f"{where}: {key} must be a whole number in every row.")
            pairs[:, i] = numbers
    if not len(pairs) or (pairs == pairs[0]).all():
        known, case = (
            (pairs[:1] if len(pairs) else np.zeros((1, 2), dtype=np.int64)),
            np.zeros(len(pairs), dtype=np.int64),
        )
    else:
        known, case = np.unique(pairs, axis=0, return_inverse=True)
    return torch.from_numpy(known[:, 0].copy()), torch.from_numpy(known[:, 1].copy()), case.reshape(-1)


def _accepted(column: Any, accept: Sequence[Any] | None, where: str) -> np.ndarray:
    """True at rows whose flag is accepted, or that have none. Raises: InputError when no row is."""
    import pandas as pd

    codes, flags = pd.factorize(column)
    words = [_flag(flag) for flag in flags]
    wanted = GOOD_WORDS if accept is None else tuple(_flag(flag) for flag in accept)
    good = np.array([word in wanted for word in words] + [True])
    if len(codes) and not good[codes].any():
        found = ", ".join(sorted(words)[:10])
        raise InputError(
            f"{where}: no row has an accepted quality flag; the flags are {found}: say which are good (accept={words[0]})."
        )
    return good[codes]


def _flag(flag: Any) -> str:
    """A quality flag as text: 1, 1.0 and "1" are the same."""
    text = (flag.decode() if isinstance(flag, bytes) else str(flag)).strip().lower()
    return text.removesuffix(".0")


def _check_units(
    long: Any,
    columns: dict[str, Any],
    texts: tuple[str, ...],
    of_text: np.ndarray,
    fields: tuple[tuple[str, str], ...],
    where: str,
) -> None:
    """Raises: InputError for rows of a field in another unit than the run has it in."""
    if "units" not in columns or "value" not in columns:
        return
    units, of_units = _codes(long[columns["units"]], where, "unit", missing=True)
    for text, unit in {(texts[a], units[b]) for a, b in np.unique(np.stack([of_text, of_units]), axis=1).T if b >= 0}:
        require_unit(text, unit, fields, where)


def require_unit(name: str, unit: str, fields: tuple[tuple[str, str], ...], where: str) -> None:
    """Raises: InputError for values of a field in another unit than the run has it in; a unit that is not said fits."""
    own = dict(fields).get(name, "")
    if {plain_unit(unit), plain_unit(own)} & {"", "1"} or plain_unit(unit) == plain_unit(own):
        return
    raise InputError(
        f"{where}: {name!r} is in {unit!r}, the run has it in {own!r}: convert the values and their errors."
    )


def plain_unit(unit: str) -> str:
    """A unit without the signs that are written or left out at will."""
    return re.sub(r"[\s.*^_]", "", unit)
