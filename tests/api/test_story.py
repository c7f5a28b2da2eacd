"""The whole story at smoke size, in Python as the design writes it, and on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import eddycast as ec
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.training import SilentObserver

SYSTEM = "kuramoto-sivashinsky"


@pytest.fixture(scope="module")
def data():
    return ec.simulate(SYSTEM, trajectories=10, steps=40, seed=0)


@pytest.fixture(scope="module")
def emulator(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("story") / "run"
    return ec.train("ks/universal-smoke", data=data, out=out, observer=SilentObserver())


def values(made: xr.Dataset) -> np.ndarray:
    return made.to_array().values


def test_the_snippet_of_the_design(data, emulator, tmp_path):
    forecast = emulator.forecast(data.initial("test"), steps=20, members=4, seed=0)
    obs = ec.observe(data, split="test", fraction=0.1, noise=0.1, seed=0)
    analysis = emulator.assimilate(obs, method="mmps", members=4, seed=0)
    scores = ec.evaluate(forecast, truth=data)
    assert isinstance(obs, ec.Observations)
    assert isinstance(scores, ec.Scores)
    assert "crps" in scores.table().lower()
    assert isinstance(scores.to_xarray(), xr.Dataset)
    scores.to_json(tmp_path / "scores.json")
    json.loads((tmp_path / "scores.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert dict(forecast.sizes) == {"init": 1, "member": 4, "lead_time": 20, "x": 64}
    assert dict(analysis.sizes) == {"init": 1, "member": 4, "lead_time": 16, "x": 64}
    for made, kind in ((forecast, "forecast"), (analysis, "analysis")):
        assert made.attrs["eddycast_kind"] == kind
        assert made.attrs["eddycast_recipe"] == "ks/universal-smoke"
        assert made.attrs["eddycast_run_hash"] == emulator.run.fingerprint()
        assert made.attrs["eddycast_seed"] == 0
        assert made.attrs["eddycast_system"] == SYSTEM
        assert made.member.attrs["standard_name"] == "realization"
        assert np.isfinite(values(made)).all()
    assert list(forecast.lead_time.values) == list(range(1, 21))
    assert list(analysis.lead_time.values) == list(range(16))
    assert forecast.trajectory.values.tolist() == [9]
    assert forecast.frame.values.tolist() == [0]
    assert ec.load(emulator.path).run.fingerprint() == emulator.run.fingerprint()


def test_same_seed_same_ensemble_whatever_else_is_drawn(data, emulator):
    initial = data.initial("test")
    first = emulator.forecast(initial, steps=6, members=4, seed=3)
    again = emulator.forecast(initial, steps=6, members=4, seed=3)
    other = emulator.forecast(initial, steps=6, members=4, seed=4)
    fewer = emulator.forecast(initial, steps=6, members=2, seed=3)
    assert np.array_equal(values(first), values(again))
    assert not np.array_equal(values(first), values(other))
    assert np.allclose(values(first)[:, :, :2], values(fewer), atol=1e-4)  # members are addressed, not counted off
    observations = ec.observe(data, sensors=8, seed=1, steps=4)
    options = {"members": 3, "seed": 2, "overrides": {"num_steps": 2}}
    analyses = [emulator.assimilate(observations, method="sda", **options) for _ in range(2)]
    assert np.array_equal(values(analyses[0]), values(analyses[1]))


def test_settings_of_one_forecast_do_not_stay(data, emulator):
    options = {"steps": 4, "members": 2, "seed": 0}
    before = emulator.forecast(data.initial("test"), **options)
    changed = emulator.forecast(
        data.initial("test"), overrides={"emulator.num_steps": "2", "sampler": "heun"}, **options
    )
    after = emulator.forecast(data.initial("test"), **options)
    assert not np.array_equal(values(before), values(changed))
    assert np.array_equal(values(before), values(after))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"emulator.num_step": 4}, ["num_step", "num_steps", "sampler"]),
        ({"num_steps": "many"}, ["num_steps", "integer", "many"]),
        ({"num_steps": 0}, ["num_steps"]),
        ({"sampler": "leapfrog"}, ["leapfrog", "heun"]),
        ({"context": 9}, ["context", "4"]),
        ({"num_steps": "[1"}, ["num_steps", "[1"]),
    ],
)
def test_settings_that_an_emulator_does_not_take_are_refused(settings, words, data, emulator):
    with pytest.raises(InputError) as caught:
        emulator.forecast(data.initial("test"), steps=2, overrides=settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_the_solver_continues_its_own_data(data):
    """The truth is float32, chaos multiplies its rounding by e^(10 / 13.2)."""
    made = ec.load(f"system:{SYSTEM}").forecast(data.initial("test"), steps=10, members=1)
    truth = data.read(9, 1, 11).numpy()[:, 0]
    assert np.abs(made["u"].values[0, 0] - truth).max() < 1e-2
    half = ec.load(f"system:{SYSTEM}").forecast(data.initial("test"), leads=[0.5, 1.0], members=1)
    assert half.lead_time.values.tolist() == [0.5, 1.0]
    assert np.allclose(half["u"].values[0, 0, 1], made["u"].values[0, 0, 0], atol=1e-4)


def test_parameters_can_be_replaced_by_name(data):
    solver = ec.load(f"system:{SYSTEM}")
    name = data.parameter_names[0]
    same = solver.forecast(data.initial("test"), steps=3, members=1)
    value = float(data.parameters(9)[0])
    kept = solver.forecast(data.initial("test"), steps=3, members=1, parameters={name: value})
    assert np.array_equal(values(same), values(kept))
    with pytest.raises(InputError, match=name):
        solver.forecast(data.initial("test"), steps=3, parameters={"no_such": 1.0})


def test_baselines_are_what_they_say(data):
    initial = data.initial("test")
    persistence = ec.load("baseline:persistence").forecast(initial, steps=5, members=2)["u"].values
    assert np.array_equal(persistence, np.broadcast_to(data.read(9, 0, 1).numpy()[:, 0], persistence.shape))
    climatology = ec.load("baseline:climatology").forecast(initial, steps=5, members=40, seed=0)["u"].values
    train = np.concatenate(
        [data.read(part.trajectory, part.start, part.stop).numpy() for part in data.segments("train")]
    )
    assert climatology.mean() == pytest.approx(train.mean(), abs=0.1)
    assert climatology.std() == pytest.approx(train.std(), rel=0.1)
    with pytest.raises(InputError, match="persistence"):
        ec.load("baseline:persistance")


def test_starts_may_be_a_frame_the_last_or_all(data, emulator):
    def frames(**options) -> list[int]:
        return emulator.forecast(data.initial("test", **options), steps=2, members=1).frame.values.tolist()

    assert frames(start=7) == [7]
    assert frames(start="last") == [39]
    assert frames(start="all", leads=2) == list(range(38))
    assert frames(start=[3, 5]) == [3, 5]
    with pytest.raises(InputError, match="40"):
        frames(start=40)


def test_no_steps_is_no_forecast(data, emulator):
    with pytest.raises(InputError, match="positive"):
        emulator.forecast(data.initial("test"), steps=0)
    with pytest.raises(InputError, match="whole steps"):
        emulator.forecast(data.initial("test"), leads=[0.5])


def test_a_forecast_goes_on_from_each_member_of_an_analysis(data):
    """The solver from a background that is the truth gives the truth; frames are counted on."""
    solver = ec.load(f"system:{SYSTEM}")
    first = solver.forecast(data.initial("test"), steps=4, members=2)
    later = solver.forecast_from(first, data, steps=3)
    straight = solver.forecast(data.initial("test"), steps=7, members=2)
    assert later.frame.values.tolist() == [4]
    assert dict(later.sizes)["member"] == 2
    assert np.allclose(later["u"].values, straight["u"].values[:, :, 4:], atol=1e-3)
    with pytest.raises(InputError, match="2 members"):
        solver.forecast_from(first, data, steps=3, members=3)


def test_assimilation_with_a_perfect_model_beats_climatology(data):
    """ETKF with the solver, 40 % of the points, small errors: the analysis ends far below the climatological spread."""
    observations = ec.observe(data, fraction=0.4, noise=0.05, steps=12, seed=0)
    analysis = ec.load(f"system:{SYSTEM}").assimilate(observations, method="etkf", mode="filter", members=24, seed=0)
    truth = data.read(9, 0, 12).numpy()[:, 0]
    error = np.sqrt(((analysis["u"].mean("member").values[0] - truth) ** 2).mean(axis=-1))
    assert error[-1] < 0.4 * truth.std()


def test_the_command_line_tells_the_same_story(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def command(line: str) -> str:
        capsys.readouterr()
        code = run(shlex.split(line))
        captured = capsys.readouterr()
        assert code == 0, f"{line}\n{captured.err}"
        assert "Traceback" not in captured.err
        return captured.out

    command(f"simulate {SYSTEM} --out data --trajectories 10 --steps 40")
    assert "train" in command("inspect data")
    command("train ks/universal-smoke --data data --out run")
    command("train ks/regression-smoke --data data --out runs/regression --seed 2")
    command("forecast run --data data --steps 8 --members 4 --seed 1 --out forecast.nc")
    command("forecast run --data data --steps 8 --members 4 --seed 1 --out again.nc")
    command("forecast run --data data --start last --steps 2 --members 2 --set emulator.num_steps=4 --out last.nc")
    command("forecast run --data data --start 5 --leads 1,3 --members 2 --out leads.nc")
    command("forecast baseline:climatology --data data --start all --steps 3 --members 3 --out all.nc")
    command(f"forecast system:{SYSTEM} --data data --leads 0.5,1 --members 1 --param domain_length=36 --out half.nc")
    command("observe data --out observations.nc --fraction 0.2 --steps 6")
    command("assimilate run --observations observations.nc --members 4 --set num_steps=4 --out analysis.nc")
    command("assimilate run --observations observations.nc --method interpolation --members 4 --out smooth.nc")
    command("forecast run --data data --start analysis.nc --steps 5 --members 4 --out onward.nc")
    table = command("evaluate forecast.nc --truth data --out scores.json")
    command("evaluate analysis.nc --truth data --out analysis.json")
    command("evaluate onward.nc --truth data")
    for name in ("forecast.nc", "analysis.nc", "observations.nc"):
        command(f"plot {name} --out {Path(name).stem}.png")
    command("plot forecast.nc --out forecast.gif")
    command("report run forecast.nc analysis.nc scores.json --out report.html")
    runs = f"run runs/regression baseline:persistence baseline:climatology system:{SYSTEM}"
    command(f"compare {runs} --data data --out compared --members 3 --steps 6")

    assert "crps" in table.lower()
    opened = {path.stem: xr.open_dataset(path) for path in tmp_path.glob("*.nc") if path.name != "observations.nc"}
    assert np.array_equal(opened["forecast"]["u"], opened["again"]["u"])
    assert opened["last"].frame.values.tolist() == [39]
    assert opened["leads"].lead_time.values.tolist() == [1.0, 3.0]
    assert opened["leads"].frame.values.tolist() == [5]
    assert opened["all"].frame.values.tolist() == list(range(37))
    assert opened["onward"].frame.values.tolist() == [5]
    assert opened["half"].lead_time.values.tolist() == [0.5, 1.0]
    for path in (*tmp_path.glob("*.png"), *tmp_path.glob("*.gif")):
        assert path.stat().st_size > 2000
    for page in ("report.html", "compared/report.html"):
        assert "<html" in (tmp_path / page).read_text()
        assert 'src="http' not in (tmp_path / page).read_text()
    table = (tmp_path / "compared" / "table.txt").read_text()
    assert all(name in table for name in runs.split())
    assert len(list((tmp_path / "compared").glob("*.scores.json"))) == 5
    for name, made in opened.items():
        made.close()
        assert made.attrs["Conventions"].startswith("CF-"), name
