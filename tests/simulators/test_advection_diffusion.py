"""Advection-diffusion: exact mode by mode in one to three dimensions, whatever the duration."""

import math

import pytest
import torch

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.spectral import derivative
from eddycast.simulators import get_system, integrate, simulate

SYSTEM = get_system("advection-diffusion")
SHAPES = [(16,), (15,), (12, 9), (9, 12), (6, 10, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("time", [0.013, 1.0, 250.0])
def test_every_resolved_wave_turns_and_decays_exactly(shape, time):
    """cos(k . x + p) becomes cos(k . x + p - c sum(k) t) exp(-D |k|^2 t)."""
    velocity, diffusivity = -0.7, 1e-4
    positions = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) / n for n in shape], indexing="ij")
    parameters = torch.tensor([velocity, diffusivity], dtype=torch.float64)
    for modes in ((1, 0, 0), (0, 1, 2), (2, -2, 1), (-1, 3, -3), (0, 0, 0)):
        modes = modes[: len(shape)]
        ks = [2 * math.pi * mode for mode in modes]
        angle = 0.4 + sum(k * x for k, x in zip(ks, positions, strict=True))
        start = torch.cos(angle)[None, None]
        exact = torch.cos(angle - velocity * sum(ks) * time) * math.exp(-diffusivity * sum(k**2 for k in ks) * time)
        result = integrate(SYSTEM, start, parameters, SYSTEM.grid(shape), [time])
        assert (result[0, 0, 0] - exact).abs().max() < 1e-11


@pytest.mark.parametrize("shape", SHAPES)
def test_result_is_real_composes_and_keeps_the_mean_for_any_state(shape):
    """White noise holds the highest mode of even axes too; two halves of a time are the whole."""
    state = torch.randn(3, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameters, grid = torch.tensor([0.9, 0.002], dtype=torch.float64), SYSTEM.grid(shape)
    half, whole = (SYSTEM.flow(parameters, grid, time, dtype=torch.float64) for time in (0.21, 0.42))
    assert (half(half(state)) - whole(state)).abs().max() < 1e-13
    assert (whole(state).mean(dim=grid.dims) - state.mean(dim=grid.dims)).abs().max() < 1e-14


@pytest.mark.parametrize("shape", [(24,), (16, 24), (12, 14, 16)])
def test_tendency_is_the_equation(shape):
    """A central difference in time of the flow equals -c div u + D laplacian u, by the Fourier derivatives."""
    run = simulate(SYSTEM, trajectories=2, steps=1, grid_shape=shape, dtype=torch.float64)
    state, h = run.states[:, 0], 1e-4
    parameters = torch.tensor([0.5, 0.01], dtype=torch.float64)
    ahead, back = (SYSTEM.flow(parameters, run.grid, step, dtype=torch.float64)(state) for step in (h, -h))
    lengths, dims = [1.0] * len(shape), range(len(shape))
    expected = sum(
        -0.5 * derivative(state, lengths, [int(i == axis) for i in dims])
        + 0.01 * derivative(state, lengths, [2 * int(i == axis) for i in dims])
        for axis in dims
    )
    assert expected.abs().max() > 1
    assert (((ahead - back) / (2 * h)) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_initial_law_has_unit_variance_and_is_the_same_on_all_grids():
    numbers = torch.arange(1000)
    noise = MemberNoise(3, numbers, 0 * numbers)
    parameters = SYSTEM.info.default_parameters().expand(1000, 2)
    for shape in ((16,), (10, 12), (10, 10, 10)):
        state = SYSTEM.initial(parameters, SYSTEM.grid(shape), noise, dtype=torch.float64)
        dims = tuple(range(-len(shape), 0))
        assert state.mean(dim=dims).abs().max() < 1e-14
        energy = state.square().mean(dim=dims)
        assert energy.mean().item() == pytest.approx(1.0, abs=4 * energy.std().item() / math.sqrt(1000))
        fine = SYSTEM.initial(parameters[:5], SYSTEM.grid(tuple(2 * n for n in shape)), noise.select(slice(5)))
        every = (...,) + (slice(None, None, 2),) * len(shape)
        assert (fine[every] - state[:5]).abs().max() < 1e-5


def test_velocity_along_the_diagonal_returns_the_pattern():
    """With c = 0.5 and no diffusion the pattern is back after 2 time units, in every dimension."""
    for shape in ((15,), (15, 12), (15, 12, 11)):
        run = simulate(
            SYSTEM, trajectories=2, steps=2, dt=2.0, grid_shape=shape, parameters={"diffusivity": 0.0},
            dtype=torch.float64,
        )  # fmt: skip
        assert (run.states[:, 1] - run.states[:, 0]).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(3,), (16, 2), (8, 8, 8, 8)])
def test_grids_that_cannot_work_are_refused(shape):
    with pytest.raises(InputError, match="1 to 3 axes of at least 4"):
        SYSTEM.grid(shape)


def test_inner_step_plays_no_part():
    fine, coarse = (simulate(SYSTEM, trajectories=2, steps=3, inner_dt=step) for step in (0.001, None))
    assert torch.equal(fine.states, coarse.states)
    assert coarse.attributes["inner_step"] == SYSTEM.info.dt and not coarse.attributes["chaotic"]
    assert "warning" not in coarse.attributes and "lyapunov_time" not in coarse.attributes
