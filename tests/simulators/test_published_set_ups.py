"""The set-ups of the published diffusion benchmarks: an implicit solver of high accuracy, outside data, parts of an ensemble."""

import h5py
import numpy as np
import pytest
import torch

from eddycast.metrics import power_spectrum, shells
from eddycast.noise import MemberNoise
from eddycast.numerics.truncated import resample
from eddycast.simulators import get_system, integrate, simulate, with_initial
from eddycast.simulators.kolmogorov_flow import forcing

KS, BURGERS, FLOW = (get_system(name) for name in ("kuramoto-sivashinsky", "burgers", "kolmogorov-flow"))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_ks_follows_radau_on_the_pseudo_spectral_equation():
    """L = 64, 256 points, ten sines; u_t = -u u_x - u_xx - u_xxxx on the points, without dealiasing, Radau with tolerances 1e-9.

    Both are resolved: what is left at t = 8 is our step, then chaos lets the tolerance of the one grow.
    """
    integrators = pytest.importorskip("scipy.integrate")
    pack = pytest.importorskip("scipy.fftpack")
    length, points = 64.0, 256
    parameters, number = torch.tensor([[length]], dtype=torch.float64), torch.tensor([3])
    grid = KS.grid((points,), parameters)
    law = with_initial(KS, {"sines": 10, "modes": 2})
    start = law.initial(parameters, grid, MemberNoise(0, number, 0 * number), dtype=torch.float64)
    slopes = [
        np.stack([pack.diff(column, order, period=length) for column in np.eye(points)], 1) for order in (1, 2, 4)
    ]

    def tendency(_, u):
        first, second, fourth = (pack.diff(u, order, period=length) for order in (1, 2, 4))
        return -u * first - second - fourth

    def jacobian(_, u):
        return -np.diag(slopes[0] @ u) - u[:, None] * slopes[0] - slopes[1] - slopes[2]

    times = [2.0, 8.0, 30.0]
    radau = integrators.solve_ivp(
        tendency, (0, times[-1]), start[0, 0].numpy(), method="Radau", rtol=1e-9, atol=1e-9, jac=jacobian, t_eval=times
    )
    ours = integrate(KS, start, parameters, grid, times, inner_dt=0.0125)[0, :, 0]
    errors = [relative(ours[index], torch.tensor(radau.y[:, index])) for index in range(3)]
    assert errors[0] < 3e-9 and errors[1] < 3e-9 and errors[2] < 1e-6, errors
    assert ours[-1].std() > 0.8  # it has left the start
    coarse = integrate(KS, start, parameters, grid, [8.0], inner_dt=0.1)[0, 0, 0]
    assert relative(coarse, torch.tensor(radau.y[:, 1])) < 1e-7  # the default step


def test_ks_has_the_spectrum_and_the_distribution_of_outside_data(shared_data):
    """Power of the modes 2 to 16 and the quantiles of u, over runs (16 theirs of 128 time units, 16 ours), within 4 standard errors."""
    theirs = []
    for path in sorted((shared_data / "kuramoto_sivashinsky/data").glob("*/*.hdf5")):
        with h5py.File(path) as file:
            theirs.append(torch.tensor(file["t0_fields/u"][:, ::8]))
    outside = torch.cat(theirs)[:, :, None].double()
    ours = simulate(
        KS, trajectories=16, steps=80, dt=1.6, parameters={"domain_length": 64.0}, grid_shape=(128,), seed=2, inner_dt=0.2,
        initial={"sines": 10, "modes": 2},
    ).states.double()  # fmt: skip
    levels = torch.tensor([0.05, 0.25, 0.75, 0.95], dtype=torch.float64)

    def statistics(states):
        rings = shells(KS.grid((states.shape[-1],), torch.tensor([64.0])))
        power = power_spectrum(states[:, :, 0], rings).mean(dim=1)[:, 2:17:2]
        return torch.cat([power.log(), states.flatten(1).quantile(levels, dim=1).T], dim=1)

    first, second = statistics(outside), statistics(ours)
    error = (first.var(dim=0) / len(first) + second.var(dim=0) / len(second)).sqrt()
    assert ((first.mean(dim=0) - second.mean(dim=0)).abs() < 4 * error).all()
    assert error.max() < 0.15


