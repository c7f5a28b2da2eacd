"""The cycle: restart, memory, forecasts, divergence, observations that look at two frames; laws asked of every method that cycles."""

from __future__ import annotations

import gc
import sys
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from exact_windows import MEAN, STD, chain, emulator, observed
from safetensors.torch import load, save

from eddycast.assimilation import (
    EnKFOptions,
    EnsembleSmootherOptions,
    ETKFOptions,
    LETKFOptions,
    MMPSOptions,
    assimilate,
    gather_findings,
    start_cycle,
)
from eddycast.conditions import Conditions
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement, Observations
from eddycast.simulators import get_system, simulate

SITES, CASES, MEMBERS = 12, 2, 8
RINGS = get_system("lorenz-96")
SOLVER = Emulator(SolverModel(RINGS), IdentitySpace())


def twin(
    frames: int, *, std: float = 0.5, every: int = 1, seed: int = 0
) -> tuple[Observations, torch.Tensor, torch.Tensor]:
    """Observations of a Lorenz-96 run at every other site, the truth and a climatological background."""
    made = simulate(RINGS, trajectories=CASES, steps=frames, grid_shape=(SITES,), seed=seed)
    truth = made.states[:, :frames].double()
    generator = torch.Generator().manual_seed(seed)
    values = truth + std * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    values[..., 1::2] = torch.nan
    values[:, torch.arange(frames) % every != 0] = torch.nan
    seen = Observations(
        values=values, noise_std=torch.tensor([std], dtype=torch.float64), grid=made.grid, fields=(("u", "1"),),
        dt=made.dt, trajectories=torch.arange(CASES), frames=torch.zeros(CASES, dtype=torch.long),
        parameters=made.parameters, parameter_names=("forcing",),
    )  # fmt: skip
    kick = torch.randn(MEMBERS, CASES, 1, 1, SITES, generator=generator, dtype=torch.float64)
    return seen, truth, truth[:, :1] + std * kick


def cycle_of(name, seen, background, *, options=None, model=SOLVER, **changes):
    settings = {"members": MEMBERS, "seed": 3, "cases": seen.trajectories, "background": background, "options": options}
    return start_cycle(name, model, seen.conditions(), **settings | {"parameter_names": seen.parameter_names} | changes)


KINDS = {
    "etkf": ETKFOptions(rotate=True, rtps=0.2, passes=2),
    "enkf": EnKFOptions(inflation=1.05, estimate={"forcing": (7.0, 1.0)}, walk=0.1),
    "letkf": LETKFOptions(radius=4.0, rotate=True),
    "ensemble-smoother": EnsembleSmootherOptions(),
    "3dvar": None,
    "mmps": MMPSOptions(num_steps=2, iterations=1),
}


@pytest.mark.parametrize("name, block", [*((name, 3) for name in KINDS), ("etkf", 1), ("enkf", 1), ("mmps", 1)])
def test_a_cycle_that_was_stored_goes_on_bit_by_bit(name, block):
    if name == "mmps":
        seen, background, model = observed(chain(0.8), 12), None, emulator(chain(0.8), 5)
    else:
        (seen, _, background), model = twin(12, every=2), SOLVER
    whole, first = (cycle_of(name, seen, background, options=KINDS[name], model=model) for _ in range(2))
    expected = [whole.step(seen, start, start + block) for start in range(0, 12, block)]
    ahead = whole.forecast(4)
    for start in range(0, 6, block):
        first.step(seen, start, start + block)
    stored = save(first.state_dict())
    again = cycle_of(name, seen, background, options=KINDS[name], model=model)
    again.load_state_dict(load(stored))
    later = [again.step(seen, start, start + block) for start in range(6, 12, block)]
    for found, right in zip(later, expected[6 // block :], strict=True):
        assert torch.equal(found, right)
    assert torch.equal(again.forecast(4), ahead)
    assert again.forecast(4).isfinite().all()
    for name_of, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name_of])


