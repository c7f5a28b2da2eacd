"""Two stages over parameters: pre-training at one value with inert conditioning, then fine-tuning on a family."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

import eddycast as ec
from eddycast import api, distributed
from eddycast.data import open_family, statistics, training_batches
from eddycast.errors import InputError
from eddycast.recipes import get_recipe, recipe_from_dict, recipe_to_dict, with_overrides
from eddycast.recipes.adaptation import Adaptation, adapted_stages, adapted_views, all_windows, modulations_of
from eddycast.recipes.measured import model_shape
from eddycast.recipes.run import knows_distances, seeded_model
from eddycast.training import RunDirectory, SilentObserver, Training, read_tensors
from eddycast.training.runner import StageRunner

LOCAL = {
    "emulator.horizon": 1,
    "emulator.network.kind": "transformer-local",
    "emulator.network.window": 5,
    "emulator.network.width": 16,
    "emulator.network.heads": 2,
    "emulator.network.blocks": 2,
}
SETTINGS = LOCAL | {
    "grids": "any",
    "log_parameters": ["domain_length"],
    "adaptation": {"pretrain": {"domain_length": 22}, "share": 0.5, "modulation_rate": 10.0},
    "training.steps": 16,
    "training.batch_size": 8,
    "training.warmup": 1,
}


def recipe(**changes):
    return with_overrides(get_recipe("ks/regression-smoke"), SETTINGS | changes)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    place = tmp_path_factory.mktemp("family") / "ks"
    api.simulate(
        "kuramoto-sivashinsky", trajectories=36, steps=20, spacing=0.5, spin_up=20.0, out=place, split=(0.5, 0.25, 0.25),
        parameters={"domain_length": api.Values((22.0, 36.0, 64.0), (4, 1, 1))},
    )  # fmt: skip
    return place


@pytest.fixture(scope="module")
def run(family, tmp_path_factory):
    """Both stages, and the weights after the first."""
    place = tmp_path_factory.mktemp("run")
    ec.train(recipe(), data=family, out=place / "first", stage="regression", observer=SilentObserver())
    ec.train(recipe(), data=family, out=place / "both", observer=SilentObserver())
    return place


def test_conditioning_is_inert_and_frozen_while_pretraining(family, run):
    """Weights of the modulation are those of the start, and no length changes what the network says."""
    weights, _ = read_tensors(RunDirectory(run / "first").component("model"))
    found = open_family(family)
    start = seeded_model(recipe(), model_shape(found.datasets[0], recipe(), found.datasets)).state_dict()
    names = [name for name in weights if ".modulations." in name]
    assert names
    assert all(torch.equal(weights[name], start[name]) for name in names)
    assert any(not torch.equal(weights[name], start[name]) for name in weights)
    data = api.open_dataset(family / "domain_length-36")
    emulator = ec.load(run / "first")
    one, two = (
        emulator.forecast(data.initial("test"), steps=2, members=1, parameters={"domain_length": length})["u"].values
        for length in (22.0, 100.0)
    )
    assert (one == two).all()


def test_fine_tuning_moves_all_weights_and_listens_to_parameters(family, run):
    first, both = (read_tensors(RunDirectory(run / name).component("model"))[0] for name in ("first", "both"))
    moved = [name for name in both if ".modulations." in name and not torch.equal(both[name], first[name])]
    assert moved
    data = api.open_dataset(family / "domain_length-36")
    emulator = ec.load(run / "both")
    one, two = (
        emulator.forecast(data.initial("test"), steps=2, members=1, parameters={"domain_length": length})["u"].values
        for length in (36.0, 64.0)
    )
    assert (one != two).any()


def test_learning_rates_of_the_two_stages(run):
    """The cosine is at its top at the start of a stage: the last one begins at 1/50 of the first."""
    lines = [json.loads(line) for line in RunDirectory(run / "both").log.read_text().splitlines()]
    peak = {
        name: max(line["learning_rate"] for line in lines if line["stage"] == name)
        for name in ("regression", "fine-tune")
    }
    assert peak["fine-tune"] == pytest.approx(peak["regression"] / 50, rel=0.05)
    assert [line["stage"] for line in lines].count("fine-tune") == 8


def test_groups_of_the_optimiser_have_their_rates(family):
    found = open_family(family)
    model = seeded_model(recipe(), model_shape(found.datasets[0], recipe(), found.datasets))
    settings = recipe().adaptation
    assert settings is not None
    first, last = adapted_stages(model.stages(), settings, model)
    assert first.frozen == tuple(modulations_of(model))
    assert last.frozen == ()
    assert [factor for _, factor in last.rates] == [10.0]
    assert last.learning_rate == pytest.approx(first.learning_rate / 50)
    assert first.share == pytest.approx(0.5)
    space = statistics(found.datasets[0], "train")
    batches = training_batches(found.datasets[0], last.frames, batch_size=4, seed=0)
    runner = StageRunner(last, space, batches, recipe().training, 0)
    runner.step(*batches.batch(0), 0, 8)
    groups = [group for optimiser in runner.optimisers for group in optimiser.param_groups]
    fast = {id(weight) for part in modulations_of(model) for weight in part.parameters()}
    for group in groups:
        assert len({id(weight) in fast for weight in group["params"]}) == 1
        own = 10.0 if id(group["params"][0]) in fast else 1.0
        assert group["lr"] == pytest.approx(own * last.learning_rate * recipe().training.learning_rate)
    assert {id(weight) for group in groups for weight in group["params"]} == {
        id(weight) for weight in model.parameters()
    }


def test_the_last_stage_is_measured_by_the_first_and_may_leave_conditioning_out(family):
    """Stages of a scoring rule have rates of 1, 0.2 and 0.1: 1/50 is of the first."""
    changes = LOCAL | {"grids": "any", "emulator.unroll": 2, "training.steps": 8}
    chosen = with_overrides(get_recipe("ks/scoring-smoke"), changes)
    model = seeded_model(chosen, model_shape(open_family(family).datasets[0], chosen))
    *first, last = adapted_stages(
        model.stages(), Adaptation({"domain_length": 22}, share=0.2, modulation_rate=0.0), model
    )
    assert len(first) == 3 and [stage.learning_rate for stage in first] == pytest.approx([1.0, 0.2, 0.1])
    assert last.learning_rate == pytest.approx(1 / 50) and last.frames == first[-1].frames
    assert sum(stage.share for stage in first) == pytest.approx(0.8)
    assert all(stage.frozen == tuple(modulations_of(model)) for stage in (*first, last)) and last.rates == ()


def test_more_passes_than_windows_of_the_largest_grid(family, run, tmp_path):
    """Eight passes over batches of 8, 5 and 3 windows: the loss is that of one pass."""
    ec.train(recipe(**{"training.accumulate": 8}), data=family, out=tmp_path / "run", observer=SilentObserver())
    ours, whole = (
        [json.loads(line)["loss"] for line in RunDirectory(path).log.read_text().splitlines()]
        for path in (tmp_path / "run", run / "both")
    )
    assert ours == pytest.approx(whole, rel=1e-3)


def test_a_run_forecasts_on_lengths_it_has_never_seen(run):
    emulator = ec.load(run / "both")
    data = api.simulate(
        "kuramoto-sivashinsky", trajectories=3, steps=6, grid=(112,), spin_up=5.0, parameters={"domain_length": 56.0}
    )
    forecast = emulator.forecast(data.initial("test"), steps=3, members=1)
    assert forecast.sizes["x"] == 112
    far = api.simulate(
        "kuramoto-sivashinsky", trajectories=3, steps=6, grid=(112,), spin_up=5.0, parameters={"domain_length": 40.0}
    )
    with pytest.raises(InputError, match=r"trained on points 0.5 apart along x; in the data they are 0.3571 apart"):
        emulator.forecast(far.initial("test"), steps=3, members=1)


@pytest.mark.parametrize("stop", ["regression", "fine-tune"])
def test_resume_is_exact_across_the_stages(stop, family, run, tmp_path):
    class Stop(SilentObserver):
        def stage(self, name, done, steps):
            self.name = name

        def step(self, done, loss):
            if self.name == stop and done == 3:
                raise KeyboardInterrupt

    settings = {"training.checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        ec.train(recipe(**settings), data=family, out=tmp_path / "run", observer=Stop())
    ec.train(recipe(**settings), data=family, out=tmp_path / "run", resume=True, observer=SilentObserver())
    again, whole = (read_tensors(RunDirectory(path).component("model"))[0] for path in (tmp_path / "run", run / "both"))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_fine_tuning_of_a_run_on_data_of_ones_own(family, run, tmp_path):
    """`--init` keeps what the weights mean: normalisation, and statistics of parameters that it has seen vary."""
    own = api.simulate(
        "kuramoto-sivashinsky", trajectories=8, steps=20, grid=(160,), spin_up=20.0, parameters={"domain_length": 80.0}
    )
    changed = recipe(adaptation={"pretrain": {"domain_length": 22}, "replay": 0.0})
    ec.train(changed, data=own, out=tmp_path / "own", init=run / "both", stage="fine-tune", observer=SilentObserver())
    before, after = (json.loads((path / "config.json").read_text()) for path in (run / "both", tmp_path / "own"))
    assert after["shape"]["parameter_mean"] == before["shape"]["parameter_mean"]
    assert after["shape"]["parameter_std"] == before["shape"]["parameter_std"]
    assert after["data"]["parameter_ranges"] == {"domain_length": [22.0, 80.0]}  # of all that the weights have seen
    spaces = [read_tensors(RunDirectory(path).component("space"))[0] for path in (run / "both", tmp_path / "own")]
    assert all(torch.equal(spaces[0][name], spaces[1][name]) for name in spaces[0])


def test_processes_that_cannot_share_the_smallest_batch_are_refused_before_the_first_step(
    family, tmp_path, monkeypatch
):
    """Batches of 4 windows on 44 points are 1 on 128: the second stage could not be shared by two."""
    found = open_family(family)
    model = seeded_model(recipe(), model_shape(found.datasets[0], recipe(), found.datasets))
    settings = recipe(**{"training.batch_size": 4})
    stages = adapted_stages(model.stages(), settings.adaptation, model)
    views = adapted_views(settings.adaptation, found)
    place, space = RunDirectory(tmp_path), statistics(found.datasets[0], "train")
    training = Training(model, space, all_windows(found), stages, settings.training, place, views=views)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(InputError, match="the largest of the grids have 1 windows, too few for 2 processes"):
        training.run()


def test_a_stage_of_its_own_goes_on_with_the_constants_of_its_directory(family, run, tmp_path):
    """Two commands with one --out, and other data in the second; interrupted, it is resumed without saying where it began."""
    own = api.simulate(
        "kuramoto-sivashinsky", trajectories=8, steps=20, grid=(160,), spin_up=20.0, parameters={"domain_length": 80.0}
    )

    class Stop(SilentObserver):
        def step(self, done, loss):
            if done == 3:
                raise KeyboardInterrupt

    changed = recipe(adaptation={"pretrain": {"domain_length": 22}, "replay": 0.0})
    names = ("whole", "stopped")
    for name in names:
        shutil.copytree(run / "first", tmp_path / name)
    given = {"data": own, "stage": "fine-tune"}
    ec.train(changed, out=tmp_path / "whole", observer=SilentObserver(), **given)
    with pytest.raises(KeyboardInterrupt):
        ec.train(changed, out=tmp_path / "stopped", observer=Stop(), **given)
    ec.train(changed, out=tmp_path / "stopped", resume=True, observer=SilentObserver(), **given)
    for part in ("space", "model"):
        one, two = (read_tensors(RunDirectory(tmp_path / name).component(part))[0] for name in names)
        assert all(torch.equal(one[name], two[name]) for name in one)
    start, *after = (
        (
            json.loads((path / "config.json").read_text())["shape"],
            read_tensors(RunDirectory(path).component("space"))[0],
        )
        for path in (run / "first", *(tmp_path / name for name in names))
    )
    for shape, space in after:
        assert shape == start[0] and all(torch.equal(space[name], value) for name, value in start[1].items())


def test_replay_has_its_share_and_values_weigh_alike(family):
    found = open_family(family)
    views = adapted_views(Adaptation({"domain_length": 22.0}, replay=0.2), found)
    mixture = views["fine-tuning"]
    assert mixture.shares == pytest.approx((0.4, 0.4, 0.2))
    assert [dataset.grid.shape[0] for dataset in mixture.datasets] == [72, 128, 44]
    assert views["pre-training"].grid.shape == (44,)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"adaptation": {"pretrain": {"domain_length": 23}}},
            "No trajectory of the training split has domain_length = 23",
        ),
        ({"adaptation": {"pretrain": {"beta": 1}}}, "no parameter 'beta'"),
        ({"adaptation": {}}, "adaptation.pretrain names the parameters"),
        ({"grids": "one"}, "is for data on one grid, these are 3 data sets"),
        ({"log_parameters": ["beta"]}, "the data have no parameter 'beta'"),
        ({"emulator.horizon": 3}, "set emulator.horizon=1"),
        ({"training.optimiser": "soap"}, "soap has one learning rate"),
    ],
)
def test_mistakes_end_in_one_line(changes, told, family, tmp_path):
    with pytest.raises(InputError, match=told) as error:
        ec.train(recipe(**changes), data=family, out=tmp_path / "run", observer=SilentObserver())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("units", "known"), [("points", False), ("physical", True)])
def test_points_may_lie_further_apart_where_the_network_knows_distances(units, known, family):
    chosen = recipe(**{"emulator.network.units": units})
    model = seeded_model(chosen, model_shape(open_family(family).datasets[0], chosen))
    assert knows_distances(model) is known


def test_settings_survive_json():
    here = replace(recipe(), adaptation=Adaptation({"domain_length": 22.0}, replay=0.0))
    assert recipe_from_dict(json.loads(json.dumps(recipe_to_dict(here))), "there") == here


def test_stages_go_on_in_place_but_no_finished_one_is_trained_again(family, tmp_path):
    """The second stage in the directory of the first; then either of them there is refused, and nothing is lost."""
    out = tmp_path / "run"
    ec.train(recipe(), data=family, out=out, stage="regression", observer=SilentObserver())
    ec.train(recipe(), data=family, out=out, stage="fine-tune", observer=SilentObserver())
    assert json.loads((out / "config.json").read_text())["provenance"]["stages"] == ["regression", "fine-tune"]
    before = RunDirectory(out).component("model").read_bytes()
    for stage in ("regression", "fine-tune"):
        with pytest.raises(InputError, match=f"holds a run whose stage {stage} is trained: .* pass --init"):
            ec.train(recipe(), data=family, out=out, stage=stage, observer=SilentObserver())
    assert RunDirectory(out).component("model").read_bytes() == before


def test_a_resumed_stage_is_named_once(family, tmp_path):
    class Stop(SilentObserver):
        def step(self, done, loss):
            if done == 3:
                raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        ec.train(recipe(), data=family, out=out, stage="regression", observer=Stop())
    ec.train(recipe(), data=family, out=out, stage="regression", resume=True, observer=SilentObserver())
    assert json.loads((out / "config.json").read_text())["provenance"]["stages"] == ["regression"]
