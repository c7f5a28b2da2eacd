"""Fourier operators against exact derivatives and Parseval, in one to three dimensions, even and odd sizes."""

import math

import pytest
import torch

from eddycast.numerics.spectral import cutoff, dealias_mask, derivative, mode_numbers, wavenumbers

SHAPES = [(16,), (15,), (12, 16), (16, 9), (6, 10, 8)]


def coordinates(shape, lengths):
    axes = [torch.arange(n, dtype=torch.float64) * (length / n) for n, length in zip(shape, lengths, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivative_is_exact_for_resolved_waves(shape, order):
    """sin(k x + phase) differentiates to k^p sin(k x + phase + p pi / 2) along each axis."""
    lengths = [2.0, 3.0, 5.0][: len(shape)]
    positions = coordinates(shape, lengths)
    ks = [2 * math.pi * mode / length for mode, length in zip([2, -1, 3], lengths, strict=False)]
    phase = 0.3 + sum(k * x for k, x in zip(ks, positions, strict=True))
    for axis, k in enumerate(ks):
        orders = [order if other == axis else 0 for other in range(len(shape))]
        exact = k**order * torch.sin(phase + order * math.pi / 2)
        assert (derivative(torch.sin(phase), lengths, orders) - exact).abs().max() < 1e-12 * max(1, abs(k) ** order)


def test_mixed_derivative_is_the_product_of_both():
    """d_x d_y cos(kx x) cos(ky y) = kx ky sin sin; a batch axis goes along, float32 stays float32."""
    x, y = coordinates((16, 20), [2 * math.pi, 4 * math.pi])
    field = (torch.cos(2 * x) * torch.cos(1.5 * y)).float().expand(3, 16, 20)
    result = derivative(field, [2 * math.pi, 4 * math.pi], [1, 1])
    assert result.dtype == torch.float32
    assert (result - 3 * torch.sin(2 * x) * torch.sin(1.5 * y)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(12, 9), (9, 12), (7, 8, 9), (8, 7, 10)])
def test_mixed_derivatives_of_all_axes_are_exact_and_commute(shape):
    """d^(1+2+1) of sin(k . x + phase) is kx ky^2 kz sin(. + 2 pi); axis by axis in any order gives the same."""
    orders, modes = (1, 2, 1)[: len(shape)], (2, -3, 3)[: len(shape)]
    lengths = [2.0, 3.0, 5.0][: len(shape)]
    ks = [2 * math.pi * mode / length for mode, length in zip(modes, lengths, strict=True)]
    phase = 0.3 + sum(k * x for k, x in zip(ks, coordinates(shape, lengths), strict=True))
    factor = math.prod(k**order for k, order in zip(ks, orders, strict=True))
    result = derivative(torch.sin(phase), lengths, orders)
    assert (result - factor * torch.sin(phase + sum(orders) * math.pi / 2)).abs().max() < 1e-11 * abs(factor)
    by_axis = torch.sin(phase)
    for axis in reversed(range(len(shape))):
        by_axis = derivative(by_axis, lengths, [orders[axis] if other == axis else 0 for other in range(len(shape))])
    assert (by_axis - result).abs().max() < 1e-11 * abs(factor)


def test_odd_derivative_drops_the_nyquist_mode_and_even_keeps_it():
    """cos(pi j) at the grid points: its slope vanishes there, its curvature does not."""
    zigzag = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    assert derivative(zigzag, [8.0], [1]).abs().max() < 1e-12
    assert torch.allclose(derivative(zigzag, [8.0], [2]), -(math.pi**2) * zigzag)


@pytest.mark.parametrize("points", range(6, 40))
def test_cutoff_is_the_largest_that_keeps_quadratic_products_clean(points):
    """A product of modes m aliases onto points - 2 m: above m it is harmless, and m + 1 would not be."""
    kept = cutoff(points)
    assert points - 2 * kept > kept
    assert points - 2 * (kept + 1) <= kept + 1


def test_dealiased_square_is_the_exact_square():
    """The kept modes of a squared truncated field equal those computed on a grid twice as fine."""
    points = 24
    spectrum = torch.fft.rfft(torch.randn(points, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    mask = dealias_mask((points,))
    assert mask.sum() == cutoff(points) + 1
    coarse = torch.fft.irfft(spectrum * mask, n=points)
    fine = 2 * torch.fft.irfft(spectrum * mask, n=2 * points)
    squared, exact = torch.fft.rfft(coarse**2) / points, torch.fft.rfft(fine**2) / (2 * points)
    assert (squared - exact[: points // 2 + 1])[mask].abs().max() < 1e-14
    assert (squared - exact[: points // 2 + 1])[~mask].abs().max() > 1e-3  # where aliases go


def test_wavenumbers_scale_with_the_lengths():
    modes, ks = mode_numbers((8, 6)), wavenumbers((8, 6), [4.0, 2.0])
    assert torch.allclose(ks[0], math.pi / 2 * modes[0]) and torch.allclose(ks[1], math.pi * modes[1])
    with pytest.raises(ValueError, match="lengths"):
        wavenumbers((8, 6), [4.0])
