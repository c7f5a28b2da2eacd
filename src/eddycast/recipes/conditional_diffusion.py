"""Conditional diffusion of arXiv:2410.16415 at the published sizes, on Kuramoto-Sivashinsky (`ks64`), Kolmogorov flow and Burgers.

The `paper` recipes need a GPU. Their figures are those of the published configurations, with these differences: our own solvers make
the data; one pass over the windows is not counted as an epoch (published: 4096 windows drawn with replacement), so steps are given;
published weights are averaged twice per step, hence decays squared; learning rates fall to 0 along a cosine. The published amortised
models see the noise of all frames, known ones included (`loss_on: all`), and one C for a whole batch (`shared_mask`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eddycast.emulators import (
    AmortisedConfig,
    FamilyConfig,
    JointConfig,
    RefinerConfig,
    RegressionConfig,
    UniversalConfig,
)
from eddycast.networks import FNOConfig, ModernUNetConfig, NetworkConfig, SDAUNetConfig, UNetConfig
from eddycast.recipes.kuramoto_sivashinsky import LONG_SIMULATION, NETWORK, SIMULATION
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.recipes.sizes import TITLES, smoke
from eddycast.training import TrainingSettings

KOLMOGOROV = SimulationSettings(
    "kolmogorov-flow", trajectories=1024, steps=64, parameters={"viscosity": 1e-3, "drag": 0.1}, grid=(64, 64), dt=0.2, spin_up=12.8,
    solver_grid=(256, 256), initial={"peak_wavenumber": 4, "max_velocity": 3},
)  # fmt: skip
KOLMOGOROV_SMALL = replace(
    KOLMOGOROV, trajectories=96, parameters={"viscosity": 5e-3, "drag": 0.1}, grid=(32, 32), solver_grid=(64, 64)
)
"""A viscosity that 64 x 64 points resolve, of which 32 x 32 are kept, so that a laptop can make the data and train on them."""
KS64 = replace(LONG_SIMULATION, evaluation_steps=640, initial={"sines": 10, "modes": 2})
BURGERS = SimulationSettings("burgers", trajectories=1280, steps=101, grid=(128,), dt=0.01)

KS_NET = SDAUNetConfig()
KS_MODERN = ModernUNetConfig(wrap_transposed=False)
KOLMOGOROV_NET = SDAUNetConfig(channels=(96, 192, 384), embedding=64, spare_outputs=1)
KOLMOGOROV_LARGE = SDAUNetConfig(channels=(128, 128, 256, 1024), spare_outputs=1)
KOLMOGOROV_MODERN = ModernUNetConfig(
    hidden=128,
    multipliers=(1, 1, 2, 4),
    first_factor=2,
    spare_outputs=1,
    wrap_transposed=False,
)
BURGERS_NET = SDAUNetConfig(channels=(64, 128, 256))
SMALL_2D = UNetConfig(channels=(16, 32, 64), blocks=1, kernel=3)
SMALL_1D = UNetConfig(channels=(32, 64, 64), blocks=1)

PUBLISHED: dict[str, Any] = {
    "schedule": "cosine-pdediff", "parametrisation": "noise", "sampler": "ddim", "grid": "linear",
}  # fmt: skip
"""DPM-Solver++ of order 1 is DDIM."""
INPUT: dict[str, Any] = {"variable": "state", "layout": "beside", "loss_on": "all", "num_steps": 16}
SOURCE = "arXiv:2410.16415 and its configurations"


def joint(frames: int, context: int, network: NetworkConfig, gamma: float = 0.1) -> JointConfig:
    """The published joint model, 128 steps."""
    return JointConfig(
        frames=frames, context=context, overlap=context, network=network, num_steps=128, gamma=gamma, **PUBLISHED
    )


def universal(frames: int, context: int, network: NetworkConfig) -> UniversalConfig:
    """The published universal model: C uniform in 0 ... W - 1, one for a batch."""
    return UniversalConfig(
        frames=frames, context=context, overlap=context, network=network, unconditional=1 / frames, forecast=0.0,
        scattered=0.0, shared_mask=True, **PUBLISHED, **INPUT,
    )  # fmt: skip


def amortised(frames: int, context: int, network: NetworkConfig) -> AmortisedConfig:
    """The published plain amortised model."""
    return AmortisedConfig(frames=frames, context=context, overlap=context, network=network, **PUBLISHED, **INPUT)


def training(steps: int, batch_size: int, average: float | None, weight_decay: float = 1e-5) -> TrainingSettings:
    """AdamW at 2e-4 without clipping, as published."""
    return TrainingSettings(
        steps=steps, batch_size=batch_size, optimiser="adamw", learning_rate=2e-4, weight_decay=weight_decay, warmup=0,
        clip=1e9, average=average, validations=20,
    )  # fmt: skip


JOINT_KS = training(131_072, 32, None, 1e-3)
JOINT_KS_MODERN = training(64_000, 128, None, 1e-3)
INPUT_KS = training(480_000, 128, 0.9998)
JOINT_KOLMOGOROV = training(512_000, 32, None, 1e-3)
INPUT_KOLMOGOROV = training(1_280_000, 32, 0.9998)

PAPER = (
    ("ks64/joint", "SDA U-Net", KS64, joint(9, 8, KS_NET), JOINT_KS, 640),
    ("ks64/joint-modern", "modern U-Net", KS64, joint(9, 8, KS_MODERN, 0.6), JOINT_KS_MODERN, 640),
    ("ks64/universal", "SDA U-Net", KS64, universal(9, 1, KS_NET), INPUT_KS, 640),
    ("ks64/universal-modern", "modern U-Net", KS64, universal(9, 1, KS_MODERN), INPUT_KS, 640),
    ("ks64/amortised", "SDA U-Net", KS64, amortised(9, 1, KS_NET), INPUT_KS, 640),
    ("kolmogorov/joint", "the larger SDA U-Net", KOLMOGOROV, joint(5, 4, KOLMOGOROV_LARGE), JOINT_KOLMOGOROV, 63),
    ("kolmogorov/joint-original", "SDA U-Net", KOLMOGOROV, joint(5, 4, KOLMOGOROV_NET), JOINT_KOLMOGOROV, 63),
    ("kolmogorov/joint-modern", "modern U-Net", KOLMOGOROV, joint(5, 4, KOLMOGOROV_MODERN),
     training(128_000, 32, None, 1e-3), 63),
    ("kolmogorov/universal", "SDA U-Net", KOLMOGOROV, universal(5, 1, KOLMOGOROV_NET), INPUT_KOLMOGOROV, 63),
    ("kolmogorov/universal-modern", "modern U-Net", KOLMOGOROV, universal(5, 1, KOLMOGOROV_MODERN),
     training(1_280_000, 32, 0.99), 63),
    ("kolmogorov/amortised", "SDA U-Net", KOLMOGOROV, amortised(5, 1, KOLMOGOROV_NET),
     training(1_280_000, 32, 0.99), 63),
    ("burgers/joint", "SDA U-Net", BURGERS, joint(9, 8, BURGERS_NET), JOINT_KS, 100),
    ("burgers/universal", "SDA U-Net", BURGERS, universal(9, 1, BURGERS_NET), INPUT_KS, 100),
)  # fmt: skip
"""Name, backbone, data, model, training, steps of a forecast."""
SYSTEM_TITLES = {
    "ks64": "Kuramoto-Sivashinsky at L = 64", "kolmogorov": "Kolmogorov flow", "burgers": "Burgers' equation",
}  # fmt: skip

ACDM = JointConfig(
    frames=3, context=2, overlap=2, conditioning="replacement", schedule="linear", num_steps=20, sampler="ancestral"
)
"""Autoregressive conditional diffusion, arXiv:2309.01745: two known states, noised; 20 steps.

