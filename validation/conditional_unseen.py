"""What was not in training: initial fields of another law, another force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eddycast import api

UNSEEN: dict[str, dict[str, dict[str, Any]]] = {
    "burgers": {
        "as in training": {},
        "initial field half as smooth": {"initial": {"length_scale": 0.1}},
        "initial field twice as large": {"initial": {"deviation": 0.42}},
    },
    "kolmogorov-flow": {
        "as in training": {},
        "initial peak at wavenumber 8": {"initial": {"peak_wavenumber": 8, "max_velocity": 3}},
        "forcing wavenumber 3": {"parameters": {"forcing_wavenumber": 3}},
        "forcing wavenumber 6": {"parameters": {"forcing_wavenumber": 6}},
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    "burgers": {"steps": 101, "grid": (128,), "dt": 0.01},
    "kolmogorov-flow": {
        "steps": 64, "grid": (32, 32), "solver_grid": (64, 64), "dt": 0.2, "spin_up": 12.8,
        "parameters": {"viscosity": 5e-3, "drag": 0.1}, "initial": {"peak_wavenumber": 4, "max_velocity": 3},
    },
}  # fmt: skip


def unseen(dataset: api.Dataset, runs: Mapping[str, api.Forecaster], seed: int) -> dict[str, Any]:
    """Initial spectra and forcing that were not in training: fresh trajectories, 16 members, beside persistence."""
    system = str(dataset.attributes["system"])
    rows = {}
    for name, changes in UNSEEN[system].items():
        settings = SHAPES[system] | {"trajectories": 9, "seed": 99, "split": (1, 0, 8)}
        for key, value in changes.items():
            settings[key] = settings.get(key, {}) | value
        test = api.simulate(
            system, **settings
        )  # one run serves as training data, which none of the scores below looks at
        initial = test.initial("test", start=0, leads=60)
        for label, model in {**runs, "persistence": api.load("baseline:persistence")}.items():
            members = 1 if label in ("regression", "persistence") else 16
            made = model.forecast(initial, steps=60, members=members, seed=seed)
            scores = api.evaluate(made, truth=test)
            found = {"members": members, "passes_forward": made.attrs["eddycast_network_passes_forward"]}
            for score in ("vrmse_member", "crps", "spread_skill", "correlation_member"):
                if score in scores.data:
                    curve = scores.data[score].mean("field").values
                    found[score] = {str(lead): float(curve[lead - 1]) for lead in (1, 5, 10, 20, 40, 60)}
            rows[f"{label}, {name}"] = found
            print(f"  {label}, {name}: {found['vrmse_member']}", flush=True)
    return {"unseen_rows": rows, "note": "done"}
