"""The Well's layout: the_well's own loader as referee, our files and other people's."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import yaml

from eddycast.data import Field, WindowBatches, from_arrays, open_dataset, statistics, validate_well, write_well
from eddycast.data.quadrature import plain_axis
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis

SETS = (
    "euler_multi_quadrants_openBC",
    "euler_multi_quadrants_periodicBC",
    "kolmogorov_flow",
    "kuramoto_sivashinsky",
    "rayleigh_benard",
)


def small(dims: int = 2, **options):
    """Six trajectories with a scalar, a vector, a tensor, two parameters and a static field, none of them alike."""
    axes = (
        periodic_axis("x", 6, 3.0, "m"),
        plain_axis("y", (1 - np.cos((np.arange(5) + 0.5) * np.pi / 5)) / 2, boundary=("wall", "open")),
        plain_axis("z", np.arange(4.0), boundary=("wall", "wall")),
    )[:dims]
    names = [axis.name for axis in axes]
    fields = [Field("p", "Pa"), *(Field(f"v_{a}", "m/s", vector="v") for a in names)]
    if dims > 1:
        fields += [Field(f"s_{a}{b}", vector="s") for a in names for b in names]
    grid = Grid(axes)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 12, len(fields), *grid.shape, generator=generator)
    settings = {
        "parameters": torch.stack([torch.arange(6.0), torch.full((6,), 0.5)], 1),
        "parameter_names": ["nu", "kappa"],
        "static": torch.randn(1, *grid.shape, generator=generator),
        "static_names": ["height"],
        "attributes": {"system": "small", "lyapunov_time": 13.2, "source": "a test"},
        "time_units": "s",
        **options,
    }
    return from_arrays(states, fields=fields, grid=grid, dt=0.25, **settings)


def assert_same(ours, data):
    assert [(f.name, f.units, f.vector) for f in ours.fields] == [(f.name, f.units, f.vector) for f in data.fields]
    assert (ours.grid.names, ours.grid.periodic) == (data.grid.names, data.grid.periodic)
    assert [axis.boundary for axis in ours.grid.axes] == [axis.boundary for axis in data.grid.axes]
    assert [axis.period for axis in ours.grid.axes] == [axis.period for axis in data.grid.axes]
    assert torch.allclose(ours.grid.weights(), data.grid.weights(), rtol=1e-5)
    assert (ours.dt, ours.time_units, ours.cycle) == (data.dt, data.time_units, data.cycle)
    for split in ("train", "valid", "test"):
        for one, two in zip(ours.segments(split), data.segments(split), strict=True):
            assert len(one) == len(two)
            found = ours.read(one.trajectory, one.start, one.stop)
            assert torch.equal(found.nan_to_num(-9), data.read(two.trajectory, two.start, two.stop).nan_to_num(-9))
            assert torch.equal(ours.parameters(one.trajectory), data.parameters(two.trajectory))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_round_trip(tmp_path, dims):
    data = small(dims)
    write_well(data, tmp_path / "set")
    ours = open_dataset(tmp_path / "set")
    assert_same(ours, data)
    assert torch.equal(ours.static, data.static) and ours.static_names == data.static_names
    assert ours.attributes["system"] == "small" and ours.attributes["lyapunov_time"] == 13.2
    assert validate_well(tmp_path / "set") == []
    assert not list(tmp_path.glob(".*")), "no temporary folder stays"


def test_land_lengths_and_time_blocks_survive(tmp_path):
    states = [torch.randn(n, 1, 6, generator=torch.Generator().manual_seed(n)) for n in (5, 9, 5, 7)]
    for one in states:
        one[..., 2] = torch.nan
    grid = Grid((periodic_axis("x", 6, 1.0),))
    data = from_arrays(states, fields=["u"], grid=grid, dt=0.1)
    write_well(data, tmp_path / "set")
    ours = open_dataset(tmp_path / "set")
    assert torch.equal(ours.valid, data.valid)
    assert sorted(map(len, ours.segments("train"))) == sorted(map(len, data.segments("train")))
    block = from_arrays(states[1][None], fields=["u"], grid=grid, dt=0.1)
    write_well(block, tmp_path / "block")
    again = open_dataset(tmp_path / "block")
    assert_same(again, block)
    last = block.segments("test")[0]
    assert again.times(again.segments("test")[0].trajectory, 0) == pytest.approx(block.times(0, last.start))


@pytest.mark.parametrize("dims", [1, 2])
def test_the_well_reads_what_we_write(tmp_path, dims):
    well = pytest.importorskip("the_well.data")
    data = small(dims)
    write_well(data, tmp_path / "set")
    loader = well.WellDataset(
        path=str(tmp_path / "set"), well_split_name="train", n_steps_input=2, n_steps_output=3, min_dt_stride=2
    )
    names = [name for order in sorted(loader.metadata.field_names) for name in loader.metadata.field_names[order]]
    assert tuple(names) == data.field_names and loader.metadata.constant_field_names[0] == ["height"]
    windows = data.windows("train", 5, 2)
    assert len(loader) == len(windows)
    for index in (0, len(windows) // 2, len(windows) - 1):
        trajectory, start = windows[index].tolist()
        sample = loader[index]
        expected = data.read(trajectory, start, start + 9, 2).movedim(1, -1)
        assert torch.equal(torch.cat([sample["input_fields"], sample["output_fields"]]), expected)
        assert torch.equal(sample["constant_scalars"], data.parameters(trajectory))
        assert torch.equal(sample["constant_fields"][..., 0], data.static[0])
    codes = {"wall": 0, "open": 1, "periodic": 2}
    sides = [[codes[side] for side in axis.boundary] for axis in data.grid.axes]
    assert sample["boundary_conditions"].tolist() == sides
    assert torch.allclose(
        sample["space_grid"][..., 0].reshape(-1).unique(), torch.tensor(data.grid.axes[0].coordinates)
    )


def test_the_well_normalises_with_our_statistics(tmp_path):
    well, normalization = pytest.importorskip("the_well.data"), pytest.importorskip("the_well.data.normalization")
    data = small()
    write_well(data, tmp_path / "set")
    loader = well.WellDataset(
        path=str(tmp_path / "set"),
        well_split_name="train",
        use_normalization=True,
        normalization_type=normalization.ZScoreNormalization,
        full_trajectory_mode=True,
    )
    x = torch.stack(
        [torch.cat([s["input_fields"], s["output_fields"]]) for s in (loader[i] for i in range(len(loader)))]
    )
    space = statistics(data, weighted=False)
    states = torch.stack([data.read(one.trajectory, 0, 12) for one in data.segments("train")])
    conditions = data.conditions([one.trajectory for one in data.segments("train")], 0)
    assert torch.allclose(x.movedim(-1, 2), space.encode(states, conditions, torch.arange(12.0)), atol=1e-4)


@pytest.mark.parametrize("name", SETS)
def test_outside_data_open_and_agree_with_the_well(shared_data, name):
    well = pytest.importorskip("the_well.data")
    data = open_dataset(shared_data / name)
    assert validate_well(shared_data / name) == []
    for split in ("train", "valid", "test"):
        loader = well.WellDataset(
            path=str(shared_data / name), well_split_name=split, n_steps_input=1, n_steps_output=2
        )
        windows = data.windows(split, 3)
        assert len(loader) == len(windows)
        index = len(windows) - 1
        trajectory, start = windows[index].tolist()
        sample = loader[index]
        frames = torch.cat([sample["input_fields"], sample["output_fields"]]).movedim(-1, 1)
        assert torch.equal(data.read(trajectory, start, start + 3), frames)
        assert torch.equal(data.parameters(trajectory), sample["constant_scalars"])
    kinds = torch.tensor([[("wall", "open", "periodic").index(s) for s in a.boundary] for a in data.grid.axes])
    assert torch.equal(sample["boundary_conditions"], kinds.float())


@pytest.mark.parametrize("name", SETS)
def test_our_statistics_are_those_of_the_wells_program(shared_data, name):
    """stats.yaml has five digits; means near zero are compared on the scale of the rms."""
    data = open_dataset(shared_data / name)
    found = statistics(data, weighted=False)
    stats = yaml.safe_load((shared_data / name / "stats.yaml").read_text())

    def flat(kind: str) -> torch.Tensor:
        seen: list[str] = []
        for item in data.fields:
            if (item.vector or item.name) not in seen:
                seen.append(item.vector or item.name)
        return torch.tensor(np.concatenate([np.atleast_1d(stats[kind][one]) for one in seen]))

    assert torch.allclose(found.std.flatten().double(), flat("std"), rtol=1e-4)
    assert ((found.mean.flatten().double() - flat("mean")).abs() <= 1e-4 * flat("rms")).all()
    change = found.increment_std.double() * found.std.flatten().double()
    assert torch.allclose(change, flat("std_delta"), rtol=1e-4)


def test_chebyshev_weights_see_that_the_pressure_has_no_mean(shared_data):
    """The solver fixes the integral of the pressure to 0; unweighted node means are off by 0.0038 (stats.yaml)."""
    data = open_dataset(shared_data / "rayleigh_benard")
    mean = statistics(data).mean.flatten()
    assert abs(mean[1]) < 1e-6 and abs(statistics(data, weighted=False).mean.flatten()[1]) > 3e-3


def test_lazy_windows_of_hdf5_are_the_same_with_workers(shared_data):
    data = open_dataset(shared_data / "kuramoto_sivashinsky")
    held = WindowBatches(data, "valid", 4, 2, batch_size=3, seed=1)
    spread = WindowBatches(data, "valid", 4, 2, batch_size=3, seed=1, memory_limit=0, workers=2)
    alone = WindowBatches(data, "valid", 4, 2, batch_size=3, seed=1, memory_limit=0)
    for one, two, three in zip(*(which.iterate(2, 6) for which in (held, alone, spread)), strict=True):
        assert torch.equal(one[0], two[0]) and torch.equal(one[0], three[0])


def test_splits_of_folders_files_and_fractions(tmp_path):
    write_well(small(), tmp_path / "set")
    assert [len(open_dataset(tmp_path / "set" / "data").splits[k]) for k in ("train", "valid", "test")] == [4, 1, 1]
    single = next((tmp_path / "set" / "data" / "train").iterdir())
    assert [len(part) for part in open_dataset(single).splits.values()] == [2, 1, 1]
    other = open_dataset(tmp_path / "set", fractions=(0.5, 0.0, 0.5))
    assert [len(part) for part in other.splits.values()] == [3, 0, 3]
    shutil.rmtree(tmp_path / "set" / "data" / "valid")
    cut = open_dataset(tmp_path / "set")
    assert [len(part) for part in cut.splits.values()] == [3, 1, 1] and "valid" in cut.notes[-1]


def test_channels_come_back_in_their_order(tmp_path):
    """The layout puts scalars before vectors; what we write says in which order the data had them."""
    data = small()
    last = data.read(0, 0, 9).roll(-1, dims=1)  # p behind the vector and the tensor
    moved = from_arrays(
        last[None], fields=[*data.fields[1:], data.fields[0]], grid=data.grid, dt=0.5, fractions=(1, 0, 0)
    )
    write_well(moved, tmp_path / "set")
    again = open_dataset(tmp_path / "set", fractions=(1, 0, 0))
    assert again.field_names == moved.field_names and torch.equal(again.read(0, 0, 9), last)
    write_well(moved, tmp_path / "other")
    with h5py.File(tmp_path / "other/data/train/data.hdf5", "a") as file:
        del file.attrs["eddycast_fields"]
    assert open_dataset(tmp_path / "other", fractions=(1, 0, 0)).field_names == data.field_names


def test_fields_are_chosen_by_the_name_in_the_file(tmp_path):
    data = small()
    write_well(data, tmp_path / "set")
    ours = open_dataset(tmp_path / "set", fields="v")
    assert ours.field_names == ("v_x", "v_y")
    assert torch.equal(ours.read(1, 2, 5), data.read(1, 2, 5)[:, 1:3])
    with pytest.raises(InputError, match="no field 'w'; valid ones: p, v, s"):
        open_dataset(tmp_path / "set", fields=["w"])


def test_constant_fields_that_differ_between_files_are_static_fields_of_each_trajectory(tmp_path):
    """Also those that say of themselves that all trajectories share them; named in fields=... they are channels."""
    data = small()
    write_well(data, tmp_path / "set")
    for file in sorted((tmp_path / "set" / "data").glob("*/*.hdf5")):
        with h5py.File(file, "a") as handle:
            handle["t0_fields/height"][...] += len(file.parent.name)
    ours = open_dataset(tmp_path / "set")
    assert ours.static_varies and ours.static_names == ("height",) and "differ between trajectories" in ours.notes[0]
    fields = ours.conditions([5, 4, 5], [0, 1, 2]).static_fields()
    for entry, letters in zip(fields, (4, 5, 4), strict=True):
        assert torch.allclose(entry, data.static + letters), "test has four letters, valid five"
    channel = open_dataset(tmp_path / "set", fields="p,height")
    assert channel.static is None and channel.field_names == ("p", "height")
    assert torch.allclose(channel.read(5, 0, 2)[:, 1], data.static + 4)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: f.attrs.__delitem__("grid_type"), "root attribute 'grid_type' is missing"),
        (lambda f: f.__delitem__("t2_fields"), "the group 't2_fields' is missing"),
        (lambda f: f["dimensions"].__delitem__("y"), "dimensions/y is missing"),
        (lambda f: f["t0_fields/p"].attrs.__setitem__("sample_varying", False), "t0_fields/p has shape"),
        (lambda f: f["t1_fields/v"].attrs.__delitem__("dim_varying"), "t1_fields/v has no attribute 'dim_varying'"),
        (lambda f: f["t1_fields"].attrs.__setitem__("field_names", ["v", "w"]), "names 'w' but does not hold"),
        (lambda f: f["scalars/nu"].attrs.__setitem__("time_varying", True), "scalars/nu has shape"),
        (lambda f: f["boundary_conditions/x_periodic"].attrs.__setitem__("bc_type", "SOFT"), "bc_type 'SOFT'"),
        (lambda f: f.attrs.__setitem__("dataset_name", "other"), "files disagree about dataset_name"),
        (lambda f: f["dimensions/time"].write_direct(np.zeros(12, np.float32)), "dimensions/time does not increase"),
    ],
)  # fmt: skip
def test_problems_are_found(tmp_path, damage, words):
    write_well(small(), tmp_path / "set")
    file = next((tmp_path / "set" / "data" / "train").iterdir())
    with h5py.File(file, "a") as handle:
        damage(handle)
    problems = validate_well(tmp_path / "set")
    assert len(problems) >= 1 and any(words in problem for problem in problems), problems


def test_a_truncated_file_is_one_clear_line(tmp_path):
    write_well(small(), tmp_path / "set")
    file = next((tmp_path / "set" / "data" / "train").iterdir())
    file.write_bytes(file.read_bytes()[:-3000])
    for path in (tmp_path / "set", file):
        with pytest.raises(InputError, match="cut short") as error:
            open_dataset(path)
        assert str(file) in str(error.value) and "\n" not in str(error.value)
    assert any("cut short" in problem for problem in validate_well(tmp_path / "set"))


def test_not_a_number_names_field_and_place(tmp_path):
    write_well(small(), tmp_path / "set")
    file = next((tmp_path / "set" / "data" / "train").iterdir())
    with h5py.File(file, "a") as handle:
        handle["t1_fields/v"][2, 7, 1, 1, 1] = np.nan
    data = open_dataset(tmp_path / "set")
    with pytest.raises(InputError, match="1 missing or infinite values in v_y, first in trajectory 2, frame 7"):
        statistics(data)


def test_files_that_do_not_belong_together(tmp_path):
    write_well(small(), tmp_path / "set")
    write_well(small(1), tmp_path / "line")
    file = next((tmp_path / "line" / "data" / "train").iterdir())
    shutil.copy(file, tmp_path / "set" / "data" / "train" / "zzz.hdf5")
    with pytest.raises(InputError, match=r"zzz.hdf5: its grid \(6,\) differs from \(6, 5\)"):
        open_dataset(tmp_path / "set")


def test_an_existing_folder_is_kept_unless_it_is_ours(tmp_path):
    target = tmp_path / "set"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists already"):
        write_well(small(), target)
    with pytest.raises(InputError, match="was not written by eddycast"):
        write_well(small(), target, overwrite=True)
    assert [item.name for item in target.iterdir()] == ["thesis.txt"]
    write_well(small(), tmp_path / "mine")
    with pytest.raises(InputError, match="exists already"):
        write_well(small(), tmp_path / "mine")
    write_well(small(1), tmp_path / "mine", overwrite=True)
    assert open_dataset(tmp_path / "mine").state_shape == (2, 6)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["mine", "set"]


@pytest.mark.parametrize("moment", ["rename", "states"])
def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch, moment):
    data = small()
    if moment == "rename":
        monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        expected: type[BaseException] = InputError
    else:
        expected = KeyboardInterrupt
        monkeypatch.setattr(type(data.source), "read", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(expected):
        write_well(data, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_per_trajectory(tmp_path):
    calls: list[tuple[int, int]] = []
    path = write_well(small(), tmp_path / "set", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 6) for n in range(1, 7)] and isinstance(path, Path)
