"""The synthetic sea surface against its exact law: stationary, conditional, moving with the current; forcing that is addressed."""

import math
import sys

import pytest
import torch

from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.noise import MemberNoise
from eddycast.simulators import SYSTEMS, Forced, KuramotoSivashinsky, SeaSurface, get_system, integrate, simulate
from eddycast.simulators.sea_surface import (
    EXTENT,
    conditional_mean,
    conditional_std,
    exact_crps,
    stationary_variance,
)

SEA = SeaSurface()
DEFAULTS = SEA.info.default_parameters()


def members(count: int, seed: int = 3) -> MemberNoise:
    return MemberNoise.grid(seed, 1, count).flatten()


def test_the_stationary_law_has_variance_one_and_the_stated_spectrum():
    """First and last of 12 days, 500 runs of 20 points; each mode's power within 5 standard errors, and all of them together."""
    grid = SEA.grid((20, 24))
    run = simulate(SEA, trajectories=500, steps=12, grid_shape=(20, 24), dtype=torch.float64)
    expected = stationary_variance(DEFAULTS, grid)[0]
    for states in (run.states[:, 0, 0], run.states[:, -1, 0]):
        power = torch.fft.rfft2(states, norm="forward").abs().square().mean(0)
        held = expected > 0
        errors = (power[held] / expected[held] - 1).abs() * math.sqrt(500 / 2)  # real modes have twice the variance
        assert errors.max() < 5 and errors.mean() < 0.8
        assert power[~held].max() < 1e-30  # the highest modes of an even number of points have no direction
    assert SEA.initial(DEFAULTS, SEA.grid(), members(100)).var().item() == pytest.approx(1.0, abs=0.1)


def test_the_stationary_variances_sum_to_one_for_all_parameters():
    numbers = torch.rand(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = (torch.tensor([getattr(one, end) for one in SEA.info.parameters]).double() for end in ("low", "high"))
    half = stationary_variance(low + (high - low) * numbers, SEA.grid())
    total = 2 * half.sum((-2, -1)) - half[..., :1].sum((-2, -1))
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)
    far = conditional_std(torch.tensor([1e6]), DEFAULTS, SEA.grid())  # nothing is known of a state far ahead
    assert far.item() == pytest.approx(1.0, abs=1e-12)


def test_lag_correlations_follow_the_exact_law():
    """E[T_k(t + tau) conj T_k(t)] = S_k exp(-a_k tau), mode by mode, over 1, 3 and 7 days; written out here with its own formula."""
    run = simulate(SEA, trajectories=800, steps=8, grid_shape=(16, 16), dtype=torch.float64, seed=1)
    modes = torch.fft.rfft2(run.states[:, :, 0], norm="forward")
    velocity_x, velocity_y, kappa, relaxation, _ = DEFAULTS.tolist()
    variance = stationary_variance(DEFAULTS, run.grid)[0]
    for lag in (1, 3, 7):
        measured = (modes[:, lag] * modes[:, 0].conj()).mean(0)
        for mx, my in ((1, 0), (0, 1), (2, 1), (-3, 2), (5, 5)):
            kx, ky = 2 * math.pi * mx / 15, 2 * math.pi * my / 15
            rate = complex(relaxation + kappa * (kx**2 + ky**2), velocity_x * kx + velocity_y * ky)
            exact = variance[mx, my].item() * complex(math.e) ** (-rate * lag)
            assert abs(measured[mx, my].item() - exact) < 5 * variance[mx, my].item() / math.sqrt(800)


@pytest.mark.parametrize("leads", [[1.0, 2.0, 7.0], [0.25, 3.7]])
def test_the_conditional_law_is_that_of_a_large_ensemble(leads):
    """2000 members from one state, any lead times: mean and standard deviation within 5 standard errors at each point."""
    grid = SEA.grid((12, 12))
    state = SEA.initial(DEFAULTS[None], grid, members(1), dtype=torch.float64)
    ensemble = integrate(SEA, state.expand(2000, -1, -1, -1), DEFAULTS, grid, leads, noise=members(2000))
    mean = conditional_mean(state[0], torch.tensor(leads), DEFAULTS, grid)
    std = conditional_std(torch.tensor(leads), DEFAULTS, grid)
    assert ((ensemble.mean(0) - mean) / std).abs().max() < 5 / math.sqrt(2000)
    assert (ensemble.std(0) / std - 1).abs().max() < 5 / math.sqrt(4000)
    assert torch.allclose(integrate(SEA, state[0], DEFAULTS, grid, leads), mean, atol=1e-12)  # without noise: the mean


def test_two_short_steps_are_one_long_one_in_law():
    """Std over tau = 2: sum of that over 1, faded once more, and a new one, mode by mode."""
    grid = SEA.grid()
    one, two = conditional_std(torch.tensor([1.0, 2.0]), DEFAULTS, grid).flatten()
    assert one < two < math.sqrt(2) * one
    flow = SEA.flow(DEFAULTS, grid, 1.0, dtype=torch.float64)
    forced = SEA.forced_flow(DEFAULTS, grid, 1.0, dtype=torch.float64)
    zero = torch.zeros(400, 1, 60, 60, dtype=torch.float64)
    noise = members(400)
    sum_of_both = flow(forced(zero, noise, 0)) + forced(zero, noise, 1)
    assert torch.allclose(forced(forced(zero, noise, 0), noise, 1), sum_of_both, atol=1e-12)
    assert sum_of_both.std().item() == pytest.approx(two.item(), rel=0.02)


