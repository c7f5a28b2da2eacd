"""Spectra: Parseval, single waves, shells, errors by band."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import bands, excess_in_empty_modes, mask_weights, power_spectrum, shells, spectral_errors


def bounded_axis(name, points, length):
    step = length / points
    return Axis(name, tuple(step * (k + 0.5) for k in range(points)), boundary=("wall", "open"))


GRIDS = {
    "line": Grid((periodic_axis("x", 64, 36.0),)),
    "odd": Grid((periodic_axis("x", 15, 2.0),)),
    "walls": Grid((bounded_axis("y", 12, 3.0),)),
    "oblong": Grid((periodic_axis("x", 32, 4.0), periodic_axis("y", 8, 1.0))),
    "channel": Grid((periodic_axis("x", 16, 4.0), bounded_axis("y", 9, 1.0))),
    "channel-other-way": Grid((bounded_axis("y", 9, 1.0), periodic_axis("x", 16, 4.0))),
    "box": Grid((periodic_axis("x", 6, 1.0), bounded_axis("y", 5, 1.0), periodic_axis("z", 4, 2.0))),
    "flat": Grid((periodic_axis("x", 16, 1.0), periodic_axis("y", 1, 1.0))),
}


@pytest.mark.parametrize("name", GRIDS)
def test_parseval(name):
    """The shells partition the mean square, and the first one is the square of the mean."""
    grid = GRIDS[name]
    field = torch.randn(3, *grid.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.7
    power = power_spectrum(field, shells(grid))
    torch.testing.assert_close(power.sum(dim=-1), field.square().mean(dim=grid.dims))
    torch.testing.assert_close(power[:, 0], field.mean(dim=grid.dims).square())
    assert bool((shells(grid).wavenumber.diff() > 0).all())


@pytest.mark.parametrize("mode", [1, 5, 31])
def test_a_sine_is_in_its_bin_with_half_its_square(mode):
    grid = GRIDS["line"]
    x = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)
    k = 2 * math.pi * mode / 36.0
    power = power_spectrum(3.0 * torch.sin(k * x + 0.4), shells(grid))
    assert int(power.argmax()) == mode
    assert float(power[mode]) == pytest.approx(4.5)
    assert float(power.sum()) == pytest.approx(4.5)
    assert float(shells(grid).wavenumber[mode]) == pytest.approx(k)


def test_wavenumbers_are_physical_on_an_oblong_grid():
    """The same |k| along either axis lands in the same shell, though the mode numbers differ (4 and 1)."""
    grid = GRIDS["oblong"]
    x, y = (torch.tensor(axis.coordinates, dtype=torch.float64) for axis in grid.axes)
    k = 2 * math.pi
    along_x = torch.sin(k * x)[:, None].expand(grid.shape)
    along_y = torch.sin(k * y)[None, :].expand(grid.shape)
    first, second = (power_spectrum(field, shells(grid)) for field in (along_x, along_y))
    assert int(first.argmax()) == int(second.argmax())
    assert float(first.max()) == pytest.approx(0.5)
    assert float(second.max()) == pytest.approx(0.5)
    assert float(shells(grid).wavenumber[int(first.argmax())]) == pytest.approx(k, abs=math.pi / 4)  # half a shell


def test_a_half_wave_between_walls_is_one_mode():
    grid = GRIDS["walls"]
    y = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)
    power = power_spectrum(torch.cos(3 * math.pi * y / 3.0), shells(grid))
    assert float(power[3]) == pytest.approx(0.5)
    assert float(power.sum()) == pytest.approx(0.5)
    assert float(shells(grid).wavenumber[3]) == pytest.approx(math.pi)


def test_the_spectrum_does_not_see_a_shift():
    grid = GRIDS["oblong"]
    field = torch.randn(*grid.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = field.roll((5, 3), dims=(0, 1))
    torch.testing.assert_close(power_spectrum(moved, shells(grid)), power_spectrum(field, shells(grid)))


def test_land_is_filled_with_the_mean_of_the_sea():
    grid = GRIDS["oblong"]
    valid = torch.ones(grid.shape, dtype=torch.bool)
    valid[3:7, 2:5] = False
    field = torch.randn(2, *grid.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    field = torch.where(valid, field, math.nan)
    weights = mask_weights(grid.weights(), valid)
    mean = torch.stack([frame[valid].mean() for frame in field])
    power = power_spectrum(field, shells(grid), weights)
    torch.testing.assert_close(power[:, 0], mean.square())
    variance = torch.stack([frame[valid].var(correction=0) for frame in field])
    torch.testing.assert_close(power[:, 1:].sum(dim=-1), variance * valid.double().mean())


@pytest.mark.parametrize("name", GRIDS)
def test_bands_partition_the_resolved_shells(name):
    parts = shells(GRIDS[name])
    masks = torch.stack(list(bands(parts).values())).sum(dim=0)
    resolved = (parts.wavenumber > 0) & (parts.wavenumber <= parts.nyquist * (1 + 1e-9))
    assert torch.equal(masks, resolved.long())


def test_errors_are_decades_over_the_modes_that_hold_power():
    """Twice the power is 0.301; a mode below 1e-6 of the peak is no mode, whatever the forecast has there."""
    grid = GRIDS["line"]
    parts = shells(grid)
    truth = torch.where(parts.wavenumber > 1.7, 1e-9, 1.0).to(torch.float64)
    truth[0] = 1e8  # a large mean must not hide the waves
    forecast = 2 * truth
    forecast[-1] = 1e-3
    errors = spectral_errors(forecast, truth, bands(parts))
    kept = int(((parts.wavenumber > 0) & (parts.wavenumber <= 1.7)).sum())
    assert errors["all"].modes == kept
    assert errors["all"].mean == pytest.approx(math.log10(2))
    assert errors["all"].largest == pytest.approx(math.log10(2))
    assert spectral_errors(truth / 2, truth, bands(parts))["low"].bias == pytest.approx(-math.log10(2))
    assert errors["high"].modes == 0
    assert math.isnan(errors["high"].mean)
    assert excess_in_empty_modes(forecast, truth) == pytest.approx(1e-3)
    assert excess_in_empty_modes(truth[:5], truth[:5]) == 0
