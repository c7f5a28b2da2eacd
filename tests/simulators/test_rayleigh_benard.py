"""Rayleigh-Benard convection: the onset at Ra = 1708, published heat fluxes, exact budgets, measured orders, and runs of Dedalus."""

import math
from itertools import pairwise

import h5py
import pytest
import torch

from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.numerics.wall_modes import chebyshev_interpolation, chebyshev_points, legendre_values, quadrature
from eddycast.simulators import RayleighBenard, integrate, simulate
from eddycast.simulators.convection_modes import convection_modes
from eddycast.simulators.rayleigh_benard import diffusivities, least_points, white_noise

CONVECTION = RayleighBenard()
CRITICAL, CRITICAL_WAVE = 1707.762, 3.117  # Chandrasekhar (1961), Hydrodynamic and Hydromagnetic Stability, table I
WALLS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def settings(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def noise_of(count, seed=0):
    number = torch.arange(count)
    return MemberNoise(seed, number, torch.zeros_like(number))


def along_y(number, order, points=None):
    """Matrix from values at the Chebyshev points to a derivative of their polynomial at `points` (default: the same)."""
    nodes, weights = quadrature(number)
    degrees = 2 * torch.arange(number, dtype=torch.float64)[:, None] + 1
    series = degrees * legendre_values(nodes, number).T @ (weights[:, None] * chebyshev_interpolation(number, nodes))
    return legendre_values(chebyshev_points(number) if points is None else points, number, order) @ series


def slope(field, axis, length=4.0):
    """First derivative along x (axis 0) or y (axis 1) of (..., n_x, n_y)."""
    if axis == 1:
        return field @ along_y(field.shape[-1], 1).T
    wave = 2j * math.pi / length * torch.arange(field.shape[-2] // 2 + 1, dtype=torch.float64)
    return torch.fft.irfft(torch.fft.rfft(field, dim=-2) * wave[:, None], n=field.shape[-2], dim=-2)


def laplacian(field, length=4.0):
    return slope(slope(field, 0, length), 0, length) + field @ along_y(field.shape[-1], 2).T


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def mean(field, grid):
    return (grid.weights() * field).mean(dim=(-2, -1))


@pytest.fixture(scope="module")
def plumes():
    """Two states with young plumes at Ra = 1e5, Pr = 1 and 0.5, resolved on 64 x 32 points, float64."""
    parameters = settings([1e5, 1.0], [1e5, 0.5])
    system = RayleighBenard(noise=0.1)
    grid = system.grid((64, 32), parameters)
    start = system.initial(parameters, grid, noise_of(2), dtype=torch.float64)
    with torch.no_grad():
        state = system.flow(parameters, grid, 10.0, dtype=torch.float64, inner_dt=0.05)(start)
    assert state[:, 3].abs().amax() > 0.3  # they rise
    return state, parameters, grid


@pytest.mark.parametrize("shape", [(32, 24), (33, 25)])
def test_conduction_is_a_steady_state(shape):
    """b = 1 - y at rest, with the hydrostatic pressure y - y^2 / 2 - 1 / 3, which is not read but found."""
    parameters = settings([1e5, 1.0], [2e3, 10.0], [1.0, 0.1])
    grid = CONVECTION.grid(shape, parameters)
    y = chebyshev_points(shape[1])
    state = torch.zeros(3, 4, *shape, dtype=torch.float64)
    state[:, 0] = 1 - y
    state[:, 1] = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    later = CONVECTION.flow(parameters, grid, 3.0, dtype=torch.float64)(state)
    state[:, 1] = y - y**2 / 2 - 1 / 3
    assert (later - state).abs().max() < 1e-12


def growth(rayleigh, prandtl, wave):
    """Growth rate of a single wave, the largest eigenvalue of the linearised equations in the modes; 20 flow modes and 22 of buoyancy."""
    modes = convection_modes(16, 24, 2 * math.pi / wave)
    rest = torch.zeros(2, len(modes.wavenumbers), 22, 42, 1, 2, dtype=torch.float64)
    kick, unit = rest.clone(), torch.eye(42, dtype=torch.float64)
    # The coefficients of the flow are imaginary where those of buoyancy are real: together a real problem.
    kick[0, 1, :20, :, 0, 1], kick[1, 1, :, :, 0, 0] = unit[:20], unit[20:]
    change = torch.func.jvp(modes.tendency, (rest,), (kick,))[1]
    nu, kappa = diffusivities(settings([rayleigh, prandtl]))
    damping = torch.cat([nu * modes.rates[0, 1, :20], kappa * modes.rates[1, 1]])
    matrix = torch.cat([change[0, 1, :20, :, 0, 1], change[1, 1, :, :, 0, 0]]) - damping.diag()
    return torch.linalg.eigvals(matrix).real.max().item()


def root(function, low, high):
    """Where a function that is nearly a straight line crosses zero: three steps of the secant method."""
    below, above = function(low), function(high)
    for _ in range(3):
        low, high = high, high - above * (high - low) / (above - below)
        below, above = above, function(high)
    return high


@pytest.mark.parametrize("prandtl", [0.1, 1.0, 7.0])
@pytest.mark.parametrize(
    "wave, critical", [(CRITICAL_WAVE, CRITICAL), (2.0, 2177.41), (3.0, 1711.28), (4.0, 1879.26), (8.0, 7084.51)]
)
def test_marginal_rayleigh_numbers_are_the_published_ones(wave, critical, prandtl):
    """The linearised operator of the solver loses stability there, whatever the Prandtl number. Chandrasekhar (1961), table II."""
    assert root(lambda ra: growth(ra, prandtl, wave), 0.99 * critical, 1.01 * critical) == pytest.approx(
        critical, abs=6e-3
    )


def test_small_waves_grow_through_the_flow_beyond_the_critical_number():
    """Measured from states: a wave of 1e-6 that has turned to the leading mode decays at 0.99 Ra_c and grows at 1.01 Ra_c."""
    system = RayleighBenard(length=2 * math.pi / CRITICAL_WAVE, noise=1e-4)
    parameters = settings([0.99 * CRITICAL, 1.0], [1.01 * CRITICAL, 1.0])
    grid = system.grid((16, 24), parameters)
    with torch.no_grad():
        state = system.initial(parameters, grid, noise_of(2), dtype=torch.float64)
        states = integrate(system, state, parameters, grid, [60.0, 80.0], inner_dt=0.25)
    first = torch.fft.rfft(states[:, :, 3], dim=-2)[..., 1, :].norm(dim=-1)
    rates = (first[:, 1] / first[:, 0]).log() / 20.0
    assert rates[0] < 0 < rates[1]
    for rate, (rayleigh, prandtl) in zip(rates.tolist(), parameters.tolist(), strict=True):
        assert rate == pytest.approx(growth(rayleigh, prandtl, CRITICAL_WAVE), rel=1e-3)
    crossing = (0.99 + 0.02 * rates[0] / (rates[0] - rates[1])) * CRITICAL
    assert crossing.item() == pytest.approx(CRITICAL, rel=2e-4)  # the rate bends by so much over 2 %


@pytest.fixture(scope="module")
def rolls():
    """Steady rolls of wavenumber 3.117 at Pr = 0.71, float64."""
    system = RayleighBenard(length=2 * math.pi / CRITICAL_WAVE)
    parameters = settings([5e3, 0.71], [1e4, 0.71], [3e4, 0.71])
    grid = system.grid((32, 24), parameters)
    state = system.initial(parameters, grid, noise_of(3), dtype=torch.float64)
    x = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)[:, None]
    y = chebyshev_points(24)
    state[:, 0] = 1 - y + 0.1 * torch.cos(CRITICAL_WAVE * x) * torch.sin(math.pi * y)
    flow = system.flow(parameters, grid, 120.0, dtype=torch.float64, inner_dt=0.2)
    with torch.no_grad():
        return flow(state), parameters, grid, system


def test_heat_flux_of_steady_rolls_is_near_the_published_one(rolls):
    """2.116, 2.661 and 3.662 by Clever and Busse (1974), doi:10.1017/S0022112074001571, as quoted by later comparisons.

    Their series was short: ours converge to 2.1103, 2.6525 and 3.6201 (with 32 points the same to 1e-6).
    """
    state, parameters, grid, _ = rolls
    nusselt = 1 + mean(state[:, 0] * state[:, 3], grid) / diffusivities(parameters)[1]
    assert nusselt.tolist() == pytest.approx([2.116, 2.661, 3.662], rel=0.015)
    assert nusselt.tolist() == pytest.approx([2.11026, 2.65250, 3.62009], abs=2e-5)


@pytest.mark.parametrize("prandtl", [0.71, 7.0])
def test_heat_flux_just_above_the_onset_rises_as_in_theory(prandtl):
    """(Nu - 1) Ra / (Ra - Ra_c) -> 1 / (0.69942 - 0.00472 / Pr + 0.00832 / Pr^2).

    Schlueter, Lortz and Busse (1965), doi:10.1017/S0022112065001271.
    """
    system = RayleighBenard(length=2 * math.pi / CRITICAL_WAVE)
    excess = torch.tensor([0.06, 0.12], dtype=torch.float64)
    parameters = torch.stack([CRITICAL / (1 - excess), torch.full((2,), prandtl, dtype=torch.float64)], dim=1)
    grid = system.grid((16, 16), parameters)
    x = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)[:, None]
    y = chebyshev_points(16)
    state = torch.zeros(2, 4, 16, 16, dtype=torch.float64)
    state[:, 0] = 1 - y + 0.1 * torch.cos(CRITICAL_WAVE * x) * torch.sin(math.pi * y)
    with torch.no_grad():
        state = system.flow(parameters, grid, 400.0, dtype=torch.float64, inner_dt=0.5)(state)
    nusselt = 1 + mean(state[:, 0] * state[:, 3], grid) / diffusivities(parameters)[1]
    rise = (nusselt - 1) / excess
    limit = 2 * rise[0] - rise[1]  # a straight line through both
    assert limit.item() == pytest.approx(1 / (0.69942 - 0.00472 / prandtl + 0.00832 / prandtl**2), rel=0.01)


