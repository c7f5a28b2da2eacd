"""The claims of latent diffusion (arXiv:2507.02608), each tried on our own Euler data with runs that cost about the same to train.

Compressible Euler, multi-quadrants, periodic, 64 x 64 points, 26 states every 0.06 (every fourth of 101, as published); autoencoders that
keep one number of 5, 20 or 80 (downsampling 8). Forecasts start from the first state of 32 test trajectories, unless said otherwise.
Horizons are leads 1, 1-5, 6-15 and 16-25, which are 1:20, 21:60 and 61:100 in steps of the simulation.

Figures of a case are means over fields and leads of a horizon; every row gives their mean over cases with its standard error, and
differences are paired by case. VRMSE is that of one member and of the mean of all; CRPS is fair, in standard deviations of the field, so
that ensembles of different size may be compared.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from eddycast import api, metrics
from eddycast.emulators import Autoencoding, NeuralSolver

Forecasters = Mapping[str, api.Forecaster]
HORIZONS = {"1": (1, 1), "1-5": (1, 5), "6-15": (6, 15), "16-25": (16, 25)}
GIVEN = "1:5,6:15,16:25"
CASES, STEPS = 32, 25
MEMBERS = 16
PIXEL_MEMBERS = 2
"""Diffusion with pixels costs many times more: its ensembles are smaller."""
FEWER = 8
"""Members where one run is compared with itself."""


def states_of(made: xr.Dataset, names: tuple[str, ...]) -> Tensor:
    """(member, case, lead, field, *space)."""
    dims = [dim for dim in made[names[0]].dims if dim not in ("init", "member", "lead_time")]
    order = ("member", "init", "lead_time", *dims)
    return torch.from_numpy(np.stack([made[name].transpose(*order).values for name in names], axis=3))


def truth_of(dataset: api.Dataset, made: xr.Dataset) -> Tensor:
    """Verifying states, (case, lead, field, *space)."""
    cases = zip(made["trajectory"].values.tolist(), made["frame"].values.tolist(), strict=True)
    steps = made.sizes["lead_time"]
    return torch.stack([dataset.read(one, at + 1, at + 1 + steps) for one, at in cases])


def field_std(dataset: api.Dataset) -> Tensor:
    """Standard deviation of each field over training states, (field,)."""
    parts = [dataset.read(part.trajectory, part.start, part.stop) for part in dataset.segments("train")[:64]]
    states = torch.cat(parts).transpose(0, 1).flatten(1)
    return states.std(dim=1)


def by_case(states: Tensor, truth: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Scores of each case, lead and field, (case, lead, field)."""
    axes = truth.ndim - 3
    weights = torch.full(truth.shape[3:], 1 / math.prod(truth.shape[3:]))
    rows = {
        "vrmse_member": metrics.vrmse(states[0], truth, weights),
        "vrmse_mean": metrics.vrmse(states.mean(dim=0), truth, weights),
    }
    space = tuple(range(-axes, 0))
    if len(states) > 1:
        rows["crps"] = metrics.crps(states, truth).mean(dim=space) / std
        low, high = (torch.quantile(states, q, dim=0) for q in (0.1, 0.9))
        rows["inside_80"] = ((truth >= low) & (truth <= high)).double().mean(dim=space)
        variance = (len(states) + 1) / len(states) * states.var(dim=0).mean(dim=space)
        rows["variance"] = variance / std**2
        rows["squared_error"] = (states.mean(dim=0) - truth).square().mean(dim=space) / std**2
    else:
        rows["crps"] = (states[0] - truth).abs().mean(dim=space) / std
    return rows


def summary(rows: dict[str, Tensor], cases: bool = True) -> dict[str, Any]:
    """Means of the cases over each horizon with standard errors, the values of each case, and spread over skill."""
    found: dict[str, Any] = {}
    for label, (first, last) in HORIZONS.items():
        here = {name: values[:, first - 1 : last].mean(dim=(1, 2)) for name, values in rows.items()}
        part: dict[str, Any] = {}
        for name in ("vrmse_member", "vrmse_mean", "crps", "inside_80"):
            if name in here:
                values = here[name]
                part[name] = values.mean().item()
                part[f"{name}_se"] = (values.std() / math.sqrt(len(values))).item()
                if cases:
                    part[f"{name}_cases"] = [round(value, 5) for value in values.tolist()]
        if "variance" in here:
            part["spread_skill"] = (here["variance"].mean() / here["squared_error"].mean()).sqrt().item()
        found[label] = part
    return found


