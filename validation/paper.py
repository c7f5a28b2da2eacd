"""Twenty steps of every recipe of the published size, on whatever device there is.

    python validation/paper.py [--device cuda] [--only ks64] [--batch 2] [--steps 20]

The data are a few short runs of the recipe's own system and grid, Kolmogorov flow at its stored grid; nothing is scored, and no
checkpoint is kept. Of latent diffusion, whose sizes are a hundred times larger, and of DYffusion single steps of every stage are taken on
random states or latents of the published shape. Writes results/paper-<device>.json: parameters, losses, seconds per step, peak memory.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from eddycast import api
from eddycast.autoencoders import latent_points
from eddycast.conditions import Conditions
from eddycast.emulators import ModelShape, Trainable, TrainingBatch
from eddycast.files import write_json
from eddycast.grid import Grid, periodic_axis
from eddycast.networks import TrainingMasks, masks_from
from eddycast.recipes import Recipe, all_recipes, get_recipe
from eddycast.recipes.dyffusion import PUBLISHED
from eddycast.recipes.latent_diffusion import SYSTEMS as LATENT_SYSTEMS
from eddycast.recipes.record import describe_hardware
from eddycast.recipes.run import seeded_model
from eddycast.simulators import get_system
from eddycast.training import SilentObserver
from eddycast.training.optimiser import build_optimisers

RESULTS = Path(__file__).parent.parent / "results"


class Clock(SilentObserver):
    """Loss and time of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.times: list[float] = []

    def step(self, done: int, loss: float) -> None:
        self.losses.append(loss)
        self.times.append(time.monotonic())


def small_data(name: str) -> api.Dataset:
    """Ten short runs on the grid of the recipe."""
    simulation = get_recipe(name).simulation
    assert simulation is not None, "a paper recipe simulates"
    return api.simulate(
        simulation.system, trajectories=10, steps=12, parameters=simulation.parameters, grid=simulation.grid, dt=simulation.dt,
        spin_up=1.0, initial=simulation.initial, seed=0,
    )  # fmt: skip


def tried(name: str, data: api.Dataset, device: str, steps: int, batch: int) -> dict[str, Any]:
    clock = Clock()
    settings = {
        "training.steps": steps, "training.batch_size": batch, "training.validations": 1, "emulator.num_steps": 1,
        "evaluation.validation_cases": 1, "evaluation.validation_steps": 1, "evaluation.validation_members": 1,
        "training.checkpoint_seconds": 1e9,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        made = api.train(name, data=data, out=Path(place) / "run", overrides=settings, device=device, observer=clock)
        assert made.run is not None
        model = made.run.emulator.model
        assert isinstance(model, torch.nn.Module)
        count = sum(weight.numel() for weight in model.parameters())
    assert all(map(math.isfinite, clock.losses)), clock.losses
    steady = clock.times[len(clock.times) // 2 :]
    return {
        "parameters": count,
        "batch": batch,
        "loss_first": sum(clock.losses[:5]) / 5,
        "loss_last": sum(clock.losses[-5:]) / 5,
        "seconds_per_step": round((steady[-1] - steady[0]) / (len(steady) - 1), 3),
    }


def shape_of(recipe: Recipe) -> tuple[ModelShape, Grid]:
    """What the networks of a recipe see, states or latents of them, and where."""
    assert recipe.simulation is not None, "a paper recipe simulates"
    system = get_system(recipe.simulation.system)
    told = (0.0,) * len(system.info.parameters) * recipe.tell_parameters
    scale = tuple(1.0 for _ in told)
    if recipe.autoencoder is None:
        grid = system.grid(recipe.simulation.grid or system.info.shape)
        fields, static = len(system.info.fields), len(system.info.static)
        return ModelShape(fields, grid.periodic, told, scale, static=static, boundaries=recipe.tell_boundaries), grid
    model = recipe.autoencoder.model
    assert recipe.simulation.grid is not None, "latents have a grid of their own"
    points = latent_points(recipe.simulation.grid, model.factor)
    assert points is not None, "published grids are divisible"
    grid = Grid(tuple(periodic_axis(name, size, 1.0) for name, size in zip("xyz", points, strict=False)))
    return ModelShape(model.latent_channels, grid.periodic, told, scale, boundaries=recipe.tell_boundaries), grid


def single_steps(name: str, device: str, steps: int, batch: int) -> dict[str, Any]:
    """Optimiser steps of every stage of a recipe on random numbers of the published shape, smooth in space."""
    recipe = get_recipe(name)
    shape, grid = shape_of(recipe)
    model = seeded_model(recipe, shape).to(device)
    assert isinstance(model, Trainable)
    generator = torch.Generator(device).manual_seed(0)
    rows, losses, points = {}, [], grid.shape
    static = torch.zeros(shape.static, *points, device=device) if shape.static else None
    told = torch.zeros(batch, len(shape.parameter_mean), device=device)
    conditions = Conditions(grid, 1.0, told, torch.zeros(batch, device=device), static=static)
    for stage in model.stages():
        coarse = (batch, stage.frames, shape.channels, *(max(1, size // 4) for size in points))
        x = torch.randn(coarse, generator=generator, device=device)
        for axis, size in enumerate(points, start=3):
            x = x.repeat_interleave(-(-size // x.shape[axis]), dim=axis).narrow(axis, 0, size)
        optimisers = build_optimisers(
            stage.module, kind=recipe.training.optimiser, learning_rate=recipe.training.learning_rate, weight_decay=0.0
        )
        begun = time.monotonic()
        for step in range(steps):
            with masks_from(TrainingMasks(step, 0, batch, batch)):
                loss = stage.objective(TrainingBatch(x, conditions, generator))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(stage.module.parameters(), recipe.training.clip)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            losses.append(loss.item())
        rows[stage.name] = round((time.monotonic() - begun) / steps, 2)
    assert all(map(math.isfinite, losses)), losses
    return {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "batch": batch,
        "input": [batch, model.stages()[0].frames, shape.channels, *points],
        "losses": losses,
        "seconds_per_step": sum(rows.values()),
        "stages": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    target = RESULTS / f"paper-{options.device.partition(':')[0]}.json"
    rows: dict[str, Any] = json.loads(target.read_text())["rows"] if target.exists() else {}
    data: dict[str, api.Dataset] = {}
    for name in all_recipes():
        if not name.endswith("-paper") or options.only not in name or name in rows:
            continue
        system = name.partition("/")[0]
        if system in LATENT_SYSTEMS or system in PUBLISHED:
            rows[name] = single_steps(name, options.device, min(2, options.steps), 1)
        else:
            data.setdefault(system, small_data(name))
            rows[name] = tried(name, data[system], options.device, options.steps, options.batch)
        print(f"{name:<32} {rows[name]}", flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        write_json(
            target,
            {"provenance": describe_hardware(options.device) | {"seed": 0, "peak_megabytes": peak}, "rows": rows},
        )


if __name__ == "__main__":
    main()
