"""What a file of observations says of itself, as JSON beside the values; checked when it is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field as Limits
from pydantic import TypeAdapter, ValidationError

from eddycast.errors import InputError
from eddycast.files import parse_json
from eddycast.grid import Grid

LARGEST = 2**31
Positive = Annotated[float, Limits(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Limits(ge=0, lt=LARGEST)]
Dtype = Literal["float32", "float64"]


@dataclass(frozen=True)
class Numbers:
    """A tensor as plain values."""

    dtype: Literal["float32", "float64", "int64"]
    shape: list[Count]
    numbers: list[float]


@dataclass(frozen=True)
class Header:
    """All but the arrays; the part that is optional stands in CSV only, which has no place for arrays, but for `static_names`."""

    kind: str
    factor: list[Annotated[int, Limits(ge=1, lt=LARGEST)]]
    grid: dict[str, Any]
    fields: Annotated[list[tuple[str, str]], Limits(min_length=1)]
    dt: Positive
    time_units: str
    cycle: Positive | None
    parameter_names: list[str]
    attributes: dict[str, str]
    std_dtype: Dtype
    num_times: Annotated[int, Limits(ge=1, lt=LARGEST)] = 1
    dtype: Dtype = "float32"
    noise_std: list[float] | None = None
    trajectories: list[Count] | None = None
    frames: list[Count] | None = None
    valid: list[Count] | None = None
    parameters: Numbers | None = None
    time: Numbers | None = None
    static_names: list[str] = field(default_factory=list)


ADAPTER = TypeAdapter(Header)


def parse_header(text: Any, where: str) -> tuple[Header, Grid]:
    """The header and its grid. Raises: InputError, in one line, for anything that cannot describe observations."""
    if not isinstance(text, str):
        raise InputError(f"{where} is {type(text).__name__}, expected text: write the file anew.")
    try:
        content = parse_json(text, where)
    except InputError as error:
        raise InputError(f"{where} is damaged (no JSON): write the file anew.") from error
    try:
        header = ADAPTER.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{where} is damaged ({place or 'all'}: {first['msg']}): write the file anew.") from error
    grid = Grid.from_dict(header.grid, where)
    names = [name for name, _ in header.fields]
    lyapunov = header.attributes.get("lyapunov_time", "1")
    fits = {
        "grid": len(set(grid.names)) == len(grid.names) and "" not in grid.names,
        "factor": len(header.factor) == len(grid.axes),
        "fields": len(set(names)) == len(names) and "" not in names and not set(names) & set(grid.names),
        "noise_std": header.noise_std is None or len(header.noise_std) == len(names),
        "frames": (header.trajectories is None) == (header.frames is None)
        and len(header.trajectories or ()) == len(header.frames or ()),
        "valid": header.valid is None or sum(header.valid) == grid.num_points,
        "attributes": _positive(lyapunov),
        **{
            name: item is None or (len(item.numbers) == math.prod(item.shape) and all(map(math.isfinite, item.numbers)))
            for name, item in (("parameters", header.parameters), ("time", header.time))
        },
    }
    if wrong := [key for key, fine in fits.items() if not fine]:
        raise InputError(f"{where} is damaged ({wrong[0]} cannot be): write the file anew.")
    return header, grid


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < math.inf
    except ValueError:
        return False
