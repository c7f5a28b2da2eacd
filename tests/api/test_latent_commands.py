"""Runs in latent space wherever a run may stand: on the command line, in comparisons, reports, scores and assimilation."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "recipes"))
from latent_runs import alone, recipe, train

from eddycast import api
from eddycast.api.slurm import batch_script
from eddycast.cli.app import run
from eddycast.errors import InputError


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Euler data, an emulator in latent space and an autoencoder, in one folder."""
    folder = tmp_path_factory.mktemp("commands")
    data = api.simulate(
        "euler-multi-quadrants-periodic", trajectories=6, steps=7, grid=(8, 8), dt=0.06, seed=1, out=folder / "data"
    )
    log = {"energy": 1.0, "density": 1.0, "pressure": 1.0}
    space = type(recipe().space)("field", log=log, vectors="shared")
    train(recipe(space=space), data, folder / "run")
    train(type(recipe())(**{**vars(alone()), "space": space}), data, folder / "encoder")
    return folder


def command(words: str, folder: Path, monkeypatch, capsys) -> tuple[int, str, str]:
    monkeypatch.chdir(folder)
    code = run(words.split())
    told = capsys.readouterr()
    return code, told.out, told.err


def all_run(commands: tuple[str, ...], place: Path, monkeypatch, capsys) -> None:
    for words in commands:
        code, out, err = command(words, place, monkeypatch, capsys)
        assert code == 0, (words, err)
        assert out.count("Next:") <= 1


def test_from_data_to_scores(place, monkeypatch, capsys):
    commands = (
        "forecast run --data data --members 3 --steps 4 --out forecast.nc",
        "evaluate forecast.nc --truth data --out scores.json",
        "evaluate forecast.nc --truth data --through run --out through.json",
        "encode encoder data --out cache",
        "encode run data --out cache-of-run --split train --copies 2",
        "reconstruct encoder --data data --steps 4 --out again.nc",
        "evaluate again.nc --truth data --out again.json",
        "reconstruct run --data data --start 2 --out later.nc",
        "observe data --fraction 0.3 --noise 0.1 --out observations.nc",
        "assimilate run --observations observations.nc --members 2 --set num_steps=3 --out analysis.nc",
        "assimilate run --observations observations.nc --members 3 --method etkf --out filter.nc",
        "forecast run --data data --start filter.nc --members 2 --steps 2 --out onward.nc",
    )
    all_run(commands, place, monkeypatch, capsys)
    for name in ("forecast", "again", "later", "analysis", "filter", "onward"):
        with xr.open_dataset(place / f"{name}.nc", decode_timedelta=False) as made:
            assert dict(made.sizes)["x"] == dict(made.sizes)["y"] == 8
            assert all(
                np.isfinite(made[field].values).all() for field in ("energy", "density", "pressure", "momentum_x")
            ), name
    with xr.open_dataset(place / "later.nc", decode_timedelta=False) as later:
        assert dict(later.sizes)["lead_time"] == 4  # 7 states, from the third on


@pytest.mark.slow  # pictures
def test_comparisons_and_reports(place, monkeypatch, capsys):
    commands = (
        "compare run baseline:persistence --data data --members 2 --steps 2 --out compared",
        "report run encoder --out report.html",
    )
    all_run(commands, place, monkeypatch, capsys)
    assert (place / "report.html").stat().st_size > 1000 and (place / "compared" / "table.txt").is_file()


def test_reconstructions_are_the_truth_encoded_and_decoded(place):
    encoder, data = api.load(place / "encoder"), api.open_dataset(place / "data")
    made = encoder.reconstruct(data, steps=3)
    initial = data.initial("test", start=0)
    space, leads = encoder.run.space, torch.arange(1.0, 4.0)
    truth = initial.truth(3)
    exact = space.decode(space.encode(truth, initial.conditions(), leads), initial.conditions(), leads)
    for channel, name in enumerate(data.field_names):
        np.testing.assert_allclose(made[name].values[:, 0], exact[:, :, channel].numpy(), rtol=1e-5, atol=1e-6)
    assert made.lead_time.values == pytest.approx([0.06, 0.12, 0.18]) and dict(made.sizes)["member"] == 1
    everywhere = encoder.reconstruct(data, start="all", steps=2)
    assert dict(everywhere.sizes)["init"] == 5 and np.isfinite(everywhere.to_array().values).all()