def test_four_ways_to_the_nusselt_number_agree(rolls):
    """Volume flux, wall gradient at either wall, dissipation of buoyancy kappa |grad b|^2 and of energy nu |grad u|^2, in steady rolls."""
    state, parameters, grid, system = rolls
    nu, kappa = diffusivities(parameters)
    volume = 1 + mean(state[:, 0] * state[:, 3], grid) / kappa
    walls = -(state[:, 0].mean(dim=-2) @ along_y(24, 1, WALLS).T)
    loss = [
        sum(mean_square(slope(state[:, channel], axis, system.length), grid) for axis in (0, 1) for channel in channels)
        for channels in ((0,), (2, 3))
    ]
    for other, limit in ((walls[:, 0], 3e-4), (walls[:, 1], 3e-4), (loss[0], 1e-6), (1 + nu / kappa * loss[1], 1e-6)):
        assert (other / volume - 1).abs().max() < limit


def mean_square(field, grid):
    """Exact mean of a square, of twice the degree that the stored points integrate."""
    nodes, weights = quadrature(field.shape[-1])
    return ((field @ chebyshev_interpolation(field.shape[-1], nodes).T) ** 2).mean(dim=-2) @ weights


def test_nonlinear_terms_exchange_energy_and_variance_but_make_none(plumes):
    """Each gains v (b - 1 + y), the work of buoyancy and the ascent along the mean gradient, to rounding; on a coarse grid too."""
    state, parameters, _ = plumes
    for shape in ((64, 32), (22, 17)):
        modes = convection_modes(*shape, 4.0)
        coarse = torch.fft.irfft(torch.fft.rfft(state, dim=-2, norm="forward"), n=shape[0], dim=-2, norm="forward")
        coarse = coarse @ chebyshev_interpolation(32, chebyshev_points(shape[1])).T
        v = modes.project(coarse[None])
        both = torch.ones(len(modes.wavenumbers), 1, 1, 1, 1, dtype=torch.float64)
        both[1:] = 2.0  # the partners with -k
        gain = (both * v * modes.tendency(v)).sum(dim=(1, 2, 5))[:, 0]
        own = modes.state(v, diffusivities(parameters)[0])[0]
        warmth = own[:, 0] - 1 + chebyshev_points(shape[1])
        nodes, weights = quadrature(shape[1])
        to_nodes = chebyshev_interpolation(shape[1], nodes).T
        lift = ((own[:, 3] @ to_nodes) * (warmth @ to_nodes)).mean(dim=-2) @ weights
        assert (gain - lift).abs().max() < 1e-12 * lift.abs().max()


