"""Unknown parameters in the ensemble: an exact linear case, Kuramoto-Sivashinsky with an unknown coefficient, laws of the prior."""

from __future__ import annotations

import pytest
import torch

from eddycast.assimilation import (
    ETKFOptions,
    LETKFOptions,
    OnlineTask,
    assimilate,
    assimilate_online,
    gather_findings,
    start_cycle,
)
from eddycast.assimilation.parameters import ParameterPriors
from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.observations import Observations
from eddycast.simulators import get_system, simulate

POINTS = 4
NAMES = ("rate", "forcing")


class Forced:
    """x' = M x + forcing: linear in state and parameter together."""

    context = 1
    matrix = torch.tensor(
        [[0.9, 0.2, 0, 0], [-0.2, 0.9, 0.1, 0], [0, -0.1, 0.8, 0.3], [0.1, 0, -0.3, 0.8]], dtype=torch.float64
    )

    def advance(self, context, conditions: Conditions, lead_times, *, noise, first_window=0):
        x, states = context[..., -1, :, :], []
        for _ in lead_times:
            x = x @ self.matrix.T + conditions.parameters[..., 1, None, None]
            states.append(x)
        return torch.stack(states, dim=-3)


def seen(num_times: int = 5) -> Observations:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, num_times, 1, POINTS, generator=generator, dtype=torch.float64)
    values[..., 1] = torch.nan
    return Observations(
        values=values, noise_std=torch.tensor([0.4], dtype=torch.float64), grid=Grid((periodic_axis("x", POINTS, 1.0),)),
        fields=(("u", "1"),), dt=1.0, trajectories=torch.arange(2), frames=torch.zeros(2, dtype=torch.long),
        parameters=torch.tensor([[5.0, 9.0], [6.0, 9.0]], dtype=torch.float64), parameter_names=NAMES,
    )  # fmt: skip


def start(members: int) -> torch.Tensor:
    return torch.randn(members, 2, 1, 1, POINTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("mode", ["filter", "smooth"])
def test_a_linear_case_is_the_kalman_filter_of_state_and_parameter(mode):
    """The path and the parameter are linear in (x_0, forcing): their law given the observations, exactly, at every frame."""
    obs, background, members = seen(), start(9), 9
    options = ETKFOptions(inflation=1.0, estimate={"forcing": (0.0, 0.7)})
    with gather_findings() as found:
        analysis = assimilate(
            "etkf",
            Forced(),
            obs,
            obs.conditions(),
            members=members,
            seed=2,
            mode=mode,
            background=background,
            options=options,
        )
    posterior = found["parameters"]["forcing"]
    assert posterior.shape == (members, 2, 5)
    priors = ParameterPriors.of(options.estimate, NAMES)
    drawn = priors.draw(MemberNoise.grid(2, obs.trajectories, members))
    row = torch.zeros(5, dtype=torch.float64)
    row[-1] = 1
    paths = [torch.eye(POINTS, POINTS + 1, dtype=torch.float64)]
    for _ in range(4):
        paths.append(Forced.matrix @ paths[-1] + row)
    for case in range(2):
        z = torch.cat([background[:, case, 0, 0], drawn[:, case]], dim=1)
        p, mean = torch.cov(z.T), z.mean(dim=0)
        for k in range(5):
            known = range(k + 1) if mode == "filter" else range(5)
            h = torch.cat([paths[j][obs.mask[case, j, 0]] for j in known])
            y = torch.cat([obs.values[case, j, 0][obs.mask[case, j, 0]] for j in known])
            gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + 0.16 * torch.eye(len(h), dtype=torch.float64))
            right, spread = mean + gain @ (y - h @ mean), p - gain @ h @ p
            torch.testing.assert_close(analysis[:, case, k, 0].mean(dim=0), paths[k] @ right, rtol=0, atol=1e-9)
            torch.testing.assert_close(posterior[:, case, k].mean(), right[-1], rtol=0, atol=1e-9)
            torch.testing.assert_close(posterior[:, case, k].var(), spread[-1, -1], rtol=0, atol=1e-9)


