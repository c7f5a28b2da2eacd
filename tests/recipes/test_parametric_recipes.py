"""Recipes of parametric emulation: each runs, the large ones have the sizes that they claim, and two parameters are learned at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import eddycast as ec
from eddycast import api
from eddycast.data import from_arrays
from eddycast.emulators import ModelShape, build_model
from eddycast.grid import Grid, periodic_axis
from eddycast.recipes import all_recipes, get_recipe, with_overrides
from eddycast.recipes.recipe import recipe_from_dict, recipe_to_dict
from eddycast.simulators import Values
from eddycast.training import SilentObserver

SMOKE = sorted(
    name
    for name in all_recipes()
    if name.endswith("-smoke") and name.split("/")[0] in ("ks-lengths", "ks-viscous", "beta-plane")
)


@pytest.mark.parametrize("name", SMOKE)
def test_every_smoke_recipe_simulates_trains_both_stages_and_forecasts(name, tmp_path):
    trained = ec.train(name, out=tmp_path / "run", observer=SilentObserver())
    assert trained.run is not None
    recipe = trained.run.recipe
    assert recipe.adaptation is not None
    assert recipe.simulation is not None
    simulation = recipe.simulation
    (parameter,) = simulation.parameters
    unseen = {"ks-lengths": 30.0, "ks-viscous": 0.9, "beta-plane": 0.7}[name.split("/")[0]]
    data = api.simulate(
        simulation.system, trajectories=3, steps=4, grid=simulation.grid, spacing=simulation.spacing, spin_up=simulation.spin_up,
        dt=simulation.dt, store=simulation.store, parameters={parameter: unseen},
    )  # fmt: skip
    forecast = trained.forecast(data.initial("test", start=1), steps=2, members=2)
    values = forecast.to_array().values
    assert np.isfinite(values).all()
    spread = np.ptp(values, axis=2).max()
    assert (spread > 0) == ("scoring" in name)


@pytest.mark.parametrize(
    ("name", "count"), [("ks-lengths/regression-local-paper", 1_391_193), ("beta-plane/scoring-local-paper", 1_424_793)]
)
def test_sizes_for_a_gpu(name, count):
    """N (12 C^2 + 9 C + h K + 4 C (H + 1)) + stem, head, MLP of the scalars, and the latent's two maps; C = 128, h = 4, N = 6, H = 64."""
    recipe = get_recipe(name)
    zonal = name.startswith("beta")
    width, heads, blocks, hidden, window = 128, 4, 6, 64, 17 if zonal else 9
    scalars, frames = (1 + 5, 2) if zonal else (1 + 1, 1)
    block = 12 * width**2 + 9 * width + heads * window + 4 * width * (hidden + 1)
    rest = (
        (frames + 1) * width
        + (width + 1)
        + (scalars + 1) * hidden
        + (hidden + 1) * hidden
        + zonal * 2 * (width**2 + width)
    )
    shape = ModelShape(1, (True,), (0.0,) * (scalars - 1), (1.0,) * (scalars - 1))
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == blocks * block + rest == count


def test_settings_with_values_survive_json():
    for name in SMOKE:
        recipe = get_recipe(name)
        assert recipe_from_dict(recipe_to_dict(recipe), "there") == recipe


def test_two_parameters_condition_one_network(tmp_path):
    """u -> a roll(u, 1) + b u with a and b of each trajectory: unseen pairs, a corner of the box among them, are told apart.

    A network without conditioning cannot do better than the mean a and b.
    """
    generator = torch.Generator().manual_seed(0)
    pairs = torch.tensor([[a, b] for a in (0.2, 0.5, 0.8) for b in (-0.6, -0.2, 0.2)])
    corner = torch.tensor([[0.8, 0.2]])
    train, test = pairs[:-1].repeat(12, 1), torch.cat([corner, torch.tensor([[0.35, 0.0]])]).repeat(4, 1)

    def data(parameters, fractions):
        states = [torch.randn(len(parameters), 1, 16, generator=generator)]
        for _ in range(5):
            states.append(parameters[:, :1, None] * states[-1].roll(1, -1) + parameters[:, 1:, None] * states[-1])
        grid = Grid((periodic_axis("x", 16, 16.0),))
        return from_arrays(
            torch.stack(states, 1),
            fields=["u"],
            grid=grid,
            dt=1.0,
            parameters=parameters,
            parameter_names=["a", "b"],
            fractions=fractions,
        )

    settings = {
        "emulator.network.kind": "transformer-local", "emulator.network.window": 3, "emulator.network.width": 32,
        "emulator.network.heads": 4, "emulator.network.blocks": 2, "training.steps": 500, "training.batch_size": 32,
        "training.warmup": 20, "guard": False, "training.learning_rate": 5e-3,
    }  # fmt: skip
    errors = {}
    for told in (True, False):
        recipe = with_overrides(get_recipe("any/regression-smoke"), settings | {"tell_parameters": told})
        with_data = data(train, (0.9, 0.05, 0.05))
        trained = api.train(recipe, data=with_data, out=tmp_path / str(told), observer=SilentObserver())
        far = data(test, (0, 0, 1))
        made = trained.forecast(far.initial("test"), steps=1, members=1)["u"].values[:, 0, 0]
        truth = torch.stack([far.read(number, 1, 2)[0, 0] for number in range(len(test))]).numpy()
        errors[told] = np.sqrt(((made - truth) ** 2).mean() / (truth**2).mean())
    assert errors[True] < 0.25
    assert errors[True] < 0.5 * errors[False]


def test_values_need_no_order():
    assert Values((3.0, 1.0)).column(torch.arange(3)).tolist() == [3, 1, 3]
