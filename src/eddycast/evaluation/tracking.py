"""How long forecasts track the truth, by parameter value and in Lyapunov times of that value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation.matching import match
from eddycast.evaluation.runs import Run, Source
from eddycast.metrics import mask_weights
from eddycast.metrics.tracking import normalised_error, survival_quantiles, valid_time


@dataclass(frozen=True)
class Tracking:
    """Valid times: first crossing of a threshold by NRMSE = ||x - y|| / std of the truth, over cases.

    Args:
        forecast: `member`, the first one, or `mean`, of the ensemble.
        threshold: Of the error.
        cases: How many.
        quartiles: 25, 50 and 75 % of the valid times, in time units; infinite where the forecast or the truth ends before. Cases that end
            early are counted as far as they go (Kaplan-Meier).
        lyapunov: The same in Lyapunov times of these parameters; None where that is unknown.
        censored: Share of the cases that do not cross.
    """

    forecast: str
    threshold: float
    cases: int
    quartiles: tuple[float, float, float]
    lyapunov: tuple[float, float, float] | None
    censored: float


def tracking(
    source: Source,
    data: Dataset,
    groups: Sequence[tuple[list[Run], float, float | None]],
    thresholds: Sequence[float],
) -> tuple[list[tuple[Tracking, ...]], list[str]]:
    """Valid times of each group.

    Args:
        source: A forecast.
        data: The truth.
        groups: Runs, standard deviation of the truth, Lyapunov time.
        thresholds: Of the error, positive.

    Returns: one entry per group, empty where no lead time has a truth, and notes.
    Raises: InputError for thresholds that are not positive.
    """
    if any(not threshold > 0 for threshold in thresholds):
        raise InputError(f"Thresholds of the normalised error must be positive, got {', '.join(map(str, thresholds))}.")
    assert source.content is not None, "a forecast has its content"
    if not thresholds or any(run.trajectory is None for run in source.runs):
        return [() for _ in groups], []
    try:
        found = match(source.content[[source.field]], data)
    except InputError as error:
        return [() for _ in groups], [f"No tracking: {error}"]
    if found.kind == "analysis":
        return [() for _ in groups], []
    weights = mask_weights(found.truth.grid.weights(), found.truth.valid)
    times = torch.as_tensor(found.leads.times, dtype=torch.float64)
    kinds = ("member",) if found.members == 1 else ("member", "mean")
    answers = []
    for runs, std, lyapunov in groups:
        wanted = {(run.trajectory, run.start) for run in runs}
        cases = [
            case for case in range(found.cases) if (int(found.trajectories[case]), int(found.frames[case])) in wanted
        ]
        curves, shown = {kind: [] for kind in kinds}, []
        for case in cases:
            truth = found.states(found.truth, found.channels, case, slice(None))[:, 0].double()
            ensemble = found.ensemble(case, slice(None))[:, :, 0].double()
            land = weights == 0
            shown.append(~(truth.isnan() & ~land).flatten(1).any(dim=1))
            safe = torch.where(land, 0.0, truth).nan_to_num(0.0)
            for kind in kinds:
                state = ensemble[0] if kind == "member" else ensemble.mean(dim=0)
                curves[kind].append(normalised_error(torch.where(land, 0.0, state), safe, weights, std**2))
        if not cases or not bool(torch.stack(shown)[:, 0].any()):
            answers.append(())
            continue
        seen = torch.stack(shown)
        rows = []
        for kind in kinds:
            for threshold in thresholds:
                valid = valid_time(torch.stack(curves[kind]), times, threshold=threshold, shown=seen)
                low, middle, high = survival_quantiles(valid.time, valid.censored)
                own = None if lyapunov is None else (low / lyapunov, middle / lyapunov, high / lyapunov)
                share = float(valid.censored.double().mean())
                rows.append(Tracking(kind, float(threshold), len(cases), (low, middle, high), own, share))
        answers.append(tuple(rows))
    notes = [f"Tracking: {note}" for note in found.notes]
    if len(kinds) > 1:
        notes.append(
            "Tracking is of the first member and of the ensemble mean, which loses variance and so lasts longer at 0.5 than a member."
        )
    return answers, notes
