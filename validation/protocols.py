"""How a job is scored. Test trajectories only; whatever was tuned was tuned on others.

KS forecasts: the first 64 test trajectories from their first state, 8 members (1 where all are the same), 150 time units or as
far as the truth goes; then 16 trajectories for 5000 steps with the guard and 2000 without. A trajectory has blown up once it leaves
five standard deviations or is not finite. Spectra are pooled over the last 2000 steps, and compared with all training states, for
which time does not matter. Members are forecast and scored a few trajectories at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from own_data import own_data
from torch import Tensor

from eddycast import api, metrics
from eddycast.emulators import Regression
from eddycast.evaluation import Scores

CASES, MEMBERS, HORIZON = 64, 8, 150.0
MARKS = (0.3, 1, 2, 3, 4, 5, 6, 7.6)
"""Lead times of the curves that are kept, in Lyapunov times, beside the first step."""
LONG_CASES, LONG_STEPS, FREE_STEPS, LONG_TAIL = 16, 5000, 2000, 2000
ASSIMILATION_CASES, FRAMES = 16, 16


def ks_skill(dataset: api.Dataset, forecaster: api.Forecaster | None, seed: int) -> dict[str, Any]:
    """Skill and calibration of a trained emulator."""
    assert forecaster is not None and forecaster.run is not None
    members = 1 if isinstance(forecaster.run.emulator.model, Regression) else MEMBERS
    initial = dataset.initial("test").select(range(CASES))
    forecast = forecaster.forecast(initial, steps=steps_of(dataset), members=members, seed=seed)
    return {"skill": skill(api.evaluate(forecast, truth=dataset), dataset)}


def steps_of(dataset: api.Dataset) -> int:
    """Steps of a forecast: those of 150 time units, as far as the truth goes."""
    return min(round(HORIZON / dataset.dt), min(map(len, dataset.segments("test"))) - 1)


def lyapunov_time(dataset: api.Dataset) -> float:
    """In time units, to one decimal."""
    return round(float(dataset.attributes["lyapunov_time"]), 1)


def ks_forecast(dataset: api.Dataset, forecaster: api.Forecaster | None, seed: int) -> dict[str, Any]:
    """Skill, calibration, stability and spectrum of a trained emulator."""
    assert forecaster is not None and forecaster.run is not None
    result = ks_skill(dataset, forecaster, seed)
    for guard in (True, False):
        result["stability" if guard else "stability_without_guard"] = stability(dataset, forecaster, seed, guard)
    return result


def skill(scores: Scores, dataset: api.Dataset) -> dict[str, Any]:
    """High-correlation times in Lyapunov times (both conventions), and curves at some leads, in steps."""
    unit = lyapunov_time(dataset)
    times = {
        key: {name: float(value) / unit for name, value in row.items()}
        for key, row in correlation_times(scores).items()
    }
    leads = [1] + [round(mark * unit / dataset.dt) for mark in MARKS]
    leads = [lead for lead in leads if lead <= len(scores.lead_times)]
    field = scores.fields[0]
    curves = {}
    for name in (
        "crps",
        "crps_biased",
        "rmse_mean",
        "rmse_member",
        "mae_mean",
        "spread_skill",
        "vrmse_member",
        "correlation_member",
    ):
        if name in scores.data:
            series = scores.series(name, field)
            curves[name] = {str(lead): float(series[lead - 1]) for lead in leads}
    return {
        "high_correlation_lyapunov_times": times,
        "curves": curves,
        "members": scores.members,
        "lyapunov_time": unit,
    }


def correlation_times(scores: Scores) -> dict[str, dict[str, float]]:
    """{"member first": {"value", "low", "high"}, ...} in time units, of the mean correlation curve."""
    found = {}
    data = scores.data
    for forecast in ("member", "mean"):
        for convention in ("first", "count"):
            where = {"field": scores.fields[0], "forecast": forecast, "convention": convention, "average": "curve"}
            row = {}
            for suffix, name in (("", "value"), ("_low", "low"), ("_high", "high")):
                row[name] = float(data[f"high_correlation_time{suffix}"].sel(where))
            found[f"{forecast} {convention}"] = row
    return found


def stability(
    dataset: api.Dataset,
    forecaster: api.Forecaster,
    seed: int,
    guard: bool,
    steps: int | None = None,
    tail: int = LONG_TAIL,
) -> dict[str, Any]:
    """A long run: who leaves five standard deviations, when, and the spectrum of those who stay."""
    emulator = forecaster.emulator(dataset, {"guard": guard} if not guard else {})
    initial = dataset.initial("test").select(range(LONG_CASES)).resolved(emulator.context)
    steps = steps or (LONG_STEPS if guard else FREE_STEPS)
    leads = torch.arange(1, steps + 1)
    states = emulator.forecast(initial.context(emulator.context), initial.conditions(), leads, members=1, seed=seed)[
        0, :, :, 0
    ]
    std = float(api_std(dataset))
    outside = ~(states.abs() < 5 * std).all(dim=-1)
    blown = outside.any(dim=1)
    result: dict[str, Any] = {
        "cases": LONG_CASES,
        "steps": steps,
        "blown_up": int(blown.sum()),
        "first_steps": sorted((outside.float().argmax(dim=1)[blown] + 1).tolist()),
    }
    if not bool(blown.all()):
        last = states[~blown, -tail:]
        result["std_ratio"] = float(last.std()) / std
        result |= spectrum_error(last, training_states(dataset))
    return result


def spectrum_error(states: Tensor, truth: Tensor) -> dict[str, Any]:
    """log10 ratio of mean power by mode, over modes with more than 1e-6 of the peak power (the mean excepted)."""
    power, reference = (
        torch.fft.rfft(each.double(), norm="forward").abs().square().flatten(0, -2).mean(0) for each in (states, truth)
    )
    modes = reference > 1e-6 * reference.max()
    modes[0] = False
    error = (power / reference).log10()
    return {
        "spectrum_modes": int(modes.sum()),
        "spectrum_largest_error": float(error[modes].abs().max()),
        "spectrum_mean_error": float(error[modes].abs().mean()),
        "spectrum_error_by_mode": [round(value, 4) for value in error[modes].tolist()],
    }


def training_states(dataset: api.Dataset) -> Tensor:
    return torch.cat(
        [dataset.read(part.trajectory, part.start, part.stop)[:, 0] for part in dataset.segments("train")[:512]]
    )


def api_std(dataset: api.Dataset) -> Tensor:
    return training_states(dataset).std()


def ks_reference(dataset: api.Dataset, forecaster: api.Forecaster | None, seed: int) -> dict[str, Any]:
    """The solver from wrong initial states, persistence and climatology, on the same cases."""
    initial = dataset.initial("test").select(range(CASES))
    rows: dict[str, Any] = {}
    for error in (1e-1, 1e-2, 1e-3, 1e-4):
        solver = api.load("system:kuramoto-sivashinsky")
        made = solver.forecast(
            initial, steps=steps_of(dataset), members=MEMBERS, seed=seed, overrides={"perturbation": error}
        )
        rows[f"solver, initial error {error:g}"] = skill(api.evaluate(made, truth=dataset), dataset)
    for name in ("baseline:persistence", "baseline:climatology"):
        made = api.load(name).forecast(initial, steps=steps_of(dataset), members=MEMBERS, seed=seed)
        rows[name] = skill(api.evaluate(made, truth=dataset), dataset)
    return {"rows": rows}


def ks_assimilation(dataset: api.Dataset, forecaster: api.Forecaster | None, seed: int) -> dict[str, Any]:
    """10 % random points with errors of 0.1 standard deviations in 16 frames: guided diffusion beside perfect-model smoothers."""
    assert forecaster is not None
    observations = api.observe(
        dataset, fraction=0.1, noise=0.1, steps=FRAMES, start=20, trajectories=ASSIMILATION_CASES, seed=seed
    )
    std = float(api_std(dataset))
    solver = api.load("system:kuramoto-sivashinsky")
    methods = {
        "SDA on the emulator": (forecaster, "sda", 16, {"stride": 2, "sampler": "ancestral", "gamma": 0.03}),
        "MMPS on the emulator": (forecaster, "mmps", 16, {"stride": 2, "sampler": "ancestral", "iterations": 3}),
        "ETKS on the emulator": (forecaster, "etkf", 64, {}),
        "interpolation": (forecaster, "interpolation", 16, {}),
        "ETKS, perfect model": (solver, "etkf", 100, {"inflation": 1.0}),
        "ETKS in 4 passes, perfect model": (solver, "etkf", 100, {"inflation": 1.0, "passes": 4}),
    }
    rows = {}
    for name, (source, method, members, overrides) in methods.items():
        analysis = source.assimilate(observations, method=method, members=members, seed=seed, overrides=overrides)
        rows[name] = analysis_scores(analysis["u"].values, dataset, observations, std) | {"members": members}
    best = rows["ETKS in 4 passes, perfect model"]["rmse"]
    plain = rows["ETKS, perfect model"]["rmse"]
    for row in rows.values():
        row["rmse_over_smoother"], row["rmse_over_best_smoother"] = row["rmse"] / plain, row["rmse"] / best
    return {"rows": rows, "cases": ASSIMILATION_CASES, "frames": FRAMES, "unit": "standard deviations"}


def analysis_scores(
    values: np.ndarray, dataset: api.Dataset, observations: api.Observations, std: float
) -> dict[str, Any]:
    """RMSE of the mean (all frames, first, middle, last) and corrected spread over it, in standard deviations."""
    ensemble = torch.as_tensor(values).movedim(1, 0).double() / std
    starts = zip(observations.trajectories.tolist(), observations.frames.tolist(), strict=True)
    truth = torch.stack([dataset.read(one, at, at + FRAMES)[:, 0] for one, at in starts]).double() / std
    error = (ensemble.mean(0) - truth).square().mean(dim=(0, 2))
    spread = metrics.corrected_variance(ensemble).mean()
    return {
        "rmse": float(error.mean().sqrt()),
        "rmse_first": float(error[0].sqrt()),
        "rmse_middle": float(error[FRAMES // 2].sqrt()),
        "rmse_last": float(error[-1].sqrt()),
        "spread_skill": float((spread / error.mean()).sqrt()),
    }


def headline(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "note" in result:
        return result["note"]
    if "skill" in result:
        times = result["skill"]["high_correlation_lyapunov_times"]
        line = (
            f"HCT member {times['member first']['value']:.2f}, mean {times['mean first']['value']:.2f} Lyapunov times"
        )
        if "stability" not in result:
            return line
        return f"{line}; blown up {result['stability']['blown_up']} (without guard {result['stability_without_guard']['blown_up']})"
    if "records" in result:
        return "CRPS at lead 1: " + "; ".join(
            f"{name} {row['crps_lead_1']:.3f}" for name, row in result["records"].items()
        )
    if "rows" in result and "cases" in result:
        return "; ".join(
            f"{name} {row['rmse']:.3f} ({row['spread_skill']:.2f})" for name, row in result["rows"].items()
        )
    return "; ".join(
        f"{name} {row['high_correlation_lyapunov_times']['member first']['value']:.2f}"
        for name, row in result["rows"].items()
    )


PROTOCOLS = {
    "ks-skill": ks_skill,
    "ks-forecast": ks_forecast,
    "ks-reference": ks_reference,
    "ks-assimilation": ks_assimilation,
    "own-data": own_data,
}
