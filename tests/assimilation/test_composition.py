"""The score of a series composed of the scores of its windows: where it is exact, how it errs elsewhere, and where frames come from."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from exact_windows import ExactWindow, Process, chain, tracer

from eddycast.conditions import Conditions
from eddycast.emulators import OpenWindow, compose, window_starts
from eddycast.emulators.passes import count_passes

FRAMES = 33


class PlainSchedule:
    """alpha = 1 - t, sigma = t, down to no noise at all."""

    def __call__(self, time):
        return 1 - time, time


def blank(batch: int, process: Process) -> Conditions:
    return Conditions(process.grid, 1.0, torch.zeros(batch, 0), torch.zeros(batch))


def errors(process: Process, k: int, rho: float) -> tuple[float, float]:
    """Error of the composed score of FRAMES frames, rms over x_t of its own law: of all frames, and of the middle one.

    Relative to the rms of the exact score. The composed score is linear in x_t, so that its matrix is what it makes of unit vectors.
    """
    model = ExactWindow(process, 2 * k + 1, kind="joint", schedule=PlainSchedule())
    size, sigma = FRAMES * process.points, rho / (1 + rho)
    units = torch.eye(size, dtype=torch.float64).unflatten(1, (FRAMES, 1, process.points))
    window = compose(model, units, blank(size, process))
    mean = window.denoiser(units, torch.tensor(sigma, dtype=torch.float64)).flatten(1).T
    eye, alpha = torch.eye(size, dtype=torch.float64), 1 - sigma
    spread = alpha**2 * process.covariance(FRAMES) + sigma**2 * eye
    exact = -torch.linalg.inv(spread)
    wrong = (alpha * mean - eye) / sigma**2 - exact
    square = (wrong @ spread @ wrong.T).diagonal().unflatten(0, (FRAMES, process.points)).mean(dim=1)
    scale = -exact.diagonal().mean()
    return (square.mean() / scale).sqrt().item(), (square[FRAMES // 2] / scale).sqrt().item()


@pytest.mark.parametrize("process, order", [(chain(0.8, points=1), 1), (chain(1.6, -0.8, points=1), 2), (tracer(4), 1)])
def test_the_prior_score_is_exact_once_k_covers_the_order_of_the_chain(process, order):
    """At noise rho the error falls like rho^2, or faster, to the score of the clean series; with k below the order it does not fall."""
    for k in (1, 2, 3):
        coarse, fine = (errors(process, k, rho)[0] for rho in (1e-2, 2e-3))
        if k < order:
            assert coarse == pytest.approx(fine, rel=0.01) and fine > 0.4
        else:
            assert coarse < 0.01
            assert fine < coarse / 20 or fine < 1e-8  # 25 in theory; rounding below


def test_with_noise_the_error_falls_by_the_pole_of_the_kalman_filter_for_each_frame_of_k():
    """Noisy frames depend on all others: what k frames do not see has the weight of a stationary smoother, a (1 - gain) per frame."""
    a = 0.8
    for rho in (0.5, 1.0, 2.0):
        found = [errors(chain(a, points=1), k, rho)[1] for k in (2, 3, 4, 5)]
        # steady state of the filter: P = a^2 P rho^2 / (P + rho^2) + 1 - a^2
        b = rho**2 * (1 - a**2) - (1 - a**2)
        p = (-b + math.sqrt(b**2 + 4 * (1 - a**2) * rho**2)) / 2
        pole = a * rho**2 / (p + rho**2)
        for before, after in pairwise(found):
            assert after / before == pytest.approx(pole, rel=0.03)


@pytest.mark.parametrize("process", [chain(1.6, -0.8, points=1), tracer(4)])
def test_the_error_falls_with_k_at_every_noise_and_with_noise_on_either_side(process):
    """The worst noise lies near the deviation of a state; there k = 2 is wrong by some ten percent of the score, k = 8 by a few."""
    noises = (0.03, 0.3, 1.0, 3.0, 30.0)
    table = torch.tensor([[errors(process, k, rho)[0] for rho in noises] for k in (2, 4, 8)])
    assert (table.diff(dim=0) < 0).all()
    worst = table.max(dim=1).values
    assert worst[0] > 0.1 and worst[2] < 0.07
    assert (table[:, 0] < 0.2 * worst).all() and (table[:, -1] < 0.2 * worst).all()


class Tagged:
    """A window that says of each frame in which window it was, and where in it: 100 * (first frame) + place."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def open(self, known, known_mask, conditions, lead_times):
        assert not known_mask.any()
        place = torch.arange(self.frames)[None, :, None, None]

        def denoiser(x_t, time):
            assert torch.equal(conditions.time, x_t[:, 0, 0, 0]), "conditions have the origin of their window"
            return (100 * x_t[:, :1] + place).expand_as(x_t)

        return OpenWindow(denoiser, PlainSchedule(), lambda w: w)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("more", [0, 1, 2, 7])
