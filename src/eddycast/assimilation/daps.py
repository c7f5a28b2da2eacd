"""Decoupled annealing: a clean state from the denoiser, the observations put into it, noise of the next level on top.

At each of falling levels (alpha, sigma), rho = sigma / alpha:

    x_0 from x_t       by a few deterministic steps of the unguided denoiser
    x_0' ~ exp(-|x - x_0|^2 / (2 r^2)) p(value | x),    r^2 = rho^2 / (1 + rho^2)
    x_s = alpha_s x_0' + sigma_s noise

Observations act on clean states alone: no pass goes back through the network, and the operator may be as nonlinear as it likes. x_0' is
drawn by perturbed least squares, x_0' = z + r^2 H'^T (R + r^2 H' H'^T)^-1 (value + error - H(z)) with z = x_0 + r noise, which is exact for
a linear operator, where the source makes Langevin steps whose length is to be tuned.

Bias: x given x_t is taken as white, so a field between the sensors learns from the denoiser alone, and levels in one chain must be many.
Source: Zhang et al. (2024), arXiv:2407.01521, algorithm 1; Bardsley et al. (2014), doi:10.1137/140964023 (perturbed least squares).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from eddycast.assimilation.guided_options import Draw, WindowOptions
from eddycast.diffusion import GRIDS, AdamsBashforthSampler
from eddycast.diffusion.sampling import combine, points_at
from eddycast.emulators import OpenWindow
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood
from eddycast.guidance.likelihood import Linearisation, linearise
from eddycast.numerics.krylov import conjugate_gradients


@dataclass(frozen=True)
class DAPSOptions(WindowOptions):
    """Settings of decoupled annealing.

    Args:
        num_steps: Levels of noise.
        ode_steps: Evaluations of the denoiser at each, from x_t to a clean state; published 1 to 10.
        grid: How the levels are spread, a key of `diffusion.GRIDS`.
        corrections: Times that a nonlinear operator is linearised anew around what was found; 1 is enough for a linear one.
        Others as in `WindowOptions`.
    """

    num_steps: int = 32
    ode_steps: int = 2
    grid: str = "quadratic"
    corrections: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1 or self.ode_steps < 1 or self.corrections < 1:
            raise InputError("num_steps, ode_steps and corrections must be at least 1.")
        if self.grid not in GRIDS:
            raise InputError(f"Unknown grid '{self.grid}': choose one of {', '.join(GRIDS)}.")

    def sample(
        self, window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], start: Tensor, draw: Draw, case: Tensor
    ) -> Tensor:
        """See `PosteriorSampler`; num_steps x ode_steps evaluations of the denoiser, none back."""
        points = points_at(window.schedule, GRIDS[self.grid](window.schedule, self.num_steps))
        x_t, clean = start, start
        for count, (now, then) in enumerate(pairwise(points)):
            times = tuple(now.time * (1 - step / self.ode_steps) for step in range(self.ode_steps + 1))
            ode = AdamsBashforthSampler(window.schedule, order=2, start="low-order", times=times)
            clean = ode(window.denoiser, x_t)
            width = now.rho / math.sqrt(1 + now.rho**2)
            clean = conditioned(window, likelihoods, clean, width, draw, count, self.corrections)
            x_t = combine(clean, then.alpha, (then.sigma, draw("noise", count)))
        return clean


def conditioned(
    window: OpenWindow,
    likelihoods: tuple[GaussianLikelihood, ...],
    clean: Tensor,
    width: float,
    draw: Draw,
    count: int,
    corrections: int = 1,
) -> Tensor:
    """A draw from N(x; clean, width^2 I) p(values | x), exact where the operators are linear; the shape of `clean`."""
    z = combine(clean, 1.0, (width, draw("spread", count)))
    if not likelihoods:
        return z
    x, error = z, None
    for _ in range(corrections):
        model = linearise(_identity, x, x.new_zeros(()), window.to_x, likelihoods, jacobian=False)
        if not isinstance(model, Linearisation):
            return z
        if error is None:
            error = torch.where(model.weight > 0, _numbers(draw, count, model.residual.shape[1]), 0).to(model.residual)
        # around x: value + error - H(x) - H' (z - x)
        misfit = (model.residual + error - model.push_forward(z - x)).double()

        def product(vector: Tensor, model: Linearisation = model) -> Tensor:
            return vector + width**2 * model.push_forward(model.pull_back(vector)).to(vector)

        u = conjugate_gradients(product, misfit, iterations=64, tolerance=1e-4)
        x = z + width**2 * model.pull_back(u)
    return x


def _identity(x_t: Tensor, time: Tensor) -> Tensor:
    return x_t


def _numbers(draw: Draw, count: int, size: int) -> Tensor:
    """`size` standard normal numbers for each sample, (batch, size), from as many addresses as that takes."""
    parts = [draw("error", count).flatten(1)]
    while sum(part.shape[1] for part in parts) < size:
        parts.append(draw(f"error {len(parts)}", count).flatten(1))
    return torch.cat(parts, dim=1)[:, :size]
