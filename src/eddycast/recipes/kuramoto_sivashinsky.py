"""Kuramoto-Sivashinsky at L = 36, 64 points, states every time unit (Lyapunov time 13.2)."""

from __future__ import annotations

from dataclasses import replace

from eddycast.emulators import RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.networks import UNetConfig
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.training import TrainingSettings

SIMULATION = SimulationSettings("kuramoto-sivashinsky", trajectories=2560, steps=160)
SMOKE_SIMULATION = replace(SIMULATION, trajectories=20, steps=40)
NETWORK = UNetConfig(channels=(64, 80, 80), blocks=1)
SMOKE_NETWORK = UNetConfig(channels=(8, 16), blocks=1, kernel=3, embedding=16)
SMOKE_TRAINING = TrainingSettings(steps=6, batch_size=4, validations=1)
SMOKE_EVALUATION = EvaluationSettings(steps=6, members=3, validation_cases=2, validation_steps=2, validation_members=2)

REGRESSION = RegressionConfig(network=NETWORK)
SCORING = ScoringConfig(network=NETWORK, unroll=2)
UNIVERSAL = UniversalConfig(network=NETWORK)

TITLES = {
    "regression": "deterministic U-Net, mean squared error",
    "scoring": "noise-conditioned U-Net, fair CRPS",
    "universal": "universal diffusion of windows, any known states",
}
STEPS = {"regression": 7000, "scoring": 8000, "universal": 14000}
"""Between 12 and 25 minutes of one core each."""


def recipes() -> list[Recipe]:
    """Two sizes of each family."""
    found = []
    for emulator in (REGRESSION, SCORING, UNIVERSAL):
        title = TITLES[emulator.kind]
        small = Recipe(
            name=f"ks/{emulator.kind}-small",
            description=f"Kuramoto-Sivashinsky, {title}.",
            emulator=emulator,
            simulation=SIMULATION,
            training=TrainingSettings(steps=STEPS[emulator.kind], learning_rate=5e-3),
        )
        smoke = replace(
            small,
            name=f"ks/{emulator.kind}-smoke",
            description=f"{small.description[:-1]}: a few steps, to see that it runs.",
            emulator=replace(emulator, network=SMOKE_NETWORK),
            simulation=SMOKE_SIMULATION,
            training=SMOKE_TRAINING,
            evaluation=SMOKE_EVALUATION,
        )
        found += [small, smoke]
    return found
