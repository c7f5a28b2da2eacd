"""Jets that merge and split at known times; translation, noise, and prominence against an outside program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import find_peaks

from eddycast.metrics.jets import (
    count_jets,
    jet_events,
    jet_mask,
    smoothed,
    sustained_level,
    track_jets,
    waiting_times,
)

POINTS = 128
Y = torch.arange(POINTS, dtype=torch.float64) * 2 * math.pi / POINTS


def bumps(places, width=0.25):
    """A profile with a maximum of height one at each place (radians), round the circle."""
    distance = torch.remainder(Y - torch.tensor(places, dtype=torch.float64)[:, None] + math.pi, 2 * math.pi) - math.pi
    return torch.exp(-(distance**2) / (2 * width**2)).sum(dim=0)


def history():
    """Four jets; two of them meet at frame 40, and one of the rest splits at frame 80. 120 frames."""
    frames = []
    for frame in range(120):
        close = 1.5 * (1 - frame / 40) if frame < 40 else 0.0
        apart = 0.0 if frame < 80 else 1.2 * min(1.0, (frame - 79) / 10)
        pair = [2.0 - close / 2, 2.0 + close / 2] if frame < 40 else [2.0, 2.0]
        split = [4.0 - apart / 2, 4.0 + apart / 2] if frame >= 80 else [4.0, 4.0]
        frames.append(bumps(pair) + bumps(split) + bumps([5.8]))
    return torch.stack(frames)


def expected_counts(profiles, prominence):
    """By the definition of prominence: the outside program, on profiles turned to begin and end at the lowest point."""
    counts = []
    for profile in profiles.numpy():
        turned = np.roll(profile, -profile.argmin())
        counts.append(len(find_peaks(np.append(turned, turned[0]), prominence=prominence)[0]))
    return torch.tensor(counts)


@pytest.mark.parametrize(("prominence", "width"), [(0.1, 0.0), (0.4, 1.5), (1.3, 3.0)])
def test_maxima_are_those_of_the_outside_program(prominence, width):
    generator = torch.Generator().manual_seed(0)
    profiles = torch.randn(40, 5, 48, generator=generator, dtype=torch.float64)
    mask = jet_mask(profiles, prominence=prominence, width=width)
    assert mask.any() and mask.shape == profiles.shape
    for profile, found in zip(smoothed(profiles, width).flatten(0, 1).numpy(), mask.flatten(0, 1).numpy(), strict=True):
        start = int(profile.argmin())
        turned = np.roll(profile, -start)
        places, _ = find_peaks(np.append(turned, turned[0]), prominence=prominence)
        assert sorted((places + start) % 48) == found.nonzero()[0].tolist()


def test_smoothing_damps_each_mode_by_its_own_factor_and_keeps_the_mean():
    wave = 1.0 + torch.cos(5 * Y)
    k = 5 * 2 * math.pi / POINTS
    assert torch.allclose(smoothed(wave, 3.0), 1.0 + math.exp(-((3 * k) ** 2) / 2) * torch.cos(5 * Y))
    assert smoothed(wave, 0.0) is wave


def test_a_merger_and_a_split_are_found_once_each_and_when_they_happen():
    profiles = history()
    counts = count_jets(profiles, prominence=0.05)
    exact = expected_counts(profiles, 0.05)
    assert torch.equal(counts, exact)
    assert counts[0] == 4 and counts[60] == 3 and counts[119] == 4
    events = jet_events(counts, 5)
    merger, split = int((exact < 4).nonzero()[0, 0]), 60 + int((exact[60:] == 4).nonzero()[0, 0])
    assert events.nonzero()[:, 0].tolist() == [merger, split]
    assert events[[merger, split]].tolist() == [-1, 1]
    assert merger < 40 and 80 <= split < 90  # two maxima are one before their centres meet
    assert waiting_times(events, 0.5 * torch.arange(120)).tolist() == [0.5 * (split - merger)]


def test_turning_the_circle_changes_nothing():
    profiles = history()
    own = jet_mask(profiles, prominence=0.05, width=1.0)
    for shift in (1, 37, 100):
        assert torch.equal(jet_mask(profiles.roll(shift, -1), prominence=0.05, width=1.0), own.roll(shift, -1))


def test_noise_below_the_prominence_does_not_make_jets():
    """Smoothed noise of 0.2 has a deviation of 0.2 / sqrt(2 sqrt(pi) 3) = 0.06; without care it makes dozens of jets."""
    generator = torch.Generator().manual_seed(1)
    noisy = bumps([0.5, 2.0, 3.5, 5.0]) + 0.2 * torch.randn(300, POINTS, generator=generator, dtype=torch.float64)
    assert bool((count_jets(noisy, prominence=0.4, width=3.0) == 4).all())
    assert float(count_jets(noisy, prominence=0.01).double().mean()) > 20


def test_flicker_is_no_event_but_what_lasts_is_told_at_its_begin():
    counts = torch.tensor([3, 3, 3, 4, 3, 4, 4, 3, 3, 4, 5, 4, 4, 4, 4, 2, 2, 2, 3, 3])
    assert sustained_level(counts, 3).tolist() == [3] * 9 + [4] * 6 + [2] * 5
    assert jet_events(counts, 3).nonzero()[:, 0].tolist() == [9, 15]
    assert jet_events(counts, 3)[15] == -2  # two at once
    assert jet_events(counts, 1).abs().sum() == counts.diff().abs().sum()
    assert jet_events(torch.tensor([4, 4, 4, 4]), 2, start=torch.tensor(3)).tolist() == [1, 0, 0, 0]
    assert jet_events(torch.stack([counts, counts.flip(0)]), 3).shape == (2, 20)
    with pytest.raises(ValueError, match="1 to 20"):
        sustained_level(counts, 21)


def test_jets_are_followed_round_the_circle_until_they_meet():
    shift = 2 * math.pi / POINTS
    drifting = torch.stack([bumps([0.3 - frame * shift, 3.0]) for frame in range(20)])
    tracks = track_jets(jet_mask(drifting, prominence=0.3), reach=3)
    assert [(track.first, track.last) for track in tracks] == [(0, 19), (0, 19)]
    moved = [np.unwrap(np.array(track.places) * shift)[-1] - track.places[0] * shift for track in tracks]
    assert moved == pytest.approx([-19 * shift, 0.0], abs=1.5 * shift)  # across the end of the axis
    tracks = track_jets(jet_mask(history(), prominence=0.05), reach=8)
    counts = count_jets(history(), prominence=0.05)
    alive = torch.zeros(120, dtype=torch.long)
    for track in tracks:
        alive[track.first : track.last + 1] += 1
    assert torch.equal(alive, counts)
    assert len(tracks) == 5  # four, and the one that is born


def test_a_level_profile_and_what_is_not_finite_have_no_jet():
    profiles = torch.zeros(2, 16)
    profiles[1, 3] = math.nan
    assert count_jets(profiles, prominence=0.1).tolist() == [0, 0]
    with pytest.raises(ValueError, match="prominence"):
        count_jets(profiles, prominence=0.0)
    with pytest.raises(ValueError, match="width"):
        count_jets(profiles, prominence=0.1, width=-1)
