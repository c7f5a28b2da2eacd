"""Weights integrate what they must integrate exactly."""

from __future__ import annotations

import numpy as np
import pytest

from eddycast.data.quadrature import chebyshev_weights, latitude_weights, lobatto_weights, plain_axis, widths
from eddycast.errors import InputError


@pytest.mark.parametrize("number", [3, 8, 32, 33])
@pytest.mark.parametrize("sign", [1, -1])
def test_chebyshev_gauss_weights_are_exact_for_polynomials(number, sign):
    nodes = 2 - 1.5 * sign * np.cos((np.arange(number) + 0.5) * np.pi / number)
    weights = chebyshev_weights(nodes.astype(np.float32).astype(float))
    for degree in range(min(number, 12)):
        exact = (3.5 ** (degree + 1) - 0.5 ** (degree + 1)) / (degree + 1)
        assert weights @ nodes**degree == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("number", [5, 8, 33])
def test_lobatto_weights_are_exact_for_polynomials(number):
    nodes = -np.cos(np.arange(number) * np.pi / (number - 1))
    weights = lobatto_weights(nodes)
    for degree in range(min(number, 12)):
        assert weights @ nodes**degree == pytest.approx((1 + (-1) ** degree) / (degree + 1), abs=1e-12)
    assert chebyshev_weights(nodes) is None


def test_other_points_get_their_widths():
    assert chebyshev_weights(np.linspace(0, 1, 9)) is None and lobatto_weights(np.array([0, 1, 3.0, 7])) is None
    assert widths(np.array([0.0, 1, 3, 7])).tolist() == [1, 1.5, 3, 4]
    assert plain_axis("x", np.linspace(0, 1, 9)).weights is None


def test_latitude_weights_are_the_cosine_and_close_the_sphere():
    regional = np.arange(-40, 41, 2.5)
    ratio = latitude_weights(regional) / np.cos(np.deg2rad(regional))
    assert np.ptp(ratio) < 1e-12 * ratio.mean()
    assert latitude_weights(np.arange(90, -91, -5.0)).sum() == pytest.approx(2), "with poles: the whole sphere"


def test_repeated_points_are_refused():
    with pytest.raises(InputError, match="'x' must increase or decrease"):
        plain_axis("x", np.array([0.0, 1, 1, 2]))
