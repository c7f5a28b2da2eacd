"""Real records: how a trained emulator compares with what needs no training, on every start of the test block.

The strongest of these is no baseline of the command line: the states of the last ten years (or of the same month in all earlier years).
It knows what came after the training block, as a context does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eddycast import api, metrics
from eddycast.data import Initial, open_dataset, to_xarray

MEMBERS, LEADS, RECENT = 16, 3, 10
RESAMPLES = 2000


def sample_data(settings: dict[str, Any]) -> api.Dataset:
    """A file of iris-sample-data, as distributed, with the default split or {"fractions": ...}."""
    import iris_sample_data

    return open_dataset(Path(iris_sample_data.path) / settings["sample"], fractions=settings.get("fractions"))


def own_data(dataset: api.Dataset, forecaster: api.Forecaster | None, seed: int) -> dict[str, Any]:
    """CRPS at leads 1 to 3 and, at lead 1, by how much it is below each baseline on the same starts."""
    assert forecaster is not None
    initial = dataset.initial("test", start="all", leads=1)
    forecasts = {
        "emulator": forecaster.forecast(initial, steps=LEADS, members=MEMBERS, seed=seed),
        "persistence": api.load("baseline:persistence").forecast(initial, steps=LEADS, members=MEMBERS, seed=seed),
        "climatology": api.load("baseline:climatology").forecast(initial, steps=LEADS, members=MEMBERS, seed=seed),
        "recent climatology": recent_climatology(dataset, initial),
    }
    rows, first = {}, {}
    for name, forecast in forecasts.items():
        scores = api.evaluate(forecast, truth=dataset)
        field = scores.fields[0]
        rows[name] = {
            key: [round(float(value), 4) for value in scores.series(key, field)]
            for key in ("crps", "crps_low", "crps_high", "rmse_mean", "spread_skill")
            if key in scores.data
        } | {"members": scores.members}
        first[name] = first_lead(forecast, dataset, initial)
    assert initial.frames is not None
    blocks = metrics.case_blocks(initial.trajectories, initial.frames)
    for name, values in first.items():
        rows[name]["crps_lead_1"] = round(float(values.mean()), 4)
        if name != "emulator":
            gain = values - first["emulator"]
            generator = torch.Generator().manual_seed(0)
            low, high = metrics.block_bootstrap(gain, blocks, resamples=RESAMPLES, generator=generator)
            rows[name]["emulator_lower_by"] = [round(float(v), 4) for v in (gain.mean(), low, high)]
            rows[name]["emulator_better_in"] = int((gain > 0).sum())
    frames = {name: sum(map(len, dataset.segments(name))) for name in ("train", "valid", "test")}
    return {"records": rows, "starts": len(initial), "frames": frames, "unit": dataset.fields[0].units}


def first_lead(forecast: Any, dataset: api.Dataset, initial: Initial) -> Tensor:
    """CRPS of the first field at lead 1 of each start, averaged over the valid area, (case,); the fair one for ensembles that differ."""
    states = torch.as_tensor(forecast[dataset.field_names[0]].transpose("member", "init", ...).values[:, :, 0]).double()
    truth = initial.truth(1)[:, 0, 0].double()
    same = bool((states == states[:1]).nan_to_num(1.0).logical_or(states.isnan()).all())
    values = (states[0] - truth).abs() if same else metrics.crps(states, truth)
    weights = dataset.grid.weights()
    if dataset.valid is not None:
        weights = weights * dataset.valid
    flat = (values.nan_to_num(0.0) * weights).flatten(1).sum(1)
    return flat / weights.sum()


def recent_climatology(dataset: api.Dataset, initial: Initial) -> Any:
    """States of the last ten cycles (or steps, where there is no cycle) before the start, as many as every start has."""
    assert initial.frames is not None
    cycle = round(dataset.cycle or 1)
    cases = []
    for trajectory, frame in zip(initial.trajectories.tolist(), initial.frames.tolist(), strict=True):
        leads = []
        for lead in range(1, LEADS + 1):
            known = [at for at in range(frame + lead - cycle, -1, -cycle) if at <= frame][:RECENT]
            leads.append(torch.stack([dataset.read(trajectory, at, at + 1)[0] for at in known]))
        cases.append(leads)
    members = min(len(states) for leads in cases for states in leads)
    ensemble = torch.stack([torch.stack([states[:members] for states in leads], 1) for leads in cases], 1)
    return to_xarray(ensemble, initial=initial, lead_times=torch.arange(1.0, LEADS + 1))
