"""What an autoencoder loses, as an error of the observations: its size where it is known, and the posterior with and without it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from exact_windows import ExactWindow, chain
from torch import Tensor

from eddycast import api
from eddycast.assimilation import MMPSOptions, assimilate, enlarged, is_lossy, representation_of, representation_std
from eddycast.conditions import Conditions
from eddycast.data import Normalisation
from eddycast.emulators import Emulator, IdentitySpace
from eddycast.grid import Grid, periodic_axis
from eddycast.observations import CoarsenOperator, MaskOperator, Observations, observe
from eddycast.training import SilentObserver

POINTS, MODES = 60, 5
GRID = Grid((periodic_axis("x", POINTS, 1.0),))
LOST = 0.5


def low_modes() -> Tensor:
    """Orthonormal columns, (POINTS, MODES): the mean and the first two pairs of sine and cosine."""
    angle = 2 * math.pi * torch.arange(POINTS, dtype=torch.float64) / POINTS
    waves = [function(k * angle) for k in (1, 2) for function in (torch.cos, torch.sin)]
    return torch.stack([torch.ones(POINTS, dtype=torch.float64) / 2**0.5, *waves], dim=1) * (2 / POINTS) ** 0.5


@dataclass(frozen=True)
class LowModes:
    """A linear autoencoder that drops all other modes; z has unit variance where x has POINTS / MODES of it in these modes."""

    lossy: bool = True
    scale: float = (POINTS / MODES) ** 0.5

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        return state @ low_modes().to(state) / self.scale

    def decode(self, x: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        return self.scale * x @ low_modes().to(x).T


def truth(cases: int, frames: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latent chains of memory 0.8 in time, and states that have white noise of LOST in the other modes: (case, time, 1, *)."""
    generator = torch.Generator().manual_seed(seed)
    z = chain(0.8, points=MODES).draw(cases, frames, seed=seed)
    noise = LOST * torch.randn(cases, frames, 1, POINTS, generator=generator, dtype=torch.float64)
    space, where = LowModes(), plain(cases)
    rest = noise - space.decode(space.encode(noise, where, z), where, z)
    return z, space.decode(z, where, z) + rest


def plain(cases: int) -> Conditions:
    return Conditions(GRID, 1.0, torch.zeros(cases, 0), torch.zeros(cases))


