"""The claims of conditional diffusion (arXiv:2410.16415), each tried on runs that cost the same to train.

Kuramoto-Sivashinsky, L = 36, 64 points, states every 0.5 (Lyapunov time 13.2), windows of 9 states. A claim compares ways of
sampling on the same test trajectories; each figure is a mean over trajectories with its standard error, and differences are paired.
Times count states with a correlation of at least 0.8: all of them (`counted`, as published) or up to the first failure (`first`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eddycast import api, metrics

Forecasters = Mapping[str, api.Forecaster]
GAMMAS = (0.1, 0.3, 1.0)
SAMPLING = [{"sampler": sampler, "gamma": gamma} for sampler in ("ddim", "ancestral") for gamma in GAMMAS]
STEPS = 80
"""Length of the forecasts: 40 time units, 3.0 Lyapunov times."""


def truth_of(dataset: api.Dataset, trajectories: Tensor, first: int, steps: int) -> Tensor:
    """States (case, time, point) of the frames after `first`."""
    return torch.stack([dataset.read(int(one), first + 1, first + 1 + steps)[:, 0] for one in trajectories])


def figures(states: Tensor, truth: Tensor, dt: float, unit: float, std: float) -> dict[str, Any]:
    """Scores of an ensemble (member, case, time, point): means over cases, standard errors, and the values of each case."""
    fine = states.isfinite().flatten(2).all(dim=2) & (states.abs() < 5 * std).flatten(2).all(dim=2)
    leads = dt * torch.arange(1, truth.shape[1] + 1, dtype=torch.float64)
    weights = torch.full(truth.shape[2:], 1 / truth.shape[2])
    correlation = metrics.correlation(states[0], truth, weights)
    member, mean = ((each - truth).square().mean(dim=2) for each in (states[0], states.mean(dim=0)))
    rows = {
        "counted": metrics.counted_time(correlation, leads) / unit,
        "first": metrics.first_crossing_time(correlation, leads) / unit,
        "rmsd": member.mean(dim=1).sqrt() / std,
        "rmsd_mean": mean.mean(dim=1).sqrt() / std,
    }
    if len(states) > 1:
        rows["crps"] = metrics.crps(states, truth).mean(dim=(1, 2)) / std
        rows["crps_biased"] = metrics.crps(states, truth, fair=False).mean(dim=(1, 2)) / std
    cases = truth.shape[0]
    found: dict[str, Any] = {}
    for name, values in rows.items():
        found[name] = values.mean().item()
        found[f"{name}_se"] = (values.std() / math.sqrt(cases)).item() if cases > 1 else None
        found[f"{name}_cases"] = [round(value, 5) for value in values.tolist()]
    if len(states) > 1:
        variance = (len(states) + 1) / len(states) * states.var(dim=0).mean(dim=(0, 2))
        found["spread_skill"] = (variance.mean() / mean.mean()).sqrt().item()
    found |= {"members": len(states), "cases": cases, "lost": int((~fine).sum())}
    return found


def finite(value: float) -> float:
    """Infinity for what is not a number."""
    return value if math.isfinite(value) else math.inf


def paired(better: dict[str, Any], worse: dict[str, Any], name: str) -> dict[str, float]:
    """Mean of better - worse over the same cases, and its standard error."""
    difference = torch.tensor(better[f"{name}_cases"]) - torch.tensor(worse[f"{name}_cases"])
    return {"mean": difference.mean().item(), "se": (difference.std() / math.sqrt(len(difference))).item()}


def standing(dataset: api.Dataset) -> tuple[float, float]:
    """Lyapunov time, and standard deviation of the training states."""
    states = torch.cat(
        [dataset.read(part.trajectory, part.start, part.stop)[:, 0] for part in dataset.segments("train")[:256]]
    )
    return round(float(dataset.attributes["lyapunov_time"]), 1), float(states.std())


def forecast_row(
    dataset: api.Dataset,
    forecaster: api.Forecaster,
    overrides: dict[str, Any],
    *,
    cases: int,
    members: int,
    seed: int,
    steps: int = STEPS,
    split: str = "test",
) -> dict[str, Any]:
    """One forecast of the first test trajectories: scores, passes, seconds."""
    unit, std = standing(dataset)
    context = 8  # all start after the same eight states, however many a model looks at
    initial = dataset.initial(split, start=context - 1, leads=steps).select(range(cases))
    wall, cpu = time.monotonic(), time.process_time()
    made = forecaster.forecast(initial, steps=steps, members=members, seed=seed, overrides=overrides)
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    states = torch.from_numpy(made["u"].transpose("member", "init", "lead_time", "x").values)
    truth = truth_of(dataset, torch.as_tensor(made["trajectory"].values), context - 1, steps)
    return figures(states, truth, dataset.dt, unit, std) | {
        "overrides": overrides,
        "passes_forward": made.attrs["eddycast_network_passes_forward"],
        "passes_backward": made.attrs["eddycast_network_passes_backward"],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }


def rollouts(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(a) A joint model forecasts window by window or all at once, at matched passes.

    Sampler and gamma of each way are chosen on 8 trajectories of the validation split by the RMSD, then scored on test trajectories.
    """
    model, rows, trials = runs["joint"], {}, {}
    whole = {"context": 8, "rollout": "all-at-once"}
    corrected = {"sampler": "predictor-corrector", "sampler_options": {"num_corrections": 1}}
    ways: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
        "autoregressive 8|1": ({"context": 1, "overlap": 1, "num_steps": 64}, SAMPLING),
        "autoregressive 5|4": ({"context": 4, "overlap": 4, "num_steps": 32}, SAMPLING),
        "autoregressive 1|8": ({"context": 8, "overlap": 8, "num_steps": 16}, SAMPLING),
        "all at once": ({**whole, "num_steps": 16}, SAMPLING),
        "all at once, 1 correction": ({**whole, "num_steps": 16}, [corrected | {"gamma": gamma} for gamma in GAMMAS]),
        "all at once, 128 steps, 1 correction": (
            {**whole, "num_steps": 128, "stride": 4},
            [corrected | {"gamma": 0.1}],
        ),
    }
    for name, (fixed, choices) in ways.items():
        if len(choices) > 1:
            tried = [
                forecast_row(dataset, model, fixed | choice, cases=6, members=1, seed=seed, split="valid")
                for choice in choices
            ]
            trials[name] = [{"choice": choice, "rmsd": row["rmsd"]} for choice, row in zip(choices, tried, strict=True)]
            best = min(range(len(choices)), key=lambda number: finite(tried[number]["rmsd"]))
        else:
            best = 0
        rows[name] = forecast_row(dataset, model, fixed | choices[best], cases=16, members=2, seed=seed)
        print(
            f"  {name:<40} {rows[name]['first']:.2f} LT, passes {rows[name]['passes_forward']:.0f}, {choices[best]}",
            flush=True,
        )
    best = max((row for name, row in rows.items() if name.startswith("auto")), key=lambda row: row["first"])
    other = max((row for name, row in rows.items() if name.startswith("all")), key=lambda row: row["first"])
    return {"forecast_rows": rows, "trials": trials, "difference": paired(best, other, "first"), "note": "done"}


