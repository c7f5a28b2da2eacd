"""Self-gravitating, cooling gas: Jeans and Field waves, cooling against an ODE solver, conservation, symmetry, batches, files."""

import math

import pytest
import torch

from eddycast import api
from eddycast.data import validate_well
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.gravity import free_fall_time, potential
from eddycast.simulators import TurbulenceGravityCooling, get_system, integrate, simulate
from eddycast.simulators.interstellar_cooling import HEATING_RATE, cooled, cooling_function, temperature_rate
from eddycast.simulators.turbulence_gravity_cooling import GAMMA, GRAVITY, KELVIN, block_average

TGC = get_system("turbulence-gravity-cooling")
SPACE = (-3, -2, -1)


def settings(rho0=4.45, t0=100.0, z=1.0):
    return torch.tensor([rho0, t0, z], dtype=torch.float64)


def random_states(system, parameters, shape=(8, 8, 8), seed=0):
    """Starts, one per row of parameters, followed until there are shocks."""
    number = torch.arange(len(parameters))
    grid = system.grid(shape)
    start = system.initial(parameters, grid, MemberNoise(seed, number, 0 * number), dtype=torch.float64)
    return system.flow(parameters, grid, 0.04, dtype=torch.float64)(start)


def composed(density, temperature, velocity):
    return torch.cat([torch.stack([density, density * temperature / KELVIN, temperature]), velocity])


def fall(density=4.45):
    """Free-fall time in pc / (km/s), the unit of time that length and velocity make."""
    return free_fall_time(torch.tensor(density, dtype=torch.float64), GRAVITY).item()


def totals(state):
    """Mass, momentum, kinetic and internal energy, means over the box."""
    density, pressure, velocity = state[0], state[1], state[3:]
    kinetic = 0.5 * density * (velocity**2).sum(dim=0)
    return density.mean(), (density * velocity).mean(dim=SPACE), kinetic.mean(), pressure.mean() / (GAMMA - 1)


class Wave:
    """A plane wave of amplitude 1e-3 along one axis: density (1 + e cos kx); temperature and velocity in given ratios to it."""

    def __init__(self, system, points, temperature, axis=0, density=4.45, parts=(GAMMA - 1, 0.0)):
        shape = [points if other == axis else 8 for other in range(3)]
        self.system, self.mean, self.grid = system, density, system.grid(tuple(shape))
        x = torch.tensor(self.grid.axes[axis].coordinates, dtype=torch.float64)
        self.k, small = 2 * math.pi / system.length, 1e-3
        phase = (self.k * x).reshape([-1 if other == axis else 1 for other in range(3)]).expand(shape)
        self.cosine = phase.cos()
        velocity = torch.zeros(3, *shape, dtype=torch.float64)
        velocity[axis] = parts[1] * small * phase.sin()
        self.start = composed(
            density * (1 + small * self.cosine), temperature * (1 + parts[0] * small * self.cosine), velocity
        )
        self.parameters = settings(density, temperature)

    def amplitudes(self, times):
        states = integrate(self.system, self.start, self.parameters, self.grid, times)
        return 2 * ((states[:, 0] / self.mean - 1) * self.cosine).mean(dim=SPACE)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_unstable_jeans_mode_grows_at_its_rate(axis):
    """omega^2 = c^2 k^2 - 4 pi G rho < 0 at 20 K (Jeans length 34 pc): delta ~ exp(sigma t) with v = -sigma delta / k, adiabatic."""
    system, temperature = TurbulenceGravityCooling(cooling=False, length=60.0), 20.0
    k = 2 * math.pi / system.length
    sigma = math.sqrt(GRAVITY * 4.45 - GAMMA * temperature / KELVIN * k**2)
    errors = []
    for points in (16, 32) if axis == 0 else (16,):
        first, last = Wave(system, points, temperature, axis, parts=(GAMMA - 1, -sigma / k)).amplitudes([0.0, 0.5])
        errors.append(abs(math.log(last / first) / (0.5 * fall()) / sigma - 1))
    assert errors[0] < 0.007
    assert errors[-1] < (0.001 if axis == 0 else 0.007)


