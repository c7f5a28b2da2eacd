"""The claims of conditional diffusion (arXiv:2410.16415), each tried on runs that cost the same to train.

Kuramoto-Sivashinsky, L = 36, 64 points, states every 0.5 (Lyapunov time 13.2), windows of 9 states. A claim compares ways of
sampling on the same test trajectories; each figure is a mean over trajectories with its standard error, and differences are paired.
Times count states with a correlation of at least 0.8: all of them (`counted`, as published) or up to the first failure (`first`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from conditional_costs import lengths
from conditional_unseen import unseen
from protocols import stability
from torch import Tensor

from eddycast import api, metrics
from eddycast.api.settings import configured
from eddycast.errors import InputError

Forecasters = Mapping[str, api.Forecaster]
GAMMAS = (0.1, 0.3, 1.0)
SAMPLING = [{"sampler": sampler, "gamma": gamma} for sampler in ("ddim", "ancestral") for gamma in GAMMAS]
STEPS = 80
"""Length of the forecasts: 40 time units, 3.0 Lyapunov times."""


def truth_of(dataset: api.Dataset, trajectories: Tensor, first: int, steps: int) -> Tensor:
    """States (case, time, point) of the frames after `first`."""
    return torch.stack([dataset.read(int(one), first + 1, first + 1 + steps)[:, 0] for one in trajectories])


def figures(states: Tensor, truth: Tensor, dt: float, unit: float, std: float, trajectories: Tensor) -> dict[str, Any]:
    """Scores of an ensemble (member, case, time, point): means over cases, standard errors, and the values of each case.

    Standard errors are those over `trajectories` (case,): blocks of one trajectory share their truth and do not count as several.
    """
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
        each = torch.stack([values[trajectories == one].mean() for one in trajectories.unique()])
        found[f"{name}_se"] = (each.std() / math.sqrt(len(each))).item() if len(each) > 1 else None
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
    numbers = torch.as_tensor(made["trajectory"].values)
    truth = truth_of(dataset, numbers, context - 1, steps)
    return figures(states, truth, dataset.dt, unit, std, numbers) | {
        "overrides": overrides,
        "passes_forward": made.attrs["eddycast_network_passes_forward"],
        "passes_backward": made.attrs["eddycast_network_passes_backward"],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }


def rollouts(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(a) A joint model forecasts window by window or all at once, at matched passes.

    Sampler and gamma of each way are chosen on 4 to 6 trajectories of the validation split by the RMSD, then scored on test trajectories.
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
        "all at once, 128 steps, stride 4, 1 correction": (
            {**whole, "num_steps": 128, "stride": 4},
            [corrected | {"gamma": 0.1}],
        ),
    }
    for name, (fixed, choices) in ways.items():
        if seed and "128" in name:
            continue  # four minutes, shown once
        if len(choices) > 1:
            tried = [
                forecast_row(dataset, model, fixed | choice, cases=4, members=1, seed=seed, split="valid")
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
        overrides = JOINT_FORECAST if name == "joint" else {}
        rows[name] = forecast_row(dataset, model, overrides, cases=12, members=members, seed=seed)
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
        rows[name] = forecast_row(dataset, model, overrides, cases=12, members=members, seed=seed)
    return {"forecast_rows": rows, "note": "done"}


FRAMES, NOISE, FRACTIONS = 40, 0.05, (0.02, 0.05, 0.15, 0.5)
"""Of the offline task: 20 time units, errors of 0.05 standard deviations, at 1.3 to 32 of 64 points in each frame."""
GUIDED_STEPS = 32
AUTOREGRESSIVE = {"rollout": "autoregressive", "overlap": 4, "sampler": "ancestral", "num_steps": GUIDED_STEPS}
AT_ONCE = {"rollout": "all-at-once", "stride": 2, "sampler": "ancestral", "num_steps": GUIDED_STEPS}
JOINT_AUTOREGRESSIVE = {"rollout": "autoregressive", "overlap": 2, "sampler": "ddim", "num_steps": GUIDED_STEPS}
"""Sampler and overlap were chosen on the validation split, at 15 % of the points."""
MOMENTS = {"iterations": 3}
WIDTHS = (0.01, 0.03, 0.1, 0.3)


JOINT_FORECAST = {"context": 4, "overlap": 4, "sampler": "ddim", "num_steps": 32, "gamma": 0.1}
"""What (a) chose for windows 5|4: the best per pass."""


def with_settings(forecaster: api.Forecaster, settings: dict[str, Any]) -> api.Forecaster:
    """The same run with other settings of its sampler, for forecasts inside of assimilation."""
    assert forecaster.run is not None
    return replace(forecaster, run=replace(forecaster.run, emulator=configured(forecaster.run.emulator, settings)))


def analysis_row(
    dataset: api.Dataset,
    forecaster: api.Forecaster,
    observations: api.Observations,
    method: str,
    settings: dict[str, Any],
    *,
    members: int,
    seed: int,
    **task: Any,
) -> dict[str, Any]:
    """One analysis (or online forecasts) of stored observations: scores over all frames, passes, seconds."""
    unit, std = standing(dataset)
    wall, cpu = time.monotonic(), time.process_time()
    try:
        made = forecaster.assimilate(
            observations, method=method, members=members, seed=seed, overrides=settings, **task
        )
    except InputError as error:
        return {"failed": str(error), "rmsd": math.inf}
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    states = torch.from_numpy(made["u"].transpose("member", "init", "lead_time", "x").values)
    frames, steps = torch.as_tensor(made["frame"].values), states.shape[2]
    numbers = torch.as_tensor(made["trajectory"].values)
    truth = torch.stack(
        [dataset.read(int(one), int(at), int(at) + steps)[:, 0] for one, at in zip(numbers, frames, strict=True)]
    )
    quarter = states.shape[2] // 4
    late = (states.mean(dim=0) - truth)[:, -quarter:].square().mean().sqrt().item() / std
    return figures(states, truth, dataset.dt, unit, std, numbers) | {
        "method": method,
        "settings": settings,
        "rmse_of_mean_last_quarter": late,
        "passes_forward": made.attrs["eddycast_network_passes_forward"],
        "passes_backward": made.attrs["eddycast_network_passes_backward"],
        "seconds": round(wall, 1),
        "cpu_seconds": round(cpu, 1),
    }


def offline_given(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(c) as published: no errors, an error of 0.01 assumed, and the first eight states observed completely."""
    return offline(dataset, runs, seed, noise=0.0, stated_noise=0.01, complete=8)