SENSORS = torch.arange(POINTS) % (POINTS // MODES) == 0
"""So far apart that what is lost is independent from one to the next: the low modes' covariance is zero there."""


def seen(states: Tensor, std: float = 0.1, **changes) -> Observations:
    settings = {"grid": GRID, "fields": (("u", "1"),), "dt": 1.0, "noise_std": torch.tensor([std]).double(), "seed": 1}
    return observe(states, **(settings | (changes or {"positions": SENSORS})))


def test_the_error_seen_by_points_and_block_means_is_that_of_the_dropped_modes():
    """White noise without m of n modes has the variance LOST^2 (1 - m / n) at each point; block means of 4 keep a known part of it."""
    _, states = truth(400, 1, seed=3)
    found = representation_std(LowModes(), states, plain(400), MaskOperator(torch.tensor(True)))
    assert found.shape == (1,) and found.dtype == torch.float64
    assert found.item() == pytest.approx(LOST * (1 - MODES / POINTS) ** 0.5, rel=0.02)
    rest = torch.eye(POINTS, dtype=torch.float64) - low_modes() @ low_modes().T
    means = torch.eye(POINTS // 4, dtype=torch.float64).repeat_interleave(4, dim=1) / 4
    exact = LOST * (means @ rest @ means.T).diagonal().mean().sqrt().item()
    assert representation_std(LowModes(), states, plain(400), CoarsenOperator((4,))).item() == pytest.approx(
        exact, rel=0.03
    )
    assert exact < 0.5 * found.item()


def test_entries_count_as_often_as_they_are_observed():
    """Two fields, one exact on the left half and wrong by 2 on the right, the other never observed."""

    class RightWrong:
        lossy = True

        def encode(self, state, conditions, lead_times):
            return state

        def decode(self, x, conditions, lead_times):
            return x + 2.0 * (torch.arange(POINTS) >= POINTS // 2)

    states = torch.randn(7, 2, POINTS, generator=torch.Generator().manual_seed(0))
    values = torch.full((1, 4, 2, POINTS), torch.nan)
    values[0, :, 0, 0] = 0.0  # exact, at four times
    values[0, :2, 0, -1] = 0.0  # wrong by 2, at two times
    obs = Observations(
        values, torch.ones(2), GRID, (("u", "1"), ("v", "1")), 1.0, torch.zeros(1).long(), torch.zeros(1).long()
    )
    found = representation_of(obs, RightWrong(), states, obs.conditions())
    assert found.tolist() == pytest.approx([(4 * 2 / 6) ** 0.5, 0.0], rel=1e-6)


def test_the_chunks_of_states_do_not_matter_and_conditions_belong_to_their_states():
    class ScaledByParameter:
        lossy = True

        def encode(self, state, conditions, lead_times):
            return state

        def decode(self, x, conditions, lead_times):
            return x + conditions.parameters[:, :, None, None]

    conditions = Conditions(GRID, 1.0, torch.arange(40.0)[:, None], torch.zeros(40))
    states = torch.zeros(40, 1, 1, POINTS)
    found = representation_std(ScaledByParameter(), states, conditions, MaskOperator(torch.tensor(True)))
    assert found.item() == pytest.approx((torch.arange(40.0) ** 2).mean().sqrt().item())


def test_errors_add_as_variances_in_each_field():
    _, states = truth(2, 3, seed=0)
    obs = seen(states, std=0.3)
    total = enlarged(obs, torch.tensor([0.4], dtype=torch.float64))
    assert total.noise_std.item() == pytest.approx(0.5) and total.noise_std.dtype == obs.noise_std.dtype
    assert torch.equal(total.filled, obs.filled)


def test_spaces_are_lossy_only_where_they_say_so():
    assert is_lossy(LowModes()) and not is_lossy(IdentitySpace())
    assert not is_lossy(Normalisation(torch.zeros(1, 1, 1), torch.ones(1, 1), torch.ones(1), ("u",)))


def chi_square(analysis: Tensor, z: Tensor) -> float:
    """Mean of (z - mean)^2 / variance of an analysis (member, case, time, 1, *), less what a finite ensemble adds; 1 if calibrated."""
    members = len(analysis)
    latent = LowModes().encode(analysis, plain(1), z)
    square = (z - latent.mean(dim=0)).square() / latent.var(dim=0)
    return square.mean().item() * members / (members + 1) * (members - 3) / (members - 1)


def test_the_posterior_is_calibrated_with_it_and_over_confident_without():
    """40 cases of 4 frames and 5 latent numbers: chance is 0.06. The exact posterior of z takes R = (stated^2 + lost^2) I here."""
    cases, frames, stated = 40, 4, 0.1
    z, states = truth(cases, frames, seed=5)
    _, known = truth(64, 1, seed=6)
    obs = seen(states, std=stated)
    emulator = Emulator(ExactWindow(chain(0.8, points=MODES), frames), LowModes(), chunk=4096)
    options = MMPSOptions(iterations=8, num_steps=24, sampler="heun")

    def analysis(observations: Observations) -> Tensor:
        return assimilate(
            "mmps", emulator, observations, observations.conditions(), members=48, seed=0, options=options
        )

    std = representation_of(obs, emulator.space, known[:, 0], obs.conditions())
    assert std.item() == pytest.approx(LOST * (1 - MODES / POINTS) ** 0.5, rel=0.1)  # 320 numbers
    total = enlarged(obs, std)
    with_it, without = analysis(total), analysis(obs)
    assert 0.8 < chi_square(with_it, z) < 1.25
    assert chi_square(without, z) > 5

    # and it is that posterior: mean and spread of one case against Gaussian conditioning
    h = torch.kron(torch.eye(frames, dtype=torch.float64), LowModes().scale * low_modes()[SENSORS])
    prior = chain(0.8, points=MODES).covariance(frames)
    gain = torch.linalg.solve(h @ prior @ h.T + total.noise_std.item() ** 2 * torch.eye(len(h)), h @ prior).T
    exact = (obs.values[:, :, 0, SENSORS].flatten(1) @ gain.T).reshape(z.shape)
    spread = (prior - gain @ h @ prior).diagonal().sqrt().reshape(z.shape[1:])
    latent = LowModes().encode(with_it, plain(1), z)
    assert ((latent.mean(dim=0) - exact) / spread).square().mean().sqrt() < 0.2  # 0.14 is chance
    assert (latent.std(dim=0) / spread).mean().item() == pytest.approx(1, abs=0.05)


@dataclass(frozen=True)
class Coarse:
    """The space of a run with an autoencoder that forgets every second point and repeats its neighbour."""

    space: Normalisation
    lossy: bool = True

    def encode(self, state, conditions, lead_times):
        return self.space.encode(state, conditions, lead_times)[..., ::2].repeat_interleave(2, dim=-1)

    def decode(self, x, conditions, lead_times):
        return self.space.decode(x, conditions, lead_times)


FEW, OFF = {"num_steps": 2}, {"representation": "false"}


def test_an_analysis_with_a_run_measures_it_on_the_training_states_and_says_so(tmp_path):
    data = api.simulate("kuramoto-sivashinsky", trajectories=8, steps=16, seed=0)
    settings = {"training.steps": 2}
    made = api.train(
        "ks/universal-smoke", data=data, out=tmp_path / "run", overrides=settings, observer=SilentObserver()
    )
    obs = api.observe(data, steps=4, fraction=1.0)
    assert made.run is not None
    lossless = made.assimilate(obs, members=2, overrides=FEW)
    field = obs.fields[0][0]
    assert "representation_std" not in lossless[field].attrs
    space = Coarse(made.run.space)  # type: ignore[arg-type]
    lossy = replace(made, run=replace(made.run, space=space))
    told = lossy.assimilate(obs, members=2, overrides=FEW)
    states = made.run.climatology()[:64]
    exact = (states[..., 1::2] - states[..., ::2]).square().mean().div(2).sqrt().item()
    assert told[field].attrs["representation_std"] == pytest.approx(exact, rel=1e-4)
    plain_obs = lossy.assimilate(obs, members=2, overrides=FEW | OFF)
    assert "representation_std" not in plain_obs[field].attrs
    by_hand = replace(obs, noise_std=(obs.noise_std.double() ** 2 + exact**2).sqrt().to(obs.noise_std))
    again = lossy.assimilate(by_hand, members=2, overrides=FEW | OFF)
    assert abs(again[field].values - told[field].values).max() < 1e-3
    assert abs(plain_obs[field].values - told[field].values).max() > 1e-2
    name = "eddycast_observed_departure_rms"  # in units of the error that was reckoned with, whoever enlarged it
    assert told.attrs[name] == pytest.approx(again.attrs[name], rel=1e-2)
