"""Recipes for any data set: the user's own, or one of The Well."""

from __future__ import annotations

from dataclasses import replace

from eddycast.emulators import RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.networks import UNetConfig
from eddycast.recipes.kuramoto_sivashinsky import SMOKE_EVALUATION, SMOKE_NETWORK, SMOKE_TRAINING, TITLES
from eddycast.recipes.recipe import EvaluationSettings, Recipe
from eddycast.training import TrainingSettings

NETWORK = UNetConfig(channels=(32, 64, 64), blocks=1, kernel=3)


def recipes() -> list[Recipe]:
    """Two sizes of each family, for `--data`."""
    found = []
    for emulator in (RegressionConfig(network=NETWORK), ScoringConfig(network=NETWORK), UniversalConfig(network=NETWORK)):
        small = Recipe(
            name=f"any/{emulator.kind}-small",
            description=f"Your own data (--data), {TITLES[emulator.kind]}.",
            emulator=emulator,
            training=TrainingSettings(minutes=10.0, batch_size=16, average=0.995),
            evaluation=EvaluationSettings(steps=24),
        )
        smoke = replace(
            small,
            name=f"any/{emulator.kind}-smoke",
            description=f"{small.description[:-1]}: a few steps, to see that it runs.",
            emulator=replace(emulator, network=SMOKE_NETWORK),
            training=SMOKE_TRAINING,
            evaluation=SMOKE_EVALUATION,
        )
        found += [small, smoke]
    return found