def test_a_state_of_another_cycle_is_told():
    seen, _, background = twin(3)
    cycle = cycle_of("etkf", seen, background)
    cycle.step(seen)
    with pytest.raises(InputError, match="seed 3, this one has 4"):
        cycle_of("etkf", seen, background, seed=4).load_state_dict(cycle.state_dict())
    with pytest.raises(InputError, match="8 members of 2 cases, this cycle has 4"):
        cycle_of("etkf", seen, background, members=4).load_state_dict(cycle.state_dict())
    with pytest.raises(InputError, match="lacks begun, block, frame, seed"):
        cycle.load_state_dict({})
    with pytest.raises(InputError, match=r"Frames \[2, 9\) are not within the 3"):
        cycle.step(seen, 2, 9)


@pytest.mark.parametrize("mode, block", [("filter", 1), ("smooth", 6)])
@pytest.mark.parametrize("name", ["etkf", "enkf", "letkf"])
def test_steps_are_the_analysis_and_a_forecast_changes_nothing(name, mode, block):
    seen, _, background = twin(6)
    whole = assimilate(name, SOLVER, seen, seen.conditions(), members=MEMBERS, seed=3, mode=mode, background=background)
    cycle = cycle_of(name, seen, background)
    parts = []
    for start in range(0, 6, block):
        parts.append(cycle.step(seen, start, start + block))
        cycle.forecast(3)
    assert torch.equal(torch.cat(parts, dim=2), whole)


def test_a_forecast_goes_on_from_the_analysis():
    seen, _, background = twin(4)
    cycle = cycle_of("etkf", seen, background)
    analysis = cycle.step(seen)
    direct = SOLVER.advance(
        analysis[:, :, -1:],
        seen.conditions().shifted(3).expand(MEMBERS),
        torch.arange(1.0, 4.0),
        noise=MemberNoise.grid(0, CASES, MEMBERS),
    )
    torch.testing.assert_close(cycle.forecast(3), direct, rtol=0, atol=1e-12)


class Ring:
    """Shifts and damps about a mean: a forecast model that costs nothing."""

    context = 1

    def advance(self, context, conditions, lead_times, *, noise, first_window=0):
        x, states = context[..., -1, :, :], []
        for step in range(len(lead_times)):
            x = 0.97 * x.roll(1, dims=-1)
            if noise is not None:
                x = x + 0.2 * noise.draw(tuple(x.shape[2:]), key=(first_window + step, 0, "model"), dtype=x.dtype)
            states.append(x)
        return torch.stack(states, dim=-3)


def test_memory_is_flat_over_a_thousand_cycles():
    """Bytes in tensors and blocks of Python's memory are the same after 50 and after 1000 cycles, and the filter stays right."""
    seen, _, background = twin(1)
    seen = replace(seen, values=torch.where(seen.mask, 0.0, torch.nan).to(seen.values))
    start = 0.1 * (background - background.mean(dim=0))
    cycle = cycle_of("etkf", seen, start, model=Ring(), options=ETKFOptions(rtps=0.2))

    def held() -> tuple[int, int]:
        gc.collect()
        tensors = (one for one in gc.get_objects() if type(one) is torch.Tensor)
        return sum(one.untyped_storage().nbytes() for one in tensors), sys.getallocatedblocks()

    for number in range(1000):
        cycle.step(seen)
        if number == 50:
            before = held()
    after = held()
    assert after[0] == before[0]
    assert after[1] - before[1] < 500  # a list that grew by one entry in each cycle would have 950 more
    assert int(cycle.state_dict()["frame"]) == 1000 and cycle.divergence is None
    assert cycle.state_dict()["states"].abs().max() < 4


def test_a_good_filter_is_not_warned_of_and_its_misfit_is_one():
    seen, truth, background = twin(80)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        cycle = cycle_of("letkf", seen, background, options=LETKFOptions(radius=6.0, inflation=1.04))
        analysis = cycle.run(seen, 1)
    assert cycle.divergence is None
    error = (analysis.mean(dim=0) - truth)[:, 20:].square().mean().sqrt()
    assert error < 0.35  # of 0.5 observed at every other site; climatology has 3.6
    misfit = cycle.standing.misfit
    assert ((misfit[:, 0] / misfit[:, 1]) - 1).abs().max() < 0.6  # 10 analyses of 6 values: 0.18 is one deviation


