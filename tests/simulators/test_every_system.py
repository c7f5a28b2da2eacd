"""What holds for every system, asked of each: reproducible draws, own parameters, precision, gradients, honest chaos."""

import math
import re

import pytest
import torch

from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.simulators import SYSTEMS, KolmogorovFlow, integrate, simulate

NAMES = list(SYSTEMS)
AT_KINKS = ("euler-multi-quadrants-periodic", "euler-multi-quadrants-open")
"""Where states are constant the limiter has a kink: `test_euler.py` takes derivatives at smooth ones."""
SMALL = {2: (24, 24), 3: (16, 16, 16)}  # grids to test on, by dimension; 1-D systems have small defaults
SMALLER = {
    "turbulence-gravity-cooling": (8, 8, 8),  # every cell costs more
    "channel-obstacles": (89, 18),  # the fewest that it takes
    "beta-plane": (44, 44),  # of these too
}
FEWER_STATES = {"beta-plane": 3}  # of 100 inner steps each


def shape_of(system):
    if system.info.name in SMALLER:
        return SMALLER[system.info.name]
    return SMALL.get(len(system.info.shape), system.info.shape)


def ranges(system):
    """Each parameter within 10 % of its default; whole numbers stay."""
    return {
        parameter.name: (max(parameter.low, 0.9 * parameter.default), min(parameter.high, 1.1 * parameter.default))
        for parameter in system.info.parameters
        if not parameter.whole
    }


