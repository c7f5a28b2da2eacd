"""Integration at arbitrary times, and seeded ensembles of trajectories: same seed, same bits; clear refusals."""

import re

import pytest
import torch

from eddycast.errors import InputError
from eddycast.simulators import (
    SYSTEMS,
    Forced,
    KuramotoSivashinsky,
    get_system,
    inner_steps,
    integrate,
    simulate,
    uniform_times,
)

KS = get_system("kuramoto-sivashinsky")
SHORT = {"steps": 3, "spin_up": 5.0, "grid_shape": (64,)}


def test_outputs_at_uneven_times_lie_on_one_trajectory():
    """Uneven times, with 0 among them, against a fine run that passes all of them; time 0 is the state itself."""
    start = simulate(KS, trajectories=2, steps=1, spin_up=50, dtype=torch.float64)
    state, parameters, grid = start.states[:, 0], start.parameters, start.grid
    times = [0.0, 0.25, 1.0, 1.05, 3.0]
    uneven = integrate(KS, state, parameters, grid, times, inner_dt=0.0125)
    dense = integrate(KS, state, parameters, grid, uniform_times(0.05, 61, start=0), inner_dt=0.0125)
    assert torch.equal(uneven[:, 0], state)
    for index, time in enumerate(times):
        reference = dense[:, round(time / 0.05)]
        assert (uneven[:, index] - reference).abs().max() < 1e-9


def test_equal_intervals_compute_their_coefficients_once():
    """Also where float32 rounding makes them unequal in the last digits; the time reached does not drift."""
    calls = []

    class Counting(KuramotoSivashinsky):
        def flow(self, parameters, grid, duration, **options):
            calls.append(duration)
            return lambda state: state + duration

    grid, state = KS.grid((64,)), torch.zeros(1, 1, 64, dtype=torch.float64)
    times = torch.arange(1, 4000, dtype=torch.float32) * 0.3
    result = integrate(Counting(), state, KS.info.default_parameters(), grid, times)
    assert len(calls) == 1
    assert (result[0, :, 0, 0] - times).abs().max() < 4e-4  # two roundings of a float32 near 1200
    integrate(Counting(), state, KS.info.default_parameters(), grid, [1.0, 2.0, 2.5, 3.0, 4.0])
    assert calls[-2:] == [1.0, 0.5]


@pytest.mark.parametrize("times", [[], [-1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [float("nan"), 1.0], [0.0, float("nan")]])
def test_times_must_increase(times):
    with pytest.raises(InputError, match="increasing"):
        integrate(KS, torch.zeros(1, 64), KS.info.default_parameters(), KS.grid((64,)), times)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="state"):
        integrate(KS, torch.zeros(1, 60), KS.info.default_parameters(), KS.grid((64,)), [1.0])
    with pytest.raises(ValueError, match="parameters"):
        integrate(KS, torch.zeros(1, 64), torch.zeros(2), KS.grid((64,)), [1.0])


@pytest.mark.parametrize(
    "duration, step, count", [(1.0, 0.1, 10), (0.3, 0.1, 3), (0.31, 0.1, 4), (0.05, 0.1, 1), (200, 0.1, 2000)]
)
def test_inner_steps_divide_the_interval(duration, step, count):
    assert inner_steps(duration, step) == count


