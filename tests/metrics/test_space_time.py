"""Space-time correlation of fields whose own is known: a travelling wave, red noise, the sea surface's exact law."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.metrics.space_time import e_folding, empty_products
from eddycast.noise import MemberNoise
from eddycast.simulators import SYSTEMS
from eddycast.simulators.sea_surface import conditional_mean, stationary_variance


def test_a_travelling_wave_is_a_travelling_cosine():
    """cos(k x - w t) over whole turns: C(r, tau) = cos(k r - w tau), exactly, with the sign of the direction."""
    points, frames, mode, shift = 32, 64, 3, 5
    x, t = torch.arange(points, dtype=torch.float64), torch.arange(frames, dtype=torch.float64)
    k, w = 2 * math.pi * mode / points, 2 * math.pi * shift / frames
    field = 4.0 + 2 * torch.cos(k * x - w * t[:, None])
    products = empty_products(points, 12, periodic=True).add(field)
    offsets = products.offsets.double()
    assert offsets.tolist() == list(range(-16, 16))
    expected = torch.cos(k * offsets - w * torch.arange(12, dtype=torch.float64)[:, None])
    assert torch.allclose(products.correlation(), expected, atol=1e-12)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("gaps", [False, True])
def test_sums_are_those_of_the_definition(periodic, gaps):
    generator = torch.Generator().manual_seed(2)
    runs = [torch.randn(2, frames, 6, generator=generator, dtype=torch.float64) for frames in (5, 7)]
    valid = torch.tensor([True, True, False, True, True, True]) if gaps else None
    products = empty_products(6, 4, periodic=periodic)
    for run in runs:
        products = products.add(run, valid)
    split = empty_products(6, 4, periodic=periodic).add(runs[0], valid) + empty_products(6, 4, periodic=periodic).add(
        runs[1], valid
    )
    assert torch.allclose(split.correlation(), products.correlation(), equal_nan=True)
    known = [True] * 6 if valid is None else valid.tolist()
    values = [
        float(run[b, t, x]) for run in runs for b in range(2) for t in range(run.shape[1]) for x in range(6) if known[x]
    ]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    for lag in range(4):
        for place, offset in enumerate(products.offsets.tolist()):
            pairs = [
                (float(run[b, t, x]) - mean) * (float(run[b, t + lag, (x + offset) % 6]) - mean)
                for run in runs for b in range(2) for t in range(run.shape[1] - lag) for x in range(6)
                if known[x] and known[(x + offset) % 6] and (periodic or 0 <= x + offset < 6)
            ]  # fmt: skip
            assert int(products.count[lag, place]) == len(pairs)
            if pairs:
                expected = sum(pairs) / len(pairs) / variance
                assert float(products.correlation()[lag, place]) == pytest.approx(expected, abs=1e-10)


def test_red_noise_forgets_at_its_rate():
    """AR(1) in time, white in space: rho^tau at no offset, 0 elsewhere; e-folding time -1 / ln rho."""
    generator = torch.Generator().manual_seed(3)
    rho, points, frames = 0.9, 64, 4000
    state, states = torch.randn(points, generator=generator, dtype=torch.float64), []
    for _ in range(frames):
        state = rho * state + math.sqrt(1 - rho**2) * torch.randn(points, generator=generator, dtype=torch.float64)
        states.append(state)
    products = empty_products(points, 30, periodic=True).add(torch.stack(states))
    found = products.correlation()
    centre, lags = points // 2, torch.arange(30, dtype=torch.float64)
    error = math.sqrt((1 + rho**2) / (1 - rho**2) / (points * frames))  # of a correlation, Bartlett
    assert (found[:, centre] - rho**lags).abs().max() < 5 * error
    assert found[:, :centre].abs().max() < 6 * error
    assert e_folding(found[:, centre], lags) == pytest.approx(-1 / math.log(rho), abs=0.4)


def test_the_sea_surface_correlates_as_its_exact_law_says():
    """Linear stochastic dynamics: C(r, tau) = sum_k S_k exp(-a_k tau) exp(i k r) / sum_k S_k, advection and all."""
    system = SYSTEMS["sea-surface"]
    parameters = system.info.default_parameters()
    points, batch, folds = 24, 400, 20
    grid = system.grid((points, points), parameters)
    noise = MemberNoise(5, torch.arange(batch), torch.zeros(batch, dtype=torch.long))
    many = parameters.expand(batch, -1)
    states = [system.initial(many, grid, noise, dtype=torch.float64)]
    step = system.forced_flow(many, grid, 2.0, dtype=torch.float64)
    for number in range(11):
        states.append(step(states[-1], noise, number))
    lines = torch.stack(states, dim=1)[:, :, 0].movedim(-1, 1)  # (batch, y, time, x)
    parts = [empty_products(points, 5, periodic=True).add(part) for part in lines.chunk(folds)]
    found = sum(parts[1:], parts[0]).correlation()
    each = torch.stack([part.correlation() for part in parts])
    error = each.std(dim=0) / math.sqrt(folds)
    # The law at lag tau is the mean of the field tau after a state that is the covariance with one point.
    modes = stationary_variance(parameters, grid)[0].to(torch.complex128)
    covariance = torch.fft.irfftn(modes, s=grid.shape, dim=(-2, -1), norm="forward")
    law = conditional_mean(covariance[None], 2.0 * torch.arange(5), parameters, grid)[
        :, 0, :, 0
    ]  # along x, at the same y
    expected = law.roll(points // 2, -1) / covariance[0, 0]
    # The mean of each part is taken off: what its fields share, 1 / 20 of a run's share, is lost in the single parts only.
    assert ((found - expected).abs() < 5 * error + 0.01).all()
    assert float(expected[4].max()) > 0.2  # the test sees something
    assert float((expected - expected.flip(-1).roll(1, -1)).abs().max()) > 0.1  # and the advection


def test_reach_and_refusals():
    steps = torch.arange(6, dtype=torch.float64)
    curve = 1 - 0.25 * steps
    assert e_folding(curve, 2 * steps) == pytest.approx(2 * (1 - math.exp(-1)) / 0.25)
    assert e_folding(torch.ones(6), steps) == math.inf
    assert math.isnan(e_folding(torch.tensor([1.0, math.nan]), steps[:2]))
    assert bool(empty_products(4, 2, periodic=True).add(torch.ones(3, 4)).correlation().isnan().all())
    with pytest.raises(ValueError, match="offsets"):
        empty_products(4, 2, periodic=True).add(torch.ones(3, 5))