def test_velocity_has_no_divergence_and_rests_at_the_walls(plumes):
    """And the walls keep their buoyancy: to rounding, in the derivatives of the polynomials that the states are."""
    state, *_ = plumes
    divergence = slope(state[:, 2], 0) + slope(state[:, 3], 1)
    assert divergence.abs().max() < 1e-11 * slope(state[:, 3], 1).abs().max()
    ends = state @ along_y(32, 0, WALLS).T
    assert ends[:, 2:].abs().max() < 1e-12
    assert (ends[:, 0, :, 0] - 1).abs().max() < 1e-12 and ends[:, 0, :, 1].abs().max() < 1e-12


def test_pressure_closes_the_momentum_equation(plumes):
    """u_t + u . grad u - nu lap u - b e_y + grad p, with u_t from states before and after; the mean of p is zero."""
    state, parameters, grid = plumes
    step = 1e-3
    with torch.no_grad():
        before, now, after = integrate(
            CONVECTION, state, parameters, grid, [step, 2 * step, 3 * step], inner_dt=step
        ).unbind(1)
    nu = diffusivities(parameters)[0][:, None, None, None]
    velocity = now[:, 2:]
    change = (after - before)[:, 2:] / (2 * step)
    advection = sum(velocity[:, axis : axis + 1] * slope(velocity, axis) for axis in (0, 1))
    lift = torch.stack([torch.zeros_like(now[:, 0]), now[:, 0]], dim=1)
    gradient = torch.stack([slope(now[:, 1], axis) for axis in (0, 1)], dim=1)
    residual = change + advection - nu * laplacian(velocity) - lift + gradient
    assert mean(residual**2, grid).sum().sqrt() < 1e-2 * mean(advection**2, grid).sum().sqrt()
    assert mean(now[:, 1], grid).abs().max() < 1e-13