def short(system, **options):
    given = {"trajectories": 3, "steps": 3, "spin_up": 2 * system.info.dt, "grid_shape": shape_of(system)}
    return simulate(system, **{**given, **options})


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_drawn_per_trajectory_and_each_run_follows_its_own(name):
    system = SYSTEMS[name]
    run = short(system, parameters=ranges(system), dtype=torch.float64)
    drawn = [not parameter.whole for parameter in system.info.parameters]
    assert all(len(set(column.tolist())) == 3 for column in run.parameters.T[drawn])
    for index in range(3):
        start, own = run.states[index, 0], run.parameters[index]
        times = [system.info.dt, 2 * system.info.dt]
        forcing = {"noise": MemberNoise.grid(0, torch.tensor([index]), 1).flatten(), "first_step": 1}  # 0: the spin-up
        alone = integrate(system, start[None], own[None], system.grid(shape_of(system), own), times, **forcing)[:, -1]
        whole = run.states[index, 2]
        assert (alone[0] - whole).abs().max() < 1e-9 * max(1.0, whole.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_first_trajectories_do_not_depend_on_the_count(name, dtype):
    system = SYSTEMS[name]
    few, many = (short(system, trajectories=count, dtype=dtype, seed=4, parameters=ranges(system)) for count in (2, 11))
    assert few.states.dtype == dtype and torch.equal(few.parameters, many.parameters[:2])
    assert torch.equal(few.states, many.states[:2])
    assert (few.states[0, 0] - few.states[1, 0]).abs().max() > 1e-4  # convection starts from noise of 1e-3
    other = short(system, trajectories=2, dtype=dtype, seed=5)
    assert (other.states[:, 0] - few.states[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_follows_double(name):
    """Over a few steps, before chaos tells: 1e-4 of the largest value."""
    system = SYSTEMS[name]
    single, double = (short(system, dtype=dtype, spin_up=0.0) for dtype in (torch.float32, torch.float64))
    assert (single.states - double.states).abs().max() < 1e-4 * double.states.abs().max()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in AT_KINKS])
def test_flow_is_differentiable_in_state_and_parameters(name):
    """A directional derivative of a weighted sum, against central differences; the parameters one after the other.

    Limiters and upwinding have kinks: at constant states, so these are roughened, and elsewhere, where among many cells
    small steps alone (in proportion to each channel) meet none.
    """
    system = SYSTEMS[name]
    run = short(system, trajectories=1, steps=1, dtype=torch.float64)
    state, parameters, grid = run.states[:, 0], run.parameters, run.grid
    generator = torch.Generator().manual_seed(1)
    weight, direction = (torch.randn(state.shape, dtype=torch.float64, generator=generator) for _ in range(2))
    kinks = "finite volumes" in system.info.scheme
    if kinks:
        direction = direction * state.abs().amax(dim=grid.dims, keepdim=True)
        state = state * (1 + 0.01 * torch.randn(state.shape, dtype=torch.float64, generator=generator))

    def value(u, p):
        return (weight * integrate(system, u, p, grid, [2 * system.info.dt])).sum()

    u, p = state.clone().requires_grad_(), parameters.clone().requires_grad_()
    by_state, by_parameter = torch.autograd.grad(value(u, p), (u, p))
    h, fraction = (1e-8, 1e-7) if kinks else (1e-6 * state.abs().max().item(), 1e-5)
    slope = (value(state + h * direction, parameters) - value(state - h * direction, parameters)) / (2 * h)
    assert (by_state * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)
    for column, parameter in enumerate(system.info.parameters):
        if parameter.whole:
            continue
        nudge = torch.zeros_like(parameters)
        nudge[:, column] = fraction * parameter.default
        slope = (value(state, parameters + nudge) - value(state, parameters - nudge)) / (
            2 * fraction * parameter.default
        )
        assert by_parameter[0, column].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_members_in_front_and_one_parameter_set_for_all(name):
    system = SYSTEMS[name]
    run = short(system, trajectories=2, steps=1, dtype=torch.float64)
    members = torch.stack([run.states[:, 0], run.states[:, 0].flip(0)])
    times = [system.info.dt]
    one = run.parameters[0]  # a label differs between the two
    each = integrate(system, members, one.expand(2, 2, -1), run.grid, times)
    shared = integrate(system, members, one, run.grid, times)
    assert each.shape == (2, 2, 1, *run.states.shape[2:])
    assert torch.allclose(each, shared, atol=1e-12 * members.abs().max().item())
    assert torch.allclose(each[0], each[1].flip(0), atol=1e-12 * members.abs().max().item())


@pytest.mark.parametrize("name", NAMES)
def test_states_stay_finite_at_both_ends_of_every_parameter(name):
    """Where the grid serves (it may ask for more points), the default step does."""
    system = SYSTEMS[name]
    for parameter in system.info.parameters:
        for end in (parameter.low, parameter.high):
            values = system.info.default_parameters()
            values[system.info.parameter_names.index(parameter.name)] = end
            try:
                system.grid(shape_of(system), values)
            except ValueError:
                continue
            run = short(system, steps=FEWER_STATES.get(name, 10), parameters={parameter.name: end})
            assert run.states.isfinite().all() and run.states.abs().max() < 1e4


@pytest.mark.parametrize("name", NAMES)
def test_chaos_and_exponents_do_not_contradict_each_other(name):
    """Where an exponent is known, chaos means that it is positive, in any batch shape."""
    system = SYSTEMS[name]
    numbers = torch.arange(40)
    uniform = MemberNoise(0, numbers, 0 * numbers).uniform((len(system.info.parameters),), key=(0, 0, "survey"))
    low, high = (torch.tensor([getattr(one, end) for one in system.info.parameters]) for end in ("low", "high"))
    parameters = torch.cat([low + (high - low) * uniform, system.info.default_parameters()[None]]).double()
    chaotic, exponent = system.chaotic(parameters), system.lyapunov_exponent(parameters)
    assert chaotic.dtype == torch.bool and exponent.dtype == torch.float64
    assert chaotic.shape == exponent.shape == (41,)
    known = ~exponent.isnan()
    assert torch.equal(chaotic[known], exponent[known] > 0)
    assert system.chaotic(parameters[:40].reshape(8, 5, -1)).shape == (8, 5)
    assert system.lyapunov_exponent(parameters[-1]).shape == ()
    attributes = short(system).attributes
    if chaotic[-1] and known[-1]:
        assert attributes["lyapunov_time"] == pytest.approx(1 / exponent[-1].item())
    assert math.isfinite(attributes["inner_step"]) and attributes["inner_step"] <= system.info.dt + 1e-12


@pytest.mark.parametrize("system", [SYSTEMS[name] for name in ("burgers", "kolmogorov-flow", "navier-stokes-3d")])
def test_a_refused_grid_names_the_least_one_that_is_taken(system):
    """And one with fewer points is not: 2 fewer for the systems that give even numbers, 1 for the other."""
    axes, defaults = len(system.info.shape), system.info.default_parameters()
    for viscosity in torch.logspace(-3.5, -1, 40, dtype=torch.float64):
        parameters = torch.cat([viscosity[None], defaults[1:]])
        for solver in (system, KolmogorovFlow(refine=3)) if axes == 2 else (system,):
            try:
                solver.grid((16,) * axes, parameters)
            except InputError as error:
                least = int(re.findall(r"at least (\d+)", str(error))[0])
                assert solver.grid((least,) * axes, parameters).shape == (least,) * axes
                with pytest.raises(InputError):
                    solver.grid((least - (1 if axes == 3 else 2),) * axes, parameters)