def test_priors_have_their_mean_and_deviation_and_positive_ones_stay_positive():
    priors = ParameterPriors.of({"forcing": (-1.0, 0.5), "rate": (2.0, 1.5)}, NAMES)
    assert priors.columns == (1, 0) and priors.positive == (False, True)
    z = priors.draw(MemberNoise.grid(0, 3, 4000))
    values = priors.physical(z)
    torch.testing.assert_close(values[..., 0].mean(dim=0), torch.full((3,), -1.0, dtype=torch.float64))
    torch.testing.assert_close(values[..., 0].std(dim=0), torch.full((3,), 0.5, dtype=torch.float64))
    # log-normal of mean 2 and deviation 1.5: the logarithms are exact, the values to their sampling error
    assert (values[..., 1].mean(dim=0) - 2).abs().max() < 4 * 1.5 / 4000**0.5
    assert (values[..., 1].std(dim=0) / 1.5 - 1).abs().max() < 0.15
    assert values[..., 1].min() > 0
    conditions = seen().conditions().select(torch.tensor([0, 1, 1])).expand(4000)
    told = priors.told(conditions, z)
    torch.testing.assert_close(told.parameters.double(), values.flip(-1), rtol=1e-6, atol=1e-6)
    assert torch.equal(conditions.parameters[0, :, 1], torch.full((3,), 9.0, dtype=torch.float64))


def test_a_random_walk_adds_its_variance_and_the_floor_holds_the_spread():
    priors = ParameterPriors.of({"forcing": (-1.0, 0.5)}, NAMES)
    noise = MemberNoise.grid(0, 2, 3000)
    z = priors.draw(noise)
    walked = priors.walked(z, 0.8, noise, frame=3)
    assert (walked.var(dim=0) / (0.25 * (1 + 0.64)) - 1).abs().max() < 4 * (2 / 3000) ** 0.5
    tight = 0.1 * z - 0.9
    held = priors.kept_apart(tight, 0.5)
    torch.testing.assert_close(held.std(dim=0), torch.full((2, 1), 0.25, dtype=torch.float64))
    torch.testing.assert_close(held.mean(dim=0), tight.mean(dim=0))
    assert torch.equal(priors.kept_apart(z, 0.5), z) and torch.equal(priors.walked(z, 0.0, noise, frame=3), z)


def test_floor_and_walk_act_in_the_cycle():
    obs, background = seen(), start(9)
    spreads = []
    for changes in ({}, {"floor": 0.8}, {"walk": 0.5}):
        options = ETKFOptions(inflation=1.0, estimate={"forcing": (0.0, 0.7)}, **changes)
        cycle = start_cycle(
            "etkf",
            Forced(),
            obs.conditions(),
            members=9,
            seed=2,
            background=background,
            options=options,
            parameter_names=NAMES,
        )
        cycle.run(obs, 1)
        spreads.append(cycle.standing.parameters.std(dim=0).mean().item())
    assert spreads[0] < 0.4 * 0.7 < 0.8 * 0.7 - 1e-12 <= spreads[1] + 1e-9
    assert spreads[2] > 1.2 * spreads[0]


def test_what_cannot_be_estimated_is_told():
    obs = seen()
    settings = {"members": 9, "seed": 2, "background": start(9)}
    for estimate, words in (
        ({"viscosity": (1.0, 0.1)}, "no parameter 'viscosity' to estimate: the observations have rate, forcing"),
        ({"rate": (1.0, 0.0)}, "prior of rate must be a finite mean and a positive deviation"),
    ):
        with pytest.raises(InputError, match=words):
            assimilate("etkf", Forced(), obs, obs.conditions(), options=ETKFOptions(estimate=estimate), **settings)
    for changes in ({"walk": -1.0}, {"floor": 2.0}):
        with pytest.raises(InputError, match="must"):
            ETKFOptions(**changes)