def test_time_steps_are_of_fourth_order(plumes):
    state, parameters, grid = plumes
    with torch.no_grad():
        results = [
            CONVECTION.flow(parameters, grid, 0.5, dtype=torch.float64, inner_dt=0.5 / count)(state)
            for count in (8, 16, 32, 64)
        ]
    errors = [relative(result[:, [0, 2, 3]], results[-1][:, [0, 2, 3]]) for result in results[:-1]]
    assert errors[0] < 2e-3
    assert [math.log2(a / b) for a, b in pairwise(errors)] == pytest.approx([4.0, 4.0], abs=0.35)


def test_default_step_leaves_less_error_than_the_points():
    """The default step at Ra = 1e6 in full convection: below 1e-5 over half a time unit."""
    parameters = settings([1e6, 1.0])
    system = RayleighBenard(noise=0.1)
    grid = system.grid((64, 32), parameters)
    with torch.no_grad():
        state = system.initial(parameters, grid, noise_of(1), dtype=torch.float64)
        state = system.flow(parameters, grid, 12.0, dtype=torch.float64, inner_dt=0.05)(state)
        once, fine = (
            system.flow(parameters, grid, 0.5, dtype=torch.float64, inner_dt=dt)(state) for dt in (None, 1 / 192)
        )
    assert relative(once, fine) < 1e-5


