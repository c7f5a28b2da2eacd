"""Latent diffusion of arXiv:2507.02608: autoencoders and emulators in their latents, and the same in physical space to compare with.

Systems: `euler` (multi-quadrants, periodic), `rayleigh-benard`, `turbulence` (3-D, self-gravity and cooling). One recipe serves all
compression rates: `--set emulator.latent_channels=64|16|4` of an autoencoder, `--set autoencoder.model.latent_channels=...` of an emulator
that trains its own, or `--autoencoder RUN`.

The `paper` recipes have the published sizes, masks and optimiser, with these differences: our own solvers make the data; learning rates
fall to 0 once along a cosine (published: once per epoch); autoencoders are trained by SOAP, a preconditioned optimiser of the same
family as the published PSGD (which draws random numbers of its own, so that it could not be resumed exactly). The text of the paper
says Poisson(2) contexts and forecasts only; the code says 1 + (Poisson(1) mod 4), a third of them backwards. The recipes follow the text;
`--set emulator.context_law=wrapped-poisson --set emulator.backward=0.34` the code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from eddycast.emulators import AutoencodingConfig, FamilyConfig, NeuralSolverConfig, UniversalConfig
from eddycast.networks import NetworkConfig, SpaceTimeTransformerConfig, UNetConfig
from eddycast.recipes.recipe import AutoencoderStage, EvaluationSettings, Recipe, SimulationSettings, SpaceSettings
from eddycast.recipes.sizes import SMOKE_EVALUATION, SMOKE_NETWORK, SMOKE_TRAINING, TITLES
from eddycast.training import TrainingSettings

SOURCE = "arXiv:2507.02608, its tables and code"
GAMMA: tuple[float, float] = (1.13, 1.76)

EULER = SimulationSettings(
    "euler-multi-quadrants-periodic", trajectories=320, steps=26, parameters={"gamma": GAMMA}, grid=(64, 64), dt=0.06
)
"""Every fourth of 101 states, as published."""
CONVECTION = SimulationSettings(
    "rayleigh-benard", trajectories=80, steps=60, parameters={"Rayleigh": (1e5, 1e6), "Prandtl": (0.5, 2.0)}, grid=(64, 32), dt=1.0
)  # fmt: skip
TURBULENCE = SimulationSettings("turbulence-gravity-cooling", trajectories=40, steps=20, grid=(16, 16, 16))

EULER_SPACE = SpaceSettings("field", log={"energy": 1.0, "density": 1.0, "pressure": 1.0}, vectors="shared")
CONVECTION_SPACE = SpaceSettings("field", vectors="shared")
TURBULENCE_SPACE = SpaceSettings(
    "field", log={"density": 1e-6, "pressure": 1e-6, "temperature": 1e-6}, vectors="shared"
)

LATENT_NETWORK = UNetConfig(channels=(48, 96), blocks=2)
PIXEL_NETWORK = UNetConfig(channels=(16, 32, 64, 96), blocks=1, kernel=3)
TURBULENCE_NETWORK = UNetConfig(channels=(32, 64), blocks=1, kernel=3)

AUTOENCODER = AutoencodingConfig(
    channels=(16, 32, 64, 64), blocks=1, latent_channels=16, residual_width=16, loss="vrmse"
)
AUTOENCODER_TRAINING = TrainingSettings(steps=3000, batch_size=16, learning_rate=2e-3)
EMULATOR_TRAINING = TrainingSettings(steps=8000, batch_size=16, learning_rate=2e-3)


class SystemSettings(NamedTuple):
    """What the recipes of one system share."""

    title: str
    simulation: SimulationSettings
    space: SpaceSettings
    autoencoder: AutoencodingConfig
    latent_network: NetworkConfig
    pixel_network: NetworkConfig
    steps: int  # of a forecast


SYSTEMS: dict[str, SystemSettings] = {
    "euler": SystemSettings(
        "Compressible Euler equations", EULER, EULER_SPACE, replace(AUTOENCODER, augment=("flip", "permute", "roll")),
        LATENT_NETWORK, PIXEL_NETWORK, 25,
    ),
    "rayleigh-benard": SystemSettings(
        "Rayleigh-Benard convection", CONVECTION, CONVECTION_SPACE,
        replace(AUTOENCODER, channels=(16, 32, 64), augment=("flip", "roll")), LATENT_NETWORK, PIXEL_NETWORK, 40,
    ),
    "turbulence": SystemSettings(
        "3-D turbulence with self-gravity and cooling", TURBULENCE, TURBULENCE_SPACE,
        replace(AUTOENCODER, channels=(8, 32, 64), augment=("flip", "permute", "roll")), TURBULENCE_NETWORK,
        TURBULENCE_NETWORK, 16,
    ),
}  # fmt: skip
FAMILIES: dict[str, tuple[FamilyConfig, str]] = {
    "universal": (
        UniversalConfig(unconditional=0, forecast=0, scattered=0, context_law="truncated-poisson"), TITLES["universal"]
    ),
    "neural-solver": (
        NeuralSolverConfig(context_law="truncated-poisson"), "neural solver of windows, squared error"
    ),
    "neural-solver-crps": (
        NeuralSolverConfig(score="crps", context_law="truncated-poisson"), "neural solver of windows, CRPS of an ensemble"
    ),
}  # fmt: skip
"""Both heads learn forecasts from any number of known states, by the published law; none starts from nothing."""

SMOKE_DATA: dict[str, dict[str, Any]] = {
    "euler": {"trajectories": 10, "steps": 8, "grid": (16, 16)},
    "rayleigh-benard": {"trajectories": 10, "steps": 7, "grid": (16, 16), "dt": 0.25, "parameters": {"Rayleigh": 1e4}},
    "turbulence": {"trajectories": 10, "steps": 7, "grid": (8, 8, 8)},
}
SMOKE_LATENTS: dict[str, Any] = {"channels": (4, 8), "latent_channels": 3, "residual_width": 4}


def labelled(emulator: FamilyConfig, place: str) -> str:
    """The middle of a name: kind, score where it is not the usual one, and where it works."""
    score = "-crps" if isinstance(emulator, NeuralSolverConfig) and emulator.score == "crps" else ""
    return f"{emulator.kind}{score}{place}"


def with_network(emulator: FamilyConfig, network: NetworkConfig) -> FamilyConfig:
    """The same family with another backbone."""
    return replace(emulator, network=network)  # type: ignore[call-arg]


def small_recipes() -> list[Recipe]:
    """Autoencoder, latent and pixel emulators of each system, small and smoke."""
    found = []
    for name, (title, simulation, space, autoencoder, latent, pixel, steps) in SYSTEMS.items():
        common: dict[str, Any] = {
            "simulation": simulation, "space": space, "evaluation": EvaluationSettings(steps=steps), "guard": False,
        }  # fmt: skip
        alone = Recipe(
            f"{name}/autoencoder-small", f"{title}, convolutional autoencoder.", autoencoder,
            training=AUTOENCODER_TRAINING, **common,
        )  # fmt: skip
        found += [alone, smoke(alone, name)]
        for emulator, what in FAMILIES.values():
            first = Recipe(
                f"{name}/{labelled(emulator, '-latent')}-small", f"{title}, {what}, in latent space.",
                with_network(emulator, latent), autoencoder=AutoencoderStage(autoencoder, AUTOENCODER_TRAINING),
                training=EMULATOR_TRAINING, **common,
            )  # fmt: skip
            second = Recipe(
                f"{name}/{labelled(emulator, '')}-small", f"{title}, {what}.", with_network(emulator, pixel),
                training=EMULATOR_TRAINING, **common,
            )  # fmt: skip
            found += [first, smoke(first, name), second, smoke(second, name)]
    return found


def smoke(small: Recipe, system: str) -> Recipe:
    """The same path through the code in seconds."""
    assert small.simulation is not None, "these recipes simulate"
    stage, emulator = small.autoencoder, small.emulator
    if stage is not None:
        stage = replace(stage, model=replace(stage.model, **SMOKE_LATENTS), training=SMOKE_TRAINING)
    if isinstance(emulator, AutoencodingConfig):
        emulator = replace(emulator, **SMOKE_LATENTS)
    else:
        emulator = with_network(emulator, SMOKE_NETWORK)
    return replace(
        small,
        name=f"{small.name.removesuffix('-small')}-smoke",
        description=f"{small.description[:-1]}: a few steps, to see that it runs.",
        emulator=emulator,
        autoencoder=stage,
        simulation=replace(small.simulation, **SMOKE_DATA[system]),
        training=SMOKE_TRAINING,
        evaluation=SMOKE_EVALUATION,
    )


PAPER_DATA = {
    "euler": replace(EULER, trajectories=10_000, grid=(512, 512)),
    "rayleigh-benard": replace(
        CONVECTION, trajectories=1750, steps=50, grid=(512, 128), dt=1.0, parameters={"Rayleigh": (1e6, 1e10), "Prandtl": (0.1, 10.0)}
    ),
    "turbulence": replace(TURBULENCE, trajectories=2700, steps=50, grid=(64, 64, 64)),
}  # fmt: skip
PAPER_2D = AutoencodingConfig(
    channels=(64, 128, 256, 512, 768, 1024), blocks=3, latent_channels=64, padding="zeros", dropout=0.05
)
PAPER_3D = replace(PAPER_2D, channels=(64, 256, 512, 1024))
PAPER_AUTOENCODERS = {
    "euler": replace(PAPER_2D, augment=("flip", "permute", "roll")),
    "rayleigh-benard": replace(PAPER_2D, augment=("flip", "roll")),
    "turbulence": replace(PAPER_3D, augment=("flip", "permute")),
}
PAPER_AUTOENCODER_TRAINING = TrainingSettings(
    steps=262_144, batch_size=64, optimiser="soap", learning_rate=1e-5, weight_decay=0, warmup=0, clip=1.0, average=None, validations=64,
)  # fmt: skip
PAPER_TRAINING = TrainingSettings(
    steps=262_144, batch_size=256, optimiser="adamw", learning_rate=1e-4, weight_decay=0, warmup=0, clip=1.0, average=None, validations=64,
)  # fmt: skip
PAPER_NETWORK = SpaceTimeTransformerConfig(
    patch=1, width=1024, heads=8, blocks=16, embedding=256, positions="learned", zero_start=False
)
PAPER_DIFFUSION = UniversalConfig(
    variable="state", layout="in-place-full", loss_on="all", schedule="log-logit", sampler="adams-bashforth",
    num_steps=16, sampler_options={"order": 3}, unconditional=0, forecast=0, scattered=0,
    context_law="truncated-poisson", network=PAPER_NETWORK,
)  # fmt: skip
PAPER_SOLVER = NeuralSolverConfig(
    variable="state", loss_on="all", context_law="truncated-poisson", network=replace(PAPER_NETWORK, timed=False)
)
PAPER_PIXELS = replace(PAPER_SOLVER, network=replace(PAPER_NETWORK, timed=False, patch=16, width=2048, heads=16))


def paper_recipes() -> list[Recipe]:
    """The published sizes."""
    found = []
    for name, system in SYSTEMS.items():
        title = system.title
        stage = AutoencoderStage(PAPER_AUTOENCODERS[name], PAPER_AUTOENCODER_TRAINING, copies=4)
        common: dict[str, Any] = {
            "simulation": PAPER_DATA[name], "space": system.space, "evaluation": EvaluationSettings(steps=system.steps),
            "guard": False, "tell_boundaries": True, "published": {"configuration": SOURCE},
        }  # fmt: skip
        found += [
            Recipe(
                f"{name}/autoencoder-paper", f"{title}, autoencoder: published size; needs a GPU.",
                stage.model, training=PAPER_AUTOENCODER_TRAINING, **common,
            ),
            Recipe(
                f"{name}/universal-latent-paper", f"{title}, latent diffusion: published size; needs a GPU.",
                PAPER_DIFFUSION, autoencoder=stage, training=PAPER_TRAINING, **common,
            ),
            Recipe(
                f"{name}/neural-solver-latent-paper", f"{title}, latent neural solver: published size; needs a GPU.",
                PAPER_SOLVER, autoencoder=stage, training=PAPER_TRAINING, **common,
            ),
        ]  # fmt: skip
        if name != "turbulence":
            found.append(
                Recipe(
                    f"{name}/neural-solver-paper", f"{title}, neural solver of patches of pixels: published size; needs a GPU.",
                    PAPER_PIXELS, training=PAPER_TRAINING, **common,
                )
            )  # fmt: skip
    return found


def recipes() -> list[Recipe]:
    """All sizes."""
    return small_recipes() + paper_recipes()
