"""The two tables of `docs/samplers.md`: what each sampler costs per call of the network, and its error at 16 steps; seconds.

Right because the probability flow of a Gaussian is known: deviations along each principal axis scale with the marginal spread.

    OMP_NUM_THREADS=1 python validation/samplers.py
"""

from __future__ import annotations

from time import perf_counter

import torch
from torch import Tensor

from eddycast.diffusion import (
    GRIDS,
    SAMPLERS,
    SCHEDULES,
    Denoiser,
    RectifiedSchedule,
    Sampler,
    Schedule,
    make_sampler,
    starting_noise,
)

STATE, REPEATS = (64, 5, 1, 64), 30
STD = torch.tensor([0.2, 0.6, 1.0, 1.5], dtype=torch.float64)
CASES: list[tuple[str, int, dict[str, int]]] = [
    ("ddim", 16, {}),
    ("heun", 8, {}),
    *(("adams-bashforth", 16, {"order": order}) for order in (2, 3, 4)),
    ("adams-bashforth-noise", 16, {"order": 3}),
    ("dpm-solver++", 16, {"order": 2}),
]


def overhead(sampler: Sampler) -> float:
    """Microseconds per call of a denoiser that returns its argument, the best of some runs."""
    x_1 = torch.randn(STATE, generator=torch.Generator().manual_seed(0))

    def run() -> float:
        start = perf_counter()
        sampler(lambda x_t, time: x_t, x_1, noise=lambda step: x_1)
        return perf_counter() - start

    return 1e6 * min(run() for _ in range(REPEATS)) / sampler.num_evaluations


def gaussian(schedule: Schedule, mean: Tensor) -> Denoiser:
    """The posterior mean for x ~ N(mean, diag(STD^2))."""

    def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
        alpha, sigma = schedule(time)
        return mean + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x_t - alpha * mean)

    return denoiser


def error(sampler: Sampler, schedule: Schedule) -> float:
    """Root mean square error of 512 samples against the exact flow to sigma = 0."""
    generator = torch.Generator().manual_seed(7)
    mean = torch.randn(4, generator=generator, dtype=torch.float64)
    x_1 = starting_noise(schedule, torch.randn(512, 1, 1, 4, generator=generator, dtype=torch.float64))
    alpha, sigma = schedule(torch.ones((), dtype=torch.float64))
    exact = mean + STD / torch.sqrt(alpha**2 * STD**2 + sigma**2) * (x_1 - alpha * mean)
    return (sampler(gaussian(schedule, mean), x_1) - exact).square().mean().sqrt().item()


def main() -> None:
    for name in SAMPLERS:
        print(f"{name:24s}{overhead(make_sampler(name, RectifiedSchedule(), 16)):6.1f} us per call")
    for family, make in SCHEDULES.items():
        for grid in GRIDS:
            print(f"\n{family}, {grid}")
            for name, steps, options in CASES:
                sampler = make_sampler(name, make(), steps, grid, **options)
                print(f"  {name:24s}{options!s:14s}{sampler.num_evaluations:3d} calls  {error(sampler, make()):.1e}")


if __name__ == "__main__":
    main()
