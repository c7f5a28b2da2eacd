"""A 3-D recipe from end to end on the command line: simulate, train, forecast, observe, assimilate, score, show."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from eddycast.cli.app import run
from eddycast.recipes import get_recipe

FIELDS = ["velocity_x", "velocity_y", "velocity_z"]


@pytest.mark.parametrize("name", ["universal-smoke", "universal-transformer-smoke"])
def test_a_box_of_turbulence_is_forecast_and_analysed(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = f"navier-stokes-3d/{name}"
    made = get_recipe(recipe).simulation
    assert made is not None and made.grid is not None
    grid = "x".join(map(str, made.grid))
    simulate = (
        f"simulate {made.system} --out data --trajectories {made.trajectories} --steps {made.steps} --grid {grid}"
    )
    commands = [
        f"{simulate} --spin-up {made.spin_up} --param viscosity=0.04:0.06",
        f"train {recipe} --data data --out run",
        "forecast run --data data --members 3 --steps 4 --out forecast.nc",
        "observe data --fraction 0.2 --noise 0.1 --out observations.nc",
        "assimilate run --observations observations.nc --members 3 --method sda --set num_steps=6 --out analysis.nc",
    ]
    if name == "universal-smoke":
        commands += [
            "evaluate forecast.nc --truth data --out scores.json",
            "plot forecast.nc --out forecast.png",
        ]
    for command in commands:
        assert run(command.split()) == 0, (command, capsys.readouterr().err)
    for file, times in (("forecast.nc", 4), ("analysis.nc", 12)):
        with xr.open_dataset(file, decode_timedelta=False) as states:
            assert [str(name) for name in states.data_vars if name in FIELDS] == FIELDS
            assert dict(states.sizes)["member"] == 3 and dict(states.sizes)["lead_time"] == times
            assert all(np.isfinite(states[field].values).all() for field in FIELDS)
            assert all(states[field].std("member").min() > 0 for field in FIELDS)
