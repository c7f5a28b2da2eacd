"""The solver on another grid than that of the states: a run of the truncated state there, and nothing else."""

from __future__ import annotations

import pytest
import torch
from exact_models import addresses

from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.emulators.solver import regridded
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.numerics.truncated import resample
from eddycast.simulators import KolmogorovFlow, KuramotoSivashinsky, integrate, simulate

KS = KuramotoSivashinsky()
LEADS = torch.arange(1, 41, dtype=torch.float64)


@pytest.fixture(scope="module")
def states():
    """Two states on the attractor at L = 36, 96 points, and their conditions."""
    run = simulate(KS, trajectories=2, steps=1, spin_up=80.0, grid_shape=(96,), dtype=torch.float64)
    return run.states[:, 0], Conditions(run.grid, 0.5, run.parameters, torch.zeros(2), None)


def forecast(model, start, here, leads=LEADS):
    return Emulator(model, IdentitySpace()).forecast(start[:, None], here, leads, members=1, seed=0)[0]


def test_coarse_solver_is_the_run_of_the_truncated_state(states):
    start, here = states
    ours = forecast(SolverModel(KS, grid_shape=(48,)), start, here)
    coarse = integrate(KS, resample(start, (48,)), here.parameters, KS.grid((48,)), LEADS * here.dt)
    assert (ours - resample(coarse, (96,))).abs().max() < 1e-10
    spectrum = torch.fft.rfft(ours[:, :, 0])
    assert spectrum[..., 24:].abs().max() < 1e-10 < spectrum[..., 15].abs().max()
    whole = forecast(SolverModel(KS), start, here)
    first, last = ((ours - whole)[:, at].std() / whole[:, at].std() for at in (0, -1))
    assert 1e-7 < first < last < 0.05  # a worse solver, but one of the same equation


def test_fine_solver_keeps_its_small_scales_through_a_long_forecast(states):
    """40 steps are more than the window of the plain solver: one integration, not restarted from what is stored."""
    start, here = states
    coarse = resample(start, (40,))
    grid = KS.grid((40,))
    model = SolverModel(KS, grid_shape=(128,), inner_dt=0.05)
    ours = forecast(model, coarse, Conditions(grid, here.dt, here.parameters, here.time, None))
    fine = integrate(KS, resample(coarse, (128,)), here.parameters, KS.grid((128,)), LEADS * here.dt, inner_dt=0.05)
    assert (ours - resample(fine, (40,))).abs().max() < 1e-10
    assert model.steps_per_output(grid, 0.5) == 10
    assert SolverModel(KS).steps_per_output(grid, 0.5) == 5


def test_states_stored_coarsely_are_forecast_on_the_grid_that_made_them():
    """Kolmogorov flow solved on 96 x 96, stored on 48 x 48: the fine oracle errs by what truncation took, the plain solver by more."""
    flow = KolmogorovFlow()
    run = simulate(flow, trajectories=2, steps=3, spin_up=6.0, grid_shape=(96, 96), store_shape=(48, 48))
    here = Conditions(run.grid, run.dt, run.parameters, torch.zeros(2), None)
    truth = run.states[:, 1:].double()

    def error(model):
        states = forecast(model, run.states[:, 0].double(), here, torch.tensor([1.0, 2.0]))
        return ((states - truth).norm() / truth.norm()).item()

    plain, oracle, coarse = (error(SolverModel(flow, grid_shape=shape)) for shape in (None, (96, 96), (24, 24)))
    assert oracle < 0.5 * plain < 0.5 * coarse
    assert oracle > 1e-6


def test_same_grid_is_the_plain_solver(states):
    start, here = states
    assert torch.equal(
        forecast(SolverModel(KS, grid_shape=(96,)), start, here, LEADS[:8]),
        forecast(SolverModel(KS), start, here, LEADS[:8]),
    )


def test_flow_takes_a_grid_that_does_not_resolve_it_when_told():
    """32 x 32 at viscosity 0.001: refused for data, crude but finite as a baseline."""
    parameters = torch.tensor([1e-3, 0.1, 1.0, 4.0], dtype=torch.float64)
    with pytest.raises(InputError, match="too few"):
        KolmogorovFlow().grid((32, 32), parameters)
    crude = KolmogorovFlow(resolve=False)
    with pytest.raises(InputError, match="do not resolve a force"):
        KolmogorovFlow(resolve=False).grid((32, 32), torch.tensor([1e-3, 0.1, 1.0, 12.0], dtype=torch.float64))
    grid = crude.grid((32, 32), parameters)
    start = crude.initial(parameters[None], grid, addresses(1), dtype=torch.float64)
    end = crude.flow(parameters, grid, 20.0, dtype=torch.float64)(start)
    assert end.isfinite().all() and 0.3 < end.abs().max() < 20


def test_boxes_that_are_not_periodic_are_refused():
    wall = Grid((Axis("x", (0.0, 0.5, 1.0), ("wall", "wall")),))
    with pytest.raises(InputError, match="periodic axes, x are not"):
        regridded(wall, (8,))
    with pytest.raises(InputError, match="needs 1 positive numbers"):
        regridded(KS.grid(), (8, 8))


def test_a_run_that_blows_up_is_told_not_returned(states):
    start, here = states
    with pytest.raises(InputError, match="smaller inner_dt"):
        forecast(
            SolverModel(KS, inner_dt=25.0), 1e3 * start, Conditions(here.grid, 25.0, here.parameters, here.time, None)
        )