def splits(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(b) One universal model for every P|C, beside plain amortised models trained for one each at the same cost."""
    rows = {}
    for name, model in runs.items():
        if name == "universal":
            for known in (1, 2, 4, 6, 8):
                overrides = {"context": known, "overlap": known}
                rows[f"universal {9 - known}|{known}"] = forecast_row(
                    dataset, model, overrides, cases=24, members=4, seed=seed
                )
        else:
            assert model.run is not None
            known = model.run.emulator.context
            rows[f"plain {9 - known}|{known}"] = forecast_row(dataset, model, {}, cases=24, members=4, seed=seed)
    for name, row in rows.items():
        print(f"  {name:<40} {row['first']:.2f} LT, lost {row['lost']}", flush=True)
    return {"forecast_rows": rows, "note": "done"}


def baselines(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(e) Forecasts of diffusion models beside those trained on the mean squared error, 16 members each."""
    rows = {}
    for name, model in runs.items():
        members = 1 if name in ("MSE U-Net", "MSE FNO") else 16
        overrides = {"context": 1, "overlap": 1, "num_steps": 32} if name == "joint" else {}
        rows[name] = forecast_row(dataset, model, overrides, cases=24, members=members, seed=seed)
        print(f"  {name:<40} {rows[name]['first']:.2f} LT", flush=True)
    system = api.load("system:kuramoto-sivashinsky")
    for name, model, overrides in (
        ("solver, oracle", system, {}),
        ("solver on half the points", system, {"grid": 32}),
        ("solver, initial error 0.01", system, {"perturbation": 0.01}),
        ("persistence", api.load("baseline:persistence"), {}),
        ("climatology", api.load("baseline:climatology"), {}),
    ):
        members = 16 if name in ("climatology", "solver, initial error 0.01") else 1
        rows[name] = forecast_row(dataset, model, overrides, cases=24, members=members, seed=seed)
    return {"forecast_rows": rows, "note": "done"}


def lengths(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Seconds and peak memory of both ways of sampling against the length of the forecast, one member at a time."""
    import resource

    model, rows = runs["joint"], {}
    for steps in (24, 48, 96, 192):
        for name, overrides in (
            ("autoregressive", {"context": 4, "overlap": 4, "num_steps": 16}),
            ("all at once", {"context": 4, "rollout": "all-at-once", "num_steps": 16, "chunk": 1024}),
        ):
            start = time.monotonic()
            made = model.forecast(
                dataset.initial("test", start=7, leads=steps).select(range(1)),
                steps=steps,
                members=4,
                seed=seed,
                overrides=overrides,
            )
            rows[f"{name}, {steps} states"] = {
                "steps": steps,
                "seconds": round(time.monotonic() - start, 2),
                "passes_forward": made.attrs["eddycast_network_passes_forward"],
                "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            }
    return {"length_rows": rows, "note": "done"}


PROTOCOLS = {
    "cd-rollouts": rollouts,
    "cd-splits": splits,
    "cd-baselines": baselines,
    "cd-lengths": lengths,
}
