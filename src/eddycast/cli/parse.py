"""Text of the command line to values; every complaint shows the right form."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from eddycast.errors import InputError

Range = tuple[float, float]


def number(text: str, what: str) -> float:
    """A finite number.

    Raises: InputError for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, got '{text}'.")
    return value


def pairs(texts: Iterable[str], option: str, form: str) -> dict[str, str]:
    """`["a=b"]` to `{"a": "b"}`; the value may hold further equals signs.

    Raises: InputError without an equals sign, for an empty side, or for a name that is set twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"{option} must read {form}, got '{text}'.")
        if name in values:
            raise InputError(f"{option} sets '{name}' twice; give each name once.")
        values[name] = value
    return values


def parameter_values(texts: Iterable[str]) -> dict[str, float]:
    """`["viscosity=0.1"]` to `{"viscosity": 0.1}`.

    Raises: InputError for another form.
    """
    values = pairs(texts, "--param", "name=value")
    return {name: number(value, f"--param {name}") for name, value in values.items()}


def withheld(text: str) -> float | tuple[str, ...]:
    """`0.2` to a share, `ship,buoy` to names of platforms; whole numbers above 1 are names as well, and `1,` is.

    Raises: InputError for another number.
    """
    try:
        share = float(text)
    except ValueError:
        share = None
    if share is None or (text.isdecimal() and share > 1):
        return tuple(name for name in map(str.strip, text.split(",")) if name)
    if not 0 <= share < 1:
        raise InputError(f"--withhold is a share from 0 to below 1, or the names of platforms, got {text}.")
    return share


def stated_error(text: str | None) -> float | dict[str, float] | None:
    """`0.1`, or `u=0.1,v=0.2` to one for each variable. Raises: InputError for another form."""
    if text is None:
        return None
    if "=" not in text:
        return number(text, "--error")
    given = pairs(text.split(","), "--error", "a number, or name=number,name=number")
    return {name: number(value, f"--error {name}") for name, value in given.items()}


@dataclass(frozen=True)
class Turns:
    """Values that runs take in turn, each for so many runs in a row: `api.Values`, which would import torch before the line is read."""

    values: tuple[float, ...]
    counts: tuple[int, ...]


def left_out(value: Turns, trajectories: int) -> list[float]:
    """Values that no run takes, for there are fewer runs than one turn has."""
    taken, before, rest = set(), 0, []
    for one, count in zip(value.values, value.counts, strict=True):
        if before < trajectories:
            taken.add(one)
        else:
            rest.append(one)
        before += count
    return [one for one in dict.fromkeys(rest) if one not in taken]


def turns(name: str, text: str) -> Turns:
    """`"22*8,36,64"` to the values 22, 36, 64 and the counts 8, 1, 1. Raises: InputError for another form."""
    values, counts = [], []
    for part in text.split(","):
        value, star, count = (piece.strip() for piece in part.partition("*"))
        values.append(number(value, f"--param {name}, each value,"))
        if star and not (count.isascii() and count.isdigit() and int(count) > 0):
            raise InputError(f"--param {name}: '{part.strip()}' must be a value, or value*count with a whole count.")
        counts.append(int(count) if star else 1)
    return Turns(tuple(values), tuple(counts))


def parameter_ranges(texts: Iterable[str]) -> dict[str, float | Range | Turns]:
    """`["viscosity=0.1", "length=22:44"]` to `{"viscosity": 0.1, "length": (22.0, 44.0)}`, lists of values to `Turns`.

    Raises: InputError for another form, or for a range whose lower end is not the smaller one.
    """
    parameters: dict[str, float | Range | Turns] = {}
    for name, value in pairs(texts, "--param", "name=value, name=lo:hi or name=a,b,c").items():
        lower, colon, upper = value.partition(":")
        if not colon and ("," in value or "*" in value):
            parameters[name] = turns(name, value)
            continue
        if not colon:
            parameters[name] = number(value, f"--param {name}")
            continue
        low, high = number(lower, f"--param {name}, lower end,"), number(upper, f"--param {name}, upper end,")
        if low >= high:
            raise InputError(f"--param {name}={value} is an empty range; put the smaller number first.")
        parameters[name] = (low, high)
    return parameters


def initial_values(texts: Iterable[str]) -> dict[str, float]:
    """`["peak_wavenumber=6"]` to `{"peak_wavenumber": 6.0}`.

    Raises: InputError for another form.
    """
    values = pairs(texts, "--initial", "name=value")
    return {name: number(value, f"--initial {name}") for name, value in values.items()}


def shares(text: str) -> tuple[float, float, float]:
    """`"0.8,0.1,0.1"` to `(0.8, 0.1, 0.1)`, shares of train, valid and test; numbers of trajectories will do.

    Raises: InputError unless there are three numbers, none negative and not all zero.
    """
    parts = [number(part, "each of --split") for part in text.split(",")]
    if len(parts) != 3 or min(parts) < 0 or sum(parts) <= 0:
        raise InputError(f"--split must be three shares of train, valid and test such as 0.8,0.1,0.1, got '{text}'.")
    return parts[0], parts[1], parts[2]


def overrides(texts: Iterable[str]) -> dict[str, str]:
    """`["training.batch_size=32"]` to `{"training.batch_size": "32"}`; the recipe's types read the values.

    Raises: InputError for another form.
    """
    return pairs(texts, "--set", "path.to.setting=value")


def grid_shape(text: str | None, option: str = "--grid") -> tuple[int, ...] | None:
    """`"64x32"` to `(64, 32)`.

    Raises: InputError unless there are 1 to 3 positive whole numbers.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if not 1 <= len(parts) <= 3 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"{option} must be the points per axis, such as 64, 64x64 or 32x32x32, got '{text}'.")
    return tuple(int(part) for part in parts)


