"""Small synthetic forecasts: travelling waves on a line, a sea with an island on latitude and longitude."""

from __future__ import annotations

import cftime
import numpy as np
import pytest
import xarray as xr

LEADS, POINTS, MEMBERS = 24, 40, 5


def waves(
    *,
    inits: int = 2,
    members: int | None = MEMBERS,
    leads: int = LEADS,
    frame: int = 10,
    kind: str = "forecast",
    error: float = 0.1,
) -> xr.Dataset:
    """sin(x - t) on [0, 2 pi); each member has a phase error that grows with lead time."""
    x = 2 * np.pi * np.arange(POINTS) / POINTS
    time = 0.5 * np.arange(leads)
    phase = error * np.linspace(-1, 1.2, members or 1)[:, None, None] * time[None, :, None]
    states = np.sin(x - (time[None, :, None] + 0.5 * frame) - phase * (members is not None))
    states = np.stack([states + 0.1 * case for case in range(inits)]).astype(np.float32)
    dims = ("init", "member", "lead_time", "x") if members is not None else ("init", "lead_time", "x")
    return xr.Dataset(
        {"u": (dims, states if members is not None else states[:, 0], {"units": "m s-1", "long_name": "velocity"})},
        {
            "x": ("x", x, {"units": "m"}),
            "lead_time": ("lead_time", time, {"units": "s", "step": 0.5}),
            "trajectory": ("init", 3 + np.arange(inits)),
            "frame": ("init", np.full(inits, frame)),
            "time": ("init", np.full(inits, 0.5 * frame)),
        },
        {"eddycast_kind": kind, "eddycast_system": "waves", "lyapunov_time": 4.0},
    )


def sea(*, members: int = 3, months: int = 6) -> xr.Dataset:
    """Temperatures over latitude (north first) and longitude with an island, monthly on a calendar of 360 days."""
    latitude, longitude = np.linspace(60, 40, 11), np.linspace(0, 38, 20)
    rise = np.arange(months)[None, :, None, None] + 0.3 * np.arange(members)[:, None, None, None]
    states = 280 + rise - 0.2 * (latitude[:, None] - 50) + 0 * longitude
    states[..., 3:6, 8:12] = np.nan
    dates = np.array([[cftime.Datetime360Day(1999, 1 + month, 30) for month in range(months)]])
    return xr.Dataset(
        {
            "sst": (
                ("init", "member", "lead_time", "latitude", "longitude"),
                states[None].astype(np.float32),
                {"units": "K", "long_name": "sea surface temperature", "standard_name": "sea_surface_temperature"},
            )
        },
        {
            "latitude": ("latitude", latitude, {"units": "degrees_north"}),
            "longitude": ("longitude", longitude, {"units": "degrees_east"}),
            "lead_time": ("lead_time", np.arange(months, dtype=float), {"units": "months", "step": 1.0}),
            "valid_time": (("init", "lead_time"), dates),
            "time": ("init", dates[:, 0]),
        },
        {"eddycast_kind": "forecast"},
    )


@pytest.fixture
def forecast() -> xr.Dataset:
    return waves()


@pytest.fixture
def wave_truth() -> xr.Dataset:
    return waves(members=None, kind="truth")


@pytest.fixture
def ocean() -> xr.Dataset:
    return sea()


@pytest.fixture(scope="session")
def make_waves():
    return waves
