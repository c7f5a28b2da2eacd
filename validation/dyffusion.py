"""The claims of dynamics-informed diffusion (arXiv:2306.01984), each tried on small systems with runs that cost about the same to train.

Lorenz-63 (windows of 8 steps of 0.05, forecasts of 32), sine waves whose direction one state does not tell (8 of 0.1, 32), synthetic sea
surface temperature on 32 x 32 points (7 days, 7, no rollout, as published), spring mesh (16 steps of 0.0625, 96: six windows of 16, as
the published six windows of 134). Forecasts start from the first state of each test trajectory.

CRPS is in standard deviations of the field: fair, and with the ensemble counted as it is ("biased"; "published" is that in the data's
own units). MSE is that of the
ensemble mean in the data's own units, spread-skill the published mean of ratios (variance with ddof 0; one ratio for each case and lead)
and the corrected ratio of means. Intervals are standard errors over cases, differences paired by case. What was tuned (the perturbation)
was tuned on the validation split.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from latent_diffusion import field_std, states_of, truth_of
from torch import Tensor

from eddycast import api, metrics
from eddycast.emulators import DYffusion, Regression
from eddycast.emulators.dyffusion import Interpolator
from eddycast.noise import MemberNoise
from eddycast.simulators import sea_surface, sine_wave

Forecasters = Mapping[str, api.Forecaster]
MEMBERS, CASES = 50, 24
FEWER = 16
"""Members where one run is compared with itself, and of fields of many points."""
MANY_POINTS = 512
PERTURBATIONS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


def scores_of(states: Tensor, truth: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Scores of each case and lead, (case, lead): means over fields and points.

    Args:
        states: (member, case, lead, field, *space).
        truth: (case, lead, field, *space).
        std: Of the fields, (field,).
    """
    axes = tuple(range(2, truth.ndim))
    width = std[(...,) + (None,) * (truth.ndim - 3)]
    members = len(states)
    mean = states.mean(dim=0)
    rows = {"mse": (mean - truth).square().mean(dim=axes)}
    if members == 1:
        rows["crps"] = rows["crps_biased"] = ((states[0] - truth).abs() / width).mean(dim=axes)
        rows["crps_published"] = (states[0] - truth).abs().mean(dim=axes)
        return rows
    rows["crps_published"] = metrics.crps(states, truth, fair=False).mean(dim=axes)
    for name, fair in (("crps", True), ("crps_biased", False)):
        rows[name] = (metrics.crps(states, truth, fair=fair) / width).mean(dim=axes)
    variance = states.var(dim=0, correction=0)
    rows["ssr_published"] = variance.mean(dim=axes).sqrt() / rows["mse"].sqrt()
    rows["variance"] = (variance * (members + 1) / (members - 1) / width**2).mean(dim=axes)
    rows["squared_error"] = ((mean - truth) / width).square().mean(dim=axes)
    low, high = (torch.quantile(states, level, dim=0) for level in (0.1, 0.9))
    rows["inside_80"] = ((truth >= low) & (truth <= high)).to(truth).mean(dim=axes)
    return rows


def summary(rows: dict[str, Tensor]) -> dict[str, Any]:
    """Means with standard errors over cases, values of each case, and curves over leads."""
    found: dict[str, Any] = {}
    for name in ("crps", "crps_biased", "crps_published", "mse", "ssr_published", "inside_80"):
        if name in rows:
            cases = rows[name].mean(dim=1)
            found[name] = cases.mean().item()
            found[f"{name}_se"] = (cases.std() / math.sqrt(len(cases))).item()
    found["crps_cases"] = [round(value, 6) for value in rows["crps"].mean(dim=1).tolist()]
    found["curves"] = {"crps": rounded(rows["crps"].mean(dim=0)), "mse": rounded(rows["mse"].mean(dim=0))}
    if "variance" in rows:
        ratio = (rows["variance"].mean(dim=0) / rows["squared_error"].mean(dim=0)).sqrt()
        found["spread_skill"] = (rows["variance"].mean() / rows["squared_error"].mean()).sqrt().item()
        found["curves"]["spread_skill"] = rounded(ratio)
    return found


def rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def row_of(
    dataset: api.Dataset,
    forecaster: api.Forecaster,
    std: Tensor,
    *,
    steps: int,
    seed: int,
    members: int = MEMBERS,
    split: str = "test",
    overrides: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One forecast: scores, passes and seconds."""
    initial = dataset.initial(split, start=0, leads=1)
    initial = initial.select(range(min(CASES, len(dataset.segments(split)))))
    wall, cpu = time.monotonic(), time.process_time()
    made = forecaster.forecast(initial, steps=steps, members=members, seed=seed, overrides=overrides or {})
    wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    states, truth = states_of(made, dataset.field_names), truth_of(dataset, made)
    cost = members * len(truth) * steps
    return summary(scores_of(states, truth, std)) | {
        "members": members,
        "cases": len(truth),
        "overrides": overrides or {},
        "passes_per_state": round(made.attrs.get("eddycast_network_passes_forward", 0) / steps, 3),
        "cpu_milliseconds_per_state": round(1e3 * cpu / cost, 3),
        "seconds": round(wall, 2),
    }


def forecast_steps(runs: Forecasters) -> int:
    """Steps of a forecast: those of the recipe of the first run."""
    run = next(iter(runs.values())).run
    assert run is not None
    return run.recipe.evaluation.steps


def say(name: str, row: dict[str, Any]) -> None:
    print(
        f"  {name:<44} CRPS {row['crps']:.4f} ± {row['crps_se']:.4f}  MSE {row['mse']:.3g}  "
        f"SSR {row.get('ssr_published', 0):.2f} / {row.get('spread_skill', 0):.2f}  {row['passes_per_state']:.2f} passes",
        flush=True,
    )


def contrast(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """CRPS of one less that of the other, paired by case, and the ratio of the means."""
    first, second = (torch.tensor(row["crps_cases"], dtype=torch.float64) for row in (one, other))
    difference = first - second
    return {
        "mean": difference.mean().item(),
        "se": (difference.std() / math.sqrt(len(difference))).item(),
        "ratio": (first.mean() / second.mean()).item(),
    }


def contrasts(rows: dict[str, Any], against: str) -> dict[str, Any]:
    return {f"{name} less {against}": contrast(row, rows[against]) for name, row in rows.items() if name != against}


def is_window_regression(forecaster: api.Forecaster) -> bool:
    assert forecaster.run is not None
    model = forecaster.run.model
    return isinstance(model, Regression) and model.config.horizon > 1


def is_single(forecaster: api.Forecaster) -> bool:
    """Whether all members are the same."""
    assert forecaster.run is not None
    model = forecaster.run.model
    return isinstance(model, Regression) and model.config.ensemble == "none"


def members_of(dataset: api.Dataset, forecaster: api.Forecaster) -> int:
    assert forecaster.run is not None
    if is_single(forecaster):
        return 1
    return FEWER if math.prod(dataset.grid.shape) > MANY_POINTS else MEMBERS


def methods(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Every emulator on the same cases, with what one network for all leads gives besides dropout, the baselines and the exact law."""
    std, rows, steps = field_std(dataset), {}, forecast_steps(runs)
    for name, forecaster in runs.items():
        rows[name] = row_of(dataset, forecaster, std, steps=steps, seed=seed, members=members_of(dataset, forecaster))
        say(name, rows[name])
        if is_window_regression(forecaster):
            rows |= others_of_dropout(dataset, forecaster, std, steps, seed)
    many = [members_of(dataset, forecaster) for forecaster in runs.values()]
    for name in ("baseline:persistence", "baseline:climatology"):
        members = max(many) if name.endswith("climatology") else 1
        rows[name] = row_of(dataset, api.load(name), std, steps=steps, seed=seed, members=members)
        say(name, rows[name])
    oracle = exact_row(dataset, std, steps, seed)
    if oracle is not None:
        rows["exact law"] = oracle
        say("exact law", oracle)
    return {"dyffusion_rows": rows, "contrasts": contrasts(rows, next(iter(runs))), "note": "done"}


def others_of_dropout(
    dataset: api.Dataset, forecaster: api.Forecaster, std: Tensor, steps: int, seed: int
) -> dict[str, Any]:
    """The same network with perturbed starts, their size chosen on the validation split, and without any noise."""
    tuned = {
        size: row_of(
            dataset, forecaster, std, steps=steps, seed=seed, members=16, split="valid",
            overrides={"ensemble": "perturbation", "perturbation": size},
        )["crps"]
        for size in PERTURBATIONS
    }  # fmt: skip
    best = min(tuned, key=lambda size: tuned[size])
    perturbed = row_of(
        dataset, forecaster, std, steps=steps, seed=seed, members=members_of(dataset, forecaster),
        overrides={"ensemble": "perturbation", "perturbation": best},
    )  # fmt: skip
    perturbed["validation_crps"] = tuned
    plain = row_of(dataset, forecaster, std, steps=steps, seed=seed, members=1, overrides={"ensemble": "none"})
    say(f"perturbation {best:g}", perturbed)
    say("no noise", plain)
    return {"perturbation": perturbed, "one network for all leads, no noise": plain}


def exact_row(dataset: api.Dataset, std: Tensor, steps: int, seed: int) -> dict[str, Any] | None:
    """The law of the future itself, given the first state, where it is known."""
    system = dataset.attributes["system"]
    law = {"sea-surface": sea_surface_law, "sine-wave": sine_wave_law}.get(system)
    if law is None:
        return None
    cases = [part.trajectory for part in dataset.segments("test")[:CASES]]
    truth = torch.stack([dataset.read(one, 1, 1 + steps) for one in cases])
    start = torch.stack([dataset.read(one, 0, 1)[0] for one in cases])
    states = law(dataset, start, torch.tensor(cases), steps, seed)
    return summary(scores_of(states, truth, std)) | {"members": MEMBERS, "cases": len(cases), "passes_per_state": 0}


def runs_alone(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Runs that differ in one setting, as they are; of interpolators their own score too."""
    std, rows, steps = field_std(dataset), {}, forecast_steps(runs)
    for name, forecaster in runs.items():
        rows[name] = row_of(dataset, forecaster, std, steps=steps, seed=seed, members=members_of(dataset, forecaster))
        assert forecaster.run is not None
        if isinstance(forecaster.run.model, DYffusion):
            rows[name]["interpolator_crps"] = interpolator_crps(dataset, forecaster, std, seed)
        say(name, rows[name])
    return {"dyffusion_rows": rows, "note": "done"}


def sampling(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """One emulator, many ways to sample it."""
    std, rows, steps = field_std(dataset), {}, forecast_steps(runs)
    for name, forecaster in runs.items():
        assert forecaster.run is not None
        model = forecaster.run.model
        assert isinstance(model, DYffusion)
        config, h = model.config, model.config.horizon
        variants: dict[str, dict[str, Any]] = {
            "cold": {"sampler": "cold"},
            "naive": {"sampler": "naive"},
            "heun": {"sampler": "heun"},
            "multistep": {"sampler": "multistep"},
            "rk4": {"sampler": "rk4"},
            "cold, not refined": {"sampler": "cold", "refine": False},
            "naive, not refined": {"sampler": "naive", "refine": False},
            "cold, last step like the others": {"sampler": "cold", "last": "stepped"},
            "cold, noise independent": {"sampler": "cold", "sharing": "independent"},
            **{f"cold, noise of the {kind}": {"sampler": "cold", "sharing": kind} for kind in ("step", "window", "rollout")},
            "cold, whole steps only": {"sampler": "cold", "sampling": "dynamics"},
            "cold, every second step": {"sampler": "cold", "sampling_times": list(range(0, h, 2))},
            "cold, two steps": {"sampler": "cold", "sampling_times": [0, h // 2]},
            "one step": {"sampler": "cold", "sampling_times": [0]},
        }  # fmt: skip
        members = FEWER if dataset.grid.shape == (1,) else FEWER // 2
        if not config.extra:
            del variants["cold, whole steps only"]
        here = {
            f"{name}: {label}": row_of(
                dataset, forecaster, std, steps=steps, seed=seed, members=members, overrides=chosen
            )
            for label, chosen in variants.items()
        }
        for label, row in here.items():
            say(label, row)
        rows |= here
    first = next(iter(runs))
    return {"dyffusion_rows": rows, "contrasts": contrasts(rows, f"{first}: cold"), "note": "done"}


class Noisier(Interpolator):
    """An interpolator whose states get white noise of a given size, in departures from the line."""

    extra: float = 0.0

    def forward(self, start, end, time, conditions, draws):  # type: ignore[no-untyped-def, override]
        state = super().forward(start, end, time, conditions, draws)
        moved = replace(draws, noise=replace(draws.noise, seed=draws.noise.seed + 10**6))
        return state + self.extra * self.line(start, end, time)[1] * moved.fields(tuple(state.shape[1:]), state)


def degraded(dataset: api.Dataset, runs: Forecasters, seed: int) -> dict[str, Any]:
    """Noise on what the interpolator says, in a forecast: its own score, and that of the forecast."""
    std, rows, steps = field_std(dataset), {}, forecast_steps(runs)
    for name, forecaster in runs.items():
        assert forecaster.run is not None
        model = forecaster.run.model
        assert isinstance(model, DYffusion)
        model.interpolator.__class__ = Noisier
        for size in (0.0, 0.05, 0.1, 0.2, 0.5):
            model.interpolator.extra = size  # type: ignore[assignment]
            label = f"{name}: noise {size:g}"
            rows[label] = row_of(dataset, forecaster, std, steps=steps, seed=seed, members=FEWER)
            rows[label]["interpolator_crps"] = interpolator_crps(dataset, forecaster, std, seed)
            say(label, rows[label])
        model.interpolator.__class__ = Interpolator
    return {"dyffusion_rows": rows, "note": "done"}


def interpolator_crps(dataset: api.Dataset, forecaster: api.Forecaster, std: Tensor, seed: int) -> float:
    """Fair CRPS of 20 members of the interpolator given the true ends, mean over the whole times inside of the first test windows."""
    assert forecaster.run is not None
    emulator = forecaster.run.emulator
    model = emulator.model
    assert isinstance(model, DYffusion)
    h = model.config.horizon
    initial = dataset.initial("test", start=0, leads=1).select(range(min(CASES, len(dataset.segments("test")))))
    conditions = initial.resolved(1).conditions()
    truth = torch.stack([dataset.read(one, 0, h + 1) for one in initial.trajectories.tolist()])
    leads = torch.arange(h + 1, dtype=torch.float64)
    x = emulator.space.encode(truth, conditions, leads)
    members = 20
    noise = MemberNoise.grid(seed, len(truth), members).flatten()
    many = x.expand(members, *x.shape).flatten(0, 1)
    several = conditions.expand(members).flatten()
    inside = [float(lead) for lead in range(1, h)]
    with torch.no_grad():
        states = model.interpolate(many[:, 0], many[:, h], inside, several, noise=noise)
        states = emulator.space.decode(states, several, leads[1:h])
    rows = scores_of(states.unflatten(0, (members, len(truth))), truth[:, 1:h], std)
    return rows["crps"].mean().item()


def sea_surface_law(dataset: api.Dataset, start: Tensor, cases: Tensor, steps: int, seed: int) -> Tensor:
    """Draws of the exact law at each point: mean and standard deviation are known, neighbours are drawn apart."""
    parameters = dataset.parameter_values[cases].double()
    leads = torch.arange(1, steps + 1, dtype=torch.float64) * dataset.dt
    mean = sea_surface.conditional_mean(start, leads, parameters, dataset.grid)
    width = sea_surface.conditional_std(leads, parameters, dataset.grid).to(mean)
    return mean + width * torch.randn((MEMBERS, *mean.shape), generator=torch.Generator().manual_seed(seed))


def sine_wave_law(dataset: api.Dataset, start: Tensor, cases: Tensor, steps: int, seed: int) -> Tensor:
    """The two ways the wave may go, each in half of the members."""
    frequency = dataset.parameter_values[cases, dataset.parameter_names.index("frequency")]
    leads = torch.arange(1, steps + 1, dtype=torch.float64) * dataset.dt
    return sine_wave.branches(start, frequency, leads).repeat(MEMBERS // 2, *[1] * (start.ndim + 1))


PROTOCOLS = {
    "dy-methods": methods,
    "dy-runs": runs_alone,
    "dy-sampling": sampling,
    "dy-degraded": degraded,
}
