"""Widths that the denoiser sets itself: gamma "auto" of SDA, the row sums of TMPD; and moment matching with Jacobians of no posterior."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exact_gaussian import GeometricSchedule, eight_dimensions, identity, normal, periodic_field

from eddycast.diffusion import (
    AdamsBashforthSampler,
    CosineSchedule,
    RectifiedSchedule,
    StochasticDPMSolverSampler,
)
from eddycast.guidance import GaussianLikelihood, MMPSGuidance, SDAGuidance, TMPDGuidance
from eddycast.guidance.mmps import SMALLEST
from eddycast.numerics.krylov import conjugate_gradients, gmres

TIMES = (0.0, 0.4, 0.6, 0.8, 1.0)
CLUSTER = (*range(13), 60, 90)


def at(time: float) -> torch.Tensor:
    return torch.tensor(time, dtype=torch.float64)


@pytest.mark.parametrize("rule", [partial(SDAGuidance, gamma="auto"), TMPDGuidance])
def test_one_sensor_is_exact_without_a_number(rule):
    problem, _ = periodic_field(0.05, sensors=128)
    guided, x_t = problem.guided(rule), normal(3, 1, 1, 128)
    for time in TIMES:
        assert torch.allclose(guided(x_t, at(time)), problem.guided_mean(x_t, at(time)), atol=1e-7)


def test_automatic_gamma_is_one_step_of_conjugate_gradients_where_errors_are_equal():
    """Both take the Rayleigh quotient along the misfit; with unequal errors SDA keeps the error of each entry and they part."""
    problem, _ = periodic_field(0.3, CLUSTER)
    x_t = normal(4, 1, 1, 128)
    rules = (partial(SDAGuidance, gamma="auto"), partial(MMPSGuidance, iterations=1, solver="cg"))
    for time in TIMES:
        sda, mmps = (problem.guided(rule)(x_t, at(time)) for rule in rules)
        assert torch.allclose(sda, mmps, rtol=1e-8, atol=1e-10)
    unequal, _ = periodic_field(torch.linspace(0.05, 1, 15, dtype=torch.float64), CLUSTER)
    sda, mmps = (unequal.guided(rule)(x_t, at(0.6)) for rule in rules)
    assert (sda - mmps).abs().max() > 0.01


def test_row_sums_are_those_of_the_matrix():
    """v_i = R_i + sum_j (H V H^T)_ij, cut at R_i, in the units of the state, from V written out."""
    schedule = CosineSchedule()
    problem, x_t = eight_dimensions(schedule, observations=3), normal(4, 1, 1, 8)
    operator = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]]).double()
    std = torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64)
    likelihood = GaussianLikelihood(lambda state: 40 * state.flatten(1) @ operator.T, normal(3, seed=5), 40 * std)
    for time in (0.3, 0.6):
        alpha, sigma = schedule(at(time))
        basis = torch.eye(8, dtype=torch.float64)[:, None, None]
        jacobian = problem.denoiser(basis, at(time))[
            :, 0, 0
        ].T  # the denoiser is linear: column j is what becomes of a unit at j
        v = operator @ (sigma**2 / alpha * jacobian) @ operator.T
        mean = problem.denoiser(x_t, at(time))
        misfit = normal(3, seed=5) / 40 - mean.flatten(1) @ operator.T
        pull = misfit / (std**2 + v.sum(dim=1).clamp(min=0)) @ operator @ (sigma**2 / alpha * jacobian)
        guided = TMPDGuidance(likelihood)(problem.denoiser, schedule, identity)(x_t, at(time))
        assert torch.allclose((guided - mean).flatten(1), pull, rtol=1e-8, atol=1e-10)


def test_automatic_gamma_needs_no_tuning_where_fixed_ones_do():
    """Spread sensors of error 0.05 and 0.5: at the sampling error (0.032, 0.035) with no number, spread within 3 %.

    A gamma of 1, which is not far from right elsewhere, is off by ten times as much on both.
    """
    for std in (0.05, 0.5):
        problem, _ = periodic_field(std)
        sampler = StochasticDPMSolverSampler(problem.schedule, 48)
        own, fixed = (problem.bias(partial(SDAGuidance, gamma=g), sampler, 256) for g in ("auto", 1.0))
        assert own.error < 1.4 * problem.floor(256) and own.spread == pytest.approx(1, abs=0.03)
        assert fixed.error > 3 * own.error


def test_deterministic_steps_blow_up_with_a_fixed_width_on_a_cluster():
    """13 neighbours of error 0.05: gamma 0.1 counts them many times over. Fresh noise forgives it."""
    problem, _ = periodic_field(0.05, CLUSTER, schedule=RectifiedSchedule())
    steps, fresh = AdamsBashforthSampler(problem.schedule, 20), StochasticDPMSolverSampler(problem.schedule, 64)
    fixed, own = partial(SDAGuidance, gamma=0.1), partial(SDAGuidance, gamma="auto")
    assert problem.bias(fixed, steps, 128).spread > 10
    assert problem.bias(own, steps, 128).spread < 1.3
    assert problem.bias(fixed, fresh, 128).spread == pytest.approx(1, abs=0.1)


def twisted_denoiser(x_t: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Linear, with a Jacobian that is neither symmetric nor positive; different signs for each sample of four."""
    skew = normal(8, 8, seed=1)
    matrix = torch.stack([-skew @ skew.T / 4, skew / 2, skew - skew.T, torch.zeros(8, 8, dtype=torch.float64)])
    return torch.einsum("bij,bj->bi", matrix, x_t.flatten(1)).reshape(x_t.shape)