def test_divergence_is_told_once_in_one_line_and_never_silent():
    """Members that agree far from the truth: the filter believes itself. And members that are one and the same."""
    seen, _, background = twin(40)
    wrong = background.mean(dim=0, keepdim=True) + 1e-3 * (background - background.mean(dim=0)) + 4
    with gather_findings() as found, pytest.warns(RuntimeWarning, match="no longer fits what is observed") as told:
        cycle_of("etkf", seen, wrong, model=Ring(), options=ETKFOptions(inflation=1.0)).run(
            replace(seen, noise_std=torch.tensor([0.02], dtype=torch.float64)), 1
        )
    assert len(told) == 1 and "\n" not in found["divergence"] and "times as large as spread" in found["divergence"]
    with pytest.warns(RuntimeWarning, match="has collapsed: all members see the same"):
        cycle_of("etkf", seen, wrong[:1].expand(MEMBERS, -1, -1, -1, -1)).step(seen)


@pytest.mark.parametrize("name", ["etkf", "enkf", "letkf", "ensemble-smoother", "3dvar"])
def test_numbers_that_are_not_finite_end_the_cycle_in_one_line(name):
    class Broken(Ring):
        def advance(self, context, *arguments, **settings):
            states = super().advance(context, *arguments, **settings)
            states[:, 1] = torch.nan
            return states

    seen, _, background = twin(4)
    with pytest.raises(InputError, match=r"trajectory 1 is no longer finite at frame \d .*divergence"):
        cycle_of(name, seen, background, model=Broken()).step(seen)


@dataclass(frozen=True, eq=False)
class Between:
    """Observations half-way between frames: the mean of the states of two frames at a few points."""

    inner: Observations

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def observed_frames(self):
        return torch.arange(self.inner.num_times) > 0

    def seen(self, start, stop, *, since=None):
        values = self.inner.values
        ends = [k for k in range(max(start + 1, since or 0), stop) if k >= 1]
        if not ends:
            return None
        index = values.shape[-1] // 3
        y = torch.stack([values[:, k, 0, :index].nan_to_num(nan=0.3) for k in ends], dim=1).flatten(1)

        class Mean:
            def __call__(self, states):
                pairs = [(states[..., k - start, 0, :index] + states[..., k - start - 1, 0, :index]) / 2 for k in ends]
                return torch.cat(pairs, dim=-1)

        places = torch.full((*y.shape, 1), torch.nan, dtype=torch.float64)
        frames = torch.tensor(ends).repeat_interleave(index).expand(y.shape)
        return Measurement(Mean(), y, torch.full_like(y, 0.5), places, frames)


@pytest.mark.parametrize("name, block", [("etkf", 1), ("etkf", 6), ("letkf", 1), ("ensemble-smoother", 6)])
def test_observations_between_frames_are_taken_in_with_both(name, block):
    """A linear path x_k = M^k x_0: the last analysis is the Kalman update of x_0 with all rows (M^k + M^(k - 1)) / 2, carried on."""
    seen, _, background = twin(6)
    background = torch.cat(
        [background, background.roll(1, dims=0) * 0.7 + background.flip(-1)]
    )  # more members than points
    between = Between(seen)

    class Still(Ring):
        def advance(self, context, conditions, lead_times, *, noise, first_window=0):
            return super().advance(context, conditions, lead_times, noise=None)

    options = {"etkf": ETKFOptions(inflation=1), "letkf": LETKFOptions(inflation=1)}
    options["ensemble-smoother"] = EnsembleSmootherOptions(inflation=1)
    cycle = cycle_of(name, seen, background, model=Still(), options=options[name], members=2 * MEMBERS)
    analysis = cycle.run(between, block)
    step = 0.97 * torch.eye(SITES, dtype=torch.float64).roll(1, dims=0)
    powers = [torch.linalg.matrix_power(step, k) for k in range(6)]
    index = SITES // 3
    h = torch.cat([(powers[k] + powers[k - 1])[:index] / 2 for k in range(1, 6)])
    for case in range(CASES):
        z = background[:, case, 0, 0]
        y = seen.values[case, 1:, 0, :index].nan_to_num(nan=0.3).flatten()
        p, mean = torch.cov(z.T), z.mean(dim=0)
        gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + 0.25 * torch.eye(len(h), dtype=torch.float64))
        right, spread = mean + gain @ (y - h @ mean), p - gain @ h @ p
        last = analysis[:, case, -1, 0]
        torch.testing.assert_close(last.mean(dim=0), powers[5] @ right, rtol=0, atol=1e-9)
        torch.testing.assert_close(torch.cov(last.T), powers[5] @ spread @ powers[5].T, rtol=0, atol=1e-9)


