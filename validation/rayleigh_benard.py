"""Rayleigh-Benard convection: our runs against outside ones of Dedalus, and the exponents quoted in its simulator; 2 and 3 CPU-minutes.

    python validation/rayleigh_benard.py [--data ../shared/data] [--out results/rayleigh-benard-s0.json]
    python validation/rayleigh_benard.py --exponents

For each of the six outside runs (Ra 1e6 and 2e6, Pr 0.5, 1 and 2, initial profiles from 0.2 to 1) four of ours with the same
parameters, grid and initial law, from other noise. Means are over t from 30 to 49.5 and then over the six set-ups; the standard error
of the difference comes from the scatter of our runs within a set-up, since there is one outside run in each. Pointwise comparisons are
in `tests/simulators/test_rayleigh_benard.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import h5py
import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.numerics.lyapunov import leading_exponent
from eddycast.numerics.wall_modes import chebyshev_interpolation, legendre_values, quadrature
from eddycast.recipes.record import cpu_name
from eddycast.simulators import RayleighBenard, integrate, uniform_times
from eddycast.simulators.rayleigh_benard import diffusivities

ROOT = Path(__file__).parent.parent
RUNS, STATES, DT, LATE = 4, 100, 0.5, 60
WAVES = (1, 2, 4, 8, 16, 32, 48)
SURVEY = (
    [(1e5, 1), (2e5, 1), (3e5, 1), (5e5, 1), (1e6, 1), (1e6, 0.5), (1e6, 2), (2e6, 1)],
    [(1e5, 0.5), (2e5, 2), (3e5, 0.5), (5e5, 0.5), (5e5, 2), (1e6, 1), (1e6, 5), (2e6, 0.5)],
)


def outside(folder: Path) -> tuple[Tensor, Tensor, list[float]]:
    """States (run, time, 4, 128, 32), parameters (run, 2), and initial scales of the profile."""
    states, parameters, scales = [], [], []
    for path in sorted(folder.glob("*/*.hdf5")):
        with h5py.File(path) as file:
            scalars: Any = file["t0_fields"]
            vectors: Any = file["t1_fields"]
            given: Any = file["scalars"]
            parts = [torch.tensor(scalars[name][0]) for name in ("buoyancy", "pressure")]
            states.append(torch.stack([*parts, *torch.tensor(vectors["velocity"][0]).unbind(-1)], dim=1))
            parameters.append([float(given[name][()]) for name in ("Rayleigh", "Prandtl")])
            scales.append(float(str(file.attrs["initial_buoyancy_scale"])))
    return torch.stack(states).double(), torch.tensor(parameters, dtype=torch.float64), scales


def own(parameters: Tensor, scales: list[float]) -> Tensor:
    """RUNS runs for each row of parameters, (run of ours, set-up, time, 4, 128, 32)."""
    number = torch.arange(RUNS)
    grid = RayleighBenard().grid((128, 32), parameters)
    starts = []
    for index, scale in enumerate(scales):
        noise = MemberNoise(1, number + RUNS * index, 0 * number)
        starts.append(RayleighBenard(buoyancy_scale=scale).initial(parameters[index].expand(RUNS, 2), grid, noise))
    rows = parameters.repeat_interleave(RUNS, dim=0)
    states = integrate(RayleighBenard(), torch.cat(starts), rows, grid, uniform_times(DT, STATES, start=0))
    return states.unflatten(0, (len(scales), RUNS)).transpose(0, 1).double()


def statistics(states: Tensor, parameters: Tensor) -> dict[str, Tensor]:
    """Numbers of each run, (*run, set-up), from states (*run, set-up, time, 4, n_x, n_y)."""
    points = states.shape[-1]
    nodes, weights = quadrature(points)
    to_nodes = chebyshev_interpolation(points, nodes)
    degrees = 2 * torch.arange(points, dtype=torch.float64)[:, None] + 1
    series = degrees * legendre_values(nodes, points).T @ (weights[:, None] * to_nodes)
    ends = legendre_values(torch.tensor([0.0, 1.0], dtype=torch.float64), points, 1) @ series
    warmth, _, along, ascent = (states @ to_nodes.T).unbind(-3)
    kappa = diffusivities(parameters)[1]
    flux = 1 + (warmth * ascent).mean(dim=-2) @ weights / kappa[:, None]
    walls = -(states[..., 0, :, :].mean(dim=-2) @ ends.T).mean(dim=-1)
    speed = ((along**2 + ascent**2).mean(dim=-2) @ weights).sqrt()
    fast = DT * (speed > 0.05).to(torch.float64).argmax(dim=-1)
    power = (torch.fft.rfft(warmth, dim=-2, norm="forward").abs().square() @ weights)[..., LATE:, :].mean(dim=-2)
    return {
        "Nusselt number, volume": flux[..., LATE:].mean(dim=-1),
        "Nusselt number, walls": walls[..., LATE:].mean(dim=-1),
        "Nusselt number, standard deviation in time": flux[..., LATE:].std(dim=-1),
        "root mean square velocity": speed[..., LATE:].mean(dim=-1),
        "time at which that passes 0.05": fast,
        **{f"log10 power of buoyancy, wave {wave}": power[..., wave].log10() for wave in WAVES},
    }


def compared(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Means over the set-ups, the standard error of the difference, and the difference in such errors."""
    rows = []
    for name, first in theirs.items():
        second = ours[name]
        error = (second.var(dim=0).mean() * (1 + 1 / RUNS) / len(first)).sqrt().item()
        difference = (second.mean() - first.mean()).item()
        rows.append(
            {
                "what": name,
                "outside": first.mean().item(),
                "ours": second.mean().item(),
                "standard_error": error,
                "deviation": difference / error,
                "each_outside": first.tolist(),
                "each_ours": second.mean(dim=0).tolist(),
            }
        )
    return rows