def test_points_across_the_layer_converge_spectrally():
    """From a smooth start, against 48 points; every 4 more divide the error by 5 or more."""
    parameters = settings([2e4, 1.0])
    results = []
    for number in (16, 20, 24, 28, 48):
        grid = CONVECTION.grid((32, number), parameters)
        x, y = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)[:, None], chebyshev_points(number)
        state = torch.zeros(1, 4, 32, number, dtype=torch.float64)
        state[:, 0] = (
            1
            - y
            + 0.3 * torch.cos(math.pi * x / 2 * 2) * torch.sin(math.pi * y)
            + 0.1 * torch.sin(math.pi * x / 2) * y * (1 - y)
        )
        with torch.no_grad():
            later = CONVECTION.flow(parameters, grid, 4.0, dtype=torch.float64, inner_dt=0.05)(state)
        results.append(later @ chebyshev_interpolation(number, chebyshev_points(16)).T)
    errors = [relative(result, results[-1]) for result in results[:-1]]
    assert all(after < before / 5 for before, after in pairwise(errors)), errors
    assert errors[-1] < 1e-6


def test_symmetries(plumes):
    """A shift along x, a mirror image, and warm up against cold down: flow and symmetry may be swapped."""
    state, parameters, grid = plumes
    mirror = torch.tensor([1.0, 1.0, -1.0, 1.0], dtype=torch.float64)[:, None, None]
    turn = torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
    base = torch.zeros(4, 1, 1, dtype=torch.float64)
    base[0] = 1.0
    y = chebyshev_points(32)

    def upside_down(one):
        return (base + turn * one).flip(-1)

    flow = CONVECTION.flow(parameters, grid, 1.0, dtype=torch.float64)
    with torch.no_grad():
        later = flow(state)
        assert relative(flow(state.roll(5, dims=-2)), later.roll(5, dims=-2)) < 1e-11
        assert relative(flow(mirror * state.flip(-2)), mirror * later.flip(-2)) < 1e-11
        turned = upside_down(later)
        # in b_new = 1 - b upside down, buoyancy pushes by b - 1 less: a pressure y more, of mean 1/2
        turned[:, 1] += y - 0.5
        assert relative(flow(upside_down(state)), turned) < 1e-11


def test_initial_law():
    """(1 - y) times its scale, and noise with the same modes on every grid, white on 128 x 32 points; at rest, as in The Well."""
    noise = noise_of(64)
    draws = white_noise(noise, (128, 32))
    assert draws.std().item() == pytest.approx(
        math.sqrt(127 / 128 * 30 / 32), rel=5e-3
    )  # without Nyquist and two degrees
    assert draws.std(dim=(0, 1)).max() < 1.3 * draws.std(dim=(0, 1)).min()
    spectrum = torch.fft.rfft(draws, dim=1, norm="forward").abs().square().mean(dim=(0, 2))
    assert (spectrum[:-1] * 128).sub(30 / 32).abs().max() < 0.25  # white along x, the mean included
    modes = [
        torch.fft.rfft(white_noise(noise, shape), dim=1, norm="forward")[:, :32]
        for shape in ((64, 40), (128, 40), (256, 40))
    ]
    assert relative(modes[0], modes[2]) < 1e-12 and relative(modes[1], modes[2]) < 1e-12
    system = RayleighBenard(buoyancy_scale=0.4, noise=0.0)
    grid = system.grid((64, 32))
    state = system.initial(system.info.default_parameters().expand(64, 2), grid, noise)
    assert state[:, 1:].abs().max() == 0 and torch.equal(state[0, 0, 0], (0.4 * (1 - chebyshev_points(32))).float())
    usual = CONVECTION.initial(system.info.default_parameters().expand(64, 2), grid, noise)
    y = chebyshev_points(32)
    assert (usual[:, 0] - (1 - y)).std(dim=(0, 1)) == pytest.approx(
        (1e-3 * 0.7 * y * (1 - y)).tolist(), rel=0.1, abs=2e-7
    )


