"""Forecasters behind one protocol, and the rollout that they share.

A new family is one file with a config and a `WindowModel` (with `stages()` if it is trained), and one line in `FAMILIES`.
"""

from __future__ import annotations

from torch import nn

from eddycast.emulators.baselines import Climatology, IdentitySpace, Persistence
from eddycast.emulators.emulator import Emulator
from eddycast.emulators.guard import SpectralGuard
from eddycast.emulators.network import ModelShape
from eddycast.emulators.protocols import (
    Diffusing,
    Guide,
    OpenWindow,
    Space,
    Stage,
    Trainable,
    TrainingBatch,
    WindowModel,
)
from eddycast.emulators.regression import Regression, RegressionConfig
from eddycast.emulators.rollout import rollout
from eddycast.emulators.scoring import ScoringConfig, ScoringRule
from eddycast.emulators.solver import SolverModel
from eddycast.emulators.universal import UniversalConfig, UniversalDiffusion

FamilyConfig = RegressionConfig | ScoringConfig | UniversalConfig
FAMILIES: dict[str, type[nn.Module]] = {
    "regression": Regression,
    "scoring": ScoringRule,
    "universal": UniversalDiffusion,
}


def build_model(config: FamilyConfig, shape: ModelShape) -> nn.Module:
    """The untrained model that `config.kind` names."""
    return FAMILIES[config.kind](config, shape)


__all__ = [
    "FAMILIES",
    "Climatology",
    "Diffusing",
    "Emulator",
    "FamilyConfig",
    "Guide",
    "IdentitySpace",
    "ModelShape",
    "OpenWindow",
    "Persistence",
    "Regression",
    "RegressionConfig",
    "ScoringConfig",
    "ScoringRule",
    "SolverModel",
    "Space",
    "SpectralGuard",
    "Stage",
    "Trainable",
    "TrainingBatch",
    "UniversalConfig",
    "UniversalDiffusion",
    "WindowModel",
    "build_model",
    "rollout",
]
