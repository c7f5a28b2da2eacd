"""The table of methods.

To add one: write a function with the signature of `Assimilate` and a dataclass of its options, add one entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from eddycast.assimilation.blocks import MethodBlocks
from eddycast.assimilation.cycle import Cycle
from eddycast.assimilation.daps import DAPSOptions
from eddycast.assimilation.ensemble_options import (
    EnKFOptions,
    EnsembleOptions,
    EnsembleSmootherOptions,
    ETKFOptions,
    LETKFOptions,
)
from eddycast.assimilation.etkf import ensemble_cycle, ensemble_method
from eddycast.assimilation.guided import guided
from eddycast.assimilation.guided_options import (
    DPSOptions,
    MMPSOptions,
    PiGDMOptions,
    SDAOptions,
    TMPDOptions,
    VideoDiffusionOptions,
)
from eddycast.assimilation.interpolation import InterpolationOptions, interpolation
from eddycast.assimilation.protocols import Method, Mode
from eddycast.assimilation.strong_constraint import FourDVarOptions, four_dvar, four_dvar_cycle
from eddycast.assimilation.twisted import TwistedOptions, twisted
from eddycast.assimilation.variational import ThreeDVarOptions, three_dvar, three_dvar_cycle
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.observations import Observations

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(
            Method(options.rule, "denoiser", ("smooth",), False, True, description, guided, options)
            for options, description in (
                (SDAOptions, "Diffusion guided with a width of its own or a tuned one (score-based data assimilation)"),
                (DPSOptions, "Diffusion guided by the norm of the misfit, with a tuned pull (posterior sampling)"),
                (VideoDiffusionOptions, "Diffusion guided as if observations had no error (video diffusion)"),
                (PiGDMOptions, "Diffusion guided with the variance of a white prior (pseudoinverse guidance)"),
                (TMPDOptions, "Diffusion guided with row sums of the denoiser's covariance (Tweedie moments)"),
                (MMPSOptions, "Diffusion guided with the denoiser's own covariance (moment matching)"),
            )
        ),
        Method(
            "daps", "denoiser", ("smooth",), False, True,
            "Diffusion that puts observations into clean states between levels of noise (decoupled annealing)", guided, DAPSOptions,
        ),
        Method(
            "twisted", "denoiser", ("smooth",), False, False,
            "Guided diffusion whose members are weighed against each other (twisted particles)", twisted, TwistedOptions,
        ),
        Method(
            "etkf", "samples", ("smooth", "filter"), True, True,
            "Ensemble transform Kalman filter and smoother, with any emulator or simulator", ensemble_method, ETKFOptions,
        ),
        Method(
            "enkf", "samples", ("smooth", "filter"), True, True,
            "Ensemble Kalman filter and smoother with perturbed observations", ensemble_method, EnKFOptions,
        ),
        Method(
            "letkf", "samples", ("smooth", "filter"), True, True,
            "Ensemble transform Kalman filter and smoother of each point with the observations around it", ensemble_method, LETKFOptions,
        ),
        Method(
            "ensemble-smoother", "samples", ("smooth",), True, True,
            "One update of all frames by all observations, after a free forecast of the ensemble", ensemble_method, EnsembleSmootherOptions,
        ),
        Method(
            "3dvar", "samples", ("filter",), True, True,
            "Filter with climatological errors of its forecasts, any emulator or simulator", three_dvar, ThreeDVarOptions,
        ),
        Method(
            "4dvar", "gradients", ("smooth",), True, True,
            "The forecast that fits all observations best, by gradients through emulator or simulator", four_dvar, FourDVarOptions,
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
        background: Physical states (member, case, time, channel, *space), the last one at the first observed frame. Ensemble methods
            take them as the ensemble before the observations, guided diffusion as members that are known there, `interpolation` as a
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
    options = checked_options(method, options, members)
    return method.function(
        emulator, observations, conditions,
        members=members, seed=seed, mode=mode, background=background, continued=continued,
        options=options, progress=progress,
    )  # fmt: skip


def start_cycle(
    name: str,
    emulator: Any,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    cases: Tensor | None = None,
    background: Tensor | None = None,
    continued: bool = False,
    options: Any = None,
    parameter_names: tuple[str, ...] = (),
) -> Cycle:
    """A cycle that takes in observations block by block (`step`), forecasts, and can be stored; see `cycle.Cycle`.

    A block of an ensemble method is smoothed as a whole, so that blocks of one frame filter; of other methods it is analysed as by
    `assimilate`, given the last states of the block before where the method continues.

    Args: as `assimilate`, and
        cases: Numbers of the cases in the address of their noise, (case,), such as `Observations.trajectories`.
        parameter_names: Columns of the parameters in `conditions`, for methods that estimate some of them.

    Raises: InputError as `assimilate`.
    """
    method = get_method(name)
    options = checked_options(method, options, members)
    if isinstance(options, EnsembleOptions):
        return ensemble_cycle(
            emulator, conditions, background,
            members=members, seed=seed, options=options, cases=cases, continued=continued, parameter_names=parameter_names,
        )  # fmt: skip
    if isinstance(options, ThreeDVarOptions):
        return three_dvar_cycle(
            emulator,
            conditions,
            background,
            members=members,
            seed=seed,
            options=options,
            cases=cases,
            continued=continued,
        )
    if isinstance(options, FourDVarOptions):
        return four_dvar_cycle(
            emulator,
            conditions,
            background,
            members=members,
            seed=seed,
            options=options,
            cases=cases,
            continued=continued,
        )
    return Cycle(
        emulator, MethodBlocks(method, options, background, continued), conditions,
        members=members, seed=seed, cases=cases,
        background=None if background is None or not method.continues else background[:members], continued=continued,
    )  # fmt: skip


def checked_options(method: Method, options: Any, members: int) -> Any:
    """The options, or the method's defaults. Raises: InputError for those of another method, or no members."""
    if options is not None and not isinstance(options, method.options):
        raise InputError(f"Method {method.name!r} takes {method.options.__name__}, got {type(options).__name__}.")
    if members < 1:
        raise InputError(f"members must be at least 1, got {members}.")
    return method.options() if options is None else options


def describe_methods() -> list[tuple[str, str]]:
    """(name, needs, modes and description in one line) of each method."""
    return [
        (method.name, f"{method.description}; needs {method.needs}; {', '.join((*method.modes, 'online'))}")
        for method in METHODS.values()
    ]
