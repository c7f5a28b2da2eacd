"""The Lyapunov exponents and surveys quoted in `eddycast/simulators/{kolmogorov_flow,navier_stokes}.py`: about 12 CPU-minutes.

Right for the same reasons as `lyapunov_exponents.py`: the derivative of the flow is exact, and the flows are checked
against exact solutions, and an outside solver, in `tests/simulators`. Perturbations start without divergence and without
mean.

    python validation/flow_exponents.py [kolmogorov-flow|navier-stokes-3d]
"""

from __future__ import annotations

import itertools
import math
import sys

import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import leray_projection
from eddycast.numerics.lyapunov import LyapunovEstimate, leading_exponent
from eddycast.simulators import get_system

INTERVAL, PIECE = 2.0, 10.0


def exponents(
    name: str,
    parameters: Tensor,
    points: int,
    *,
    spin_up: float,
    num_intervals: int,
    num_discarded: int,
    inner_dt: float,
    seed: int,
) -> LyapunovEstimate:
    """Leading exponent of each row of `parameters` (run, P) on a grid of equal axes."""
    system = get_system(name)
    shape = (points,) * len(system.info.shape)
    grid = system.grid(shape, parameters)
    number = torch.arange(len(parameters))
    noise = MemberNoise(seed, number, torch.zeros_like(number))
    state = system.initial(parameters, grid, noise)
    with torch.no_grad():
        warm = system.flow(parameters, grid, PIECE, inner_dt=inner_dt)
        for _ in range(round(spin_up / PIECE)):
            state = warm(state)
    tangent = noise.draw(tuple(state.shape[1:]), key=(0, 0, "tangent"))
    tangent = tangent - tangent.mean(dim=grid.dims, keepdim=True)
    tangent = leray_projection(tangent, [2 * math.pi] * len(shape))
    flow = system.flow(parameters, grid, INTERVAL, inner_dt=inner_dt)
    return leading_exponent(
        flow, state, tangent, interval=INTERVAL, num_intervals=num_intervals, num_discarded=num_discarded
    )


def report(name: str, rows: list[tuple[float, ...]], runs: int, points: int, **options: float) -> None:
    """Print the exponents of `runs` runs of each row of parameters."""
    parameters = torch.tensor(rows, dtype=torch.float64).repeat(runs, 1)
    found = exponents(name, parameters, points, **options).per_trajectory.reshape(runs, len(rows))  # pyright: ignore[reportArgumentType]
    for row, column in zip(rows, found.T, strict=True):
        error = f", standard error {column.std() / runs**0.5:.4f}" if runs > 2 else ""
        print(f"{name} {row}: {column.min():.4f} to {column.max():.4f}, mean {column.mean():.4f}{error}", flush=True)


def kolmogorov() -> None:
    name = "kolmogorov-flow"
    report(name, [(0.01, 0.1, 1.0, 4.0)], 16, 64, spin_up=60, num_intervals=75, num_discarded=10, inner_dt=0.02, seed=3)
    # Jets of k_f = 1 or 2 without drag are too fast for this step: those runs end in NaN and say nothing.
    wide = [
        (nu, drag, 1.0, k)
        for k, drag, nu in itertools.product((1, 2, 4, 8), (0, 0.1, 0.5), (0.02, 0.03, 0.05, 0.1, 0.2))
    ]
    report(name, wide, 1, 40, spin_up=150, num_intervals=50, num_discarded=10, inner_dt=0.04, seed=3)
    near = [
        *((0.01, drag, 1.0, 4.0) for drag in (0.0, 0.2, 0.3, 0.5)),
        *((0.02, drag, 1.0, k) for drag, k in ((0.2, 4.0), (0.0, 2.0), (0.1, 3.0), (0.1, 6.0))),
        *((0.01, drag, 1.0, k) for drag, k in ((0.1, 2.0), (0.2, 2.0), (0.1, 6.0), (0.1, 8.0))),
        *((nu, 0.1, 1.0, k) for nu, k in ((0.03, 3.0), (0.03, 4.0), (0.04, 4.0))),
    ]
    report(name, near, 2, 48, spin_up=150, num_intervals=50, num_discarded=10, inner_dt=0.03, seed=11)


def navier_stokes() -> None:
    name = "navier-stokes-3d"
    report(name, [(0.02, 0.1)], 6, 24, spin_up=60, num_intervals=40, num_discarded=5, inner_dt=0.05, seed=3)
    survey = [(nu, 0.1) for nu in (0.025, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1)]
    report(name, survey, 1, 16, spin_up=100, num_intervals=60, num_discarded=5, inner_dt=0.08, seed=3)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["kolmogorov-flow", "navier-stokes-3d"]
    if "kolmogorov-flow" in chosen:
        kolmogorov()
    if "navier-stokes-3d" in chosen:
        navier_stokes()
