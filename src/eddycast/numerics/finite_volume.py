"""Finite volumes for the compressible Euler equations of an ideal gas, on uniform boxes of one, two or three axes.

    rho_t + div(rho v) = 0
    (rho v)_t + div(rho v v) + grad p = 0
    E_t + div((E + p) v) = 0,        E = p / (gamma - 1) + rho |v|^2 / 2

A state holds cell averages of the conserved variables (*batch, channel, *space), channels (rho, rho v_1, ..., rho v_D, E). The
scheme: primitives are linear within each cell (van Leer's limiter), HLLC fluxes at the faces of all axes at once, two stages of
Runge-Kutta (SSPRK2, Heun). Second order where the flow is smooth, shocks within 2 to 3 cells; mass, momentum and energy leave a cell
only through its faces. Each trajectory chooses its own steps from its own waves, so it is the same, bit by bit, in any batch.

How other physics plugs in: `advance(..., source=...)` takes a `Source`, three functions of a state (gravity, heating, cooling):

    rate(state)          its time derivative, added to that of the fluxes in both stages; for what is not stiff (gravity)
    exchange(state, dt)  the state after dt of it alone, applied for half a step before and after the fluxes (Strang); for what
                         is stiff (cooling, solved exactly or implicitly) and for floors. For dt = 0 it must return the state.
    frequency(state)     what the step must resolve beside the waves: steps are at most courant / (wave rate + frequency)

`dt` is (*batch), and finished trajectories go along with dt = 0. Sources: Toro, Riemann Solvers and Numerical Methods for Fluid
Dynamics, 3rd ed. (2009), sections 10.4 to 10.6 (HLLC), 13.4 (MUSCL); van Leer (1974), doi:10.1016/0021-9991(74)90019-9; Gottlieb, Shu and
Tadmor (2001), doi:10.1137/S003614450036757X, eq. 4.1; Strang (1968), doi:10.1137/0705041.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Boundary, Grid

COURANT = 0.8
MOST_STEPS = 2**20  # within one call: a state that needs more is lost, and shall end rather than go on for ever
TINY = 1e-30
RETRIES = 4


@dataclass(frozen=True)
class Cells:
    """Width of the cells along each axis, and what lies beyond the box at either side: `periodic`, or `open` (the edge's own state)."""

    widths: tuple[float, ...]
    boundary: tuple[tuple[Boundary, Boundary], ...]

    def __post_init__(self) -> None:
        sides = {side for pair in self.boundary for side in pair}
        if not sides <= {"periodic", "open"} or len(self.widths) != len(self.boundary):
            raise ValueError(f"Cells need periodic or open sides, one pair per axis; got {self.boundary}.")


def cells_of(grid: Grid) -> Cells:
    """Cells around the points of a uniform grid. Raises: ValueError for walls."""
    widths = []
    for axis in grid.axes:
        extent = axis.period if axis.period is not None else axis.coordinates[-1] - axis.coordinates[0]
        widths.append(abs(extent) / (axis.size if axis.periodic else axis.size - 1))
    return Cells(tuple(widths), tuple(axis.boundary for axis in grid.axes))


class Source(Protocol):
    """Physics beside the fluxes; all states are conserved variables (*batch, channel, *space) in the batch given to `advance`."""

    def rate(self, state: Tensor) -> Tensor:
        """Time derivative of the state due to it, the shape of the state."""
        ...

    def exchange(self, state: Tensor, dt: Tensor) -> Tensor:
        """The state after dt (*batch) of the processes that `rate` leaves out; the state itself where dt = 0."""
        ...

    def frequency(self, state: Tensor) -> Tensor:
        """Inverse of the shortest time that a step must resolve because of it, (*batch), >= 0."""
        ...


def to_primitive(state: Tensor, gamma: Tensor | float, dims: int) -> Tensor:
    """(rho, v, p) of conserved (rho, rho v, E), both (*batch, dims + 2, *space); gamma (*batch) or a number."""
    rows, shape = _rows(state, dims)
    return _restored(_primitive(rows, _excess(gamma, state, dims)), shape)


def to_conserved(primitive: Tensor, gamma: Tensor | float, dims: int) -> Tensor:
    """(rho, rho v, E) of primitive (rho, v, p): the inverse of `to_primitive`."""
    rows, shape = _rows(primitive, dims)
    density, velocity, pressure = rows[0], rows[1:-1], rows[-1]
    energy = pressure / _excess(gamma, primitive, dims) + 0.5 * density * _squared(velocity)
    return _restored(torch.stack([density, *(density * part for part in velocity), energy]), shape)


def advance(
    state: Tensor,
    duration: float,
    gamma: Tensor | float,
    cells: Cells,
    *,
    courant: float = COURANT,
    source: Source | None = None,
) -> Tensor:
    """The state after `duration`, by steps that each trajectory chooses for itself.

    A step is the remaining time over the least whole number for which

        dt (max_cells sum_axes (|v_i| + c) / width_i + frequency) <= courant

    so that the last one ends on time. No derivative is taken of dt. Where a stage leaves a cell without positive density and pressure, it
    is computed again with constant states in that cell and its neighbours (first order there; what leaves one cell still enters
    the next). A state that is beyond this goes on as NaN.

    Args:
        state: Conserved variables (*batch, D + 2, *space), density and pressure positive.
        duration: Time, > 0.
        gamma: Ratio of specific heats, (*batch) or a number, > 1.
        cells: Of the D axes.
        courant: Below 1. For constant cells positivity is proven up to 0.5; with 0.8 it held in all that was tried.
        source: Other physics, see the top of this file.

    Returns: (*batch, D + 2, *space), differentiable with respect to `state` and `gamma` (almost everywhere: limiter and
        upwinding have kinks).
    """
    dims = len(cells.widths)
    batch = state.shape[: -dims - 1]
    rows, shape = _rows(state, dims)  # (channel, row, *space): each channel in one piece of memory
    excess = _excess(gamma, state, dims).expand(rows.shape[1], *[1] * dims)
    follow = None if source is None else _Rows(source, batch, shape)
    remaining = torch.full((rows.shape[1],), float(duration), dtype=torch.float64, device=state.device)
    active = torch.arange(rows.shape[1], device=state.device)
    ended: list[tuple[Tensor, Tensor]] = []

    primitive = _primitive(rows, excess)
    while True:
        needed = _wave_rate(primitive, excess, cells)
        if follow is not None:
            needed = needed + follow.frequency(rows)
        count = (remaining * needed.detach().double() / courant).ceil().clamp(min=1)
        count = torch.where(count <= MOST_STEPS, count, 1.0)  # NaN and infinity as well
        dt = remaining / count
        step = dt.to(rows.dtype).reshape(-1, *[1] * dims)
        if follow is not None:
            rows = follow.exchange(rows, 0.5 * step)
            primitive = _primitive(rows, excess)
        first, first_primitive = _stage(rows, rows, primitive, step, excess, cells, follow, last=False)
        rows, primitive = _stage(rows, first, first_primitive, step, excess, cells, follow, last=True)
        if follow is not None:
            rows = follow.exchange(rows, 0.5 * step)
            primitive = _primitive(rows, excess)
        remaining = torch.where(count > 1, remaining - dt, 0.0)
        going = remaining > 0
        if not bool(going.any()):
            break
        if follow is None and not bool(going.all()):  # those that have arrived need no more work
            ended.append((active[~going], rows[:, ~going]))
            active, remaining, excess = active[going], remaining[going], excess[going]
            rows, primitive = rows[:, going], primitive[:, going]
    if ended:
        order = torch.cat([*(index for index, _ in ended), active]).argsort()
        rows = torch.cat([*(part for _, part in ended), rows], dim=1)[:, order]
    return _restored(rows, shape)


def hllc_flux(left: Tensor, right: Tensor, gamma: Tensor | float, axis: int = 0) -> Tensor:
    """Flux (channel, *shape) of the conserved variables along `axis` between primitive states (channel, *shape).

    The outer waves have the speeds of Einfeldt, with averages ~ weighted by sqrt(rho):

        S_L = min(u_L - c_L, ~u - d),   S_R = max(u_R + c_R, ~u + d)
        d^2 = ~(c^2) + sqrt(rho_L rho_R) (u_R - u_L)^2 / (2 (sqrt(rho_L) + sqrt(rho_R))^2)

    between which the contact always lies (tried over eight decades of pressure, six of density and Mach 10^5; for gamma below 1.1 it may
    pass them by 3 %). The flux is that of one state at the face: left or right of the contact, beyond the outer wave or behind it.
    Source: Toro (2009), eqs. 10.37 to 10.39; Einfeldt (1988), doi:10.1137/0725021; Batten et al. (1997), doi:10.1137/S1064827593260140.
    """
    return torch.stack(_hllc(left, right, torch.as_tensor(gamma, dtype=left.dtype) - 1.0, axis))


class _Rows:
    """A source seen from the layout (channel, row, *space)."""

    def __init__(self, source: Source, batch: torch.Size, shape: torch.Size) -> None:
        self.source, self.batch, self.shape = source, batch, shape

    def rate(self, rows: Tensor) -> Tensor:
        return self.source.rate(_restored(rows, self.shape)).reshape(-1, len(rows), *rows.shape[2:]).movedim(1, 0)

    def exchange(self, rows: Tensor, dt: Tensor) -> Tensor:
        state = self.source.exchange(_restored(rows, self.shape), dt.reshape(self.batch))
        return state.reshape(-1, len(rows), *rows.shape[2:]).movedim(1, 0).contiguous()

    def frequency(self, rows: Tensor) -> Tensor:
        return self.source.frequency(_restored(rows, self.shape)).reshape(-1)


def _stage(
    origin: Tensor,
    rows: Tensor,
    primitive: Tensor,
    dt: Tensor,
    excess: Tensor,
    cells: Cells,
    follow: _Rows | None,
    *,
    last: bool,
) -> tuple[Tensor, Tensor]:
    """One Euler step of `rows`, averaged with `origin` if it is the last stage: state and its primitives, positive if that can be."""
    extra = None if follow is None else follow.rate(rows)
    per_width = dt * (1 / cells.widths[0])
    smooth: Tensor | None = None
    for _ in range(RETRIES):
        changes = _changes(primitive, excess, cells, smooth)
        parts = []
        for channel, change in enumerate(changes):
            new = rows[channel] + per_width * change
            if extra is not None:
                new = new + dt * extra[channel]
            parts.append(0.5 * (origin[channel] + new) if last else new)
        result = torch.stack(parts)
        found = _primitive(result, excess)
        poor = torch.minimum(found[0], found[-1]).detach() <= 0
        if not bool(poor.any()):
            break
        kept = (~poor).to(rows.dtype)
        smooth = kept if smooth is None else smooth * kept
    return result, found


def _changes(primitive: Tensor, excess: Tensor, cells: Cells, smooth: Tensor | None) -> list[Tensor]:
    """Time derivative by the fluxes of all axes times the first width, one tensor (row, *space) per channel."""
    dims = len(cells.widths)
    total: list[Tensor] = []
    for axis, (width, sides) in enumerate(zip(cells.widths, cells.boundary, strict=True)):
        dim = axis - dims
        left, right = _faces(primitive, dim, sides, smooth)
        fluxes = _hllc(left, right, excess, axis)
        points = primitive.shape[dim]
        parts = [flux.narrow(dim, 0, points) - flux.narrow(dim, 1, points) for flux in fluxes]
        if width != cells.widths[0]:
            parts = [part * (cells.widths[0] / width) for part in parts]
        total = [before + part for before, part in zip(total, parts, strict=True)] if total else parts
    return total


def _faces(
    primitive: Tensor, dim: int, sides: tuple[Boundary, Boundary], smooth: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Primitives on either side of the N + 1 faces along `dim`; constant cells where `smooth` is 0 in a cell or beside it.

    With differences a, b to both neighbours the slope is van Leer's, 2 a b / (a + b) where they have one sign, else 0; so a value at a
    face lies between those of the cells beside it.
    """
    points = primitive.shape[dim]
    padded = _padded(primitive, dim, sides)
    step = padded.narrow(dim, 1, points + 3) - padded.narrow(dim, 0, points + 3)
    size = step.abs() + TINY
    behind, ahead = (step.narrow(dim, at, points + 2) for at in (0, 1))
    behind_size, ahead_size = (size.narrow(dim, at, points + 2) for at in (0, 1))
    slope = (behind * ahead_size + behind_size * ahead) / (behind_size + ahead_size)
    if smooth is not None:
        keep = _padded(smooth, dim, sides)
        slope = slope * (
            keep.narrow(dim, 0, points + 2) * keep.narrow(dim, 1, points + 2) * keep.narrow(dim, 2, points + 2)
        )
    left = torch.add(padded.narrow(dim, 1, points + 1), slope.narrow(dim, 0, points + 1), alpha=0.5)
    right = torch.sub(padded.narrow(dim, 2, points + 1), slope.narrow(dim, 1, points + 1), alpha=0.5)
    return left, right


def _padded(values: Tensor, dim: int, sides: tuple[Boundary, Boundary]) -> Tensor:
    """Two ghost cells more at each side."""
    points = values.shape[dim]
    if sides[0] == "periodic":
        return torch.cat([values.narrow(dim, points - 2, 2), values, values.narrow(dim, 0, 2)], dim=dim)
    first, last = values.narrow(dim, 0, 1), values.narrow(dim, points - 1, 1)
    return torch.cat([first, first, values, last, last], dim=dim)


def _hllc(left: Tensor, right: Tensor, excess: Tensor, axis: int) -> list[Tensor]:
    """`hllc_flux`, one tensor per channel; `excess` is gamma - 1."""
    gamma = excess + 1.0
    normal = 1 + axis
    (rho_l, u_l, p_l), (rho_r, u_r, p_r) = ((side[0], side[normal], side[-1]) for side in (left, right))
    square_l, square_r = gamma * p_l / rho_l, gamma * p_r / rho_r
    weight_l, weight_r = torch.sqrt(rho_l), torch.sqrt(rho_r)
    share_l = weight_l / (weight_l + weight_r)
    share_r, jump = 1.0 - share_l, u_l - u_r
    both = share_l * share_r * 0.5
    sound = torch.sqrt(share_l * square_l + share_r * square_r + both * (jump * jump))
    a_l = torch.maximum(torch.sqrt(square_l), share_r * jump + sound)  # u_l - S_L
    a_r = torch.maximum(torch.sqrt(square_r), share_l * jump + sound)
    m_l, m_r = rho_l * a_l, rho_r * a_r
    contact = (m_l * u_l + m_r * u_r + (p_l - p_r)) / (m_l + m_r)  # speed between the outer waves

    # Oriented from the side the fluid comes from, K: there the flux is F_K + S_K (U* - U_K), or F_K where the outer wave is swept along.
    from_left = contact >= 0
    side = torch.where(from_left, left, right)
    a = torch.where(from_left, a_l, a_r)
    sign = torch.where(from_left, 1.0, -1.0).to(a.dtype)
    rho, p = side[0], side[-1]
    away, speed = sign * side[normal], contact.abs()
    gain = speed - away  # of the fluid that the outer wave passes
    reach = (a - away).clamp(min=0)  # -S_K, the speed of the outer wave against the flow
    part = reach / (a + gain)
    lifted = gain * part
    carried = away + lifted
    energy = p / excess + 0.5 * rho * _squared(side[1:-1])
    work = p * away * (1.0 - part) + part * speed * (p - rho * a * gain)  # the second pressure is that behind the wave
    mass = sign * (rho * carried)
    fluxes = [mass, *(mass * velocity for velocity in side[1:-1]), sign * (energy * carried + work)]
    fluxes[normal] = p + rho * (away * away - lifted * reach)
    return fluxes


def _wave_rate(primitive: Tensor, excess: Tensor, cells: Cells) -> Tensor:
    """Largest sum over axes of (|v| + c) / width of each row, (row,)."""
    with torch.no_grad():
        sound = torch.sqrt((excess + 1.0) * primitive[-1] / primitive[0])
        rate = sound * math.fsum(1 / width for width in cells.widths)
        for part, width in zip(primitive[1:-1], cells.widths, strict=True):
            rate = rate + part.abs() * (1 / width)
        return rate.flatten(1).amax(dim=1)


def _primitive(rows: Tensor, excess: Tensor) -> Tensor:
    inverse = 1 / rows[0]
    velocity = [part * inverse for part in rows[1:-1]]
    kinetic = rows[1] * velocity[0]
    for part, speed in zip(rows[2:-1], velocity[1:], strict=True):
        kinetic = kinetic + part * speed
    return torch.stack([rows[0], *velocity, excess * (rows[-1] - 0.5 * kinetic)])


def _squared(velocity: Tensor) -> Tensor:
    """|v|^2 of (D, ...). Sums are written out: those of torch may depend on the layout in their last bit."""
    total = velocity[0] * velocity[0]
    for part in velocity[1:]:
        total = total + part * part
    return total


def _excess(gamma: Tensor | float, like: Tensor, dims: int) -> Tensor:
    """gamma - 1 as (rows, 1, ...), one row where it is a number."""
    value = torch.as_tensor(gamma, dtype=torch.float64, device=like.device) - 1.0
    if value.ndim:
        value = value.expand(like.shape[: -dims - 1])
    return value.to(like.dtype).reshape(-1, *[1] * dims)


def _rows(state: Tensor, dims: int) -> tuple[Tensor, torch.Size]:
    """(channel, row, *space) of (*batch, channel, *space), and the shape to come back to."""
    if state.shape[-dims - 1] != dims + 2:
        raise ValueError(f"state {tuple(state.shape)} must have {dims + 2} channels before its {dims} axes of space.")
    return state.reshape(-1, *state.shape[-dims - 1 :]).movedim(1, 0).contiguous(), state.shape


def _restored(rows: Tensor, shape: torch.Size) -> Tensor:
    return rows.movedim(0, 1).reshape(shape)


def block_mean(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Averages of (..., *space) over blocks of cells, or copies where more cells are asked for: (..., *shape).

    Raises: InputError where one number of cells is no multiple of the other.
    """
    for axis, wanted in enumerate(shape):
        dim = axis - len(shape)
        points = values.shape[dim]
        if points % wanted and wanted % points:
            raise InputError(
                f"Blocks need a whole number of cells: {points} cells along axis {axis} do not make {wanted}; take a multiple."
            )
        if wanted > points:
            values = values.repeat_interleave(wanted // points, dim=dim)
        elif wanted < points:
            values = values.unflatten(dim, (wanted, points // wanted)).mean(dim=dim)
    return values
