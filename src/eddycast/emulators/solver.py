"""The numerical solver as a forecaster: the oracle of perfect-model experiments, and a baseline on coarser steps."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.noise import MemberNoise
from eddycast.simulators import System, integrate


class SolverModel:
    """Integrates each member from the last known state; any lead time is possible. Model space must be physical space.

    Args:
        system: What to integrate.
        perturbation: Size of the error of the initial state relative to its own standard deviation over space; white noise on the
            grid, drawn for every member at the first window. 0 starts all members from the truth. On a grid of one point: relative
            to the root mean square of the state's fields.
        inner_dt: Largest inner step; default the system's.
    """

    context = 1
    overlap = 1
    window = 33
    continuous = True

    def __init__(self, system: System, *, perturbation: float = 0.0, inner_dt: float | None = None) -> None:
        self.system = system
        self.perturbation = perturbation
        self.inner_dt = inner_dt

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        last = int(known_mask.nonzero().max())
        start = known[:, last].to(torch.float64)
        if window == 0 and self.perturbation > 0:
            kick = noise.draw(start.shape[1:], key=(0, 0, "perturbation"), dtype=start.dtype, device=start.device)
            space = tuple(range(-len(conditions.grid.axes), 0))
            if conditions.grid.num_points > 1:
                scale, kick = start.std(dim=space, keepdim=True), kick - kick.mean(dim=space, keepdim=True)
            else:
                scale = start.square().mean(dim=1, keepdim=True).sqrt()
            start = start + self.perturbation * scale * kick
        new = ~known_mask
        times = (lead_times[new] - lead_times[last]) * conditions.dt
        parameters = conditions.parameters.to(torch.float64)
        states = integrate(self.system, start, parameters, conditions.grid, times, inner_dt=self.inner_dt)
        return torch.cat([known[:, ~new], states.to(known)], dim=1)
