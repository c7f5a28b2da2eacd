"""The coefficient of damping: exact scaling to the equation without it, the dispersion relation, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from eddycast.errors import InputError
from eddycast.simulators import get_system, integrate, simulate

VISCOUS, PLAIN = get_system("kuramoto-sivashinsky-viscous"), get_system("kuramoto-sivashinsky")


def parameters(length: float, viscosity: float) -> torch.Tensor:
    return torch.tensor([[length, viscosity]], dtype=torch.float64)


@pytest.mark.parametrize("viscosity", [0.5, 2.0])
def test_it_is_the_equation_of_viscosity_one_in_other_units(viscosity):
    """u(x, t) = v^(-1/2) U(x / v^(1/2), t / v): same points, same steps in those units, so equal to rounding."""
    length, points, duration = 30.0, 96, 4.0
    state = simulate(
        PLAIN, trajectories=1, steps=1, spin_up=60, dtype=torch.float64, parameters={"domain_length": length / viscosity**0.5},
        grid_shape=(points,),
    ).states[:, 0]  # fmt: skip
    plain = torch.tensor([[length / viscosity**0.5]], dtype=torch.float64)
    expected = integrate(
        PLAIN, state, plain, PLAIN.grid((points,), plain), [duration / viscosity], inner_dt=0.05 / viscosity
    )
    own = parameters(length, viscosity)
    found = integrate(VISCOUS, state / viscosity**0.5, own, VISCOUS.grid((points,), own), [duration], inner_dt=0.05)
    assert (found * viscosity**0.5 - expected).abs().max() < 1e-10


def test_viscosity_one_is_the_equation_without():
    state = simulate(PLAIN, trajectories=2, steps=1, spin_up=20, grid_shape=(64,)).states[:, 0]
    two = torch.tensor([[36.0, 1.0]] * 2, dtype=torch.float64)
    grid = VISCOUS.grid((64,), two)
    assert torch.equal(
        integrate(VISCOUS, state, two, grid, [2.0], inner_dt=0.1),
        integrate(PLAIN, state, two[:, :1], grid, [2.0], inner_dt=0.1),
    )


def test_small_waves_grow_and_decay_as_the_dispersion_relation_says():
    x = torch.arange(96, dtype=torch.float64) / 96
    for viscosity in (0.4, 2.5):
        for mode in (1, 4, 9):
            k = 2 * math.pi * mode / 36
            wave = 1e-9 * torch.cos(2 * math.pi * mode * x)[None, None]
            own = parameters(36.0, viscosity)
            found = integrate(VISCOUS, wave, own, VISCOUS.grid((96,), own), [1.0])[:, 0]
            assert (found - math.exp(k**2 - viscosity * k**4) * wave).abs().max() < 2e-17


def test_exponents_and_chaos_are_those_of_the_scaled_length():
    own = torch.tensor(
        [[36.0, 36.0**2 / 44.0**2], [36.0, 1.0], [36.0, 1.5], [36.0, 36.0**2 / 22.0**2]], dtype=torch.float64
    )
    found, plain = VISCOUS.lyapunov_exponent(own), PLAIN.lyapunov_exponent(torch.tensor([[44.0], [36.0], [22.0]]))
    assert found[1] == plain[1]
    assert found[2].isnan()
    assert VISCOUS.chaotic(own).tolist() == [True, True, False, True]


def test_exponents_are_found_at_rounded_lengths():
    """The scaled length is 44 to rounding only."""
    own = parameters(36.0, 36.0**2 / 44.0**2)
    assert VISCOUS.lyapunov_exponent(own).item() == pytest.approx(0.0807 * 44.0**2 / 36.0**2)


def test_grids_that_do_not_resolve_the_growing_waves_are_refused():
    with pytest.raises(InputError, match=r"do not resolve the growing waves .* in units of viscosity\^\(1/2\) = 0.316"):
        VISCOUS.grid((24,), parameters(36.0, 0.1))
    with pytest.raises(InputError, match="viscosity must be positive"):
        VISCOUS.grid((96,), parameters(36.0, 0.0))