def test_burgers_set_up():
    """nu 0.01, 128 points on [0, 1), 101 states every 0.01 from t = 0, and the fourfold resolution agrees at the end."""
    run = simulate(BURGERS, trajectories=8, steps=101, dtype=torch.float64)
    assert run.states.shape == (8, 101, 1, 128) and run.dt == 0.01 and run.attributes["spin_up"] == 0.0
    assert run.parameters.unique().tolist() == [0.01]
    assert run.grid.axes[0].period == 1.0 and run.grid.axes[0].coordinates[1] == 1 / 128
    fine = simulate(
        BURGERS, trajectories=8, steps=101, grid_shape=(512,), store_shape=(128,), inner_dt=0.0025, dtype=torch.float64
    )
    assert relative(run.states[:, 0], fine.states[:, 0]) < 1e-12  # the same start
    assert relative(run.states[:, -1], fine.states[:, -1]) < 1e-6
    assert 0.1 < run.states[:, 0].std() < 0.35


@pytest.mark.parametrize("lengths", [None, (22.0, 40.0)])
def test_parts_of_an_ensemble_are_those_of_the_whole_bit_by_bit(lengths):
    """A part of other length, and of one trajectory, keeps numbers, parameters, spin-up and grid of the whole."""
    parameters = {} if lengths is None else {"domain_length": lengths}
    options = {"trajectories": 13, "spin_up": 5.0, "parameters": parameters, "seed": 4}
    whole = simulate(KS, steps=6, **options)
    for part, steps in ((range(9), 3), (range(9, 12), 6), (range(12, 13), 9)):
        some = simulate(KS, steps=steps, only=part, **options)
        common = min(steps, 6)
        assert torch.equal(some.states[:, :common], whole.states[part.start : part.stop, :common])
        assert torch.equal(some.parameters, whole.parameters[part.start : part.stop]) and some.grid == whole.grid
        assert some.attributes == whole.attributes
    with pytest.raises(ValueError, match="only"):
        simulate(KS, steps=3, only=range(10, 20), **options)


def test_forcing_is_a_static_field_of_all_runs_or_of_each():
    options = {"trajectories": 3, "steps": 1, "spin_up": 0.0, "grid_shape": (48, 48), "store_shape": (24, 32)}
    run = simulate(
        FLOW, parameters={"viscosity": (0.02, 0.03), "forcing_wavenumber": 6, "forcing_amplitude": 2}, **options
    )
    y = torch.arange(32, dtype=torch.float64) * 2 * torch.pi / 32
    assert torch.allclose(run.static["forcing"], (2 * torch.sin(6 * y)).expand(24, 32), atol=1e-12)
    several = simulate(FLOW, parameters={"forcing_wavenumber": (2, 6)}, **options)
    wavenumbers = several.parameters[:, 3]
    assert wavenumbers.unique().numel() > 1
    assert torch.allclose(
        several.static["forcing"], torch.sin(wavenumbers[:, None, None] * y).expand(3, 24, 32), atol=1e-12
    )
    part = simulate(FLOW, parameters={"forcing_wavenumber": (2, 6)}, only=range(1, 2), **options)
    assert torch.equal(part.static["forcing"], several.static["forcing"][1:2]), "told apart by the runs of the seed"


def test_forcing_is_the_force_of_the_solver():
    """From rest, after a short time, u = t f to first order."""
    parameters = torch.tensor([0.02, 0.1, 1.5, 3.0], dtype=torch.float64)
    grid = FLOW.grid((32, 32), parameters)
    flow = FLOW.flow(parameters, grid, 1e-4, dtype=torch.float64)
    result = flow(torch.zeros(2, 32, 32, dtype=torch.float64)) / 1e-4
    assert (result[0] - forcing(parameters, grid)).abs().max() < 1e-3 and result[1].abs().max() < 1e-10


def test_finely_solved_states_are_truncated_not_solved_coarsely():
    """At viscosity 0.001, 128 x 128 stored on 64 x 64 (256 x 256 alike): one step of the fine solver away from each other."""
    options = {"trajectories": 1, "steps": 2, "spin_up": 0.4, "dtype": torch.float64, "parameters": {"viscosity": 1e-3}}
    law = {"peak_wavenumber": 4, "max_velocity": 3}
    fine = simulate(FLOW, grid_shape=(128, 128), initial=law, **options)
    stored = simulate(FLOW, grid_shape=(128, 128), store_shape=(64, 64), initial=law, **options)
    assert relative(stored.states, resample(fine.states, (64, 64))) < 1e-12
    step = FLOW.flow(fine.parameters, fine.grid, 0.2, dtype=torch.float64)(fine.states[:, 0])
    assert relative(resample(step, (64, 64)), stored.states[:, 1]) < 1e-9