@pytest.mark.parametrize("solver", ["gmres", "cg"])
def test_jacobians_of_no_posterior_give_finite_bounded_guidance(solver):
    """Indefinite, nonsymmetric, skew and vanishing Jacobians, at noise that makes V huge: u stays below |r| / SMALLEST."""
    schedule, x_t = GeometricSchedule(), normal(4, 1, 1, 8)
    likelihood = GaussianLikelihood(lambda state: state.flatten(1), normal(8, seed=2), 0.1)
    rule = MMPSGuidance(likelihood, 8, solver)
    for time in (0.1, 0.5, 0.65, 0.8, 1.0):
        guided = rule(twisted_denoiser, schedule, identity)(x_t, at(time))
        assert guided.isfinite().all()
        assert torch.equal(guided[3], torch.zeros_like(guided[3]))  # V = 0: nothing to learn
        _, sigma = schedule(at(time))
        mean = twisted_denoiser(x_t, at(time))
        residual = (normal(8, seed=2) - mean.flatten(1)) / 0.1
        jacobians = torch.linalg.matrix_norm(torch.stack([normal(8, 8, seed=1)] * 4), ord=2)
        bound = sigma**2 * (jacobians + jacobians**2) / 0.1 * residual.norm(dim=1) / SMALLEST
        if solver == "gmres":
            assert ((guided - mean).flatten(1).norm(dim=1) <= bound).all()


def test_an_answer_that_is_nearly_zero_is_left_out():
    """A = diag(1, 1e-9), b = (1, 1): the least residual is (1, 1e9); an observation whitened by its error cannot mean that."""
    diagonal, b = torch.tensor([1.0, 1e-9], dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    free = gmres(lambda v: v * diagonal, b, iterations=2, tolerance=1e-12)
    kept = gmres(lambda v: v * diagonal, b, iterations=2, tolerance=1e-12, smallest=0.1)
    assert free.norm() > 1e8 and kept.norm() < 10 * b.norm()
    assert kept[0, 0].item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("solve", [gmres, conjugate_gradients])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_product_that_is_not_finite_stops_its_sample_alone(solve, bad):
    root = normal(6, 6, seed=7)
    matrix, b = torch.eye(6) + root @ root.T, normal(3, 6, seed=8)
    calls = []

    def product(vector):
        calls.append(None)
        result = vector @ matrix
        if len(calls) == 2:
            result = result.index_fill(0, torch.tensor([1]), bad)
        return result

    u = solve(product, b, iterations=12, tolerance=1e-12)
    assert u.isfinite().all()
    exact = torch.linalg.solve(matrix, b.T).T
    assert torch.allclose(u[[0, 2]], exact[[0, 2]], rtol=1e-8)
    assert not torch.allclose(u[1], exact[1], rtol=1e-2)
    first = solve(lambda vector: vector @ matrix, b, iterations=1, tolerance=1e-12)
    assert torch.allclose(u[1], first[1], rtol=1e-10)  # what it had before
