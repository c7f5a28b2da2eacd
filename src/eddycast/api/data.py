"""Data: open, describe, observe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eddycast import data, observations
from eddycast.data import Dataset, Family
from eddycast.errors import InputError, reading
from eddycast.files import keep_inputs
from eddycast.labelled import open_labelled, values_of
from eddycast.observations import Observations
from eddycast.simulators import SYSTEMS

Data = Dataset | str | Path


def systems() -> list[tuple[str, str]]:
    """Name and description of each system."""
    return [(name, f"{system.info.description} {system.info.equation}") for name, system in SYSTEMS.items()]


OPTIONS: dict[str, Callable[[str], Any]] = {
    "fields": str,
    "fractions": lambda text: [float(part) for part in text.split(",")],
    "periodic": str,
    "missing": str,
    "time": str,
    "dt": float,
    "space_dims": int,
}


def open_dataset(path: str | Path, **options: Any) -> Dataset:
    """Open The Well HDF5 (file or directory), NetCDF, Zarr, .npz or .npy, lazily.

    Options, explained in `data.open_dataset`, may stand in the text as well, so that every command takes them wherever it takes data:
    `my.nc?fields=sst&missing=union&fractions=0.6,0.2,0.2`.
    """
    place, given = split_options(path)
    return data.open_dataset(place, **given, **options)


def split_options(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """A path and the options that follow a question mark. Raises: InputError for an option that does not exist or has no value."""
    text = str(path)
    place, mark, query = text.partition("?")
    if not mark or Path(text).exists():
        return Path(text), {}
    found: dict[str, Any] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name not in OPTIONS or not equals:
            raise InputError(
                f"{text}: {part!r} is no option of a data set; known are {', '.join(OPTIONS)}, as name=value."
            )
        try:
            found[name] = OPTIONS[name](value)
        except ValueError as error:
            raise InputError(f"{text}: {name} cannot be {value!r}: a number was expected.") from error
    return Path(place), found


def opened(source: Data | Family) -> Dataset:
    """An opened data set. Raises: InputError for a family of them, which only training takes, and for what cannot be opened."""
    if isinstance(source, Family):
        names = list(source.members)
        raise InputError(
            f"One data set is needed, this is a family of {len(names)}: take one of its members, such as family[{names[0]!r}] "
            f"({', '.join(names[:5])})."
        )
    return source if isinstance(source, Dataset) else open_dataset(source)


def opened_to_train(source: Data | Family) -> Dataset | Family:
    """A data set, or all those in a folder that holds several."""
    if isinstance(source, (Dataset, Family)):
        return source
    return data.open_family(source) if data.is_family(source) else open_dataset(source)


def one_of(path: str | None) -> str | None:
    """The path of a data set, or of the first of a family: what commands beside `train` take."""
    return str(Path(path) / next(iter(data.open_family(path).members))) if path and data.is_family(path) else path


def inspect(path: str | Path) -> str:
    """Fields, grid, parameters, statistics and schema problems of a data set, as text."""
    place, options = split_options(path)
    return data.describe(data.open_dataset(place, **options)) if options else data.inspect(place)


def observe(
    source: Data,
    *,
    split: str = "test",
    fraction: float | None = None,
    sensors: int | None = None,
    coarsen: int | None = None,
    stripe: int | None = None,
    mask: str | Path | None = None,
    noise: float | str = 0.1,
    stated_noise: float | str | None = None,
    complete: int = 0,
    steps: int | None = None,
    start: int = 0,
    trajectories: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
) -> Observations:
    """Draw sparse and noisy observations from data.

    Args:
        source: Opened data, or a path.
        split: Whose segments are observed, one case each.
        fraction, sensors, coarsen: Share of random points at each time, number of fixed points, or cells per block mean.
        stripe: Points next to each side that are seen instead, at all times.
        mask: `.npy` or NetCDF file with one mask on the grid, true (or 1) at the points that are seen instead, at all times; one of these
            five, 0.1 of the points if none.
        noise: Standard deviation of the error, in standard deviations of each field in training, or with a unit ("0.5 K").
        stated_noise: What the observations say it is, where that differs: methods need an error to assume where there is none.
        complete: First frames at which every point is observed.
        steps: Frames observed from `start` of each segment on; None for 16, or as many as there are.
        trajectories: Number of cases; None for all.
        seed: Of positions and errors.
        out: `.nc` or `.csv` to write.
    """
    keep_inputs(out, source, mask)
    dataset = opened(source)
    if all(choice is None for choice in (fraction, sensors, coarsen, stripe, mask)):
        fraction = 0.1
    positions = None if mask is None else read_mask(Path(mask))
    segments = dataset.segments(split)[:trajectories]
    longest = min(len(segment) for segment in segments) - start
    steps = min(16, longest) if steps is None else steps
    if steps < 1 or steps > longest:
        raise InputError(
            f"The segments of split {split!r} have {longest} frames from frame {start} on, {steps} were asked for: "
            "lower --steps or --start."
        )
    stated = noise if stated_noise is None else stated_noise
    std, added = noise_levels(dataset, stated), None if stated_noise is None else noise_levels(dataset, noise)
    if float(str(stated).split()[0]) == 0:
        raise InputError(
            "Observations without error leave open how far to trust them: say it, such as --noise 0 --stated-noise 0.01."
        )
    first = [(segment.trajectory, segment.start + start) for segment in segments]
    states = torch.stack([dataset.read(one, at, at + steps) for one, at in first])
    numbers, frames = (torch.tensor(column) for column in zip(*first, strict=True))
    conditions = dataset.conditions(numbers, frames)
    made = observations.observe(
        states,
        grid=dataset.grid,
        fields=[(field.name, field.units) for field in dataset.fields],
        dt=dataset.dt,
        noise_std=std,
        added_std=added,
        seed=seed,
        fraction=fraction,
        sensors=sensors,
        coarsen=coarsen,
        stripe=stripe,
        positions=positions,
        complete=complete,
        trajectories=numbers,
        frames=frames,
        valid=dataset.valid,
        time_units=dataset.time_units,
        parameters=conditions.parameters,
        parameter_names=dataset.parameter_names,
        time=conditions.time,
        cycle=dataset.cycle,
        attributes={
            key: str(dataset.attributes[key]) for key in ("system", "lyapunov_time") if key in dataset.attributes
        },
    )
    if conditions.static is not None:
        made = replace(made, static=conditions.static_fields(), static_names=dataset.static_names)
    if out is not None:
        made.save(Path(out))
    return made


def read_mask(path: Path) -> torch.Tensor:
    """A mask of points, bool (*space): an array in `.npy`, or the one variable of a NetCDF file. NaN counts as false.

    Raises: InputError for a file that holds anything but one array of true and false, or of 0, 1 and NaN.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file with a mask of observed points.")
    if path.suffix == ".npy":
        with reading(path, "write the mask anew with numpy.save"):
            values = np.array(np.load(path, allow_pickle=False, mmap_mode="r"))
    else:
        with open_labelled(path, decode_times=False) as content:
            names = list(content.data_vars)
            if len(names) != 1:
                found = ", ".join(map(str, names)) or "none"
                raise InputError(f"{path}: expected one variable, the mask of observed points; found {found}.")
            values = values_of(content[names[0]], f"{path}: {names[0]!r}")
    numbers = np.nan_to_num(values.astype(np.float64)) if values.dtype.kind in "biuf" else None
    if numbers is None or not np.isin(numbers, (0.0, 1.0)).all():
        raise InputError(
            f"{path}: expected true and false, or 1 and 0 (or NaN), at each point; found {values.dtype} with other values."
        )
    return torch.from_numpy(numbers > 0)


def noise_levels(dataset: Dataset, noise: float | str) -> torch.Tensor:
    """Standard deviation of the error of each field, (channel,), from a number of standard deviations or text with a unit."""
    if not isinstance(noise, str):
        return noise * field_std(dataset)
    number, _, unit = noise.strip().partition(" ")
    wrong = sorted({field.units for field in dataset.fields if field.units != unit})
    if wrong:
        raise InputError(
            f"The noise is given in {unit!r}, the fields are in {', '.join(wrong)}: give it in that unit or without one."
        )
    return torch.full((len(dataset.fields),), float(number))


def field_std(dataset: Dataset) -> torch.Tensor:
    """Standard deviation of each field over the training data, (channel,)."""
    space = data.statistics(dataset, "train", mean="field")
    return space.std.flatten(1)[:, 0]
