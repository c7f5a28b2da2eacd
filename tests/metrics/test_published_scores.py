"""Scores as published for latent diffusion: Parseval, bands, floors, the correction of the spread, transport of pooled mass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import (
    SCORES,
    band_power_rmse,
    earth_movers_distance,
    frequency_bands,
    isotropic_bins,
    isotropic_spectrum,
    mask_weights,
    pooled_earth_movers_distance,
    pooled_wasserstein,
    published_spread_skill,
    published_vrmse,
    scores_for,
    spread_skill,
    vrmse,
    wasserstein,
)

SHAPES = [(64,), (15,), (16, 16), (32, 8), (9, 12), (7, 7), (8, 8, 8), (6, 5, 4), (16, 1), (1, 12), (2, 2)]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(name):
    return next(one for one in SCORES if one.name == name)


@pytest.mark.parametrize("shape", SHAPES)
def test_parseval(shape):
    """Counts times powers and the square of the mean make the sum of squares: no mode is lost, none counts twice."""
    field, bins = normal(3, *shape, seed=1) + 0.7, isotropic_bins(shape)
    power = isotropic_spectrum(field, bins, len(shape))
    space = tuple(range(1, len(shape) + 1))
    constant = math.prod(shape) * field.mean(dim=space).square()
    waves = torch.where(bins.count > 0, power * bins.count, 0.0).sum(dim=-1)
    torch.testing.assert_close(waves + constant, field.square().sum(dim=space))
    assert float(bins.count.sum()) == math.prod(shape) - 1


@pytest.mark.parametrize("shape", SHAPES)
def test_bins_are_those_of_the_full_transform(shape):
    """NumPy, the complex transform, and bins spelled out: floor(sqrt(d) min(N) / 2) of them, closed on the right."""
    sizes = [size for size in shape if size > 1]
    number = math.floor(math.sqrt(len(sizes)) * min(sizes) / 2)
    k = np.sqrt(sum(one**2 for one in np.meshgrid(*(np.fft.fftfreq(size) for size in shape), indexing="ij")))
    edges = np.linspace(0, k.max(), number + 1)
    place = np.digitize(k * (1 - 1e-12), edges, right=True)
    field = normal(*shape, seed=2)
    power = np.abs(np.fft.fftn(field.numpy(), norm="ortho")) ** 2
    bins = isotropic_bins(shape)
    found = isotropic_spectrum(field, bins, len(shape))
    assert len(found) == number
    np.testing.assert_allclose(bins.frequency, edges[1:])
    for one in range(number):
        here = power[place == one + 1]
        assert float(bins.count[one]) == here.size
        assert float(found[one]) == pytest.approx(here.mean()) if here.size else math.isnan(found[one])


def test_a_wave_is_in_the_bin_of_its_frequency_and_white_noise_in_all():
    place = torch.arange(64, dtype=torch.float64)
    wave = 3.0 * torch.cos(2 * math.pi * 5 * place / 64 + 0.3)
    power = isotropic_spectrum(wave, isotropic_bins((64,)), 1)
    assert int(power.argmax()) == 4
    assert float(isotropic_bins((64,)).frequency[4]) == pytest.approx(5 / 64)
    assert float(power[4]) == pytest.approx(9 / 4 * 64)
    bins = isotropic_bins((32, 32))
    noise = isotropic_spectrum(1.7 * normal(400, 32, 32), bins, 2).mean(dim=0)
    assert ((noise / 1.7**2 - 1).abs() < 5 * (1 / (400 * bins.count / 2)).sqrt()).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_bands_partition_the_frequencies_up_to_one_half(shape):
    bins = isotropic_bins(shape)
    masks = torch.stack(list(frequency_bands(bins).values())).sum(dim=0)
    first = float(bins.frequency[0])
    resolved = (bins.count > 0) & (bins.frequency <= max(0.5, first) * (1 + 1e-6))
    assert torch.equal(masks, resolved.long())
    if shape == (64,):  # thirds of the logarithm from 1 / 64 to 1 / 2: 2 and 3 cycles end at 64^-1 32^(1/3) = 3.17 / 64
        counts = [int(mask.sum()) for mask in frequency_bands(bins).values()]
        assert counts == [3, 7, 22]


def test_powers_of_members_are_averaged_before_the_ratio():
    """Members a and b times the truth: |1 - (a^2 + b^2) / 2| in each band, not the mean of the members' own errors."""
    truth = 1e3 * normal(4, 32, 32)
    ensemble = torch.stack([0.5 * truth, 1.25 * truth])
    expected = abs(1 - (0.5**2 + 1.25**2) / 2)
    for found in band_power_rmse(ensemble, truth, torch.ones(32, 32)):
        torch.testing.assert_close(found, torch.full((4,), expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_each_band_sees_its_own_waves():
    """Twice the amplitude of one wave: its bin is 4 times too strong, the root mean square over its band's bins says so."""
    place = torch.arange(64, dtype=torch.float64)
    others = normal(64)
    for mode, (band, bins) in zip((2, 7, 25), ((0, 3), (1, 7), (2, 22)), strict=True):
        spectrum = torch.fft.rfft(others)
        spectrum[mode] = 0
        rest = torch.fft.irfft(spectrum, n=64)
        wave = torch.cos(2 * math.pi * mode * place / 64)
        found = torch.stack(band_power_rmse((rest + 2 * wave)[None, None], (rest + wave)[None], torch.ones(64)))[:, 0]
        expected = torch.zeros(3, dtype=torch.float64)
        expected[band] = 3 / math.sqrt(bins)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


def test_the_floors_make_emptiness_harmless():
    still = torch.zeros(2, 16, 16, dtype=torch.float64)
    members = torch.zeros(3, 2, 16, 16, dtype=torch.float64)
    flat = torch.ones(16, 16)
    for found in band_power_rmse(members, still, flat):
        assert float(found.abs().max()) == 0
    assert published_spread_skill(members, still, flat).tolist() == [1.0, 1.0]
    assert published_vrmse(members[0] + 1e-3, still, flat).tolist() == pytest.approx([1.0, 1.0])  # sqrt(1e-6 / 1e-6)


def test_shared_work_is_picked_apart():
    """The three registered bands are one function; each reports its own."""
    ensemble, truth, weights = normal(3, 5, 16, 16), 2 * normal(5, 16, 16, seed=1), torch.ones(16, 16)
    found = band_power_rmse(ensemble, truth, weights)
    for band, values in zip(("low", "mid", "high"), found, strict=True):
        one = score(f"{band}_band_power_rmse")
        torch.testing.assert_close(one(ensemble, truth, weights), values.mean())
    assert len({id(score(f"{band}_band_power_rmse").compute) for band in ("low", "mid", "high")}) == 1


def test_vrmse_of_the_spatial_mean():
    """sqrt((n - 1) / n) for the unbiased variance; the floor matters only where the truth hardly varies."""
    truth = 2.3 * normal(5, 6, 7) + 4
    mean = truth.mean(dim=(1, 2))[:, None, None].expand_as(truth)
    even = torch.ones(6, 7)
    torch.testing.assert_close(vrmse(mean, truth, even), torch.full((5,), math.sqrt(41 / 42), dtype=torch.float64))
    found = published_vrmse(mean, truth, even)
    assert float((found - math.sqrt(41 / 42)).abs().max()) < 1e-6
    small = 1e-3 * truth
    variance = small.flatten(1).var(dim=1)
    expected = (41 / 42 * variance / (variance + 1e-6)).sqrt()
    torch.testing.assert_close(published_vrmse(1e-3 * mean, small, even), expected)
    assert float(expected.max()) < 0.96


def test_published_scores_take_points_alike_and_leave_land_out():
    ensemble, truth = normal(4, 3, 6, 8), normal(3, 6, 8, seed=1)
    slanted = torch.linspace(0.1, 2, 8).expand(6, 8)
    for measure in (published_spread_skill, lambda e, y, w: published_vrmse(e.mean(dim=0), y, w)):
        torch.testing.assert_close(measure(ensemble, truth, slanted), measure(ensemble, truth, torch.ones(6, 8)))
    valid = torch.ones(6, 8, dtype=torch.bool)
    valid[2:4, 3:] = False
    weights = mask_weights(torch.ones(6, 8), valid)
    land = [torch.where(valid, field, math.nan) for field in (ensemble, truth)]
    cut = [field[..., valid] for field in (ensemble, truth)]
    flat = torch.ones(int(valid.sum()))
    torch.testing.assert_close(published_spread_skill(*land, weights), published_spread_skill(*cut, flat))
    ensemble, truth = normal(4, 3, 16, 16), normal(3, 16, 16, seed=1)
    valid = torch.ones(16, 16, dtype=torch.bool)
    valid[2:5, 3:] = False
    land = [torch.where(valid, field, math.nan) for field in (ensemble, truth)]
    mean = [field[..., valid].mean(dim=-1)[..., None, None] for field in (ensemble, truth)]
    filled = [torch.where(valid, field, value) for field, value in zip((ensemble, truth), mean, strict=True)]
    found = band_power_rmse(*land, mask_weights(torch.ones(16, 16), valid))
    torch.testing.assert_close(torch.stack(found), torch.stack(band_power_rmse(*filled, torch.ones(16, 16))))


@pytest.mark.parametrize("members", [2, 4, 16])
def test_exchangeable_gaussians_have_a_published_ratio_of_one(members):
    """With many points a frame's ratio is sharp and its mean is one for any M; without the correction it is not."""
    points, frames = 2000, 60
    draws = 3 * normal(frames, points, seed=9) + 0.7 * normal(members + 1, frames, points, seed=members)
    ratio = float(published_spread_skill(draws[1:], draws[0], torch.ones(points)).mean())
    error = math.sqrt((1 / 2 + 1 / (2 * (members - 1))) / (points * frames))
    assert abs(ratio - 1) < 4 * error + 2 / points
    uncorrected = ratio * math.sqrt(members / (members + 1))
    twice = ratio * math.sqrt((members + 1) / members)
    assert min(abs(uncorrected - 1), abs(twice - 1)) > 4 * error + 2 / points


def test_a_mean_of_ratios_is_above_the_ratio_of_means_for_few_points():
    draws = normal(17, 4000, 4)
    frames = float(published_spread_skill(draws[1:], draws[0], torch.ones(4)).mean())
    pooled = float(spread_skill(draws[1:], draws[0], torch.ones(4), over=(0,)).ratio)
    assert pooled == pytest.approx(1, abs=0.02)
    assert frames > 1.1


def test_samples_of_multiple_size_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(2, 36), 0.4 + normal(2, 12, seed=1)
    for first, second in ((x, y), (y, x)):
        found = wasserstein(first, second)
        for row in range(2):
            assert float(found[row]) == pytest.approx(stats.wasserstein_distance(first[row], second[row]))
        weighed = wasserstein(first, second, order=2, first_weights=torch.ones(first.shape[-1]))
        torch.testing.assert_close(wasserstein(first, second, order=2), weighed)


def test_pooled_values_by_sorting_are_those_by_quantiles():
    """Equal weights need no masses: the same number as with weights that differ in the last digits."""
    ensemble, truth = normal(5, 3, 6, 8), normal(3, 6, 8, seed=1)
    even = torch.ones(6, 8, dtype=torch.float64)
    nearly = even.clone()
    nearly[0, 0] += 1e-12
    torch.testing.assert_close(pooled_wasserstein(ensemble, truth, even), pooled_wasserstein(ensemble, truth, nearly))
    ensemble[2, 1, 3, 3] = math.nan
    lost = pooled_wasserstein(ensemble, truth, even).isfinite().tolist()
    assert lost == [True, False, True]


def square(*, moved=(0, 0), points=16):
    blob = torch.zeros(1, points, points, dtype=torch.float64)
    blob[:, 5:8, 5:8] = 1.0
    return blob.roll(moved, dims=(1, 2))


def box(points=16):
    axes = (tuple(0.1 * (k + 0.5) for k in range(points)),) * 2
    return Grid(tuple(Axis(name, place, ("wall", "wall")) for name, place in zip("xy", axes, strict=True)))


def test_members_are_pooled_as_mass():
    """On a line, members four points either side of the truth carry half the mass each: the work is that of either."""
    grid = Grid((box(20).axes[0],))
    weights, truth = grid.weights(), torch.zeros(1, 20, dtype=torch.float64)
    truth[:, 9] = 1.0
    left, right = truth.roll(-4, dims=1), truth.roll(4, dims=1)
    both = pooled_earth_movers_distance(torch.stack([left, right]), truth, weights, grid)
    torch.testing.assert_close(both, torch.tensor([0.4], dtype=torch.float64))
    torch.testing.assert_close(pooled_earth_movers_distance(left[None], truth, weights, grid), both)
    heavier = pooled_earth_movers_distance(torch.stack([7 * left, right]), truth, weights, grid)
    torch.testing.assert_close(heavier, both)  # every member's mass is one
    split = pooled_earth_movers_distance(torch.stack([truth, 3 * truth, right]), truth, weights, grid)
    torch.testing.assert_close(split, both / 3)
    plane, blob = box(), square()
    found = pooled_earth_movers_distance(square(moved=(3, 2))[None], blob, plane.weights(), plane)
    torch.testing.assert_close(found, earth_movers_distance(square(moved=(3, 2)), blob, plane))


def test_what_is_no_mass_has_no_distance():
    grid = box()
    weights = grid.weights()
    truth = torch.cat([square(), square() - 0.5])
    ensemble = torch.stack([truth, truth + 1.0])
    found = pooled_earth_movers_distance(ensemble, truth, weights, grid)
    assert found.isfinite().tolist() == [True, False]
    dip = square().clone()
    dip[0, 0, 0] = -0.2  # a member's undershoot counts as no mass
    assert float(pooled_earth_movers_distance(dip[None], square(), weights, grid)) < 1e-12
    lost = dip.clone()
    lost[0, 0, 0] = math.nan
    assert math.isnan(pooled_earth_movers_distance(lost[None], square(), weights, grid))


def test_the_registry_offers_them_where_they_make_sense():
    names = {one.name for one in scores_for(16, 64)}
    assert {"vrmse_published", "spread_skill_published", "mid_band_power_rmse", "wasserstein_values", "semd"} <= names
    assert "coverage_90" not in names
    assert "coverage_90" in {one.name for one in scores_for(19, 64)}
    assert "spread_skill_published" not in {one.name for one in scores_for(1, 64)}
    assert "semd" not in {one.name for one in scores_for(16, 64, nonnegative=False)}
    assert not {one.name for one in scores_for(16, 1)} & {"semd", "wasserstein_values", "low_band_power_rmse"}
    grid = Grid((periodic_axis("x", 8, 1.0),))
    ensemble, truth = normal(20, 3, 8).abs(), normal(3, 8, seed=1).abs()
    for one in scores_for(20, 8):
        assert torch.isfinite(one(ensemble, truth, grid.weights(), grid)), one.name
