"""Exact solution of the Riemann problem of an ideal gas: what any scheme for the Euler equations has to reproduce.

Two constant states meet at x = 0; what follows depends on x / t alone: a wave to the left and one to the right (shock where the pressure
rises towards the middle, else rarefaction), and between them a contact, across which only the density jumps.

Source: Toro, Riemann Solvers and Numerical Methods for Fluid Dynamics, 3rd ed. (2009), chapter 4: eqs. 4.5 to 4.9 for the pressure
between the waves, section 4.5 for the profile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ITERATIONS = 100


@dataclass(frozen=True)
class Gas:
    """A constant state: density and pressure above zero, velocity along x."""

    density: float
    velocity: float
    pressure: float

    def sound(self, gamma: float) -> float:
        """Speed of sound."""
        return math.sqrt(gamma * self.pressure / self.density)


def exact_riemann(left: Gas, right: Gas, gamma: float, speeds: Tensor) -> Tensor:
    """Density, velocity and pressure (3, *points), float64, at x / t = `speeds` (*points).

    Raises: ValueError for states that part so fast that they leave a vacuum.
    """
    pressure, velocity = star_state(left, right, gamma)
    xi = speeds.to(torch.float64)
    on_left = _wave(left, pressure, velocity, gamma, xi)
    mirrored = Gas(right.density, -right.velocity, right.pressure)
    on_right = _wave(mirrored, pressure, -velocity, gamma, -xi) * xi.new_tensor([1.0, -1.0, 1.0]).reshape(
        3, *[1] * xi.ndim
    )
    return torch.where(xi < velocity, on_left, on_right)


def star_state(left: Gas, right: Gas, gamma: float) -> tuple[float, float]:
    """Pressure and velocity between the two waves, to rounding.

    Newton's method for f_L(p) + f_R(p) + u_R - u_L = 0, whose left side rises and bends down.

    Raises: ValueError where the states leave a vacuum.
    """
    jump = right.velocity - left.velocity
    if jump >= 2 / (gamma - 1) * (left.sound(gamma) + right.sound(gamma)):
        raise ValueError(
            f"{left} and {right} part so fast that they leave a vacuum: there is no pressure between them."
        )
    power = (gamma - 1) / (2 * gamma)
    sounds = left.sound(gamma), right.sound(gamma)
    # Start: exact for two rarefactions, too high where there are shocks; one step leads below the root, from where the rest climbs.
    reach = sum(sounds) - 0.5 * (gamma - 1) * jump
    pressure = (reach / (sounds[0] / left.pressure**power + sounds[1] / right.pressure**power)) ** (1 / power)
    for _ in range(ITERATIONS):
        (f_l, slope_l), (f_r, slope_r) = (_velocity_change(side, pressure, gamma) for side in (left, right))
        change = (f_l + f_r + jump) / (slope_l + slope_r)
        pressure = max(pressure - change, 1e-3 * pressure)
        if abs(change) <= 1e-15 * pressure:
            break
    f_l, f_r = (_velocity_change(side, pressure, gamma)[0] for side in (left, right))
    return pressure, 0.5 * (left.velocity + right.velocity + f_r - f_l)


def _velocity_change(gas: Gas, pressure: float, gamma: float) -> tuple[float, float]:
    """Change of velocity across the wave that leads from `gas` to `pressure`, and its derivative."""
    if pressure > gas.pressure:
        a, b = 2 / ((gamma + 1) * gas.density), (gamma - 1) / (gamma + 1) * gas.pressure
        root = math.sqrt(a / (pressure + b))
        return (pressure - gas.pressure) * root, root * (1 - 0.5 * (pressure - gas.pressure) / (pressure + b))
    sound, ratio = gas.sound(gamma), pressure / gas.pressure
    power = (gamma - 1) / (2 * gamma)
    return 2 * sound / (gamma - 1) * (ratio**power - 1), ratio ** (power - 1) * sound / (gamma * gas.pressure)


def _wave(gas: Gas, pressure: float, velocity: float, gamma: float, xi: Tensor) -> Tensor:
    """Profile (3, *points) left of the contact."""
    outer = torch.tensor([gas.density, gas.velocity, gas.pressure], dtype=torch.float64)
    sound, ratio = gas.sound(gamma), pressure / gas.pressure
    shape = (3, *[1] * xi.ndim)
    if pressure > gas.pressure:
        weak = (gamma - 1) / (gamma + 1)
        inner = torch.tensor(
            [gas.density * (ratio + weak) / (weak * ratio + 1), velocity, pressure], dtype=torch.float64
        )
        speed = gas.velocity - sound * math.sqrt((gamma + 1) / (2 * gamma) * ratio + (gamma - 1) / (2 * gamma))
        return torch.where(xi < speed, outer.reshape(shape), inner.reshape(shape))
    inner = torch.tensor([gas.density * ratio ** (1 / gamma), velocity, pressure], dtype=torch.float64)
    head, tail = gas.velocity - sound, velocity - sound * ratio ** ((gamma - 1) / (2 * gamma))
    local = (2 * sound + (gamma - 1) * (gas.velocity - xi)) / (gamma + 1)  # speed of sound within the fan
    local = local.clamp(min=0)  # beyond the fan, where it is not used
    thinned = (local / sound) ** (2 / (gamma - 1))
    fan = torch.stack([gas.density * thinned, xi + local, gas.pressure * (local / sound) ** (2 * gamma / (gamma - 1))])
    return torch.where(xi < head, outer.reshape(shape), torch.where(xi < tail, fan, inner.reshape(shape)))
