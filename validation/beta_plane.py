"""The beta-plane solver at its size for CPUs: jets by beta, energy, the bimodal gusts, a cost. About 6 CPU-minutes.

    python validation/beta_plane.py [--out results/beta-plane-solver-s0.json]

- Climate: 4 trajectories for each beta from rest, 7500 time units of spin-up, then 200 states 50 apart, in single precision. Jets are
  maxima of U(y) above zero, smoothed to 10 modes.
- From rest, mean energy of 16 trajectories against epsilon (1 - exp(-2 mu t)) / (2 mu), which leaves out what the hyperviscosity takes.
- Gusts: 64 members from one state after one interval, at the strongest jet, beside the two branches without stirring.
- CPU time per step and member of a batch of 16.

Errors are standard errors over trajectories.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.recipes.record import cpu_name
from eddycast.simulators import Values, get_system, integrate, simulate
from eddycast.simulators.beta_plane import GUST_TIME, energy, zonal_velocity, zonostrophy

ROOT = Path(__file__).parent.parent
SYSTEM = get_system("beta-plane")
BETAS = (0.3, 0.9, 1.8, 2.7, 3.0)
RUNS, STATES, SEED = 4, 200, 0
SMOOTH_MODES = 10
MEMBERS, PERCENT = 64, 20.0


def jets(zonal: Tensor) -> Tensor:
    """Number of eastward jets of U(y), (*batch, y): maxima above zero of the first modes, (*batch)."""
    modes = torch.fft.rfft(zonal)
    modes[..., SMOOTH_MODES + 1 :] = 0
    smooth = torch.fft.irfft(modes, n=zonal.shape[-1])
    peaks = (smooth > smooth.roll(1, -1)) & (smooth >= smooth.roll(-1, -1)) & (smooth > 0)
    return peaks.sum(dim=-1)


def summary(values: Tensor) -> dict[str, float]:
    """Mean over trajectories, its standard error, the lowest and the highest of them; values (trajectory,)."""
    return {
        "mean": values.mean().item(),
        "standard_error": (values.std() / math.sqrt(len(values))).item(),
        "lowest": values.min().item(),
        "highest": values.max().item(),
    }


def climate() -> tuple[list[dict[str, Any]], Tensor, Tensor]:
    """One row for each beta; with them the last states (trajectory, 1, x, y) and the parameters."""
    run = simulate(
        SYSTEM, trajectories=RUNS * len(BETAS), steps=STATES, parameters={"beta": Values(BETAS, (RUNS,) * len(BETAS))},
        seed=SEED,
    )  # fmt: skip
    zonal = zonal_velocity(run.states)[:, :, 0].double()
    level = energy(run.states)
    rows = []
    for beta in BETAS:
        own = (run.parameters[:, 0] - beta).abs() < 1e-9
        U, E, parameters = zonal[own], level[own], run.parameters[own]
        mean, count = E.mean(dim=1), jets(U).double()
        wanted = 1e-6 / (2 * 4e-4)
        change = (U[:, 1:] - U[:, :-1]).square().mean(dim=(1, 2)).sqrt() / U.std(dim=(1, 2))
        half = STATES // 2
        shares = count.flatten().unique(return_counts=True)
        rows.append(
            {
                "beta": beta,
                "jets": summary(count.mean(dim=1)),
                "jets_share_of_time": {
                    f"{int(one)}": many.item() / count.numel() for one, many in zip(*shares, strict=True)
                },
                "changes_of_the_count_per_100_frames": 100 * (count[:, 1:] != count[:, :-1]).double().mean().item(),
                "energy_over_balance": summary(mean / wanted),
                "zonal_share": summary((0.5 * U.square().mean(-1) / E).mean(dim=1)),
                "zonostrophy": summary(zonostrophy(parameters, mean)),
                "rms_zonal_velocity": summary(U.square().mean(dim=(1, 2)).sqrt()),
                "largest_zonal_velocity": U.abs().max().item(),
                "change_per_frame": summary(change),
                "energy_second_half_over_first": summary(E[:, half:].mean(1) / E[:, :half].mean(1)),
            }
        )
        print(f"beta {beta}: {rows[-1]['jets']['mean']:.2f} jets, zonal share {rows[-1]['zonal_share']['mean']:.2f}")
    return rows, run.states[:, -1], run.parameters


def spectrum(states: Tensor) -> dict[str, float]:
    """Mean enstrophy of shells of width 1, over that of the strongest: what piles up at the cut would show at 20."""
    points = states.shape[-1]
    power = torch.fft.fft2(states[:, 0].double(), norm="forward").abs().square().mean(0)
    k = torch.fft.fftfreq(points, 1 / points)
    shell = (k[:, None] ** 2 + k**2).sqrt().round().long()
    total = torch.zeros(int(shell.max()) + 1, dtype=torch.float64).index_add_(0, shell.flatten(), power.flatten())
    return {f"shell {at}": (total[at] / total.max()).item() for at in (2, 5, 8, 10, 12, 14, 16, 18, 20, 21)}


def from_rest() -> list[dict[str, float]]:
    """Mean energy of 16 trajectories after times from rest, and the linear law."""
    run = simulate(SYSTEM, trajectories=16, steps=4, dt=10.0, spin_up=10.0, seed=SEED + 1)
    rows = []
    for index, values in enumerate(energy(run.states).T):
        after = 10.0 * (index + 1)
        law = 1e-6 * -math.expm1(-2 * 4e-4 * after) / (2 * 4e-4)
        error = (values.std() / 4).item()
        rows.append({"time": after, "energy": values.mean().item(), "linear_law": law, "standard_error": error})
    return rows


def gusts(state: Tensor, parameters: Tensor) -> dict[str, float]:
    """One interval from one state at its strongest jet: members by the direction of their gust, and shares."""
    given = parameters.clone()
    given[4] = PERCENT
    noise = MemberNoise.grid(SEED, 1, MEMBERS).flatten()
    start = state.expand(MEMBERS, -1, -1, -1)
    after = integrate(SYSTEM, start, given, SYSTEM.grid(), [GUST_TIME], noise=noise)[:, 0]
    before, zonal = zonal_velocity(state)[0], zonal_velocity(after)[:, 0]
    peak = int(before.argmax())
    along = noise.uniform((1,), key=(0, 0, "gusts"))[:, 0] >= 0.5
    root = before.square().mean().sqrt().item()
    return {
        "percent": PERCENT,
        "gust_over_rms_zonal_velocity": math.sqrt(2 * PERCENT / 100 * 1e-6 * GUST_TIME) / root,
        "share_along": along.double().mean().item(),
        "before": before[peak].item(),
        "mean_along": zonal[along, peak].mean().item(),
        "spread_along": zonal[along, peak].std().item(),
        "mean_against": zonal[~along, peak].mean().item(),
        "spread_against": zonal[~along, peak].std().item(),
    }


def cost() -> dict[str, float]:
    """Least CPU-milliseconds per inner step and member among 5 runs of 16 members and 200 steps."""
    steps = SYSTEM.info.dt / SYSTEM.info.inner_dt * 2
    best = math.inf
    for _ in range(5):
        begin = time.process_time()
        simulate(SYSTEM, trajectories=16, steps=1, spin_up=2 * SYSTEM.info.dt)
        best = min(best, time.process_time() - begin)
    return {"cpu_milliseconds_per_step_and_member": 1e3 * best / (16 * steps), "steps_per_state": steps / 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "beta-plane-solver-s0.json")
    options = parser.parse_args()
    begin = time.process_time()
    rows, states, parameters = climate()
    base = BETAS.index(0.9) * RUNS
    result = {
        "climate": rows,
        "enstrophy_spectrum": spectrum(states),
        "from_rest": from_rest(),
        "gusts": gusts(states[base], parameters[base]),
        "cost": cost(),
    }
    provenance = {
        "hardware": cpu_name(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seed": SEED,
        "precision": "float32",
        "shape": list(SYSTEM.info.shape),
        "inner_step": SYSTEM.info.inner_dt,
        "time_between_states": SYSTEM.info.dt,
        "spin_up": SYSTEM.info.spin_up,
        "trajectories_per_beta": RUNS,
        "states_per_trajectory": STATES,
        "cpu_seconds": time.process_time() - begin,
    }
    text = json.dumps({"job": options.out.stem, "provenance": provenance, "result": result}, indent=1)
    options.out.write_text(text + "\n")
    print(f"wrote {options.out} after {provenance['cpu_seconds']:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
