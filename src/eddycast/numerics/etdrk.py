"""Exponential time differencing: the stiff linear part exactly, the rest by Runge-Kutta.

    v_t = L v + N(v),   L diagonal (Fourier space)

A scheme is a function from (linear, nonlinear, dt) to a step. A step is a pure function; where nobody can see the
difference (no gradient, no tangent) it works in place on its own intermediate states. That saves memory; time hardly,
since the Fourier transforms take most of it.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd import forward_ad

Step = Callable[[Tensor], Tensor]


def etdrk4(
    linear: Tensor,
    nonlinear: Step,
    dt: float,
    *,
    factor: Tensor | None = None,
    dtype: torch.dtype | None = None,
    num_contour: int = 32,
) -> Step:
    """Step v(t) -> v(t + dt) of the fourth-order scheme of Cox and Matthews.

        a = e^{z/2} v + Q N(v)                        Q  = dt (e^{z/2} - 1) / z,  z = L dt
        b = e^{z/2} v + Q N(a)
        c = e^{z/2} a + Q (2 N(b) - N(v))
        v(t + dt) = e^z v + f1 N(v) + 2 f2 (N(a) + N(b)) + f3 N(c)

    Args:
        linear: Diagonal of L, real or complex, broadcasts with v; taken in double precision.
        nonlinear: N, maps v to the shape of v; autonomous.
        dt: Step, in the time unit of L.
        factor: Diagonal that multiplies what `nonlinear` returns, so N = factor * nonlinear: it costs nothing, since it
            goes into the coefficients. A transport term has -i k / 2 or a mask here.
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
    scale = torch.ones((), dtype=torch.float64, device=z.device) if factor is None else factor
    scale = scale.to(torch.promote_types(scale.dtype, torch.float64))
    q, f1, f2, f3 = (dt * c for c in etdrk4_coefficients(z, num_contour))
    if not z.is_complex():
        return _real_step(z, (q, f1, f2, f3), scale, nonlinear, target)
    half, full = torch.exp(z / 2).to(target.to_complex()), torch.exp(z).to(target.to_complex())
    q, f1, double_f2, f3, double_q = ((c * scale).to(target.to_complex()) for c in (q, f1, 2 * f2, f3, 2 * q))

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


def _real_step(
    z: Tensor, coefficients: tuple[Tensor, ...], scale: Tensor, nonlinear: Step, target: torch.dtype
) -> Step:
    """The step for real L, written in the stages so that each N is used once, as it comes.

        h = e^{z/2} v,   a = h + Q N(v),   b = h + Q N(a),   c = h + (e^{z/2} - 1) a + 2 Q N(b)
        v(t + dt) = w v + w_a a + w_b b + w_c c + f3 N(c)
        w_c = f2 / Q,  w_b = 2 w_c,  w_a = f1 / Q - w_c (e^{z/2} - 1),  w = e^z - e^{z/2} (f1 + 3 f2) / Q

    Q N(v) = a - h, Q N(a) = b - h and 2 Q N(b) = c - h - (e^{z/2} - 1) a put into the scheme; at z = 0 the weights are
    -1/3, 1/3, 2/3, 1/3, of classical Runge-Kutta, so rounding is not amplified. Q > 0 for real z; for a complex one it
    has zeros. All factors of states are real: complex states are multiplied as pairs of real numbers.
    """
    q, f1, f2, f3 = coefficients
    half, full, third = torch.exp(z / 2), torch.exp(z), f2 / q
    wide = target.to_complex()
    scaled = wide if scale.is_complex() else target
    weights = (
        half,
        torch.expm1(z / 2),
        full - half * (f1 / q + 3 * third),
        f1 / q - third * torch.expm1(z / 2),
        2 * third,
        third,
    )
    half, less, w_v, w_a, w_b, w_c = (weight.to(target) for weight in weights)
    q, double_q, f3 = ((c * scale).to(scaled) for c in (q, 2 * q, f3))
    constant = all(is_plain(c) for c in (half, q))
    plain = (half, less, w_v, w_a, w_b, w_c, q, double_q, f3)
    paired = tuple(weight if weight.is_complex() else _paired(weight) for weight in plain)

    def differentiable(v: Tensor, n_v: Tensor) -> Tensor:
        h = half * v
        a = h + q * n_v
        b = h + q * nonlinear(a)
        c = h + less * a + double_q * nonlinear(b)
        return w_v * v + w_a * a + w_b * b + w_c * c + f3 * nonlinear(c)

    def in_place(v: Tensor, n_v: Tensor) -> Tensor:
        half, less, w_v, w_a, w_b, w_c, q, double_q, f3 = paired if v.is_complex() else plain
        shape = _joint_shape(v.shape, z.shape)
        h, a, b = v.new_empty(shape), v.new_empty(shape), v.new_empty(shape)
        view = _pairs if v.is_complex() else _itself
        real_v, real_h, real_a, real_b = view(v), view(h), view(a), view(b)
        forced, term = ((h, a, b), _itself) if q.is_complex() else ((real_h, real_a, real_b), view)
        h_, a_, b_ = forced  # as N, with its factor, is added to them
        torch.mul(half, real_v, out=real_h)
        torch.addcmul(h_, q, term(n_v), out=a_)
        torch.addcmul(h_, q, term(nonlinear(a)), out=b_)
        real_h.addcmul_(less, real_a)
        real_a.mul_(w_a).addcmul_(w_v, real_v).addcmul_(w_b, real_b)
        h_.addcmul_(double_q, term(nonlinear(b)))  # c
        real_a.addcmul_(w_c, real_h)
        a_.addcmul_(f3, term(nonlinear(h)))
        return a

    def alike(v: Tensor, n_v: Tensor) -> bool:
        return v.dtype == n_v.dtype and v.dtype in ((wide,) if scaled.is_complex else (target, wide))

    def step(v: Tensor) -> Tensor:
        n_v = nonlinear(v)
        if constant and alike(v, n_v) and is_plain(v) and is_plain(n_v):
            return in_place(v, n_v)
        return differentiable(v, n_v)

    return step


def is_plain(tensor: Tensor) -> bool:
    """True where no derivative is being taken of it and it owns its memory, so that results may be written in place.

    False under autograd, for a tangent of forward mode, within the transforms of `torch.func` (they wrap tensors
    that have no storage of their own) and while a graph is traced.
    """
    if torch.compiler.is_compiling() or (tensor.requires_grad and torch.is_grad_enabled()):
        return False
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return forward_ad.unpack_dual(tensor).tangent is None


def _paired(weight: Tensor) -> Tensor:
    """Each real weight twice, for the real and the imaginary part, (..., 2 n); what broadcasts stays."""
    return weight.repeat_interleave(2, dim=-1) if weight.ndim and weight.shape[-1] > 1 else weight


def _pairs(state: Tensor) -> Tensor:
    """View of complex numbers (..., n) as real ones (..., 2 n)."""
    return torch.view_as_real(state.resolve_conj()).flatten(-2)


@lru_cache(maxsize=64)
def _joint_shape(one: torch.Size, other: torch.Size) -> torch.Size:
    """`torch.broadcast_shapes` takes longer than a pass over the data."""
    return torch.broadcast_shapes(one, other)


def _itself(state: Tensor) -> Tensor:
    return state


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
