"""Decoupled annealing: the draw given observations is exact for linear operators, and no pass goes back through the denoiser."""

from __future__ import annotations

import pytest
import torch
from exact_windows import chain, emulator, misfit, observed, smoother

from eddycast.assimilation import DAPSOptions, assimilate
from eddycast.assimilation.daps import conditioned
from eddycast.diffusion import RectifiedSchedule
from eddycast.emulators import OpenWindow
from eddycast.emulators.passes import count_passes
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood

WINDOW = OpenWindow(lambda x_t, time: x_t, RectifiedSchedule(), lambda x: 2 * x)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draws(count, shape):
    sites = {"spread": 1, "error": 2, "error 1": 3, "error 2": 4}
    return lambda site, step: numbers(count, *shape, seed=10 * step + sites[site])


def test_a_clean_state_given_observations_is_drawn_from_the_exact_law():
    """N(x; clean, r^2) times two likelihoods, more entries than state: mean and covariance of 20000 draws within 5 standard errors."""
    first, second = numbers(4, 3, seed=1), numbers(3, 3, seed=2)
    std = torch.tensor([0.2, 0.5, 1.0, torch.inf], dtype=torch.float64)
    values = numbers(4, seed=3), numbers(3, seed=4)
    likelihoods = (
        GaussianLikelihood(lambda state: state.flatten(1) @ first.T, values[0], std),
        GaussianLikelihood(lambda state: state.flatten(1) @ second.T, values[1], 0.3),
    )
    clean, width, count = numbers(3, seed=5), 0.7, 20_000
    x = conditioned(WINDOW, likelihoods, clean.expand(count, 1, 1, 3), width, draws(count, (1, 1, 3)), 0).flatten(1)
    operator = 2 * torch.cat([first[:3], second])  # the states are twice the window
    precision = torch.diag(1 / torch.cat([std[:3], torch.full((3,), 0.3, dtype=torch.float64)]) ** 2)
    covariance = torch.linalg.inv(operator.T @ precision @ operator + torch.eye(3) / width**2)
    mean = covariance @ (operator.T @ precision @ torch.cat([values[0][:3], values[1]]) + clean / width**2)
    error = (covariance.diag() / count).sqrt()
    assert ((x.mean(dim=0) - mean).abs() < 5 * error).all()
    assert torch.allclose(torch.cov(x.T), covariance, atol=5 * covariance.max().item() * (2 / count) ** 0.5)


def test_a_nonlinear_operator_is_linearised_anew():
    """cubes: with each correction the draw comes nearer to the minimum of its own perturbed cost, at Newton's pace."""
    value = torch.tensor([2.0, -1.0], dtype=torch.float64)
    likelihood = GaussianLikelihood(lambda state: (state.flatten(1) / 2 + 1) ** 3, value, 0.1)
    clean, draw = numbers(50, 1, 1, 2, seed=6) / 4, draws(50, (1, 1, 2))
    z = clean + 0.5 * draw("spread", 0)

    def slope(x):
        free = x.clone().requires_grad_()
        error = (value + 0.1 * draw("error", 0).flatten(1) - (free.flatten(1) + 1) ** 3) / 0.1
        cost = 0.5 * error.square().sum() + 0.5 * ((free - z) / 0.5).square().sum()
        return torch.autograd.grad(cost, free)[0].abs().median().item()

    slopes = [slope(conditioned(WINDOW, (likelihood,), clean, 0.5, draw, 0, count)) for count in (1, 3, 6)]
    assert slopes[1] < 0.2 * slopes[0] and slopes[2] < 0.2 * slopes[1]


def test_the_posterior_of_a_chain_within_the_bias_of_the_method():
    """White steps between correlated frames: a spread of 1.24, and a mean that is off by 0.37 deviations, four times what chance makes.

    Passes go forward alone, as many as told."""
    process = chain(0.8)
    obs = observed(process, 6)
    options = DAPSOptions(num_steps=24, ode_steps=2)
    with count_passes() as passes:
        analysis = assimilate("daps", emulator(process, 6), obs, obs.conditions(), members=128, seed=0, options=options)
    found = misfit(analysis, [smoother(process, obs, case) for case in range(2)])
    assert 0.2 < found.error < 0.45 and 1.15 < found.ratio < 1.35, found
    assert (passes.forward, passes.backward) == (2 * 128 * 48, 0)


@pytest.mark.parametrize(
    "changes, words", [({"ode_steps": 0}, "at least 1"), ({"grid": "cubic"}, "Unknown grid 'cubic'")]
)
def test_settings_that_cannot_be_are_told_in_one_line(changes, words):
    with pytest.raises(InputError, match=words):
        DAPSOptions(**changes)
