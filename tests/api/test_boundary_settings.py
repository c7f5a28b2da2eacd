"""Boundary values as a user meets them: declared by a system, held by a field of one's own data, in runs, baselines and analyses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from eddycast import api
from eddycast.data import from_arrays
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.observations import Observations
from eddycast.recipes import HeldValues, get_recipe, recipe_from_dict, recipe_to_dict, with_overrides

SMALL = {"training.steps": 2, "training.batch_size": 4, "evaluation.validation_cases": 1}
WALLS = Grid(tuple(Axis(name, tuple(float(node) for node in range(8)), ("wall", "wall")) for name in "xy"))


@pytest.fixture(scope="module")
def mesh():
    return api.simulate("spring-mesh", trajectories=6, steps=8, grid=(4, 5), split=(3, 1, 2), seed=0)


@pytest.fixture(scope="module")
def mesh_run(mesh, tmp_path_factory):
    return api.train("any/scoring-smoke", data=mesh, out=tmp_path_factory.mktemp("mesh") / "run", overrides=SMALL)


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Noise of two fields; where a mask of each trajectory says so it does not change."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(8, 1, 8, 8, generator=generator) < 0.3).float()
    states = torch.randn(8, 9, 2, 8, 8, generator=generator)
    states = torch.where(mask[:, None] > 0.5, states[:, :1], states)
    place = tmp_path_factory.mktemp("own") / "own.npz"
    np.savez(place, states=states.numpy(), static=mask.numpy() > 0.5, static_names=["held"], fields=["u", "v"])
    return api.open_dataset(place, fractions=(0.5, 0.2, 0.3), space_dims=2), mask


@pytest.fixture(scope="module")
def own_run(own, tmp_path_factory):
    settings = {**SMALL, "boundary": "{held: held}"}
    return api.train("any/scoring-smoke", data=own[0], out=tmp_path_factory.mktemp("held") / "run", overrides=settings)


def members(forecast) -> torch.Tensor:
    """(init, member, lead, channel, *space)."""
    return torch.from_numpy(forecast.to_array().values).movedim(0, 3)


def kept(forecast, start: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether states are the first ones (init, channel, *space) bit by bit where the mask (init, *space) says so."""
    states = members(forecast)
    held = mask[:, None, None, None].expand(states.shape) > 0.5
    return torch.equal(states[held], start[:, None, None].expand(states.shape)[held])


@pytest.mark.parametrize("name", ["run", "baseline:persistence", "baseline:climatology", "system:spring-mesh"])
def test_fixed_particles_stay_in_every_member_of_every_forecaster(name, mesh, mesh_run):
    forecaster = mesh_run if name == "run" else api.load(name)
    initial = mesh.initial("test", start=[0, 2]).resolved(1)
    start = initial.context(1)[:, 0]
    fixed = mesh.static[0].expand(len(start), 4, 5)
    forecast = forecaster.forecast(
        initial, steps=5, members=5, seed=1, overrides={"chunk": 3} if name == "run" else None
    )
    assert kept(forecast, start, fixed) and members(forecast).isfinite().all()
    if name == "run":  # archived states have their boundary values already
        free = forecaster.forecast(initial, steps=5, members=5, seed=1, overrides={"boundary": "none"})
        assert members(free)[:, :, :, :2, :, -1].abs().max() > 0 and not kept(free, start, fixed)


