"""Small data and recipes of emulators in latent space, shared by the tests of this folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from eddycast import api
from eddycast.data import Dataset, Field, from_arrays
from eddycast.emulators import AutoencodingConfig, FamilyConfig, NeuralSolverConfig, UniversalConfig
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.networks import UNetConfig
from eddycast.recipes import AutoencoderStage, EvaluationSettings, Recipe, SpaceSettings
from eddycast.training import SilentObserver, TrainingSettings

TINY = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=4)
STEPS = TrainingSettings(steps=4, batch_size=4, validations=1, warmup=1, checkpoint_seconds=1e9)
EVALUATION = EvaluationSettings(
    steps=4, members=2, validation_cases=2, validation_steps=2, validation_members=2, calibrate=False
)
AUTOENCODER = AutoencodingConfig(
    channels=(4, 4), blocks=1, latent_channels=3, augment=("flip", "roll"), residual_width=2
)
FAMILIES: dict[str, FamilyConfig] = {
    "universal": UniversalConfig(network=TINY, num_steps=2, frames=4),
    "neural-solver": NeuralSolverConfig(network=TINY, frames=3),
    "crps": NeuralSolverConfig(network=TINY, frames=3, score="crps"),
}
AXES = ("x", "y", "z")


def walls(name: str, points: int) -> Axis:
    return Axis(name, tuple(float(j) for j in range(points)), ("wall", "open"))


def flow(axes: int = 2, *, size: int = 8, trajectories: int = 6, frames: int = 9, seed: int = 0, **options) -> Dataset:
    """A density that is a log-normal wave and a velocity: periodic along the first axis, bounded along the others, one parameter."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.arange(size) * (2 * torch.pi / size)
    names = ["density", *(f"velocity_{name}" for name in AXES[:axes])]
    time = 0.2 * torch.arange(frames).reshape(1, frames, 1, *[1] * axes)
    shape = (trajectories, 1, len(names), *[1] * axes)
    angle = torch.rand(shape, generator=generator) * 6 - time
    for axis in range(axes):
        angle = angle + points.reshape([size if other == axis else 1 for other in range(axes)])
    states = torch.sin(angle) + 0.1 * torch.randn(
        trajectories, frames, len(names), *(size,) * axes, generator=generator
    )
    states[:, :, 0] = (0.5 * states[:, :, 0]).exp()
    fields = [Field(name, vector="velocity" if name != "density" else "") for name in names]
    grid = Grid((periodic_axis("x", size, 1.0), *(walls(name, size) for name in AXES[1:axes])))
    more: dict[str, Any] = {
        "dt": 0.2,
        "parameter_names": ["speed"],
        "parameters": torch.linspace(1, 2, trajectories)[:, None],
    }
    return from_arrays(states, fields=fields, grid=grid, **(more | options))


def recipe(family: str = "universal", **changes) -> Recipe:
    copies = changes.pop("copies", 2)
    model = replace(AUTOENCODER, **changes.pop("autoencoder", {}))
    made = Recipe(
        "flow/latent-tiny",
        "A few steps in latent space.",
        FAMILIES[family],
        autoencoder=AutoencoderStage(model, STEPS, copies=copies),
        space=SpaceSettings("field", log={"density": 0.1}, vectors="shared"),
        tell_boundaries=True,
        training=STEPS,
        evaluation=EVALUATION,
    )
    return replace(made, **changes)


def alone(**changes) -> Recipe:
    """The autoencoder as a run of its own."""
    return replace(recipe(), name="flow/autoencoder-tiny", emulator=replace(AUTOENCODER, **changes), autoencoder=None)


def train(made: Recipe, data: Dataset, out: Path, **options) -> api.Forecaster:
    return api.train(made, data=data, out=out, **({"observer": SilentObserver()} | options))
