"""Latents on disk: round trip, windows, laziness, worker processes; whole or not at all; damaged files end in one line."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from eddycast.data import Piece, WindowBatches, coarse_grid, open_latents, read_manifest, write_latents
from eddycast.data.latents import MANIFEST, STATES, LatentSource
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis

GRID = Grid((periodic_axis("x", 4, 1.0), Axis("y", (0.0, 1.0), ("wall", "open"))))
CODES = ((2.0, 2.0), (0.0, 1.0))
SUMMARY = {
    "dt": 0.5, "time_units": "s", "cycle": 12.0, "parameter_names": ["Ra", "Pr"], "provenance": {"autoencoder": "abc"},
}  # fmt: skip
LENGTHS = (7, 5, 6, 9)


def latents(number: int) -> Tensor:
    return torch.randn(LENGTHS[number], 3, 4, 2, generator=torch.Generator().manual_seed(number))


def piece(number: int, split: str = "train") -> Piece:
    codes = CODES if number != 1 else (CODES[0], CODES[1][::-1])
    return Piece(split, number, 2, 2 + LENGTHS[number], number % 2, 30.0 + number, (1e5 + number, 0.5), codes)


def pieces(*splits: str):
    for number, split in enumerate(splits or ("train", "train", "valid", "test")):
        yield piece(number, split), latents(number).split(4)


@pytest.fixture
def cache(tmp_path) -> Path:
    write_latents(tmp_path / "cache", pieces(), GRID, SUMMARY)
    return tmp_path / "cache"


def test_what_is_written_is_read(cache):
    found = open_latents(cache)
    assert found.lengths == LENGTHS and found.grid == GRID
    assert found.field_names == ("latent_0", "latent_1", "latent_2")
    assert {split: len(parts) for split, parts in found.splits.items()} == {"train": 2, "valid": 1, "test": 1}
    assert (found.dt, found.time_units, found.cycle) == (0.5, "s", 12.0)
    assert found.parameter_names == ("Ra", "Pr")
    for number in range(4):
        assert torch.equal(found.read(number, 0, LENGTHS[number]), latents(number))
        assert torch.equal(found.read(number, 1, 5, 2), latents(number)[1:5:2])
        assert found.parameters(number).tolist() == [1e5 + number, 0.5]
    here = found.conditions([0, 1], [0, 3])
    assert here.time.tolist() == [30, 34]  # steps of the calendar of the data that were encoded
    assert here.phase(torch.zeros(1)).flatten().tolist() == pytest.approx([6 / 12, 10 / 12])
    assert here.boundary_codes().tolist() == [[[2, 2], [0, 1]], [[2, 2], [1, 0]]]
    assert read_manifest(cache)["provenance"] == {"autoencoder": "abc"}


def test_windows_lie_in_pieces(cache):
    found = open_latents(cache)
    batches = WindowBatches(found, "train", 3, batch_size=8, seed=0)
    assert batches.num_windows == 5 + 3
    state, conditions = batches.batch(0)
    for row, (one, at) in enumerate(batches.windows[batches.indices(0)].tolist()):
        assert torch.equal(state[row], latents(one)[at : at + 3])
        assert conditions.time[row].item() == 30 + one + at


def test_only_the_frames_that_are_asked_for_are_read(cache, monkeypatch):
    found = open_latents(cache)
    asked = []
    get = h5py.Dataset.__getitem__

    def spy(self, index, *args, **options):
        asked.append((self.name, index))
        return get(self, index, *args, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spy)
    batches = WindowBatches(found, "train", 2, batch_size=2, seed=0, memory_limit=0)
    batches.batch(0)
    rows = batches.windows[batches.indices(0)].tolist()
    assert asked == [(f"/{one}", slice(at, at + 2, 1)) for one, at in rows]


def test_worker_processes_open_the_file_for_themselves(cache):
    found = open_latents(cache)
    first = found.read(0, 0, 2)  # a handle of this process, which must not travel
    assert found.source.handles
    again = pickle.loads(pickle.dumps(found.source))
    assert again.handles == {} and torch.equal(again.read(0, 0, 2, 1), first)
    batches = WindowBatches(found, "train", 3, batch_size=4, seed=0, workers=1, memory_limit=0)
    for step, (state, conditions) in enumerate(batches.iterate(0, 3)):
        assert torch.equal(state, batches.states(step))
        assert torch.equal(conditions.time, batches.conditions(step).time)


def test_a_forked_process_does_not_share_the_handle(cache):
    source = open_latents(cache).source
    source.read(0, 0, 1, 1)
    context = multiprocessing.get_context("fork")
    loader = DataLoader(Frames(source), batch_size=None, num_workers=1, multiprocessing_context=context)
    assert torch.equal(torch.stack(list(loader)), latents(0))


class Frames(torch.utils.data.Dataset):
    def __init__(self, source: LatentSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return self.source.lengths[0]

    def __getitem__(self, frame: int) -> Tensor:
        return self.source.read(0, frame, frame + 1, 1)[0]


# Writing.


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def torn():
        yield piece(0), latents(0).split(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(tmp_path / "cache", torn(), GRID, SUMMARY)
    assert names(tmp_path) == set()


def test_an_interrupted_writing_leaves_what_was_there(cache):
    def torn():
        yield piece(0), iter([latents(1)[:2], 1 / 0])

    with pytest.raises(ZeroDivisionError):
        write_latents(cache, torn(), GRID, SUMMARY)
    assert names(cache.parent) == {"cache"} and names(cache) == {MANIFEST, STATES}
    assert open_latents(cache).lengths == LENGTHS
    write_latents(cache, pieces("test"), GRID, SUMMARY)
    assert open_latents(cache).lengths == LENGTHS[:1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_not_written(tmp_path, value):
    bad = latents(0)
    bad[5, 1, 2, 0] = value
    with pytest.raises(InputError, match="Latents of trajectory 0 are not finite"):
        write_latents(tmp_path / "cache", iter([(piece(0), bad.split(4))]), GRID, SUMMARY)
    assert names(tmp_path) == set()


def test_what_is_no_cache_is_not_replaced(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="was not written by eddycast"):
        write_latents(tmp_path / "run", pieces(), GRID, SUMMARY)
    with pytest.raises(InputError, match="does not exist; create it first"):
        write_latents(tmp_path / "nowhere" / "cache", pieces(), GRID, SUMMARY)
    assert names(tmp_path / "run") == {"config.json"}


# Damage.


def refused(cache: Path) -> str:
    with pytest.raises(InputError) as caught:
        found = open_latents(cache)
        for number, length in enumerate(found.lengths):
            found.read(number, 0, length)
    assert "\n" not in str(caught.value) and str(cache) in str(caught.value), caught.value
    return str(caught.value)


def edited(cache: Path, change) -> None:
    content = json.loads((cache / MANIFEST).read_text())
    change(content)
    (cache / MANIFEST).write_text(json.dumps(content))


EDITS = {
    "format": lambda c: c.update(format=2),
    "no format": lambda c: c.pop("format"),
    "no cycle": lambda c: c.pop("cycle"),
    "no names": lambda c: c.pop("parameter_names"),
    "names": lambda c: c.update(parameter_names="Ra"),
    "fewer names": lambda c: c.update(parameter_names=["Ra"]),
    "numbers for names": lambda c: c.update(parameter_names=[1, 2]),
    "dt": lambda c: c.update(dt="fast"),
    "no time": lambda c: c.update(dt=0),
    "backwards": lambda c: c.update(dt=-1.0),
    "units": lambda c: c.update(time_units=3),
    "cycle": lambda c: c.update(cycle=[12]),
    "cycle of nothing": lambda c: c.update(cycle=0),
    "grid": lambda c: c.update(grid={"axes": []}),
    "other grid": lambda c: c["grid"]["axes"][0].update(coordinates=[0.0, 0.5]),
    "one axis": lambda c: c["grid"]["axes"].pop(),
    "no pieces": lambda c: c.update(pieces=[]),
    "pieces": lambda c: c.update(pieces={"0": 1}),
    "piece": lambda c: c["pieces"].__setitem__(0, 5),
    "fewer pieces of a number": lambda c: c["pieces"][0].update(stop=3),
    "longer": lambda c: c["pieces"][1].update(stop=1000),
    "nothing in it": lambda c: c["pieces"][1].update(stop=2),
    "before the beginning": lambda c: c["pieces"][1].update(start=-3, stop=2),
    "words for frames": lambda c: c["pieces"][0].update(start="a"),
    "halves": lambda c: c["pieces"][0].update(start=1.5, stop=8.5),
    "true": lambda c: c["pieces"][0].update(view=True),
    "split": lambda c: c["pieces"][0].update(split=["train"]),
    "step": lambda c: c["pieces"][0].update(step="noon"),
    "huge step": lambda c: c["pieces"][0].update(step=10**400),
    "parameters": lambda c: c["pieces"][0].update(parameters=[1.0]),
    "words for parameters": lambda c: c["pieces"][0].update(parameters=["a", "b"]),
    "boundary": lambda c: c["pieces"][0].update(boundary=[[2, 2]]),
    "three sides": lambda c: c["pieces"][0].update(boundary=[[2, 2], [0, 1, 1]]),
    "flat boundary": lambda c: c["pieces"][0].update(boundary=[2, 2]),
    "unknown key": lambda c: c["pieces"][0].update(colour="red"),
    "missing key": lambda c: c["pieces"][0].pop("view"),
    "more pieces": lambda c: c["pieces"].append(c["pieces"][0]),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_manifest_ends_in_one_line(name, cache):
    edited(cache, EDITS[name])
    told = refused(cache)
    assert MANIFEST in told or STATES in told or "format 2" in told


@pytest.mark.parametrize("file", [MANIFEST, STATES])
@pytest.mark.parametrize("damage", ["cut", "empty", "garbled", "gone", "folder", "text"])
def test_a_damaged_file_ends_in_one_line(file, damage, cache):
    place = cache / file
    content = place.read_bytes()
    place.unlink()
    if damage == "folder":
        place.mkdir()
    elif damage != "gone":
        garbled = bytes(255 - byte for byte in content[:200]) + content[200:]
        texts = {"cut": content[: len(content) // 2], "empty": b"", "garbled": garbled, "text": b"[1, 2, NaN]"}
        place.write_bytes(texts[damage])
    refused(cache)


def rewritten(cache: Path, change) -> None:
    with h5py.File(cache / STATES, "r+") as file:
        change(file)


def put(name: str, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


ARRAYS = {
    "other numbers": put("0", np.zeros((7, 3, 4, 2), "float64")),
    "whole numbers": put("0", np.zeros((7, 3, 4, 2), "int32")),
    "fewer frames": put("0", np.zeros((6, 3, 4, 2), "float32")),
    "other points": put("0", np.zeros((7, 3, 4, 4), "float32")),
    "other channels": put("0", np.zeros((7, 4, 4, 2), "float32")),
    "no channels": put("0", np.zeros((7, 0, 4, 2), "float32")),
    "one axis": put("0", np.zeros(7, "float32")),
    "a number": put("0", np.float32(1)),
    "nothing": put("0", h5py.Empty("float32")),
    "text": put("0", "latents"),
    "missing": lambda file: file.__delitem__("2"),
    "a group": lambda file: (file.__delitem__("0"), file.create_group("0")),
    "not finite": lambda file: file["1"].__setitem__((0, 0, 0, 0), np.nan),
    "elsewhere": lambda file: (file.__delitem__("0"), file.__setitem__("0", h5py.ExternalLink("other.hdf5", "0"))),
    "virtual": lambda file: (
        file.__delitem__("0"),
        file.create_virtual_dataset("0", h5py.VirtualLayout((7, 3, 4, 2), "float32"), fillvalue=0),
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_do_not_fit_the_manifest_end_in_one_line(name, cache):
    rewritten(cache, ARRAYS[name])
    refused(cache)


def test_a_file_that_announces_more_than_it_holds(cache):
    def change(file):
        del file["0"]
        file.create_dataset("0", (2**40, 3, 4, 2), "float32", chunks=(1, 3, 4, 2))

    rewritten(cache, change)
    edited(cache, lambda c: c["pieces"][0].update(start=0, stop=2**40))
    assert "announces" in refused(cache)


def test_a_folder_without_a_manifest_is_no_cache(tmp_path):
    with pytest.raises(InputError, match=r"is no cache of latents.*`eddycast encode` makes one"):
        open_latents(tmp_path)
    with pytest.raises(InputError, match="is no cache of latents"):
        read_manifest(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text('{"system": "euler-multi-quadrants-periodic"}')  # of simulated data
    with pytest.raises(InputError, match="is no cache of latents"):
        read_manifest(tmp_path)


# The grid of latents.


def test_latents_lie_in_the_middle_of_their_blocks():
    weights = tuple(float(number) for number in range(1, 9))
    wall = Axis("y", tuple(0.1 * j * j for j in range(8)), ("wall", "open"), "m", None, weights)
    fine = Grid((periodic_axis("x", 8, 2.0), wall))
    coarse = coarse_grid(fine, (4, 2))
    assert coarse.shape == (4, 2) and coarse.periodic == (True, False) and coarse.names == ("x", "y")
    assert coarse.axes[0].coordinates == pytest.approx((0.125, 0.625, 1.125, 1.625)) and coarse.axes[0].period == 2.0
    assert coarse.axes[1].coordinates == pytest.approx((0.1 * 14 / 4, 0.1 * 126 / 4))
    assert coarse.axes[1].weights == pytest.approx((10, 26)) and coarse.axes[1].boundary == ("wall", "open")
    field = torch.randn(8, 8, dtype=torch.float64)
    halves = field * fine.weights()
    blocks = halves.unflatten(1, (2, 4)).unflatten(0, (4, 2)).sum(dim=(1, 3)) / fine.weights().unflatten(
        1, (2, 4)
    ).unflatten(0, (4, 2)).sum(dim=(1, 3))
    assert (blocks * coarse.weights()).mean().item() == pytest.approx(halves.mean().item())
    assert coarse_grid(fine, fine.shape) == replace(fine)