def test_a_run_remembers_its_boundary_and_may_be_told_another(own, own_run):
    data, mask = own
    config = json.loads((own_run.path / "config.json").read_text())
    assert config["recipe"]["boundary"] == {"held": "held", "fields": []}
    assert config["data"]["static_names"] == ["held"] and config["data"]["static_varies"]
    assert not (own_run.path / "components/static.safetensors").exists()
    run = api.load(own_run.path)
    initial = data.initial("test", start=[0, 3]).resolved(1)
    own_masks = mask[initial.trajectories, 0]
    assert len(own_masks.unique(dim=0)) == len(initial) // 2 == 2, "two trajectories, each with its own mask"
    start, options = initial.context(1)[:, 0], {"steps": 4, "members": 4}
    assert kept(run.forecast(initial, **options), start, own_masks)
    assert not kept(run.forecast(initial, overrides={"boundary": "none"}, **options), start, own_masks)
    only = run.forecast(initial, overrides={"boundary": "{held: held, fields: [v]}"}, **options)
    assert not kept(only[["u"]], start[:, :1], own_masks) and kept(only[["v"]], start[:, 1:], own_masks)
    baseline = api.load("baseline:climatology").forecast(initial, overrides={"boundary": {"held": "held"}}, **options)
    assert kept(baseline, start, own_masks)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("{held: wall}", "there is no static field 'wall' to hold points by; the data have held"),
        ("{held: held, fields: [w]}", "there is no field 'w' to hold; the data have u, v"),
        ("everywhere", "boundary must be system, none, or"),
        ("{keep: held}", "boundary must be system, none, or"),
    ],
)
def test_a_boundary_that_cannot_be_is_one_line(own, own_run, setting, words):
    with pytest.raises(InputError, match=words) as caught:
        own_run.forecast(own[0].initial("test"), steps=1, members=1, overrides={"boundary": setting})
    assert "\n" not in str(caught.value)


def test_recipes_take_and_keep_a_boundary():
    recipe = get_recipe("any/scoring-smoke")
    assert recipe.boundary == "system"
    held = with_overrides(recipe, {"boundary": "{held: fixed, fields: [u]}"})
    assert held.boundary == HeldValues("fixed", ("u",))
    assert recipe_from_dict(recipe_to_dict(held), "here") == held
    assert with_overrides(held, {"boundary": "none"}).boundary == "none"
    with pytest.raises(InputError, match="boundary"):
        with_overrides(recipe, {"boundary": "sytem"})


def test_boundary_values_of_a_system_need_its_fields(mesh, mesh_run):
    bare = replace(mesh, static=None, static_names=())
    with pytest.raises(
        InputError, match=r"boundary values of spring-mesh need the static field 'fixed'.*boundary=none"
    ):
        api.load("baseline:persistence").forecast(bare.initial("test"), steps=1, members=1)
    with pytest.raises(InputError, match="trained with 1 static fields; the data have 0"):
        mesh_run.forecast(bare.initial("test"), steps=1, members=1)


@pytest.mark.parametrize("suffix", [".nc", ".csv"])
def test_an_analysis_has_the_masks_of_the_observed_trajectories(own, own_run, tmp_path, suffix):
    """Observed fields travel in NetCDF; a table has no place for them, and is refused in one line."""
    data, mask = own
    path = tmp_path / f"observations{suffix}"
    made = api.observe(data, split="test", fraction=0.5, steps=4, seed=0, out=path)
    assert torch.equal(made.static, mask[made.trajectories]) and made.static_varies
    again = Observations.open(path)
    if suffix == ".csv":
        with pytest.raises(
            InputError, match=r"static fields of each trajectory \(held\), the observations carry none"
        ) as caught:
            own_run.assimilate(again, method="etkf", members=4)
        assert "\n" not in str(caught.value)
        return
    assert torch.equal(again.static, made.static) and again.static_names == ("held",)
    chosen = again.select(torch.tensor([1, 0]))
    assert torch.equal(chosen.conditions().static_fields(), mask[chosen.trajectories])
    for mode in ({"mode": "smooth"}, {"mode": "filter"}, {"mode": "online", "block": 2, "forecast": 3}):
        analysis = own_run.assimilate(again, method="etkf", members=6, **mode)
        states = members(analysis)
        held = mask[torch.from_numpy(analysis["trajectory"].values), 0][:, None, None, None].expand(states.shape) > 0.5
        assert torch.equal(states[held], states[:, :, :1].expand(states.shape)[held]), mode
    free = own_run.assimilate(again, method="etkf", members=6, overrides={"boundary": "none"})
    assert members(free)[:, :, 1:].isfinite().all()


