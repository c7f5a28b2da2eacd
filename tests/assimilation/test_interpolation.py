"""Optimal interpolation against the dense formulas of Gaussian regression."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from eddycast.assimilation import InterpolationOptions, assimilate
from eddycast.assimilation.interpolation import correlation, fit_scales, gaussian_prior, interpolate
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.observations import observe

LINE = Grid((periodic_axis("x", 16, 8.0),))
PLANE = Grid((Axis("y", (0.0, 1.0, 2.5, 4.0), ("wall", "wall")), periodic_axis("x", 6, 6.0)))


def wave(cases, num_times, *, speed=0.4, dtype=torch.float64):
    x = torch.tensor(LINE.axes[0].coordinates, dtype=dtype)
    t = torch.arange(num_times, dtype=dtype)[:, None]
    phase = torch.arange(cases, dtype=dtype)[:, None, None]
    return (2 + 3 * torch.sin(2 * math.pi / 8 * (x - speed * t) + phase)).unsqueeze(2)


def watch(states, grid, std, **instrument):
    channels = states.shape[2]
    fields = tuple((f"u{c}", "1") for c in range(channels))
    noise_std = torch.full((channels,), std, dtype=states.dtype)
    return observe(states, grid=grid, fields=fields, dt=1.0, noise_std=noise_std, seed=0, **instrument)


def dense(prior, obs):
    """Mean and variance at each entry of one case, by explicit matrices."""
    shape = (1, obs.num_times, len(obs.fields), *obs.grid.shape)
    size = math.prod(shape)
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    cov = prior.covariance(eye).reshape(size, size)
    operator = obs.operator()
    h = torch.stack([operator(e).flatten() for e in eye], dim=1)[obs.mask.flatten()]
    std = obs.noise_field.double().expand(obs.values.shape[1:]).flatten()[obs.mask.flatten()]
    gain = cov @ h.T @ torch.linalg.inv(h @ cov @ h.T + torch.diag(std**2))
    mean = prior.mean.expand(shape).flatten()
    mean = mean + gain @ (obs.values[obs.mask].double() - h @ mean)
    return mean.reshape(shape), (cov - gain @ h @ cov).diagonal().reshape(shape)


@pytest.mark.parametrize("instrument", [{"fraction": 0.3}, {"sensors": 5}, {"coarsen": (2, 3)}])
def test_the_solve_is_the_dense_formula(instrument):
    states = torch.randn(1, 3, 2, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    obs = watch(states, PLANE, 0.2, **instrument)
    prior = gaussian_prior(obs, (1.3, 1.1, 0.8))
    mean, _ = dense(prior, obs)
    torch.testing.assert_close(interpolate(obs, prior, options=InterpolationOptions()), mean, rtol=0, atol=1e-5)


def test_members_have_the_law_of_the_posterior():
    states = torch.randn(1, 3, 1, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    obs = watch(states, LINE, 0.2, fraction=0.2)
    options = InterpolationOptions(scales=(1.5, 0.8))
    members = 400
    ensemble = assimilate("interpolation", None, obs, obs.conditions(), members=members, seed=0, options=options)
    mean, variance = dense(gaussian_prior(obs, options.scales), obs)
    torch.testing.assert_close(ensemble.mean(dim=0), mean, rtol=0, atol=1e-5)
    ratio = ensemble.var(dim=0) / variance
    # the stretch for a mean that is exact makes var / variance = M / (M - 1) on average
    assert ratio.mean().item() == pytest.approx(1.0, abs=0.03)
    assert (ratio - 1).abs().max() < 5 * (2 / members) ** 0.5
    alone = assimilate("interpolation", None, obs, obs.conditions(), members=1, seed=0, options=options)
    torch.testing.assert_close(alone[0], mean, rtol=0, atol=1e-5)


def test_what_is_seen_everywhere_without_noise_comes_back():
    states = wave(2, 5)
    obs = watch(states, LINE, 1e-3, fraction=1.0, added_std=torch.zeros(1))
    found = assimilate("interpolation", None, obs, obs.conditions(), members=1, seed=0)[0]
    assert (found - states).abs().max() < 1e-3


def test_a_travelling_wave_is_found_from_a_fifth_of_the_points():
    states = wave(6, 16)
    obs = watch(states, LINE, 0.03, fraction=0.2)
    found = assimilate("interpolation", None, obs, obs.conditions(), members=1, seed=0)[0]
    error = (found - states).square().mean().sqrt() / states.std()
    assert error < 0.03
    scales = fit_scales(obs, seed=0, options=InterpolationOptions())
    assert 0.8 < scales[1] < 4.1  # a wave of length 8 has the scale 8 / (2 pi) = 1.3 or longer
    fixed = assimilate(
        "interpolation", None, obs, obs.conditions(), members=1, seed=0,
        options=InterpolationOptions(scales=(0.3, 0.2)),
    )[0]  # fmt: skip
    assert error < 0.2 * (fixed - states).square().mean().sqrt() / states.std()  # the fit pays


def test_correlations_are_positive_and_know_the_period():
    axis = periodic_axis("x", 16, 8.0)
    for scale in (0.3, 1.0, 4.0):
        matrix = correlation(axis, scale)
        assert torch.linalg.eigvalsh(matrix).min() > -1e-12
        torch.testing.assert_close(matrix, matrix.roll((1, 1), (0, 1)))  # stationary across the seam
    wall = correlation(Axis("x", axis.coordinates, ("wall", "wall")), 1.0)
    assert wall[0, -1] < 1e-10 < correlation(axis, 1.0)[0, -1]


def test_a_background_gives_mean_and_spread_at_each_point():
    generator = torch.Generator().manual_seed(0)
    profile = torch.linspace(0, 10, 16)
    pool = profile + torch.linspace(0.5, 2, 16) * torch.randn(200, 3, 1, 1, 16, generator=generator)
    states = pool[0].expand(3, 4, 1, 16).contiguous()
    obs = watch(states, LINE, 0.5, sensors=2)
    options = InterpolationOptions(scales=(2.0, 0.1))
    found = assimilate(
        "interpolation", None, obs, obs.conditions(), members=1, seed=0, background=pool, options=options
    )[0]
    assert found.dtype == torch.float32
    far = ~obs.mask.any(dim=1, keepdim=True).expand_as(found)
    profile_error = (found - profile)[far].abs().max()
    assert profile_error < 0.5  # between sensors: the climatological mean at that point


def test_scales_are_fitted_to_the_cases_that_have_observations():
    states = wave(3, 8)
    obs = watch(states, LINE, 0.03, fraction=0.3)
    empty = replace(obs, values=torch.cat([torch.full_like(obs.values[:1], torch.nan), obs.values[1:]]))
    rest = empty.select(torch.tensor([1, 2]))
    options = InterpolationOptions(rounds=1)
    assert fit_scales(empty, seed=0, options=options) == fit_scales(rest, seed=0, options=options)
    found = assimilate("interpolation", None, empty, empty.conditions(), members=1, seed=0, options=options)[0]
    mean = gaussian_prior(empty, (1.0, 1.0)).mean
    torch.testing.assert_close(found[0], mean.expand_as(found[0]), rtol=0, atol=1e-9)  # nothing else is known of it
    single = torch.full_like(obs.values, torch.nan)
    single[:, 0, 0, 0] = 1.0
    alone = replace(obs, values=single)
    with pytest.raises(InputError, match="no case has two of them: set scales"):
        assimilate("interpolation", None, alone, alone.conditions(), members=1, seed=0)


def test_stiff_problems_and_bad_scales_are_told():
    obs = watch(wave(1, 6), LINE, 1e-7, fraction=0.9)
    with pytest.raises(InputError, match="did not converge in 20 iterations"):
        assimilate(
            "interpolation", None, obs, obs.conditions(), members=1, seed=0,
            options=InterpolationOptions(scales=(3.0, 3.0), iterations=20),
        )  # fmt: skip
    with pytest.raises(InputError, match="one per space axis"):
        assimilate("interpolation", None, obs, obs.conditions(), members=1, seed=0,
                   options=InterpolationOptions(scales=(3.0,)))  # fmt: skip
