"""A forecast says with which parameters it was made, and which of them its run has never seen."""

from __future__ import annotations

import pytest

from eddycast import api
from eddycast.cli.app import run
from eddycast.training import SilentObserver


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    api.simulate(
        "kuramoto-sivashinsky", trajectories=8, steps=8, spin_up=5.0, parameters={"domain_length": api.Values((30.0, 40.0))},
        out=place / "data",
    )  # fmt: skip
    api.train("ks/regression-smoke", data=place / "data", out=place / "run", observer=SilentObserver())
    return place


@pytest.mark.parametrize(("length", "beyond"), [(30, False), (35, False), (40, False), (41, True)])
def test_parameters_beyond_training_are_told(length, beyond, place, capsys, tmp_path):
    words = ["forecast", str(place / "run"), "--data", str(place / "data"), "--steps", "2", "--members", "1"]
    assert run([*words, "--param", f"domain_length={length}", "--out", str(tmp_path / "f.nc")]) == 0
    told = "domain_length 41 (trained on 30 to 40)" in capsys.readouterr().out
    assert told == beyond
    forecast = api.load(place / "run").forecast(
        api.open_dataset(place / "data").initial("test"),
        steps=1,
        members=1,
        parameters={"domain_length": float(length)},
    )
    assert forecast.attrs["eddycast_parameters"] == f"domain_length={length}"
    assert ("eddycast_extrapolated" in forecast.attrs) == beyond