def exponents() -> None:
    """Leading exponents over 100 time units after a spin-up of 80, one run each, 64 x 32 points, single precision."""
    system = RayleighBenard(noise=1e-2)
    for seed, rows in enumerate(SURVEY, start=1):
        parameters, number = torch.tensor(rows, dtype=torch.float64), torch.arange(len(rows))
        noise = MemberNoise(seed, number, 0 * number)
        grid = system.grid((64, 32), parameters)
        flow = system.flow(parameters, grid, 2.0, inner_dt=1 / 24)
        state = system.initial(parameters, grid, noise)
        with torch.no_grad():
            for _ in range(40):
                state = flow(state)
        tangent = noise.draw(tuple(state.shape[1:]), key=(0, 0, "t"))
        found = leading_exponent(flow, state, tangent, interval=2.0, num_intervals=50, num_discarded=10)
        for row, value in zip(rows, found.per_trajectory.tolist(), strict=True):
            print(f"Ra = {row[0]:g}, Pr = {row[1]:g}: {value:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "rayleigh-benard-s0.json")
    parser.add_argument("--exponents", action="store_true", help="the exponents instead")
    options = parser.parse_args()
    if options.exponents:
        exponents()
        return
    if not options.data.is_dir():
        parser.error(f"{options.data} is no directory: --data takes that of the outside runs.")
    begin = time.process_time()
    states, parameters, scales = outside(options.data / "rayleigh_benard" / "data")
    rows = compared(statistics(states, parameters), statistics(own(parameters, scales), parameters))
    provenance = {
        "hardware": cpu_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu_seconds": time.process_time() - begin,
        "runs_of_each_set_up": RUNS,
        "set_ups": [[*row, scale] for row, scale in zip(parameters.tolist(), scales, strict=True)],
    }
    text = json.dumps({"job": options.out.stem, "provenance": provenance, "result": {"statistics": rows}}, indent=1)
    options.out.write_text(text + "\n")
    for row in rows:
        print(f"{row['what']}: {row['outside']:.4f}, ours {row['ours']:.4f}, {row['deviation']:+.1f} standard errors")
    assert all(math.isfinite(row["ours"]) for row in rows)
    print(f"wrote {options.out} after {provenance['cpu_seconds']:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
