"""Dynamics-informed diffusion of arXiv:2306.01984 and its baselines, on the systems of the paper and the smallest cases.

    emulator               what it is
    dyffusion              interpolator with dropout, and forecaster. Half of its training windows begin at the first step, whence
                           any later one is looked ahead to; `--set emulator.start_share=0 --set emulator.ahead=next` is published
    dyffusion-noise        the interpolator sees noise and minimises a fair CRPS
    dyffusion-crps         the same, and the forecaster too sees noise and minimises a fair CRPS
    dyffusion-bridge       a Gaussian bridge
    regression-dropout     one network for all leads of a window, dropout on in the forecast; `--set emulator.ensemble=perturbation
                           --set emulator.perturbation=0.1` perturbs the start instead, `=none` is the deterministic forecast
    amortised-ddpm         diffusion of all states of a window, few steps
    amortised-mcvd         the same as video diffusion: noise linear in time, many steps
    regression             one network from step to step

The `paper` recipes have the published sizes, schedules, conditioning, losses and optimiser, with these differences: our own solvers make
the flow and the temperatures (the spring mesh is the published one); learning rates fall to 0 along a cosine (published: constant); the
best checkpoint by validation CRPS is not kept, the last is; states are standardised (published: of the temperatures alone).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from eddycast.emulators import AmortisedConfig, DYffusionConfig, FamilyConfig, InterpolatorConfig, RegressionConfig
from eddycast.networks import DyffusionCNNConfig, NetworkConfig, OtnessUNetConfig, ResNetUNetConfig, UNetConfig
from eddycast.recipes.dyffusion_baselines import ddpm, dropout, video_diffusion
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.recipes.sizes import smoke
from eddycast.training import TrainingSettings

SOURCE = "arXiv:2306.01984, its tables and code"


class Case(NamedTuple):
    """What the recipes of one system share.

    Args:
        title: Of the descriptions.
        simulation: Its data.
        horizon: Steps of a window.
        extra: Extra steps before the first whole one.
        network: Of all emulators.
        steps: Optimiser steps of one network that says one state; others have as many as cost the same.
        batch: Windows of a batch.
        forecast: Steps of a forecast.
        smoke: Smaller data.
        conditioning: Of the forecaster.
    """

    title: str
    simulation: SimulationSettings
    horizon: int
    extra: int
    network: UNetConfig
    steps: int
    batch: int
    forecast: int
    smoke: dict[str, Any]
    conditioning: Any = "data"


CASES: dict[str, Case] = {
    "lorenz-63": Case(
        "Lorenz-63", SimulationSettings("lorenz-63", trajectories=512, steps=160, dt=0.05), 8, 0,
        UNetConfig(channels=(64,), blocks=3, kernel=1), 8000, 256, 32, {"trajectories": 12, "steps": 20},
    ),
    "sine-wave": Case(
        "Sine waves to the left or right", SimulationSettings("sine-wave", trajectories=512, steps=64, parameters={"leftward": (0, 1)}),
        8, 0, UNetConfig(channels=(16, 32), blocks=1, kernel=5), 4500, 64, 32, {"trajectories": 12, "steps": 20, "grid": (8,)},
    ),
    "sea-surface": Case(
        "Synthetic sea surface temperature", SimulationSettings("sea-surface", trajectories=160, steps=64, grid=(32, 32)), 7, 7,
        UNetConfig(channels=(16, 32, 64), blocks=1, kernel=3), 1100, 16, 7, {"trajectories": 10, "steps": 12, "grid": (8, 8)},
        "data+noise",
    ),
    "channel-obstacles": Case(
        "Flow past obstacles", SimulationSettings("channel-obstacles", trajectories=60, steps=65, grid=(111, 21)), 16, 0,
        UNetConfig(channels=(16, 32, 64), blocks=1, kernel=3), 2000, 16, 64, {"trajectories": 10, "steps": 20, "grid": (89, 18)},
        "none",
    ),
    "spring-mesh": Case(
        "Spring mesh", SimulationSettings("spring-mesh", trajectories=120, steps=97, dt=0.0625), 16, 0,
        UNetConfig(channels=(32,), blocks=3, kernel=3), 2000, 64, 96, {"trajectories": 10, "steps": 24},
    ),
}  # fmt: skip

FAIR = {"dyffusion": 0.4, "dyffusion-noise": 0.35, "dyffusion-crps": 0.2, "dyffusion-bridge": 0.4}
"""Steps that cost what one of a network of one state does: two passes of the forecaster, two of the interpolator."""

DDPM_STEPS, MCVD_STEPS = 20, 100


def families(case: Case) -> dict[str, tuple[FamilyConfig, str]]:
    """The emulators of a case by the middle of their names."""
    network, masked = case.network, replace(case.network, dropout=0.05)
    window: dict[str, Any] = {
        "frames": case.horizon + 1, "network": network, "parametrisation": "noise", "loss": "absolute",
    }  # fmt: skip
    schedule = {"schedule": "before-first", "extra": case.extra} if case.extra else {}

    def dyffusion(noise: Any, inside: UNetConfig, loss: Any = "absolute") -> DYffusionConfig:
        return DYffusionConfig(
            loss=loss,
            horizon=case.horizon, interpolator=InterpolatorConfig(noise=noise, network=inside), network=network,
            conditioning=case.conditioning, start_share=0.5, ahead="any", **schedule,
        )  # fmt: skip

    return {
        "dyffusion": (dyffusion("dropout", masked), "DYffusion, dropout in the interpolator"),
        "dyffusion-noise": (dyffusion("noise", network), "DYffusion, interpolator with noise and a fair CRPS"),
        "dyffusion-crps": (dyffusion("noise", network, "crps"), "DYffusion, both networks with noise and a fair CRPS"),
        "dyffusion-bridge": (dyffusion("bridge", network), "DYffusion, Gaussian bridge"),
        "regression-dropout": (
            RegressionConfig(horizon=case.horizon, ensemble="dropout", network=masked), "one network for all leads, dropout on"
        ),
        "regression": (RegressionConfig(network=network), "one network from step to step, squared error"),
        "amortised-ddpm": (
            AmortisedConfig(**window, schedule="cosine-ddpm", num_steps=DDPM_STEPS), "diffusion of the states of a window, few steps"
        ),
        "amortised-mcvd": (
            AmortisedConfig(**window, schedule="linear-ddpm", num_steps=MCVD_STEPS), "video diffusion of the states of a window"
        ),
    }  # fmt: skip


def small_recipes() -> list[Recipe]:
    """All emulators of all cases, small and smoke."""
    found = []
    for system, case in CASES.items():
        for name, (emulator, what) in families(case).items():
            small = Recipe(
                f"{system}/{name}-small", f"{case.title}, {what}.", emulator, simulation=case.simulation,
                tell_parameters=False, guard=False,
                training=TrainingSettings(
                    steps=round(case.steps * FAIR.get(name, 1.0)), batch_size=case.batch, learning_rate=4e-3, validations=1
                ),
                evaluation=EvaluationSettings(
                    steps=case.forecast, members=32, validation_steps=case.horizon, validation_cases=16
                ),
            )  # fmt: skip
            found += [small, smoke(small, replace(case.simulation, **case.smoke))]
    return found


def paper_training(steps: int, batch: int, accumulate: int, rate: float, decay: float) -> TrainingSettings:
    """The published optimiser; `steps` of all stages together."""
    return TrainingSettings(
        steps=steps, batch_size=batch, accumulate=accumulate, optimiser="adamw", learning_rate=rate, weight_decay=decay, warmup=0,
        clip=1.0, average=None, validations=20,
    )  # fmt: skip


class Published(NamedTuple):
    """What the published sizes of one system share.

    Args:
        title: Of the descriptions.
        simulation: Our data of the published shape and number.
        emulator: The published settings.
        dropout: Backbone of the one network for all leads.
        training: Of the two stages.
        baseline_steps: Optimiser steps of the baselines.
        frames: States of a window of the two diffusion baselines, the known one included; none where they did not converge.
        forecast: Steps of a forecast.
        numbers: Published.
    """

    title: str
    simulation: SimulationSettings
    emulator: DYffusionConfig
    dropout: NetworkConfig
    training: TrainingSettings
    baseline_steps: int
    frames: tuple[int, int] | None
    forecast: int
    numbers: dict[str, str]


def published(interpolator: NetworkConfig, forecaster: NetworkConfig, **settings: Any) -> DYffusionConfig:
    """The published variable, losses and sampler, with these backbones."""
    return DYffusionConfig(
        variable="state", interpolator=InterpolatorConfig(network=interpolator), network=forecaster, interpolator_share=0.5,
        **settings,
    )  # fmt: skip


SST = ResNetUNetConfig(zero_start=False)
PUBLISHED: dict[str, Published] = {
    "spring-mesh": Published(
        "Spring mesh", SimulationSettings("spring-mesh", trajectories=118, steps=805, split=(100 / 118, 3 / 118, 15 / 118)),
        published(DyffusionCNNConfig(dropout=0.05, zero_start=False), DyffusionCNNConfig(zero_start=False), horizon=134),
        DyffusionCNNConfig(dropout=0.05, zero_start=False), paper_training(630_000, 64, 1, 4e-4, 1e-4), 315_000, None, 804,
        {
            "CRPS": "0.0103 +- 0.0022 (Dropout 0.0138), arXiv:2306.01984", "MSE": "4.20e-4 +- 2.1e-4 (7.27e-4)",
            "spread-skill": "1.13 +- 0.08 (1.01)", "CRPS out of distribution": "0.0292 +- 0.0009 (0.0448)",
            "MSE out of distribution": "3.54e-3 +- 2.0e-4 (7.08e-3)", "spread-skill out of distribution": "0.82 (0.70)",
        },
    ),
    "channel-obstacles": Published(
        "Flow past obstacles", SimulationSettings("channel-obstacles", trajectories=107, steps=65, split=(100 / 107, 2 / 107, 5 / 107)),
        published(
            OtnessUNetConfig(dropout=0.15, zero_start=False), OtnessUNetConfig(dropout=0.15, zero_start=False), horizon=16,
            conditioning="none",
        ),
        OtnessUNetConfig(dropout=0.2, zero_start=False), paper_training(30_800, 64, 2, 3e-4, 1e-4), 15_400, (2, 5), 64,
        {"data": "another solver and other obstacles: published figures (CRPS 0.067, MSE 0.022) are not of these data"},
    ),
    "sea-surface": Published(
        "Sea surface temperature", SimulationSettings("sea-surface", trajectories=1000, steps=128),
        published(
            replace(SST, dropout=0.6, first_dropout=0.2, attention_dropout=0.6), replace(SST, dropout=0.3, attention_dropout=0.1),
            horizon=7, conditioning="data+noise", schedule="before-first", extra=25, refine=False, forecaster_rate=1 / 3,
        ),
        replace(SST, dropout=0.6, first_dropout=0.3, attention_dropout=0.6), paper_training(58_000, 256, 4, 3e-4, 1e-5), 29_000, (8, 8), 7,
        {
            "data": "give tiles of NOAA OISST with --data; without, synthetic ones, of which these figures are not",
            "CRPS": "0.224 +- 0.001 (MCVD 0.216), arXiv:2306.01984", "MSE": "0.173 +- 0.001 (0.161)",
            "spread-skill": "1.033 +- 0.005 (0.926)",
        },
    ),
}  # fmt: skip


def paper_recipes() -> list[Recipe]:
    """The published sizes, and ours at the size of the spring mesh."""
    found = []
    for system, paper in PUBLISHED.items():
        horizon = paper.emulator.horizon
        plain = paper.emulator.network
        emulators: dict[str, tuple[FamilyConfig, str]] = {
            "dyffusion": (paper.emulator, "DYffusion"),
            "regression-dropout": (
                dropout(horizon, paper.dropout),
                "one network for all leads, dropout on",
            ),
        }
        if paper.frames is not None:
            first, second = (frames - 1 for frames in paper.frames)
            emulators["amortised-ddpm"] = (ddpm(first, replace(plain, time_factor=5.0)), "DDPM of a window")
            emulators["amortised-mcvd"] = (
                video_diffusion(second, replace(plain, time_factor=1000.0)),
                "video diffusion",
            )
        if system == "spring-mesh":
            emulators["dyffusion-noise"] = (
                replace(
                    paper.emulator, variable="departure", start_share=0.5, ahead="any", sampling_times=tuple(range(0, horizon, 9)),
                    interpolator=InterpolatorConfig("noise", network=plain),
                ),
                "DYffusion, interpolator with noise, a third of the passes",
            )  # fmt: skip
        for name, (emulator, what) in emulators.items():
            two = isinstance(emulator, DYffusionConfig)
            found.append(
                Recipe(
                    f"{system}/{name}-paper", f"{paper.title}, {what}: published size; needs a GPU.", emulator,
                    simulation=paper.simulation, tell_parameters=False, guard=False,
                    training=paper.training if two else replace(paper.training, steps=paper.baseline_steps),
                    evaluation=EvaluationSettings(steps=paper.forecast, members=50, validation_steps=horizon, validation_members=20),
                    published={"configuration": SOURCE, **paper.numbers},
                )
            )  # fmt: skip
    return found


def recipes() -> list[Recipe]:
    """All sizes."""
    return small_recipes() + paper_recipes()
