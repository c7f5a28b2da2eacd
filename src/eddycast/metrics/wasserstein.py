"""Transport distances: between marginal laws of values, between laws of whole fields, between fields as mass on a grid.

Three different things share the name in papers; they are three functions here:

- `wasserstein`, `pooled_wasserstein`: how far the *values* must move, wherever they stand. Units of the field.
- `sliced_wasserstein`: how far a *sample of fields* must move to become another, over random directions of field space.
- `earth_movers_distance`: how far the *mass* of one density field must be carried over the grid. Units of length.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from eddycast.grid import Grid
from eddycast.metrics.chunks import WORKSPACE, spans
from eddycast.metrics.ensemble import check_members


def wasserstein(
    first: Tensor,
    second: Tensor,
    *,
    order: float = 1,
    first_weights: Tensor | None = None,
    second_weights: Tensor | None = None,
) -> Tensor:
    """Exact Wasserstein distance of two weighted samples on a line, by their quantile functions.

        W_p = (int_0^1 |F^-1(q) - G^-1(q)|^p dq)^(1/p)

    Args:
        first: Values (*batch, n).
        second: Values (*batch, m).
        order: p >= 1.
        first_weights: Of `first`, (n) or (*batch, n), not negative, any scale; None means equal. Values of weight zero may
            hold anything.
        second_weights: Likewise for `second`.

    Returns: (*batch), unit of the values; NaN or infinite where a counted value is not finite. Between samples of the same law it is
        not zero but about n^(-1/2).
    Raises: ValueError for an order below 1, batches that differ, or weights that are all zero.
    Cost O((n + m) log (n + m)).
    """
    _check_order(order)
    if first.shape[:-1] != second.shape[:-1]:
        raise ValueError(f"Samples {tuple(first.shape)} and {tuple(second.shape)} must agree but for their last axis.")
    dtype = torch.result_type(first, second)
    sizes = sorted((first.shape[-1], second.shape[-1]))
    if first_weights is None and second_weights is None and sizes[0] > 0 and sizes[1] % sizes[0] == 0:
        x, y = (_sorted(values).unflatten(-1, (sizes[0], -1)) for values in (first, second))
        gap = (x - y).abs().flatten(start_dim=-2)  # each value of the smaller sample stands for several of the larger
        return gap.pow(order).mean(dim=-1).pow(1 / order).to(dtype)
    x, below_x = _quantiles(first, first_weights)
    y, below_y = _quantiles(second, second_weights)
    ends = torch.cat([below_x, below_y], dim=-1).sort(dim=-1).values
    width = torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    middle = ends - width / 2
    gap = [
        values.gather(-1, torch.searchsorted(below, middle).clamp(max=values.shape[-1] - 1))
        for values, below in ((x, below_x), (y, below_y))
    ]
    moved = torch.where(width > 0, width * (gap[0] - gap[1]).abs().pow(order), 0.0)
    lost = ~(x.isfinite().all(dim=-1) & y.isfinite().all(dim=-1))
    return moved.sum(dim=-1).pow(1 / order).masked_fill(lost, torch.nan).to(dtype)


def pooled_wasserstein(ensemble: Tensor, truth: Tensor, weights: Tensor, *, order: float = 1) -> Tensor:
    """Distance of the law of values pooled over members and space from that of the truth's values.

    It compares marginal laws: members may be in the wrong place at no cost, so it says whether a forecast is *like* the
    truth, not whether it is right; and as a distance to a single truth it is not a proper score.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space).
        order: p >= 1.

    Returns: (*batch), units of the field.
    Raises: ValueError as `wasserstein`. Memory: a few copies of the members of one case.
    Source: the Wasserstein distance of tables 12 and 13 of arXiv:2507.02608, members pooled, quadrature added.
    """
    members = check_members(ensemble, truth, 1, "A distance", "pass at least one")
    batch = truth.shape[: truth.ndim - weights.ndim]
    if truth.shape[truth.ndim - weights.ndim :] != weights.shape:
        raise ValueError(f"truth {tuple(truth.shape)} must end in the shape of weights {tuple(weights.shape)}.")
    points = weights.numel()
    ensemble, truth, weights = ensemble.reshape(members, -1, points), truth.reshape(-1, points), weights.flatten()
    counted = weights > 0
    alike = bool(counted.any()) and bool((weights[counted] == weights[counted][0]).all())
    whole = bool(counted.all())
    found = []
    for case in spans(len(truth), (40 if alike else 120) * (members + 1) * points):
        pooled, known = ensemble[:, case].movedim(0, 1), truth[case]
        if alike:  # sorting is all there is to do
            if not whole:
                pooled, known = pooled[..., counted], known[..., counted]
            found.append(wasserstein(pooled.flatten(start_dim=1), known, order=order))
            continue
        masses = {"first_weights": weights.repeat(members), "second_weights": weights}
        found.append(wasserstein(pooled.flatten(start_dim=1), known, order=order, **masses))
    return torch.cat(found).reshape(batch)


def sliced_wasserstein(
    first: Tensor,
    second: Tensor,
    weights: Tensor,
    *,
    generator: torch.Generator,
    directions: int = 128,
    order: float = 2,
) -> Tensor:
    """Distance of two laws of fields, each known by a sample: Wasserstein along random directions, averaged.

        SW_p^p = mean over directions theta of W_p^p({<theta, x_i>}, {<theta, y_j>}),  |theta| = 1

    The inner product carries quadrature weights of mean one over the counted points, so that moving every field by t gives SW_2 = rms(t) on
    average over directions; the relative error of SW_2^2 is then sqrt(2 / directions).

    Args:
        first: (sample, *batch, *space): members, or members and cases.
        second: (other, *batch, *space): truths of many cases, or another ensemble.
        weights: (*space); points of weight zero may hold anything.
        generator: Draws the directions, on the CPU: uniform on the sphere, the same for every batch entry.
        directions: How many.
        order: p >= 1.

    Returns: (*batch), units of the field. Two samples of one law are about (sample)^(-1/2) apart, so compare equal sizes.
    Raises: ValueError for shapes that disagree, no direction, or an order below 1.
    Source: Bonneel et al. (2015), doi:10.1007/s10851-014-0506-3. Cost O(directions (samples) N).
    """
    _check_order(order)
    if directions < 1:
        raise ValueError(f"Slices need at least one direction, got {directions}.")
    space = weights.ndim
    if first.shape[1:] != second.shape[1:] or first.shape[first.ndim - space :] != weights.shape:
        raise ValueError(
            f"Samples {tuple(first.shape)} and {tuple(second.shape)} must agree but for their first axis, and end in the "
            f"shape of weights {tuple(weights.shape)}."
        )
    scale = weights.to(device=first.device, dtype=torch.float64).flatten()
    if not scale.sum() > 0:
        raise ValueError("The weights are all zero: no point to average over.")
    points, batch = scale.numel(), first.shape[1 : first.ndim - space]
    root = (scale * ((scale > 0).sum() / scale.sum())).sqrt()
    samples = [fields.reshape(len(fields), -1, points) for fields in (first, second)]
    total = torch.zeros(samples[0].shape[1], dtype=torch.float64, device=first.device)
    for chosen in spans(directions, 24 * points):
        number = min(chosen.stop, directions) - chosen.start
        theta = torch.randn(number, points, generator=generator, dtype=torch.float64).to(root.device)
        theta = theta * (scale > 0)
        theta = theta / theta.square().sum(dim=-1, keepdim=True).sqrt() * root
        shadows = [_projected(fields, theta, scale > 0) for fields in samples]
        for case in spans(len(total), 100 * number * (len(first) + len(second))):
            total[case] += wasserstein(shadows[0][case], shadows[1][case], order=order).pow(order).sum(dim=-1)
    dtype = torch.result_type(first, second)
    return (total / directions).pow(1 / order).reshape(batch).to(dtype)


def earth_movers_distance(
    first: Tensor, second: Tensor, grid: Grid, *, weights: Tensor | None = None, directions: int = 32
) -> Tensor:
    """Sliced earth mover's distance of two density fields: mean work of carrying the mass, along lines through space.

        EMD = mean over directions theta of int |F_theta(s) - G_theta(s)| ds

    F and G are the cumulated masses of the fields, each normalised to one, along theta. Exact in 1-D; in 2-D and 3-D a
    rigid move by t costs |t| times 2 / pi and 1 / 2. Directions are evenly spread, not drawn. Periodic axes are cut at
    their ends: mass is not carried round.

    Args:
        first: Density (*batch, *space), not negative.
        second: Same shape. For an ensemble pass the members with the truth expanded, and average, or the ensemble mean for
            the members pooled: say which.
        grid: Positions of the points, in units of length.
        weights: Quadrature weights (*space); None takes the grid's. Points of weight zero may hold anything.
        directions: How many in 2-D and 3-D.

    Returns: (*batch), unit of the coordinates; NaN where a counted value is not finite or a field holds no mass.
    Raises: ValueError for shapes that disagree, no direction, or a negative density.
    Source: the SEMD of arXiv:2507.02608, table 11, with the choices above (the paper states none of them).
    """
    if directions < 1:
        raise ValueError(f"Slices need at least one direction, got {directions}.")
    if first.shape != second.shape or first.shape[first.ndim - len(grid.axes) :] != grid.shape:
        raise ValueError(
            f"Fields {tuple(first.shape)} and {tuple(second.shape)} must have one shape that ends in {grid.shape}."
        )
    scale = (grid.weights() if weights is None else weights).to(device=first.device, dtype=torch.float64).flatten()
    batch, points = first.shape[: first.ndim - len(grid.axes)], grid.num_points
    axes = [torch.tensor(axis.coordinates, dtype=torch.float64, device=first.device) for axis in grid.axes]
    positions = torch.stack([part.flatten() for part in torch.meshgrid(*axes, indexing="ij")], dim=-1)
    fields = [field.reshape(-1, points) for field in (first, second)]
    along = _directions(len(axes), directions).to(first.device)
    total = torch.zeros(len(fields[0]), dtype=torch.float64, device=first.device)
    cuts = list(spans(len(total), 64 * points))
    for theta in along:
        place, order = (positions @ theta).sort()  # once for all cases: it costs more than a case does
        gap = torch.diff(place)
        for case in cuts:
            surplus = _mass(fields[0][case], scale) - _mass(fields[1][case], scale)
            total[case] += surplus[:, order].cumsum(dim=-1)[:, :-1].abs() @ gap
    return (total / len(along)).reshape(batch).to(torch.result_type(first, second))


def _mass(fields: Tensor, scale: Tensor) -> Tensor:
    mass = torch.where(scale > 0, fields.to(torch.float64) * scale, 0.0)
    if bool((mass < 0).any()):
        raise ValueError("A density field is negative somewhere: mass cannot be; pass the density, or its square.")
    return mass / mass.sum(dim=-1, keepdim=True)


def _directions(dimensions: int, number: int) -> Tensor:
    """Unit vectors spread evenly over half the sphere; opposite ones see the same."""
    place = torch.arange(number, dtype=torch.float64) + 0.5
    if dimensions == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if dimensions == 2:
        angle = place * (math.pi / number)
        return torch.stack([angle.cos(), angle.sin()], dim=-1)
    height, angle = place / number, place * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)


def _projected(fields: Tensor, theta: Tensor, counted: Tensor) -> Tensor:
    """(sample, case, point) and (direction, point) -> (case, direction, sample), a block of points at a time."""
    samples, cases, points = fields.shape
    out = torch.zeros(samples, cases, len(theta), dtype=torch.float64, device=fields.device)
    length = max(1, min(points, WORKSPACE // (24 * samples)))
    for case in spans(cases, 24 * samples * length):
        for first in range(0, points, length):
            place = slice(first, first + length)
            values = torch.where(counted[place], fields[:, case, place].to(torch.float64), 0.0)
            out[:, case] += values @ theta[:, place].mT
    return out.permute(1, 2, 0)


def _sorted(values: Tensor) -> Tensor:
    """Along the last axis, in float64; NumPy sorts values alone, without their places, many times faster on a CPU."""
    values = values.to(torch.float64)
    if values.device.type == "cpu" and not values.requires_grad:
        return torch.from_numpy(np.sort(values.numpy(), axis=-1))
    return values.sort(dim=-1).values


def _quantiles(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Sorted values and the part of the weight up to each, ending in exactly one."""
    given = torch.ones(()) if weights is None else weights
    mass = given.to(device=values.device, dtype=torch.float64).expand(values.shape)
    if bool((mass < 0).any()) or not bool((mass.sum(dim=-1) > 0).all()):
        raise ValueError("Weights must not be negative, nor all be zero.")
    values = torch.where(mass > 0, values.to(torch.float64), 0.0)
    values, order = values.sort(dim=-1)
    below = mass.gather(-1, order).cumsum(dim=-1)
    return values, below / below[..., -1:]


def _check_order(order: float) -> None:
    if not order >= 1:
        raise ValueError(f"A Wasserstein distance has an order of at least 1, got {order}.")
