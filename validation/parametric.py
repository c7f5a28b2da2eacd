"""The claims of parametric emulation (arXiv:2509.09599): tracking at unseen parameters, statistics, forgetting, conditioning, cost.

Kuramoto-Sivashinsky. High-correlation time: first lead at which the Pearson correlation, averaged over cases, falls below 0.8. Valid time:
first
crossing of NRMSE 0.5 by each case, its median and quartiles. Both in Lyapunov times of that parameter where its exponent is known. Cases
are first states of test trajectories, which start on the attractor. "solver, error e": the solver itself from states with white noise of e
standard deviations.

Beta-plane: see the functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from eddycast import api, metrics
from eddycast.emulators import Regression
from eddycast.metrics.tracking import normalised_error, survival_quantiles, valid_time
from eddycast.simulators import get_system

Forecasters = Mapping[str, api.Forecaster]
ERRORS = (1e-2, 1e-3, 1e-4)
BLOCKS = 1000
LONGEST = 8.2
"""Lyapunov times of a forecast, where they are known: with float32 truth is no truth much further on."""
COST_VALUES = ("56", "160")


def groups_of(data: api.Dataset | api.Family) -> dict[str, api.Dataset]:
    """The test split by the value of the parameter that varies, as text, ascending."""
    found: dict[float, api.Dataset] = {}
    for dataset in data.datasets if isinstance(data, api.Family) else (data,):
        names = ["domain_length"] if isinstance(data, api.Family) else ["viscosity", "beta"]
        column = next(dataset.parameter_names.index(name) for name in names if name in dataset.parameter_names)
        test = dataset.segments("test")
        values = [round(dataset.parameters(part.trajectory)[column].item(), 6) for part in test]
        for value in set(values):
            own = tuple(part for part, one in zip(test, values, strict=True) if one == value)
            found[value] = replace(dataset, splits={**dataset.splits, "test": own})
    return {f"{value:g}": found[value] for value in sorted(found)}


def truth_of(dataset: api.Dataset) -> Tensor:
    """States after the first of each test trajectory, (case, lead, *space), of the first field."""
    return torch.stack([dataset.read(part.trajectory, 1, len(part))[:, 0] for part in dataset.segments("test")])


def exponent_of(dataset: api.Dataset) -> float | None:
    """Leading Lyapunov exponent of the parameters, or None."""
    system = get_system(str(dataset.attributes["system"]))
    trajectory = dataset.segments("test")[0].trajectory
    value = system.lyapunov_exponent(dataset.parameters(trajectory)[None].double()).item()
    return value if math.isfinite(value) and value > 0 else None


def tracked(states: Tensor, truth: Tensor, dt: float, exponent: float | None) -> dict[str, Any]:
    """Scores of one forecast per case; states and truth (case, lead, *space)."""
    weights = torch.ones(truth.shape[2:])
    error = normalised_error(states, truth, weights, truth.square().mean())
    one, two = (each.flatten(2) - each.flatten(2).mean(-1, keepdim=True) for each in (states, truth))
    correlation = (one * two).sum(-1) / (one.square().sum(-1) * two.square().sum(-1)).sqrt()
    correlation = torch.where(correlation.isfinite(), correlation, 0.0)
    leads = dt * torch.arange(1, truth.shape[1] + 1, dtype=torch.float64)
    unit = 1.0 if exponent is None else exponent

    def crossing(curve: Tensor) -> float:
        below = curve < 0.8
        return float(leads[below.int().argmax()] if bool(below.any()) else leads[-1]) * unit

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(truth), (BLOCKS, len(truth)), generator=generator)
    resampled = torch.tensor([crossing(correlation[rows].mean(0)) for rows in drawn])
    found: dict[str, Any] = {
        "unit": "time" if exponent is None else "Lyapunov times",
        "cases": len(truth),
        "nrmse_lead_1": error[:, 0].mean().item(),
        "high_correlation_time": crossing(correlation.mean(0)),
        "high_correlation_time_low": resampled.quantile(0.025).item(),
        "high_correlation_time_high": resampled.quantile(0.975).item(),
        "beyond": bool((correlation.mean(0) >= 0.8).all()),
    }
    for threshold in (0.3, 0.5):
        times, censored = valid_time(error, leads, threshold=threshold)
        found[f"valid_time_{threshold:g}"] = [value * unit for value in survival_quantiles(times, censored)]
    return found


def rolled(forecaster: api.Forecaster, dataset: api.Dataset, steps: int, seed: int, **options: Any) -> Tensor:
    """One member from the first state of each test trajectory, (case, lead, *space)."""
    made = forecaster.forecast(dataset.initial("test"), steps=steps, members=1, seed=seed, **options)
    (name,) = made.data_vars
    return torch.as_tensor(made[name].values)[:, 0]


def pe_tracking(data: api.Dataset | api.Family, several: Forecasters, seed: int) -> dict[str, Any]:
    """Each emulator, and the solver from wrong states, at each parameter value of the test data."""
    rows: dict[str, dict[str, Any]] = {}
    for value, dataset in groups_of(data).items():
        truth, exponent = truth_of(dataset), exponent_of(dataset)
        if exponent is not None:
            truth = truth[:, : math.ceil(LONGEST / exponent / dataset.dt)]
        for name, forecaster in several.items():
            states = rolled(forecaster, dataset, truth.shape[1], seed)
            rows.setdefault(name, {})[value] = tracked(states, truth, dataset.dt, exponent)
        solver = api.load(f"system:{dataset.attributes['system']}")
        for error in ERRORS:
            states = rolled(solver, dataset, truth.shape[1], seed, overrides={"perturbation": error})
            rows.setdefault(f"solver, error {error:g}", {})[value] = tracked(states, truth, dataset.dt, exponent)
    return {"tracking": rows}


def pe_statistics(data: api.Dataset | api.Family, several: Forecasters, seed: int) -> dict[str, Any]:
    """Long runs against those of the solver: laws of u, u_x, u_xx, spectrum, space-time correlation, beside two halves of the truth."""
    rows: dict[str, dict[str, Any]] = {}
    for value, dataset in groups_of(data).items():
        steps = len(dataset.segments("test")[0]) - 1
        for name, forecaster in several.items():
            made = forecaster.forecast(dataset.initial("test"), steps=steps, members=1, seed=seed)
            found = api.statistics(made, truth=dataset, skip=steps // 4)
            (group,) = found.to_dict()["groups"]
            (field,) = made.data_vars
            states = torch.as_tensor(made[field].values)
            scale = truth_of(dataset).std()
            lost = ~(states.abs() < 6 * scale).flatten(1).all(dim=1)
            group["blown_up"] = int(lost.sum())
            group["runs"] = len(states)
            rows.setdefault(name, {})[value] = slim(group)
    return {"statistics": rows}


def pe_cost(data: api.Dataset | api.Family, several: Forecasters, seed: int) -> dict[str, Any]:
    """CPU seconds per time unit and trajectory of the emulators, and of the solver at steps from the finest to the coarsest that holds.

    A solver's error is that of one output step against the finest, and the time that its forecast stays within NRMSE 0.5 of the truth; the
    equal of an emulator is the cheapest solver that is at least as good in the latter.
    """
    rows: dict[str, Any] = {}
    for value, dataset in groups_of(data).items():
        if value not in COST_VALUES:
            continue
        truth, exponent = truth_of(dataset), exponent_of(dataset)
        truth = truth[:, : math.ceil(LONGEST / (exponent or 0.1) / dataset.dt)]
        system = f"system:{dataset.attributes['system']}"
        cases, steps = len(truth), truth.shape[1]
        candidates: dict[str, tuple[api.Forecaster, dict[str, Any]]] = {
            name: (forecaster, {}) for name, forecaster in several.items()
        }
        for step in (0.1, 0.2, 0.25, 0.5, 1.0):
            if step <= dataset.dt:
                candidates[f"solver, step {step:g}"] = (api.load(system), {"overrides": {"inner_dt": step}})
        for name, (forecaster, options) in candidates.items():
            rolled(forecaster, dataset, 2, seed, **options)  # what is built once
            start = time.process_time()
            states = rolled(forecaster, dataset, steps, seed, **options)
            spent = time.process_time() - start
            rows.setdefault(name, {})[value] = tracked(states, truth, dataset.dt, exponent) | {
                "cpu_seconds_per_1000_time_units": 1000 * spent / (cases * steps * dataset.dt)
            }
    return {"cost": rows}


def pe_skill(data: api.Dataset, several: Forecasters, seed: int) -> dict[str, Any]:
    """CRPS and spread-skill of zonal-mean ensembles by lead at each beta, beside persistence and the climatology of all values."""
    members, steps, every = 16, 20, 40
    rows: dict[str, dict[str, Any]] = {}
    for value, dataset in groups_of(data).items():
        segments = dataset.segments("test")
        starts = [(part.trajectory, at) for part in segments for at in range(2, len(part) - steps, every)]
        truth = torch.stack([dataset.read(one, at + 1, at + 1 + steps)[:, 0] for one, at in starts])
        std = truth.std()
        conditions = dataset.conditions([one for one, _ in starts], [at for _, at in starts])
        for name, forecaster in several.items():
            emulator = forecaster.emulator(dataset, {})
            context = torch.stack([dataset.read(one, at + 1 - emulator.context, at + 1) for one, at in starts])
            count = 1 if isinstance(emulator.model, Regression) else members
            states = emulator.forecast(context, conditions, torch.arange(1, steps + 1), members=count, seed=seed)
            rows.setdefault(name, {})[value] = ensemble_scores(states[:, :, :, 0], truth, std)
        still = torch.stack([dataset.read(one, at, at + 1)[:, 0] for one, at in starts]).expand(1, *truth.shape)
        rows.setdefault("persistence", {})[value] = ensemble_scores(still, truth, std)
    return {"skill": rows}


def ensemble_scores(states: Tensor, truth: Tensor, std: Tensor) -> dict[str, Any]:
    """Fair CRPS, error of the mean and corrected spread over error; states (member, case, lead, y), truth (case, lead, y)."""
    several = len(states) > 1
    crps = (metrics.crps(states, truth, fair=True) if several else (states[0] - truth).abs()).mean(-1) / std
    error = (states.mean(0) - truth).square().mean(dim=(0, 2))
    cases = crps.mean(1)
    found: dict[str, Any] = {
        "cases": len(truth),
        "members": len(states),
        "crps": cases.mean().item(),
        "crps_se": (cases.std() / len(cases) ** 0.5).item(),
        "crps_by_lead": [round(one, 5) for one in crps.mean(0).tolist()],
        "rmse_by_lead": [round(one, 5) for one in (error.sqrt() / std).tolist()],
    }
    if several:
        spread = metrics.corrected_variance(states).mean(dim=(0, 2))
        found["spread_skill_by_lead"] = [round(one, 4) for one in (spread / error).sqrt().tolist()]
    return found


def slim(group: dict[str, Any]) -> dict[str, Any]:
    """Statistics without what no table or picture shows: only the first density, no correlation by offset and lag; four digits."""
    kept = {key: value for key, value in group.items() if key not in ("reach", "truth_reach")}
    return shortened(kept | {"densities": group["densities"][:1]})


def shortened(value: Any) -> Any:
    """Numbers to four significant digits, at any depth."""
    if isinstance(value, dict):
        return {key: shortened(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def pe_climate(data: api.Dataset, several: Forecasters, seed: int) -> dict[str, Any]:
    """Long free runs at each beta: laws of U and its derivatives, spectrum, correlation, jets and their events, beside the solver's own.

    As many runs and states as the truth has; the first ten states are left out. "by chance" is what two parts of the truth differ by.
    """
    rows: dict[str, dict[str, Any]] = {}
    for value, dataset in groups_of(data).items():
        for name, forecaster in several.items():
            context = forecaster.emulator(dataset, {}).context
            steps = len(dataset.segments("test")[0]) - context
            made = forecaster.forecast(dataset.initial("test"), steps=steps, members=1, seed=seed)
            (group,) = api.statistics(made, truth=dataset, skip=10, jets=True).to_dict()["groups"]
            rows.setdefault(name, {})[value] = slim(group)
    return {"climate": rows}


EVENT_STARTS, SOLVER_MEMBERS, MEMBERS = 3, 48, 1000


def pe_events(
    data: api.Dataset, several: Forecasters, seed: int, *, beta: float = 1.35, steps: int = 30
) -> dict[str, Any]:
    """Probability that the number of jets has changed, by lead, from states at an unseen beta: 1000 members against the solver's ensemble.

    The solver's members go on from one 2-D state with other forcing; the emulator knows its last two zonal means alone.
    """
    states = api.simulate(
        "beta-plane", trajectories=EVENT_STARTS, steps=3, spin_up=6000.0, seed=77, split=(1, 0, EVENT_STARTS - 1),
        parameters={"beta": beta},
    )  # fmt: skip
    assert isinstance(states, api.Dataset)
    zonal = api.zonal_mean(states)
    start = time.process_time()
    solver = api.zonal_mean(
        api.load("system:beta-plane").forecast(
            states.initial("test", start=1), steps=steps, members=SOLVER_MEMBERS, seed=seed
        )
    )
    spent = {"solver": time.process_time() - start}
    found: dict[str, Any] = {"solver_members": SOLVER_MEMBERS, "members": MEMBERS, "beta": beta}
    for name, forecaster in several.items():
        start = time.process_time()
        made = forecaster.forecast(zonal.initial("test", start=1), steps=steps, members=MEMBERS, seed=seed)
        spent[name] = time.process_time() - start
        found[name] = api.events(made, event="jets", truth=solver).to_dict()
    return {"events": found, "cpu_seconds": spent}


def pe_events_beyond(data: api.Dataset, several: Forecasters, seed: int) -> dict[str, Any]:
    """The same at beta = 3.0, beyond training, where the number of jets changes more often, for twice as long."""
    return pe_events(data, several, seed, beta=3.0, steps=60)


def pe_gusts(data: api.Dataset, several: Forecasters, seed: int) -> dict[str, Any]:
    """A known bimodal law: the part of U one state later along U now, from test states, of the truth and of 200 members each.

    Gusts multiply U by 1 + s a / r with s = +-1 of equal probability, r the rms of U: a' = <U', U> / <U, U> has two peaks at a distance
    of 2 a / r. "between" is the share of members (and of the truth) in the middle third of that distance: 1/3 of a normal law's mass or
    more, little of a bimodal one's; "peaks" the distance of the 25 and 75 % quantiles over 2 a / r, one for two sharp peaks.
    """
    members, share, epsilon, interval = 200, 0.2, 1e-6, 50.0
    segments = data.segments("test")
    starts = [(part.trajectory, at) for part in segments for at in range(4, len(part) - 2, 3)]
    now = torch.stack([data.read(one, at, at + 1)[0, 0] for one, at in starts]).double()
    later = torch.stack([data.read(one, at + 1, at + 2)[0, 0] for one, at in starts]).double()
    conditions = data.conditions([one for one, _ in starts], [at for _, at in starts])
    reach = math.sqrt(2 * share * epsilon * interval) / now.square().mean(1).sqrt()

    def along(states: Tensor) -> Tensor:
        """Where a state lies between the two peaks, -1 to 1, about the mean of a' over all of them; (..., case)."""
        part = (states * now).sum(-1) / now.square().sum(-1)
        return (part - part.mean()) / reach

    def told(values: Tensor) -> dict[str, float]:
        low, high = values.quantile(0.25).item(), values.quantile(0.75).item()
        return {
            "between": (values.abs() < 1 / 3).double().mean().item(),
            "peaks": (high - low) / 2,
            "std": values.std().item(),
        }

    rows: dict[str, Any] = {"truth": told(along(later)) | {"cases": len(starts)}}
    for name, forecaster in several.items():
        emulator = forecaster.emulator(data, {})
        context = torch.stack([data.read(one, at + 1 - emulator.context, at + 1) for one, at in starts])
        made = emulator.forecast(context, conditions, torch.ones(1), members=members, seed=seed)[:, :, 0, 0].double()
        crps = metrics.crps(made, later, fair=True).mean() / later.std()
        rows[name] = told(along(made).flatten()[:200_000]) | {"crps": crps.item()}
    return {"gusts": rows}


