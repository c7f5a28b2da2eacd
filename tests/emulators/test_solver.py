"""The solver as a forecaster: the trajectory of `integrate`, from a state that is wrong by the stated amount."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import addresses

from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.simulators import integrate
from eddycast.simulators.kuramoto_sivashinsky import KuramotoSivashinsky

SYSTEM = KuramotoSivashinsky()
GRID = SYSTEM.grid((32,))


def problem(cases: int = 2, dt: float = 0.5) -> tuple[torch.Tensor, Conditions]:
    """Smooth states and their conditions, all at the length of the grid."""
    parameters = SYSTEM.info.default_parameters().expand(cases, -1)
    state = SYSTEM.initial(parameters, GRID, addresses(cases), dtype=torch.float64)
    return state, Conditions(GRID, dt, parameters, torch.zeros(cases), None)


def test_forecast_is_the_integration_at_any_lead():
    """Whole steps, leads between them, several windows of 32 steps: one trajectory, to the error of the inner step."""
    state, here = problem()
    leads = torch.tensor([0.5, 1.0, 2.0, 3.25, 10.0, 40.0], dtype=torch.float64)
    model = SolverModel(SYSTEM, inner_dt=0.125)
    forecast = Emulator(model, IdentitySpace()).forecast(state[:, None], here, leads, members=2, seed=0)
    exact = integrate(SYSTEM, state, here.parameters, GRID, leads * here.dt, inner_dt=0.125)
    assert torch.equal(forecast[0], forecast[1]), "without perturbation all members are one"
    assert (forecast[0] - exact).abs().max() < 1e-4 * exact.std()


def test_one_window_of_whole_steps_is_bitwise_the_integration():
    state, here = problem()
    leads = torch.arange(1, 33, dtype=torch.float64)
    forecast = Emulator(SolverModel(SYSTEM), IdentitySpace()).forecast(state[:, None], here, leads, members=1, seed=0)
    assert torch.equal(forecast[0], integrate(SYSTEM, state, here.parameters, GRID, leads * here.dt))


@pytest.mark.parametrize("size", [1e-1, 1e-3])
def test_perturbation_has_the_stated_size_zero_mean_and_its_own_member(size):
    """Relative to the standard deviation of each state over space; read off where the flow has had no time to act."""
    state, here = problem(cases=3, dt=1e-9)
    state = state * torch.tensor([1.0, 2.0, 0.1])[:, None, None]
    model = SolverModel(SYSTEM, perturbation=size)
    emulator = Emulator(model, IdentitySpace())
    forecast = emulator.forecast(state[:, None], here, torch.tensor([1.0]), members=60, seed=0)
    error = (forecast[:, :, 0] - state) / (size * state.std(dim=-1, keepdim=True))
    exact = torch.full((3,), 31 / 32, dtype=torch.float64)  # white noise without its mean
    assert torch.allclose(error.square().mean(dim=(0, 2, 3)), exact, rtol=5 * math.sqrt(2 / (60 * 31)))
    assert error.mean(dim=-1).abs().max() < 1e-6 / size
    flat = error.flatten(1)
    overlap = torch.corrcoef(flat).fill_diagonal_(0)
    assert overlap.abs().max() < 5 / math.sqrt(3 * 31)
    few = emulator.forecast(state[:, None], here, torch.tensor([1.0]), members=2, seed=0)
    assert torch.allclose(few, forecast[:2], atol=1e-12)


def test_perturbation_happens_once():
    """Only the first window of a run perturbs: a run that goes on as window 1 is the plain solver."""
    state, here = problem()
    leads = torch.tensor([1.0, 2.0])
    perturbed = Emulator(SolverModel(SYSTEM, perturbation=0.1), IdentitySpace())
    plain = Emulator(SolverModel(SYSTEM), IdentitySpace()).forecast(state[:, None], here, leads, members=1, seed=0)[0]
    later = perturbed.advance(state[:, None], here, leads, noise=addresses(2), first_window=1)
    first = perturbed.advance(state[:, None], here, leads, noise=addresses(2))
    assert torch.equal(later, plain)
    assert (first - plain).abs().max() > 1e-2


def test_result_has_the_precision_of_the_context_and_is_computed_in_double():
    state, here = problem()
    emulator, leads = Emulator(SolverModel(SYSTEM), IdentitySpace()), torch.tensor([1.0, 8.0])
    single = emulator.forecast(state.float()[:, None], here, leads, members=1, seed=0)
    double = emulator.forecast(state.float().double()[:, None], here, leads, members=1, seed=0)
    assert single.dtype == torch.float32 and torch.equal(single, double.float())
