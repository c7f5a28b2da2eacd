"""Statistics against numpy in one piece, and the inverse pair encode / decode."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from eddycast.data import Normalisation, from_arrays, normalisation, statistics
from eddycast.data.clock import calendar_clock
from eddycast.data.dataset import Segment
from eddycast.data.quadrature import plain_axis
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis

LINE = Grid((periodic_axis("x", 8, 1.0),))


def random_data(trajectories=5, frames=30, channels=2, **options):
    generator = torch.Generator().manual_seed(0)
    states = 300 + torch.randn(trajectories, frames, channels, 8, generator=generator).cumsum(1)
    names = [f"f{index}" for index in range(channels)]
    return states, from_arrays(states, fields=names, grid=LINE, dt=1.0, **options)


def monthly_data(frames=240, amplitude=5.0, noise=0.1):
    """Per point an annual cycle of known amplitude and phase (an exact member of the basis), plus noise."""
    generator = torch.Generator().manual_seed(1)
    stamps = np.arange("2000-04", np.datetime64("2000-04") + frames).astype("datetime64[ns]")
    month = (torch.arange(frames) + 3)[:, None].double()
    shift = torch.arange(8).double()
    wave = amplitude * torch.cos(2 * torch.pi * (month - shift) / 12) + torch.sin(4 * torch.pi * month / 12)
    states = (280 + shift + wave + noise * torch.randn(frames, 8, generator=generator)).float()[None, :, None]
    data = from_arrays(states, fields=["t"], grid=LINE, clock=calendar_clock(stamps, "standard"))
    return data, states, wave


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("pieces", [2**26, 8 * 16 * 4])
def test_field_statistics_are_those_of_all_train_values(monkeypatch, stride, pieces):
    """In one piece or in pieces of four frames (a multiple of neither the stride nor the length)."""
    monkeypatch.setattr(normalisation, "CHUNK_BYTES", pieces)
    states, data = random_data()
    train = states[: len(data.splits["train"])].double()
    found = statistics(data, stride=stride)
    std = train.std((0, 1, 3), correction=0)
    change = (train[:, stride:] - train[:, :-stride]) / std[:, None]
    assert torch.allclose(found.mean.flatten().double(), train.mean((0, 1, 3)), rtol=1e-6)
    assert torch.allclose(found.std.flatten().double(), std, rtol=1e-5)
    assert torch.allclose(found.increment_std.double(), change.std((0, 1, 3), correction=0), rtol=1e-5)


def test_pixel_statistics():
    states, data = random_data()
    train = states[: len(data.splits["train"])].double()
    found = statistics(data, mean="pixel", std="pixel")
    std = train.std((0, 1), correction=0)
    assert torch.allclose(found.mean.double(), train.mean((0, 1)), rtol=1e-6)
    assert torch.allclose(found.std.double(), std, rtol=1e-5)
    change = (train[:, 1:] - train[:, :-1]) / std
    assert torch.allclose(found.increment_std.double(), change.std((0, 1, 3), correction=0), rtol=1e-5)


def test_statistics_know_the_train_split_only():
    states, data = random_data()
    poisoned = states.clone()
    poisoned[len(data.splits["train"]) :] = 1e20
    clean, other = statistics(data), statistics(from_arrays(poisoned, fields=["f0", "f1"], grid=LINE, dt=1.0))
    for name, tensor in clean.to_tensors().items():
        assert torch.equal(tensor, other.to_tensors()[name]), name
    one = states[0, :, :1].clone()[None]
    cut = round(0.8 * one.shape[1])
    changed = one.clone()
    changed[:, cut:] = 1e20
    pair = [statistics(from_arrays(each, fields=["f"], grid=LINE, dt=1.0)) for each in (one, changed)]
    assert torch.equal(pair[0].std, pair[1].std) and torch.equal(pair[0].increment_std, pair[1].increment_std)


def test_climatology_finds_the_annual_cycle():
    data, _, wave = monthly_data()
    found = statistics(data)
    assert found.harmonics == 3 and data.splits["train"][0] == Segment(0, 0, 192)
    # the fit of 7 coefficients to 192 frames with noise 0.1 is off by about 0.1 sqrt(7 / 192) = 0.02
    assert found.std.item() == pytest.approx(0.1, rel=0.05)
    assert found.increment_std.item() == pytest.approx(2**0.5, rel=0.05)
    conditions = data.conditions(torch.tensor([0, 0]), torch.tensor([200, 213]))
    climate = found.climatology(conditions, torch.arange(6.0))
    for row, start in enumerate((200, 213)):
        truth = (280 + torch.arange(8) + wave[start : start + 6]).float()
        assert (climate[row, :, 0] - truth).abs().max() < 0.1
    x = found.encode(data.read(0, 200, 206)[None], conditions.select(slice(0, 1)), torch.arange(6.0))
    assert x.std().item() == pytest.approx(1.0, abs=0.25)


def test_climatology_needs_a_whole_year():
    data, *_ = monthly_data(frames=12)
    found = statistics(data)
    assert found.harmonics == 0 and "harmonics" in found.notes[0]


@pytest.mark.parametrize("kind", ["field", "pixel", "cycle"])
@pytest.mark.parametrize("std", ["field", "pixel"])
def test_decode_inverts_encode_and_tensors_carry_all(kind, std):
    data, *_ = monthly_data()
    space = statistics(data, mean=kind, std=std)
    again = Normalisation.from_tensors(space.to_tensors(), space.summary())
    rows = torch.tensor([3, 150])
    conditions = data.conditions(torch.zeros(2, dtype=torch.long), rows)
    lead = torch.tensor([0.0, 1.0, 2.5])
    states = torch.stack([data.read(0, row, row + 3) for row in rows.tolist()])
    x = space.encode(states, conditions, lead)
    assert torch.equal(x, again.encode(states, conditions, lead))
    assert torch.allclose(space.decode(x, conditions, lead), states, rtol=1e-6)
    members = x.expand(4, *x.shape)
    assert torch.equal(space.decode(members, conditions.expand(4), lead)[3], space.decode(x, conditions, lead))


def test_masked_points_are_zero_in_model_space_and_do_not_count():
    states, _ = random_data(channels=1)
    land = states.clone()
    land[..., 2:5] = torch.nan
    data = from_arrays(land, fields=["f0"], grid=LINE, dt=1.0)
    for kind in ("field", "pixel"):
        space = statistics(data, mean=kind)
        sea = states[: len(data.splits["train"])][..., [0, 1, 5, 6, 7]].double()
        if kind == "field":
            assert space.mean.item() == pytest.approx(sea.mean().item()), kind
            assert space.std.item() == pytest.approx(sea.std(correction=0).item(), rel=1e-5)
        conditions = data.conditions(0, 0)
        x = space.encode(data.read(0, 0, 3), conditions, torch.arange(3.0))
        assert (x[..., 2:5] == 0).all() and x.isfinite().all()
        back = space.decode(x, conditions, torch.arange(3.0))
        assert torch.allclose(back[..., data.valid], states[0, :3][..., data.valid]) and back.isfinite().all()


def test_a_constant_field_gets_std_one():
    states, _ = random_data()
    states[:, :, 1] = 7.0
    found = statistics(from_arrays(states, fields=["u", "still"], grid=LINE, dt=1.0))
    assert found.std[1].item() == 1 and found.increment_std[1].item() == 1 and found.mean[1].item() == 7
    assert any("'still' does not vary" in note for note in found.notes)


def test_field_means_use_quadrature_weights():
    """On Chebyshev-Gauss nodes the mean of y^2 over [0, 1] is 1/3, exact for the weights, 0.375 without them."""
    nodes = (1 - np.cos((np.arange(16) + 0.5) * np.pi / 16)) / 2
    grid = Grid((plain_axis("y", nodes, boundary=("wall", "wall")),))
    states = torch.tensor(nodes**2, dtype=torch.float32).expand(3, 4, 1, 16)
    data = from_arrays(states, fields=["q"], grid=grid, dt=1.0)
    assert statistics(data).mean.item() == pytest.approx(1 / 3, rel=1e-6)
    assert statistics(data, weighted=False).mean.item() == pytest.approx(0.375, rel=1e-6)
    assert statistics(data).std.item() == pytest.approx((1 / 5 - 1 / 9) ** 0.5, rel=1e-5)


def test_other_data_are_refused():
    states, data = random_data()
    space = statistics(data, mean="pixel")
    with pytest.raises(InputError, match="Expected 2 fields"):
        space.encode(states[0, :2, :1], data.conditions(0, 0), torch.arange(2.0))
    with pytest.raises(InputError, match="grid of"):
        space.encode(states[0, :2, :, :5], data.conditions(0, 0), torch.arange(2.0))
    dated, *_ = monthly_data()
    climate = statistics(dated)
    with pytest.raises(InputError, match="no calendar"):
        one = states[0, :2, :1]
        climate.encode(one, dataclasses.replace(dated.conditions(0, 0), cycle=None), torch.arange(2.0))
