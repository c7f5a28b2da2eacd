"""Krylov solvers for a batch of small independent systems A_i u_i = b_i, matrix free.

Each sample has its own step sizes, its own stop and its own Krylov space; a sample that has converged keeps its
solution while others go on, so its result does not depend on its neighbours. Everything has the dtype of b, which
should be float64.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Product with A of the whole batch: (batch, n) to (batch, n).
Product = Callable[[Tensor], Tensor]


def _norm(vector: Tensor) -> Tensor:
    return torch.linalg.vector_norm(vector, dim=-1, keepdim=True)


def conjugate_gradients(product: Product, b: Tensor, *, iterations: int, tolerance: float) -> Tensor:
    """Solve with A symmetric positive definite, from u = 0; at most `iterations` products.

    A sample stops when |b - A u| <= tolerance |b|, or with the u it has at a direction of curvature p^T A p <= 0 and at a product that
    is not finite. Shapes: b and result (batch, n). Source: Hestenes & Stiefel (1952).
    """
    u, r, p = torch.zeros_like(b), b, b
    target, rr = tolerance * _norm(b), (b * b).sum(dim=-1, keepdim=True)
    active = _norm(r) > target
    for _ in range(iterations):
        if not bool(active.any()):
            break
        product_p = product(torch.where(active, p, 0))
        curvature = (p * product_p).sum(dim=-1, keepdim=True)
        active = active & (curvature > 0) & curvature.isfinite()
        product_p = torch.where(active, product_p, 0)
        step = torch.where(active, rr / torch.where(active, curvature, 1), 0)
        u, r = u + step * p, r - step * product_p
        rr_next = (r * r).sum(dim=-1, keepdim=True)
        active = active & (_norm(r) > target)
        p = torch.where(active, r + rr_next / torch.where(active, rr, 1) * p, 0)
        rr = rr_next
    return u


def gmres(product: Product, b: Tensor, *, iterations: int, tolerance: float, smallest: float = 0.0) -> Tensor:
    """Solve with any A, from u = 0, by the least residual in the Krylov space of at most `iterations` products.

    A sample stops when |b - A u| <= tolerance |b|, when its Krylov space is exhausted, or with the u it has at a product that is not
    finite. A may be nonsymmetric and indefinite. Directions of the Krylov space that A answers to by less than `smallest` are left
    out, so that |u| <= |b| / smallest even where A is nearly singular. Shapes: b and result (batch, n).
    Source: Saad & Schultz (1986), doi:10.1137/0907058; modified Gram-Schmidt, no restart.
    """
    batch, size = b.shape
    norm_b = _norm(b)
    active = norm_b > 0
    basis = [torch.where(active, b / torch.where(active, norm_b, 1), 0)]
    hessenberg = b.new_zeros(batch, iterations + 1, iterations)
    goal = torch.cat([norm_b, b.new_zeros(batch, iterations)], dim=1)
    coefficients = b.new_zeros(batch, 0, 1)
    for k in range(min(iterations, size)):
        if not bool(active.any()):
            break
        vector = product(basis[k])
        active = active & vector.isfinite().all(dim=-1, keepdim=True)
        vector = torch.where(active, vector, 0)
        scale = _norm(vector)
        for j, direction in enumerate(basis):
            overlap = (direction * vector).sum(dim=-1, keepdim=True)
            hessenberg[:, j, k] = overlap[:, 0]
            vector = vector - overlap * direction
        length = _norm(vector)
        exhausted = length <= 1e-12 * scale
        hessenberg[:, k + 1, k] = torch.where(exhausted, 0, length)[:, 0]
        # A sample that has stopped has zero columns from here on: the pseudo-inverse gives them zero coefficients.
        reduced, target = hessenberg[:, : k + 2, : k + 1], goal[:, : k + 2, None]
        coefficients = torch.linalg.pinv(reduced, rtol=1e-12, atol=smallest) @ target
        residual = _norm((target - reduced @ coefficients)[:, :, 0])
        active = active & ~exhausted & (residual > tolerance * norm_b)
        basis.append(torch.where(active, vector / torch.where(active, length, 1), 0))
    return sum((coefficients[:, k] * basis[k] for k in range(coefficients.shape[1])), torch.zeros_like(b))
