"""Heating and cooling of interstellar gas by an analytic law, scaled by metallicity, integrated stably however fast it is.

    dT/dt = (gamma - 1) Gamma / k_B  (Z - n lambda(T)),   at fixed density n
    lambda(T) = Z 1.4e-2 sqrt(T) exp(-92 / T) + 1e7 exp(-1.184e5 / (T + 1000))   [cm^3],   Gamma = 2e-26 erg / s

with T in K and n in particles per cm^3; the first term is emission of carbon and oxygen, the second Lyman alpha of hydrogen. Photoelectric
heating needs dust and the first term needs metals: both are in proportion to the metallicity Z (in solar units), our extension of a
law that was made for Z = 1.

At Z = 1 gas of 0.445, 4.45 and 44.5 particles per cm^3 comes to rest at 6407, 406 and 59 K; between about 1 and 8 particles the equilibrium
is unstable at constant pressure, and gas separates into a warm and a cold phase. At Z = 0 nothing heats, and next to nothing cools
below 4000 K.
Source: Koyama and Inutsuka (2002), doi:10.1086/338978, eq. 4, with the two corrections of Vazquez-Semadeni et al. (2007),
doi:10.1086/510771 (1e7 and 1.4e-2 in place of other powers). Good to a factor of about two below 14000 K; above,
the Lyman term goes on growing where real gas, ionised by then, radiates otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

CENTIMETRES_PER_PARSEC = 3.0857e18
BOLTZMANN = 1.380649e-16  # erg / K
HEATING = 2e-26  # erg / s
TIME_UNIT = CENTIMETRES_PER_PARSEC / 1e5  # s in pc / (km/s), 0.978 million years
HEATING_RATE = (2 / 3) * HEATING / BOLTZMANN * TIME_UNIT  # K per pc / (km/s), for gamma = 5/3
LYMAN, LYMAN_KELVIN, LYMAN_SHIFT = 1e7, 1.184e5, 1000.0
METALS, METALS_KELVIN = 1.4e-2, 92.0
LARGEST_CHANGE = 0.1  # of log T in one substep; halving it divides the error by eight


def cooling_function(temperature: Tensor, metallicity: Tensor | float) -> tuple[Tensor, Tensor]:
    """lambda = Lambda / Gamma [cm^3] and its derivative by T, of the broadcast shape.

    Args:
        temperature: T in K, above 0.
        metallicity: Z in solar units, >= 0.
    """
    beyond = temperature + LYMAN_SHIFT
    lyman = LYMAN * torch.exp(-LYMAN_KELVIN / beyond)
    metals = metallicity * METALS * temperature.sqrt() * torch.exp(-METALS_KELVIN / temperature)
    slope = lyman * LYMAN_KELVIN / beyond**2 + metals * (0.5 + METALS_KELVIN / temperature) / temperature
    return lyman + metals, slope


def temperature_rate(temperature: Tensor, density: Tensor, metallicity: Tensor | float) -> Tensor:
    """dT/dt at fixed density, in K per pc / (km/s) (0.978 million years).

    Args:
        temperature: T in K.
        density: n in particles per cm^3.
        metallicity: Z in solar units.
    """
    return HEATING_RATE * (metallicity - density * cooling_function(temperature, metallicity)[0])


def cooled(
    temperature: Tensor,
    density: Tensor,
    metallicity: Tensor,
    duration: Tensor,
    *,
    floor: float,
    largest_change: float = LARGEST_CHANGE,
) -> Tensor:
    """Temperature after `duration` at fixed density, (*shape).

    Each cell takes its own substeps h of an exponential Rosenbrock scheme of two stages for y = log T, y' = F(y), J = dF/dy:

        d = h phi_1(h J) F(y),   y <- y + d + 2 h phi_3(h J) (F(y + d) - F(y) - J d),   h |F| <= largest_change

    third order, exact near an equilibrium, and stable for any h since J <= |F| for this law. The last substep is what
    is left of the duration, so that the result is continuous in all arguments; a cell does not see its neighbours.

    Args:
        temperature: T in K, (*shape); values below the floor are raised to it, where time passes.
        density: n in particles per cm^3, above 0, broadcasts over (*shape).
        metallicity: Z in solar units, broadcasts.
        duration: In pc / (km/s), >= 0, broadcasts; zero leaves a cell as it is.
        floor: Least temperature, in K.
        largest_change: Of log T in a substep.

    Source: Hochbruck, Ostermann and Schweitzer (2009), doi:10.1137/080717717, scheme exprb32 of section 5.
    """
    temperature, density, metallicity, left = torch.broadcast_tensors(temperature, density, metallicity, duration)
    lowest = torch.as_tensor(floor, dtype=temperature.dtype, device=temperature.device)
    temperature = torch.where(left > 0, temperature.maximum(lowest), temperature)
    while True:
        going = left > 0
        count = int(going.sum())
        if 2 * count <= going.numel():  # the few that are fast go on by themselves
            break
        temperature, left = _substep(temperature, density, metallicity, left, lowest, largest_change)
    if count == 0:
        return temperature
    few = (values[going] for values in (temperature, density, metallicity, left))
    return temperature.masked_scatter(going, cooled(*few, floor=floor, largest_change=largest_change))


def _substep(
    temperature: Tensor, density: Tensor, metallicity: Tensor, left: Tensor, lowest: Tensor, largest_change: float
) -> tuple[Tensor, Tensor]:
    """Temperature after one substep, and the time that is left; where none is left, nothing changes."""
    force, stiffness = _logarithmic_rate(temperature, density, metallicity)
    speed = torch.where((force <= 0) & (temperature <= lowest), 0.0, force.abs())  # the floor holds: no need to hurry
    hurried = (speed * left > largest_change) & speed.isfinite()  # a state that is lost shall end, not go on for ever
    step = torch.where(hurried, largest_change / speed.where(hurried, 1.0), left)
    phi_1, phi_3 = _phi_functions(step * stiffness)
    first = step * phi_1 * force
    there, _ = _logarithmic_rate(temperature * first.exp(), density, metallicity)
    change = first + 2 * step * phi_3 * (there - force - stiffness * first)
    changed = (temperature * change.exp()).maximum(lowest)
    return torch.where(left > 0, changed, temperature), left - step


def _logarithmic_rate(temperature: Tensor, density: Tensor, metallicity: Tensor) -> tuple[Tensor, Tensor]:
    """F = d log T / dt and J = dF / d log T."""
    value, slope = cooling_function(temperature, metallicity)
    force = HEATING_RATE * (metallicity - density * value) / temperature
    return force, -HEATING_RATE * density * slope - force


def _phi_functions(z: Tensor) -> tuple[Tensor, Tensor]:
    """phi_1(z) = (e^z - 1) / z and phi_3(z) = (e^z - 1 - z - z^2 / 2) / z^3, by their series near zero."""
    small = z.abs() < 0.1
    near, far = torch.where(small, z, 0.0), torch.where(small, 1.0, z)
    growth = torch.expm1(far)
    phi_3 = 1 / 6 + near / 24 * (1 + near / 5 * (1 + near / 6 * (1 + near / 7 * (1 + near / 8))))
    phi_1 = 1 + near / 2 + near**2 * phi_3
    return torch.where(small, phi_1, growth / far), torch.where(small, phi_3, (growth - far - far**2 / 2) / far**3)