Not as published: known states get fresh noise in each step (there one draw), the loss is the squared error (there smooth L1), the network
ours.
"""


def small_emulators(network: NetworkConfig) -> dict[str, tuple[FamilyConfig, str]]:
    """Emulator and title of each small recipe of a system, by the word in its name."""
    configs = (
        UniversalConfig(network=network),
        JointConfig(network=network, num_steps=32),
        RegressionConfig(network=network),
    )
    return {config.kind: (config, TITLES[config.kind]) for config in configs}


def recipes() -> list[Recipe]:
    """The published sizes, and small and smoke sizes of what `ks` and `ks64` do not have."""
    found = []
    for name, backbone, simulation, emulator, settings, steps in PAPER:
        system = SYSTEM_TITLES[name.partition("/")[0]]
        found.append(
            Recipe(
                f"{name}-paper", f"{system}, {TITLES[emulator.kind]}: published size, {backbone}; needs a GPU.", emulator,
                simulation=simulation, tell_parameters=False, guard=False, training=settings,
                evaluation=EvaluationSettings(steps=steps, members=16), published={"configuration": SOURCE},
            )
        )  # fmt: skip
    for name, title, simulation, emulators in (
        ("ks", "Kuramoto-Sivashinsky", SIMULATION, SMALL_KS),
        ("kolmogorov", "Kolmogorov flow", KOLMOGOROV_SMALL, small_emulators(SMALL_2D)),
        ("burgers", "Burgers' equation", BURGERS, small_emulators(SMALL_1D)),
    ):
        for label, (emulator, what) in emulators.items():
            small = Recipe(
                f"{name}/{label}-small", f"{title}, {what}.", emulator, simulation=simulation, tell_parameters=False,
                training=TrainingSettings(steps=6000, batch_size=16 if name == "kolmogorov" else 32, learning_rate=5e-3),
                evaluation=EvaluationSettings(steps=60),
            )  # fmt: skip
            found += [small, smoke(small, replace(simulation, trajectories=20, steps=24, **SMOKE.get(name, {})))]
    return found


SMOKE: dict[str, dict[str, Any]] = {
    "kolmogorov": {
        "grid": (16, 16),
        "solver_grid": None,
        "parameters": {"viscosity": 2e-2, "drag": 0.1},
        "spin_up": 2.0,
    }
}
SMALL_KS: dict[str, tuple[FamilyConfig, str]] = {
    "joint-acdm": (replace(ACDM, network=NETWORK), "autoregressive diffusion whose known states are noised (ACDM)"),
    "regression-fno": (
        RegressionConfig(network=FNOConfig()),
        "deterministic Fourier neural operator, mean squared error",
    ),
    "refiner": (RefinerConfig(network=NETWORK), TITLES["refiner"]),
}
