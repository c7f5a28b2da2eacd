"""Sound files of every format that a command reads, small enough to be spoiled hundreds of times."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import xarray as xr

from eddycast import api
from eddycast.recipes import read_recipe

RECIPE = """name: fuzz/tiny
description: A few steps of a tiny network.
emulator:
  kind: regression
  network: {channels: [4], blocks: 1, kernel: 3, embedding: 8}
space: {mean: field, std: field}
training: {steps: 2, batch_size: 2, validations: 1, warmup: 1, checkpoint_seconds: 1000.0}
evaluation: {steps: 2, members: 2, validation_cases: 1, validation_steps: 1, validation_members: 2, calibrate: false}
"""
LATENT_RECIPE = """name: fuzz/latent
description: A few steps of tiny networks in latent space.
emulator: {kind: universal, frames: 3, num_steps: 2, network: {channels: [4], blocks: 1, kernel: 3, embedding: 8}}
autoencoder:
  model: {channels: [4, 4], blocks: 1, latent_channels: 2}
  training: {steps: 2, batch_size: 2, validations: 1, warmup: 1, checkpoint_seconds: 1000.0}
space: {mean: field, std: field}
training: {steps: 2, batch_size: 2, validations: 1, warmup: 1, checkpoint_seconds: 1000.0}
evaluation: {steps: 2, members: 2, validation_cases: 1, validation_steps: 1, validation_members: 2, calibrate: false}
"""
POINTS, FRAMES, TRAJECTORIES = 24, 12, 5


class StopAfterOne:
    """An observer that interrupts the training after its first step, so that there is something to resume."""

    def stage(self, name: str, done: int, steps: int) -> None: ...

    def step(self, done: int, loss: float) -> None:
        raise KeyboardInterrupt

    def validated(self, score: float) -> None: ...
    def finished(self) -> None: ...


def build(folder: Path) -> None:
    """Write one sound file or folder per kind, and what the commands need beside it."""
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    data = folder / "well"
    grid = (POINTS,)
    api.simulate("kuramoto-sivashinsky", trajectories=TRAJECTORIES, steps=FRAMES, grid=grid, seed=0, out=data)
    shutil.copy(next((data / "data" / "train").glob("*.hdf5")), folder / "well_file.hdf5")
    waves(folder)
    dataset = api.open_dataset(data)
    run = folder / "run"
    api.train(recipe, data=dataset, out=run, observer=Silent())
    begun = folder / "begun"
    with suppress(KeyboardInterrupt):
        api.train(recipe, data=dataset, out=begun, observer=StopAfterOne())
    (folder / "latent.yaml").write_text(LATENT_RECIPE)
    api.train(folder / "latent.yaml", data=dataset, out=folder / "latent", observer=Silent())
    made = folder / "made"
    made.mkdir()
    for name in ("well", "well_file.hdf5", "dated.nc", "waves3.nc", "waves.zarr", "waves.npz", "waves.npy"):
        api.forecast("baseline:persistence", data=folder / name, steps=2, members=2, out=made / f"{name}.nc")
    api.forecast(run, data=dataset, steps=3, members=2, out=folder / "forecast.nc")
    api.forecast(run, data=dataset, steps=3, members=2, out=folder / "forecast.zarr")
    api.observe(dataset, steps=3, fraction=0.5, out=folder / "observations.nc")
    observed = api.observe(dataset, steps=3, fraction=0.5, out=folder / "observations.csv")
    api.assimilate(run, observations=observed, members=3, out=folder / "analysis.nc")
    api.evaluate(folder / "forecast.nc", truth=dataset, out=folder / "scores.json")
    (folder / "recipe.json").write_text(json.dumps({"name": "fuzz/json", "description": "As JSON."}))
    assert read_recipe(recipe).training.steps == 2


class Silent(StopAfterOne):
    def step(self, done: int, loss: float) -> None: ...


def waves(folder: Path) -> None:
    """Travelling waves as NetCDF-4 with dates, NetCDF-3 with numbers, Zarr, .npz and .npy."""
    x, frames = np.arange(POINTS) * 36.0 / POINTS, np.arange(FRAMES)
    values = np.sin(2 * np.pi * (x / 36.0 - 0.07 * frames[:, None])).astype("float32")
    plain = xr.Dataset(
        {"u": (("time", "x"), values, {"units": "m s-1"})},
        {"time": ("time", frames.astype("float64"), {"units": "s"}), "x": ("x", x, {"units": "m"})},
    )
    plain.to_netcdf(folder / "waves3.nc", engine="scipy", format="NETCDF3_64BIT")
    plain.to_zarr(folder / "waves.zarr", zarr_format=3, consolidated=False)
    latitude, longitude = np.linspace(-60, 60, 4), np.arange(6) * 60.0
    maps = np.cos(np.deg2rad(latitude))[:, None] * np.sin(np.deg2rad(longitude) + 0.5 * frames[:, None, None])
    dated = xr.Dataset(
        {"t": (("time", "lat", "lon"), maps.astype("float32"), {"units": "K"})},
        {
            "time": np.datetime64("2001-01-01", "ns") + frames * np.timedelta64(1, "D"),
            "lat": ("lat", latitude, {"units": "degrees_north"}),
            "lon": ("lon", longitude, {"units": "degrees_east"}),
        },
    )
    dated.to_netcdf(folder / "dated.nc", engine="h5netcdf")
    several = np.stack([np.roll(values, shift, axis=1) for shift in range(3)])
    np.savez(folder / "waves.npz", states=several, x=x, dt=np.float64(0.5), parameters=np.ones((3, 1)))
    np.save(folder / "waves.npy", several)
