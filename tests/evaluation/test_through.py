"""The truth as a space gives it back: frames, chunks and strides, what is told of it, and a real autoencoder's run."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
import xarray as xr

import eddycast as ec
from eddycast import api
from eddycast.cli.app import run
from eddycast.data import from_arrays
from eddycast.errors import InputError
from eddycast.evaluation import evaluate, passed_through
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.training import SilentObserver

POINTS, FRAMES = 16, 23
GRID = Grid((periodic_axis("x", POINTS, 2.0),))
STATES = torch.randn(5, FRAMES, 2, POINTS, generator=torch.Generator().manual_seed(3))


def make_truth(states=STATES, grid=GRID):
    return from_arrays(states, fields=["u", "v"], grid=grid, dt=0.25, attributes={"system": "noise"})


def halved(states):
    """Means of neighbouring points, twice each."""
    return states.unflatten(-1, (-1, 2)).mean(dim=-1).repeat_interleave(2, dim=-1)


@dataclass
class Halves:
    """Pairs of points to their mean, in latents of half the points; adds the time when it decodes, so that a wrong one shows."""

    slope: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def encode(self, state, conditions, lead_times):
        self.sizes.append(state.shape[1])
        assert state.shape[0] == 1 and conditions.batch == (1,) and len(lead_times) == state.shape[1]
        return state.unflatten(-1, (-1, 2)).mean(dim=-1)

    def decode(self, x, conditions, lead_times):
        steps = conditions.time[:, None] + lead_times.to(conditions.time)
        return x.repeat_interleave(2, dim=-1) + self.slope * steps[..., None, None]


@pytest.mark.parametrize("chunk", [1, 3, 4, 100, None])
@pytest.mark.parametrize("window", [(0, FRAMES, 1), (4, 5, 1), (2, 21, 3), (1, 22, 7)])
def test_every_frame_passes_once_at_its_own_time(chunk, window):
    space = Halves(slope=0.1)
    passed = passed_through(make_truth(), space, "a run", chunk=chunk)
    start, stop, stride = window
    frames = torch.arange(start, stop, stride)
    expected = halved(STATES[2, frames]) + 0.1 * frames[:, None, None]
    torch.testing.assert_close(passed.read(2, *window), expected)
    assert sum(space.sizes) == len(frames) and max(space.sizes) <= (chunk or 64)


def make_forecast(states, members=3):
    """Lead times 1 to 20 of every trajectory; members are the states themselves."""
    values = states[:, None, 1:21].expand(-1, members, -1, -1, -1).numpy()
    return xr.Dataset(
        {name: (("init", "member", "lead_time", "x"), values[..., place, :]) for place, name in enumerate("uv")},
        {
            "trajectory": ("init", np.arange(len(states))),
            "frame": ("init", np.zeros(len(states), dtype=int)),
            "lead_time": ("lead_time", 0.25 * np.arange(1, 21), {"units": "1", "step": 0.25}),
        },
        {"eddycast_kind": "forecast"},
    )


def test_scores_are_of_what_the_space_keeps_and_say_so():
    """A forecast of exactly what comes back is perfect against it, and errs by what is lost against the truth."""
    kept = make_forecast(halved(STATES))
    passed = passed_through(make_truth(), Halves(), "runs/ae")
    against = evaluate(kept, passed, horizons="1:20", resamples=10)
    plain = evaluate(kept, make_truth(), horizons="1:20", resamples=10)
    assert against.horizon("rmse_member", "1:20", "u")[0] < 1e-6
    lost = float((STATES - halved(STATES))[:, 1:21, 0].square().mean().sqrt())
    assert plain.horizon("rmse_member", "1:20", "u")[0] == pytest.approx(lost, rel=1e-5)
    assert against.attributes["truth_through"] == "runs/ae" and plain.attributes["truth_through"] == ""
    assert "the truth through runs/ae" in against.table()
    assert "through" not in plain.table()


def test_points_without_values_stay_so():
    valid = torch.ones(POINTS, dtype=torch.bool)
    valid[4:8] = False
    grid = Grid((Axis("x", GRID.axes[0].coordinates, ("open", "open")),))
    truth = make_truth(torch.where(valid, STATES, torch.nan), grid)
    found = passed_through(truth, Halves(), "a run").read(0, 0, 5)
    assert torch.equal(found.isfinite().all(dim=(0, 1)), valid)
    torch.testing.assert_close(found[..., valid], halved(STATES)[0, :5][..., valid])


class Broken(Halves):
    def decode(self, x, conditions, lead_times):
        back = super().decode(x, conditions, lead_times)
        back[:, -1, 0, 3] = torch.inf
        return back


class Shrunk(Halves):
    def decode(self, x, conditions, lead_times):
        return x


@pytest.mark.parametrize("space, words", [(Broken(), "not finite, in trajectory 0"), (Shrunk(), r"shape \(2, 8\)")])
def test_a_space_that_fails_is_told_in_one_line(space, words):
    with pytest.raises(InputError, match=words) as error:
        evaluate(make_forecast(STATES), passed_through(make_truth(), space, "bad/run"))
    assert "\n" not in str(error.value) and "bad/run" in str(error.value)
    with pytest.raises(ValueError, match="at least one frame"):
        passed_through(make_truth(), Halves(), "a run", chunk=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A plane of two fields, an autoencoder of it that was hardly trained, its reconstruction, and a pixel emulator."""
    place = tmp_path_factory.mktemp("through")
    data = api.simulate(
        "euler-multi-quadrants-periodic",
        trajectories=6,
        steps=8,
        grid=(16, 16),
        split=(3, 1, 2),
        seed=0,
        out=place / "data",
    )
    settings = {"training.steps": 2, "training.validations": 1}
    autoencoder = ec.train(
        "euler/autoencoder-smoke", data=data, out=place / "ae", overrides=settings, observer=SilentObserver()
    )
    pixels = ec.train(
        "any/regression-smoke", data=data, out=place / "pixels", overrides=settings, observer=SilentObserver()
    )
    again = autoencoder.reconstruct(data, split="test", steps=6)
    again.to_netcdf(place / "again.nc", engine="h5netcdf")
    return place, data, autoencoder, pixels, again


