"""Guided diffusion with the exact denoiser of a Gaussian process, where the posterior is known."""

from __future__ import annotations

import pytest
import torch

from eddycast.assimilation import MMPSOptions, SDAOptions, assimilate, get_method
from eddycast.assimilation.window import window_starts
from eddycast.diffusion import SCHEDULES
from eddycast.emulators import Emulator, OpenWindow
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.observations import Observations

POINTS, MEMORY, MEAN, STD = 4, 0.8, 5.0, 2.0
GRID = Grid((periodic_axis("x", POINTS, 1.0),))


def time_covariance(frames):
    lag = torch.arange(frames)
    return MEMORY ** (lag[:, None] - lag).abs().double()


class GaussianWindow:
    """Exact denoiser of x_{k+1} = a x_k + sqrt(1 - a^2) e at each point, unit variance, conditioned on known frames."""

    def __init__(self, window, overlap=1):
        self.window, self.overlap, self.context, self.continuous = window, overlap, 1, False

    def open(self, known, known_mask, conditions, lead_times):
        assert known.shape[1] == len(lead_times) == self.window
        cov, seen = time_covariance(self.window).to(known), known_mask
        base = torch.zeros_like(known)
        if seen.any():
            gain = cov[:, seen] @ torch.linalg.inv(cov[seen][:, seen])
            base = torch.einsum("ts,bsc...->btc...", gain, known[:, seen])
            cov = cov - gain @ cov[seen]
        schedule = SCHEDULES["rectified"]()

        def denoiser(x_t, time):
            alpha, sigma = schedule(time)
            gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * torch.eye(len(cov)))
            return torch.einsum("ts,bsc...->btc...", gain, x_t)

        return OpenWindow(denoiser, schedule, lambda w: base + w)


class Affine:
    def encode(self, state, conditions, lead_times):
        assert state.shape[1] == len(lead_times)
        return (state - MEAN) / STD

    def decode(self, x, conditions, lead_times):
        assert x.shape[1] == len(lead_times)
        return MEAN + STD * x


def emulator(window, chunk=4096):
    return Emulator(GaussianWindow(window), Affine(), chunk=chunk)


def observations(num_times, std=0.6, seed=0, fraction=0.4):
    generator = torch.Generator().manual_seed(seed)
    root = torch.linalg.cholesky(time_covariance(num_times)).float()
    x = torch.einsum("ts,bscx->btcx", root, torch.randn(2, num_times, 1, POINTS, generator=generator))
    values = MEAN + STD * x + std * torch.randn(x.shape, generator=generator)
    values[torch.rand(values.shape, generator=generator) > fraction] = torch.nan
    return Observations(
        values=values, noise_std=torch.tensor([std]), grid=GRID, fields=(("u", "1"),), dt=1.0,
        trajectories=torch.arange(2), frames=torch.zeros(2, dtype=torch.long),
    )  # fmt: skip


def posterior(cov, base, values, std):
    """Mean (time,) and variance (time,) of a Gaussian with that covariance and mean, observed at single frames."""
    seen = ~values.isnan()
    gain = cov[:, seen] @ torch.linalg.inv(cov[seen][:, seen] + std**2 * torch.eye(int(seen.sum())))
    return base + gain @ (values[seen].double() - base[seen]), (cov - gain @ cov[seen]).diagonal(), gain, seen


def exact(obs):
    mean, variance = (
        torch.empty(obs.values.shape, dtype=torch.float64),
        torch.empty(obs.values.shape, dtype=torch.float64),
    )
    cov = STD**2 * time_covariance(obs.num_times)
    base = torch.full((obs.num_times,), MEAN, dtype=torch.float64)
    for case in range(2):
        for x in range(POINTS):
            mean[case, :, 0, x], variance[case, :, 0, x], *_ = posterior(cov, base, obs.values[case, :, 0, x], 0.6)
    return mean, variance


def measures(analysis, mean, variance):
    """Error of the mean in units of the posterior sd, and the ratio of sds."""
    error = ((analysis.mean(dim=0) - mean) / variance.sqrt()).square().mean().sqrt().item()
    return error, (analysis.std(dim=0) / variance.sqrt()).mean().item()


@pytest.mark.parametrize(
    "name, options, error_below, ratio",
    [
        ("mmps", MMPSOptions(iterations=8), 0.12, (0.88, 1.03)),
        ("mmps", MMPSOptions(iterations=8, solver="cg", sampler="ddim"), 0.12, (0.88, 1.03)),
        ("mmps", MMPSOptions(iterations=8, num_steps=24, corrections=2), 0.15, (0.92, 1.08)),
        ("sda", SDAOptions(gamma=0.3), 0.3, (0.8, 1.4)),
    ],
)
@pytest.mark.parametrize("num_times", [6, 4])  # the window itself, and less
def test_one_window_has_the_exact_posterior(name, options, error_below, ratio, num_times):
    """256 members: the error of the mean is 1 / 16 by chance; 64 steps leave a spread some percent too small."""
    obs = observations(num_times)
    analysis = assimilate(name, emulator(6), obs, obs.conditions(), members=256, seed=0, options=options)
    assert analysis.shape == (256, 2, num_times, 1, POINTS)
    error, found = measures(analysis, *exact(obs))
    assert error < error_below and ratio[0] < found < ratio[1]


