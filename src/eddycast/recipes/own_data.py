"""Recipes for any data set: the user's own, or one of The Well."""

from __future__ import annotations

from eddycast.emulators import DYffusionConfig, InterpolatorConfig, RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.networks import UNetConfig
from eddycast.recipes.recipe import EvaluationSettings, Recipe, SpaceSettings
from eddycast.recipes.sizes import TITLES, smoke
from eddycast.training import TrainingSettings

NETWORK = UNetConfig(channels=(32, 64, 64), blocks=1, kernel=3)


def recipes() -> list[Recipe]:
    """Two sizes of each family, and of one for short records, for `--data`."""
    found = [record()]
    for emulator in (
        RegressionConfig(network=NETWORK),
        ScoringConfig(network=NETWORK),
        UniversalConfig(network=NETWORK),
        DYffusionConfig(
            horizon=6, interpolator=InterpolatorConfig(noise="noise", network=NETWORK), loss="crps", network=NETWORK,
            start_share=0.5, ahead="any",
        ),
    ):  # fmt: skip
        found.append(
            Recipe(
                name=f"any/{emulator.kind}-small",
                description=f"Your own data (--data), {TITLES[emulator.kind]}.",
                emulator=emulator,
                training=TrainingSettings(minutes=10.0, batch_size=16, average=0.995),
                evaluation=EvaluationSettings(steps=24),
            )
        )
    return [each for small in found for each in (small, smoke(small))]


def record() -> Recipe:
    """For tens to a few hundred states, most of whose changes are noise: yearly or monthly means of some decades.

    Such a record is learned by heart within minutes, and a later mean may lie outside of all that was seen. So the
    network is narrow where points are many, adds to the best average of five states instead of replacing it, sees departures from
    it, starts with a wide ensemble and stops after 120 steps. Steps and context were chosen on the valid blocks of two
    records of 240 years and 54 months.
    """
    return Recipe(
        name="any/scoring-record-small",
        description="Your own short record (--data; yearly or monthly means), departures from recent means, fair CRPS.",
        emulator=ScoringConfig(
            context=5,
            base="average",
            pretrain=0.0,
            gain=1.0,
            network=UNetConfig(channels=(12, 24, 64), blocks=1, kernel=3),
        ),
        space=SpaceSettings(std="pixel"),
        training=TrainingSettings(
            steps=120, batch_size=8, learning_rate=4e-3, weight_decay=0.1, average=0.98, warmup=20, validations=6
        ),
        evaluation=EvaluationSettings(
            steps=5, validation_steps=1, validation_members=16, calibrate=False
        ),  # too few states
    )
