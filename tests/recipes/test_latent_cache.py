"""Latents of a data set by a run: the same as encoding when asked, in flat memory, and refused wherever their provenance differs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from latent_runs import STEPS, alone, flow, recipe, train

from eddycast import api
from eddycast.autoencoders import View
from eddycast.data import Dataset, WindowBatches
from eddycast.data.arrays import ArraySource
from eddycast.errors import InputError
from eddycast.recipes import load_run, open_cache
from eddycast.recipes.latents import FRAMES, Views, architecture, data_digest, digest, provenance


@pytest.fixture(scope="module")
def data() -> Dataset:
    return flow(frames=9)


@pytest.fixture(scope="module")
def encoder(data, tmp_path_factory) -> api.Forecaster:
    return train(alone(), data, tmp_path_factory.mktemp("encoder") / "run")


@pytest.fixture
def cache(encoder, data, tmp_path) -> Path:
    api.encode(encoder, data, out=tmp_path / "cache")
    return tmp_path / "cache"


def line(caught: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_windows_of_the_cache_are_windows_encoded_directly(encoder, data, cache):
    found = open_cache(cache, encoder.run, data)
    assert {split: len(parts) for split, parts in found.splits.items()} == {
        split: len(parts) for split, parts in data.splits.items()
    }
    assert found.grid.shape == (4, 4) and found.grid.periodic == data.grid.periodic
    assert (found.dt, found.time_units, found.cycle) == (data.dt, data.time_units, data.cycle)
    latent, physical = (WindowBatches(one, "train", 4, batch_size=6, seed=3) for one in (found, data))
    for step in range(3):
        state, conditions = physical.batch(step)
        direct = encoder.run.space.encode(state, conditions, torch.arange(4.0))
        torch.testing.assert_close(latent.states(step), direct, rtol=1e-5, atol=1e-5)
        here = latent.conditions(step)
        assert torch.equal(here.parameters, conditions.parameters) and torch.equal(here.time, conditions.time)
        assert torch.equal(here.boundary_codes(), conditions.boundary_codes())
    assert all(found.read(number, 0, 9).abs().max() < 5 for number in range(6))


def test_copies_are_other_views_of_the_state(encoder, data, tmp_path):
    """Encoded after they are turned: the encoder does not commute with a flip, so a flip of latents would be something else."""
    found = api.encode(encoder, data, out=tmp_path / "cache", copies=3, seed=4, splits=["train", "test"])
    train_pieces = len(data.segments("train"))
    assert len(found.segments("train")) == 3 * train_pieces and len(found.segments("test")) == len(
        data.segments("test")
    )
    views = Views(encoder.run.model, data, 4)
    space, different = encoder.run.space, 0
    for number, segment in enumerate(found.segments("train")):
        original = data.segments("train")[number // 3]
        view = views(original, number % 3)
        assert (view is None) == (number % 3 == 0)
        here = data.conditions([original.trajectory], [0])
        x = space.inner.encode(data.read(original.trajectory, 0, 9)[None], here, torch.arange(9.0))
        codes = here.boundary_codes()[0]
        if view is not None:
            x, codes = view(x, views.components), view.codes(codes)
            different += view.flips[0]
        read = found.read(segment.trajectory, 0, 9)
        torch.testing.assert_close(read, space.encode_normalised(x, here)[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(found.conditions([segment.trajectory], [0]).boundary_codes()[0], codes)
    assert different > 0
    again = api.encode(encoder, data, out=tmp_path / "again", copies=3, seed=4, splits=["train", "test"])
    other = api.encode(encoder, data, out=tmp_path / "other", copies=3, seed=5, splits=["train", "test"])
    assert all(torch.equal(found.read(n, 0, 9), again.read(n, 0, 9)) for n in range(len(found.lengths)))
    assert any(not torch.equal(found.read(n, 0, 9), other.read(n, 0, 9)) for n in range(len(found.lengths)))


def test_views_turn_the_codes_of_walls(encoder, data):
    views = Views(encoder.run.model, data, 0)
    piece = views.piece("train", data.segments("train")[0], 1, View((False, True), (0, 1), (3, 0)))
    assert piece.boundary == ((2.0, 2.0), (1.0, 0.0)) and piece.view == 1


def test_encoding_reads_a_few_frames_at_a_time(encoder, tmp_path, monkeypatch):
    """However long a trajectory is; with the frames at the ends of segments, which the provenance reads once more."""
    data = flow(frames=2 * FRAMES + 5, trajectories=5)
    asked: list[int] = []
    read = ArraySource.read

    def spy(self, trajectory, start, stop, stride):
        asked.append(stop - start)
        return read(self, trajectory, start, stop, stride)

    monkeypatch.setattr(ArraySource, "read", spy)
    seen: list[tuple[int, int]] = []
    found = api.encode(encoder, data, out=tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert max(asked) == FRAMES and found.lengths == (2 * FRAMES + 5,) * 5
    total = 5 * (2 * FRAMES + 5)
    assert seen[-1] == (total, total) and [done for done, _ in seen] == sorted({done for done, _ in seen})


# Provenance.

KEYS = {
    "autoencoder": ("another autoencoder", "0" * 16),
    "statistics": ("other statistics of the fields", "0" * 16),
    "fields": ("other fields", ["density"]),
    "grid": ("another grid", [16, 16]),
    "dt": ("another time step", 0.4),
    "stride": ("another stride", 4),
    "data": ("other data", "0" * 16),
}


@pytest.mark.parametrize("value", ["other", "missing"])
@pytest.mark.parametrize("key", KEYS)
def test_each_mismatch_of_provenance_is_refused_in_its_own_words(key, value, encoder, data, cache):
    words, other = KEYS[key]
    content = json.loads((cache / "manifest.json").read_text())
    assert set(content["provenance"]) == {*KEYS, "copies"}
    if value == "other":
        content["provenance"][key] = other
    else:
        del content["provenance"][key]
    (cache / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"cache holds latents of {words} .*encode the data again") as caught:
        open_cache(cache, encoder.run, data)
    line(caught)


@pytest.mark.parametrize("content", ["none", [1], {"copies": []}])
def test_a_provenance_that_is_none_is_refused(content, encoder, data, cache):
    whole = json.loads((cache / "manifest.json").read_text())
    (cache / "manifest.json").write_text(json.dumps(whole | {"provenance": content}))
    with pytest.raises(InputError, match="encode the data again") as caught:
        open_cache(cache, encoder.run, data)
    line(caught)


def test_copies_are_counted_where_they_matter(encoder, data, cache):
    assert open_cache(cache, encoder.run, data, 1).lengths == open_cache(cache, encoder.run, data).lengths
    with pytest.raises(InputError, match=r"another number of copies \(1, expected 2\)"):
        open_cache(cache, encoder.run, data, 2)


def test_a_wrong_cache_is_refused_by_training(encoder, data, cache, tmp_path):
    other = train(replace(alone(), training=replace(STEPS, seed=1)), data, tmp_path / "other")
    with pytest.raises(InputError, match="latents of another autoencoder"):
        train(recipe(copies=1), data, tmp_path / "a", autoencoder=other.path, latents=cache)
    with pytest.raises(InputError, match="latents of other data"):
        train(recipe(copies=1), flow(seed=7), tmp_path / "b", autoencoder=encoder.path, latents=cache)
    with pytest.raises(InputError, match="another number of copies"):
        train(recipe(copies=2), data, tmp_path / "c", autoencoder=encoder.path, latents=cache)
    with pytest.raises(InputError, match="is no cache of latents"):
        train(recipe(), data, tmp_path / "d", autoencoder=encoder.path, latents=tmp_path)
    assert not any((tmp_path / name).exists() for name in "abcd")
    api.encode(encoder, data, out=tmp_path / "tests", splits=["test"])
    with pytest.raises(InputError, match="Unknown split 'train'; valid ones: test"):
        train(recipe(copies=1), data, tmp_path / "e", autoencoder=encoder.path, latents=tmp_path / "tests")


def test_an_autoencoder_of_the_same_weights_and_other_saturation_is_another(encoder, tmp_path):
    """What the latents depend on besides the weights is part of its digest; dropout and the loss are not."""
    shutil.copytree(encoder.path, tmp_path / "run")
    place = tmp_path / "run" / "config.json"
    found = {}
    for key, value in (
        ("saturation", "tanh"),
        ("padding", "zeros"),
        ("bound", 2.0),
        ("augment", []),
        ("loss", "mae"),
        ("dropout", 0.1),
    ):
        content = json.loads((encoder.path / "config.json").read_text())
        content["recipe"]["emulator"][key] = value
        place.write_text(json.dumps(content))
        run = load_run(tmp_path / "run", "run")
        found[key] = architecture(run.model) == architecture(encoder.run.model)  # type: ignore[arg-type]
    assert found == {
        "saturation": False,
        "padding": False,
        "bound": False,
        "augment": False,
        "loss": True,
        "dropout": True,
    }


def test_digests_tell_names_shapes_values_and_text_apart():
    a = {"w": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"w": torch.arange(6.0), "c": torch.ones(2)},
        {"w": torch.arange(6.0).nextafter(torch.tensor(9.0)), "b": torch.ones(2)},
        {"w": torch.arange(6.0), "b": torch.ones(2, dtype=torch.float64)},
        {"w": torch.arange(6.0)},
    ]
    assert digest(a) == digest(dict(reversed(a.items()))) and digest(a) != digest(a, "(0.1,)")
    assert len({digest(one) for one in [a, *others]}) == 6
    assert digest({"w": torch.arange(6.0).reshape(2, 3).T}) == digest(
        {"w": torch.arange(6.0).reshape(2, 3).T.contiguous()}
    )


def test_data_are_told_apart(data):
    same, first = data_digest(flow(frames=9)), data_digest(data)
    assert same == first
    assert data_digest(replace(data, splits={"train": data.splits["train"]})) != first
    assert data_digest(flow(frames=9, seed=1)) != first
    assert data_digest(flow(frames=9, dt=0.4)) != first
    assert data_digest(flow(frames=9, parameters=torch.ones(6, 1))) != first


def test_provenance_knows_the_offsets_of_logarithms(encoder, data):
    before = provenance(encoder.run, data, 1)
    space = replace(encoder.run.space, inner=replace(encoder.run.space.inner, offsets=(0.2, None, None)))
    after = provenance(replace(encoder.run, space=space), data, 1)
    assert {key for key in before if before[key] != after[key]} == {"statistics"}


def test_a_run_without_an_autoencoder(data, tmp_path):
    for call in (
        lambda: api.encode("baseline:persistence", data, out=tmp_path / "c"),
        lambda: api.reconstruct("baseline:persistence", data=data),
    ):
        with pytest.raises(InputError, match="has no autoencoder") as caught:
            call()
        line(caught)


def test_where_latents_cannot_be_written(encoder, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years")
    with pytest.raises(InputError, match="was not written by eddycast"):
        api.encode(encoder, data, out=tmp_path / "mine")
    (tmp_path / "simulated").mkdir()
    (tmp_path / "simulated" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="was not written by eddycast"):
        api.encode(encoder, data, out=tmp_path / "simulated")
    assert (tmp_path / "simulated" / "manifest.json").exists()
    with pytest.raises(InputError, match="create it first"):
        api.encode(encoder, data, out=tmp_path / "nowhere" / "cache")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years"
    with pytest.raises(InputError, match="Unknown split 'trian'"):
        api.encode(encoder, data, out=tmp_path / "cache", splits=["trian"])