def pe_few(data: api.Dataset, several: Forecasters, seed: int) -> dict[str, Any]:
    """Error of forecasts after few trajectories of another equation, in root mean squares of the truth, by lead."""
    truth = truth_of(data)
    rows: dict[str, Any] = {}
    for name, forecaster in several.items():
        states = rolled(forecaster, data, truth.shape[1], seed)
        error = normalised_error(states, truth, torch.ones(truth.shape[2:]), truth.square().mean())
        cases = error.mean(1)
        rows[name] = {
            "nrmse": cases.mean().item(),
            "nrmse_se": (cases.std() / len(cases) ** 0.5).item(),
            "nrmse_by_lead": [round(value, 6) for value in error.mean(0).tolist()],
        }
    return {"few": rows}


def headline(result: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "tracking" in result:
        return "; ".join(
            f"{name}: " + ", ".join(f"{value} {row['high_correlation_time']:.2f}" for value, row in rows.items())
            for name, rows in result["tracking"].items()
        )
    if "skill" in result:
        return "; ".join(
            f"{name}: " + ", ".join(f"{value} {row['crps']:.3f}" for value, row in rows.items())
            for name, rows in result["skill"].items()
        )
    return ", ".join(next(iter(result.values())))


PROTOCOLS = {
    "pe-tracking": pe_tracking,
    "pe-statistics": pe_statistics,
    "pe-cost": pe_cost,
    "pe-skill": pe_skill,
    "pe-climate": pe_climate,
    "pe-events": pe_events,
    "pe-events-beyond": pe_events_beyond,
    "pe-gusts": pe_gusts,
    "pe-few": pe_few,
}
