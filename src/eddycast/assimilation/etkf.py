"""Ensemble Kalman methods as entries of the table: with transforms (global or local), with perturbed observations, all frames at once.

See `updates.py` for the equations, `ensemble.py` for the way through a block, `cycle.py` for what keeps the blocks together.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from eddycast.assimilation.cycle import Cycle, fit_background
from eddycast.assimilation.ensemble import EnsembleAnalysis
from eddycast.assimilation.ensemble_options import EnsembleOptions, ETKFOptions
from eddycast.assimilation.protocols import ForecastModel, Mode
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.observations import ObservationSet


def ensemble_cycle(
    model: ForecastModel,
    conditions: Conditions,
    background: Tensor | None,
    *,
    members: int,
    seed: int,
    options: EnsembleOptions | None = None,
    cases: Tensor | None = None,
    continued: bool = False,
    parameter_names: tuple[str, ...] = (),
) -> Cycle:
    """A cycle of the ensemble method whose options these are (default: the ETKF's).

    Args: as `Cycle`, and
        background: (member, case, context, channel, *space).
        parameter_names: Columns of the parameters in `conditions`, to estimate some of them.

    Raises: InputError for a background that does not fit, fewer than two members, or an unknown parameter.
    """
    options = options or ETKFOptions()
    if members < 2:
        raise InputError(f"An ensemble Kalman method needs at least 2 members, got {members}: 30 to 100 are usual.")
    start = fit_background(background, members, len(conditions.time), model.context)
    analysis = EnsembleAnalysis(options, parameter_names)
    _ = analysis.priors  # wrong ones are told before anything is forecast
    return Cycle(
        model, analysis, conditions,
        members=members, seed=seed, cases=cases, background=start, continued=continued,
    )  # fmt: skip


def ensemble_kalman(
    model: ForecastModel,
    observations: ObservationSet,
    conditions: Conditions,
    background: Tensor,
    *,
    seed: int,
    block: int = 1,
    continued: bool = False,
    options: EnsembleOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Cycle of forecasts and analyses; each state knows the observations up to the end of its block.

    Args:
        model: Forecast model.
        observations: Of all cases.
        conditions: Batch (case,), origin at the first observed frame.
        background: Ensemble before any observation, (member, case, context, channel, *space); its last state stands at
            the first observed frame.
        seed: Of the model's noise, of rotations and perturbations.
        block: Frames that are smoothed together: 1 filters, all frames smooth.
        continued: The background is an analysis, whose last state stands one frame earlier.
        options: Settings, which say the method.
        progress: Called with (done, in all).

    Returns: analysis (member, case, time, channel, *space) in the dtype of the background.
    Raises: InputError for a background that does not fit, or an ensemble that is no longer finite (divergence).
    """
    cycle = ensemble_cycle(
        model, conditions, background,
        members=len(background), seed=seed, options=options, cases=observations.trajectories, continued=continued,
        parameter_names=names_of_parameters(observations),
    )  # fmt: skip
    return cycle.run(observations, block, progress=progress)


def names_of_parameters(observations: ObservationSet) -> tuple[str, ...]:
    """Columns of the parameters of a set of observations; none for a set that does not say."""
    return tuple(getattr(observations, "parameter_names", ()))


def ensemble_method(
    emulator: ForecastModel,
    observations: ObservationSet,
    conditions: Conditions,
    *,
    members: int,
    seed: int,
    mode: Mode = "smooth",
    background: Tensor | None = None,
    continued: bool = False,
    options: EnsembleOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The methods `etkf`, `enkf`, `letkf` and `ensemble-smoother`: filter or fixed-interval smoother; see `ensemble_kalman`."""
    cycle = ensemble_cycle(
        emulator, conditions, background,
        members=members, seed=seed, options=options, cases=observations.trajectories, continued=continued,
        parameter_names=names_of_parameters(observations),
    )  # fmt: skip
    return cycle.run(observations, {"filter": 1, "smooth": observations.num_times}[mode], progress=progress)
