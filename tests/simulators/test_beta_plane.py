"""Beta-plane turbulence against exact waves, decay and budgets; its forcing against its law, the gusts among it; what it stores."""

import math
from itertools import pairwise

import pytest
import torch

import eddycast as ec
from eddycast import api, data
from eddycast.cli.app import run
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import velocity_from_vorticity
from eddycast.recipes.record import data_summary
from eddycast.recipes.run import check_compatible
from eddycast.simulators import BetaPlane, Forced, Values, get_system, integrate, simulate
from eddycast.simulators.beta_plane import GUST_TIME, energy, ring_modes, zonal_velocity, zonostrophy

FLOW = BetaPlane()
NAMES = FLOW.info.parameter_names
BOX = (2 * math.pi, 2 * math.pi)


def settings(**values):
    parameters = FLOW.info.default_parameters()
    for name, value in values.items():
        parameters[NAMES.index(name)] = value
    return parameters


def members(count, seed=3):
    return MemberNoise.grid(seed, 1, count).flatten()


def turbulence(size=48, batch=2, dtype=torch.float64, level=0.16, modes=9):
    """Random vorticity of this deviation with modes up to `modes`, (batch, 1, size, size)."""
    white = torch.randn(batch, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    length = (k[:, None] ** 2 + k[: size // 2 + 1].abs() ** 2).sqrt()
    spectrum = torch.fft.rfft2(white) * ((length > 0) & (length <= modes))
    field = torch.fft.irfft2(spectrum, s=(size, size))
    return (level * field / field.std()).to(dtype)


def points(size):
    x = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size
    return x[:, None], x[None, :]


@pytest.mark.parametrize(("kx", "ky"), [(1, 0), (3, -2), (2, 7), (0, 4), (-5, 5)])
def test_a_rossby_wave_moves_and_decays_exactly(kx, ky):
    """One plane wave is an exact solution of the whole equation: frequency -beta k_x / k^2, decay by drag and hyperviscosity."""
    size, duration, beta, drag = 48, 50.0, 1.7, 0.003
    x, y = points(size)
    squared = kx**2 + ky**2
    rate = drag + (squared / (size / 3) ** 2) ** 8
    frequency = -beta * kx / squared
    state = 0.2 * torch.cos(kx * x + ky * y + 0.3)[None, None]
    exact = 0.2 * torch.cos(kx * x + ky * y + 0.3 - frequency * duration) * math.exp(-rate * duration)
    flow = FLOW.flow(
        settings(beta=beta, drag=drag), FLOW.grid((size, size)), duration, dtype=torch.float64, inner_dt=10.0
    )
    assert (flow(state)[0, 0] - exact).abs().max() < 1e-11


def test_modes_beyond_the_cut_decay_by_themselves_and_the_mean_is_dropped():
    """On 48 points the cut is at 15: mode (17, 0) sees no nonlinear term, whatever else is there."""
    size, x = 48, points(48)[0]
    state = turbulence() + 1e-3 * torch.cos(17 * x) + 0.5
    parameters = settings(drag=0.01)
    after = FLOW.flow(parameters, FLOW.grid((size, size)), 0.5, dtype=torch.float64)(state)
    modes = torch.fft.rfft2(after[:, 0], norm="forward")
    rate = complex(0.01 + (17 / 16) ** 16, -0.9 / 17)
    before = torch.fft.rfft2(state[:, 0], norm="forward")[:, 17, 0]
    assert (modes[:, 17, 0] - before * complex(math.e) ** (-rate * 0.5)).abs().max() < 1e-15
    assert modes[:, 0, 0].abs().max() < 1e-16


def test_a_zonal_flow_is_steady_but_for_drag():
    y = points(48)[1]
    waves = ((3, 0.1 * torch.sin(3 * y)), (7, 0.05 * torch.cos(7 * y)))
    state = sum(wave for _, wave in waves).expand(1, 1, 48, 48)
    after = FLOW.flow(settings(drag=0.002), FLOW.grid((48, 48)), 100.0, dtype=torch.float64, inner_dt=5.0)(state)
    exact = sum(math.exp(-100 * (0.002 + (k / 16) ** 16)) * wave for k, wave in waves)
    assert (after - exact).abs().max() < 1e-12
    assert (after - after.mean(dim=-2, keepdim=True)).abs().max() < 1e-14


def test_the_jacobian_keeps_energy_and_enstrophy():
    """Their rates of change by J alone, from one tiny step without beta: zero to rounding and the size of the step's error."""
    size = 48
    state = turbulence(modes=7)  # products within the cut: the sums are exact
    tiny = 1e-3
    flow = FLOW.flow(settings(beta=0.0, drag=1e-4), FLOW.grid((size, size)), tiny, dtype=torch.float64)
    change = (flow(state) - state)[:, 0] / tiny
    damped = torch.fft.rfft2(state[:, 0], norm="forward")
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    squared = k[:, None] ** 2 + k[: size // 2 + 1] ** 2
    damping = torch.fft.irfft2(-(1e-4 + (squared / 256) ** 8) * damped, s=(size, size), norm="forward")
    jacobian = change - damping
    psi = torch.fft.irfft2(-damped / squared.clamp(min=1), s=(size, size), norm="forward")
    for weight in (psi, state[:, 0]):
        work = (weight * jacobian).mean((-2, -1))
        scale = weight.square().mean((-2, -1)).sqrt() * jacobian.square().mean((-2, -1)).sqrt()
        assert jacobian.abs().max() > 1e-3 and (work / scale).abs().max() < 2e-4  # first order in the tiny step


def test_the_nonlinear_term_is_the_advection_of_vorticity():
    """Against u . grad zeta computed at the points with velocities of another module."""
    size, tiny = 64, 1e-5
    state = turbulence(size, modes=9)
    flow = FLOW.flow(settings(beta=0.0, drag=1e-4), FLOW.grid((size, size)), tiny, dtype=torch.float64)
    u, v = velocity_from_vorticity(state, BOX).unbind(-3)
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    modes = torch.fft.fft2(state[:, 0])
    slope_x, slope_y = (torch.fft.ifft2(1j * wave * modes).real for wave in (k[:, None], k))
    change = (flow(state) - state)[:, 0] / tiny
    assert (change + u * slope_x + v * slope_y + 1e-4 * state[:, 0]).abs().max() < 1e-4 * change.abs().max()


def test_order_four_in_the_step_without_forcing():
    """Where the hyperviscosity does little; modes that it holds down have an error of order 3 and less (`numerics.steppers.ifrk4`)."""
    grid, state = FLOW.grid((64, 64)), turbulence(64, 1, modes=4)
    results = [
        FLOW.flow(settings(), grid, 4.0, dtype=torch.float64, inner_dt=step)(state) for step in (1.0, 0.5, 0.25, 0.0625)
    ]
    errors = [(each - results[-1]).norm().item() for each in results[:-1]]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert min(orders) > 3.8
    assert errors[1] < 1e-4 * results[-1].norm().item()  # the default step


def test_energy_is_that_of_the_velocities_and_the_zonal_mean_theirs():
    state = turbulence(33, modes=8)
    velocity = velocity_from_vorticity(state, BOX)
    assert torch.allclose(energy(state), 0.5 * velocity.square().sum(1).mean((-2, -1)), rtol=1e-12)
    assert torch.allclose(zonal_velocity(state), velocity[:, :1].mean(-2), atol=1e-14)
    even = turbulence(48)
    assert torch.allclose(zonal_velocity(even), velocity_from_vorticity(even, BOX)[:, :1].mean(-2), atol=1e-14)


def test_the_forcing_puts_in_epsilon_and_the_energy_follows_the_linear_law():
    """From rest, 16 runs on 64 points with the ring where the hyperviscosity does not reach: epsilon (1 - exp(-2 mu t)) / (2 mu)."""
    given = {"forcing_wavenumber": 6.0, "drag": 0.02, "energy_input": 1e-7}
    made = simulate(FLOW, trajectories=16, steps=4, dt=10.0, spin_up=10.0, parameters=given, inner_dt=1.0)
    for index, level in enumerate(energy(made.states).T):
        law = 1e-7 * -math.expm1(-2 * 0.02 * 10.0 * (index + 1)) / (2 * 0.02)
        assert (
            abs(level.mean() - law) < 4 * level.std() / 4 + 0.02 * law
        )  # damped within the step in which they come: 0.02


def increments(parameters, size=48, count=400, duration=1.0, seed=3):
    """What one inner step adds to a state at rest, as full mean Fourier coefficients (count, k_x, k_y), and the grid."""
    grid = FLOW.grid((size, size), parameters)
    forced = FLOW.forced_flow(parameters, grid, duration, dtype=torch.float64, inner_dt=duration)
    state = forced(torch.zeros(count, 1, size, size, dtype=torch.float64), members(count, seed), 0)
    return torch.fft.fft2(state[:, 0], norm="forward")


def test_the_ring_is_isotropic_and_zonal_modes_are_not_halved():
    """Power of each stirred mode within 5 standard errors of S_k dt, and none elsewhere; the axes by themselves; sum epsilon dt."""
    parameters = settings(energy_input=2e-6, drag=1e-4)
    modes = increments(parameters, size=64, duration=0.01)
    power = modes.abs().square().mean(0)
    (kx, ky), expected = ring_modes(10)
    expected = expected * 2e-6 * 0.01
    for sign in (1, -1):
        ratio = power[sign * kx % 64, sign * ky % 64] / expected
        assert (ratio - 1).abs().max() < 5 / math.sqrt(400) and (ratio - 1).abs().mean() < 1 / math.sqrt(400)
        for axis in (kx == 0, ky == 0):  # the whole line of modes along each axis: 9 times 400 draws
            assert axis.sum() == 9 and abs(ratio[axis].mean() - 1) < 4 / math.sqrt(9 * 400)
    others = torch.ones(64, 64, dtype=torch.bool)
    others[kx % 64, ky % 64] = others[-kx % 64, -ky % 64] = False
    assert power[others].max() < 1e-8 * power.max()  # a step of 0.01 makes little of so weak a flow
    squared = (kx**2 + ky**2).double()
    assert (expected / squared).sum().item() == pytest.approx(2e-6 * 0.01)


def test_phases_are_independent_of_each_other():
    """Two modes, and the same mode in the next inner step: no correlation beyond 5 standard errors; normal: kurtosis 3."""
    parameters = settings(drag=1e-4)
    one = increments(parameters, size=64, duration=0.01)
    picked = torch.stack([one[:, 10, 0], one[:, 0, 10], one[:, 7, 7], one[:, -7, 7], one[:, 0, 9]])
    picked = picked / picked.abs().square().mean(1, keepdim=True).sqrt()
    products = (picked @ picked.mH / 400).abs() + (picked @ picked.T / 400).abs()
    products.fill_diagonal_(0)
    assert products.max() < 10 / math.sqrt(400) and (picked**2).mean(1).abs().max() < 5 / math.sqrt(400)
    parts = torch.cat([picked.real, picked.imag]) * math.sqrt(2)
    assert (parts**4).mean().item() == pytest.approx(3.0, abs=5 * math.sqrt(96 / parts.numel()))


def test_increments_of_all_inner_steps_differ_across_blocks_too():
    """130 inner steps of stirring without dynamics to speak of: variances add up, so that no increment came twice."""
    parameters = settings(energy_input=1e-9, drag=1e-4, beta=0.0)
    grid = FLOW.grid((44, 44))
    forced = FLOW.forced_flow(parameters, grid, 1.3, dtype=torch.float64, inner_dt=0.01)
    zero = torch.zeros(16, 1, 44, 44, dtype=torch.float64)
    first, second = (forced(zero, members(16), step) for step in (0, 1))
    level = energy(first)
    assert abs(level.mean().item() / 1.3e-9 - 1) < 5 * (level.std() / level.mean()).item() / 4 + 2e-3
    assert energy(first - second).mean().item() == pytest.approx(2 * level.mean().item(), rel=0.1)


def test_rows_with_rings_of_their_own_get_what_they_get_alone():
    wavenumbers = torch.tensor([10.0, 7.0, 10.0, 5.0])
    parameters = settings().repeat(4, 1)
    parameters[:, 3] = wavenumbers
    grid, noise = FLOW.grid((48, 48)), members(4)
    state = turbulence(batch=4)
    whole = FLOW.forced_flow(parameters, grid, 5.0, dtype=torch.float64)(state, noise, 2)
    for row in range(4):
        own = slice(row, row + 1)
        alone = FLOW.forced_flow(parameters[row], grid, 5.0, dtype=torch.float64)(state[own], noise.select(own), 2)
        assert (alone - whole[own]).abs().max() < 1e-14


def test_single_precision_follows_double_and_stays_put():
    """Same increments from rest: 1e-4 of the largest value over two outputs; and the zonal means."""
    single, double = (
        simulate(FLOW, trajectories=2, steps=3, spin_up=0.0, grid_shape=(48, 48), dtype=dtype)
        for dtype in (torch.float32, torch.float64)
    )
    assert (single.states - double.states).abs().max() < 1e-4 * double.states.abs().max()
    zonal = zonal_velocity(single.states) - zonal_velocity(double.states)
    assert zonal.abs().max() < 1e-4 * zonal_velocity(double.states).abs().max()


@pytest.mark.parametrize("percent", [0.0, 40.0])
def test_restarts_with_the_same_seed_are_the_same_and_others_are_not(percent):
    """Bit by bit, in any batch of whole blocks; members are draws that part from each other."""
    parameters, grid = settings(gust_percent=percent), FLOW.grid((48, 48))
    start = simulate(FLOW, trajectories=1, steps=1, spin_up=100.0, grid_shape=(48, 48)).states[:, 0]
    found = [
        integrate(FLOW, start.expand(count, -1, -1, -1), parameters, grid, [50.0], noise=members(count, seed))[:, 0]
        for count, seed in ((8, 3), (16, 3), (8, 4))
    ]
    assert torch.equal(found[0], found[1][:8])
    assert (found[0] - found[2]).abs().amax((1, 2, 3)).min() > 1e-2 and (found[0][0] - found[0][1]).abs().max() > 1e-2


def test_gusts_have_two_values_with_the_stated_mean_energy():
    """Jets so weak that nothing else is as strong: exactly (1 +- g / r) U, each for half of 400 members; energy g epsilon T on average."""
    rate, y = 1e-20, points(48)[1]  # of waves 3 and 5, which the ring leaves alone
    jets = 1e-9 * (2 * torch.sin(3 * y) + torch.cos(5 * y + 1.0)).expand(1, 1, 48, 48)
    parameters = settings(gust_percent=80.0, energy_input=rate, drag=1e-4)
    grid, noise = FLOW.grid((48, 48)), members(400)
    quiet = parameters.clone()
    quiet[2] = 0.0  # no energy, no gusts: the decay alone
    start = jets.expand(400, -1, -1, -1)
    forced = FLOW.forced_flow(parameters, grid, GUST_TIME, dtype=torch.float64, inner_dt=50.0)
    after = zonal_velocity(forced(start, noise, 0))[:, 0]
    plain = zonal_velocity(
        FLOW.forced_flow(quiet, grid, GUST_TIME, dtype=torch.float64, inner_dt=50.0)(start, noise, 0)
    )[:, 0]
    before = zonal_velocity(jets)[0, 0]
    root = before.square().mean().sqrt().item()
    gust = math.sqrt(2 * 0.8 * rate * GUST_TIME)
    waves = (0, 1, 2, 3, 4, 5)
    after, plain = (torch.fft.rfft(values)[:, waves] for values in (after, plain))
    factor = (after * plain.conj()).sum(-1).real / plain.abs().square().sum(-1)
    assert (after - factor[:, None] * plain).abs().max() < 1e-5 * plain.abs().max()
    up = factor > 1
    assert abs(up.double().mean().item() - 0.5) < 5 * 0.5 / 20
    assert (factor[up] - (1 + gust / root)).abs().max() < 1e-5
    assert (factor[~up] - (1 - gust / root)).abs().max() < 1e-5
    sign = up.double() * 2 - 1
    gain = 0.5 * (root + sign * gust) ** 2 - 0.5 * root**2
    assert abs(gain.mean().item() - 0.8 * rate * GUST_TIME) < 5 * gain.std().item() / 20


def test_what_follows_a_gust_is_bimodal_at_the_jets():
    """32 members of turbulence over one interval: two clusters, farther apart than four times their widths; without gusts there is one."""
    grid = FLOW.grid((44, 44))
    start = simulate(FLOW, trajectories=1, steps=1, spin_up=400.0, grid_shape=(44, 44), seed=1).states[:, 0]
    peak = int(zonal_velocity(start)[0, 0].argmax())
    gaps = {}
    for percent in (0.0, 60.0):
        after = integrate(
            FLOW, start.expand(32, -1, -1, -1), settings(gust_percent=percent), grid, [50.0], noise=members(32)
        )
        values = zonal_velocity(after[:, 0])[:, 0, peak].double().sort().values
        middle = int((values[1:] - values[:-1])[8:-8].argmax()) + 9
        low, high = values[:middle], values[middle:]
        gaps[percent] = ((high.mean() - low.mean()) / max(low.std(), high.std())).item()
    assert gaps[60.0] > 4 and gaps[0.0] < 4


def test_gusts_need_whole_intervals():
    grid = FLOW.grid((48, 48))
    with pytest.raises(InputError, match="whole multiples of 50, got 20"):
        FLOW.forced_flow(settings(gust_percent=10.0), grid, 20.0)
    assert FLOW.num_steps(100.0, (64, 64), 0.3) == 2 * FLOW.num_steps(50.0, (64, 64), 0.3)
    FLOW.forced_flow(settings(), grid, 20.0)


def test_gusts_take_their_share_from_the_ring():
    """From rest, where there is nothing that gusts could change, so weak that all is linear: 1 - g of the energy, state by state."""
    grid, zero = FLOW.grid((48, 48)), torch.zeros(4, 1, 48, 48, dtype=torch.float64)
    found = [
        energy(
            FLOW.forced_flow(
                settings(gust_percent=percent, energy_input=1e-20),
                grid,
                GUST_TIME,
                dtype=torch.float64,
                inner_dt=GUST_TIME,
            )(zero, members(4), 0)
        )
        for percent in (0.0, 75.0)
    ]
    assert (found[1] / found[0] - 0.25).abs().max() < 1e-9


def test_a_spin_up_of_whole_intervals_goes_with_gusts_whatever_the_output():
    """Outputs every 100 and a spin-up of 1050, which is no whole number of them."""
    made = simulate(
        FLOW, trajectories=1, steps=2, dt=100.0, spin_up=1050.0, inner_dt=25.0, grid_shape=(30, 30), seed=1,
        parameters={"gust_percent": 50.0, "forcing_wavenumber": 5.0, "energy_input": 1e-9},
    )  # fmt: skip
    assert made.states.isfinite().all() and made.states.abs().max() > 0


def test_the_stored_zonal_mean_is_that_of_the_stored_states(tmp_path):
    """In memory and on disk, with parameters in turn, of a coarser stored grid too; never all states."""
    given = {
        "trajectories": 4,
        "steps": 3,
        "spin_up": 50.0,
        "grid": (48, 48),
        "parameters": {"beta": Values((0.5, 2.0))},
    }
    states = ec.simulate("beta-plane", **given)
    words = [
        "--trajectories",
        "4",
        "--steps",
        "3",
        "--spin-up",
        "50",
        "--grid",
        "48x48",
        "--param",
        "beta=0.5,2",
        "--store",
        "zonal-mean",
    ]
    assert run(["simulate", "beta-plane", "--out", str(tmp_path / "zonal"), *words]) == 0
    zonal = ec.open_dataset(tmp_path / "zonal")
    assert zonal.field_names == ("zonal_velocity",) and zonal.grid.names == ("y",) and zonal.grid.periodic == (True,)
    assert zonal.attributes["system"] == "beta-plane" and zonal.attributes["stored"] == "zonal-mean"
    assert '"stored": "zonal-mean"' in (tmp_path / "zonal" / "manifest.json").read_text()
    assert torch.equal(zonal.parameter_values, states.parameter_values) and zonal.splits == states.splits
    reduced = ec.zonal_mean(states)
    for trajectory in range(4):
        exact = zonal_velocity(states.read(trajectory, 0, 3))
        assert exact.abs().max() > 1e-4 and torch.equal(zonal.read(trajectory, 0, 3), exact)
        assert torch.equal(reduced.read(trajectory, 0, 3), exact)
    assert "system: beta-plane, zonal-mean" in api.inspect(tmp_path / "zonal")
    with pytest.raises(InputError, match="hold the zonal-mean of states alone"):
        ec.load("system:beta-plane").forecast(zonal.initial(start=0), steps=1)
    coarse = simulate(
        FLOW, trajectories=2, steps=2, spin_up=50.0, grid_shape=(48, 48), store_shape=(32, 32), store="zonal-mean"
    )
    whole = simulate(FLOW, trajectories=2, steps=2, spin_up=50.0, grid_shape=(48, 48), store_shape=(32, 32))
    assert torch.equal(coarse.states, zonal_velocity(whole.states)) and coarse.grid.shape == (32,)
    with pytest.raises(InputError, match="besides its states it has zonal-mean"):
        ec.simulate("beta-plane", trajectories=1, store="meridional-mean")
    with pytest.raises(InputError, match="besides its states it has nothing"):
        ec.simulate("burgers", trajectories=1, store="zonal-mean")


def test_solver_ensembles_are_draws_and_reduce_to_zonal_means(tmp_path):
    """`system:beta-plane` from stored states: members part, the same seed is the same; ec.zonal_mean of the forecast and of its file."""
    states = ec.simulate("beta-plane", trajectories=3, steps=2, spin_up=100.0, grid=(48, 48))
    solver = ec.load("system:beta-plane")
    first, again, other = (
        solver.forecast(states.initial(start=0), steps=2, members=3, seed=seed) for seed in (1, 1, 2)
    )
    name = "vorticity"
    assert abs(first[name] - again[name]).max() == 0 and abs(first[name] - other[name]).max() > 1e-2
    assert abs(first[name].isel(member=0) - first[name].isel(member=1)).max() > 1e-2
    zonal = ec.zonal_mean(first)
    assert zonal["zonal_velocity"].dims == ("init", "member", "lead_time", "y") and "x" not in zonal.variables
    exact = zonal_velocity(torch.from_numpy(first[name].values)[..., None, :, :])[..., 0, :]
    assert torch.equal(torch.from_numpy(zonal["zonal_velocity"].values), exact)
    assert zonal.attrs["eddycast_fields"] == "zonal_velocity" and zonal.attrs["eddycast_system"] == "beta-plane"
    data.write(first, tmp_path / "forecast.nc")
    stored = ec.zonal_mean(tmp_path / "forecast.nc")
    assert abs(stored["zonal_velocity"] - zonal["zonal_velocity"]).max() == 0
    data.write(zonal, tmp_path / "zonal.nc")
    trained = data_summary(ec.zonal_mean(states))  # what a run on zonal means remembers
    for call in (
        lambda: ec.evaluate(tmp_path / "zonal.nc", truth=states),
        lambda: ec.statistics(tmp_path / "zonal.nc", truth=states),
        lambda: check_compatible(trained, states, "the run"),
    ):
        with pytest.raises(InputError, match=r"--store zonal-mean, or reduce them with ec\.zonal_mean"):
            call()
    assert data.grid_of(data.read(tmp_path / "zonal.nc")).periodic == (True,)
    with pytest.raises(InputError, match="needs vorticity along x, y; here is zonal_velocity along y"):
        ec.zonal_mean(zonal)
    with pytest.raises(InputError, match="states of beta-plane; these are of burgers"):
        ec.zonal_mean(ec.simulate("burgers", trajectories=3, steps=2))


def test_bad_grids_and_numbers_are_refused_in_one_line():
    with pytest.raises(InputError, match="2 axes of at least 16 points"):
        FLOW.grid((64,))
    with pytest.raises(InputError, match="around wavenumber 16") as refused:
        FLOW.grid((60, 60), settings(forcing_wavenumber=16.0))
    least = int(str(refused.value).split("at least ")[1].split()[0])
    assert FLOW.grid((least, least), settings(forcing_wavenumber=16.0)).shape == (least, least)
    with pytest.raises(InputError):
        FLOW.grid((least - 2, least - 2), settings(forcing_wavenumber=16.0))
    with pytest.raises(InputError, match="whole number"):
        FLOW.grid((64, 64), settings(forcing_wavenumber=10.5))
    with pytest.raises(InputError, match="beta must lie within"):
        simulate(FLOW, trajectories=1, steps=1, parameters={"beta": -1.0})


def test_the_published_size_has_its_step_and_its_ring():
    assert isinstance(FLOW, Forced) and get_system("Beta_plane").info.name == "beta-plane"
    grid = FLOW.grid((256, 256), settings(forcing_wavenumber=16.0))
    assert FLOW.info.default_inner_dt(grid.shape) == 0.125
    (kx, ky), power = ring_modes(16)
    assert power[(kx == 0) & (ky == 16)] == power.max() and (kx**2 + ky**2).max() <= 20.5**2
    U = math.sqrt(1e-6 / 4e-4)
    found = zonostrophy(settings(), torch.tensor(U**2 / 2)).item()
    assert found == pytest.approx(U**0.5 * 0.9**0.1 / (2**0.5 * 1e-6**0.2)) and found == pytest.approx(2.5, abs=0.05)
