"""Batched Krylov solvers against direct solves, and their stops."""

from __future__ import annotations

import pytest
import torch

from eddycast.numerics.krylov import conjugate_gradients, gmres


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def systems(batch: int, size: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    factor = normal(batch, size, size)
    spd = torch.eye(size) + factor @ factor.mT / size
    nonsymmetric = spd + 0.5 * (factor - factor.mT)
    indefinite = torch.diag_embed(torch.linspace(-1, 2, size).double() + 0.07) + 0.05 * factor
    return {"spd": spd, "nonsymmetric": nonsymmetric, "indefinite": indefinite}[kind], normal(batch, size, seed=1)


def product_with(matrix):
    return lambda vector: (matrix @ vector[:, :, None])[:, :, 0]


@pytest.mark.parametrize(
    "solve, kind", [(conjugate_gradients, "spd"), (gmres, "spd"), (gmres, "nonsymmetric"), (gmres, "indefinite")]
)
def test_full_krylov_space_solves_exactly(solve, kind):
    matrix, b = systems(5, 12, kind)
    u = solve(product_with(matrix), b, iterations=40, tolerance=1e-12)
    assert torch.allclose(u, torch.linalg.solve(matrix, b), atol=1e-8)


@pytest.mark.parametrize("solve, kind", [(conjugate_gradients, "spd"), (gmres, "nonsymmetric")])
def test_samples_stop_by_themselves(solve, kind):
    """The residual meets the tolerance; a sample gives the same alone as beside harder and empty ones."""
    matrix, b = systems(6, 20, kind)
    matrix[0] = 3 * torch.eye(20)  # converges at once
    b[1] = 0  # has nothing to solve
    u = solve(product_with(matrix), b, iterations=50, tolerance=1e-3)
    residual = torch.linalg.vector_norm(b - product_with(matrix)(u), dim=-1)
    assert (residual <= 1.001e-3 * torch.linalg.vector_norm(b, dim=-1)).all()
    assert torch.allclose(u[0], b[0] / 3) and (u[1] == 0).all()
    for i in range(6):
        alone = solve(product_with(matrix[i : i + 1]), b[i : i + 1], iterations=50, tolerance=1e-3)
        assert torch.allclose(alone[0], u[i], rtol=1e-10, atol=1e-12)


def test_gmres_never_loses_residual_and_stops_at_its_budget():
    matrix, b = systems(4, 15, "nonsymmetric")
    calls = []

    def product(vector):
        calls.append(1)
        return product_with(matrix)(vector)

    previous = torch.linalg.vector_norm(b, dim=-1)
    for iterations in range(1, 8):
        calls.clear()
        u = gmres(product, b, iterations=iterations, tolerance=0.0)
        assert len(calls) == iterations
        residual = torch.linalg.vector_norm(b - product_with(matrix)(u), dim=-1)
        assert (residual <= previous * (1 + 1e-12)).all()
        previous = residual


def test_gmres_ends_when_the_krylov_space_does():
    """b lies in a 2-d invariant subspace: two products are enough, and no division by zero follows."""
    matrix = torch.diag_embed(torch.tensor([[1.0, 2.0, 5.0, 7.0]], dtype=torch.float64))
    b = torch.tensor([[1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    u = gmres(product_with(matrix), b, iterations=10, tolerance=0.0)
    assert torch.allclose(u, torch.tensor([[1.0, 0.5, 0.0, 0.0]], dtype=torch.float64))


def test_conjugate_gradients_stop_at_negative_curvature():
    """The bad sample keeps what it has, finite; its neighbour is solved."""
    matrix = torch.diag_embed(torch.tensor([[1.0, -3.0, 2.0], [1.0, 3.0, 2.0]], dtype=torch.float64))
    b = torch.ones(2, 3, dtype=torch.float64)
    u = conjugate_gradients(product_with(matrix), b, iterations=10, tolerance=1e-10)
    assert (u[0] == 0).all()
    assert torch.allclose(u[1], torch.tensor([1, 1 / 3, 1 / 2], dtype=torch.float64))