def test_guidance_keeps_boundary_values_from_window_to_window(mesh, tmp_path):
    run = api.train("any/universal-smoke", data=mesh, out=tmp_path / "run", overrides=SMALL)
    made = api.observe(mesh, split="test", fraction=0.5, steps=6, complete=1, seed=0)
    assert made.static_names == ("fixed",) and not made.static_varies
    states = members(
        run.assimilate(made, members=3, overrides={"num_steps": 2, "rollout": "autoregressive", "given": 1})
    )
    start = mesh.initial("test", start=0).resolved(1).context(1)[:, 0]
    still, place = states[:, :, :, :2, :, -1], states[:, :, :, 2:, :, -1]
    assert not still.any()
    assert torch.allclose(place, place[:, :, :1].expand_as(place), rtol=0, atol=0)
    assert (place[:, :, 0] - start[:, None, 2:, :, -1]).abs().max() < 0.5, "observed with an error"


def test_the_clock_of_a_driven_system_begins_at_the_start_of_the_run(tmp_path):
    """The ramped inflow has its own time: from files, in a forecast from the middle of a trajectory, for every member."""
    made = api.simulate(
        "channel-obstacles", trajectories=4, steps=5, grid=(89, 18), split=(2, 1, 1), seed=0, out=tmp_path / "flow",
        parameters={"layout": (0, 500), "obstacles": 2},
    )  # fmt: skip
    assert made.static_varies and made.conditions([0, 1], [0, 3]).time.tolist() == pytest.approx([1, 4], abs=1e-5)
    initial = made.initial("test", start=1).resolved(1)
    forecast = api.load("baseline:persistence").forecast(initial, steps=3, members=4)
    truth = initial.truth(3)
    inflow = members(forecast)[0, :, :, 0, 0]
    assert torch.allclose(inflow, truth[0, :, 0, 0].expand_as(inflow), atol=1e-6)
    assert not torch.allclose(inflow[:, 0], inflow[:, 2], atol=0.05), "it grows"
    obstacles = made.conditions(initial.trajectories, 1).static_fields()[0, 1] > 0.5
    assert obstacles.any() and not members(forecast)[..., obstacles].any()


def test_runs_are_refused_where_names_differ(own, own_run):
    data, _ = own
    other = replace(data, static_names=("depth",))
    with pytest.raises(InputError, match=r"the data have 1 \(depth\): give data with the same \(held\)"):
        own_run.forecast(other.initial("test"), steps=1, members=1)


def test_a_run_without_static_fields_of_its_own_ignores_later_ones(own, tmp_path):
    """Runs of earlier versions knew no static fields of each trajectory: they take such data, and are not told these."""
    data, _ = own
    bare = replace(data, static=None, static_names=())
    run = api.train("any/regression-smoke", data=bare, out=tmp_path / "run", overrides=SMALL)
    config = json.loads((tmp_path / "run/config.json").read_text())
    del config["data"]["static_names"], config["data"]["static_varies"], config["recipe"]["boundary"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    old = api.load(tmp_path / "run")
    expected = run.forecast(bare.initial("test"), steps=2, members=1)
    assert torch.equal(members(old.forecast(data.initial("test"), steps=2, members=1)), members(expected))


def test_networks_see_the_mask_of_their_own_case(tmp_path):
    """A decay that differs from trajectory to trajectory is learned from a static field, and not without."""
    generator = torch.Generator().manual_seed(1)
    rate = torch.rand(40, 1, 1, 1, generator=generator).expand(40, 1, 8, 8)
    start = torch.rand(40, 1, 1, 8, 8, generator=generator) + 1
    states = start * rate[:, None] ** torch.arange(4)[:, None, None, None]
    data = from_arrays(states, fields=["u"], grid=WALLS, dt=1.0, static=rate, static_names=("rate",))
    errors = {}
    for name, given in (("told", data), ("not told", replace(data, static=None, static_names=()))):
        settings = {**SMALL, "training.steps": 150, "training.batch_size": 16, "training.learning_rate": 3e-3}
        run = api.train("any/regression-smoke", data=given, out=tmp_path / name, overrides=settings)
        initial = given.initial("test").resolved(1)
        error = members(run.forecast(initial, steps=1, members=1))[:, 0, 0] - initial.truth(1)[:, 0]
        errors[name] = error.square().mean().sqrt().item()
    assert errors["told"] < 0.5 * errors["not told"], errors
