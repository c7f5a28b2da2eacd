"""Forecasters behind one protocol, and the rollout that they share.

A new family is one file (a folder, as `dyffusion`, where that is too long) with a config and a `WindowModel` (with `stages()` if it is
trained), one line in `FAMILIES` and one alternative in `FamilyConfig`. What may be set after training stands in `SAMPLING` of
`api/settings.py`.
"""

from __future__ import annotations

from torch import nn

from eddycast.emulators.autoencoding import Autoencoding, AutoencodingConfig
from eddycast.emulators.baselines import Climatology, IdentitySpace, Persistence
from eddycast.emulators.boundary_values import HeldPoints, PrescribedValues
from eddycast.emulators.composition import compose, window_starts
from eddycast.emulators.diffusion import WindowDiffusion
from eddycast.emulators.diffusion_kinds import (
    AmortisedConfig,
    DiffusionConfig,
    DiffusionSettings,
    JointConfig,
    UniversalConfig,
)
from eddycast.emulators.dyffusion import DYffusion, DYffusionConfig, InterpolatorConfig
from eddycast.emulators.emulator import Emulator
from eddycast.emulators.guard import SpectralGuard
from eddycast.emulators.latent import LatentSpace
from eddycast.emulators.network import ModelShape
from eddycast.emulators.neural_solver import NeuralSolver, NeuralSolverConfig
from eddycast.emulators.passes import Passes, count_passes
from eddycast.emulators.protocols import (
    Diffusing,
    OpenWindow,
    Space,
    Stage,
    Trainable,
    TrainingBatch,
    WindowModel,
)
from eddycast.emulators.refiner import Refiner, RefinerConfig
from eddycast.emulators.regression import Regression, RegressionConfig
from eddycast.emulators.rollout import StateHook, rollout
from eddycast.emulators.scoring import ScoringConfig, ScoringRule
from eddycast.emulators.solver import SolverModel

FamilyConfig = (
    RegressionConfig
    | ScoringConfig
    | RefinerConfig
    | NeuralSolverConfig
    | JointConfig
    | AmortisedConfig
    | UniversalConfig
    | DYffusionConfig
    | AutoencodingConfig
)
FAMILIES: dict[str, type[nn.Module]] = {
    "regression": Regression,
    "scoring": ScoringRule,
    "refiner": Refiner,
    "neural-solver": NeuralSolver,
    "joint": WindowDiffusion,
    "amortised": WindowDiffusion,
    "universal": WindowDiffusion,
    "dyffusion": DYffusion,
    "autoencoder": Autoencoding,
}


def build_model(config: FamilyConfig, shape: ModelShape) -> nn.Module:
    """The untrained model that `config.kind` names."""
    return FAMILIES[config.kind](config, shape)


__all__ = [
    "FAMILIES",
    "AmortisedConfig",
    "Autoencoding",
    "AutoencodingConfig",
    "Climatology",
    "DYffusion",
    "DYffusionConfig",
    "Diffusing",
    "DiffusionConfig",
    "DiffusionSettings",
    "Emulator",
    "FamilyConfig",
    "HeldPoints",
    "IdentitySpace",
    "InterpolatorConfig",
    "JointConfig",
    "LatentSpace",
    "ModelShape",
    "NeuralSolver",
    "NeuralSolverConfig",
    "OpenWindow",
    "Passes",
    "Persistence",
    "PrescribedValues",
    "Refiner",
    "RefinerConfig",
    "Regression",
    "RegressionConfig",
    "ScoringConfig",
    "ScoringRule",
    "SolverModel",
    "Space",
    "SpectralGuard",
    "Stage",
    "StateHook",
    "Trainable",
    "TrainingBatch",
    "UniversalConfig",
    "WindowDiffusion",
    "WindowModel",
    "build_model",
    "compose",
    "count_passes",
    "rollout",
    "window_starts",
]
