"""What the validation split is for: watching a training run, and setting the spread of its ensemble."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast import metrics
from eddycast.autoencoders import vrmse
from eddycast.conditions import Conditions
from eddycast.data import Dataset, Normalisation
from eddycast.emulators import Autoencoding, Emulator, ScoringConfig
from eddycast.recipes.recipe import EvaluationSettings, Recipe

MEMBERS, ROUNDS = 8, 2
LOW, HIGH = 0.5, 2.5
"""Bounds of the noise scale: beyond them the emulator is at fault, not its noise."""


@dataclass(frozen=True, eq=False)
class Verification:
    """Starts in the validation split and what came of them.

    Args:
        context: (case, time, channel, *space), physical.
        truth: States 1, 2, ... steps later, (case, lead, channel, *space).
        conditions: Batch (case,), origin at the last state of the context.
    """

    context: Tensor
    truth: Tensor
    conditions: Conditions

    @property
    def leads(self) -> Tensor:
        return torch.arange(1, self.truth.shape[1] + 1)


def verification(dataset: Dataset, context: int, *, cases: int, steps: int) -> Verification | None:
    """Up to `cases` starts spread over the validation split; shorter than `steps` where it is short, None where it has no room."""
    segments = [part for part in dataset.splits.get("valid", ()) if len(part) > context]
    if not segments:
        return None
    steps = min(steps, max(len(part) for part in segments) - context)
    starts = dataset.windows("valid", context + steps)
    chosen = starts[:: max(1, len(starts) // cases)][:cases]
    states = torch.stack([dataset.read(one, at, at + context + steps) for one, at in chosen.tolist()])
    conditions = dataset.conditions(chosen[:, 0].tolist(), (chosen[:, 1] + context - 1).tolist())
    return Verification(states[:, :context], states[:, context:], conditions)


def validation(
    emulator: Emulator, dataset: Dataset, space: Normalisation, settings: EvaluationSettings
) -> Callable[[], float] | None:
    """Mean CRPS of short forecasts of the validation split in standard deviations; None where it is too short for one.

    Those of the training split; of log fields, which it knows as logarithms only, those of the truth.
    """
    if isinstance(emulator.model, Autoencoding):
        return None
    cases = verification(dataset, emulator.context, cases=settings.validation_cases, steps=settings.validation_steps)
    if cases is None:
        return None
    members, scale = settings.validation_members, physical_scale(space, cases.truth)

    def score() -> float:
        ensemble = emulator.forecast(cases.context, cases.conditions, cases.leads, members=members, seed=0)
        values = metrics.crps(ensemble, cases.truth, fair=members > 1) / scale
        return values[torch.isfinite(cases.truth)].mean().item()  # a member that blows up shows as NaN

    return score


def validation_of_all(
    emulator: Emulator, datasets: tuple[Dataset, ...], space: Normalisation, settings: EvaluationSettings
) -> Callable[[], float] | None:
    """Mean of `validation` over data sets, which share the cases among them; None where none has a validation split."""
    shared = replace(settings, validation_cases=max(1, settings.validation_cases // len(datasets)))
    scores = [score for one in datasets if (score := validation(emulator, one, space, shared)) is not None]
    return (lambda: sum(score() for score in scores) / len(scores)) if scores else None


def physical_scale(space: Normalisation, truth: Tensor) -> Tensor:
    """Standard deviation of each field in its own unit, (channel, *space or ones); truth (case, lead, channel, *space)."""
    scale = space.std.clamp_min(1e-12).clone()
    for channel, offset in enumerate(space.offsets):
        if offset is not None:
            values = truth[:, :, channel]
            scale[channel] = values[torch.isfinite(values)].std(correction=0).clamp_min(1e-12)
    return scale


def reconstruction_error(
    model: Autoencoding, space: Normalisation, dataset: Dataset, settings: EvaluationSettings
) -> Callable[[], float] | None:
    """VRMSE of reconstructed normalised states of the validation split, mean over fields; None without such a split."""
    if not dataset.splits.get("valid"):
        return None
    starts = dataset.windows("valid", 1)
    chosen = starts[:: max(1, len(starts) // (4 * settings.validation_cases))]
    states = torch.stack([dataset.read(one, at, at + 1) for one, at in chosen.tolist()])
    conditions = dataset.conditions(chosen[:, 0].tolist(), chosen[:, 1].tolist())
    x = space.encode(states, conditions, torch.zeros(1, dtype=torch.float64)).flatten(0, 1)

    @torch.no_grad()
    def score() -> float:
        place = next(model.parameters()).device
        pieces = x.split(max(1, settings.validation_cases))
        errors = [vrmse(model.network(part.to(place))[0], part.to(place)) for part in pieces]
        return torch.cat(errors).mean().item()

    return score


def calibrated(recipe: Recipe, emulator: Emulator, dataset: Dataset) -> Recipe:
    """The recipe with the noise scale at which spread equals error on the validation split, for families that have one.

    Training on single steps leaves errors that are no noise (a bias of the network repeats itself at every step), so its ensemble is
    too narrow further on. Each round multiplies the scale by the geometric mean of error / spread over the leads at which the
    error is below half a standard deviation: there both grow in proportion to the noise.
    """
    settings = recipe.emulator
    if not isinstance(settings, ScoringConfig) or not recipe.evaluation.calibrate:
        return recipe
    cases = verification(
        dataset,
        emulator.context,
        cases=2 * recipe.evaluation.validation_cases,
        steps=4 * recipe.evaluation.validation_steps,
    )
    if cases is None or len(cases.context) < 2:
        return recipe
    for _ in range(ROUNDS):
        emulator.model.config = settings  # type: ignore[attr-defined]
        ensemble = emulator.forecast(cases.context, cases.conditions, cases.leads, members=MEMBERS, seed=1)
        ratio = error_over_spread(ensemble, cases.truth)
        scale = min(HIGH, max(LOW, settings.noise_scale * ratio))
        settings = replace(settings, noise_scale=round(scale, 4))
    emulator.model.config = settings  # type: ignore[attr-defined]
    return replace(recipe, emulator=settings)


def error_over_spread(ensemble: Tensor, truth: Tensor) -> float:
    """Geometric mean of error / corrected spread over fields and leads, where the error is below half the field's standard deviation.

    Args:
        ensemble: (member, case, lead, channel, *space).
        truth: (case, lead, channel, *space), NaN where undefined. Its standard deviation is taken about the mean of each point.
    """
    other = [dim for dim in range(truth.ndim) if dim not in (1, 2)]
    error = (ensemble.mean(0) - truth).square().nanmean(dim=other)
    spread = torch.where(truth.isnan(), torch.nan, metrics.corrected_variance(ensemble)).nanmean(dim=other)
    anomaly = truth - truth.nanmean(dim=(0, 1), keepdim=True)
    variance = anomaly.square().nanmean(dim=[1, *other])
    early = (error < 0.25 * variance) & (spread > 0)
    early[0] = spread[0] > 0
    if not bool(early.any()):
        return 1.0
    return float((0.5 * (error[early] / spread[early]).log()).mean().exp())
