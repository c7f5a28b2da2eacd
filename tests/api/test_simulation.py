"""Simulated data sets: lengths by split, the same trajectories whatever the split, static forces, the manifest; solvers on them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from eddycast import api
from eddycast.api.runs import simulated
from eddycast.api.simulation import split_numbers
from eddycast.cli import main
from eddycast.errors import InputError
from eddycast.recipes import SimulationSettings, get_recipe, with_overrides

SMALL = {
    "trajectories": 10,
    "steps": 5,
    "spin_up": 3.0,
    "dt": 0.2,
    "parameters": {"domain_length": 22.0},
    "grid": (32,),
}


@pytest.mark.parametrize(
    "count, split, expected",
    [
        (1280, (0.8, 0.1, 0.1), (1024, 128, 128)),
        (1024, (0.8, 0.1, 0.1), (819, 102, 103)),
        (1280, (1024, 128, 128), (1024, 128, 128)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (4, (0.5, 0.0, 0.5), (2, 0, 2)),
        (2, (0.5, 0.0, 0.5), (1, 0, 1)),
        (3, (1, 1, 1), (1, 1, 1)),
        (2, (1, 0, 1), (1, 0, 1)),
        (7, (0.01, 0.01, 0.98), (1, 1, 5)),
    ],
)
def test_shares_are_cut_as_published(count, split, expected):
    parts = split_numbers(count, split)
    assert parts is not None and tuple(len(parts[name]) for name in ("train", "valid", "test")) == expected
    assert [number for part in parts.values() for number in part] == list(range(count))


def test_evaluation_is_longer_and_nothing_else_changes(tmp_path):
    """The first states of a test trajectory are those of the run of short ones, bit by bit, in files and in memory."""
    short = api.simulate("kuramoto-sivashinsky", **SMALL)
    there = tmp_path / "data"
    stored = api.simulate("kuramoto-sivashinsky", evaluation_steps=12, out=there, **SMALL)
    memory = api.simulate("kuramoto-sivashinsky", evaluation_steps=12, **SMALL)
    assert stored.lengths == memory.lengths == (5,) * 8 + (12,) * 2
    for number in range(10):
        assert torch.equal(stored.read(number, 0, 5), short.read(number, 0, 5))
        assert torch.equal(
            stored.read(number, 0, stored.lengths[number]), memory.read(number, 0, memory.lengths[number])
        )
    assert [[len(one) for one in stored.segments(name)] for name in ("train", "valid", "test")] == [[5] * 8, [12], [12]]
    assert len(stored.windows("train", 5)) == 8 and len(stored.windows("test", 5)) == 8
    reversed_lengths = api.simulate("kuramoto-sivashinsky", evaluation_steps=2, **SMALL)
    assert torch.equal(reversed_lengths.read(9, 0, 2), short.read(9, 0, 2))
    assert "5 to 12 frames" in api.inspect(there) and "No problems found" in api.inspect(there)


def test_manifest_says_which_trajectory_lies_where(tmp_path):
    options = SMALL | {"initial": {"sines": 10, "modes": 2}, "solver_grid": (48,), "split": (0.5, 0.2, 0.3), "seed": 7}
    data = api.simulate("kuramoto-sivashinsky", evaluation_steps=6, out=tmp_path / "data", **options)
    content = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert content["splits"]["valid"] == {"first": 5, "last": 6, "states": 6, "start": 0}
    assert content["splits"]["test"]["last"] == 9 and content["seed"] == 7 and content["solver_grid"] == [48]
    assert content["initial"] == {"modes": 2, "sines": 10} and content["grid"] == [32]
    assert data.attributes["split"] == "train 0 to 4, valid 5 to 6, test 7 to 9"
    assert data.attributes["solver_grid"] == "48" and data.attributes["initial_law"] == "modes=2, sines=10"
    assert data.parameter_names == ("domain_length",)


def test_progress_goes_over_both_lengths():
    seen = []
    api.simulate(
        "kuramoto-sivashinsky", evaluation_steps=12, progress=lambda done, total: seen.append((done, total)), **SMALL
    )
    done = [value for value, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """Kolmogorov flow stored on 16 x 16 with two wavenumbers of the force."""
    root, made = tmp_path_factory.mktemp("flows"), []
    for wavenumber in (4, 3):
        options = {"trajectories": 4, "steps": 4, "spin_up": 1.0, "grid": (16, 16), "solver_grid": (24, 24)}
        values = {"viscosity": 0.05, "forcing_wavenumber": wavenumber}
        made.append(api.simulate("kolmogorov-flow", parameters=values, out=root / str(wavenumber), **options))
    return made


def test_forcing_is_a_static_field_of_the_file(flows):
    y = torch.arange(16) * 2 * torch.pi / 16
    for data, wavenumber in zip(flows, (4, 3), strict=True):
        assert data.static_names == ("forcing",) and data.grid.shape == (16, 16)
        assert torch.allclose(data.static[0], torch.sin(wavenumber * y).expand(16, 16), atol=1e-5)
        assert torch.equal(data.conditions([0], [0]).static, data.static)


def test_a_run_is_told_the_force_of_the_data_it_forecasts(flows, tmp_path):
    """Trained with one wavenumber, it forecasts data with another, or with one in each trajectory; data without a force are refused."""
    first, second = flows
    overrides = {"training.steps": 2, "training.batch_size": 2}
    run = api.train("any/regression-smoke", data=first, out=tmp_path / "run", overrides=overrides)
    seen = []
    network = next(part for part in run.run.emulator.model.modules() if type(part).__name__ == "ConditionedNetwork")
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].static_fields()))
    result = run.forecast(second.initial("test"), steps=1, members=1)
    assert torch.equal(seen[-1], second.static) and result["velocity_x"].shape[-2:] == (16, 16)
    drawn = api.simulate(
        "kolmogorov-flow", trajectories=4, steps=4, spin_up=0.4, grid=(16, 16), split=(1, 1, 2),
        parameters={"viscosity": 0.05, "forcing_wavenumber": (1, 4)}, seed=4,
    )  # fmt: skip
    run.forecast(drawn.initial("test"), steps=1, members=2)
    wavenumbers = drawn.parameter_values[2:, 3].repeat(2)
    assert wavenumbers.unique().numel() == 2, "of the two cases, for each of two members"
    y = torch.arange(16) * 2 * torch.pi / 16
    assert torch.allclose(seen[-1][:, 0], torch.sin(wavenumbers[:, None, None] * y).expand(-1, 16, 16), atol=1e-5)
    with pytest.raises(InputError, match="trained with 1 static fields; the data have 0"):
        run.forecast(replace(drawn, static=None, static_names=()).initial("test"), steps=1, members=1)


def test_recipes_say_all_of_it():
    recipe = with_overrides(
        get_recipe("any/regression-smoke"),
        {
            "simulation.trajectories": 5, "simulation.steps": 3, "simulation.evaluation_steps": "6",
            "simulation.split": "[3, 1, 1]", "simulation.solver_grid": "[64]", "simulation.grid": "[32]",
            "simulation.initial.modes": "3", "simulation.spin_up": 1.0, "simulation.parameters.domain_length": "22",
        },
    )  # fmt: skip
    assert recipe.simulation is not None and recipe.simulation.initial == {"modes": 3.0}
    data = simulated(recipe)
    assert data.lengths == (3, 3, 3, 6, 6) and data.grid.shape == (32,) and data.attributes["solver_grid"] == "64"
    assert SimulationSettings().split == (0.8, 0.1, 0.1)


@pytest.fixture(scope="module")
def ks():
    return api.simulate("kuramoto-sivashinsky", **(SMALL | {"grid": (64,), "spin_up": 60.0}))


@pytest.mark.parametrize("grid", ["32", 32, [32], "[32]"])
def test_solver_forecasts_on_another_grid_and_says_what_it_cost(ks, grid):
    oracle = api.load("system:kuramoto-sivashinsky")
    coarse = oracle.forecast(ks.initial("test"), steps=4, members=1, overrides={"grid": grid, "inner_dt": "0.05"})
    plain = oracle.forecast(ks.initial("test"), steps=4, members=1)
    assert coarse.attrs["eddycast_solver_grid"] == "32" and coarse.attrs["eddycast_inner_steps"] == 4
    assert plain.attrs["eddycast_solver_grid"] == "64" and plain.attrs["eddycast_inner_steps"] == 2
    difference = abs(coarse["u"] - plain["u"]).max().item()
    assert 1e-7 < difference < 0.2


def test_flow_is_forecast_on_a_coarser_grid_by_its_name(flows):
    data = api.simulate(
        "kolmogorov-flow", trajectories=3, steps=3, spin_up=1.0, grid=(32, 32), parameters={"viscosity": 0.01}
    )
    result = api.load("system:kolmogorov-flow").forecast(
        data.initial("test"), steps=2, members=1, overrides={"grid": "16x16"}
    )
    assert result["velocity_x"].shape[-2:] == (32, 32) and result.attrs["eddycast_solver_grid"] == "16x16"


@pytest.mark.parametrize(
    "overrides, match",
    [
        ({"grid": "big"}, "--set grid must be the points"),
        ({"grid": "32x32"}, "needs 1 positive numbers"),
        ({"grid": "7"}, "even number"),
        ({"grid": "-4"}, "--set grid must be the points"),
        ({"grid": "true"}, "--set grid must be the points"),
        ({"inner_dt": "0"}, "--set inner_dt must be a positive number"),
        ({"inner_dt": "fast"}, "--set inner_dt must be a positive number"),
        ({"perturbation": "-1"}, "--set perturbation must be a number from 0 on"),
        ({"chunk": "1.5"}, "positive whole number"),
        ({"points": "4"}, "no such setting"),
    ],
)
def test_bad_settings_of_a_solver_end_in_one_line(ks, overrides, match):
    with pytest.raises(InputError, match=match) as error:
        api.load("system:kuramoto-sivashinsky").emulator(ks, overrides)
    assert "\n" not in str(error.value)


def test_sites_of_a_ring_are_no_points_of_a_field():
    data = api.simulate("lorenz-96", trajectories=3, steps=3, spin_up=1.0)
    with pytest.raises(InputError, match="another system"):
        api.load("system:lorenz-96").emulator(data, {"grid": 20})
    point = api.simulate("lorenz-63", trajectories=3, steps=3, spin_up=1.0)
    with pytest.raises(InputError, match="periodic axes"):
        api.load("system:lorenz-63").emulator(point, {"grid": 2})


@pytest.mark.parametrize(
    "options, match",
    [
        ({"evaluation_steps": 0}, "evaluation_steps must be at least 1"),
        ({"evaluation_steps": 9, "trajectories": 2}, "evaluation_steps needs trajectories"),
        ({"split": (0, 0, 1)}, "shares of train and test above zero"),
        ({"split": (1, 2)}, "three shares"),
        ({"solver_grid": (16,)}, "at least the points of the stored one"),
        ({"solver_grid": (64, 64)}, "at least the points of the stored one"),
        ({"initial": {"peak": 1}}, "no setting 'peak'"),
    ],
)
def test_bad_simulations_end_in_one_line(options, match):
    with pytest.raises(InputError, match=match) as error:
        api.simulate("kuramoto-sivashinsky", **{**SMALL, **options})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--split", "1,2"], "0.8,0.1,0.1"),
        (["--split", "a,b,c"], "finite number"),
        (["--initial", "modes"], "--initial must read name=value"),
        (["--solver-grid", "6x"], "--solver-grid must be the points"),
    ],
)
def test_command_line_tells_mistakes(arguments, words, tmp_path, monkeypatch, capsys):
    out = str(tmp_path / "data")
    monkeypatch.setattr("sys.argv", ["eddycast", "simulate", "burgers", "--out", out, *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_command_line_writes_the_published_shape(tmp_path, monkeypatch):
    out = tmp_path / "data"
    words = "simulate kuramoto-sivashinsky --param domain_length=64 --grid 64 --solver-grid 128 --dt 0.2 --trajectories 10 --steps 4"
    more = f"--evaluation-steps 9 --spin-up 1 --initial sines=10 --initial modes=2 --out {out}"
    monkeypatch.setattr("sys.argv", ["eddycast", *words.split(), *more.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    data = api.open_dataset(out)
    assert data.lengths == (4,) * 8 + (9, 9) and data.grid.shape == (64,) and data.dt == pytest.approx(0.2)


@pytest.mark.parametrize("split", [(0.8, 0.3, 0.1), (8, 1, 2), (0.5, 0.2, 0.1)])
def test_shares_that_do_not_add_up_are_refused(split):
    with pytest.raises(InputError, match="sum to 1, or numbers of runs that sum to the 10"):
        api.simulate("burgers", trajectories=10, steps=2, split=split)
