"""Recipes of latent diffusion: the published sizes to the last weight, and how they are trained."""

from __future__ import annotations

import pytest
import torch

from eddycast.autoencoders import KINDS, compression
from eddycast.diffusion import AdamsBashforthSampler
from eddycast.emulators import AutoencodingConfig, ModelShape, NeuralSolverConfig, UniversalConfig, build_model
from eddycast.recipes import all_recipes, get_recipe, with_overrides

AXES = {"euler": 2, "rayleigh-benard": 2, "turbulence": 3}
FIELDS = {"euler": 5, "rayleigh-benard": 4, "turbulence": 6}
PARAMETERS = {"euler": 1, "rayleigh-benard": 2, "turbulence": 3}


def shape_of(system: str, channels: int) -> ModelShape:
    """What a network of that system is built from; parameters and boundary codes are told."""
    count = PARAMETERS[system]
    return ModelShape(channels, (True,) * AXES[system], (0.0,) * count, (1.0,) * count, boundaries=True)


def weights(name: str, channels: int, **overrides: object) -> int:
    recipe = with_overrides(get_recipe(name), overrides)
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape_of(name.partition("/")[0], channels))
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "latent", "count"),
    [
        ("euler/autoencoder-paper", 64, 313_098_629),
        ("euler/autoencoder-paper", 16, 312_213_845),
        ("euler/autoencoder-paper", 4, 311_992_649),
        ("turbulence/autoencoder-paper", 4, 737_701_194),
        ("turbulence/autoencoder-paper", 64, 741_019_014),
    ],
)
def test_autoencoders_have_the_published_number_of_parameters(name: str, latent: int, count: int) -> None:
    system = name.partition("/")[0]
    found = weights(name, FIELDS[system], **{"emulator.latent_channels": latent})
    assert found == count


@pytest.mark.parametrize(
    ("name", "channels", "count"),
    [
        ("euler/universal-latent-paper", 64, 222_888_256),
        ("euler/universal-latent-paper", 4, 222_703_876),
        ("turbulence/universal-latent-paper", 64, 223_946_048),
        ("euler/neural-solver-latent-paper", 64, 222_756_672),
        ("euler/neural-solver-paper", 5, 860_810_240),
    ],
)
def test_emulators_have_the_published_number_of_parameters(name: str, channels: int, count: int) -> None:
    """The sheet says 222.9, 222.7, 223.9, 222.8 and 860.8 million."""
    assert weights(name, channels) == count


@pytest.mark.parametrize(
    ("system", "rates"),
    [("euler", (80, 320, 1280)), ("rayleigh-benard", (64, 256, 1024)), ("turbulence", (48, 192, 768))],
)
def test_three_compression_rates_come_from_one_recipe(system: str, rates: tuple[int, ...]) -> None:
    for latent, rate in zip((64, 16, 4), rates, strict=True):
        recipe = with_overrides(get_recipe(f"{system}/autoencoder-paper"), {"emulator.latent_channels": latent})
        config = recipe.emulator
        assert isinstance(config, AutoencodingConfig)
        assert compression(FIELDS[system], config.latent_channels, config.factor, AXES[system]) == rate
        whole = with_overrides(
            get_recipe(f"{system}/universal-latent-paper"), {"autoencoder.model.latent_channels": latent}
        )
        assert whole.autoencoder is not None and whole.autoencoder.model == config


def test_small_rates_are_five_twenty_and_eighty() -> None:
    for latent, rate in ((64, 5), (16, 20), (4, 80)):
        recipe = with_overrides(get_recipe("euler/autoencoder-small"), {"emulator.latent_channels": latent})
        assert isinstance(recipe.emulator, AutoencodingConfig)
        assert compression(5, recipe.emulator.latent_channels, recipe.emulator.factor, 2) == rate


def test_emulators_are_trained_and_sampled_as_published() -> None:
    recipe = get_recipe("euler/universal-latent-paper")
    config, training = recipe.emulator, recipe.training
    assert isinstance(config, UniversalConfig) and recipe.autoencoder is not None
    assert (config.frames, config.context, config.num_steps) == (5, 1, 16)
    assert (config.variable, config.layout, config.loss_on) == ("state", "in-place-full", "all")
    assert (config.context_law, config.backward, config.unconditional) == ("truncated-poisson", 0, 0)
    assert (config.schedule, config.time_law, config.parametrisation) == ("log-logit", "uniform", "preconditioned")
    sampler = config.make_sampler()
    assert isinstance(sampler, AdamsBashforthSampler) and sampler.order == 3
    assert (training.steps, training.batch_size, training.learning_rate) == (4096 * 64, 256, 1e-4)
    assert (training.weight_decay, training.clip, training.average, training.warmup) == (0, 1.0, None, 0)
    assert recipe.autoencoder.copies == 4
    solver = get_recipe("euler/neural-solver-latent-paper").emulator
    assert isinstance(solver, NeuralSolverConfig)
    assert (solver.variable, solver.loss_on, solver.score) == ("state", "all", "squared-error")


def test_autoencoders_are_trained_as_published() -> None:
    for system, views in (
        ("euler", {"flip", "permute", "roll"}),
        ("rayleigh-benard", {"flip", "roll"}),
        ("turbulence", {"flip", "permute"}),
    ):
        recipe = get_recipe(f"{system}/autoencoder-paper")
        config, training = recipe.emulator, recipe.training
        assert isinstance(config, AutoencodingConfig)
        assert (config.blocks, config.padding, config.saturation, config.bound) == (3, "zeros", "root", 5.0)
        assert (config.loss, config.dropout, config.init) == ("vmse", 0.05, "identity")
        assert set(config.augment) == views <= set(KINDS)
        assert (training.steps, training.batch_size, training.learning_rate) == (1024 * 256, 64, 1e-5)
        assert (training.average, training.optimiser) == (None, "soap")


def test_every_system_has_both_heads_in_latents_and_with_pixels() -> None:
    names = set(all_recipes())
    for system in AXES:
        for size in ("small", "smoke"):
            assert f"{system}/autoencoder-{size}" in names
            for head in ("universal", "neural-solver", "neural-solver-crps"):
                assert {f"{system}/{head}-{size}", f"{system}/{head}-latent-{size}"} <= names
