"""Our filters beside DAPPER's on DAPPER's own twin experiments, into results/dapper-twins.json; some 5 CPU-minutes.

    python validation/dapper_twins.py [--cycles 300] [--seeds 6]

Same truth, same observations, same first ensemble for each pair; rotations and perturbations are drawn by each program itself. The score is
the root-mean-square error of the analysis mean, averaged over cycles after a burn-in, of each seed; reported are the means over seeds and
the difference, with the standard error that the two scores have over seeds, and with that of the paired differences. The reference values
are those that DAPPER's files state for long runs.
The speed is that of one local analysis of Kuramoto-Sivashinsky, 128 points, 16 members, on the same forecasts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eddycast.files import write_json
from eddycast.recipes.record import describe_hardware

TAPER = 1.82
"""DAPPER multiplies its radii by this to get the half-width of the taper."""


@dataclass(frozen=True)
class Pair:
    """A method of DAPPER and ours with the same settings."""

    name: str
    twin: str
    dapper: str
    theirs: dict[str, Any]
    method: str
    ours: dict[str, Any]
    stated: float  # for long runs, in DAPPER's files


def local(radius: float, inflation: float, cells: int) -> dict[str, Any]:
    return {"radius": 2 * TAPER * radius, "inflation": inflation, "rotate": True, "cells": cells}


PAIRS = (
    Pair("Lorenz-63, ETKF 10", "Lorenz63.sakov2012", "EnKF", {"upd_a": "Sqrt", "N": 10, "infl": 1.02, "rot": True},
         "etkf", {"inflation": 1.02, "rotate": True}, 0.60),
    Pair("Lorenz-63, perturbed observations 100", "Lorenz63.sakov2012", "EnKF", {"upd_a": "PertObs", "N": 100, "infl": 1.01},
         "enkf", {"inflation": 1.01}, 0.56),
    Pair("Lorenz-96, ETKF 24", "Lorenz96.sakov2008", "EnKF", {"upd_a": "Sqrt", "N": 24, "infl": 1.013, "rot": True},
         "etkf", {"inflation": 1.013, "rotate": True}, 0.18),
    Pair("Lorenz-96, LETKF 7", "Lorenz96.sakov2008", "LETKF", {"N": 7, "infl": 1.04, "loc_rad": 4, "rot": True},
         "letkf", local(4, 1.04, 2), 0.22),
    Pair("Kuramoto-Sivashinsky, ETKF 20", "KS.bocquet2019", "EnKF", {"upd_a": "Sqrt", "N": 20, "infl": 1.03, "rot": True},
         "etkf", {"inflation": 1.03, "rotate": True}, 0.115),
    Pair("Kuramoto-Sivashinsky, LETKF 16", "KS.bocquet2019", "LETKF", {"N": 16, "infl": 1.02, "loc_rad": 51 / TAPER, "rot": True},
         "letkf", local(51 / TAPER, 1.02, 4), 0.11),
)  # fmt: skip


def import_dapper() -> Any:
    """DAPPER, which makes a folder for its data wherever it is imported: in a temporary place."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        try:
            import dapper
        finally:
            os.chdir(here)
    dapper.rc.liveplotting = False
    return dapper


def twin_of(name: str, cycles: int) -> Any:
    """A hidden Markov model of DAPPER with another length; the modules share theirs, hence the copy."""
    import importlib

    module = importlib.import_module(f"dapper.mods.{name}")
    twin = module.HMM.copy()
    twin.tseq.BurnIn = 0
    twin.tseq.Ko = cycles - 1
    return twin


def score(xp: Any, twin: Any, truth: Any, seen: Any, seed: int, burn_in: int) -> tuple[float, float, float]:
    """Error and spread of the analyses after the burn-in, and CPU-seconds, of one method of DAPPER's kind."""
    import dapper

    dapper.set_seed(5000 + seed)  # the first ensemble is the same for both
    begin = time.process_time()
    xp.assimilate(twin, truth, seen)
    seconds = time.process_time() - begin
    return float(xp.stats.err.rms.a[burn_in:].mean()), float(xp.stats.spread.rms.a[burn_in:].mean()), seconds


