"""Exponential time differencing: the stiff linear part exactly, the rest by Runge-Kutta.

    v_t = L v + N(v),   L diagonal (Fourier space)

A scheme is a function from (linear, nonlinear, dt) to a step.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor], Tensor]


def etdrk4(
    linear: Tensor, nonlinear: Step, dt: float, *, dtype: torch.dtype | None = None, num_contour: int = 32
) -> Step:
    """Step v(t) -> v(t + dt) of the fourth-order scheme of Cox and Matthews.

        a = e^{L dt/2} v + Q N(v)                     Q  = dt (e^{z/2} - 1) / z,  z = L dt
        b = e^{L dt/2} v + Q N(a)
        c = e^{L dt/2} a + Q (2 N(b) - N(v))
        v(t + dt) = e^{L dt} v + f1 N(v) + 2 f2 (N(a) + N(b)) + f3 N(c)

    Args:
        linear: Diagonal of L, real or complex, broadcasts with v; taken in double precision.
        nonlinear: N, maps v to the shape of v; autonomous.
        dt: Step, in the time unit of L.
        dtype: Real dtype of the arithmetic; the coefficients are computed in float64 and cast at the end, because they
            lose digits by cancellation where z is small. Default: the real dtype of `linear`.
        num_contour: Points of the contour.

    Returns: a pure function of v, differentiable in reverse and forward mode, and with respect to `linear`.
    Source: Cox and Matthews (2002), doi:10.1006/jcph.2002.6995, eqs. 26-29; coefficients as contour integrals as in
        Kassam and Trefethen (2005), doi:10.1137/S1064827502410633, section 3.
    Limits: order 4 is seen once dt times the fastest *excited* linear rate is small; before that stiff problems show
        3 to 4.
    """
    working = torch.promote_types(linear.dtype, torch.float64)
    z = linear.to(working) * dt
    target = dtype or linear.dtype.to_real()
    if z.is_complex():
        target = target.to_complex()
    half, full = torch.exp(z / 2).to(target), torch.exp(z).to(target)
    q, f1, f2, f3 = (dt * c for c in etdrk4_coefficients(z, num_contour))
    q, f1, double_f2, f3, double_q = (c.to(target) for c in (q, f1, 2 * f2, f3, 2 * q))

    def step(v: Tensor) -> Tensor:
        n_v = nonlinear(v)
        halfway, q_n_v = half * v, q * n_v
        a = halfway + q_n_v
        n_a = nonlinear(a)
        b = halfway + q * n_a
        n_b = nonlinear(b)
        c = half * a + double_q * n_b - q_n_v
        return full * v + f1 * n_v + double_f2 * (n_a + n_b) + f3 * nonlinear(c)

    return step


def etdrk4_coefficients(z: Tensor, num_contour: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, f1, f2, f3 of the scheme, each over dt, as means over the circle of radius 1 around z, shape of z.

    A function that is analytic (these are, at z = 0 too) equals its mean over a circle; there the formulas do not
    cancel. A real z needs the upper half of the circle only: conjugate points give conjugate values.
    """
    real = not z.is_complex()
    centre = z.to(torch.complex128)
    sums = [torch.zeros_like(centre) for _ in range(4)]
    for index in range(num_contour):
        angle = (index + 0.5) / num_contour * (math.pi if real else 2 * math.pi)
        w = centre + cmath.exp(1j * angle)
        e, w3 = torch.exp(w), w**3
        terms = (
            torch.expm1(w / 2) / w,
            (-4 - w + e * (4 - 3 * w + w**2)) / w3,
            (2 + w + e * (w - 2)) / w3,
            (-4 - 3 * w - w**2 + e * (4 - w)) / w3,
        )
        sums = [total + term for total, term in zip(sums, terms, strict=True)]
    q, f1, f2, f3 = (total.real / num_contour if real else total / num_contour for total in sums)
    return q, f1, f2, f3
