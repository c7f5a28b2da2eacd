"""Variational methods and diagnostics through the public functions and the command line, with a system and with a trained emulator."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import eddycast as ec
from eddycast import assimilation
from eddycast.cli.app import run
from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace
from eddycast.emulators.network import ModelShape
from eddycast.emulators.regression import Regression, RegressionConfig
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.networks import UNetConfig
from eddycast.noise import MemberNoise
from eddycast.observations import Observations
from eddycast.report.fields import panels_of
from eddycast.report.view import observed, view

KS = "system:kuramoto-sivashinsky"


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """Data of two systems, and observations of them."""
    folder = tmp_path_factory.mktemp("diagnosed")
    ec.simulate("lorenz-63", trajectories=6, steps=8, split=(2, 2, 2), seed=1, dt=0.1, out=folder / "lorenz")
    ec.simulate(
        "kuramoto-sivashinsky", trajectories=4, steps=8, split=(2, 1, 1), seed=3, dt=0.5, out=folder / "ks",
        parameters={"domain_length": 12.0}, grid=(24,), spin_up=20.0,
    )  # fmt: skip
    for name, noise in (("lorenz", 0.1), ("ks", 0.05)):
        words = ["observe", folder / name, "--steps", 5, "--noise", noise, "--fraction", 0.7]
        assert run([*map(str, words), "--out", str(folder / f"{name}.nc")]) == 0
    return folder


def command(*words) -> int:
    return run([str(word) for word in words])


def test_an_analysis_comes_with_its_diagnostics(room, capsys):
    settings = ("--observations", room / "ks.nc", "--members", 8, "--withhold", 0.2, "--mode", "filter")
    assert command("assimilate", KS, *settings, "--method", "3dvar", "--out", room / "a.nc") == 0
    told = json.loads((room / "a.diagnostics.json").read_text())
    assert told["seconds"] > 0 and told["peak_memory"] > 1e7 and told["divergence"] is None
    assert told["passes"] == [0.0, 0.0]  # there is no network
    for which in ("used", "withheld"):
        assert len(told[which]["departures"]) == 5 and len(told[which]["ranks"]) == 9
    obs = ec.Observations.open(room / "ks.nc")
    used, held = obs.withhold(0.2, seed=0)
    assert (told["used"]["count"], told["withheld"]["count"]) == (used.count, held.count)
    with xr.open_dataset(room / "a.nc") as made:
        mean = made["u"].mean("member").values
        assert made.attrs["withheld_coverage"] == told["withheld"]["coverage"]
        assert "eddycast_diagnostics" not in made.attrs  # seconds and memory differ from run to run, the file does not
    departure = ((mean - held.values[:, :, 0].numpy()) / held.noise_std[0].item())[held.mask[:, :, 0].numpy()]
    assert told["withheld"]["departure_rms"] == pytest.approx(np.sqrt(np.mean(departure**2)), rel=1e-5)
    assert "Withheld observations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "method, forecaster, data", [("4dvar", "system:lorenz-63", "lorenz"), ("3dvar", KS, "ks"), ("4dvar", KS, "ks")]
)
def test_variational_methods_do_the_online_task_with_systems_and_emulators(room, forecaster, data, method):
    quick = {"iterations": 4, "grow_iterations": 2} if method == "4dvar" else {}
    obs = ec.Observations.open(room / f"{data}.nc")
    made = ec.load(forecaster).assimilate(
        obs, method=method, mode="online", block=2, forecast=3, members=2, overrides=quick
    )
    states = np.stack([made[name].values for name, _ in obs.fields], axis=3)  # (init, member, lead, channel, *space)
    assert states.shape[:3] == (2 * obs.num_cases, 2, 3) and np.isfinite(states).all()
    told = json.loads(made.attrs["eddycast_diagnostics"])
    assert told["used"]["departure_rms"] < 3
    if method == "4dvar":
        # two blocks, each without and with perturbations
        assert [one["frames"] for one in told["found"]["minimisations"]] == [[0, 2], [0, 2], [2, 4], [2, 4]]


def test_a_trained_emulator_is_differentiated_as_a_solver_is():
    """Against central differences in double precision; the same forecast with and without; and 4D-Var through it finds the start."""
    network = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=6)
    model = Regression(RegressionConfig(network=network), ModelShape(1, (True,))).double()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = 0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    emulator = Emulator(model, IdentitySpace())
    grid = Grid((periodic_axis("x", 16, 1.0),))
    conditions = Conditions(grid, 1.0, torch.zeros(2, 0), torch.zeros(2))
    state = torch.randn(2, 1, 1, 16, generator=generator, dtype=torch.float64)
    leads, noise = torch.tensor([1.0, 2.0]), MemberNoise.grid(0, 2, 1).select(0)

    def ahead(start):
        return emulator.advance(start, conditions, leads, noise=noise)

    free = ahead(state)
    assert not free.requires_grad
    asked = state.clone().requires_grad_()
    states = ahead(asked)
    assert torch.equal(states.detach(), free)
    with torch.no_grad():
        assert not ahead(asked).requires_grad
    weights, direction = torch.randn(2, 2, 2, 1, 16, generator=generator, dtype=torch.float64).unbind(0)
    direction = direction[:, :1]
    (gradient,) = torch.autograd.grad((weights * states).sum(), asked)
    change = (weights * (ahead(state + 1e-5 * direction) - ahead(state - 1e-5 * direction))).sum() / 2e-5
    assert change.item() == pytest.approx((gradient * direction).sum().item(), rel=1e-6)
    assert (gradient - weights.sum(dim=1, keepdim=True)).abs().max() > 0.1  # it is not persistence
    obs = Observations(
        torch.cat([state, free], dim=1), torch.tensor([1e-3], dtype=torch.float64), grid, (("u", "1"),), 1.0,
        torch.arange(2), torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    pool = torch.randn(40, 2, 1, 1, 16, generator=generator, dtype=torch.float64)
    late = replace(obs, values=torch.where(torch.arange(3)[:, None, None] > 0, obs.values, torch.nan))
    found = assimilation.assimilate(
        "4dvar", emulator, late, obs.conditions(), members=1, seed=0, background=pool,
        options=assimilation.FourDVarOptions(iterations=300, tolerance=1e-3),
    )[0]  # fmt: skip
    assert (found - obs.values)[:, 1:].square().mean().sqrt() < 2e-3


def test_a_diffusion_is_refused_in_one_line():
    forecaster = ec.load("ks/universal-small")
    assert forecaster.run is not None
    states = forecaster.run.climatology()[:, None, None]
    grid = Grid((periodic_axis("x", states.shape[-1], 64.0),))
    obs = Observations(
        states[:1, 0], torch.ones(1), grid, (("u", "1"),), 1.0, torch.zeros(1, dtype=torch.long),
        torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    with pytest.raises(InputError, match="gives no gradients"):
        assimilation.assimilate(
            "4dvar", forecaster.run.emulator, obs, obs.conditions(), members=1, seed=0, background=states
        )


def test_an_analysis_is_drawn_with_truth_and_observations(room):
    out = room / "drawn.nc"
    settings = ("--observations", room / "ks.nc", "--members", 4, "--mode", "filter", "--method", "etkf")
    assert command("assimilate", KS, *settings, "--out", out) == 0
    picture = room / "drawn.png"
    assert command("plot", out, "--out", picture, "--truth", room / "ks", "--observations", room / "ks.nc") == 0
    plain = room / "plain.png"
    assert command("plot", out, "--out", plain) == 0
    assert picture.stat().st_size > plain.stat().st_size
    shown = view(out)
    seen = observed(room / "ks.nc", shown)
    assert seen is not None
    titles = [panel.title for panel in panels_of(shown, None, seen)]
    assert titles[0].startswith("observations (") and titles[-1] == "spread of the members"
    with xr.open_dataset(room / "ks.nc") as obs:
        np.testing.assert_array_equal(seen.mean, obs["u"].values[0])
    assert command("plot", out, "--out", picture, "--observations", room / "lorenz.nc") == 2
    assert command("plot", out, "--out", room / "drawn.gif", "--observations", room / "ks.nc") == 2
