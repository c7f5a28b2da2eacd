"""The table of methods.

To add one: write a function with the signature of `Assimilate` and a dataclass of its options, add one entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from eddycast.assimilation.etkf import ETKFOptions, etkf
from eddycast.assimilation.guided import guided
from eddycast.assimilation.guided_options import (
    DPSOptions,
    MMPSOptions,
    PiGDMOptions,
    SDAOptions,
    VideoDiffusionOptions,
)
from eddycast.assimilation.interpolation import InterpolationOptions, interpolation
from eddycast.assimilation.protocols import Method, Mode
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.observations import Observations

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(
            Method(options.rule, "denoiser", ("smooth",), False, True, description, guided, options)
            for options, description in (
                (SDAOptions, "Diffusion guided by observations, with a tuned width (score-based data assimilation)"),
                (DPSOptions, "Diffusion guided by the norm of the misfit, with a tuned pull (posterior sampling)"),
                (VideoDiffusionOptions, "Diffusion guided as if observations had no error (video diffusion)"),
                (PiGDMOptions, "Diffusion guided with the variance of a white prior (pseudoinverse guidance)"),
                (MMPSOptions, "Diffusion guided with the denoiser's own covariance (moment matching)"),
            )
        ),
        Method(
            "etkf", "samples", ("smooth", "filter"), True, True,
            "Ensemble transform Kalman filter and smoother, with any emulator or simulator", etkf, ETKFOptions,
        ),
        Method(
            "interpolation", "nothing", ("smooth",), False, False,
            "Optimal interpolation in space and time, a baseline without dynamics", interpolation, InterpolationOptions,
        ),
    )
}  # fmt: skip


def get_method(name: str) -> Method:
    """The method of that name. Raises: InputError for an unknown name, with the known ones."""
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(METHODS)}."
    raise InputError(f"There is no assimilation method {name!r}: {hint}")


def assimilate(
    name: str,
    emulator: Any,
    observations: Observations,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    options: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Posterior ensemble by the method of that name.

    Args:
        name: Key of `METHODS`.
        emulator: What the method needs (see its `needs`); None will do for methods that need nothing.
        observations: Of all cases, on the emulator's grid and fields (`Observations.require` checks that).
        conditions: Batch (case,), origin at the first observed frame (`Observations.conditions`).
        members: Members of the analysis.
        seed: Of everything random.
        mode: One of the method's modes.
        background: Physical states (member, case, time, channel, *space), the last one at the first observed frame. `etkf` takes
            them as the ensemble before the observations, guided diffusion as members that are known there, `interpolation` as a
            climatological sample.
        continued: The background is an analysis of earlier frames, whose last state stands one frame before the first observed one.
        options: The method's options; None for the defaults.
        progress: Called with (done, total).

    Returns: (member, case, time, channel, *space), physical.
    Raises: InputError for an unknown method, a mode or options that are not the method's, too few members, or
        divergence.
    """
    method = get_method(name)
    if mode not in method.modes:
        raise InputError(f"Method {name!r} has no mode {mode!r}: it has {', '.join((*method.modes, 'online'))}.")
    if options is not None and not isinstance(options, method.options):
        raise InputError(f"Method {name!r} takes {method.options.__name__}, got {type(options).__name__}.")
    if members < 1:
        raise InputError(f"members must be at least 1, got {members}.")
    return method.function(
        emulator, observations, conditions,
        members=members, seed=seed, mode=mode, background=background, continued=continued,
        options=method.options() if options is None else options, progress=progress,
    )  # fmt: skip


def describe_methods() -> list[tuple[str, str]]:
    """(name, needs, modes and description in one line) of each method."""
    return [
        (method.name, f"{method.description}; needs {method.needs}; {', '.join((*method.modes, 'online'))}")
        for method in METHODS.values()
    ]