def test_fold_takes_k_plus_one_frames_at_both_ends_and_middles_between(k, more):
    """The published loop, window by window: L = W, W + 1, odd and even."""
    size = 2 * k + 1
    frames = size + more
    expected = []
    for first in range(frames - size + 1):
        if first == 0:
            expected += [(first, place) for place in range(k)]
        expected.append((first, k))
        if first == frames - size:
            expected += [(first, place) for place in range(k + 1, size)]
    assert len(expected) == frames
    x = torch.arange(frames, dtype=torch.float64)[None, :, None, None].expand(3, -1, 1, 2)
    window = compose(Tagged(size), x, blank(3, chain(0.8, points=2)))
    tags = window.denoiser(x, torch.tensor(0.5))
    assert torch.equal(tags[1, :, 0, 1], torch.tensor([100.0 * first + place for first, place in expected]).double())
    per_sample = window.denoiser(x, torch.tensor([0.2, 0.5, 0.9]))
    assert torch.equal(per_sample, tags)


@pytest.mark.parametrize("size, stride, frames", [(4, 1, 9), (5, 2, 12), (5, 5, 13), (6, 4, 6)])
def test_with_a_stride_each_frame_comes_from_the_window_that_knows_most_around_it(size, stride, frames):
    x = torch.arange(frames, dtype=torch.float64)[None, :, None, None]
    tags = compose(Tagged(size), x, blank(1, chain(0.8, points=1)), stride=stride).denoiser(x, torch.tensor(0.5))
    starts = window_starts(frames, size, stride)
    assert starts[0] == 0 and starts[-1] == frames - size
    for frame, tag in enumerate(tags.flatten().tolist()):
        first, place = divmod(int(tag), 100)
        assert first in starts and first + place == frame

        def margin(start: int, frame: int = frame) -> int:
            return min(frame - start, start + size - 1 - frame)

        assert margin(first) == max(margin(start) for start in starts)


def test_every_window_of_every_evaluation_is_counted():
    process = chain(0.8, points=1)
    x = torch.zeros(3, 20, 1, 1, dtype=torch.float64)
    window = compose(ExactWindow(process, 5, kind="joint"), x, blank(3, process))
    with count_passes() as passes:
        window.denoiser(x, torch.tensor(0.5))
    assert passes.forward == 3 * (20 - 4)


def test_a_series_shorter_than_the_window_or_a_stride_beyond_it_is_refused():
    model = Tagged(5)
    with pytest.raises(ValueError, match="shorter than the window of 5"):
        compose(model, torch.zeros(1, 4, 1, 1), blank(1, chain(0.8, points=1)))
    with pytest.raises(ValueError, match=r"stride must lie in 1 \.\.\. 5"):
        compose(model, torch.zeros(1, 9, 1, 1), blank(1, chain(0.8, points=1)), stride=6)
