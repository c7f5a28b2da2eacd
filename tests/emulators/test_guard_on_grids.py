"""A guard measured on one grid, used on others: the ceiling follows wavenumbers, and amplitudes the length of the domain."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.emulators import SpectralGuard
from eddycast.emulators.guard import lengths
from eddycast.grid import Axis, Grid, periodic_axis


def line(points: int, length: float) -> Grid:
    return Grid((periodic_axis("x", points, length),))


def homogeneous(grid: Grid, spectrum, count: int, seed: int) -> torch.Tensor:
    """Gaussian fields whose modes have the power spectrum(k) dk, (count, 1, 1, *space)."""
    (axis,), generator = grid.axes, torch.Generator().manual_seed(seed)
    k = 2 * math.pi / axis.period * torch.arange(axis.size // 2 + 1)
    white = torch.randn(count, 2, len(k), generator=generator)
    amplitude = (spectrum(k) * 2 * math.pi / axis.period).sqrt()
    modes = torch.complex(white[:, 0], white[:, 1]) * amplitude / math.sqrt(2)
    modes[:, 0] = 0
    return torch.fft.irfft(modes, n=axis.size, norm="forward")[:, None, None]


def spectrum(k: torch.Tensor) -> torch.Tensor:
    return torch.where(k < 3.0, torch.exp(-k.square()), torch.zeros(()))


@pytest.mark.parametrize(("points", "length"), [(40, 20.0), (160, 80.0), (256, 64.0)])
def test_the_ceiling_is_that_of_a_guard_measured_there(points, length):
    """Amplitudes of a homogeneous field go as length^(-1/2) at a wavenumber; maxima of many draws scatter by some percent."""
    measured, other = line(100, 50.0), line(points, length)
    guard = SpectralGuard.fit(homogeneous(measured, spectrum, 4000, 0), (True,)).of(measured)
    moved, there = guard.on(other), SpectralGuard.fit(homogeneous(other, spectrum, 4000, 1), (True,))
    assert moved.ceiling.shape == there.ceiling.shape
    assert moved.lengths == (length,)
    k = 2 * math.pi / length * torch.arange(points // 2 + 1)
    inside = (k > 0.3) & (k < 2.3)
    ratio = moved.ceiling[0, inside] / there.ceiling[0, inside]
    assert ratio.min() > 0.75
    assert ratio.max() < 1.6  # the larger of two neighbours where the spectrum is steep
    beyond = k > 3.0 + 2 * math.pi / 50.0
    assert (moved.ceiling[0, beyond] == 0).all()


def test_on_its_own_grid_nothing_changes():
    grid = line(64, 32.0)
    guard = SpectralGuard.fit(homogeneous(grid, spectrum, 50, 2), (True,)).of(grid)
    assert guard.fits(grid)
    assert torch.equal(guard.on(grid).ceiling, guard.ceiling)
    assert not guard.fits(line(128, 64.0))
    assert not guard.fits(line(128, 32.0))
    again = SpectralGuard.from_tensors(guard.to_tensors())
    assert again.lengths == (32.0,)
    assert SpectralGuard.fit(homogeneous(grid, spectrum, 5, 2), (True,)).fits(
        line(10, 1.0)
    )  # one grid: taken at its word


def test_signed_wavenumbers_of_two_axes_keep_their_signs():
    """Only the mode (-2, 3) of a 16 x 16 box has power; on a box twice as long along x it is the mode (-4, 3)."""
    axes = (periodic_axis("x", 16, 8.0), periodic_axis("y", 16, 8.0))
    ceiling = torch.zeros(1, 16, 9)
    ceiling[0, -2, 3] = 1.0
    guard = SpectralGuard(torch.tensor([False]), ceiling, (True, True), (8.0, 8.0))
    found = guard.on(Grid((periodic_axis("x", 32, 16.0), axes[1]))).ceiling
    assert found.shape == (1, 32, 9)
    assert found[0, -4, 3].item() == pytest.approx(math.sqrt(0.5))
    nonzero = {tuple(place) for place in found[0].nonzero().tolist()}
    assert nonzero == {(27, 3), (28, 3), (29, 3)}  # -5, -4, -3: between two that were measured the larger holds


def test_several_guards_allow_what_any_has_seen():
    small, large = line(40, 20.0), line(80, 40.0)
    one = SpectralGuard.fit(homogeneous(small, spectrum, 500, 3), (True,)).of(small)
    two = SpectralGuard.fit(homogeneous(large, spectrum, 500, 4), (True,)).of(large)
    both = SpectralGuard.joined([one, two], large)
    assert (both.ceiling >= two.ceiling).all()
    assert (both.ceiling >= one.on(large).ceiling).all()
    assert both.lengths == lengths(large)
    assert bool(both.conserved.all())
    wandering = SpectralGuard(torch.tensor([False]), two.ceiling, two.periodic, two.lengths)
    assert not bool(SpectralGuard.joined([one, wandering], large).conserved.any())


def test_a_bounded_axis_of_another_size_has_the_largest_ceiling_along_it():
    """Beyond an end nothing is a mode: amplitudes along x may differ from row to row of y, and rows of another grid are other rows."""

    def channel(points: int, rows: int) -> Grid:
        return Grid(
            (periodic_axis("x", points, points / 2), Axis("y", tuple(map(float, range(rows))), ("wall", "wall")))
        )

    measured, other = channel(16, 5), channel(24, 9)
    x = torch.randn(6, 2, 1, 16, 5, generator=torch.Generator().manual_seed(6))
    guard = SpectralGuard.fit(x, (True, False)).of(measured)
    found = guard.on(other)
    assert found.ceiling.shape == (1, 13, 9)
    assert torch.equal(found.ceiling[..., :1].expand(-1, -1, 9), found.ceiling)
    row = SpectralGuard(guard.conserved, guard.ceiling.amax(-1, keepdim=True), (True, False), (8.0, 1.0))
    assert torch.equal(row.on(channel(24, 1)).ceiling, found.ceiling[..., :1])
    assert found(x.new_zeros(1, 1, 1, 24, 9), None).shape == (1, 1, 1, 24, 9)
    assert SpectralGuard.joined([guard, found], other).ceiling.shape == (1, 13, 9)


def test_other_axes_are_refused():
    grid = line(16, 4.0)
    guard = SpectralGuard.fit(homogeneous(grid, spectrum, 5, 5), (True,)).of(grid)
    wall = Grid((Axis("x", tuple(map(float, range(16))), ("wall", "wall")),))
    with pytest.raises(ValueError, match="does not fit"):
        guard.on(wall)
