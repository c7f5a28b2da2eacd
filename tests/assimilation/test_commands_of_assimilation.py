"""Observe and assimilate on the command line: one set of observations for every method, the online task, and bad input."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import eddycast as ec
from eddycast.cli.app import run
from eddycast.errors import InputError

RUN = "ks/universal-small"
QUICK = ("--members", "2", "--set", "num_steps=2", "--set", "rollout=autoregressive")


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """Simulated data of the shipped run, and observations: every first frame, then a tenth of the points, without error."""
    folder = tmp_path_factory.mktemp("assimilation")
    recipe = ec.load(RUN).recipe.simulation
    ec.simulate(
        recipe.system, trajectories=6, steps=24, split=(2, 2, 2), seed=3, out=folder / "data", dt=recipe.dt,
        parameters=recipe.parameters, grid=recipe.grid, spin_up=20.0,
    )  # fmt: skip
    words = ["observe", folder / "data", "--steps", 12, "--noise", 0, "--stated-noise", 0.05, "--complete", 1]
    for suffix in ("nc", "csv"):
        assert run([*map(str, words), "--out", str(folder / f"o.{suffix}")]) == 0
    return folder


def command(*words) -> int:
    return run([str(word) for word in words])


def test_observations_without_error_are_the_truth_and_state_one(room):
    obs = ec.Observations.open(room / "o.nc")
    truth = ec.open_dataset(room / "data")
    std = ec.observe(truth, noise=0.05, steps=12).noise_std
    assert np.array_equal(obs.noise_std, std)
    for case, (number, frame) in enumerate(zip(obs.trajectories.tolist(), obs.frames.tolist(), strict=True)):
        states = truth.read(number, frame, frame + 12)
        assert bool((obs.values[case] == states)[obs.mask[case]].all())
    assert obs.mask[:, 0].all() and 0.05 < obs.mask[:, 1:].float().mean() < 0.15
    assert ec.observe(truth, noise="0.0 m s-1" if truth.fields[0].units == "m s-1" else 0.0, stated_noise=1.0).count > 0


def test_both_files_give_the_same_analysis_bit_by_bit(room, capsys):
    for suffix in ("nc", "csv"):
        out = room / f"from-{suffix}.nc"
        assert (
            command("assimilate", RUN, "--observations", room / f"o.{suffix}", "--method", "sda", *QUICK, "--out", out)
            == 0
        )
    told = capsys.readouterr().out
    forward, backward = re.findall(r"Network passes per member: (\d+) forward, (\d+) backward", told)[0]
    with xr.open_dataset(room / "from-nc.nc") as one, xr.open_dataset(room / "from-csv.nc") as two:
        for name in one.data_vars:
            assert np.array_equal(one[name].values, two[name].values)
        assert one.attrs["eddycast_network_passes_forward"] == float(forward) > 0
        assert float(backward) == 2 * float(forward)  # automatic gamma: one pass for the width, one for the pull


@pytest.mark.parametrize("method", ["sda", "dps", "video-diffusion", "pigdm", "mmps", "etkf", "interpolation"])
def test_every_method_does_the_online_task_and_is_scored_as_it_is(room, method):
    """Blocks of 5 frames with horizons of 8: two blocks of each case, lead 0 at the first frame of each."""
    observations, out = ec.Observations.open(room / "o.nc"), room / f"{method}.nc"
    guided = method not in ("etkf", "interpolation")
    settings = QUICK if guided else ("--members", "4")
    task = ("--mode", "online", "--block", 5, "--forecast", 8)
    assert (
        command("assimilate", RUN, "--observations", room / "o.nc", "--method", method, *task, *settings, "--out", out)
        == 0
    )
    with xr.open_dataset(out) as made:
        assert dict(made.sizes) == {"init": 4, "member": 2 if guided else 4, "lead_time": 8, "x": 64}
        assert made.frame.values.tolist() == [0, 5, 0, 5]
        assert made.trajectory.values.tolist() == observations.trajectories.repeat_interleave(2).tolist()
        dt = ec.open_dataset(room / "data").dt
        assert np.allclose(made.lead_time.values, np.arange(8) * dt)
        assert np.allclose(made.time.values, made.frame.values * dt)
        assert made.attrs["eddycast_mode"] == "online" and made.attrs["eddycast_network_passes_forward"] > 0
    scores = ec.evaluate(out, truth=room / "data")
    assert len(scores.to_xarray().lead_time) == 8


def test_blocks_are_given_to_python_as_well_and_withheld_observations_count_in_blocks_alone(room):
    observations = ec.Observations.open(room / "o.nc")
    settings = {"method": "etkf", "mode": "online", "block": 4, "forecast": 6, "members": 4}
    made = ec.load(RUN).assimilate(observations, **settings, blocks=2, withhold=0.2)
    assert made.sizes["init"] == 4 and made.sizes["lead_time"] == 6
    _, held = observations.withhold(0.2, seed=0)
    assert made.attrs["withheld_observations"] == held.window(0, 8).count


def test_a_case_without_observations_is_told(room, capsys):
    text = (room / "o.csv").read_text().splitlines()
    last = str(int(ec.Observations.open(room / "o.csv").trajectories[-1]))
    header = next(number for number, line in enumerate(text) if line.startswith("trajectory,"))
    kept = [line for line in text[header + 1 :] if not line.startswith(f"{last},")]
    (room / "fewer.csv").write_text("\n".join([*text[: header + 1], *kept]) + "\n")
    out = room / "fewer.nc"
    assert (
        command("assimilate", RUN, "--observations", room / "fewer.csv", "--method", "sda", *QUICK, "--out", out) == 0
    )
    assert "1 of 2 cases have no observation" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, line",
    [
        (("--mode", "online"), "needs --block and --forecast"),
        (("--block", "5"), "belong to --mode online, not to smooth"),
        (("--mode", "online", "--block", "5", "--forecast", "4"), "at least block = 5, got 4"),
        (("--mode", "online", "--block", "20", "--forecast", "24"), "20 observed frames are needed, there are 12"),
        (("--mode", "filter", "--method", "sda"), "no mode 'filter': it has smooth, online"),
        (("--method", "dpm"), "did you mean 'dps'"),
        (("--method", "sda", "--set", "overlap=9"), "overlap must lie in 1 ..."),
        (("--method", "sda", "--set", "stride=9"), "stride 9 leaves frames out"),
        (("--method", "sda", "--set", "previous=both"), "previous"),
        (("--method", "sda", "--set", "given=2"), "observe --complete 2"),
        (("--method", "sda", "--set", "width=2"), "no such setting here"),
        (("--method", "etkf", "--set", "block=2"), "no such setting here"),
    ],
)
def test_bad_requests_end_in_one_line_and_exit_code_two(room, capsys, words, line):
    out = room / "never.nc"
    capsys.readouterr()
    assert command("assimilate", RUN, "--observations", room / "o.nc", *words, "--out", out) == 2
    told = [text for text in capsys.readouterr().err.splitlines() if text.startswith("eddycast: ")]
    assert len(told) == 1 and line in told[0], told
    assert not out.exists()


def test_bad_observations_end_in_one_line_and_exit_code_two(room, capsys):
    with xr.open_dataset(room / "o.nc", decode_times=False) as opened:
        whole = opened.load()
    (name,) = (variable for variable in whole.data_vars if not variable.startswith("eddycast_"))
    empty = whole.assign({name: whole[name].where(False)})
    cut = whole.assign({name: (("init", "lead_time", "half"), whole[name].values[..., ::2], whole[name].attrs)})
    text = (room / "o.csv").read_text().splitlines()
    header = next(number for number, row in enumerate(text) if row.startswith("trajectory,"))
    (room / "none.csv").write_text("\n".join(text[: header + 1]) + "\n")
    for made, words in (
        (empty, "No observations are left"),
        (cut, "expected numbers of shape (2, 12, 64)"),
        (None, "No observ"),
    ):
        path = room / "none.csv"
        if made is not None:
            path = room / "spoiled.nc"
            made[name].encoding = {}
            made.to_netcdf(path, engine="h5netcdf")
        capsys.readouterr()
        assert command("assimilate", RUN, "--observations", path, "--out", room / "never.nc") == 2
        told = [row for row in capsys.readouterr().err.splitlines() if row.startswith("eddycast: ")]
        assert len(told) == 1 and words in told[0], told
    capsys.readouterr()
    assert command("observe", room / "data", "--noise", 0, "--out", room / "never.nc") == 2
    assert "--stated-noise" in capsys.readouterr().err
    assert command("observe", room / "data", "--coarsen", 4, "--complete", 1, "--out", room / "never.nc") == 2
    assert command("observe", room / "data", "--stated-noise", "much", "--out", room / "never.nc") == 2
    assert "--stated-noise must be a number" in capsys.readouterr().err
    with pytest.raises(InputError, match="complete counts first frames"):
        ec.observe(room / "data", steps=3, complete=4)
