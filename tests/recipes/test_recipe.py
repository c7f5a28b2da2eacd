"""Recipes as text: there and back, with settings replaced, and with every mistake told in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from eddycast.emulators import ModelShape, Trainable, build_model
from eddycast.errors import InputError
from eddycast.recipes import (
    Recipe,
    all_recipes,
    get_recipe,
    read_recipe,
    recipe_from_dict,
    recipe_to_dict,
    with_overrides,
)
from eddycast.recipes.adaptation import Adaptation
from eddycast.recipes.measured import logarithms
from eddycast.simulators import Values, get_system

NAMES = sorted(all_recipes())
SIZES = {"smoke": (1e3, 6e4), "small": (3e4, 2.5e6), "paper": (4e5, 1e9)}
"""Parameters of each size: seconds, half an hour of two cores, days of a GPU."""


def shape_of(recipe) -> ModelShape:
    """Of the data that the recipe simulates; one field on a ring where it is given its data."""
    if recipe.simulation is None:
        return ModelShape(channels=1, periodic=(True,))
    info = get_system(recipe.simulation.system).info
    fields = len(info.fields)
    static = len(info.static)
    told = len(info.parameters) if recipe.tell_parameters else 0
    channels = fields if recipe.autoencoder is None else recipe.autoencoder.model.latent_channels
    return ModelShape(channels, (True,) * len(info.shape), (0.0,) * told, (1.0,) * told, static=static)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_builds_a_model_of_its_size_whose_stages_train_it(name):
    recipe = get_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape_of(recipe))
    low, high = SIZES[name.rpartition("-")[2]]
    assert low < sum(weight.numel() for weight in model.parameters()) < high
    assert isinstance(model, Trainable)
    stages = model.stages()
    assert len({stage.name for stage in stages}) == len(stages)
    assert all(stage.share > 0 and stage.frames >= 1 for stage in stages)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_can_simulate_its_data(name):
    """Its system has the parameters and settings that it names, takes values in those ranges, and has as many axes."""
    simulation = get_recipe(name).simulation
    if simulation is None:
        return
    info = get_system(simulation.system).info
    known = {one.name: one for one in (*info.parameters, *info.initial)}
    for key, value in {**simulation.parameters, **simulation.initial}.items():
        several = value.values if isinstance(value, Values) else value if isinstance(value, tuple) else (value,)
        low, high = min(several), max(several)
        assert known[key].low <= low <= high <= known[key].high
    assert simulation.grid is None or len(simulation.grid) == len(info.shape)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_survive_json_and_yaml(name):
    recipe = get_recipe(name)
    content = recipe_to_dict(recipe)
    assert recipe_from_dict(json.loads(json.dumps(content)), "here") == recipe
    assert recipe_from_dict(yaml.safe_load(yaml.safe_dump(content)), "here") == recipe
    system, _, rest = name.partition("/")
    assert system
    assert rest.startswith(f"{recipe.emulator.kind}-")
    assert recipe.description.endswith(".")


def test_a_range_of_a_parameter_survives_too():
    recipe = get_recipe("ks/regression-smoke")
    assert recipe.simulation is not None
    parameters = {"length": (22.0, 44.0), "other": 1.0}
    changed = replace(recipe, simulation=replace(recipe.simulation, parameters=parameters, grid=(48,), dt=0.5))
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(changed))), "here") == changed


def test_settings_are_replaced_at_any_depth_from_text_or_values():
    recipe = get_recipe("ks/universal-small")
    overrides = {
        "training.steps": "500",
        "training.minutes": "null",
        "training.learning_rate": 1e-2,
        "emulator.network.channels": "[8, 16]",
        "emulator.sampler": "heun",
        "simulation.parameters.length": "[22, 44]",
        "guard": "false",
    }
    changed = with_overrides(recipe, overrides)
    assert (changed.training.steps, changed.training.minutes, changed.training.learning_rate) == (500, None, 1e-2)
    assert changed.emulator.network.channels == (8, 16)
    assert changed.emulator.sampler == "heun"
    assert changed.simulation.parameters == {"length": (22.0, 44.0)}
    assert changed.guard is False
    back = {
        "training.steps": recipe.training.steps,
        "training.minutes": recipe.training.minutes,
        "training.learning_rate": recipe.training.learning_rate,
        "emulator.network.channels": list(recipe.emulator.network.channels),
        "emulator.sampler": recipe.emulator.sampler,
        "simulation.parameters": {},
        "guard": True,
    }
    assert with_overrides(changed, back) == recipe


def test_a_recipe_for_own_data_can_be_given_a_simulation():
    changed = with_overrides(get_recipe("any/regression-smoke"), {"simulation.trajectories": 12})
    assert changed.simulation.trajectories == 12


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"training.step": 5}, ["'step'", "steps", "batch_size"]),
        ({"trainig.steps": 5}, ["'trainig'", "training"]),
        ({"training.steps.more": 5}, ["training.steps", "more"]),
        ({"emulator.network.chanels": [8]}, ["'chanels'", "channels"]),
        ({"training.steps": "many"}, ["training.steps", "integer", "'many'"]),
        ({"training.steps": 2.5}, ["training.steps", "2.5"]),
        ({"training.steps": 0}, ["steps must be at least 1", "0"]),
        ({"training.optimiser": "sgd"}, ["training.optimiser", "muon", "adamw", "'sgd'"]),
        ({"training.average": 1.0}, ["average", "[0, 1)"]),
        ({"emulator.kind": "magic"}, ["regression", "scoring", "universal", "magic"]),
        ({"emulator.network.kind": "magic"}, ["emulator", "unet", "magic"]),
        ({"training": 5}, ["training", "5"]),
        ({"emulator.network.channels": "[8"}, ["emulator.network.channels", "[8"]),
    ],
)
def test_settings_that_do_not_fit_are_named_in_one_line(overrides, words):
    with pytest.raises(InputError) as caught:
        with_overrides(get_recipe("ks/universal-smoke"), overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    assert text.startswith("--set")
    assert all(word in text for word in words), text


def test_a_recipe_without_adaptation_gets_one_from_its_settings():
    changed = with_overrides(
        get_recipe("ks/regression-smoke"), {"adaptation.pretrain.domain_length": "22", "adaptation.replay": "0"}
    )
    assert changed.adaptation == Adaptation({"domain_length": 22.0}, replay=0.0)
    with pytest.raises(InputError, match=r"adaptation\.pretrain names the parameters"):
        with_overrides(get_recipe("ks/regression-smoke"), {"adaptation.replay": "0"})


def test_frames_that_cannot_hold_the_context_are_told():
    with pytest.raises(InputError, match=r"context and overlap must lie in 1 \.\.\. frames - 1 = 4"):
        with_overrides(get_recipe("ks/universal-smoke"), {"emulator.context": 5})


def test_logarithms_of_parameters_need_parameters():
    with pytest.raises(InputError, match=r"log_parameters: the data have no parameters.*log_parameters=\[\]"):
        logarithms(("beta",), (), torch.zeros(3, 0))
    with pytest.raises(InputError, match="the data have no parameter 'beta', but viscosity"):
        logarithms(("beta",), ("viscosity",), torch.ones(3, 1))


def test_unknown_recipes_get_their_nearest_neighbours():
    with pytest.raises(InputError, match="ks/universal-smoke"):
        get_recipe("ks/universl-smok")
    with pytest.raises(InputError, match="eddycast recipes"):
        get_recipe("§§§")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_holds_what_differs_from_the_defaults(tmp_path):
    text = "emulator: {kind: scoring, members: 3, network: {channels: [8, 16]}}\ntraining:\n  steps: 7\n"
    recipe = read_recipe(write(tmp_path / "mine.yaml", text))
    assert recipe.name == "mine"
    assert (recipe.emulator.kind, recipe.emulator.members, recipe.training.steps) == ("scoring", 3, 7)
    assert recipe.emulator.network.channels == (8, 16)
    assert replace(recipe.training, steps=2000) == Recipe("a", "b").training
    same = write(tmp_path / "mine.json", json.dumps(recipe_to_dict(recipe)))
    assert read_recipe(same) == recipe


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("training: {step: 7}", ["training.step", "steps"]),
        ("emulators: {}", ["'emulators'", "emulator"]),
        ("training: {steps: seven}", ["training.steps", "'seven'"]),
        ("- a\n- b", ["mapping", "list"]),
        ("a: [1", ["neither YAML nor JSON"]),
        ("", ["mapping"]),
        ("simulation: {system: ks, trajectories: 3, stps: 4}", ["simulation.stps", "steps"]),
    ],
)
def test_files_that_do_not_fit_are_named_with_the_setting(text, words, tmp_path):
    path = write(tmp_path / "mine.yaml", text)
    with pytest.raises(InputError) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in ["mine.yaml", *words]), str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.yaml"):
        read_recipe(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match=r"binary\.yaml"):
        read_recipe(tmp_path / "binary.yaml")


PUBLISHED_COUNTS = {
    "burgers/joint-paper": (3_481_769, "3.5 M"),
    "ks64/joint-paper": (43_019_689, "43.0 M"),
    "ks64/universal-paper": (43_023_145, "43.0 M"),
    "ks64/amortised-paper": (43_023_145, "43.0 M"),
    "ks64/joint-modern-paper": (55_933_385, "55.9 M"),
    "ks64/universal-modern-paper": (55_936_841, "55.9 M"),
    "kolmogorov/joint-paper": (129_857_579, "129.9 M"),
    "kolmogorov/joint-original-paper": (22_900_363, "22.9 M"),
    "kolmogorov/universal-paper": (22_917_643, "22.9 M"),
    "kolmogorov/amortised-paper": (22_917_643, "22.9 M"),
    "kolmogorov/joint-modern-paper": (156_727_563, "156.7 M"),
}
"""Exact counts of the published layers, and the figures of the published table."""


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_paper_recipes_have_the_published_number_of_parameters(name):
    recipe = get_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape_of(recipe))
    count = sum(weight.numel() for weight in model.parameters())
    exact, published = PUBLISHED_COUNTS[name]
    assert count == exact and f"{count / 1e6:.1f} M" == published


PUBLISHED_TRAINING = {
    "burgers/joint": (131_072, 32, 1e-3, None),
    "ks64/joint": (131_072, 32, 1e-3, None),
    "ks64/joint-modern": (64_000, 128, 1e-3, None),
    "ks64/universal": (480_000, 128, 1e-5, 0.9999),
    "ks64/universal-modern": (480_000, 128, 1e-5, 0.9999),
    "ks64/amortised": (480_000, 128, 1e-5, 0.9999),
    "kolmogorov/joint": (512_000, 32, 1e-3, None),
    "kolmogorov/joint-modern": (128_000, 32, 1e-3, None),
    "kolmogorov/universal": (1_280_000, 32, 1e-5, 0.9999),
    "kolmogorov/universal-modern": (1_280_000, 32, 1e-5, 0.995),
    "kolmogorov/amortised": (1_280_000, 32, 1e-5, 0.995),
}
"""Steps, windows of a step, decay of weights and of their average, which the published code applies twice per step."""


@pytest.mark.parametrize("name", PUBLISHED_TRAINING)
def test_paper_recipes_train_as_published(name):
    steps, windows, decay, average = PUBLISHED_TRAINING[name]
    settings = get_recipe(f"{name}-paper").training
    assert (settings.steps, settings.batch_size, settings.weight_decay) == (steps, windows, decay)
    assert (settings.optimiser, settings.learning_rate, settings.warmup) == ("adamw", 2e-4, 0)
    assert settings.average == (None if average is None else pytest.approx(average**2, abs=1e-4))
