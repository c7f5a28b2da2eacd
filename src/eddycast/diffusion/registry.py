"""Every sampler by its name in recipes; the first line of its docstring describes it in listings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from eddycast.diffusion.adams_bashforth import AdamsBashforthSampler, NoiseAdamsBashforthSampler
from eddycast.diffusion.deterministic import DDIMSampler, HeunSampler, exponential_integrator
from eddycast.diffusion.dpm_solver import DPMSolverSampler, StochasticDPMSolverSampler
from eddycast.diffusion.grids import GRIDS
from eddycast.diffusion.langevin import PredictorCorrectorSampler
from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.sampling import Sampler
from eddycast.diffusion.stochastic import AncestralSampler, StochasticHeunSampler
from eddycast.errors import InputError

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIMSampler,
    "exponential-integrator": exponential_integrator,
    "heun": HeunSampler,
    "adams-bashforth": AdamsBashforthSampler,
    "adams-bashforth-noise": NoiseAdamsBashforthSampler,
    "dpm-solver++": DPMSolverSampler,
    "ancestral": AncestralSampler,
    "sde-dpm-solver++": StochasticDPMSolverSampler,
    "edm-stochastic": StochasticHeunSampler,
    "predictor-corrector": PredictorCorrectorSampler,
}


def make_sampler(name: str, schedule: Schedule, num_steps: int, grid: str | None = None, **options: Any) -> Sampler:
    """The sampler of that name with its steps spread by `grid`; None leaves the sampler's own, mostly `linear`.

    Raises: InputError for a sampler or grid that does not exist, and for an option that the sampler lacks or refuses.
    """
    if name not in SAMPLERS:
        raise InputError(f"Unknown sampler '{name}': choose one of {', '.join(SAMPLERS)}.")
    if grid is not None:
        if grid not in GRIDS:
            raise InputError(f"Unknown grid '{grid}': choose one of {', '.join(GRIDS)}.")
        options["grid"] = grid
    known = [
        option for option in inspect.signature(SAMPLERS[name]).parameters if option not in ("schedule", "num_steps")
    ]
    if lacking := [option for option in options if option not in known]:
        raise InputError(f"Sampler '{name}' has no option {lacking[0]!r}: it has {', '.join(known)}.")
    try:
        return SAMPLERS[name](schedule, num_steps, **options)
    except TypeError as error:  # a value of another kind, such as text for a number
        raise InputError(f"Sampler '{name}': {error}.") from error
    except ValueError as error:
        raise InputError(f"Sampler '{name}': {error}") from error
