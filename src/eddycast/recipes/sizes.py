"""What recipes of all systems share: the smoke size, which is seconds, and the titles of the families."""

from __future__ import annotations

from dataclasses import replace

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
        emulator=replace(small.emulator, network=SMOKE_NETWORK),
        simulation=simulation,
        training=SMOKE_TRAINING,
        evaluation=SMOKE_EVALUATION,
    )