@pytest.mark.parametrize("stride, good", [(1, True), (3, True), (7, False)])
def test_a_series_longer_than_the_window_is_smoothed_as_a_whole(stride, good):
    """A window of 7 frames of memory 0.8 holds nearly all that its middle frame needs; windows side by side do not."""
    obs = observations(14)
    options = MMPSOptions(iterations=5, num_steps=48, stride=stride)
    analysis = assimilate("mmps", emulator(7), obs, obs.conditions(), members=100, seed=0, options=options)
    mean, variance = exact(obs)
    seam = slice(5, 9)
    error, ratio = measures(analysis[:, :, seam], mean[:, seam], variance[:, seam])
    apart = torch.cat([exact(obs.window(0, 7))[0], exact(obs.window(7, 14))[0]], dim=1)
    loss = ((apart - mean) / variance.sqrt())[:, seam].square().mean().sqrt().item()
    assert loss > 0.35
    if good:
        assert error < 0.22 and 0.85 < ratio < 1.1  # 0.1 is chance
    else:
        assert error > 0.3


def test_online_windows_know_the_past_through_the_last_state_only():
    """Window 2 (frames 5 to 8 given 4) sees its own observations: mean over the samples of frame 4, exactly."""
    obs = observations(9)
    options = MMPSOptions(iterations=5)
    analysis = assimilate(
        "mmps", emulator(5), obs, obs.conditions(), members=200, seed=0, mode="online", options=options
    )
    early, variance = exact(obs.window(0, 5))
    error, ratio = measures(analysis[:, :, :5], early, variance)
    assert error < 0.12 and 0.88 < ratio < 1.03
    cov = STD**2 * time_covariance(5)
    gain0 = (cov[:, :1] / cov[0, 0])[:, 0]
    conditional = (cov - torch.outer(cov[:, 0], cov[0]) / cov[0, 0])[1:, 1:]
    for case in range(2):
        for x in range(POINTS):
            start = early[case, 4, 0, x]
            base = MEAN + gain0[1:] * (start - MEAN)
            mean, spread, gain, seen = posterior(conditional, base, obs.values[case, 5:, 0, x], 0.6)
            slope = gain0[1:] - gain @ gain0[1:][seen]  # how the mean moves with the sample of frame 4
            total = spread + slope**2 * variance[case, 4, 0, x]
            found = analysis[:, case, 5:, 0, x]
            assert ((found.mean(dim=0) - mean).abs() < 0.3 * total.sqrt()).all()
            assert ((found.std(dim=0) / total.sqrt() - 1).abs() < 0.25).all()


def test_a_background_stays_and_is_continued():
    obs = observations(5)
    generator = torch.Generator().manual_seed(3)
    start = MEAN + STD * torch.randn(64, 2, 1, 1, POINTS, generator=generator)
    for mode in ("smooth", "online"):
        analysis = assimilate(
            "mmps", emulator(6), obs, obs.conditions(), members=64, seed=0, mode=mode, background=start,
            options=MMPSOptions(num_steps=16),
        )  # fmt: skip
        torch.testing.assert_close(analysis[:, :, :1], start)
        correlation = torch.corrcoef(torch.stack([analysis[:, 0, 1, 0, 0], start[:, 0, 0, 0, 0]]))[0, 1]
        assert correlation > 0.5 or not obs.values[0, 1, 0, 0].isnan()


def test_members_do_not_depend_on_the_chunk():
    obs = observations(8)
    settings = {"members": 3, "seed": 5, "options": MMPSOptions(num_steps=4)}
    whole = assimilate("mmps", emulator(5), obs, obs.conditions(), **settings)
    parts = assimilate("mmps", emulator(5, chunk=1), obs, obs.conditions(), **settings)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole[0], whole[1])


def test_windows_cover_the_series():
    assert window_starts(10, 4, 3) == [0, 3, 6]
    assert window_starts(11, 4, 3) == [0, 3, 6, 7]
    assert window_starts(4, 4, 3) == [0]


def test_misuse_is_told():
    class Regression:
        window, overlap, context, continuous = 5, 1, 1, False

    obs = observations(8)
    settings = {"members": 2, "seed": 0}
    with pytest.raises(InputError, match="Regression is not: use 'etkf'"):
        assimilate("sda", Emulator(Regression(), Affine()), obs, obs.conditions(), **settings)
    with pytest.raises(InputError, match="no mode 'filter'"):
        assimilate("sda", emulator(5), obs, obs.conditions(), mode="filter", **settings)
    with pytest.raises(InputError, match="use mode online"):
        assimilate("sda", emulator(5), obs, obs.conditions(), background=torch.zeros(2, 2, 1, 1, POINTS), **settings)
    with pytest.raises(InputError, match="gamma must not be negative"):
        SDAOptions(gamma=-1.0)
    assert get_method("mmps").needs == "denoiser"