def test_a_reconstruction_is_perfect_against_the_truth_through_its_autoencoder(world):
    place, data, autoencoder, _, again = world
    through = ec.evaluate(again, truth=data, through=place / "ae", horizons="1:3,4:6")
    plain = ec.evaluate(again, truth=data, horizons="1:3,4:6")
    for one in ("1", "1:3", "4:6"):
        assert plain.horizon("vrmse_published", one)[0] > 0.05
        assert through.horizon("vrmse_published", one)[0] < 1e-4
    assert through.attributes["truth_through"] == str(place / "ae")
    again_by_object = ec.evaluate(again, truth=data, through=autoencoder, horizons="1:3,4:6")
    xr.testing.assert_identical(again_by_object.data, through.data)


def test_the_command_passes_the_truth_and_averages_over_horizons(world, tmp_path, capsys):
    place = world[0]
    given = ["evaluate", str(place / "again.nc"), "--truth", str(place / "data")]
    out = tmp_path / "scores.json"
    assert run([*given, "--horizons", "1:3,4:6", "--through", str(place / "ae"), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Horizons" in shown and f"the truth through {place / 'ae'}" in shown
    assert ec.Scores.from_json(out).horizon("vrmse_published", "4:6")[0] < 1e-4
    for more, words in (
        (["--horizons", "1:3,3:6"], "overlap"),
        (["--horizons", "1:60"], "1 to 6"),
        (["--through", "baseline:persistence"], "no autoencoder"),
        (["--through", str(place / "pixels")], "no autoencoder"),
        (["--through", str(place / "nothing")], "no run"),
        (["--device", "abacus"], "--device"),
    ):
        assert run([*given, *more]) == 2
        shown = capsys.readouterr()
        assert words in shown.err and len(shown.err.strip().splitlines()) == 1


def test_data_of_another_kind_do_not_pass(world):
    place, _, _, _, again = world
    with pytest.raises(InputError, match="was trained on"):
        ec.evaluate(again, truth=make_truth(), through=place / "ae")