def offline(dataset: api.Dataset, runs: Forecasters, seed: int, noise: float = NOISE, **more: Any) -> dict[str, Any]:
    """(c) Analyses of the same stored observations, window by window or all at once, from sparse to dense; from a cold start.

    gamma is chosen for each method and share of points on 4 trajectories of the validation split.
    """
    rows, trials = {}, {}
    solver = api.load("system:kuramoto-sivashinsky")
    hybrid = AUTOREGRESSIVE | ({"given": 4} if "complete" in more else {})
    ways = {
        "joint, autoregressive": (runs["joint"], "sda", JOINT_AUTOREGRESSIVE, WIDTHS),
        "joint, all at once": (runs["joint"], "sda", AT_ONCE, WIDTHS),
        "joint, all at once, 1 correction": (
            runs["joint"],
            "sda",
            AT_ONCE | {"corrections": 1, "sampler": "predictor-corrector"},
            WIDTHS,
        ),
        "hybrid (universal, autoregressive)": (runs["universal"], "sda", hybrid, WIDTHS),
        "universal, all at once": (runs["universal"], "sda", AT_ONCE, WIDTHS),
        "hybrid, MMPS": (runs["universal"], "mmps", hybrid | MOMENTS, ()),
        "interpolation": (runs["universal"], "interpolation", {}, ()),
        "ETKS, perfect model": (solver, "etkf", {"inflation": 1.0, "passes": 4}, ()),
    }
    for fraction in FRACTIONS:
        common: dict[str, Any] = {
            "fraction": fraction,
            "noise": noise,
            "steps": FRAMES,
            "start": 20,
            "seed": seed,
            **more,
        }
        tuning = api.observe(dataset, split="valid", trajectories=4, **common)
        observations = api.observe(dataset, split="test", trajectories=8, **common)
        for name, (model, method, fixed, widths) in ways.items():
            label, settings = f"{name} @ {fraction:g}", fixed
            if widths:
                tried = [
                    analysis_row(dataset, model, tuning, method, fixed | {"gamma": gamma}, members=1, seed=seed)["rmsd"]
                    for gamma in widths
                ]
                trials[label] = dict(zip(map(str, widths), tried, strict=True))
                settings = fixed | {"gamma": widths[min(range(len(widths)), key=lambda number: finite(tried[number]))]}
            members = 64 if method == "etkf" else 4
            rows[label] = analysis_row(dataset, model, observations, method, settings, members=members, seed=seed)
            tell(label, rows[label])
    return {"analysis_rows": rows, "trials": trials, "note": "done"}


