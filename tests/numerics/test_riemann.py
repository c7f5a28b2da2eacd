"""The exact Riemann solution: the published pressures between the waves, the jump conditions, and the equation itself."""

from __future__ import annotations

import pytest
import torch

from eddycast.numerics.riemann import Gas, exact_riemann, star_state

# Toro (2009), table 4.1: the states of the five tests, gamma = 1.4; table 4.3: pressure and velocity between the waves.
TORO = {
    "sod": (Gas(1.0, 0.0, 1.0), Gas(0.125, 0.0, 0.1), 0.30313, 0.92745),
    "123": (Gas(1.0, -2.0, 0.4), Gas(1.0, 2.0, 0.4), 0.00189, 0.0),
    "left blast": (Gas(1.0, 0.0, 1000.0), Gas(1.0, 0.0, 0.01), 460.894, 19.5975),
    "right blast": (Gas(1.0, 0.0, 0.01), Gas(1.0, 0.0, 100.0), 46.0950, -6.19633),
    "collision": (Gas(5.99924, 19.5975, 460.894), Gas(5.99242, -6.19633, 46.0950), 1691.64, 8.68975),
}


def flux(profile, gamma):
    density, velocity, pressure = profile
    energy = pressure / (gamma - 1) + 0.5 * density * velocity**2
    return torch.stack([density * velocity, density * velocity**2 + pressure, (energy + pressure) * velocity])


def conserved(profile, gamma):
    density, velocity, pressure = profile
    return torch.stack([density, density * velocity, pressure / (gamma - 1) + 0.5 * density * velocity**2])


@pytest.mark.parametrize("name", TORO)
def test_published_states_between_the_waves(name):
    """To the digits printed, cut after 6 significant ones or 5 decimals."""
    left, right, pressure, velocity = TORO[name]
    found = star_state(left, right, 1.4)
    assert found[0] == pytest.approx(pressure, rel=5e-6, abs=1e-5)
    assert found[1] == pytest.approx(velocity, rel=1e-5, abs=5e-6)


@pytest.mark.parametrize("gamma", [1.13, 1.4, 1.76])
@pytest.mark.parametrize("name", TORO)
def test_profile_is_a_weak_solution(name, gamma):
    """Over a wide interval d/dt of the integral of U(x / t) is the difference of the fluxes: int U dxi = xi U - F at the ends."""
    left, right, *_ = TORO[name]
    reach = 1.5 * (max(abs(left.velocity), abs(right.velocity)) + 3 * max(left.sound(gamma), right.sound(gamma)))
    speeds = reach * (2 * (torch.arange(50_000, dtype=torch.float64) + 0.5) / 50_000 - 1)
    profile = exact_riemann(left, right, gamma, speeds)
    mass = conserved(profile, gamma).mean(dim=1) * 2 * reach
    ends = torch.tensor([[g.density, g.velocity, g.pressure] for g in (left, right)], dtype=torch.float64)
    first, last = (reach * conserved(end, gamma) for end in ends)
    expected = first + last - (flux(ends[1], gamma) - flux(ends[0], gamma))
    scale = conserved(profile, gamma).abs().amax(dim=1) * 2 * reach
    assert ((mass - expected).abs() / scale).max() < 1e-4  # three jumps, each put into one of 50 000 points


@pytest.mark.parametrize("name", TORO)
def test_mirrored_states_give_the_mirrored_solution(name):
    left, right, *_ = TORO[name]
    speeds = torch.linspace(-30, 30, 997, dtype=torch.float64) + 1e-3
    here = exact_riemann(left, right, 1.4, speeds)
    there = exact_riemann(
        Gas(right.density, -right.velocity, right.pressure),
        Gas(left.density, -left.velocity, left.pressure),
        1.4,
        -speeds,
    )
    assert torch.allclose(here * torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64), there, rtol=1e-9, atol=1e-9)


def test_equal_states_stay_and_a_lone_contact_moves():
    speeds = torch.linspace(-3, 3, 101, dtype=torch.float64)
    same = exact_riemann(Gas(0.7, 0.3, 1.1), Gas(0.7, 0.3, 1.1), 1.3, speeds)
    assert torch.allclose(same, torch.tensor([[0.7], [0.3], [1.1]], dtype=torch.float64).expand(3, 101), rtol=1e-12)
    contact = exact_riemann(Gas(1.0, 0.5, 1.0), Gas(0.2, 0.5, 1.0), 1.4, speeds)
    assert torch.equal(contact[0] > 0.6, speeds < 0.5)
    assert torch.allclose(contact[1:], torch.tensor([[0.5], [1.0]], dtype=torch.float64).expand(2, 101), rtol=1e-12)


def test_fan_keeps_the_entropy_and_the_invariant():
    """Within the left rarefaction of Sod's tube p / rho^gamma and u + 2 c / (gamma - 1) are those of the left state."""
    left, right, *_ = TORO["sod"]
    density, velocity, pressure = exact_riemann(left, right, 1.4, torch.linspace(-1.18, -0.08, 50, dtype=torch.float64))
    assert (density.diff() < 0).all()
    assert torch.allclose(pressure / density**1.4, torch.ones(50, dtype=torch.float64), rtol=1e-12)
    sound = (1.4 * pressure / density).sqrt()
    assert torch.allclose(velocity + 5 * sound, torch.full((50,), 5 * left.sound(1.4), dtype=torch.float64), rtol=1e-12)


def test_vacuum_is_refused():
    with pytest.raises(ValueError, match="vacuum"):
        star_state(Gas(1.0, -6.0, 0.4), Gas(1.0, 6.0, 0.4), 1.4)
