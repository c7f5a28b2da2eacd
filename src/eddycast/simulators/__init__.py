"""Simulated systems.

To add one: a file with a `System` (see `protocols.py`; `kuramoto_sivashinsky.py` is an example) and a line in
`SYSTEMS`. Its tests go to `tests/simulators/`; those of `test_simulate.py` that hold for every system find it through
`SYSTEMS`. A system that is forced at random has a `forced_flow` as well (`Forced` in `protocols.py`; `sea_surface.py` is an example).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from eddycast.errors import InputError
from eddycast.simulators.advection_diffusion import AdvectionDiffusion
from eddycast.simulators.beta_plane import BetaPlane
from eddycast.simulators.burgers import Burgers
from eddycast.simulators.channel_flow import ChannelObstacles
from eddycast.simulators.euler import EulerOpen, EulerPeriodic
from eddycast.simulators.initial import initial_values, with_initial
from eddycast.simulators.integrate import integrate, uniform_times
from eddycast.simulators.kolmogorov_flow import KolmogorovFlow
from eddycast.simulators.kuramoto_sivashinsky import KuramotoSivashinsky
from eddycast.simulators.kuramoto_sivashinsky_viscous import KuramotoSivashinskyViscous
from eddycast.simulators.lorenz_63 import Lorenz63
from eddycast.simulators.lorenz_96 import Lorenz96
from eddycast.simulators.navier_stokes import NavierStokes3D
from eddycast.simulators.protocols import (
    FieldInfo,
    Flow,
    Forced,
    ForcedFlow,
    InitialInfo,
    ParameterInfo,
    Reduction,
    System,
    SystemInfo,
    inner_steps,
)
from eddycast.simulators.rayleigh_benard import RayleighBenard
from eddycast.simulators.sea_surface import SeaSurface
from eddycast.simulators.simulate import ParameterValue, Simulation, Values, draw_parameters, reduction, simulate
from eddycast.simulators.sine_wave import SineWave
from eddycast.simulators.spring_mesh import SpringMesh
from eddycast.simulators.turbulence_gravity_cooling import TurbulenceGravityCooling

SYSTEMS: dict[str, System] = {
    "kuramoto-sivashinsky": KuramotoSivashinsky(),
    "kuramoto-sivashinsky-viscous": KuramotoSivashinskyViscous(),
    "burgers": Burgers(),
    "advection-diffusion": AdvectionDiffusion(),
    "lorenz-63": Lorenz63(),
    "lorenz-96": Lorenz96(),
    "kolmogorov-flow": KolmogorovFlow(),
    "navier-stokes-3d": NavierStokes3D(),
    "rayleigh-benard": RayleighBenard(),
    "turbulence-gravity-cooling": TurbulenceGravityCooling(),
    "euler-multi-quadrants-periodic": EulerPeriodic(),
    "euler-multi-quadrants-open": EulerOpen(),
    "channel-obstacles": ChannelObstacles(),
    "beta-plane": BetaPlane(),
    "sea-surface": SeaSurface(),
    "spring-mesh": SpringMesh(),
    "sine-wave": SineWave(),
}


def get_system(name: str) -> System:
    """The system of that name; case, `_` and `-` do not matter.

    Raises: InputError for an unknown name, with the nearest known ones.
    """
    key = name.strip().lower().replace("_", "-").replace(" ", "-")
    if key in SYSTEMS:
        return SYSTEMS[key]
    near = difflib.get_close_matches(key, SYSTEMS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(SYSTEMS)}."
    raise InputError(f"There is no system {name!r}: {hint}")


def reduction_hint(system: str, wanted: Sequence[str], given: Sequence[str]) -> str:
    """What to do with whole states of a system where a reduction of them is wanted, as fields by name; empty where that is not it."""
    if system not in SYSTEMS or tuple(given) != tuple(field.name for field in SYSTEMS[system].info.fields):
        return ""
    for name, stored in SYSTEMS[system].info.reductions.items():
        if tuple(wanted) == tuple(field.name for field in stored.fields):
            verb = f"ec.{name.replace('-', '_')}"
            return (
                f" These are whole states of {system}: simulate them with --store {name}, or reduce them with {verb}."
            )
    return ""


__all__ = [
    "SYSTEMS",
    "AdvectionDiffusion",
    "BetaPlane",
    "Burgers",
    "ChannelObstacles",
    "EulerOpen",
    "EulerPeriodic",
    "FieldInfo",
    "Flow",
    "Forced",
    "ForcedFlow",
    "InitialInfo",
    "KolmogorovFlow",
    "KuramotoSivashinsky",
    "KuramotoSivashinskyViscous",
    "Lorenz63",
    "Lorenz96",
    "NavierStokes3D",
    "ParameterInfo",
    "ParameterValue",
    "RayleighBenard",
    "Reduction",
    "SeaSurface",
    "Simulation",
    "SineWave",
    "SpringMesh",
    "System",
    "SystemInfo",
    "TurbulenceGravityCooling",
    "Values",
    "draw_parameters",
    "get_system",
    "initial_values",
    "inner_steps",
    "integrate",
    "reduction",
    "reduction_hint",
    "simulate",
    "uniform_times",
    "with_initial",
]