def test_the_ensemble_smoother_is_the_smoother_where_all_is_linear():
    """One update at the end or one at each frame: the same mean and covariance, in one pass or in four."""
    seen, _, background = twin(5)

    class Still(Ring):
        def advance(self, context, conditions, lead_times, *, noise, first_window=0):
            return super().advance(context, conditions, lead_times, noise=None)

    found = [
        cycle_of(name, seen, background, model=Still(), options=options).step(seen)
        for name, options in (
            ("etkf", ETKFOptions(inflation=1.0)),
            ("ensemble-smoother", EnsembleSmootherOptions(inflation=1.0)),
            ("ensemble-smoother", EnsembleSmootherOptions(inflation=1.0, passes=4)),
        )
    ]
    for other in found[1:]:
        torch.testing.assert_close(other.mean(dim=0), found[0].mean(dim=0), rtol=0, atol=1e-9)
        torch.testing.assert_close(other.var(dim=0), found[0].var(dim=0), rtol=0, atol=1e-9)


def test_relaxation_restores_the_spread_from_which_the_next_forecast_starts():
    """With all of it restored, the forecast spread of a linear model is that of a free run, though the analyses are tighter."""
    seen, _, background = twin(3)
    seen = replace(seen, values=seen.values.nan_to_num(nan=0.5))

    class Still(Ring):
        def advance(self, context, conditions, lead_times, *, noise, first_window=0):
            return super().advance(context, conditions, lead_times, noise=None)

    free = Still().advance(background, None, torch.arange(2.0), noise=None)
    for options in (ETKFOptions(inflation=1, rtps=1.0), ETKFOptions(inflation=1, rtpp=1.0)):
        cycle = cycle_of("etkf", seen, background, model=Still(), options=options)
        first = cycle.step(seen, 0, 1)
        empty = replace(seen, values=torch.full_like(seen.values, torch.nan).index_fill(1, torch.tensor([2]), 0.0))
        second = cycle.step(empty, 1, 2)
        torch.testing.assert_close(second.std(dim=0)[:, 0], free.std(dim=0)[:, 0])
        assert (first.std(dim=0) < background.std(dim=0)).all()
    with pytest.raises(InputError, match="rotate tears them apart"):
        ETKFOptions(rtpp=0.5, rotate=True)
    with pytest.raises(InputError, match=r"rtps must lie in \[0, 1\], got 2"):
        ETKFOptions(rtps=2.0)
    for changes, words in (({"radius": 0.0}, "radius must be positive"), ({"cells": 0}, "cells must be at least 1")):
        with pytest.raises(InputError, match=words):
            LETKFOptions(**changes)


def test_a_method_that_starts_from_nothing_cannot_forecast_before_its_first_block():
    seen = observed(chain(0.8), 8)
    cycle = cycle_of("mmps", seen, None, model=emulator(chain(0.8), 5), options=KINDS["mmps"])
    with pytest.raises(InputError, match="continues 1 states"):
        cycle.forecast(2)
    analysis = cycle.step(seen, 0, 4)
    assert ((analysis - MEAN) / STD).abs().max() < 6 and cycle.forecast(2).shape[2] == 2


def test_conditions_travel_with_the_cycle():
    """Each step and each forecast is told its own time."""
    times = []

    class Clock(Ring):
        def advance(self, context, conditions: Conditions, lead_times, *, noise, first_window=0):
            times.append(float(conditions.time.flatten()[0]))
            return super().advance(context, conditions, lead_times, noise=None)

    seen, _, background = twin(3)
    cycle = cycle_of("etkf", seen, background, model=Clock())
    for frame in range(3):
        cycle.step(seen, frame, frame + 1)
        cycle.forecast(1)
    assert times == [0.0, 0.0, 1.0, 1.0, 2.0]
