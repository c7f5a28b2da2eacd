"""Synthetic observations of known states: random or chosen points, the edge, fixed sensors, block means, with Gaussian noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.observations.observations import Kind, Observations, cell_weights, observable
from eddycast.observations.operators import CoarsenOperator


def observe(
    states: Tensor,
    *,
    grid: Grid,
    fields: Sequence[tuple[str, str]],
    dt: float,
    noise_std: Tensor,
    seed: int,
    fraction: float | None = None,
    sensors: int | None = None,
    coarsen: int | Sequence[int] | None = None,
    stripe: int | None = None,
    positions: Tensor | None = None,
    trajectories: Tensor | None = None,
    frames: Tensor | None = None,
    only: Sequence[str] | None = None,
    added_std: Tensor | None = None,
    complete: int = 0,
    valid: Tensor | None = None,
    time_units: str = "1",
    parameters: Tensor | None = None,
    parameter_names: Sequence[str] = (),
    time: Tensor | None = None,
    cycle: float | None = None,
    attributes: dict[str, str] | None = None,
) -> Observations:
    """Observe states through one of five instruments, y = H x + std e with e ~ N(0, 1) independent.

    Args:
        states: Physical states (case, time, channel, *space); NaN at invalid points is fine.
        grid, fields, dt, time_units: Grid, (name, unit) per channel, time step and its unit.
        noise_std: Noise of each channel in its unit, (channel,), as the observations state it.
        seed: Seed; positions and noise depend on (seed, trajectory, first frame), not on the other cases.
        fraction: Share of the valid points seen, drawn anew at each frame. The number of points is fraction * valid
            points, rounded up or down at random so that its mean is exact; all channels share the points.
        sensors: Number of fixed random points, the same at all frames of a case.
        coarsen: Cells per block, for all axes or for each; every block mean is seen.
        stripe: Width in points of the edge of the domain that is seen: the outermost points along each side of each axis, periodic or
            not, the same at all frames.
        positions: True at the points that are seen, (*space), the same at all frames and cases.
        trajectories, frames: Numbers of the cases (case,); by default 0, 1, 2 ... and 0.
        only: Names of the fields seen; None means all.
        added_std: Noise that is really added, (channel,), where it differs from what is stated; 0 is a protocol in use for guided
            diffusion.
        complete: First frames at which all valid points are seen. The kind becomes `points`.
        valid: True where the fields are defined (*space).
        parameters, parameter_names, time, cycle, attributes: As in `Observations`.

    Returns: the observations.
    Raises: InputError for no or several instruments, numbers out of range, or an unknown field.
    """
    if sum(choice is not None for choice in (fraction, sensors, coarsen, stripe, positions)) != 1:
        raise InputError("Choose exactly one of fraction, sensors, coarsen, stripe and positions.")
    cases, num_times = states.shape[:2]
    trajectories = torch.arange(cases) if trajectories is None else trajectories
    frames = torch.zeros(cases, dtype=torch.long) if frames is None else frames
    names = [name for name, _ in fields]
    for name in only or ():
        if name not in names:
            raise InputError(f"Field {name!r} cannot be observed: the data have {', '.join(names)}.")
    seen = torch.tensor([only is None or name in only for name in names]).reshape(-1, *(1,) * len(grid.axes))
    noise = MemberNoise(seed, trajectories, frames)
    factor = (1,) * len(grid.axes)
    kind: Kind
    if coarsen is not None:
        kind, factor = "coarsen", _block(coarsen, grid)
    elif fraction is None:
        kind = "sensors"
    else:
        kind = "points"
    available = observable(grid, valid, factor)
    if fraction is not None:
        mask = random_points(available, fraction, num_times, noise=noise)
    elif sensors is not None:
        mask = fixed_sensors(available, sensors, noise=noise).unsqueeze(1).expand(-1, num_times, *available.shape)
    else:
        if stripe is not None:
            available = available & edge(grid, stripe)
        elif positions is not None:
            available = available & chosen_points(grid, positions)
        mask = available.expand(cases, num_times, *available.shape)
    if complete and coarsen is not None:
        raise InputError(
            f"Block means show no state whole, got {complete} with coarsen: leave complete out (a background gives a first state), or "
            "observe points."
        )
    if not 0 <= complete <= num_times:
        raise InputError(
            f"complete counts first frames at which every point is seen, 0 to {num_times}, with points of any kind; got {complete}."
        )
    if complete:
        kind = "points"
        mask = mask | (
            observable(grid, valid, factor) & (torch.arange(num_times) < complete).reshape(-1, *(1,) * available.ndim)
        )
    clean = states if coarsen is None else CoarsenOperator(factor, cell_weights(grid, valid))(states)
    mask = (mask.unsqueeze(2) & seen).expand(clean.shape).to(states.device)
    if torch.isnan(clean[mask]).any():
        raise InputError("The states to be observed hold NaN at valid points: clean the data or pass their mask.")
    std = (noise_std if added_std is None else added_std).to(clean).reshape(-1, *(1,) * len(grid.axes))
    errors = noise.draw(tuple(clean.shape[1:]), key=(0, 0, "observation noise"), dtype=clean.dtype, device=clean.device)
    values = clean + std * errors
    return Observations(
        values=torch.where(mask, values, torch.full_like(values, torch.nan)),
        noise_std=noise_std,
        grid=grid,
        fields=tuple((name, units) for name, units in fields),
        dt=dt,
        trajectories=trajectories,
        frames=frames,
        kind=kind,
        factor=factor,
        valid=valid,
        time_units=time_units,
        parameters=parameters,
        parameter_names=tuple(parameter_names),
        time=time,
        cycle=cycle,
        attributes=dict(attributes or {}),
    )


def random_points(available: Tensor, fraction: float, num_times: int, *, noise: MemberNoise) -> Tensor:
    """Fresh points at each frame, (case, time, *space); floor(fraction * available + u) of them, u uniform in [0, 1).

    Raises: InputError for a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise InputError(f"The observed fraction must lie in (0, 1], got {fraction:g}.")
    extra = noise.uniform((num_times,), key=(0, 0, "observation count"), dtype=torch.float64)
    count = (fraction * int(available.sum()) + extra).floor().long()
    score = noise.uniform((num_times, available.numel()), key=(0, 0, "observation points"))
    mask = _smallest(score, count, available)
    return mask.reshape(*mask.shape[:2], *available.shape)


