"""One emulator for a family of dynamics: local attention, conditioning on PDE parameters, two stages (arXiv:2509.09599).

    ks-lengths   Kuramoto-Sivashinsky on domains of any length, points a fixed distance apart
    ks-viscous   the same equation with a damping coefficient, on one grid: what a point does depends on the parameter
    beta-plane   zonal-mean flow U(y, t) of stirred turbulence: random, at any beta

From the paper come the architecture, the two stages and the ratio of their learning rates, the loss and the ranges of parameters. Widths,
depths, windows, steps and the amounts of data are ours: the parts of its text that we have do not give them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from eddycast.emulators import RegressionConfig, ScoringConfig
from eddycast.networks import FNOConfig, LocalTransformerConfig
from eddycast.recipes.adaptation import Adaptation
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SimulationSettings
from eddycast.recipes.sizes import SMOKE_EVALUATION, SMOKE_TRAINING
from eddycast.simulators import Values
from eddycast.training import TrainingSettings

RATE = {"learning rate": "1/50 of pre-training in the second stage (arXiv:2509.09599)"}
PUBLISHED = {
    "tracking": "about 7 Lyapunov times at lengths that were not trained on (arXiv:2509.09599; threshold unknown)",
    **RATE,
}

LENGTHS = SimulationSettings(
    "kuramoto-sivashinsky",
    trajectories=1060,
    steps=100,
    parameters={"domain_length": Values((22.0, 36.0, 64.0, 100.0, 128.0, 200.0), (1000, 12, 12, 12, 12, 12))},
    spacing=0.5,
)
"""80 000 states at L = 22, where the emulator is pre-trained, and about one percent of that at each other length."""
VISCOUS = SimulationSettings(
    "kuramoto-sivashinsky-viscous",
    trajectories=660,
    steps=100,
    grid=(72,),
    parameters={"viscosity": Values((1.0, 0.4133, 0.6, 0.8, 1.4, 2.678), (50, 2, 2, 2, 2, 2))},
)
"""L = 36. The outer values are the domains of length 56 and 22 of the equation without coefficient."""
ZONAL = SimulationSettings(
    "beta-plane",
    trajectories=130,
    steps=240,
    parameters={"beta": Values((0.9, 0.3, 0.6, 1.2, 1.8, 2.7), (8, 1, 1, 1, 1, 1))},
    store="zonal-mean",
)
"""Sizes for CPUs; unseen values of beta lie between these, or beyond."""

SMALL = LocalTransformerConfig(window=9, width=64, heads=4, blocks=4, expansion=2.0)
LARGE = LocalTransformerConfig(window=9, width=128, heads=4, blocks=6)
NOISY = replace(SMALL, noise="latent")
TINY = LocalTransformerConfig(window=5, width=16, heads=2, blocks=2, expansion=2.0, embedding=16)
TINY_FNO = FNOConfig(modes=6, width=8, blocks=2, embedding=16)
SCORE: dict[str, Any] = {"context": 2, "noise": "network", "noise_channels": 0, "fairness": 1.0, "pretrain": 0.0}
TRAINING = TrainingSettings(steps=14_000, batch_size=16, learning_rate=4e-3, average=0.995)
"""Small batches: with local attention every point is a sample, and many steps gain more than many windows."""


def recipes() -> list[Recipe]:
    """Small and smoke; paper for the two systems of the paper, in the sizes that are known."""
    lengths = Recipe(
        "ks-lengths/regression-local-small",
        "Kuramoto-Sivashinsky on domains of any length, local attention told the length.",
        RegressionConfig(network=SMALL),
        simulation=LENGTHS,
        log_parameters=("domain_length",),
        grids="any",
        adaptation=Adaptation({"domain_length": 22.0}),
        training=TRAINING,
        published=PUBLISHED,
    )
    viscous = replace(
        lengths,
        name="ks-viscous/regression-local-small",
        description="Kuramoto-Sivashinsky with a damping coefficient, local attention told the coefficient.",
        simulation=VISCOUS,
        log_parameters=("viscosity",),
        grids="one",
        adaptation=Adaptation({"viscosity": 1.0}),
        published=RATE,
    )
    zonal = replace(
        lengths,
        name="beta-plane/scoring-local-small",
        description="Zonal-mean flow of beta-plane turbulence, local attention with a latent Gaussian, fair CRPS.",
        emulator=ScoringConfig(network=NOISY, **SCORE),
        simulation=ZONAL,
        log_parameters=("beta",),
        grids="one",
        adaptation=Adaptation({"beta": 0.9}),
        evaluation=EvaluationSettings(steps=20),
        published=RATE,
    )
    found = []
    for small in (lengths, viscous, zonal):
        untold = small.name.replace("-local", "-local-untold")
        network = FNOConfig(modes=24)
        found += [
            small,
            replace(
                small,
                name=untold,
                description=f"{small.description[:-1]}: the same without telling it.",
                tell_parameters=False,
                log_parameters=(),
            ),
        ]
        if not isinstance(small.emulator, ScoringConfig):
            found.append(
                replace(
                    small,
                    name=small.name.replace("-local", "-fno"),
                    description=small.description.replace("local attention", "Fourier neural operator"),
                    emulator=replace(small.emulator, network=network),
                )
            )
    found.append(
        replace(
            zonal,
            name="beta-plane/regression-local-small",
            description="Zonal-mean flow of beta-plane turbulence, local attention, squared error: no ensemble.",
            emulator=RegressionConfig(context=2, network=SMALL),
        )
    )
    found += [tiny(small) for small in found]
    return found + [paper(lengths), paper(zonal)]


def tiny(small: Recipe) -> Recipe:
    """The same path through the code in seconds, on data of that size."""
    assert small.simulation is not None, "recipes here simulate"
    emulator = small.emulator
    assert isinstance(emulator, RegressionConfig | ScoringConfig), "families of this page"
    wanted = getattr(emulator.network, "noise", "none")
    network = TINY_FNO if isinstance(emulator.network, FNOConfig) else replace(TINY, noise=wanted)
    (name,) = small.simulation.parameters
    values = small.simulation.parameters[name]
    assert isinstance(values, Values), "given in turn"
    few = Values(values.values[:2], (4, 4))
    size: dict[str, Any] = {"trajectories": 32, "steps": 12, "parameters": {name: few}}
    size |= {"grid": (48, 48), "dt": 50.0, "spin_up": 0.0} if name == "beta" else {"spin_up": 20.0}
    return replace(
        small,
        name=f"{small.name.removesuffix('-small')}-smoke",
        description=f"{small.description[:-1]}: a few steps, to see that it runs.",
        emulator=replace(emulator, network=network),
        simulation=replace(small.simulation, **size),
        training=SMOKE_TRAINING,
        evaluation=SMOKE_EVALUATION,
    )


def paper(small: Recipe) -> Recipe:
    """The published volume of data and ranges of parameters with a network of the size that we recommend; needs a GPU."""
    assert small.simulation is not None, "recipes here simulate"
    zonal = isinstance(small.emulator, ScoringConfig)
    if zonal:
        simulation = replace(
            small.simulation,
            trajectories=130,
            steps=2000,
            grid=(256, 256),
            dt=100.0,
            parameters={
                "beta": Values((0.9, 0.3, 0.6, 1.2, 1.8, 2.7), (8, 1, 1, 1, 1, 1)),
                "forcing_wavenumber": 16.0,
            },
        )
        emulator: Any = replace(small.emulator, network=replace(LARGE, window=17, noise="latent"))
    else:
        values = Values((22.0, 36.0, 64.0, 100.0, 128.0, 200.0), (1000, 10, 10, 10, 10, 10))
        simulation = replace(
            small.simulation, trajectories=1050, steps=500, spacing=22 / 64, parameters={"domain_length": values}
        )
        emulator = RegressionConfig(network=LARGE)
    return replace(
        small,
        name=f"{small.name.removesuffix('-small')}-paper",
        description=f"{small.description[:-1]}: the size for a GPU.",
        emulator=emulator,
        simulation=simulation,
        training=TrainingSettings(
            steps=100_000, batch_size=128, optimiser="adamw", learning_rate=5e-4, warmup=500, average=0.999
        ),
    )
