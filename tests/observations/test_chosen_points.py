"""Observations of the edge of a domain and of points that a mask chooses, in the library and from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast import api
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.observations import Observations, observe

WALLS = Axis("y", tuple(float(k) for k in range(7)), ("wall", "open"))
GRID = Grid((WALLS, periodic_axis("x", 9, 9.0)))
SETTINGS = {"grid": GRID, "fields": (("u", "1"), ("v", "1")), "dt": 1.0, "noise_std": torch.ones(2), "seed": 0}
STATES = torch.randn(2, 3, 2, 7, 9, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_stripe_is_the_points_within_its_width_of_a_side(width):
    obs = observe(STATES, stripe=width, **SETTINGS)
    y, x = torch.meshgrid(torch.arange(7), torch.arange(9), indexing="ij")
    distance = torch.stack([y, 6 - y, x, 8 - x]).amin(dim=0)
    assert (obs.mask == (distance < width)).all()
    assert obs.kind == "sensors"  # they stand still: a withheld one is withheld at all times
    assert int(obs.mask[0, 0, 0].sum()) == 63 - (7 - 2 * width) * (9 - 2 * width)


@pytest.mark.parametrize("shape, width, count", [((11,), 2, 4), ((8, 8, 8), 2, 512 - 64)])
def test_a_stripe_in_one_and_three_dimensions(shape, width, count):
    grid = Grid(tuple(periodic_axis(name, size, 1.0) for name, size in zip("zyx", shape, strict=False)))
    states = torch.zeros(1, 1, 1, *shape)
    obs = observe(states, grid=grid, fields=(("u", "1"),), dt=1.0, noise_std=torch.ones(1), seed=0, stripe=width)
    assert obs.count == count


def test_a_mask_chooses_the_points_and_land_is_left_out():
    positions = torch.rand(7, 9, generator=torch.Generator().manual_seed(1)) > 0.5
    valid = torch.rand(7, 9, generator=torch.Generator().manual_seed(2)) > 0.3
    obs = observe(STATES, positions=positions, valid=valid, only=["v"], **SETTINGS)
    assert (obs.mask[:, :, 1] == (positions & valid)).all() and not obs.mask[:, :, 0].any()
    clean = observe(STATES, positions=positions, added_std=torch.zeros(2), **SETTINGS)
    assert torch.equal(clean.values[clean.mask], STATES[clean.mask])


@pytest.mark.parametrize("instrument", [{"stripe": 1}, {"positions": torch.arange(63).reshape(7, 9) % 5 == 0}])
def test_first_frames_may_be_complete(instrument):
    obs = observe(STATES, complete=1, **instrument, **SETTINGS)
    assert obs.mask[:, 0].all() and not obs.mask[:, 1:].all() and obs.kind == "points"


@pytest.mark.parametrize(
    "instrument, words",
    [
        ({"stripe": 0}, "1 to 3 wide, got 0"),
        ({"stripe": 4}, "7 x 9 points can be 1 to 3 wide, got 4"),
        ({"stripe": 1, "sensors": 2}, "exactly one"),
        ({"positions": torch.zeros(7, 9, dtype=torch.bool)}, "false everywhere"),
        ({"positions": torch.ones(9, 7, dtype=torch.bool)}, r"shape \(9, 7\); expected true or false .* \(7, 9\)"),
        ({"positions": torch.ones(7, 9)}, "is float32"),
        ({}, "exactly one"),
    ],
)
def test_stripes_and_masks_that_cannot_be_are_told_in_one_line(instrument, words):
    with pytest.raises(InputError, match=words) as caught:
        observe(STATES, **instrument, **SETTINGS)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("chosen") / "data"
    api.simulate("kuramoto-sivashinsky", trajectories=4, steps=6, split=(2, 1, 1), seed=0, out=path)
    return path


CHOSEN = np.arange(64) % 7 == 3


@pytest.mark.parametrize("kind", ["bool.npy", "numbers.npy", "bool.nc", "pattern.nc"])
def test_the_command_reads_masks_from_files(data, tmp_path, kind):
    path = tmp_path / kind
    forms = {"bool": CHOSEN, "numbers": CHOSEN.astype(np.int8), "pattern": np.where(CHOSEN, 1.0, np.nan)}
    values = forms[path.stem]
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        xr.Dataset({"seen": ("x", values)}).to_netcdf(path, engine="h5netcdf")
    assert run(["observe", str(data), "--mask", str(path), "--out", str(tmp_path / "obs.nc"), "--steps", "4"]) == 0
    obs = Observations.open(tmp_path / "obs.nc")
    assert (obs.mask.numpy() == CHOSEN).all() and obs.num_times == 4


def test_the_command_observes_a_stripe(data, tmp_path, capsys):
    assert run(["observe", str(data), "--stripe", "3", "--out", str(tmp_path / "obs.csv")]) == 0
    obs = Observations.open(tmp_path / "obs.csv")
    assert obs.mask[0, 0, 0].nonzero()[:, 0].tolist() == [0, 1, 2, 61, 62, 63]
    assert run(["observe", str(data), "--stripe", "3", "--coarsen", "2", "--out", str(tmp_path / "o.nc")]) == 2
    assert "--coarsen and --stripe exclude each other" in capsys.readouterr().err.replace("\n", " ")


def _two(path):
    xr.Dataset({"a": ("x", CHOSEN), "b": ("x", CHOSEN)}).to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize(
    "name, write, words",
    [
        ("none.npy", lambda path: None, "no such file"),
        ("text.npy", lambda path: path.write_text("0 1 1"), "not a readable file"),
        ("half.npy", lambda path: np.save(path, np.full(64, 0.5)), "found float64 with other values"),
        ("words.npy", lambda path: np.save(path, np.array(["a", "b"])), "with other values"),
        ("objects.npy", lambda path: np.save(path, np.array([None, 1]), allow_pickle=True), "not a readable file"),
        ("small.npy", lambda path: np.save(path, CHOSEN[:10]), r"shape \(10,\)"),
        ("two.nc", _two, "expected one variable, .* found a, b"),
    ],
)
def test_masks_in_files_that_cannot_be_are_told_in_one_line(data, tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InputError, match=words) as caught:
        api.observe(data, mask=tmp_path / name)
    assert "\n" not in str(caught.value)
