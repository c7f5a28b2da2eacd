"""Jets of a zonal mean flow: local maxima of a smoothed profile round a periodic axis, followed in time.

What counts as a jet depends on two numbers, both arguments: how far the profile is smoothed and how far a maximum must stand out.
Compare a forecast with the truth at the same two, and look whether the answer changes at others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def smoothed(profile: Tensor, width: float) -> Tensor:
    """Convolution with a Gaussian round the periodic last axis.

    Args:
        profile: (*batch, points).
        width: Standard deviation in grid steps; 0 leaves the profile as it is.

    Raises: ValueError for a negative width.
    """
    if width < 0:
        raise ValueError(f"The width of a smoothing cannot be negative, got {width}.")
    if width == 0:
        return profile
    points = profile.shape[-1]
    k = 2 * math.pi * torch.fft.rfftfreq(points, dtype=torch.float64, device=profile.device)
    kernel = torch.exp(-((k * width) ** 2) / 2).to(profile.dtype)
    return torch.fft.irfft(torch.fft.rfft(profile) * kernel, n=points)


def jet_mask(profile: Tensor, *, prominence: float, width: float = 0.0) -> Tensor:
    """True at the maxima of the smoothed profile that stand out by at least `prominence`, round the periodic last axis.

    The prominence of a maximum is its height above the higher of the two lowest points between it and higher ground on either side;
    the highest one's is its height above the lowest point of all. One sweep from the lowest point finds those that matter: a maximum
    is one once the profile has fallen by `prominence` below it, and the next begins once it has risen by as much from the lowest point
    since.

    Args:
        profile: (*batch, points), finite.
        prominence: Positive, in units of the profile.
        width: Of the smoothing, in grid steps.

    Returns: bool, the shape of `profile`; of a flat top the first point counts. A profile with a value that is not finite has no jet.
    Raises: ValueError for a prominence that is not positive.
    """
    if not prominence > 0:
        raise ValueError(f"The prominence of a jet must be positive, got {prominence}.")
    flat = smoothed(profile, width).reshape(-1, profile.shape[-1])
    flat = torch.where(flat.isfinite().all(dim=-1, keepdim=True), flat, 0.0)
    points = flat.shape[-1]
    lowest = flat.argmin(dim=-1, keepdim=True)
    order = (lowest + torch.arange(points, device=flat.device)) % points
    steps = flat.gather(-1, order).T.contiguous()  # (points, batch), from the lowest point on
    found = torch.zeros_like(steps, dtype=torch.bool)
    top, bottom = steps[0].clone(), steps[0].clone()
    place = torch.zeros_like(lowest[:, 0])
    climbing = torch.ones_like(top, dtype=torch.bool)  # towards a maximum, or down from one
    rows = torch.arange(flat.shape[0], device=flat.device)
    for step in range(1, points + 1):
        value = steps[step % points]
        higher = climbing & (value > top)
        top, place = torch.where(higher, value, top), torch.where(higher, step % points, place)
        fallen = climbing & (value <= top - prominence)
        found[place[fallen], rows[fallen]] = True
        bottom = torch.where(fallen, value, torch.where(climbing, bottom, torch.minimum(bottom, value)))
        risen = ~climbing & (value >= bottom + prominence)
        top, place = torch.where(risen, value, top), torch.where(risen, step % points, place)
        climbing = (climbing & ~fallen) | risen
    mask = torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, order, found.T.contiguous())
    return mask.reshape(profile.shape)


def count_jets(profile: Tensor, *, prominence: float, width: float = 0.0) -> Tensor:
    """Number of jets of each profile, (*batch, points) -> (*batch) long. Args and raises: as `jet_mask`."""
    return jet_mask(profile, prominence=prominence, width=width).sum(dim=-1)


def sustained_level(counts: Tensor, hold: int, *, start: Tensor | None = None) -> Tensor:
    """The count of jets without its flicker: it changes only where the new one lasts.

    The level rises at t where all of the next `hold` frames, t included, have more jets, to the fewest among them, and falls
    likewise.

    Args:
        counts: (*batch, time), whole numbers.
        hold: Frames that a change must last; 1 takes every change.
        start: Level before the first frame, (*batch); None for the median of the first `hold` frames.

    Returns: (*batch, time), the dtype of `counts`; a change less than `hold` frames before the end is not known to last, and not made.
    Raises: ValueError for a hold below 1 or beyond the number of frames.
    """
    frames = counts.shape[-1]
    if not 1 <= hold <= frames:
        raise ValueError(f"A change must last for 1 to {frames} frames, got {hold}.")
    windows = counts.unfold(-1, hold, 1)
    least, most = windows.amin(dim=-1), windows.amax(dim=-1)
    level = counts[..., :hold].median(dim=-1).values if start is None else start.expand(counts.shape[:-1])
    levels = []
    for frame in range(frames):
        if frame < least.shape[-1]:
            level = torch.maximum(level, least[..., frame])
            level = torch.minimum(level, most[..., frame])
        levels.append(level)
    return torch.stack(levels, dim=-1)


def jet_events(counts: Tensor, hold: int, *, start: Tensor | None = None) -> Tensor:
    """Nucleations and coalescences: the change of the sustained level at each frame, +1 and -1; 0 at the first one without a `start`.

    Args, returns and raises: as `sustained_level`. A change by two at once is two events.
    """
    level = sustained_level(counts, hold, start=start)
    before = level[..., 0] if start is None else start.expand(level.shape[:-1])
    return torch.diff(level, dim=-1, prepend=before[..., None])


def waiting_times(events: Tensor, times: Tensor) -> Tensor:
    """Times between one event and the next within each run, all runs pooled, (wait,).

    Args:
        events: (*batch, time), not 0 where there is one.
        times: (time,).

    Waits that are cut by the ends of a run are not there, so that runs of a few waits give too short ones.
    """
    waits = [times[row.nonzero()[:, 0]].diff() for row in events.reshape(-1, events.shape[-1])]
    return torch.cat([times.new_zeros(0), *waits])


@dataclass(frozen=True, eq=False)
class JetTrack:
    """One jet through time: its first frame, and its place in each frame from there on, in grid steps."""

    first: int
    places: tuple[int, ...]

    @property
    def last(self) -> int:
        return self.first + len(self.places) - 1


def track_jets(mask: Tensor, *, reach: float) -> list[JetTrack]:
    """Follow the jets of one run: from frame to frame each pair of closest jets within `reach` grid steps is one jet, nearest pairs first.

    Args:
        mask: (time, points) from `jet_mask`, periodic.
        reach: Largest shift from one frame to the next; keep it below half the distance of neighbouring jets.

    Returns: tracks in the order of their birth. What vanishes for a single frame comes back as another jet. For drift and life of single
        jets; `eddycast statistics` only counts them, and does not depend on `reach`.
    """
    points = mask.shape[-1]
    alive: list[tuple[int, list[int]]] = []
    done: list[tuple[int, list[int]]] = []
    for frame, row in enumerate(mask):
        here = row.nonzero()[:, 0].tolist()
        pairs = []
        for number, (_, places) in enumerate(alive):
            for other, place in enumerate(here):
                apart = abs(place - places[-1])
                pairs.append((min(apart, points - apart), number, other))
        taken_old: set[int] = set()
        taken_new: set[int] = set()
        for distance, number, other in sorted(pairs):
            if distance <= reach and number not in taken_old and other not in taken_new:
                alive[number][1].append(here[other])
                taken_old.add(number)
                taken_new.add(other)
        done += [track for number, track in enumerate(alive) if number not in taken_old]
        alive = [track for number, track in enumerate(alive) if number in taken_old]
        alive += [(frame, [place]) for other, place in enumerate(here) if other not in taken_new]
    tracks = sorted(done + alive, key=lambda track: (track[0], track[1][0]))
    return [JetTrack(first, tuple(places)) for first, places in tracks]