def paired(one: dict[str, Any], other: dict[str, Any], horizon: str, name: str) -> dict[str, float]:
    """Mean over cases of one - other, its standard error, and the ratio of the means."""
    first, second = (torch.tensor(row["horizons"][horizon][f"{name}_cases"]) for row in (one, other))
    difference = first - second
    return {
        "mean": difference.mean().item(),
        "se": (difference.std() / math.sqrt(len(difference))).item(),
        "ratio": (first.mean() / second.mean()).item(),
    }


def published_scores(made: xr.Dataset, dataset: api.Dataset) -> dict[str, Any]:
    """What `eddycast evaluate --horizons` says, mean over fields, by horizon and score."""
    scores = api.evaluate(made, truth=dataset, horizons=GIVEN)
    means = scores.data["horizon_means"].sel(averaging="pooled")
    found: dict[str, Any] = {}
    for label in means["horizon"].values:
        row = means.sel(horizon=label)
        found[str(label)] = {
            str(name): round(float(row.sel(score=name)), 5)
            for name in row["score"].values
            if math.isfinite(float(row.sel(score=name)))
        }
    return found


def forecast_row(
    dataset: api.Dataset,
    forecaster: api.Forecaster,
    std: Tensor,
    *,
    members: int,
    seed: int,
    overrides: dict[str, Any] | None = None,
    start: int = 0,
    split: str = "test",
    published: bool = True,
) -> dict[str, Any]:
    """One forecast: scores of cases and horizons, passes and seconds."""
    initial = dataset.initial(split, start=start, leads=1).select(range(CASES))
    steps = min(STEPS, len(dataset.segments(split)[0]) - 1 - start)
    wall, cpu = time.monotonic(), time.process_time()
    made = forecaster.forecast(initial, steps=steps, members=members, seed=seed, overrides=overrides or {})
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    rows = by_case(states_of(made, dataset.field_names), truth_of(dataset, made), std)
    return {
        "horizons": summary(rows),
        "published": published_scores(made, dataset) if published else None,
        "members": members,
        "overrides": overrides or {},
        "passes_forward": made.attrs["eddycast_network_passes_forward"],
        "cpu_seconds": round(cpu, 1),
        "seconds": round(wall, 1),
        "milliseconds_per_state": round(1e3 * cpu / (members * CASES * steps), 2),
    }


def members_of(forecaster: api.Forecaster) -> int:
    """One where all members are the same; fewer where they are dear."""
    run = forecaster.run
    assert run is not None
    if isinstance(run.model, NeuralSolver) and run.model.config.score == "squared-error":
        return 1
    return MEMBERS if run.autoencoder is not None or isinstance(run.model, NeuralSolver) else PIXEL_MEMBERS


