"""The spectral guard: what it keeps, what it caps, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from exact_models import normal

from eddycast.emulators import SpectralGuard

POINTS = 16


def smooth(batch: int, frames: int, channels: int, space: tuple[int, ...], periodic: tuple[bool, ...], seed: int = 0):
    """Random fields with wavenumbers 1 to 3 along periodic axes (none beyond) and zero mean along them."""
    x = normal(batch, frames, channels, *space, seed=seed)
    for axis, wrap in enumerate(periodic):
        if wrap:
            dim = axis - len(space)
            modes = torch.fft.rfft(x, dim=dim)
            keep = torch.zeros(modes.shape[dim], dtype=modes.dtype)
            keep[1:4] = 1
            shape = [1] * x.ndim
            shape[dim] = -1
            x = torch.fft.irfft(modes * keep.reshape(shape), n=x.shape[dim], dim=dim)
    return x


CASES = {
    "1-D": ((16,), (True,)),
    "odd": ((15,), (True,)),
    "2-D": ((16, 12), (True, True)),
    "mixed": ((16, 6), (True, False)),
}
cases = pytest.mark.parametrize("space, periodic", CASES.values(), ids=CASES.keys())


@cases
def test_states_like_those_of_training_pass_unchanged(space, periodic):
    x = smooth(20, 3, 2, space, periodic)
    guard = SpectralGuard.fit(x, periodic)
    assert torch.allclose(guard(x[:5], guard.means(x[:5])), x[:5], atol=1e-9)


@cases
def test_twice_is_once(space, periodic):
    guard = SpectralGuard.fit(smooth(20, 3, 2, space, periodic), periodic)
    wild = 10 * normal(4, 3, 2, *space, seed=3)
    means = guard.means(wild)
    once = guard(wild, means)
    assert (once - wild).abs().max() > 1
    assert torch.allclose(guard(once, means), once, atol=1e-9)


@cases
def test_empty_modes_are_removed_and_full_ones_capped(space, periodic):
    """No amplitude exceeds margin times the largest of training; a capped mode keeps its phase."""
    x = smooth(50, 2, 1, space, periodic)
    dims = tuple(axis - len(space) for axis, wrap in enumerate(periodic) if wrap)
    guard = SpectralGuard.fit(x, periodic, margin=1.5)
    largest = torch.fft.rfftn(x, dim=dims, norm="forward").abs().flatten(0, 1).amax(dim=0)
    empty = largest < 1e-9
    assert empty.any() and not empty.all()
    wild = 10 * normal(4, 1, 1, *space, seed=3)
    before, after = (torch.fft.rfftn(f, dim=dims, norm="forward")[:, 0] for f in (wild, guard(wild, None)))
    assert after[empty.expand_as(after)].abs().max() < 1e-12
    assert (after.abs() <= 1.5 * largest * (1 + 1e-9) + 1e-12).all()
    capped = (before.abs() > 1.5 * largest) & ~empty
    assert capped.any()
    assert torch.allclose(after[capped] / after[capped].abs(), before[capped] / before[capped].abs(), atol=1e-6)
    below = (before.abs() < 1.5 * largest) & ~empty
    assert torch.allclose(after[below], before[below], atol=1e-12)


def test_only_conserved_means_are_reset():
    """Channel 0 has a mean of its own on each trajectory, channel 1 one that wanders."""
    x = smooth(30, 8, 2, (POINTS,), (True,))
    x[:, :, 0] += normal(30, 1, 1, seed=1)
    x[:, :, 1] += normal(30, 8, 1, seed=2)
    guard = SpectralGuard.fit(x, (True,))
    assert guard.conserved.tolist() == [True, False]
    means = guard.means(x[:4])
    assert torch.allclose(means[:, 0, :, 0], x[:4, -1].mean(dim=-1))
    drifted = x[:4] + 0.1
    held = guard(drifted, means).mean(dim=-1)
    assert torch.allclose(held[:, :, 0], means[:, :, 0, 0].expand(4, 8), atol=1e-9)
    assert torch.allclose(held[:, :, 1], drifted[:, :, 1].mean(dim=-1), atol=1e-9)
    assert torch.allclose(guard(drifted, None).mean(dim=-1)[:, :, 0], drifted[:, :, 0].mean(dim=-1), atol=1e-9)


def test_bounded_axis_is_left_alone():
    """Along the bounded axis any shape passes: only the spectrum along the periodic one is held, row by row."""
    x = smooth(40, 2, 1, (POINTS, 6), (True, False))
    guard = SpectralGuard.fit(x, (True, False))
    assert guard.ceiling.shape == (1, POINTS // 2 + 1, 6)
    spike = torch.zeros(1, 1, 1, POINTS, 6, dtype=torch.float64)
    spike[..., 2] = 1e-2 * x[0, 0, 0, :, 0] / x.abs().max()
    assert torch.allclose(guard(spike, None), spike, atol=1e-9), "one row full, its neighbours empty"


def test_no_periodic_axis_means_conserved_means_only():
    x = normal(10, 4, 1, 5, 6)
    x = x - x.mean(dim=(-2, -1), keepdim=True)
    guard = SpectralGuard.fit(x, (False, False))
    wild = 1e6 * x[:2] + 7
    held = guard(wild, guard.means(x[:2]))
    assert guard.ceiling.numel() == 0 and guard.conserved.tolist() == [True]
    assert torch.allclose(held, 1e6 * x[:2], atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_lost_member_stays_lost_and_takes_nobody_along(bad):
    x = smooth(20, 2, 1, (POINTS,), (True,))
    guard = SpectralGuard.fit(x, (True,))
    states = x[:3].clone()
    states[1, 0, 0, 4] = bad
    held = guard(states, guard.means(x[:3]))
    assert not held[1, 0].isfinite().any()
    assert torch.allclose(held[[0, 2]], x[[0, 2]], atol=1e-9)


def test_noise_in_empty_modes_cannot_grow():
    """What the guard is for: a map that amplifies high modes by 3 at each step is held for ever."""
    x = smooth(20, 2, 1, (POINTS,), (True,))
    guard = SpectralGuard.fit(x, (True,))
    gain = torch.ones(POINTS // 2 + 1, dtype=torch.float64)
    gain[4:] = 3
    state = x[:1, -1:] + 1e-6 * normal(1, 1, 1, POINTS, seed=5)
    means, free = guard.means(state), state
    for _ in range(60):
        free = torch.fft.irfft(gain * torch.fft.rfft(free), n=POINTS)
        state = guard(torch.fft.irfft(gain * torch.fft.rfft(state), n=POINTS), means)
    assert free.abs().max() > 1e10
    assert torch.allclose(state, x[:1, -1:], atol=1e-4)


def test_tensors_there_and_back_and_dtype_of_the_states():
    guard = SpectralGuard.fit(smooth(20, 2, 2, (POINTS, 6), (True, False)).float(), (True, False))
    again = SpectralGuard.from_tensors(guard.to_tensors())
    wild = 10 * normal(2, 1, 2, POINTS, 6)
    assert again.periodic == (True, False)
    assert torch.equal(again(wild, guard.means(wild)), guard(wild, guard.means(wild)))
    assert guard(wild, None).dtype == torch.float64 and guard(wild.float(), None).dtype == torch.float32
    assert torch.allclose(guard(wild.float(), None).double(), guard(wild, None), atol=1e-4)
