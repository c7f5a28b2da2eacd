"""Physics checks: energy of springs against the simulator, divergence and slip between bodies, words, files, pages, mistakes."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from eddycast.data import from_arrays
from eddycast.data.arrays import ArraySource
from eddycast.data.dataset import Segment
from eddycast.data.static import StaticFields
from eddycast.errors import InputError
from eddycast.evaluation import Scores, evaluate
from eddycast.evaluation.physics import QUANTITIES
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.metrics import relative_divergence, slip
from eddycast.noise import MemberNoise
from eddycast.report import report_from
from eddycast.simulators.spring_mesh import SpringMesh, energy

CASES, MEMBERS, LEADS, DT = 9, 3, 12, 0.2
MESH = SpringMesh()
NAMES = [field.name for field in MESH.info.fields]


def labelled(draws, grid, names, **attributes):
    dims = ("init", "member", "lead_time", *grid.names)
    return xr.Dataset(
        {name: (dims, draws[:, :, :, channel].float().numpy()) for channel, name in enumerate(names)},
        {
            "trajectory": ("init", np.arange(len(draws))),
            "frame": ("init", np.zeros(len(draws), dtype=int)),
            "lead_time": ("lead_time", DT * np.arange(1, draws.shape[2] + 1), {"units": "1", "step": DT}),
        },
        {"eddycast_kind": "forecast", **attributes},
    )


@pytest.fixture(scope="module")
def springs():
    """Truth with damping 0.5, and the same starts with damping 0.1: the states of a forecast that damps too little."""
    grid = MESH.grid((6, 5))
    start = MESH.initial(torch.empty(CASES, 0), grid, MemberNoise.grid(0, CASES, 1).flatten(), dtype=torch.float64)
    paths = {}
    for damping in (0.5, 0.1):
        parameters = torch.tensor([2.0, 1.5, damping], dtype=torch.float64).expand(CASES, 3)
        flow = MESH.flow(parameters, grid, DT, dtype=torch.float64)
        states = [start]
        for _ in range(LEADS):
            states.append(flow(states[-1]))
        paths[damping] = torch.stack(states, dim=1)
    return grid, paths


def spring_data(springs, names=NAMES, parameters=True):
    grid, paths = springs
    values = torch.tensor([2.0, 1.5, 0.5]).expand(CASES, 3) if parameters else None
    return from_arrays(
        paths[0.5],
        fields=names,
        grid=grid,
        dt=DT,
        parameters=values,
        parameter_names=MESH.info.parameter_names if parameters else (),
        splits={"train": tuple(Segment(one, 0, LEADS + 1) for one in range(CASES))},
        attributes={"system": "spring-mesh"},
    )


def spring_forecast(springs, damping, noise=0.0, names=NAMES):
    grid, paths = springs
    generator = torch.Generator().manual_seed(1)
    draws = paths[damping][:, None, 1:].expand(CASES, MEMBERS, LEADS, 4, *grid.shape)
    return labelled(draws + noise * torch.randn(draws.shape, generator=generator), grid, names)


def test_the_energy_is_that_of_the_simulator_lead_by_lead(springs):
    _, paths = springs
    scores = evaluate(spring_forecast(springs, 0.1), spring_data(springs), resamples=50)
    one = scores.data.sel(quantity="energy")
    for variable, damping in (("physics_truth", 0.5), ("physics_member", 0.1)):
        expected = energy(paths[damping].float().double(), torch.tensor([2.0, 1.5, 0.0])).mean(dim=0)
        np.testing.assert_allclose(one[variable], expected[1:], rtol=1e-5)
        assert float(one["physics_start"]) == pytest.approx(float(expected[0]), rel=1e-5)
    known, own = (energy(paths[damping], torch.tensor([2.0, 1.5, 0.0]))[:, 1:] for damping in (0.5, 0.1))
    np.testing.assert_allclose(one["physics_error"], (own - known).abs().mean(0) / known.mean(0), rtol=1e-4)
    assert (one["physics_member_low"] < one["physics_member"]).all()
    text = scores.table()
    assert "Energy of the springs: " in text and "of the start is left" in text
    (sentence,) = [words for words in scores.diagnosis() if "Energy of the springs" in words]
    assert "too large from" in sentence and "where the truth keeps" in sentence


def test_a_sound_forecast_breaks_no_law(springs):
    scores = evaluate(spring_forecast(springs, 0.5, noise=1e-3), spring_data(springs), resamples=50)
    assert not any("Energy of the springs" in words for words in scores.diagnosis())
    assert scores.data["physics_error"].sel(quantity="energy").max() < 0.05


def test_fields_of_ones_own_are_taken_by_name_and_constants_are_one(springs):
    _, paths = springs
    short = ["p_x", "p_y", "q_x", "q_y"]
    scores = evaluate(
        spring_forecast(springs, 0.5, names=short), spring_data(springs, short, parameters=False), resamples=10
    )
    expected = energy(paths[0.5], torch.tensor([1.0, 1.0, 0.0])).mean(dim=0)
    np.testing.assert_allclose(scores.data["physics_truth"].sel(quantity="energy"), expected[1:], rtol=1e-5)
    forecast = spring_forecast(springs, 0.5, names=short)
    none = evaluate(forecast, spring_data(springs, short), resamples=10, quantities=[])
    assert "physics_truth" not in none.data
    with pytest.raises(InputError, match="'divergence' needs a velocity component"):
        evaluate(spring_forecast(springs, 0.5), spring_data(springs), quantities=["divergence"])
    with pytest.raises(InputError, match="use energy, kinetic-energy, divergence, slip"):
        evaluate(spring_forecast(springs, 0.5), spring_data(springs), quantities=["entropy"])


COLUMNS, ROWS = 12, 7
CHANNEL = Grid(
    (
        Axis("x", tuple(0.1 * k for k in range(COLUMNS)), ("open", "open")),
        Axis("y", tuple(0.1 * k for k in range(ROWS)), ("wall", "wall")),
    )
)


def masks():
    bodies = torch.zeros(COLUMNS, ROWS)
    bodies[5:8, 2:4] = 1
    prescribed = bodies.clone()
    prescribed[:, 0] = prescribed[:, -1] = prescribed[0] = 1
    return torch.stack([prescribed, bodies])


@pytest.fixture(scope="module")
def flow():
    """A parabola that waxes, at rest in the body, and an ensemble that adds noise everywhere."""
    y = torch.arange(ROWS) / (ROWS - 1)
    growth = 1 + 0.1 * torch.arange(LEADS + 1)[:, None, None] + 0.05 * torch.arange(CASES)[:, None, None, None]
    u = growth * (4 * y * (1 - y)) * (1 - masks()[1])
    states = torch.stack([u, 0 * u, -u], dim=2)
    data = from_arrays(
        states,
        fields=["u", "v", "pressure"],
        grid=CHANNEL,
        dt=DT,
        static=masks(),
        static_names=["dirichlet_mask", "obstacle_mask"],
        splits={"train": tuple(Segment(one, 0, LEADS + 1) for one in range(CASES))},
    )
    noise = torch.randn(CASES, MEMBERS, LEADS, 3, COLUMNS, ROWS, generator=torch.Generator().manual_seed(2))
    return states, data, states[:, None, 1:] + 0.2 * noise


def test_divergence_and_slip_stand_beside_those_of_the_truth(flow, tmp_path):
    states, data, draws = flow
    names = ["u", "v", "pressure"]
    scores = evaluate(labelled(draws, CHANNEL, names), data, resamples=50)
    assert scores.data["quantity"].values.tolist() == ["slip", "divergence"]  # unasked, where there are bodies
    prescribed, bodies = masks() > 0.5
    solid = bodies.clone()
    solid[1:] |= prescribed[1:]
    slipping = slip(draws[:, :, :, :2], solid, ~prescribed).mean(dim=(0, 1))
    np.testing.assert_allclose(scores.data["physics_member"].sel(quantity="slip"), slipping, rtol=1e-5)
    assert (scores.data["physics_truth"].sel(quantity="slip") == 0).all()
    split = relative_divergence(draws[:, :, :, :2], CHANNEL).mean(dim=(0, 1))
    np.testing.assert_allclose(scores.data["physics_member"].sel(quantity="divergence"), split, rtol=1e-5)
    assert np.isnan(scores.data["physics_error"].values).all()  # a residual has no share of the truth
    sentences = [words for words in scores.diagnosis() if " where the truth has " in words]
    assert [words.split(" ")[0] for words in sentences] == ["Slip:", "Divergence"]
    sound = evaluate(labelled(states[:, None, 1:].repeat(1, 2, 1, 1, 1, 1), CHANNEL, names), data, resamples=20)
    assert not [words for words in sound.diagnosis() if " where the truth has " in words]
    path = scores.to_json(tmp_path / "one.json")
    assert json.loads(path.read_text())["summary"]["physics"]["slip"]["last_lead"]["truth"] == 0.0
    assert Scores.from_json(path).diagnosis() == scores.diagnosis()
    page = report_from([path], tmp_path / "page.html").read_text()
    assert all(QUANTITIES[name].title in page for name in ("slip", "divergence")) and ">Physics<" in page


def test_masks_may_differ_between_trajectories(flow):
    """Each case is held against the bodies of its own trajectory."""
    _, data, draws = flow
    moved = torch.stack([masks().roll(-one % 3, dims=1) for one in range(CASES)])
    moved[:, 0, :, 0] = 1
    own = replace(data, static=StaticFields(ArraySource(tuple(one[None] for one in moved))))
    scores = evaluate(labelled(draws, CHANNEL, ["u", "v", "pressure"]), own, resamples=10)
    expected = []
    for case in range(CASES):
        prescribed, bodies = moved[case] > 0.5
        walls = prescribed.clone()
        walls[0] = False
        expected.append(slip(draws[case, :, :, :2], bodies | walls, ~(bodies | prescribed)).mean(dim=0))
    found = scores.data["physics_member"].sel(quantity="slip")
    np.testing.assert_allclose(found, torch.stack(expected).mean(dim=0), rtol=1e-5)


def test_a_velocity_of_a_periodic_box_is_checked_where_asked_for():
    x = torch.arange(16) * 2 * math.pi / 16
    grid = Grid((periodic_axis("x", 16, 2 * math.pi), periodic_axis("y", 16, 2 * math.pi)))
    flow = torch.stack([torch.sin(x)[None, :] + 0 * x[:, None], torch.cos(x)[:, None] + 0 * x[None, :]])
    states = flow * torch.linspace(1, 2, LEADS + 1)[:, None, None, None] + torch.zeros(CASES, 1, 1, 1, 1)
    names = ["velocity_x", "velocity_y"]
    data = from_arrays(states, fields=names, grid=grid, dt=DT)
    forecast = labelled(1.1 * states[:, None, 1:], grid, names)
    plain = evaluate(forecast, data, resamples=10)
    assert "physics_member" not in plain.data
    scores = evaluate(forecast, data, resamples=10, quantities=["kinetic-energy", "divergence"], derive="vorticity")
    factor = torch.linspace(1, 2, LEADS + 1)[1:] ** 2 / 2
    np.testing.assert_allclose(scores.data["physics_truth"].sel(quantity="kinetic-energy"), factor, rtol=1e-5)
    np.testing.assert_allclose(scores.data["physics_error"].sel(quantity="kinetic-energy"), 0.21, rtol=1e-4)
    assert (scores.data["physics_member"].sel(quantity="divergence") < 1e-6).all()
    (sentence,) = [words for words in scores.diagnosis() if "Kinetic energy" in words]
    assert "too large" in sentence and "1.2 times" in sentence