def test_stable_jeans_mode_swings_at_its_frequency():
    """omega^2 = c^2 k^2 - 4 pi G rho > 0 at 1000 K; gravity slows it by a tenth. A damped cosine obeys a_+ = 2 r cos(w h) a - r^2 a_-."""
    system, temperature, interval = TurbulenceGravityCooling(cooling=False, length=60.0), 1000.0, 0.08
    k = 2 * math.pi / system.length
    sound = math.sqrt(GAMMA * temperature / KELVIN) * k
    frequency = math.sqrt(sound**2 - GRAVITY * 4.45)
    assert frequency < 0.97 * sound
    errors, losses = [], []
    for points in (16, 32):
        a = Wave(system, points, temperature).amplitudes([interval * step for step in range(14)])
        pairs = torch.stack([a[1:-1], a[:-2]], dim=1)
        first, second = torch.linalg.lstsq(pairs, a[2:, None]).solution.flatten().tolist()
        decay = math.sqrt(-second)
        errors.append(abs(math.acos(first / (2 * decay)) / (interval * fall()) / frequency - 1))
        losses.append(1 - decay ** (2 * math.pi / (interval * fall() * frequency)))
    assert errors[0] < 0.015 and errors[1] < 0.006
    assert losses[0] < 0.12 and losses[1] < 0.2 * losses[0]  # of second order or better, limiter included


@pytest.mark.parametrize("density", [2.0, 44.5])
def test_waves_of_cooling_gas_follow_the_dispersion_relation(density):
    """Field's thermal and Jeans' instability together: growth of the fastest mode, through the flow.

    With r = (ln rho)', s = (ln T)', w = v' on cos, cos and sin(kx), about the equilibrium T with rate -q s - m r of log T:
        r_t = -k w,   w_t = (c^2 (r + s) - 4 pi G rho / k^2 r) k,   s_t = -(gamma - 1) k w - q s - m r,   c^2 = p / rho
    At 2 per cm^3 the gas is unstable at constant pressure, at 44.5 it is cold and falls together.
    """
    system, temperature = TurbulenceGravityCooling(length=60.0), equilibrium(density)
    value, slope = cooling_function(torch.tensor(temperature, dtype=torch.float64), 1.0)
    q, m = HEATING_RATE * density * slope.item(), HEATING_RATE * density * value.item() / temperature
    k, squared = 2 * math.pi / system.length, temperature / KELVIN
    matrix = torch.tensor(
        [[0.0, 0.0, -k], [-m, -q, -(GAMMA - 1) * k], [(squared - GRAVITY * density / k**2) * k, squared * k, 0.0]],
        dtype=torch.float64,
    )
    rates, vectors = torch.linalg.eig(matrix)
    fastest = int(rates.real.argmax())
    assert rates[fastest].imag.abs() < 1e-9 and rates[fastest].real > 0
    r, s, w = (vectors[:, fastest] / vectors[0, fastest]).real.tolist()
    assert r == 1.0
    wave = Wave(system, 32, temperature, density=density, parts=(s, w))
    time = min(0.5, 1.0 / (rates[fastest].real.item() * fall(density)))
    first, last = wave.amplitudes([0.0, time])
    growth = math.log(last / first) / (time * fall(density)) / rates[fastest].real.item()
    assert growth == pytest.approx(1, abs=0.005)


def equilibrium(density, metallicity=1.0):
    """Temperature at which heating and cooling balance, in K, by bisection."""
    low, high = 10.0, 3e4
    for _ in range(80):
        middle = math.sqrt(low * high)
        value = cooling_function(torch.tensor(middle, dtype=torch.float64), metallicity)[0]
        low, high = (middle, high) if density * value < metallicity else (low, middle)
    return middle


