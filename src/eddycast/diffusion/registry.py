"""Every sampler by its name in recipes; the first line of its docstring describes it in listings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eddycast.diffusion.deterministic import AdamsBashforthSampler, DDIMSampler, HeunSampler
from eddycast.diffusion.protocols import Schedule
from eddycast.diffusion.sampling import Sampler
from eddycast.diffusion.stochastic import AncestralSampler, PredictorCorrectorSampler
from eddycast.errors import InputError

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIMSampler,
    "heun": HeunSampler,
    "adams-bashforth": AdamsBashforthSampler,
    "ancestral": AncestralSampler,
    "predictor-corrector": PredictorCorrectorSampler,
}


def make_sampler(name: str, schedule: Schedule, num_steps: int, **options: Any) -> Sampler:
    """The sampler of that name. Raises InputError for a name that does not exist or an option the sampler lacks."""
    if name not in SAMPLERS:
        raise InputError(f"Unknown sampler '{name}': choose one of {', '.join(SAMPLERS)}.")
    try:
        return SAMPLERS[name](schedule, num_steps, **options)
    except TypeError as error:
        raise InputError(f"Sampler '{name}' does not take these options ({error}): see its docstring.") from error