def outside(shared_data, name):
    """States (time, 4, 128, 32) of a run of Dedalus in float64, and its parameters."""
    with h5py.File(next((shared_data / "rayleigh_benard" / "data").glob(f"*/{name}"))) as file:
        scalars, vectors = file["t0_fields"], file["t1_fields"]
        parts = [torch.tensor(scalars[key][0]) for key in ("buoyancy", "pressure")]
        velocity = torch.tensor(vectors["velocity"][0])
        values = [float(file["scalars"][key][()]) for key in ("Rayleigh", "Prandtl")]
        axes = [torch.tensor(file["dimensions"][axis][()], dtype=torch.float64) for axis in "xy"]
    return torch.stack([*parts, *velocity.unbind(-1)], dim=1).double(), settings(values)[0], axes


@pytest.mark.parametrize(
    "name", ["rayleigh_benard_Rayleigh_1e6_Prandtl_0.5.hdf5", "rayleigh_benard_Rayleigh_2e6_Prandtl_1.0.hdf5"]
)
def test_restarts_from_states_of_dedalus_follow_its_runs(shared_data, name):
    """Pointwise over 1.5 time units from four times of a run: another basis, another scheme in time (order 2).

    Errors relative to each field's deviation, measured: buoyancy and velocity 0.2 % or less; pressure 0.2 to 0.3 %, as at time 0, since
    in Dedalus it is that of a stage.
    """
    states, parameters, axes = outside(shared_data, name)
    grid = CONVECTION.grid((128, 32), parameters)
    for axis, points in zip(grid.axes, axes, strict=True):
        assert (torch.tensor(axis.coordinates, dtype=torch.float64) - points).abs().max() < 1e-6
    start = torch.tensor([24, 40, 60, 90])
    given = states[start]
    given[:, 1] = 0.0  # not read
    with torch.no_grad():
        ours = integrate(CONVECTION, given, parameters, grid, [0.0 + 1e-9, 0.5, 1.0, 1.5], inner_dt=1 / 32)
    deviation = (states[start] - mean(states[start], grid)[..., None, None]).pow(2)
    scale = mean(deviation, grid).mean(dim=0).sqrt()
    for lead in range(4):
        error = mean((ours[:, lead] - states[start + lead]).pow(2), grid).mean(dim=0).sqrt() / scale
        limit = [1e-6, 5e-3, 1e-3, 1e-4] if lead == 0 else [3e-3, 5e-3, 2e-3, 1e-3]
        assert (error < torch.tensor(limit)).all(), (lead, error)
    persistence = mean((states[start + 1] - states[start]).pow(2), grid).mean(dim=0).sqrt() / scale
    assert persistence.min() > 0.07  # what standing still costs


def test_first_states_are_those_of_dedalus(shared_data):
    """Frame 0: the profile times the scale, noise of 1e-3 y (1 - y), everything else zero."""
    states, *_ = outside(shared_data, "rayleigh_benard_Rayleigh_1e6_Prandtl_0.5.hdf5")
    y = chebyshev_points(32)
    assert states[0, 1:].abs().max() == 0
    noise = (states[0, 0] - 0.6 * (1 - y)) / (y * (1 - y))
    assert noise[:, 1:-1].std().item() == pytest.approx(1e-3, rel=0.05)


def test_rows_of_a_batch_do_not_depend_on_each_other():
    """Bit by bit where they are eights, which is how `simulate` fills them; parameters of their own or shared."""
    parameters = settings(*([1e5 + 1e4 * row, 0.5 + 0.1 * row] for row in range(16)))
    grid = CONVECTION.grid((48, 24), parameters)
    state = CONVECTION.initial(parameters, grid, noise_of(16))
    for values in (parameters, parameters[:1].expand(16, 2)):
        whole = CONVECTION.flow(values, grid, 1.0)(state)
        part = CONVECTION.flow(values[8:], grid, 1.0)(state[8:])
        assert torch.equal(whole[8:], part)
        alone = CONVECTION.flow(values[3], grid, 1.0)(state[3])
        assert (alone - whole[3]).abs().max() < 1e-6


