"""Stirred turbulence in a 3-D box: three velocity components on 12 x 12 x 12 points, to see that three dimensions run."""

from __future__ import annotations

from dataclasses import replace

from eddycast.emulators import RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.networks import TransformerConfig
from eddycast.recipes.recipe import Recipe, SimulationSettings
from eddycast.recipes.sizes import TITLES, smoke

SIMULATION = SimulationSettings(
    "navier-stokes-3d", trajectories=8, steps=12, parameters={"viscosity": 0.05}, grid=(12, 12, 12), spin_up=4.0
)
TRANSFORMER = TransformerConfig(patch=4, width=16, heads=2, blocks=2, embedding=16)


def recipes() -> list[Recipe]:
    """The smoke size alone; a trained size wants a GPU."""
    found = []
    for emulator in (RegressionConfig(), ScoringConfig(), UniversalConfig(frames=3)):
        name = f"navier-stokes-3d/{emulator.kind}"
        found.append(smoke(Recipe(f"{name}-small", f"3-D turbulence, {TITLES[emulator.kind]}.", emulator), SIMULATION))
    diffusion = found[-1]
    return [
        *found,
        replace(
            diffusion,
            name="navier-stokes-3d/universal-transformer-smoke",
            description=diffusion.description.replace(
                "universal diffusion", "space-time transformer, universal diffusion"
            ),
            emulator=UniversalConfig(frames=3, network=TRANSFORMER),
        ),
    ]
