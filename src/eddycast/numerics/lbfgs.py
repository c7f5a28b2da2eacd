"""Limited-memory BFGS for a batch of independent problems, each with its own steps, memory and stop.

A problem that has converged keeps its point while others go on, so that its result does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Objective = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points (batch, n) to values (batch,) and gradients (batch, n); a value that is not finite is no progress."""

SUFFICIENT = 1e-4  # share of the predicted decrease that a step must reach
FLAT = 0.9  # share of the slope that may be left where values no longer tell a decrease from rounding


class Minimum(NamedTuple):
    """Where the search ended: points (batch, n), values, gradient norms and numbers of iterations (batch,).

    `reached` says for each problem whether its gradient norm fell to the target; the others ran out of iterations, or found no lower
    value along their direction.
    """

    point: Tensor
    value: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    reached: Tensor


def lbfgs(
    objective: Objective,
    start: Tensor,
    *,
    target: Tensor | float,
    iterations: int,
    memory: int = 10,
    halvings: int = 15,
    rounding: float = 1e-12,
    observer: Callable[[int], None] | None = None,
) -> Minimum:
    """Minimise each of a batch of functions.

    The direction is the two-loop recursion over the last `memory` pairs (s, y) with s y > 0; the step is backtracked from 1 by quadratic
    interpolation until the value has fallen enough. Close to the minimum, where differences of values drown in rounding, a step counts
    that has a flatter slope.

    Args:
        objective: See `Objective`.
        start: (batch, n), float64 by choice.
        target: Gradient norm at which a problem stops, (batch,) or one for all.
        iterations: Directions at most; each takes one evaluation, more where the step is cut.
        memory: Pairs that are kept.
        halvings: Cuts of one step at most.
        rounding: Relative error of the values.
        observer: Called with the number of iterations done.

    Source: Nocedal and Wright (2006), doi:10.1007/978-0-387-40065-5, algorithms 7.4 and 7.5; the slope in place of values: Hager and Zhang
        (2005), doi:10.1137/030601880, eq. 4.1.
    """
    point = start
    value, gradient = objective(point)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    scale = _norm(gradient).clamp(min=1).reciprocal()  # a first step of length 1 at most
    done = torch.zeros(len(start), dtype=torch.long, device=start.device)
    stalled = ~value.isfinite()
    for number in range(iterations):
        active = (_norm(gradient)[:, 0] > target) & ~stalled
        if not bool(active.any()):
            break
        direction = _direction(gradient, pairs, scale)
        slope = (direction * gradient).sum(dim=1)
        uphill = slope >= 0  # rounding only: the recursion is positive definite
        direction = torch.where(uphill[:, None], -gradient * scale, direction)
        slope = torch.where(uphill, -(gradient.square() * scale).sum(dim=1), slope)
        step = torch.where(active, torch.ones_like(value), 0)
        searching, new = active, (point, value, gradient)
        for _ in range(halvings):
            trial = point + step[:, None] * direction
            trial_value, trial_gradient = objective(trial)
            trial_slope = (trial_gradient * direction).sum(dim=1)
            lower = trial_value <= value + SUFFICIENT * step * slope
            level = (trial_value <= value + rounding * value.abs()) & (trial_slope.abs() <= FLAT * slope.abs())
            found = searching & trial_value.isfinite() & (lower | level)
            new = (
                torch.where(found[:, None], trial, new[0]),
                torch.where(found, trial_value, new[1]),
                torch.where(found[:, None], trial_gradient, new[2]),
            )
            searching = searching & ~found
            if not bool(searching.any()):
                break
            rise = trial_value - value - step * slope
            parabola = torch.where((rise > 0) & rise.isfinite(), -0.5 * slope * step.square() / rise, 0.5 * step)
            cut = parabola.clamp(min=0.1 * step, max=0.5 * step)
            step = torch.where(searching, cut, step)
        stalled = stalled | searching
        moved, turned = new[0] - point, new[2] - gradient
        curvature = (moved * turned).sum(dim=1)
        bent = curvature > 1e-10 * _norm(moved)[:, 0] * _norm(turned)[:, 0]
        safe = torch.where(bent, curvature, 1)
        pairs = [*pairs, (moved, turned, torch.where(bent, 1 / safe, 0))][-memory:]
        scale = torch.where(bent[:, None], (safe / turned.square().sum(dim=1).clamp(min=1e-300))[:, None], scale)
        point, value, gradient = new
        done = done + active.long()
        if observer is not None:
            observer(number + 1)
    norm = _norm(gradient)[:, 0]
    return Minimum(point, value, norm, done, norm <= target)


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], scale: Tensor) -> Tensor:
    """-H gradient by the two-loop recursion; a pair of weight 0 takes no part."""
    q, weights = gradient, []
    for s, y, rho in reversed(pairs):
        weight = rho * (s * q).sum(dim=1)
        q = q - weight[:, None] * y
        weights.append(weight)
    r = scale * q
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        r = r + (weight - rho * (y * r).sum(dim=1))[:, None] * s
    return -r


def _norm(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=1, keepdim=True)