def test_gradients_through_steps_are_those_of_finite_differences(plumes):
    """Of the final mean flux, with respect to Rayleigh and Prandtl numbers and to one start, in convection."""
    state, parameters, grid = plumes

    def flux(u, p):
        later = CONVECTION.flow(p, grid, 0.5, dtype=torch.float64, inner_dt=0.1)(u)
        return mean(later[:, 0] * later[:, 3], grid)[0]

    u, p = state.clone().requires_grad_(), parameters.clone().requires_grad_()
    by_state, by_parameter = torch.autograd.grad(flux(u, p), (u, p))
    assert by_state[0, 1].abs().max() == 0 and by_state[1].abs().max() == 0 and by_parameter[1].abs().max() == 0
    with torch.no_grad():
        for column, step in ((0, 1.0), (1, 1e-5)):
            nudge = torch.zeros_like(parameters)
            nudge[0, column] = step
            slope_p = (flux(state, parameters + nudge) - flux(state, parameters - nudge)) / (2 * step)
            assert by_parameter[0, column].item() == pytest.approx(slope_p.item(), rel=1e-6)
        kick = 1e-5 * state.roll(7, dims=-2)
        difference = (flux(state + kick, parameters) - flux(state - kick, parameters)) / 2
        assert (by_state * kick).sum().item() == pytest.approx(difference.item(), rel=1e-6)


def test_grids_that_lose_the_layers_are_refused():
    least = least_points(settings([1e8, 1.0]), 4.0)
    assert CONVECTION.grid(least, settings([1e8, 1.0])).shape == least
    for shape in ((least[0] - 1, least[1]), (least[0], least[1] - 1)):
        with pytest.raises(InputError, match=f"at least {least[0]} x {least[1]}"):
            CONVECTION.grid(shape, settings([1e8, 1.0]))
    assert CONVECTION.grid((512, 128), settings([1e6, 10.0], [1e10, 1.0])).shape == (
        512,
        128,
    )  # The Well's grid and range
    with pytest.raises(InputError, match="two-dimensional"):
        CONVECTION.grid((64,))
    with pytest.raises(InputError, match="at least 16 x 16"):
        CONVECTION.grid((8, 8), settings([1e3, 1.0]))


def test_other_points_across_the_layer_are_refused():
    """Equidistant points, or the same from the top down."""
    x = periodic_axis("x", 32, 4.0)
    even = tuple((index + 0.5) / 24 for index in range(24))
    down = tuple(reversed(chebyshev_points(24).tolist()))
    for points in (even, down):
        grid = Grid((x, Axis("y", points, ("wall", "wall"))))
        with pytest.raises(InputError, match="Chebyshev-Gauss"):
            CONVECTION.flow(settings([1e4, 1.0])[0], grid, 1.0)


def test_stored_runs_have_the_names_of_the_well(tmp_path):
    """Fields in order, scalars, walls and their weights, by The Well's loader."""
    well = pytest.importorskip("the_well.data")
    import eddycast

    eddycast.simulate(
        "rayleigh-benard",
        trajectories=3,
        steps=3,
        grid=(32, 24),
        parameters={"Rayleigh": (1e5, 2e5)},
        out=tmp_path / "set",
    )
    loader = well.WellDataset(path=str(tmp_path / "set"), well_split_name="train", n_steps_input=1, n_steps_output=2)
    assert loader.metadata.field_names[0] == ["buoyancy", "pressure"]
    assert loader.metadata.field_names[1] == ["velocity_x", "velocity_y"]
    assert loader.metadata.constant_scalar_names == ["Rayleigh", "Prandtl"]
    assert loader[0]["boundary_conditions"].tolist() == [[2, 2], [0, 0]]
    assert loader[0]["constant_scalars"][1] == 1 and 1e5 <= loader[0]["constant_scalars"][0] <= 2e5
    opened = eddycast.open_dataset(tmp_path / "set")
    weights = torch.tensor(opened.grid.axes[1].weights, dtype=torch.float64)
    assert (weights / weights.sum() - torch.tensor(CONVECTION.grid((32, 24)).axes[1].weights)).abs().max() < 1e-6
    again = simulate(CONVECTION, trajectories=1, steps=3, grid_shape=(32, 24), parameters={"Rayleigh": (1e5, 2e5)})
    stored = opened.read(0, 0, 3)
    assert torch.equal(stored, again.states[0])