@pytest.mark.parametrize("density, temperature", [(0.445, 6407.0), (4.45, 405.6), (44.5, 58.8)])
def test_gas_comes_to_rest_at_thermal_equilibrium(density, temperature):
    """From either side, where heating = density * cooling; a uniform box of it stays as it is."""
    balanced = equilibrium(density)
    assert balanced == pytest.approx(temperature, rel=1e-3)
    starts = torch.tensor([12.0, 9000.0], dtype=torch.float64)
    density, one = torch.full_like(starts, density), torch.ones_like(starts)
    assert (cooled(starts, density, one, 1e3 * one, floor=10.0) / balanced - 1).abs().max() < 1e-8
    state = composed(
        *(torch.full((8, 8, 8), value, dtype=torch.float64) for value in (density[0].item(), balanced)),
        torch.zeros(3, 8, 8, 8),
    )
    last = TGC.flow(settings(density[0]), TGC.grid((8, 8, 8)), 0.02, dtype=torch.float64)(state)
    assert (last[2] / balanced - 1).abs().max() < 1e-10
    assert (last[0] / density[0] - 1).abs().max() < 1e-13 and last[3:].abs().max() < 1e-12


@pytest.mark.parametrize(
    "density, start, metallicity, tolerance",
    [
        (4.45, 1000.0, 1.0, 1e-4),
        (0.445, 10.0, 1.0, 1e-4),
        (44.5, 10.0, 0.3, 1e-4),
        (44.5, 9000.0, 0.1, 5e-3),
        (2.0, 1.5e4, 0.0, 5e-3),
    ],
)
def test_a_uniform_box_cools_like_the_ordinary_differential_equation(density, start, metallicity, tolerance):
    """Against Radau at 1e-10, through the flow; the exponential law of hydrogen above 5000 K is the hard part."""
    solve_ivp = pytest.importorskip("scipy.integrate").solve_ivp
    state = composed(
        *(torch.full((8, 8, 8), value, dtype=torch.float64) for value in (density, start)), torch.zeros(3, 8, 8, 8)
    )

    def rate(_, y):
        return temperature_rate(torch.from_numpy(y), torch.tensor(density).double(), metallicity).numpy()

    times = [0.0005, 0.005, 0.02]
    exact = solve_ivp(
        rate, (0, 1.001 * times[-1] * fall(density)), [start], method="Radau", rtol=1e-10, atol=1e-8,
        t_eval=[time * fall(density) for time in times],
    ).y[0]  # fmt: skip
    states = integrate(TGC, state, settings(density, start, metallicity), TGC.grid((8, 8, 8)), times)
    found = states[:, 2].mean(dim=SPACE)
    assert (found / torch.from_numpy(exact) - 1).abs().max() < tolerance
    assert (states[:, 1] * KELVIN / states[:, 0] / states[:, 2] - 1).abs().max() < 1e-14


def test_cooling_converges_at_third_order_and_keeps_its_floor():
    """Smooth part of the law; a composition of two halves is the whole; zero time is the identity, to the bit, also below the floor."""
    start, density, one = (torch.tensor([value], dtype=torch.float64) for value in (2000.0, 4.45, 1.0))
    options = {"floor": 10.0}
    exact = cooled(start, density, one, 0.2 * one, floor=10.0, largest_change=0.001)
    errors = [
        (cooled(start, density, one, 0.2 * one, floor=10.0, largest_change=change) - exact).abs().item()
        for change in (0.16, 0.04)
    ]
    assert 4**2.5 < errors[0] / errors[1] < 4**3.7
    halves = cooled(cooled(start, density, one, 0.1 * one, **options), density, one, 0.1 * one, **options)
    assert (halves / exact - 1).abs().item() < 1e-4
    many = torch.tensor([3.0, 12.0, 500.0, 1e5], dtype=torch.float64)
    assert torch.equal(cooled(many, density, one, 0 * one, **options), many)
    cold = cooled(many, 1e4 * one, 0.01 * one, 5.0 * one, **options)
    assert cold.min() >= 10 and torch.equal(cooled(cold, 1e6 * one, 0.01 * one, 9 * one, **options), 0 * many + 10)


