"""Batched L-BFGS: quadratics exactly, Rosenbrock's valley, and problems that do not know each other."""

from __future__ import annotations

import torch

from eddycast.numerics.lbfgs import lbfgs


def quadratics(sizes=(8, 8, 8), conditions=(1.0, 1e2, 1e4)):
    generator = torch.Generator().manual_seed(0)
    matrices, minima = [], torch.randn(len(sizes), sizes[0], generator=generator, dtype=torch.float64)
    for condition in conditions:
        q, _ = torch.linalg.qr(torch.randn(sizes[0], sizes[0], generator=generator, dtype=torch.float64))
        values = torch.logspace(0, 1, sizes[0], base=condition, dtype=torch.float64)
        matrices.append(q * values @ q.T)
    a = torch.stack(matrices)

    def objective(x):
        pull = (a @ (x - minima)[..., None])[..., 0]
        return 0.5 * ((x - minima) * pull).sum(dim=1), pull

    return objective, minima


def test_quadratics_of_any_condition_are_minimised_together():
    objective, minima = quadratics()
    found = lbfgs(objective, torch.zeros_like(minima), target=1e-8, iterations=200)
    assert found.reached.all() and (found.gradient_norm <= 1e-8).all()
    torch.testing.assert_close(found.point, minima, rtol=0, atol=1e-8)  # the least eigenvalue is 1
    assert found.iterations[0] <= 12 < found.iterations[2] < 200  # each stops by itself


def test_a_problem_does_not_know_its_neighbours():
    objective, minima = quadratics()
    together = lbfgs(objective, torch.zeros_like(minima), target=1e-6, iterations=30)
    for row in range(len(minima)):

        def alone(x, row=row):
            value, gradient = objective(x.expand_as(minima))
            return value[row : row + 1], gradient[row : row + 1]

        single = lbfgs(alone, torch.zeros_like(minima[:1]), target=1e-6, iterations=30)
        torch.testing.assert_close(single.point[0], together.point[row], rtol=0, atol=1e-12)
        assert single.iterations[0] == together.iterations[row]


def test_rosenbrock_and_a_wall_of_infinite_values():
    """From (-1.2, 1) to (1, 1) through a curved valley; where the value is not finite the step is cut."""

    def objective(x):
        a, b = x.unbind(dim=1)
        value = (1 - a).square() + 100 * (b - a.square()).square()
        gradient = torch.stack([-2 * (1 - a) - 400 * a * (b - a.square()), 200 * (b - a.square())], dim=1)
        return torch.where(b > 1.8, torch.inf, value), gradient

    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0]], dtype=torch.float64)
    found = lbfgs(objective, start, target=1e-9, iterations=100)
    torch.testing.assert_close(found.point, torch.ones_like(start), rtol=0, atol=1e-8)


def test_what_cannot_be_reached_is_said():
    objective, minima = quadratics()
    few = lbfgs(objective, torch.zeros_like(minima), target=1e-12, iterations=2)
    assert not few.reached[2] and few.iterations[2] == 2
    start_value, _ = objective(torch.zeros_like(minima))
    assert (few.value < start_value).all()
