"""Our solvers at the set-ups of the published diffusion benchmarks, against outside solvers: about 2 CPU-minutes.

    python validation/published_systems.py [--data ../shared/data] [--out results/systems-s0.json]

Three comparisons:

- Kuramoto-Sivashinsky (L = 64, 256 points, ten sines) against scipy's Radau (implicit Runge-Kutta of order 5, tolerances 1e-9) on the
  pseudo-spectral equation: another scheme in time, another form of the nonlinear term, no dealiasing.
- The same equation, statistics on the attractor, against runs of exponax.
- Kolmogorov flow at viscosity 0.0025, solved on 256 x 256 points and stored on 64 x 64, against runs of exponax on 128 x 128, stored alike:
  energy, enstrophy, the terms of the energy budget, the spectrum.

Errors are standard errors over runs. The Kolmogorov runs are spun up on 128 x 128 points and go on with 256 x 256 one time unit before
the first stored state, in which the new scales fill.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from eddycast.metrics import power_spectrum, shells
from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import energy, enstrophy
from eddycast.numerics.truncated import resample
from eddycast.recipes.record import cpu_name
from eddycast.simulators import get_system, integrate, simulate, uniform_times, with_initial

ROOT = Path(__file__).parent.parent
TIMES = (2.0, 8.0, 20.0, 30.0, 40.0)
STEPS = (0.1, 0.05, 0.0125)
SINES = {"sines": 10, "modes": 2}
FILTERED = {"peak_wavenumber": 4.0, "max_velocity": 3.0}
BOX = (2 * math.pi, 2 * math.pi)
RUNS, STATES, DT = 12, 64, 0.2


def radau() -> list[dict[str, Any]]:
    """Relative error of our solver against Radau at each time, by inner step."""
    from scipy.fftpack import diff
    from scipy.integrate import solve_ivp

    length, points = 64.0, 256
    system = with_initial(get_system("kuramoto-sivashinsky"), SINES)
    parameters, number = torch.tensor([[length]], dtype=torch.float64), torch.tensor([3])
    grid = system.grid((points,), parameters)
    start = system.initial(parameters, grid, MemberNoise(0, number, 0 * number), dtype=torch.float64)
    slopes = [np.stack([diff(column, order, period=length) for column in np.eye(points)], 1) for order in (1, 2, 4)]

    def tendency(_: float, u: np.ndarray) -> np.ndarray:
        first, second, fourth = (diff(u, order, period=length) for order in (1, 2, 4))
        return -u * first - second - fourth

    def jacobian(_: float, u: np.ndarray) -> np.ndarray:
        return -np.diag(slopes[0] @ u) - u[:, None] * slopes[0] - slopes[1] - slopes[2]

    referee = solve_ivp(
        tendency, (0, TIMES[-1]), start[0, 0].numpy(), method="Radau", rtol=1e-9, atol=1e-9, jac=jacobian, t_eval=TIMES
    )
    exact = torch.tensor(referee.y).T
    rows = []
    for step in STEPS:
        ours = integrate(system, start, parameters, grid, TIMES, inner_dt=step)[0, :, 0]
        errors = (ours - exact).norm(dim=1) / exact.norm(dim=1)
        rows.append({"inner_step": step, "times": list(TIMES), "relative_error": errors.tolist()})
    return rows


def stored(folder: Path, name: str) -> Tensor:
    """All runs of an outside set, (run, time, channel, *space), float64."""
    runs = []
    for path in sorted((folder / "data").glob("*/*.hdf5")):
        with h5py.File(path) as file:
            values = torch.tensor(np.asarray(file[name])).double()
        runs.append(values.movedim(-1, 2) if name.startswith("t1") else values[:, :, None])
    return torch.cat(runs)


def ks_statistics(states: Tensor) -> dict[str, Tensor]:
    """Numbers that describe each run, (run,), by name: deviation, quantiles, and log10 of the power of modes."""
    grid = get_system("kuramoto-sivashinsky").grid((states.shape[-1],), torch.tensor([64.0]))
    power = power_spectrum(states[:, :, 0], shells(grid)).mean(dim=1).log10()
    quantiles = {f"quantile {q:g}": states.flatten(1).quantile(q, dim=1) for q in (0.05, 0.5, 0.95)}
    spectrum = {f"log10 power of mode {mode}": power[:, mode] for mode in (2, 4, 6, 9, 12, 16, 24, 32)}
    return {"standard deviation": states.flatten(1).std(dim=1), **quantiles, **spectrum}


def flow_statistics(states: Tensor, viscosity: float) -> dict[str, Tensor]:
    """The same for velocities: energy, enstrophy, terms of the energy budget, log10 of the energy in shells."""
    system = get_system("kolmogorov-flow")
    grid = system.grid(tuple(states.shape[-2:]))
    y = torch.tensor(grid.axes[1].coordinates, dtype=torch.float64)
    level, swirl = energy(states, 2), enstrophy(states, BOX)
    power = (states[:, :, 0] * torch.sin(4 * y)).mean(dim=(-3, -2, -1))
    lost = 2 * viscosity * swirl.mean(dim=1)
    drag = 0.2 * level.mean(dim=1)
    change = (level[:, -1] - level[:, 0]) / (DT * (states.shape[1] - 1))
    spectrum = power_spectrum(states, shells(grid)).sum(dim=-2).mean(dim=1) / 2
    return {
        "energy": level.mean(dim=1),
        "enstrophy": swirl.mean(dim=1),
        "power of the force": power,
        "viscous loss": lost,
        "loss by drag": drag,
        "budget: power - losses - change": power - lost - drag - change,
        **{f"log10 energy in shell {shell}": spectrum[:, shell].log10() for shell in (1, 2, 4, 8, 12, 16, 24, 30)},
    }


def compared(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Means of both, the standard error of their difference, and the difference in such errors."""
    rows = []
    for name, first in theirs.items():
        second = ours[name]
        error = (first.var() / len(first) + second.var() / len(second)).sqrt().item()
        difference = (second.mean() - first.mean()).item()
        rows.append(
            {
                "what": name,
                "outside": first.mean().item(),
                "ours": second.mean().item(),
                "standard_error": error,
                "deviation": difference / error,
            }
        )
    return rows


