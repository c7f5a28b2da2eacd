"""Observations of several cases, with all that is needed to assimilate them: positions, noise, grid, conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.observations.measurement import CellEntries, EveryPoint, Measurement, packed
from eddycast.observations.netcdf import read_netcdf, write_netcdf
from eddycast.observations.operators import CoarsenOperator, MaskOperator, block_sum
from eddycast.observations.table import read_csv, write_csv

if TYPE_CHECKING:
    from eddycast.observations.observation_table import ObservationTable

Kind = Literal["points", "sensors", "coarsen"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Observations:
    """Observed values, their noise and where they stand.

    Args:
        values: Physical values (case, time, channel, *observed), NaN where nothing is observed. *observed is *space, or
            the blocks of `factor` when coarse.
        noise_std: Standard deviation of the noise of each channel, in its unit, (channel,).
        grid: Grid of the states (not of the blocks).
        fields: (name, unit) of each channel.
        dt: Time between two frames, in `time_units`.
        trajectories: Number of the trajectory of each case, (case,).
        frames: Frame of the trajectory at which the case starts, (case,).
        kind: `points` (anew at each frame), `sensors` (fixed positions) or `coarsen` (block means).
        factor: Cells per block along each axis; all 1 unless coarse.
        valid: True where the fields are defined (*space), or None for everywhere.
        time_units: Unit of dt.
        parameters: PDE parameters of each case (case, P), named by `parameter_names`.
        time: Steps between the calendar's anchor and the case's first frame, (case,); the frame number when None.
        cycle: Steps in one cycle of the calendar, or None.
        static: Static fields of the data that are observed, (S, *space), or (case, S, *space) where they differ; named by `static_names`.
            A CSV has no place for them.
        attributes: What else travels with the file (system, time anchor ...), text to text.

    Raises: InputError, one line, for what cannot be assimilated: a non-positive std, nothing observed, shapes apart.
    """

    values: Tensor
    noise_std: Tensor
    grid: Grid
    fields: tuple[tuple[str, str], ...]
    dt: float
    trajectories: Tensor
    frames: Tensor
    kind: Kind = "points"
    factor: tuple[int, ...] = ()
    valid: Tensor | None = None
    time_units: str = "1"
    parameters: Tensor | None = None
    parameter_names: tuple[str, ...] = ()
    time: Tensor | None = None
    cycle: float | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    static: Tensor | None = None
    static_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"Observations of unknown kind {self.kind!r}: expected one of {', '.join(KINDS)}.")
        factor = self.factor or (1,) * len(self.grid.axes)
        object.__setattr__(self, "factor", factor)
        if any(size % cells for size, cells in zip(self.grid.shape, factor, strict=True)):
            raise InputError(
                f"Blocks of {factor} do not divide the grid {self.grid.shape}: choose divisors of each axis."
            )
        observed = tuple(size // cells for size, cells in zip(self.grid.shape, factor, strict=True))
        cases = len(self.trajectories)
        expected = (cases, len(self.fields), *observed)
        came = (*self.values.shape[:1], *self.values.shape[2:])
        if came != expected:
            raise InputError(
                f"Observed values of shape {tuple(self.values.shape)} do not fit (case, time, channel, *observed) = "
                f"({cases}, time, {len(self.fields)}, {', '.join(map(str, observed))}): check the grid and the fields."
            )
        if self.frames.shape != (cases,):
            raise InputError(f"One first frame per case expected ({cases}), got {tuple(self.frames.shape)}.")
        if self.valid is not None and self.valid.shape != self.grid.shape:
            raise InputError(
                f"The mask of valid points has the shape {tuple(self.valid.shape)}, the grid has {self.grid.shape}."
            )
        if self.noise_std.shape != (len(self.fields),):
            raise InputError(
                f"One noise std per field expected ({len(self.fields)}), got {tuple(self.noise_std.shape)}."
            )
        for (name, _), std in zip(self.fields, self.noise_std.tolist(), strict=True):
            if not 0 < std < float("inf"):
                raise InputError(f"The noise std of field {name!r} is {std:g}: it must be positive and finite.")
        if not self.mask.any():
            raise InputError("No observations are left: every value is missing.")
        if self.parameters is None and self.parameter_names:
            raise InputError(
                f"The observations lack the values of their parameters, {', '.join(self.parameter_names)}."
            )
        if self.parameters is not None and self.parameters.shape != (cases, len(self.parameter_names)):
            raise InputError(
                f"Parameters of shape {tuple(self.parameters.shape)} do not fit {cases} cases and the names "
                f"{', '.join(self.parameter_names) or '(none)'}."
            )
        if self.parameters is not None and not torch.isfinite(self.parameters).all():
            raise InputError("The parameters of the observations must be finite.")
        if self.time is not None and (self.time.shape != (cases,) or not torch.isfinite(self.time.double()).all()):
            raise InputError(f"The times of the observations must be {cases} finite numbers.")
        shape = (len(self.static_names), *self.grid.shape)
        if (self.static is None) != (not self.static_names) or (
            self.static is not None and tuple(self.static.shape) not in (shape, (cases, *shape))
        ):
            came = "none" if self.static is None else f"shape {tuple(self.static.shape)}"
            raise InputError(
                f"Static fields {', '.join(self.static_names) or 'without names'} of {cases} cases must be {shape} or "
                f"{(cases, *shape)}, got {came}."
            )
        if torch.isinf(self.values).any():
            raise InputError("Observed values must be finite, some are infinite: drop those rows.")

    @property
    def mask(self) -> Tensor:
        """True where a value is observed, shape of `values`."""
        return ~torch.isnan(self.values)

    @property
    def filled(self) -> Tensor:
        """Values with 0 where nothing is observed, as operators return them."""
        return torch.nan_to_num(self.values, nan=0.0)

    @property
    def num_cases(self) -> int:
        return self.values.shape[0]

    @property
    def num_times(self) -> int:
        return self.values.shape[1]

    @property
    def count(self) -> int:
        """Number of observed values."""
        return int(self.mask.sum())

    @property
    def static_varies(self) -> bool:
        """Whether static fields differ between cases."""
        return self.static is not None and self.static.ndim == 2 + len(self.grid.axes)

    @property
    def noise_field(self) -> Tensor:
        """Noise std, broadcasting against (case, time, channel, *observed): (channel, 1, ...)."""
        return self.noise_std.reshape(-1, *(1,) * len(self.grid.axes))

    def operator(self, start: int = 0, stop: int | None = None) -> MaskOperator | CoarsenOperator:
        """The operator of frames [start, stop) of all cases, for physical states (*batch, case, time, channel, *space).

        Block means weigh cells by the grid's quadrature weights and leave out invalid cells.
        """
        mask = self.mask[:, start:stop]
        if self.kind != "coarsen":
            return MaskOperator(mask)
        return CoarsenOperator(self.factor, cell_weights(self.grid, self.valid), mask)

    def observed_frames(self) -> Tensor:
        """True at frames of which something is observed in some case, (time,)."""
        return self.mask.flatten(2).any(dim=2).any(dim=0)

    def seen(self, start: int, stop: int, *, since: int | None = None) -> Measurement | None:
        """The observed values of frames [start, stop), from `since` on, as a list of entries for each case; None if there are none."""
        first = start if since is None else max(start, since)
        values = self.values[:, max(first, 0) : max(stop, 0)]
        skipped = max(first, 0) - start
        if values.shape[1] == 0 or bool(values.isnan().all()):
            return None
        inner = values.shape[2:]
        index, mask = packed(~values.isnan().flatten(1))
        at = torch.unravel_index(index, values.shape[1:])
        nan = torch.full((), torch.nan, dtype=values.dtype)
        centres = [
            torch.tensor(axis.coordinates, dtype=torch.float64).reshape(-1, cells).mean(dim=1)[place]
            for axis, cells, place in zip(self.grid.axes, self.factor, at[2:], strict=True)
        ]
        coarse = self.kind == "coarsen"
        return Measurement(
            operator=CellEntries(
                CoarsenOperator(self.factor, cell_weights(self.grid, self.valid))
                if coarse
                else EveryPoint(len(self.grid.axes)),
                index + skipped * math.prod(inner),
                mask,
            ),
            values=torch.where(mask, values.flatten(1).gather(1, index), nan),
            std=torch.where(mask, self.noise_std[at[1]], torch.ones_like(self.noise_std[:1])),
            positions=torch.stack(centres, dim=-1),
            frames=torch.where(mask, at[0] + max(first, 0), -1),
        )

    def conditions(self, static: Tensor | None = None) -> Conditions:
        """Conditions of the cases with the origin at the first frame.

        Args:
            static: Static fields (S, *space) of the run, for observations that come without.
        """
        return start_conditions(self, static)

    def window(self, start: int, stop: int) -> Observations:
        """Frames [start, stop); the cases start at frame `start` then.

        Raises: InputError when the window is empty, outside, or without an observation.
        """
        if not 0 <= start < stop <= self.num_times:
            raise InputError(f"Window [{start}, {stop}) is not within the {self.num_times} observed frames.")
        time = None if self.time is None else self.time + start
        return replace(self, values=self.values[:, start:stop], frames=self.frames + start, time=time)

    def select(self, index: Tensor) -> Observations:
        """The cases with the given numbers, (case,)."""
        return replace(
            self,
            values=self.values[index],
            trajectories=self.trajectories[index],
            frames=self.frames[index],
            parameters=None if self.parameters is None else self.parameters[index],
            time=None if self.time is None else self.time[index],
            static=self.static[index] if self.static_varies and self.static is not None else self.static,
        )

    def withhold(self, fraction: float, *, seed: int) -> tuple[Observations, Observations]:
        """(used, withheld): a part of the positions of each case is kept out, all its channels together.

        Fixed sensors are withheld for good (their whole series); otherwise (frame, position) pairs are. The number is
        rounded, but at least 1 and at most all but 1 of each case. Addressed by (seed, trajectory, frame).

        Raises: InputError for a fraction outside (0, 1), or a case with fewer than two positions.
        """
        if not 0 < fraction < 1:
            raise InputError(f"The withheld fraction must lie between 0 and 1, got {fraction:g}.")
        observed = self.mask.any(dim=2)  # (case, time, *observed)
        if self.kind == "sensors":
            observed = observed.any(dim=1, keepdim=True)
        noise = MemberNoise(seed, self.trajectories, self.frames)
        order = noise.uniform(tuple(observed.shape[1:]), key=(0, 0, "withhold")).flatten(1)
        order = torch.where(observed.flatten(1), order, torch.full_like(order, 2.0))
        rank = order.argsort(dim=1).argsort(dim=1)
        available = observed.flatten(1).sum(dim=1)
        if int(available.min()) < 2:
            raise InputError("Each case needs at least two observed positions to withhold some of them.")
        count = (fraction * available).round().long().clamp(min=1).minimum(available - 1)
        out = (rank < count[:, None]).reshape(observed.shape).unsqueeze(2)
        nan = torch.full((), torch.nan, dtype=self.values.dtype)
        used, withheld = torch.where(out, nan, self.values), torch.where(out, self.values, nan)
        return replace(self, values=used), replace(self, values=withheld)

    def require(self, grid: Grid, names: tuple[str, ...]) -> None:
        """Check that the observations fit a run with this grid and these fields.

        Raises: InputError, one line, when a field is not in the run or the grids differ.
        """
        require_run(self, grid, names)

    def to_netcdf(self, path: str | Path) -> None:
        """Write one NetCDF-4 file, whole or not at all. Raises: InputError when it cannot be written."""
        write_netcdf(self, Path(path))

    @classmethod
    def from_netcdf(cls, path: str | Path) -> Observations:
        """Read what `to_netcdf` wrote. Raises: InputError naming the file and what is missing in it."""
        return cls(**read_netcdf(Path(path)))

    def to_csv(self, path: str | Path) -> None:
        """Write one row per observation, whole or not at all. Raises: InputError when it cannot be written."""
        write_csv(self, Path(path))

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        grid: Grid | None = None,
        fields: tuple[tuple[str, str], ...] | None = None,
        dt: float | None = None,
        nearest: bool = False,
    ) -> Observations:
        """Read what `to_csv` wrote, or a bare table of stations.

        Args:
            path: The file.
            grid, fields, dt: What a bare table (without the header lines of `to_csv`) does not tell.
            nearest: Move positions to the nearest grid point; otherwise they must lie on one.

        Raises: InputError naming the file, the row and what was expected.
        """
        return cls(**read_csv(Path(path), grid=grid, fields=fields, dt=dt, nearest=nearest))

    @classmethod
    def open(cls, path: str | Path) -> Observations:
        """Open a file by its suffix, `.nc` or `.csv`. Raises: InputError for another suffix or an unreadable file."""
        path = Path(path)
        if path.suffix == ".nc":
            return cls.from_netcdf(path)
        if path.suffix == ".csv":
            return cls.from_csv(path)
        raise InputError(
            f"{path}: observations are read from .nc or .csv, not {path.suffix or 'a file without suffix'!r}."
        )

    def save(self, path: str | Path) -> None:
        """Write `.nc` or `.csv`, by the suffix. Raises: InputError for another suffix."""
        path = Path(path)
        if path.suffix == ".nc":
            return self.to_netcdf(path)
        if path.suffix == ".csv":
            return self.to_csv(path)
        raise InputError(
            f"{path}: observations are written as .nc or .csv, not {path.suffix or 'a file without suffix'!r}."
        )


def start_conditions(observations: Observations | ObservationTable, static: Tensor | None = None) -> Conditions:
    """Conditions of the observed cases with the origin at the first frame; `static` where they come without static fields."""
    static = static if observations.static is None else observations.static
    parameters = torch.zeros(observations.num_cases, 0) if observations.parameters is None else observations.parameters
    time = observations.frames if observations.time is None else observations.time
    return Conditions(
        observations.grid, observations.dt, parameters, time.to(torch.float32), cycle=observations.cycle, static=static,
        valid=observations.valid, static_of=torch.arange(observations.num_cases) if observations.static_varies else None,
    )  # fmt: skip


def require_run(observations: Observations | ObservationTable, grid: Grid, names: tuple[str, ...]) -> None:
    """Check that observations fit a run with this grid and these fields.

    Raises: InputError, one line, when a field is not in the run or the grids differ.
    """
    mine = tuple(name for name, _ in observations.fields)
    for name in mine:
        if name not in names:
            raise InputError(f"Observed field {name!r} is not in the run, which has {', '.join(names)}.")
    if mine != names:
        raise InputError(
            f"Observations hold the fields {', '.join(mine)}; the run expects {', '.join(names)}, in order."
        )
    if observations.grid.shape != grid.shape:
        raise InputError(f"Observations stand on a grid of {observations.grid.shape} points, the run on {grid.shape}.")
    for ours, theirs in zip(observations.grid.axes, grid.axes, strict=True):
        a = torch.tensor(ours.coordinates, dtype=torch.float64)
        b = torch.tensor(theirs.coordinates, dtype=torch.float64)
        spacing = (b[1:] - b[:-1]).abs().min() if len(b) > 1 else torch.tensor(1.0)
        if (a - b).abs().max() > 1e-3 * spacing:
            raise InputError(
                f"Axis {ours.name!r} of the observations spans {a[0]:g} to {a[-1]:g}, the run's spans {b[0]:g} to "
                f"{b[-1]:g}: observe data on the run's grid."
            )


def cell_weights(grid: Grid, valid: Tensor | None) -> Tensor:
    """Quadrature weights with 0 at invalid cells, (*space), float64."""
    weights = grid.weights()
    return weights if valid is None else weights * valid.to(weights)


def observable(grid: Grid, valid: Tensor | None, factor: tuple[int, ...]) -> Tensor:
    """True where a cell (or a block with at least one valid cell) can be observed, (*observed)."""
    return block_sum(cell_weights(grid, valid), factor) > 0