def test_the_slope_of_the_cooling_function_is_its_derivative():
    temperature = torch.logspace(1, 5, 60, dtype=torch.float64).requires_grad_()
    value, slope = cooling_function(temperature, 0.4)
    (exact,) = torch.autograd.grad(value.sum(), temperature)
    assert torch.allclose(slope, exact, rtol=1e-12)


@pytest.mark.parametrize("gravity, cooling", [(True, True), (True, False), (False, False)])
def test_mass_and_momentum_stay_to_rounding_and_energy_where_nothing_else_acts(gravity, cooling):
    """Supersonic flow with shocks, over ten outputs; without gravity and cooling the total energy as well."""
    system = TurbulenceGravityCooling(gravity=gravity, cooling=cooling)
    parameters = settings(44.5 if gravity else 4.45)
    state = random_states(system, parameters[None])[0]
    last = system.flow(parameters, system.grid((8, 8, 8)), 0.2, dtype=torch.float64)(state)
    (mass, momentum, kinetic, heat), (mass_1, momentum_1, kinetic_1, heat_1) = totals(state), totals(last)
    assert (last[0] - state[0]).abs().max() > mass  # it moved
    assert abs(mass_1 / mass - 1) < 1e-13
    speed = (2 * kinetic * mass).sqrt()
    assert momentum.abs().max() < 1e-12 * speed and (momentum_1 - momentum).abs().max() < 1e-12 * speed
    drift = ((kinetic_1 + heat_1) / (kinetic + heat) - 1).abs()
    assert drift < 1e-13 if not (gravity or cooling) else drift > 1e-3


def test_gravity_exchanges_potential_for_other_energy():
    """Collapse of a strong wave without cooling: E + rho phi / 2 is kept to a percent of what is exchanged, better on finer grids."""
    system, drifts = TurbulenceGravityCooling(cooling=False, length=60.0), []
    for points in (16, 32):
        wave = Wave(system, points, 20.0)
        state = wave.start.clone()
        state[0] = 4.45 * (1 + 0.3 * wave.cosine)
        last = system.flow(wave.parameters, wave.grid, 0.6, dtype=torch.float64)(state)
        bound = [0.5 * (one[0] * potential(one[0], [system.length] * 3, GRAVITY)).mean() for one in (state, last)]
        energy = [sum(totals(one)[2:]) for one in (state, last)]
        exchanged = bound[0] - bound[1]
        assert exchanged > 0
        drifts.append(abs((energy[1] - energy[0] - exchanged) / exchanged).item())
    assert drifts[0] < 0.01 and drifts[1] < 0.5 * drifts[0]


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)])
def test_the_axes_are_alike(order):
    """A permutation or a reflection of the start, fields and vectors alike, is that of the end."""
    parameters = settings(44.5)
    state = random_states(TGC, parameters[None])[0]
    flow = TGC.flow(parameters, TGC.grid((8, 8, 8)), 0.04, dtype=torch.float64)

    def turned(u):
        moved = u.permute(0, *(1 + axis for axis in order))
        return torch.cat([moved[:3], moved[[3 + axis for axis in order]]])

    def mirrored(u):
        sign = torch.tensor([1, 1, 1, 1, -1, 1])[:, None, None, None]
        return u.flip(-2) * sign

    end = flow(state)
    for change in (turned, mirrored, lambda u: u.roll((3, -2), (-3, -1))):
        assert ((flow(change(state)) - change(end)).abs() / end.abs().amax(dim=SPACE, keepdim=True)).max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trajectory_does_not_depend_on_its_batch(dtype):
    """To the bit, although each takes its own number of steps and of substeps of cooling."""
    parameters = torch.stack(
        [settings(), settings(44.5, 10.0), settings(0.445, 1000.0, 0.0), settings(10.0, 300.0, 0.3)]
    )
    states = random_states(TGC, parameters).to(dtype)
    grid = TGC.grid((8, 8, 8))
    together = TGC.flow(parameters, grid, 0.04, dtype=dtype)(states)
    assert together.dtype == dtype and together.isfinite().all()
    for row, (own, state) in enumerate(zip(parameters, states, strict=True)):
        alone = TGC.flow(own, grid, 0.04, dtype=dtype)(state)
        assert torch.equal(alone, together[row])


