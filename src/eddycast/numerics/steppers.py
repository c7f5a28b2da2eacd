"""Runge-Kutta steps for equations with a stiff linear part, beside the exponential one of `etdrk`.

    v_t = L v + N(v),   L diagonal (Fourier space)

A scheme is a function from (linear, nonlinear, dt) to a step; the explicit one takes (tendency, dt). Which to take:

- `etdrk.etdrk4` where L is stiff and acts on modes that N drives: the smallest error constant of the fourth-order ones.
- `ifrk4` where L mostly damps what N hardly feeds (viscosity in turbulence) or rotates it: cheaper to set up, exact for
  N = 0; but a stiff mode that N holds at a balance -N / L is missed by an error that does not depend on L.
- `imexrk3` where L is stiff and only its slow part matters, or L is known through a solve only: stable for any decay.
- `rk4` where nothing is stiff.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.numerics.etdrk import Step

# ARS(4,4,3): rows of stages 2 to 5; the last row is the step itself (stiffly accurate on both sides).
ARS443_DIAGONAL = 1 / 2
ARS443_EXPLICIT = (
    (1 / 2,),
    (11 / 18, 1 / 18),
    (5 / 6, -5 / 6, 1 / 2),
    (1 / 4, 7 / 4, 3 / 4, -7 / 4),
)
ARS443_IMPLICIT = (  # below the diagonal, on stages 2, 3, ...: the first stage has no implicit part
    (),
    (1 / 6,),
    (-1 / 2, 1 / 2),
    (3 / 2, -3 / 2, 1 / 2),
)


def ifrk4(linear: Tensor, nonlinear: Step, dt: float, *, dtype: torch.dtype | None = None) -> Step:
    """Step v(t) -> v(t + dt) of the classical Runge-Kutta scheme for w = e^{-L t} v.

        a = e^{L dt/2} (v + dt/2 N(v))
        b = e^{L dt/2} v + dt/2 N(a)
        c = e^{L dt} v + dt e^{L dt/2} N(b)
        v(t + dt) = e^{L dt} v + dt/6 (e^{L dt} N(v) + 2 e^{L dt/2} (N(a) + N(b)) + N(c))

    Args:
        linear: Diagonal of L, real or complex, broadcasts with v; exponentials are taken in double precision.
        nonlinear: N, maps v to the shape of v; autonomous.
        dt: Step, in the time unit of L.
        dtype: Real dtype of the arithmetic; default the real dtype of `linear`.

    Returns: a pure function of v, differentiable, also with respect to `linear`.
    Source: Lawson (1967), doi:10.1137/0704033; compared with ETD in Kassam and Trefethen (2005),
        doi:10.1137/S1064827502410633, section 2.
    Limits: fixed points are not kept, and the error constant grows with |L|^4: order 4 is seen once dt |L| is small for
        each mode that N feeds.
    """
    z = linear.to(torch.promote_types(linear.dtype, torch.float64)) * dt
    target = arithmetic_dtype(linear, dtype)
    half, full = torch.exp(z / 2).to(target), torch.exp(z).to(target)
    dt_half, dt_full = dt / 2 * half, dt * half
    sixth_full, third_half = dt / 6 * full, dt / 3 * half

    def step(v: Tensor) -> Tensor:
        n_v = nonlinear(v)
        halfway = half * v
        n_a = nonlinear(halfway + dt_half * n_v)
        n_b = nonlinear(halfway + dt / 2 * n_a)
        whole = full * v
        n_c = nonlinear(whole + dt_full * n_b)
        return whole + sixth_full * n_v + third_half * (n_a + n_b) + dt / 6 * n_c

    return step


def imexrk3(linear: Tensor, nonlinear: Step, dt: float, *, dtype: torch.dtype | None = None) -> Step:
    """Step v(t) -> v(t + dt) of order 3: L implicit, N explicit, four evaluations of N.

        (1 - dt L / 2) v_i = v + dt sum_{j<i} (a'_ij N(v_j) + a_ij L v_j),   v(t + dt) = v_5

    The implicit part is L-stable: a mode with dt L -> -infinity goes to zero in one step, to -N / L where N holds it.

    Args:
        linear: Diagonal of L, real or complex, broadcasts with v; no entry may be 2 / dt.
        nonlinear: N, maps v to the shape of v; autonomous.
        dt: Step, in the time unit of L.
        dtype: Real dtype of the arithmetic; default the real dtype of `linear`.

    Returns: a pure function of v, differentiable, also with respect to `linear`.
    Source: Ascher, Ruuth and Spiteri (1997), doi:10.1016/S0168-9274(97)00056-1, section 2.8, scheme (4, 4, 3).
    Limits: N alone is stable on the imaginary axis up to dt |lambda| = 1.57. Modes with dt L of order one are damped at
        a rate that is not exact (ETDRK4 and IFRK4 have them to rounding). Where N is as large as L v and varies (stiff
        forcing), the order falls to 1.
    """
    z = linear.to(torch.promote_types(linear.dtype, torch.float64)) * dt
    target = arithmetic_dtype(linear, dtype)
    solve, z = (1 / (1 - ARS443_DIAGONAL * z)).to(target), z.to(target)

    def step(v: Tensor) -> Tensor:
        forcing: list[Tensor] = []
        decay: list[Tensor] = []
        stage = v
        for row, implicit in zip(ARS443_EXPLICIT, ARS443_IMPLICIT, strict=True):
            forcing.append(nonlinear(stage))
            total = v
            for weight, value in zip(row, forcing, strict=True):
                total = total + (dt * weight) * value
            for weight, value in zip(implicit, decay, strict=True):
                total = total + weight * value
            stage = solve * total
            decay.append(z * stage)
        return stage

    return step


def rk4(tendency: Step, dt: float) -> Step:
    """Step v(t) -> v(t + dt) of the classical explicit scheme of order 4 for v_t = tendency(v).

        v(t + dt) = v + dt/6 (k_1 + 2 k_2 + 2 k_3 + k_4)

    Args:
        tendency: Maps v to dv/dt of its shape; autonomous.
        dt: Step, in the time unit of the tendency. Stable for decay rates below 2.785 / dt, frequencies below 2.828 / dt.

    Returns: a pure function of v, differentiable.
    Source: Kutta (1901); Hairer, Norsett and Wanner (1993), doi:10.1007/978-3-540-78862-1, table II.1.2.
    """

    def step(v: Tensor) -> Tensor:
        k_1 = tendency(v)
        k_2 = tendency(torch.add(v, k_1, alpha=dt / 2))
        k_3 = tendency(torch.add(v, k_2, alpha=dt / 2))
        k_4 = tendency(torch.add(v, k_3, alpha=dt))
        return v + dt / 6 * (k_1 + 2 * (k_2 + k_3) + k_4)

    return step


def arithmetic_dtype(linear: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    """Dtype of a scheme's coefficients: the real `dtype` (default that of `linear`), complex where `linear` is."""
    real = dtype or linear.dtype.to_real()
    return real.to_complex() if linear.is_complex() else real
