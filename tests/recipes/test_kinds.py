"""Settings that `kind` chooses: other networks and families by override and from files, with one-line errors that name the place."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from eddycast.emulators import RegressionConfig, ScoringConfig, UniversalConfig
from eddycast.errors import InputError
from eddycast.networks import FNOConfig, TransformerConfig, UNetConfig
from eddycast.recipes import get_recipe, read_recipe, recipe_from_dict, recipe_to_dict, with_overrides

SMOKE = get_recipe("ks/universal-smoke")
SMALL_NETWORK = SMOKE.emulator.network


@pytest.mark.parametrize(
    "network", [TransformerConfig(patch=(2,), width=32), FNOConfig(modes=(3, 4)), FNOConfig(), UNetConfig()]
)
@pytest.mark.parametrize("family", [RegressionConfig, ScoringConfig, UniversalConfig])
def test_every_network_of_every_family_survives_text(network, family):
    content = recipe_to_dict(SMOKE)
    recipe = recipe_from_dict(recipe_to_dict(with_overrides(SMOKE, {"emulator": {"kind": family.kind}})), "here")
    assert recipe.emulator == family()
    content["emulator"] = {"kind": family.kind, "network": {**vars(network)}}
    recipe = recipe_from_dict(content, "here")
    assert recipe.emulator == family(network=network)
    assert recipe_from_dict(recipe_to_dict(recipe), "here") == recipe


def test_another_network_starts_from_its_defaults():
    """What the old one had, `blocks=1` or `embedding=16`, means something else in the new one."""
    changed = with_overrides(SMOKE, {"emulator.network.kind": "transformer"})
    assert changed.emulator.network == TransformerConfig()
    assert UNetConfig() != SMALL_NETWORK and changed.emulator.frames == SMOKE.emulator.frames
    assert with_overrides(changed, {"emulator.network.kind": "unet"}).emulator.network == UNetConfig()


def test_the_same_kind_changes_nothing():
    assert with_overrides(SMOKE, {"emulator.network.kind": "unet"}) == SMOKE


def test_another_family_starts_from_its_defaults_and_keeps_the_network():
    changed = with_overrides(SMOKE, {"emulator.kind": "scoring"})
    assert changed.emulator == ScoringConfig(network=SMALL_NETWORK)
    assert changed.training == SMOKE.training


def test_the_order_of_overrides_does_not_matter():
    settings = {
        "emulator.kind": "scoring",
        "emulator.network.kind": "fno",
        "emulator.network.modes": "[5]",
        "emulator.members": "3",
    }
    expected = ScoringConfig(members=3, network=FNOConfig(modes=(5,)))
    for order in permutations(settings):
        assert with_overrides(SMOKE, {key: settings[key] for key in order}).emulator == expected


def test_a_parameter_of_a_system_may_be_called_kind():
    changed = with_overrides(SMOKE, {"simulation.parameters.kind": "2.0"})
    assert changed.simulation is not None and changed.simulation.parameters == {"kind": 2.0}


def test_a_whole_mapping_may_be_given():
    assert with_overrides(SMOKE, {"emulator.network": "{kind: fno, width: 8}"}).emulator.network == FNOConfig(width=8)
    assert with_overrides(SMOKE, {"emulator.network": "{channels: [4]}"}).emulator.network == UNetConfig(channels=(4,))
    assert with_overrides(SMOKE, {"emulator.network": FNOConfig(width=8)}).emulator.network == FNOConfig(width=8)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"emulator.network.kind": "magic"}, ["emulator.network.kind", "unet, transformer, fno", "'magic'"]),
        ({"emulator.network.kind": "[1]"}, ["emulator.network.kind", "unet, transformer, fno", "[1]"]),
        ({"emulator.network.kind": "null"}, ["emulator.network.kind", "None"]),
        ({"emulator.network.kind": "fno", "emulator.network.channels": "[8]"}, ["'channels'", "modes", "width"]),
        ({"emulator.network": "{kind: fno, widht: 8}"}, ["emulator.network.widht", "width"]),
        ({"emulator.network": "{kind: fno, channels: [8]}"}, ["emulator.network.channels", "modes"]),
        ({"emulator.network": "5"}, ["emulator.network", "{kind: unet}", "got 5"]),
        ({"emulator.network": "null"}, ["emulator.network", "None"]),
        ({"emulator.network.kind": "fno", "emulator.network.modes": "many"}, ["emulator.network.modes:", "'many'"]),
        ({"emulator.network.kind": "fno", "emulator.network.modes": "-1"}, ["emulator.network", "modes", "-1"]),
        ({"emulator.network.channels": "[8, a]"}, ["emulator.network.channels.1:", "'a'"]),
        (
            {"emulator.network.kind": "transformer", "emulator.network.attention": "local"},
            ["emulator.network.attention:", "full", "axial", "'local'"],
        ),
        ({"emulator.network.kind": "transformer", "emulator.network.width": "30"}, ["multiple of 2 heads = 8, got 30"]),
        ({"emulator.kind": "magic"}, ["emulator", "regression", "magic"]),
        ({"emulator.frames": "x"}, ["emulator.frames:", "'x'"]),
    ],
)
def test_errors_name_the_place_in_one_line_and_speak_of_one_network(overrides, words):
    with pytest.raises(InputError) as caught:
        with_overrides(SMOKE, overrides)
    text = str(caught.value)
    assert text.startswith("--set") and "\n" not in text and len(text) < 250
    assert all(word in text for word in words), text
    assert "Config" not in text, "names of classes are ours, not the user's"


def test_a_file_may_name_a_network(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("emulator: {kind: regression, network: {kind: transformer, patch: [2, 4], width: 64}}\n")
    assert read_recipe(path).emulator == RegressionConfig(network=TransformerConfig(patch=(2, 4), width=64))
    path.write_text("emulator: {kind: regression, network: {kind: transformer, channels: [2, 4]}}\n")
    with pytest.raises(InputError, match=r"mine\.yaml: unknown setting 'emulator\.network\.channels'.*patch"):
        read_recipe(path)