def fixed_sensors(available: Tensor, sensors: int, *, noise: MemberNoise) -> Tensor:
    """A number of random points per case, (case, *space).

    Raises: InputError when there are not that many valid points, or none is asked for.
    """
    if not 1 <= sensors <= int(available.sum()):
        raise InputError(f"Between 1 and {int(available.sum())} sensors fit on the valid points, got {sensors}.")
    score = noise.uniform((available.numel(),), key=(0, 0, "sensor positions"))
    mask = _smallest(score, torch.full(score.shape[:-1], sensors), available)
    return mask.reshape(*mask.shape[:1], *available.shape)


def edge(grid: Grid, width: int) -> Tensor:
    """True at the `width` outermost points along each side of each axis, (*space).

    Raises: InputError for a width that is not positive, or that leaves no point inside.
    """
    widest = (min(grid.shape) - 1) // 2
    if not 1 <= width <= widest:
        raise InputError(
            f"A stripe along the sides of {' x '.join(map(str, grid.shape))} points can be 1 to {widest} wide, got {width}: choose fewer, "
            "or observe a fraction of 1."
        )
    inside = torch.zeros(grid.shape, dtype=torch.bool)
    inside[tuple(slice(width, size - width) for size in grid.shape)] = True
    return ~inside


def chosen_points(grid: Grid, positions: Tensor) -> Tensor:
    """The positions as a mask. Raises: InputError where they are no mask of this grid, or choose nothing."""
    if positions.dtype != torch.bool or tuple(positions.shape) != grid.shape:
        raise InputError(
            f"The mask of observed points is {str(positions.dtype).removeprefix('torch.')} of shape {tuple(positions.shape)}; expected "
            f"true or false at the points {grid.shape} of the grid."
        )
    if not positions.any():
        raise InputError("The mask of observed points is false everywhere: set it where something is observed.")
    return positions


def _smallest(score: Tensor, count: Tensor, available: Tensor) -> Tensor:
    """True at the `count` smallest scores among the available points of the last axis."""
    score = torch.where(available.flatten(), score, torch.full_like(score, 2.0))
    rank = score.argsort(dim=-1, stable=True).argsort(dim=-1)
    return (rank < count.unsqueeze(-1)) & available.flatten()


def _block(coarsen: int | Sequence[int], grid: Grid) -> tuple[int, ...]:
    factor = (coarsen,) * len(grid.axes) if isinstance(coarsen, int) else tuple(coarsen)
    if len(factor) != len(grid.axes):
        raise InputError(f"coarsen needs one number or one per axis ({len(grid.axes)}), got {factor}.")
    for axis, cells in zip(grid.axes, factor, strict=True):
        if cells < 1 or axis.size % cells:
            raise InputError(f"Blocks of {cells} do not divide the {axis.size} points of axis {axis.name!r}.")
    return factor
