"""Weights that were trained before the networks had a time axis still give the forecasts they gave."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import eddycast
from eddycast.conditions import Conditions
from eddycast.grid import Grid
from eddycast.recipes import load_run

SHIPPED = Path(eddycast.__file__).parent / "shipped" / "ks" / "universal-small"


def test_shipped_run_gives_the_forecast_it_gave():
    """Points 0, 20 and 41 of two members at leads 1 and 6, from 1.5 sin 3 x + 0.7 cos(5 x + 1): recorded when the U-Net took
    (batch, channel, *space). The tolerance is rounding in float32, grown through two windows of sixteen network calls each."""
    run = load_run(SHIPPED, "ks/universal-small")
    x = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
    state = (1.5 * torch.sin(3 * x) + 0.7 * torch.cos(5 * x + 1)).float()
    grid = Grid.from_dict(run.data["grid"])
    here = Conditions(grid, run.data["dt"], torch.ones(1, 1), torch.zeros(1, dtype=torch.float64))
    forecast = run.emulator.forecast(state.expand(1, 1, 1, 64), here, torch.arange(1, 7), members=2, seed=0)
    found = forecast[:, 0, [0, -1], 0][..., [0, 20, 41]]
    recorded = [
        [[0.467303603, -0.588247656, -1.164773941], [0.584760606, 0.145492211, -0.937101006]],
        [[0.403730809, -0.574519098, -1.175660729], [0.559095799, -0.134444698, -0.579343676]],
    ]
    assert found.tolist() == [[pytest.approx(row, abs=1e-4) for row in member] for member in recorded]
