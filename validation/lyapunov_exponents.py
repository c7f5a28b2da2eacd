"""The Lyapunov exponents quoted in `eddycast/simulators/kuramoto_sivashinsky.py`; some CPU-minutes.

Right because the derivative of the flow is exact (forward mode), which `tests/numerics/test_lyapunov.py`
checks on maps with a known exponent, and because the flow is checked against an outside solver in `tests/simulators`.

    python validation/lyapunov_exponents.py
"""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.simulators import get_system

POINTS, INNER_DT, INTERVAL, DISCARDED = 96, 0.2, 2.0, 50


LONG = (56, 80, 100, 128, 160, 200, 300)
"""Lengths of their own grids, points 1/2 apart."""


def exponents(
    lengths: list[int], *, runs: int, spin_up: float, num_intervals: int, seed: int, points: int = POINTS
) -> Tensor:
    """Leading exponent of each run, (length, run)."""
    system = get_system("kuramoto-sivashinsky")
    parameters = torch.tensor(lengths, dtype=torch.float64).repeat_interleave(runs)[:, None]
    grid = system.grid((points,), parameters)
    number = torch.arange(len(parameters))
    noise = MemberNoise(seed, number, torch.zeros_like(number))
    state = system.initial(parameters, grid, noise)
    flow = system.flow(parameters, grid, INTERVAL, inner_dt=INNER_DT)
    with torch.no_grad():
        for _ in range(round(spin_up / INTERVAL)):
            state = flow(state)
    tangent = noise.draw(tuple(state.shape[1:]), key=(0, 0, "tangent"))
    tangent = tangent - tangent.mean(dim=-1, keepdim=True)
    estimate = leading_exponent(
        flow, state, tangent, interval=INTERVAL, num_intervals=num_intervals, num_discarded=DISCARDED
    )
    return estimate.per_trajectory.reshape(len(lengths), runs)


def main() -> None:
    lengths, runs = [22, 36, 44, 64], 40
    for length, found in zip(
        lengths, exponents(lengths, runs=runs, spin_up=300, num_intervals=800, seed=6), strict=True
    ):
        print(f"L = {length}: {found.mean():.4f}, standard error {found.std() / runs**0.5:.4f}")
    for length in LONG:
        (found,) = exponents([length], runs=8, spin_up=200, num_intervals=450, seed=7, points=2 * length)
        print(f"L = {length}: {found.mean():.4f}, standard error {found.std() / 8**0.5:.4f}", flush=True)
    survey = list(range(10, 65))
    found = exponents(survey, runs=4, spin_up=400, num_intervals=300, seed=5)
    for length, row in zip(survey, found, strict=True):
        print(
            f"L = {length}: {row.min():.3f} to {row.max():.3f}", "" if row.min() > 0.015 else "  not chaotic throughout"
        )


if __name__ == "__main__":
    main()