def test_pressure_is_an_output_and_lost_states_are_raised():
    """The flow reads density, temperature and velocity; no density and no temperature below the floors comes out finite."""
    parameters, grid = settings(), TGC.grid((8, 8, 8))
    state = random_states(TGC, parameters[None])[0]
    flow = TGC.flow(parameters, grid, 0.02, dtype=torch.float64)
    other = state.clone()
    other[1] = -1.0
    assert torch.equal(flow(other), flow(state))
    other[0, 2, 3, 4], other[2, 5, 5, 5] = -1.0, -50.0
    last = flow(other)
    assert last.isfinite().all() and last[0].min() > 0 and last[2].min() > 9.99


def test_initial_states_are_uniform_solenoidal_and_nested():
    """Mach number as asked for, mean zero, modes falling as k^-slope; a coarse start is the block average of the fine one."""
    parameters = settings(2.0, 300.0).expand(64, 3)
    number = torch.arange(64)
    noise = MemberNoise(3, number, 0 * number)
    system = TurbulenceGravityCooling(mach=3.0, slope=4.0)
    fine, coarse = (
        system.initial(parameters, system.grid(shape), noise, dtype=torch.float64) for shape in ((24,) * 3, (8,) * 3)
    )
    assert (
        (fine[:, 0] == 2).all() and (fine[:, 2] == 300).all() and (fine[:, 1] / (600 / KELVIN) - 1).abs().max() < 1e-14
    )
    assert (block_average(fine, (8, 8, 8)) - coarse).abs().max() < 1e-12
    velocity = fine[:, 3:]
    speed = (velocity**2).sum(dim=1).mean(dim=SPACE).sqrt()
    assert (speed / math.sqrt(GAMMA * 300 / KELVIN) - 3.0).abs().max() < 0.1  # cells of 1/24 average little away
    assert velocity.mean(dim=SPACE).abs().max() < 1e-13
    spectrum = torch.fft.fftn(velocity, dim=SPACE, norm="forward").abs().square().sum(dim=1).mean(dim=0)
    one, two = (
        spectrum[1, 0, 0] + spectrum[0, 1, 0] + spectrum[0, 0, 1],
        spectrum[2, 0, 0] + spectrum[0, 2, 0] + spectrum[0, 0, 2],
    )
    assert (one / two).item() == pytest.approx(16, rel=0.25)  # 64 runs, 4 numbers each: 4 standard errors are 25 %
    k = torch.fft.fftfreq(24, 1 / 24, dtype=torch.float64)
    k = torch.stack(torch.meshgrid(k, k, k, indexing="ij"))
    damping = torch.sinc(k / 24).prod(dim=0)  # of cell averages; without it the field has no divergence
    parts = torch.fft.fftn(velocity, dim=SPACE, norm="forward") / damping
    assert (k * parts).sum(dim=1).abs().max() < 1e-12 * parts.abs().max()


def test_block_averages_keep_mass_momentum_and_heat_and_copies_undo_them():
    state = random_states(TGC, settings()[None])
    coarse = block_average(state, (4, 8, 2))
    assert coarse.shape == (1, 6, 4, 8, 2)
    (mass, momentum, kinetic, heat), (mass_1, momentum_1, kinetic_1, heat_1) = totals(state[0]), totals(coarse[0])
    assert abs(mass_1 - mass) < 1e-13 and (momentum_1 - momentum).abs().max() < 1e-12 and abs(heat_1 - heat) < 1e-12
    assert kinetic_1 < kinetic
    assert (coarse[:, 1] * KELVIN / coarse[:, 0] / coarse[:, 2] - 1).abs().max() < 1e-14
    again = block_average(block_average(coarse, (8, 8, 8)), (4, 8, 2))
    assert (again - coarse).abs().max() < 1e-11
    with pytest.raises(InputError, match="whole number of cells"):
        block_average(state, (3, 8, 8))