def compared(pair: Pair, cycles: int, burn_in: int, seeds: int) -> dict[str, Any]:
    """One row: scores of both over seeds."""
    import dapper
    import dapper.da_methods as methods
    from dapper_plug import Eddycast

    rows = []
    for seed in range(seeds):
        twin = twin_of(pair.twin, cycles)
        dapper.set_seed(3000 + seed)
        truth, seen = twin.simulate()
        theirs = getattr(methods, pair.dapper)(**pair.theirs)
        ours = Eddycast(N=pair.theirs["N"], method=pair.method, settings=pair.ours, seed=seed)
        rows.append([*score(theirs, twin, truth, seen, seed, burn_in), *score(ours, twin, truth, seen, seed, burn_in)])
    table = np.array(rows)
    difference = table[:, 3] - table[:, 0]
    paired = float(difference.std(ddof=1) / seeds**0.5)
    means = table.mean(axis=0)
    deviation = table.std(axis=0, ddof=1) / seeds**0.5
    error = float(np.hypot(deviation[0], deviation[3]))
    return {
        "pair": pair.name,
        "stated": pair.stated,
        "dapper": {"rmse": means[0], "standard_error": deviation[0], "spread": means[1], "cpu_seconds": means[2]},
        "eddycast": {"rmse": means[3], "standard_error": deviation[3], "spread": means[4], "cpu_seconds": means[5]},
        "difference": float(difference.mean()),
        "paired_standard_error": paired,
        "standard_error": error,
        "within_two_standard_errors": bool(abs(difference.mean()) <= 2 * error),
        "per_seed": {"dapper": table[:, 0].tolist(), "eddycast": table[:, 3].tolist()},
    }


def letkf_speed(repeats: int = 30) -> dict[str, Any]:
    """CPU-milliseconds of one local analysis by both on the same ensembles, in turns: median of each."""
    from dapper.da_methods.ensemble import local_analyses
    from dapper_plug import DapperObservations, ring

    from eddycast.assimilation import LETKFOptions
    from eddycast.assimilation.updates import whitened_departures
    from eddycast.noise import MemberNoise

    twin = twin_of("KS.bocquet2019", 2)
    generator = np.random.default_rng(0)
    truth, seen = twin.simulate()
    times: dict[str, list[float]] = {"dapper": [], "cells 4": [], "cells 1": []}
    noise = MemberNoise.grid(0, 1, 16)
    largest = 0.0
    for _ in range(repeats):
        ensemble = truth[-1] + 0.3 * generator.standard_normal((16, twin.Nx))
        begin = time.process_time()
        batch, taper = twin.Obs(1).localizer(51 / TAPER, "x2y", "GC")
        theirs, _ = local_analyses(ensemble.copy(), twin.Obs(1)(ensemble), twin.Obs(1).noise.C, seen[1], batch, taper)
        times["dapper"].append(time.process_time() - begin)
        states = torch.from_numpy(ensemble)[:, None, None, None]
        for cells in (4, 1):
            options = LETKFOptions(radius=2.0 * 51, cells=cells)
            begin = time.process_time()
            measurement = DapperObservations(twin, seen).seen(1, 2)
            departures = whitened_departures(states, measurement)
            ours = options.update(departures, measurement, ring(twin.Nx), noise=noise, key=(0, 0))(states)
            times[f"cells {cells}"].append(time.process_time() - begin)
            if cells == 4:
                largest = max(largest, float(np.abs(ours[:, 0, 0, 0].numpy() - theirs).max()))
    milliseconds = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    return {
        "milliseconds": milliseconds,
        "speedup": {name: milliseconds["dapper"] / milliseconds[name] for name in ("cells 4", "cells 1")},
        "largest_difference": largest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=300, help="analyses of each run; 300")
    parser.add_argument("--burn-in", type=int, default=60, help="of them before scores count; 60")
    parser.add_argument("--seeds", type=int, default=6, help="truths with observations of their own; 6")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "dapper-twins.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, cpu = time.monotonic(), time.process_time()
    dapper = import_dapper()
    rows = []
    for pair in PAIRS:
        rows.append(compared(pair, options.cycles, options.burn_in, options.seeds))
        row = rows[-1]
        print(
            f"{pair.name}: DAPPER {row['dapper']['rmse']:.4f}, eddycast {row['eddycast']['rmse']:.4f}, difference {row['difference']:+.4f} "
            f"± {row['standard_error']:.4f} (paired {row['paired_standard_error']:.4f})"
        )
    speed = letkf_speed()
    print(f"LETKF: {speed}")
    provenance = describe_hardware("cpu") | {
        "seed": 3000,
        "seeds": options.seeds,
        "cycles": options.cycles,
        "burn_in": options.burn_in,
        "dapper": dapper.__version__,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        options.out, {"job": "dapper-twins", "provenance": provenance, "result": {"pairs": rows, "letkf": speed}}
    )
    print(f"{provenance['cpu_seconds']} CPU-seconds, {options.out.name}")


if __name__ == "__main__":
    main()