@pytest.mark.parametrize(
    "options", [{"steps": 7}, {"steps": 0}, {"start": 6}, {"start": "last"}, {"start": 4, "steps": 3}], ids=str
)
def test_reconstructions_end_where_the_truth_ends(options, place):
    with pytest.raises(InputError, match="start earlier, or ask for fewer steps") as caught:
        api.load(place / "encoder").reconstruct(api.open_dataset(place / "data"), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        "forecast encoder --data data --out forecast-of-encoder.nc",
        "assimilate encoder --observations seen.nc --out no.nc",
        "compare encoder baseline:persistence --data data --out no",
    ],
)
def test_an_autoencoder_forecasts_nothing_and_says_so_in_one_line(words, place, monkeypatch, capsys):
    api.observe(api.open_dataset(place / "data"), fraction=0.3, noise=0.1).save(place / "seen.nc")
    code, _, err = command(words, place, monkeypatch, capsys)
    assert code == 2 and len(err.splitlines()) == 1
    assert "is an autoencoder, which forecasts nothing" in err and "--autoencoder encoder" in err
    assert not (place / "no").exists() and not (place / "no.nc").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("encode baseline:persistence data --out no", "has no autoencoder"),
        ("encode encoder nowhere --out no", "nowhere"),
        ("encode encoder data --out no --split trian", "trian"),
        ("reconstruct baseline:climatology --data data --out no.nc", "has no autoencoder"),
        ("reconstruct encoder --data data --out no.png", "no.png"),
        ("train flow.yaml --data data --latents cache --out no", "flow.yaml"),
        ("forecast run --data data --set sampler=magic --out no.nc", "magic"),
        ("forecast run --data data --set latent_channels=3 --out no.nc", "latent_channels"),
    ],
)
def test_mistakes_on_the_command_line(words, told, place, monkeypatch, capsys):
    code, _, err = command(words, place, monkeypatch, capsys)
    assert code == 2 and len(err.splitlines()) == 1 and told in err
    assert not list(place.glob("no*"))


def test_members_do_not_depend_on_their_number_or_on_chunks(place):
    forecaster, data = api.load(place / "run"), api.open_dataset(place / "data")
    initial = data.initial("test")
    whole = forecaster.forecast(initial, steps=4, members=4, seed=1)
    fewer = forecaster.forecast(initial, steps=4, members=2, seed=1)
    pieces = forecaster.forecast(initial, steps=4, members=4, seed=1, overrides={"chunk": 1})
    for field in data.field_names:
        np.testing.assert_allclose(whole[field].values[:, :2], fewer[field].values, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole[field].values, pieces[field].values, rtol=1e-4, atol=1e-5)
    dressed = forecaster.forecast(initial, steps=4, members=4, seed=1, overrides={"dress": True})
    assert (dressed.density.std("member") > whole.density.std("member")).mean() > 0.6


def test_batch_scripts_pass_the_autoencoder_on(place):
    given = {"data": "data", "out": Path("run"), "autoencoder": "encoder", "latents": "cache"}
    script = batch_script("euler/universal-latent-small", **given, nodes=1, gpus=1, time="1:00:00")
    assert "--autoencoder encoder" in script and "--latents cache" in script


def test_a_copy_of_a_run_needs_nothing_else(place, tmp_path, monkeypatch, capsys):
    shutil.copytree(place / "run", tmp_path / "elsewhere")
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.rmtree(tmp_path / "elsewhere" / "latents")
    code, _, err = command(
        "forecast elsewhere --data data --members 2 --steps 2 --out forecast.nc", tmp_path, monkeypatch, capsys
    )
    assert code == 0, err


@pytest.mark.parametrize(
    ("how", "autoencoder", "emulator"),
    [
        ({}, 4.0, 4.0),
        ({"stage": "autoencoder"}, 8.0, 8.0),
        ({"autoencoder": "given"}, None, 8.0),
        ({"init": "given"}, None, 8.0),
    ],
)
def test_minutes_are_shared_only_where_both_are_trained(how, autoencoder, emulator, monkeypatch):
    from types import SimpleNamespace

    from eddycast.api import runs

    seen = {}

    def trained(recipe, *args, **options):
        seen["recipe"] = recipe

    monkeypatch.setattr(runs, "train_recipe", trained)
    monkeypatch.setattr(runs, "opened_to_train", lambda data: data)
    monkeypatch.setattr(runs, "load", lambda *args, **options: SimpleNamespace(path="place"))
    runs.train("euler/universal-latent-smoke", data="data", out="run", minutes=8.0, **how)
    assert seen["recipe"].training.minutes == emulator
    assert seen["recipe"].autoencoder.training.minutes == autoencoder