@pytest.mark.parametrize("shape, match", [((16, 16), "three-dimensional"), ((16, 16, 4), "at least 8")])
def test_grids_that_do_not_serve_are_refused_in_one_line(shape, match):
    with pytest.raises(InputError, match=match) as error:
        TGC.grid(shape)
    assert "\n" not in str(error.value)


def test_files_pass_the_wells_checker_and_loader(tmp_path):
    """In The Well's names and order; 4 trajectories of two densities."""
    well = pytest.importorskip("the_well.data")
    api.simulate(
        TGC.info.name, out=tmp_path / "set", trajectories=4, steps=2, grid=(8, 8, 8), parameters={"rho0": (2.0, 9.0)}
    )
    assert validate_well(tmp_path / "set") == []
    data = well.WellDataset(path=str(tmp_path / "set"), well_split_name="train", n_steps_input=1, n_steps_output=1)
    names = [name for order in sorted(data.metadata.field_names) for name in data.metadata.field_names[order]]
    assert names == ["density", "pressure", "temperature", "velocity_x", "velocity_y", "velocity_z"]
    assert list(data.metadata.constant_scalar_names) == ["rho0", "T0", "Z"] and data[0]["input_fields"].shape == (
        1,
        8,
        8,
        8,
        6,
    )


def test_simulation_attributes_say_that_the_run_is_transient():
    run = simulate(TGC, trajectories=1, steps=2, grid_shape=(8, 8, 8), initial={"mach": 2})
    assert run.attributes["chaotic"] is False and "warning" not in run.attributes
    assert run.attributes["initial_law"] == "mach=2, slope=4" and run.time_units == "1"
    assert run.grid.axes[0].units == "pc" and run.grid.axes[2].period == pytest.approx(129.27, abs=0.01)
    assert TGC.grid(parameters=settings(44.5)).axes[0].period == pytest.approx(60)
    mixed = TGC.grid((8, 8, 8), torch.stack([settings(2.0), settings(3.0)])).axes[0]
    assert mixed.period == 1 and mixed.units == "1" and mixed.coordinates[0] == 1 / 16


def test_box_and_clock_scale_with_the_density():
    """Published free-fall times of The Well's set, 6.93, 21.9 and 69.3 million years, to 2 %; the mass in the box is one."""
    densities = torch.tensor([44.5, 4.45, 0.445], dtype=torch.float64)
    published = torch.tensor([6.93, 21.9, 69.3], dtype=torch.float64)
    assert (free_fall_time(densities, GRAVITY) * 0.97779 / published - 1).abs().max() < 0.02
    sides = TGC.side(densities)
    assert sides.tolist() == pytest.approx([60, 129, 278], rel=0.01)
    assert (densities * sides**3).tolist() == pytest.approx([44.5 * 60**3] * 3)


def test_without_cooling_and_gravity_flows_scale():
    """Twice the box at twice the speed and four times the temperature is the same flow."""
    small, large = (TurbulenceGravityCooling(gravity=False, cooling=False, length=side) for side in (60.0, 120.0))
    state = random_states(small, settings()[None])[0]
    scale = torch.tensor([1.0, 4.0, 4.0, 2.0, 2.0, 2.0], dtype=torch.float64)[:, None, None, None]
    ends = [
        system.flow(settings(), system.grid((8, 8, 8)), 0.1, dtype=torch.float64)(start)
        for system, start in ((small, state), (large, scale * state))
    ]
    assert ((ends[1] - scale * ends[0]).abs() / ends[1].abs().amax(dim=SPACE, keepdim=True)).max() < 1e-11