def test_inner_step_must_be_positive():
    with pytest.raises(InputError, match="positive"):
        inner_steps(1.0, 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("parameters", [{}, {"domain_length": (22.0, 40.0)}])
def test_a_trajectory_is_the_same_in_any_run(dtype, parameters):
    """Same seed, same bits: in a run of 20, of 5, in chunks of 3 or 8; another seed is another trajectory."""
    whole = simulate(KS, trajectories=20, seed=4, dtype=dtype, parameters=parameters, **SHORT)
    again = simulate(KS, trajectories=20, seed=4, dtype=dtype, parameters=parameters, **SHORT)
    assert torch.equal(whole.states, again.states)
    for trajectories, chunk in ((5, 256), (8, 256), (20, 3), (20, 8)):
        part = simulate(KS, trajectories=trajectories, seed=4, dtype=dtype, parameters=parameters, chunk=chunk, **SHORT)
        assert torch.equal(part.parameters, whole.parameters[:trajectories])
        assert torch.equal(part.states, whole.states[:trajectories])
    other = simulate(KS, trajectories=20, seed=5, dtype=dtype, parameters=parameters, **SHORT)
    assert (other.states - whole.states).flatten(1).norm(dim=1).min() > 1.0
    differences = whole.states[:, None, 0] - whole.states[None, :, 0]
    assert (differences.flatten(2).norm(dim=2) + 100 * torch.eye(20)).min() > 1.0  # no two trajectories alike


def test_stored_states_are_consecutive():
    """State k + 1 is the flow of state k over dt; the grid, the metadata and the requested type come along."""
    run = simulate(KS, trajectories=3, steps=4, spin_up=7.0, dt=0.5, dtype=torch.float64, grid_shape=(48,))
    step = KS.flow(run.parameters, run.grid, 0.5, dtype=torch.float64)
    for index in range(3):
        assert (step(run.states[:, index]) - run.states[:, index + 1]).abs().max() < 1e-10
    assert run.states.shape == (3, 4, 1, 48) and run.states.dtype == torch.float64
    assert run.dt == 0.5 and run.parameter_names == ("domain_length",) and run.fields[0].name == "u"
    assert run.grid.axes[0].periodic and run.grid.axes[0].period == 36.0
    assert run.attributes["system"] == "kuramoto-sivashinsky" and run.attributes["inner_step"] == pytest.approx(0.1)
    assert run.attributes["lyapunov_time"] == pytest.approx(13.2, abs=0.2) and run.attributes["chaotic"]


def test_parameter_ranges_are_uniform_and_regular_lengths_are_flagged():
    run = simulate(KS, trajectories=400, steps=1, spin_up=0.0, parameters={"domain_length": (20.0, 40.0)})
    lengths = run.parameters[:, 0]
    assert lengths.min() >= 20 and lengths.max() <= 40
    assert lengths.mean().item() == pytest.approx(30.0, abs=4 * 20 / 12**0.5 / 20)  # 4 standard errors
    assert lengths.std().item() == pytest.approx(20 / 12**0.5, rel=0.1)
    assert not run.attributes["chaotic"] and "without lasting chaos" in run.attributes["warning"]
    assert "lyapunov_time" not in run.attributes


def test_spin_up_forgets_the_start_and_zero_keeps_it():
    raw = simulate(KS, trajectories=200, steps=1, spin_up=0.0)
    assert raw.states.var().item() == pytest.approx(1.0, abs=0.1)  # the initial law, before any step
    spun = simulate(KS, trajectories=64, steps=2, spin_up=100.0, inner_dt=0.2)
    assert 1.1 < spun.states.std().item() < 1.45  # the attractor's 1.28


def test_progress_rises_to_the_total():
    seen = []
    simulate(KS, trajectories=5, chunk=2, progress=lambda done, total: seen.append((done, total)), **SHORT)
    done = [value for value, _ in seen]
    assert done == sorted(done) and seen[-1][0] == seen[-1][1] and {total for _, total in seen} == {5 * (5 + 3)}


def test_gradients_do_not_pile_up_in_a_simulation():
    assert not simulate(KS, trajectories=2, **SHORT).states.requires_grad


@pytest.mark.parametrize(
    "options, match",
    [
        ({"trajectories": 0}, "trajectories must be at least 1"),
        ({"trajectories": -4}, "trajectories must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"chunk": 0}, "chunk must be at least 1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"dt": 0.0}, "dt must be positive"),
        ({"dt": float("nan")}, "dt must be positive"),
        ({"inner_dt": -0.1}, "inner_dt must be positive"),
        ({"spin_up": -1.0}, "spin_up must be zero or positive"),
        ({"grid_shape": (64, 64)}, "one-dimensional"),
        ({"grid_shape": (63,)}, "even number"),
        ({"parameters": {"viscosity": 1.0}}, "no parameter 'viscosity': it has domain_length"),
        ({"parameters": {"domain_length": -2.0}}, "within 1 to 1000"),
        ({"parameters": {"domain_length": (40.0, 30.0)}}, "low <= high"),
        ({"parameters": {"domain_length": float("nan")}}, "within 1 to 1000"),
        ({"dtype": torch.float16}, "float32 or float64"),
    ],
)
def test_bad_input_ends_in_one_line(options, match):
    with pytest.raises(InputError, match=re.escape(match)) as error:
        simulate(KS, **{"trajectories": 2, **SHORT, **options})
    assert "\n" not in str(error.value)


def test_a_blow_up_is_reported_and_not_returned():
    """Steps of 5 are far beyond what the nonlinear term allows."""
    with pytest.raises(InputError, match="no longer finite"):
        simulate(KS, trajectories=2, steps=200, spin_up=0.0, dt=5.0, inner_dt=5.0)


def test_systems_are_found_by_name():
    assert get_system("Kuramoto_Sivashinsky") is SYSTEMS["kuramoto-sivashinsky"]
    with pytest.raises(InputError, match="did you mean 'kuramoto-sivashinsky'"):
        get_system("kuramoto-sivashinski")
    with pytest.raises(InputError, match="known are"):
        get_system("weather")


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_fulfils_the_protocol(name):
    """What the rest of the house relies on, asked of each system: shapes, types, purity, a flow that composes."""
    system = SYSTEMS[name]
    info = system.info
    assert info.name == name and info.equation and info.scheme and len(info.fields) >= 1
    assert all(p.low <= p.default <= p.high for p in info.parameters)
    run = simulate(system, trajectories=2, steps=2, spin_up=2 * info.dt, dtype=torch.float64)
    grid = system.grid()
    assert run.states.shape == (2, 2, len(info.fields), *info.shape) and grid.shape == info.shape
    state = run.states[:, 0]
    kept = state.clone()
    whole = system.flow(run.parameters, grid, 2 * info.dt, dtype=torch.float64, device="cpu")(state)
    half = system.flow(run.parameters, grid, info.dt, dtype=torch.float64, device="cpu")
    assert torch.equal(state, kept)
    assert torch.allclose(half(half(state)), whole, atol=1e-10)
    if not isinstance(system, Forced):  # others add the forcing to it
        assert torch.allclose(run.states[:, 1], half(state), atol=1e-10)
    assert system.lyapunov_exponent(run.parameters).shape == system.chaotic(run.parameters).shape == (2,)