def test_a_pattern_moves_with_the_current_exactly():
    """Five degrees a day along x, minus 2.5 along y: 20 and -10 points; what remains of it has only faded."""
    grid = SEA.grid()
    parameters = torch.tensor([5.0, -2.5, 0.0, 0.1, 1.5], dtype=torch.float64)
    state = SEA.initial(parameters[None], grid, members(1), dtype=torch.float64)[0]
    moved = SEA.flow(parameters, grid, 1.0, dtype=torch.float64)(state)
    assert torch.allclose(moved, math.exp(-0.1) * state.roll((20, -10), (-2, -1)), atol=1e-12)


def test_diffusion_alone_fades_each_wave_at_its_rate():
    grid = SEA.grid()
    parameters = torch.tensor([1e-9, 1e-9, 0.05, 0.01, 1.5], dtype=torch.float64)
    x = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)
    wave = torch.cos(2 * math.pi * 3 * x / EXTENT)[None, :, None].expand(1, 60, 60)
    faded = conditional_mean(wave, torch.tensor([4.0]), parameters, grid)[0]
    assert torch.allclose(faded, wave * math.exp(-4 * (0.01 + 0.05 * (2 * math.pi * 3 / EXTENT) ** 2)), atol=1e-7)


def test_a_coarse_grid_holds_the_modes_of_the_fine_one():
    """The same draws and the same currents: the run on 24 points is that on 60, truncated."""
    fine, coarse = (simulate(SEA, trajectories=2, steps=3, grid_shape=(n, n), dtype=torch.float64) for n in (60, 24))
    modes = torch.fft.rfft2(fine.states, norm="forward")
    kept = torch.cat([modes[..., :12, :12], modes[..., -11:, :12]], dim=-2)
    own = torch.fft.rfft2(coarse.states, norm="forward")
    assert torch.allclose(torch.cat([own[..., :12, :12], own[..., -11:, :12]], dim=-2), kept, atol=1e-13)


@pytest.mark.parametrize("parameters", [{}, {"velocity_x": (0.0, 0.4)}])
def test_a_forced_trajectory_is_the_same_in_any_batch_and_length(parameters, monkeypatch):
    """In blocks of rows, as several threads share them, too."""
    given = {"parameters": parameters, "seed": 5}
    with monkeypatch.context() as context:
        blocks = [slice(0, 16), slice(16, 40)]
        context.setattr(sys.modules[integrate.__module__], "_blocks", lambda *_: blocks)
        many = simulate(SEA, trajectories=40, steps=4, **given)
    few = simulate(SEA, trajectories=3, steps=6, chunk=2, **given)
    assert torch.equal(many.states[:3], few.states[:, :4])
    other = simulate(SEA, trajectories=3, steps=4, parameters=parameters, seed=6)
    innovations = (few.states[:, 1] - few.states[:, 0], few.states[:, 2] - few.states[:, 1])
    assert (innovations[0] - innovations[1]).abs().max() > 0.1  # steps have increments of their own
    assert (other.states - few.states[:, :4]).abs().max() > 0.5


def test_only_forced_systems_take_noise_and_it_must_fit():
    assert [name for name, system in SYSTEMS.items() if isinstance(system, Forced)] == ["beta-plane", "sea-surface"]
    ks, state = KuramotoSivashinsky(), torch.zeros(2, 1, 64) + torch.linspace(0, 1, 64)
    plain, given = (
        integrate(ks, state, ks.info.default_parameters(), ks.grid(), [1.0], noise=noise)
        for noise in (None, members(5))
    )
    assert torch.equal(plain, given)
    with pytest.raises(ValueError, match="must have the batch"):
        integrate(SEA, torch.zeros(2, 1, 60, 60), DEFAULTS, SEA.grid(), [1.0], noise=members(3))


def test_other_grids_are_refused_in_one_line():
    with pytest.raises(InputError, match="2 axes of at least 4 points"):
        get_system("sea-surface").grid((60,))


def test_the_exact_ensemble_as_a_forecaster_has_the_exact_crps():
    """`system:sea-surface` over windows: calibrated, its fair CRPS that of the law; no member has the forcing of the truth (same seed)."""
    count, steps, size = 40, 40, 20
    run = simulate(SEA, trajectories=count, steps=1 + steps, grid_shape=(size, size), seed=0)
    conditions = Conditions(run.grid, 1.0, run.parameters.float(), torch.zeros(count))
    leads = torch.arange(1, steps + 1).double()
    emulator = Emulator(SolverModel(SEA), IdentitySpace())
    ensemble = emulator.forecast(run.states[:, :1], conditions, leads, members=6, seed=0).float()
    truth = run.states[:, 1:]
    apart = (ensemble[:, None] - ensemble[None]).abs().sum((0, 1)) / (2 * 6 * 5)
    score = ((ensemble - truth).abs().mean(0) - apart).mean((0, 2, 3, 4))
    assert torch.allclose(score.double(), exact_crps(leads, DEFAULTS, run.grid), rtol=0.25, atol=0.01)
    assert (score.double() / exact_crps(leads, DEFAULTS, run.grid)).mean().item() == pytest.approx(1.0, abs=0.06)
    assert (ensemble[:, :, 0] - truth[:, 0]).abs().mean((1, 2, 3, 4)).min() > 0.05
    new = ensemble[:, :, 33:] - ensemble[:, :, 32:-1]  # increments of the second window are not those of the first
    old = ensemble[:, :, 1:8] - ensemble[:, :, :7]
    assert (new - old).abs().mean() > 0.1


def test_the_grid_is_fifteen_degrees_wide_whatever_its_points():
    grid = SEA.grid((60, 16))
    assert isinstance(grid, Grid) and [axis.units for axis in grid.axes] == ["degree", "degree"]
    assert grid.axes[1].coordinates[1] == pytest.approx(15 / 16) and all(grid.periodic)