def online(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(d) Blocks of 10 frames with 10 % of the points, and a forecast to frame 60 from each."""
    observations = api.observe(
        dataset, split="test", trajectories=4, fraction=0.1, noise=NOISE, steps=40, start=20, seed=seed
    )
    task: dict[str, Any] = {"mode": "online", "block": 10, "forecast": 60}
    joint = with_settings(runs["joint"], {"context": 4, "overlap": 4, "sampler": "ddim", "num_steps": 32, "gamma": 0.1})
    universal = with_settings(runs["universal"], {"context": 1, "overlap": 1})
    ways = {
        "joint, autoregressive": (joint, "sda", JOINT_AUTOREGRESSIVE | {"gamma": 0.1}, 4),
        "joint, all at once": (joint, "sda", AT_ONCE | {"gamma": 0.1}, 4),
        "joint, all at once, 1 correction": (
            joint,
            "sda",
            AT_ONCE | {"gamma": 0.1, "corrections": 1, "sampler": "predictor-corrector"},
            4,
        ),
        "hybrid (universal, autoregressive)": (universal, "sda", AUTOREGRESSIVE | {"gamma": 0.03}, 16),
        "hybrid, MMPS": (universal, "mmps", AUTOREGRESSIVE | MOMENTS, 16),
        "ETKS on the universal model": (universal, "etkf", {}, 64),
        "interpolation, then the universal model": (universal, "interpolation", {}, 16),
        "ETKS, perfect model": (api.load("system:kuramoto-sivashinsky"), "etkf", {"inflation": 1.0, "passes": 4}, 64),
    }
    rows = {}
    for name, (model, method, settings, members) in ways.items():
        rows[name] = analysis_row(dataset, model, observations, method, settings, members=members, seed=seed, **task)
        tell(name, rows[name])
    return {"analysis_rows": rows, "note": "done"}


def hybrid(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """What guidance does in the hybrid: previous states by input or by guidance, observations by guidance or not at all, over gamma."""
    observations = api.observe(
        dataset, split="test", trajectories=8, fraction=0.1, noise=NOISE, complete=4, steps=FRAMES, start=20, seed=seed
    )
    rows, model = {}, runs["universal"]
    for previous in ("input", "guidance"):
        fixed = AUTOREGRESSIVE | {"previous": previous, "given": 4}
        for gamma in (0.01, 0.03, 0.1, 0.3, 1.0):
            name = f"previous states by {previous}, observations by guidance, gamma {gamma:g}"
            settings = fixed | {"gamma": gamma}
            rows[name] = analysis_row(dataset, model, observations, "sda", settings, members=4, seed=seed)
            tell(name, rows[name])
        name = f"previous states by {previous}, no observations"
        rows[name] = analysis_row(
            dataset, model, observations, "sda", fixed | {"observed": "none", "gamma": 0.1}, members=4, seed=seed
        )
        tell(name, rows[name])
    return {"analysis_rows": rows, "note": "done"}


HARD: dict[str, dict[str, Any]] = {
    "10 % random": {"fraction": 0.1},
    "3 % random": {"fraction": 0.03},
    "26 fixed sensors": {"sensors": 26},
    "8 fixed sensors": {"sensors": 8},
}
HARD_AT_ONCE = {"rollout": "all-at-once", "stride": 4, "sampler": "ancestral", "num_steps": 32, "gamma": 0.03}
HARD_HYBRID = {"rollout": "autoregressive", "overlap": 1, "sampler": "ancestral", "num_steps": 16, "gamma": 0.03}
"""Chosen on 100 frames of one training trajectory, among gamma 0.03 and 0.1, overlaps 1 and 3, with and without a correction."""


def hard(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """640 states at L = 64, 256 points, errors of 0.1 standard deviations: diffusion beside filter and smoother with the perfect model."""
    rows = {}
    solver = api.load("system:kuramoto-sivashinsky")
    for name, where in HARD.items():
        observations = api.observe(dataset, split="test", trajectories=1, noise=0.1, steps=640, seed=seed, **where)
        for label, (model, method, settings, members, mode) in {
            "universal, all at once": (runs["universal"], "sda", HARD_AT_ONCE, 16, "smooth"),
            "hybrid (universal, autoregressive)": (runs["universal"], "sda", HARD_HYBRID, 16, "smooth"),
            "ETKF, perfect model": (solver, "etkf", {"inflation": 1.02}, 100, "filter"),
            "interpolation": (runs["universal"], "interpolation", {}, 2, "smooth"),
        }.items():
            if label.startswith("hybrid") and name not in ("10 % random", "26 fixed sensors"):
                continue  # to save time: it has lost track already
            row = analysis_row(dataset, model, observations, method, settings, members=members, seed=seed, mode=mode)
            rows[f"{label} @ {name}"] = row
            tell(f"{label} @ {name}", row)
    return {"analysis_rows": rows, "note": "done"}


def tell(name: str, row: dict[str, Any]) -> None:
    told = row.get("failed") or (
        f"rmsd {row['rmsd']:.3f}, of the mean {row['rmsd_mean']:.3f}, spread / error {row.get('spread_skill', 0):.2f}, "
        f"{row['cpu_seconds']:.0f} s"
    )
    print(f"  {name:<60} {told}", flush=True)


LONG = {"universal": 3000, "MSE U-Net": 3000, "MSE FNO": 3000, "PDE-Refiner": 1000, "ACDM": 300, "joint": 200}
"""Steps of long rollouts, as far as their cost allows: training saw windows of 9 states, trajectories of 320."""


def long_runs(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Stability far beyond the training length: who leaves five standard deviations, and spectra by band over the last quarter."""
    rows = {}
    for name, model in runs.items():
        settings = (
            {"context": 4, "overlap": 4, "sampler": "ddim", "num_steps": 32, "gamma": 0.1} if name == "joint" else {}
        )
        row = stability(
            dataset, with_settings(model, settings), seed, guard=True, steps=LONG[name], tail=LONG[name] // 4
        )
        errors = row.get("spectrum_error_by_mode", [])
        third = max(1, len(errors) // 3)
        row["bands"] = [
            max(map(abs, part), default=None)
            for part in (errors[:third], errors[third : 2 * third], errors[2 * third :])
        ]
        rows[name] = row
        print(f"  {name:<20} blown up {row['blown_up']} of {row['cases']}, bands {row['bands']}", flush=True)
    return {"long_rows": rows, "note": "done"}


PROTOCOLS = {
    "cd-long": long_runs,
    "cd-rollouts": rollouts,
    "cd-splits": splits,
    "cd-baselines": baselines,
    "cd-lengths": lengths,
    "cd-offline": offline,
    "cd-offline-given": offline_given,
    "cd-online": online,
    "cd-hybrid": hybrid,
    "cd-hard": hard,
    "cd-unseen": unseen,
}