def emulation(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(i), (ii), (iii): reconstructions, every emulator, and the simple baselines, on the same cases."""
    std = field_std(dataset)
    rows: dict[str, Any] = {}
    for name, forecaster in runs.items():
        assert forecaster.run is not None
        if isinstance(forecaster.run.model, Autoencoding):
            made = forecaster.reconstruct(dataset, steps=STEPS).isel(init=slice(CASES))
            row = by_case(states_of(made, dataset.field_names), truth_of(dataset, made), std)
            rows[name] = {"horizons": summary(row), "published": published_scores(made, dataset), "members": 1}
        else:
            rows[name] = forecast_row(dataset, forecaster, std, members=members_of(forecaster), seed=seed)
        say(name, rows[name])
    if seed == 0:
        for name, members in (("baseline:persistence", 1), ("baseline:climatology", MEMBERS)):
            rows[name] = forecast_row(dataset, api.load(name), std, members=members, seed=seed)
            say(name, rows[name])
        coarse = {"grid": "32x32"}
        rows["solver on 32 x 32 points"] = forecast_row(
            dataset, api.load(f"system:{dataset.attributes['system']}"), std, members=1, seed=seed, overrides=coarse
        )
        say("solver on 32 x 32 points", rows["solver on 32 x 32 points"])
    contrasts = {}
    for rate in ("5", "20", "80"):
        diffusion, solver = rows.get(f"latent diffusion /{rate}"), rows.get(f"latent solver /{rate}")
        if diffusion and solver:
            contrasts[f"diffusion less solver /{rate}"] = {
                label: {name: paired(diffusion, solver, label, name) for name in ("vrmse_mean", "crps")}
                for label in HORIZONS
            }
    for pixel, latent in (("pixel diffusion", "latent diffusion /20"), ("pixel solver", "latent solver /20")):
        if pixel in rows and latent in rows:
            contrasts[f"{latent} less {pixel}"] = {
                label: {name: paired(rows[latent], rows[pixel], label, name) for name in ("vrmse_member", "crps")}
                for label in HORIZONS
            }
    return {"latent_rows": rows, "contrasts": contrasts, "note": "done"}


def say(name: str, row: dict[str, Any]) -> None:
    parts = [f"{label}: {part['vrmse_mean']:.3f}/{part['crps']:.3f}" for label, part in row["horizons"].items()]
    print(
        f"  {name:<28} VRMSE of the mean / CRPS  {'  '.join(parts)}  {row.get('milliseconds_per_state', '')} ms",
        flush=True,
    )


def contexts(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(iv) One model with 1, 2 and 3 known states, lead 1 being the same frame for all."""
    std, rows = field_std(dataset), {}
    for name, forecaster in runs.items():
        for context in (1, 2, 3):
            told = {"context": context, "overlap": context}
            members = min(FEWER, members_of(forecaster))
            label = f"{name}, context {context}"
            rows[label] = forecast_row(
                dataset, forecaster, std, members=members, seed=seed, overrides=told, start=2, published=False
            )
            say(label, rows[label])
    return {"latent_rows": rows, "note": "done"}


def costs(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(iii) Seconds per state and member, generation and decoding, of all emulators in turns, 4 cases of 4 members each turn."""
    initial = dataset.initial("test", start=0, leads=STEPS).select(range(4))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(3):
        for name, forecaster in runs.items():
            begun = time.process_time()
            forecaster.forecast(initial, steps=STEPS, members=4, seed=turn)
            times[name].append(1e3 * (time.process_time() - begun) / (16 * STEPS))
    return {
        "milliseconds": {name: {"median": statistics.median(each), "turns": each} for name, each in times.items()},
        "note": "; ".join(f"{name} {statistics.median(each):.2f} ms" for name, each in times.items()),
    }


def shares(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Spread over skill and CRPS with 25, 50 and 100 % of the training trajectories, the autoencoder being the same."""
    std = field_std(dataset)
    rows = {
        name: forecast_row(dataset, each, std, members=FEWER, seed=seed, published=False) for name, each in runs.items()
    }
    for name, row in rows.items():
        say(name, row)
    return {"latent_rows": rows, "note": "done"}


def dressing(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Calibration: forecasts with and without the learned scale of what the decoder misses."""
    std, rows = field_std(dataset), {}
    for name, forecaster in runs.items():
        for dress in (False, True):
            label = f"{name}{', dressed' if dress else ''}"
            rows[label] = forecast_row(
                dataset, forecaster, std, members=FEWER, seed=seed, overrides={"dress": dress}, published=False
            )
            say(label, rows[label])
    return {"latent_rows": rows, "note": "done"}


OPERATORS: dict[str, dict[str, Any]] = {
    "coarse pixels, 8 x 8": {"coarsen": 8},
    "64 sensors": {"sensors": 64},
    "boundary stripe of 2": {"stripe": 2},
}
GUIDED_STEPS, GUIDED_CASES, GUIDED_MEMBERS = 5, 32, 2


def guidance(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(v) Forecasts of four states from a known one, without and with observations of them in physical units (errors 0.1 sd).

    The autoencoder's own error, seen through the operator, is added to theirs; `alone` leaves it out. MMPS, 16 steps
    of one iteration, as published.
    """
    std, rows = field_std(dataset), {}
    for name, forecaster in runs.items():
        initial = dataset.initial("test", start=0, leads=1).select(range(GUIDED_CASES))
        trajectories = initial.trajectories.tolist()
        known = api.load("baseline:persistence").forecast(initial, steps=1, members=GUIDED_MEMBERS)  # the first states
        for what, how in OPERATORS.items():
            seen = api.observe(
                dataset, noise=0.1, steps=GUIDED_STEPS, start=0, trajectories=GUIDED_CASES, seed=seed, **how
            )
            choices: dict[str, dict[str, Any]] = {what: {}}
            if what == next(iter(OPERATORS)):
                choices = {"no observations": {"observed": "none"}, **choices}
            if "sensors" in how:
                choices[f"{what}, alone"] = {"representation": False}
            for label, chosen in choices.items():
                begun = time.process_time()
                analysis = forecaster.assimilate(
                    seen,
                    method="mmps",
                    mode="smooth",
                    background=known,
                    members=GUIDED_MEMBERS,
                    seed=seed,
                    overrides={"sampler": "ancestral", "num_steps": 16, "iterations": 1, **chosen},
                )
                states = states_of(analysis, dataset.field_names)[:, :, 1:]
                truth = torch.stack([dataset.read(one, 1, GUIDED_STEPS) for one in trajectories])
                scores = by_case(states, truth, std)
                rows[f"{name}: {label}"] = {
                    "mean": {key: values.mean().item() for key, values in scores.items()},
                    "se": {
                        key: (values.mean(dim=(1, 2)).std() / math.sqrt(len(values))).item()
                        for key, values in scores.items()
                    },
                    "spread_skill": (scores["variance"].mean() / scores["squared_error"].mean()).sqrt().item(),
                    "representation_std": [
                        round(float(analysis[name].attrs.get("representation_std", 0.0)), 5)
                        for name in dataset.field_names
                    ],
                    "cpu_seconds": round(time.process_time() - begun, 1),
                    "passes": [analysis.attrs[f"eddycast_network_passes_{way}"] for way in ("forward", "backward")],
                }
                row = rows[f"{name}: {label}"]
                print(
                    f"  {name}: {label:<36} VRMSE of the mean {row['mean']['vrmse_mean']:.3f}, CRPS {row['mean']['crps']:.3f}, "
                    f"spread-skill {row['spread_skill']:.2f}, {row['cpu_seconds']} s",
                    flush=True,
                )
    return {"guided_rows": rows, "cases": GUIDED_CASES, "note": "done"}


def training_curves(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """(vi) Validation VRMSE of autoencoders against steps and CPU-seconds of training."""
    rows = {}
    for name, forecaster in runs.items():
        assert forecaster.path is not None and forecaster.run is not None
        lines = [json.loads(line) for line in (forecaster.path / "log.jsonl").read_text().splitlines()]
        marks = [line for line in lines if "validation_vrmse" in line]
        total = forecaster.run.provenance
        rows[name] = {
            "steps": [line["step"] for line in marks],
            "vrmse": [round(line["validation_vrmse"], 5) for line in marks],
            "cpu_seconds": round(total["cpu_seconds"], 1),
            "cpu_seconds_per_step": round(total["cpu_seconds"] / sum(total["steps"].values()), 4),
        }
        print(f"  {name:<28} {rows[name]['vrmse']}  {rows[name]['cpu_seconds']} CPU-s", flush=True)
    return {"curves": rows, "note": "done"}


def latents(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """What the latents of each rate know of gamma, on the training trajectories."""
    rows = {}
    for name, forecaster in runs.items():
        with tempfile.TemporaryDirectory() as place:
            api.encode(forecaster, dataset, out=Path(place) / "latents", splits=["train"])
            found = api.analyse_latents(Path(place) / "latents", seed=seed)
        rows[name] = {one.name: one.to_dict() for one in found.parameters}
        told = ", ".join(f"{one.name}: R2 {one.r2:.3f}, order {one.order:.2f}" for one in found.parameters)
        print(f"  {name:<28} {told}", flush=True)
    return {"latents": rows, "note": "done"}


PROTOCOLS = {
    "ld-latents": latents,
    "ld-emulation": emulation,
    "ld-contexts": contexts,
    "ld-costs": costs,
    "ld-shares": shares,
    "ld-dressing": dressing,
    "ld-guidance": guidance,
    "ld-training": training_curves,
}