@pytest.fixture(scope="module")
def unknown_viscosity():
    """Two runs with viscosities 0.8 and 1.3 that the method takes for 1.0 give or take 0.3; every third point seen, error 0.3."""
    system, frames, members = get_system("kuramoto-sivashinsky-viscous"), 40, 32
    true = torch.tensor([0.8, 1.3], dtype=torch.float64)
    runs = [
        simulate(system, trajectories=1, steps=frames, parameters={"viscosity": float(value)}, grid_shape=(64,), seed=4)
        for value in true
    ]
    truth = torch.cat([run.states[:, :frames] for run in runs]).double()
    generator = torch.Generator().manual_seed(0)
    values = truth + 0.3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    values[..., torch.arange(64) % 3 > 0] = torch.nan
    parameters = torch.cat([run.parameters for run in runs])
    obs = Observations(
        values=values, noise_std=torch.tensor([0.3], dtype=torch.float64), grid=runs[0].grid, fields=(("u", "1"),),
        dt=runs[0].dt, trajectories=torch.arange(2), frames=torch.zeros(2, dtype=torch.long),
        parameters=torch.cat([parameters[:, :1], torch.ones(2, 1)], dim=1), parameter_names=system.info.parameter_names,
    )  # fmt: skip
    background = truth[:, :1] + 0.5 * torch.randn(members, 2, 1, 1, 64, generator=generator, dtype=torch.float64)
    return obs, truth, background, true, Emulator(SolverModel(system, inner_dt=0.25), IdentitySpace())


@pytest.mark.parametrize("name", ["etkf", "letkf"])
def test_an_unknown_viscosity_is_found_and_the_states_gain(unknown_viscosity, name):
    """The error of viscosity falls to a fifth of the prior's deviation of 0.3, within what the ensemble says of it; the error of the
    states to below that of a filter that holds the prior mean for true."""
    obs, truth, background, true, solver = unknown_viscosity
    kind = {"etkf": ETKFOptions, "letkf": LETKFOptions}[name]
    settings = {"members": 32, "seed": 0, "mode": "filter", "background": background}
    options = kind(inflation=1.05, estimate={"viscosity": (1.0, 0.3)}, floor=0.1)
    with gather_findings() as found:
        analysis = assimilate(name, solver, obs, obs.conditions(), options=options, **settings)
    posterior = found["parameters"]["viscosity"][:, :, -1]
    error = (posterior.mean(dim=0) - true).abs()
    assert (error < 0.06).all(), posterior.mean(dim=0)
    assert (error < 3.5 * posterior.std(dim=0)).all()
    held = assimilate(name, solver, obs, obs.conditions(), options=kind(inflation=1.05), **settings)
    errors = [(one.mean(dim=0) - truth)[:, 20:].square().mean().sqrt().item() for one in (analysis, held)]
    assert errors[0] < 0.75 * errors[1], errors


def test_forecasts_of_the_online_task_run_with_what_was_found(unknown_viscosity):
    """After 16 frames the forecasts of 8 frames beyond are better than with the prior mean."""
    obs, truth, background, _, solver = unknown_viscosity
    errors = []
    for estimate in ({"viscosity": (1.0, 0.3)}, {}):
        with gather_findings() as found:
            made = assimilate_online(
                "etkf", solver, obs.window(0, 32), obs.conditions(), task=OnlineTask(8, 16), members=32, seed=0,
                background=background, options=ETKFOptions(inflation=1.05, estimate=estimate),
            )  # fmt: skip
        ahead = made[:, :, 2, 8:].mean(dim=0)
        errors.append((ahead - truth[:, 24:32]).square().mean().sqrt().item())
        assert ("parameters" in found) == bool(estimate)
    assert errors[0] < 0.8 * errors[1], errors
