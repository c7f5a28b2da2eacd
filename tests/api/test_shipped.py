"""Runs that come with the package: small, complete, and good at what they are for."""

from __future__ import annotations

import pytest
import torch

import eddycast as ec
from eddycast.api.forecaster import shipped


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_run_is_small_and_knows_no_path(name):
    files = [file for file in shipped()[name].rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files if file.suffix == ".safetensors") <= 2_000_000
    assert {file.suffix for file in files} <= {".json", ".safetensors"}
    assert "path" not in ec.load(name).run.data["attributes"]


def test_the_small_diffusion_run_forecasts_states_it_has_never_seen():
    """A Lyapunov time ahead the correlation is still almost one; the ensemble spreads by about its error."""
    data = ec.simulate("kuramoto-sivashinsky", trajectories=20, steps=20, seed=4711)
    emulator = ec.load("ks/universal-small")
    forecast = emulator.forecast(data.initial("train").select(range(8)), steps=13, members=4, seed=0)
    scores = ec.evaluate(forecast, truth=data)
    assert scores.value("correlation_member", "u", 12) > 0.99
    assert 0.5 < scores.value("spread_skill", "u", 12) < 2.0
    again = emulator.forecast(data.initial("train").select(range(8)), steps=13, members=4, seed=0)
    assert torch.equal(torch.as_tensor(forecast["u"].values), torch.as_tensor(again["u"].values))