def finely_solved(runs: int) -> Tensor:
    """The cheap path: spun up on 128 x 128, then solved on 256 x 256 and stored on 64 x 64; (run, time, 2, 64, 64)."""
    system = get_system("kolmogorov-flow")
    warm = simulate(
        system, trajectories=runs, steps=1, spin_up=29.0, grid_shape=(128, 128), initial=FILTERED, seed=1,
        parameters={"viscosity": 0.0025},
    )  # fmt: skip
    fine = system.grid((256, 256), warm.parameters)
    start = resample(warm.states[:, 0], fine.shape)
    times = 0.8 + uniform_times(DT, STATES)
    return integrate(system, start, warm.parameters, fine, times, store=lambda state: resample(state, (64, 64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "systems-s0.json")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"{options.data} is no directory: --data takes that of the outside runs.")
    begin = time.process_time()
    ks = simulate(
        get_system("kuramoto-sivashinsky"), trajectories=32, steps=640, dt=DT, inner_dt=0.1, grid_shape=(256,),
        parameters={"domain_length": 64.0}, initial=SINES, seed=1, spin_up=100.0,
    )  # fmt: skip
    flow = finely_solved(RUNS)
    result: dict[str, Any] = {
        "radau": radau(),
        "kuramoto_sivashinsky": compared(
            ks_statistics(stored(options.data / "kuramoto_sivashinsky", "t0_fields/u")),
            ks_statistics(ks.states.double()),
        ),
        "kolmogorov_flow": compared(
            flow_statistics(stored(options.data / "kolmogorov_flow", "t1_fields/velocity"), 0.0025),
            flow_statistics(flow.double(), 0.0025),
        ),
    }
    provenance = {
        "hardware": cpu_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_seconds": time.process_time() - begin,
        "kolmogorov_runs": len(flow),
    }
    text = json.dumps({"job": options.out.stem, "provenance": provenance, "result": result}, indent=1)
    options.out.write_text(text + "\n")
    for kind in ("kuramoto_sivashinsky", "kolmogorov_flow"):
        worst = max(result[kind], key=lambda row: abs(row["deviation"]))
        print(f"{kind}: largest deviation {worst['deviation']:.1f} standard errors, {worst['what']}")
    print(f"wrote {options.out} after {provenance['cpu_seconds']:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
