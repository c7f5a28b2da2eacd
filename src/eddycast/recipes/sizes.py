"""What recipes of all systems share: the smoke size, which is seconds, and the titles of the families."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eddycast.emulators import DiffusionSettings, DYffusionConfig
from eddycast.networks import UNetConfig
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.training import TrainingSettings

TITLES = {
    "regression": "deterministic U-Net, mean squared error",
    "scoring": "noise-conditioned U-Net, fair CRPS",
    "refiner": "PDE-Refiner, a prediction and its corrections",
    "universal": "universal diffusion of windows, any known states",
    "amortised": "diffusion of windows, a fixed number of known states",
    "joint": "diffusion of whole windows, known states by guidance",
    "dyffusion": "DYffusion, interpolator with noise, forecasts at any time",
}
SMOKE_NETWORK = UNetConfig(channels=(8, 16), blocks=1, kernel=3, embedding=16)
SMOKE_TRAINING = TrainingSettings(steps=6, batch_size=4, validations=1)
SMOKE_EVALUATION = EvaluationSettings(steps=6, members=3, validation_cases=2, validation_steps=2, validation_members=2)


def smoke(small: Recipe, simulation: SimulationSettings | None = None) -> Recipe:
    """The recipe `...-smoke` that goes with a `...-small`: the same path through the code in seconds.

    Args:
        small: The recipe to shrink.
        simulation: Data of that size; None for a recipe that is given its data.
    """
    return replace(
        small,
        name=f"{small.name.removesuffix('-small')}-smoke",
        description=f"{small.description[:-1]}: a few steps, to see that it runs.",
        emulator=shrunk(small.emulator),
        simulation=simulation,
        training=SMOKE_TRAINING,
        evaluation=SMOKE_EVALUATION,
    )


def shrunk(emulator: Any) -> Any:
    """The same family with small networks, whose dropout stays, and at most 16 steps of a sampler."""
    changes: dict[str, Any] = {"network": replace(SMOKE_NETWORK, dropout=getattr(emulator.network, "dropout", 0.0))}
    if isinstance(emulator, DYffusionConfig):
        changes["interpolator"] = shrunk(emulator.interpolator)
    if isinstance(emulator, DiffusionSettings):
        changes["num_steps"] = min(emulator.num_steps, 16)
    return replace(emulator, **changes)
