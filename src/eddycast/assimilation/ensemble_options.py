"""Settings of the ensemble methods: what all share, and the update that each makes of observations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.assimilation.localisation import LocalUpdate, Places
from eddycast.assimilation.updates import (
    SharedUpdate,
    Update,
    enkf_weights,
    etkf_weights,
    mean_preserving_rotation,
    recentred_perturbations,
)
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement

Departures = tuple[Tensor, Tensor]
"""Y (case, member, entry) and d (case, entry) in units of the noise."""


@dataclass(frozen=True)
class EnsembleOptions:
    """Settings that all ensemble methods share; each adds its own and the update it makes.

    Args:
        inflation: Factor on the deviations of the analysis from which the next forecast starts, >= 1; makes up for
            sampling and model errors. 1 where the model is perfect and the ensemble large.
        rtps, rtpp: Relaxation of those deviations to the spread, or to the deviations, that they had before the update, 0 to 1; see
            `inflation.py`. They come before `inflation`.
        passes: Times that a block is gone through, each with the noise variance times `passes`: the nonlinear way from
            a poor start is then taken in small steps. More than one pays for deterministic models only, since the
            noise of a stochastic one is not estimated.
        estimate: Unknown parameters of the dynamics by name, each (mean, standard deviation) before any observation; a positive mean
            says that the parameter is positive. See `parameters.py`.
        walk: Deviation that each unknown parameter gains in one frame, in units of the deviation of its prior.
        floor: Least deviation of an unknown parameter from which a forecast starts, in the same units.
    """

    whole: ClassVar[bool] = False

    inflation: float = 1.02
    rtps: float = 0.0
    rtpp: float = 0.0
    passes: int = 1
    estimate: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    walk: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.inflation < 3:
            raise InputError(f"inflation must lie in [1, 3), got {self.inflation:g}: 1.02 is usual.")
        if self.passes < 1:
            raise InputError(f"passes must be at least 1, got {self.passes}.")
        for name in ("rtps", "rtpp", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} must lie in [0, 1], got {getattr(self, name):g}.")
        if not 0 <= self.walk < float("inf"):
            raise InputError(f"walk must be a number from 0 on, got {self.walk:g}.")
        if self.rtpp > 0 and getattr(self, "rotate", False):
            raise InputError(
                "rtpp mixes deviations before and after the update, and rotate tears them apart: use rtps."
            )

    def update(
        self, departures: Departures, measurement: Measurement, grid: Grid, *, noise: MemberNoise, key: tuple[int, int]
    ) -> Update:
        """What the observations make of the ensemble; random numbers of `noise` (member, case) are drawn at `key`."""
        raise NotImplementedError("each method says it")


@dataclass(frozen=True)
class ETKFOptions(EnsembleOptions):
    """Settings of the ensemble transform Kalman filter and smoother.

    Args:
        rotate: Mix the deviations by a random rotation that keeps mean and covariance; prevents outliers in long
            cycles.
        Others as in `EnsembleOptions`.
    """

    rotate: bool = False

    def update(
        self, departures: Departures, measurement: Measurement, grid: Grid, *, noise: MemberNoise, key: tuple[int, int]
    ) -> Update:
        weights, transform = etkf_weights(*departures)
        if self.rotate:
            transform = rotation_of(noise, key).to(transform) @ transform
        return SharedUpdate(weights[..., None, :] + transform)


@dataclass(frozen=True)
class EnKFOptions(EnsembleOptions):
    """Settings of the ensemble Kalman filter and smoother with perturbed observations, which need more members than a transform but
    forget the shape of their ensemble; see `EnsembleOptions`."""

    def update(
        self, departures: Departures, measurement: Measurement, grid: Grid, *, noise: MemberNoise, key: tuple[int, int]
    ) -> Update:
        deviations, innovation = departures
        frame, sweep = key
        drawn = recentred_perturbations(noise, deviations.shape[-1], key=(frame, sweep, "observation perturbation"))
        drawn = (drawn * measurement.mask[:, None]).to(deviations)
        return SharedUpdate(enkf_weights(deviations, innovation, drawn))


@dataclass(frozen=True)
class LETKFOptions(EnsembleOptions):
    """Settings of the local ensemble transform Kalman filter and smoother.

    Args:
        radius: Distance at which observations cease to matter, in units of the grid's coordinates; None for a quarter of the longest
            axis. The larger the ensemble, the larger it may be.
        cells: Points along each axis that share one analysis, which saves time on fine grids.
        rotate: As in `ETKFOptions`, the same at all points.
        Others as in `EnsembleOptions`.
    """

    radius: float | None = None
    cells: int = 1
    rotate: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius is not None and not self.radius > 0:
            raise InputError(f"radius must be positive, got {self.radius:g}.")
        if self.cells < 1:
            raise InputError(f"cells must be at least 1, got {self.cells}.")

    def update(
        self, departures: Departures, measurement: Measurement, grid: Grid, *, noise: MemberNoise, key: tuple[int, int]
    ) -> Update:
        deviations, innovation = departures
        return LocalUpdate(
            deviations,
            innovation,
            measurement.positions,
            grid,
            places_of(grid, self.cells),
            quarter_of(grid) if self.radius is None else self.radius,
            rotation_of(noise, key) if self.rotate else None,
        )


@dataclass(frozen=True)
class EnsembleSmootherOptions(ETKFOptions):
    """Settings of the ensemble smoother, which forecasts a whole block and updates it once.

    In long blocks of chaotic dynamics members and truth have nothing in common at the end: take several passes, short blocks, or `etkf`,
    which updates on the way.

    Args: as `ETKFOptions`.
    """

    whole: ClassVar[bool] = True


def rotation_of(noise: MemberNoise, key: tuple[int, int]) -> Tensor:
    """A rotation for each case, (case, member, member)."""
    frame, sweep = key
    address = MemberNoise(noise.seed, noise.cases[0], torch.zeros_like(noise.cases[0]))
    return mean_preserving_rotation(len(noise.cases), address, key=(frame, sweep, "ensemble rotation"))


def quarter_of(grid: Grid) -> float:
    """A quarter of the longest axis, or 1 on a grid of one point."""
    lengths = [axis.period or abs(axis.coordinates[-1] - axis.coordinates[0]) for axis in grid.axes]
    return max(lengths) / 4 or 1.0


@lru_cache(maxsize=8)
def places_of(grid: Grid, cells: int) -> Places:
    return Places.of(grid, cells)
