"""Recipes of DYffusion: the published sizes to the last weight, and every emulator of every system once from data to scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eddycast import api
from eddycast.emulators import DYffusionConfig, ModelShape, build_model
from eddycast.errors import InputError
from eddycast.recipes import get_recipe, with_overrides
from eddycast.recipes.dyffusion import CASES, families
from eddycast.simulators import get_system
from eddycast.training import SilentObserver


def weights(name: str) -> dict[str, int]:
    """Weights of each network of a recipe."""
    recipe = get_recipe(name)
    assert recipe.simulation is not None
    info = get_system(recipe.simulation.system).info
    shape = ModelShape(len(info.fields), (False,) * len(info.shape), static=len(info.static))
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape)
    return {part: sum(weight.numel() for weight in one.parameters()) for part, one in model.named_children()}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("spring-mesh/dyffusion-paper", {"interpolator": 478_532, "forecaster": 478_532}),
        ("spring-mesh/regression-dropout-paper", {"network": 457_796}),
        ("channel-obstacles/dyffusion-paper", {"interpolator": 10_273_411, "forecaster": 10_273_219}),
        ("channel-obstacles/regression-dropout-paper", {"network": 10_273_219}),
        ("sea-surface/dyffusion-paper", {"interpolator": 9_480_385, "forecaster": 9_480_385}),
        ("sea-surface/regression-dropout-paper", {"network": 9_477_249}),
    ],
)
def test_published_networks_have_the_published_number_of_weights(name, count):
    """0.479 and 0.458, 10.27 and 9.48 million."""
    assert weights(name) == count


@pytest.mark.parametrize(
    ("name", "steps", "horizon"),
    [("spring-mesh/dyffusion-paper", 134, 134), ("channel-obstacles/dyffusion-paper", 16, 16), ("sea-surface/dyffusion-paper", 32, 7)],
)  # fmt: skip
def test_published_schedules(name, steps, horizon):
    config = get_recipe(name).emulator
    assert isinstance(config, DYffusionConfig)
    assert (len(config.visited), config.horizon, config.visited[-1]) == (steps, horizon, horizon - 1)


def test_ours_at_the_size_of_the_mesh_takes_less_than_a_third_of_the_passes():
    def passes(name: str) -> int:
        config = get_recipe(name).emulator
        assert isinstance(config, DYffusionConfig)
        stood = len(config.visited)
        return stood + 2 * stood - 3 + config.horizon - 1

    assert passes("spring-mesh/dyffusion-paper") == 532
    assert passes("spring-mesh/dyffusion-noise-paper") == 175 < 532 / 3


ONE_OF_EACH = [f"sine-wave/{name}-smoke" for name in families(CASES["sine-wave"])]


@pytest.mark.parametrize(
    "name", [*ONE_OF_EACH, *(f"{system}/dyffusion-smoke" for system in CASES if system != "sine-wave")]
)
def test_smoke_recipes_go_from_data_to_scores(name, tmp_path):
    recipe = get_recipe(name)
    assert recipe.simulation is not None
    data = api.simulate(
        recipe.simulation.system, trajectories=10, steps=recipe.simulation.steps, grid=recipe.simulation.grid,
        dt=recipe.simulation.dt, seed=1,
    )  # fmt: skip
    run = api.train(name, data=data, out=tmp_path / "run", observer=SilentObserver())
    forecast = run.forecast(data.initial("test", start=0, leads=1), steps=3, members=3, seed=0)
    assert np.isfinite(forecast.to_array().values).all()
    again = api.load(tmp_path / "run").forecast(data.initial("test", start=0, leads=1), steps=3, members=3, seed=0)
    assert np.array_equal(forecast.to_array().values, again.to_array().values)
    scores = api.evaluate(forecast, truth=data)
    assert all(math.isfinite(scores.value("crps", field)) for field in scores.fields)


def test_a_run_whose_forecaster_is_untrained_does_not_forecast(tmp_path):
    """`--stage interpolator` leaves half of an emulator; the second stage from its weights makes it whole."""
    data = api.simulate("lorenz-63", trajectories=8, steps=40, seed=0)
    chosen = with_overrides(get_recipe("lorenz-63/dyffusion-smoke"), {"training.steps": 2, "boundary": "none"})
    half = api.train(chosen, data=data, out=tmp_path / "half", stage="interpolator", observer=SilentObserver())
    with pytest.raises(InputError, match=r"The forecaster of .*half is not trained yet: `eddycast train"):
        half.forecast(data.initial("test"), steps=2, members=1)
    whole = api.train(
        chosen, data=data, out=tmp_path / "whole", stage="forecaster", init=tmp_path / "half", observer=SilentObserver()
    )
    whole.forecast(data.initial("test"), steps=2, members=1)
    alone = api.train(chosen, data=data, out=tmp_path / "alone", stage="forecaster", observer=SilentObserver())
    with pytest.raises(InputError, match=r"The interpolator of .*alone is not trained yet"):
        alone.forecast(data.initial("test"), steps=2, members=1)