def region(text: str | None) -> tuple[Range, Range] | None:
    """`"-15:15,180:270"` to `((-15.0, 15.0), (180.0, 270.0))`, bounds of the rows and of the columns.

    Raises: InputError for another form.
    """
    if text is None:
        return None
    sides = [side.split(":") for side in text.split(",")]
    if len(sides) != 2 or any(len(side) != 2 for side in sides):
        raise InputError(f"--region must be lat:lat,lon:lon such as -15:15,180:270, got '{text}'.")
    rows, columns = (
        (number(low, "each bound of --region"), number(high, "each bound of --region")) for low, high in sides
    )
    return rows, columns


def box_numbers(text: str | None) -> list[int] | Literal["published"] | None:
    """`"84-86,108"` to `[84, 85, 86, 108]`; `published` stays.

    Raises: InputError for another form.
    """
    if text is None or text == "published":
        return text
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise InputError(f"--boxes must be numbers or ranges such as 84-89,108, or published; got '{text}'.")
        found += range(int(first), int(last or first) + 1)
    return found


def lead_times(text: str | None) -> list[float] | None:
    """`"0.5,1,2"` to `[0.5, 1.0, 2.0]`, in the time unit of the data.

    Raises: InputError unless the numbers are positive and increase.
    """
    if text is None:
        return None
    leads = [number(part, "each of --leads") for part in text.split(",")]
    if leads[0] <= 0 or any(later <= earlier for earlier, later in pairwise(leads)):
        raise InputError(f"--leads must be positive and increase, such as 0.5,1,2, got '{text}'.")
    return leads


def start_frame(text: str | None) -> int | Path | Literal["last", "all"] | None:
    """`"12"` to 12; `"last"` and `"all"` stay; a name that ends in .nc or .zarr is the path of an analysis.

    Raises: InputError for anything else.
    """
    if text is None or text == "last" or text == "all":
        return text
    if text.endswith((".nc", ".zarr")):
        return Path(text)
    if not (text.isascii() and text.isdigit()):
        raise InputError(f"--start must be a frame index from 0, last, all, or an analysis (.nc, .zarr), got '{text}'.")
    return int(text)


def noise_level(text: str, option: str = "--noise") -> float | str:
    """`"0.1"`, in standard deviations of the field, to 0.1; `"0.5 K"` keeps its unit and stays text.

    Raises: InputError for a negative or absent number.
    """
    value = text.strip()
    digits = len(value)
    while digits:
        try:
            level = float(value[:digits])
        except ValueError:
            digits -= 1
            continue
        if not 0 <= level < math.inf:
            break
        return level if digits == len(value) else f"{level:g} {value[digits:].strip()}"
    raise InputError(
        f"{option} must be a number >= 0, in field standard deviations or with a unit ('0.5 K'), got '{text}'."
    )


def quoted(*parts: str | Path) -> str:
    """Words as a shell takes them back."""
    return shlex.join(str(part) for part in parts)
