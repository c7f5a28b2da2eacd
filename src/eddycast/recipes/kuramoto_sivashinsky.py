"""Kuramoto-Sivashinsky, `ks`: L = 36, 64 points, states every time unit (Lyapunov time 13.2); and `ks64`, the published protocol:
L = 64, 256 points, states every 0.2 (Lyapunov time 12.0), 140 states of each of 1024 training trajectories (arXiv:2410.16415).
"""

from __future__ import annotations

from dataclasses import replace

from eddycast.emulators import AmortisedConfig, JointConfig, RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.networks import UNetConfig
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.recipes.sizes import TITLES, smoke
from eddycast.training import TrainingSettings

SIMULATION = SimulationSettings("kuramoto-sivashinsky", trajectories=2560, steps=160)
LONG_SIMULATION = SimulationSettings(
    "kuramoto-sivashinsky", trajectories=1280, steps=140, parameters={"domain_length": 64.0}, grid=(256,), dt=0.2
)
NETWORK = UNetConfig(channels=(64, 80, 80), blocks=1)
LONG_NETWORK = UNetConfig(channels=(16, 32, 80, 80), blocks=1)
"""Four points to a grid length of `ks`: two narrow levels come before those of the other network."""
EMULATORS = (
    RegressionConfig(network=NETWORK),
    ScoringConfig(network=NETWORK, unroll=2),
    UniversalConfig(network=NETWORK),
    AmortisedConfig(network=NETWORK),
    JointConfig(frames=9, context=8, overlap=8, network=NETWORK, sampler="ddim", num_steps=16, gamma=0.3),
)
LONG_EMULATORS = (
    RegressionConfig(horizon=5, network=LONG_NETWORK),
    ScoringConfig(horizon=5, network=LONG_NETWORK),
    UniversalConfig(frames=9, network=LONG_NETWORK),
    AmortisedConfig(frames=9, network=LONG_NETWORK),
    JointConfig(frames=9, context=8, overlap=8, network=LONG_NETWORK, sampler="ddim", num_steps=16, gamma=0.3),
)
"""Windows of up to nine states, as published; five for the others, so that errors are fed back once per time unit, as in `ks`."""

STEPS = {"regression": 7000, "scoring": 8000, "universal": 14000, "amortised": 14000, "joint": 14000}
"""Between 12 and 25 minutes of one core each."""
LONG_STEPS = {"regression": 8000, "scoring": 5000, "universal": 15000, "amortised": 15000, "joint": 15000}


def recipes() -> list[Recipe]:
    """Two sizes of each family at either length."""
    found = []
    for emulator in EMULATORS:
        small = Recipe(
            name=f"ks/{emulator.kind}-small",
            description=f"Kuramoto-Sivashinsky, {TITLES[emulator.kind]}.",
            emulator=emulator,
            simulation=SIMULATION,
            training=TrainingSettings(steps=STEPS[emulator.kind], learning_rate=5e-3),
        )
        found += [small, smoke(small, replace(SIMULATION, trajectories=20, steps=40))]
    for emulator in LONG_EMULATORS:
        small = Recipe(
            name=f"ks64/{emulator.kind}-small",
            description=f"Kuramoto-Sivashinsky at L = 64 (published protocol), {TITLES[emulator.kind]}.",
            emulator=emulator,
            simulation=LONG_SIMULATION,
            training=TrainingSettings(steps=LONG_STEPS[emulator.kind], batch_size=32, learning_rate=5e-3),
            evaluation=EvaluationSettings(steps=640, validation_steps=40),
        )
        found += [small, smoke(small, replace(LONG_SIMULATION, trajectories=20, steps=40))]
    return found
