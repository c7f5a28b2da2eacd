"""Laws of initial states: their settings, and velocities with a chosen peak of the spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.simulators.protocols import System

LOG_VARIANCE = 0.25
REACH = 8  # modes up to so many times the peak, where their amplitude is 2e-5 of the largest


def with_initial(system: System, values: Mapping[str, float]) -> System:
    """The system with another law of initial states, such as {"peak_wavenumber": 6}.

    Raises: InputError for a setting that the system does not have, or a value outside its range.
    """
    known = {setting.name: setting for setting in system.info.initial}
    chosen: dict[str, float] = {}
    for name, value in values.items():
        if name not in known:
            raise InputError(
                f"The initial law of {system.info.name} has no setting {name!r}: it has {', '.join(known) or 'none'}."
            )
        setting = known[name]
        if not setting.low <= value <= setting.high:
            raise InputError(f"The initial {name} must lie within {setting.low:g} to {setting.high:g}; got {value:g}.")
        if setting.whole and not float(value).is_integer():
            raise InputError(f"The initial {name} takes whole numbers; got {value:g}.")
        chosen[name] = int(value) if setting.whole else float(value)
    made: Any = system  # a dataclass with a field for each of its settings
    return replace(made, **chosen) if chosen else system


def initial_values(system: System) -> dict[str, float]:
    """Settings of the law of initial states that are not absent."""
    values = {setting.name: getattr(system, setting.name) for setting in system.info.initial}
    return {name: value for name, value in values.items() if value is not None}


def filtered_velocity(
    noise: MemberNoise, *, peak_wavenumber: float, key: tuple[int, int, str] = (0, 0, "initial")
) -> Tensor:
    """Random divergence-free velocities in two dimensions with a smooth peak of the spectrum, on a box of side 2 pi.

        amplitude of mode k ~ exp(-(log p + s^2 - log k)^2 / (2 s^2)) / k^2,   s^2 = 0.25

    so that the power in a shell of width 1 is largest at 0.88 p. White noise of both components is filtered with this amplitude and
    projected. The coefficients do not depend on any grid.

    Args:
        noise: Addresses, (*batch,).
        peak_wavenumber: p, above 0.
        key: Address of the draw.

    Returns: (*batch, 2, n, n), float64, of no particular size; n = 2 ceil(8 p) + 2 points per axis hold all of its modes.
    Source: Kochkov et al. (2021), doi:10.1073/pnas.2101784118, the initial velocities of its published code (there on staggered cells, with
        a projection by finite differences, and all modes of the grid).
    """
    reach = math.ceil(REACH * peak_wavenumber)
    points = 2 * reach + 2
    every = torch.arange(-reach, reach + 1)
    mx, my = (part.flatten() for part in torch.meshgrid(every, every, indexing="ij"))
    squared = mx**2 + my**2
    wanted = (squared > 0) & (squared <= reach**2) & ((my > 0) | ((my == 0) & (mx > 0)))  # one of each opposite pair
    mx, my = mx[wanted], my[wanted]
    wave = torch.stack([mx, my]).double()  # (2, mode)
    k = wave.norm(dim=0)
    amplitude = torch.exp(-((math.log(peak_wavenumber) + LOG_VARIANCE - k.log()) ** 2) / (2 * LOG_VARIANCE)) / k**2
    numbers = noise.draw((2, 2, len(k)), key=key, dtype=torch.float64)
    coefficients = amplitude * torch.complex(numbers[..., 0, :, :], numbers[..., 1, :, :])  # (*batch, 2, mode)
    along = (wave * coefficients).sum(dim=-2, keepdim=True) / k**2
    coefficients = coefficients - wave * along
    spectrum = torch.zeros((*noise.batch, 2, points, reach + 2), dtype=torch.complex128)
    spectrum[..., mx % points, my] = coefficients
    flat = my == 0  # the partners of these are in the half spectrum as well
    spectrum[..., -mx[flat] % points, my[flat]] = coefficients[..., flat].conj()
    return torch.fft.irfft2(spectrum, s=(points, points), norm="forward")
