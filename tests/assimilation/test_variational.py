"""3D-Var, 4D-Var and their static covariance: against Kalman filter and smoother, and on Lorenz 63."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_etkf import GRID, POINTS, LinearModel, background, kalman_and_rts, observations

from eddycast import simulators
from eddycast.assimilation import (
    ThreeDVarOptions,
    assimilate,
    gather_findings,
    spectral_covariance,
    start_cycle,
    static_update,
)
from eddycast.assimilation.interpolation import InterpolationOptions
from eddycast.assimilation.static_covariance import (
    background_of,
    cosines,
    from_spectrum,
    scaled,
    spectrum,
    static_prior,
)
from eddycast.assimilation.strong_constraint import (
    FourDVarOptions,
    WindowProblem,
    growing,
    pieces_of,
)
from eddycast.emulators import Emulator, IdentitySpace, SolverModel
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement, Observations


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix_of(covariance, *shape):
    """B as a matrix, for states of that shape."""
    size = torch.Size(shape).numel()
    columns = covariance.covariance(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    return columns.reshape(size, size)


def test_transforms_are_orthonormal_and_invert_each_other():
    v = normal(3, 2, 6, 5)
    for periodic in [(True, True), (True, False), (False, True), (False, False)]:
        z = spectrum(v, periodic)
        torch.testing.assert_close(z.abs().square().sum(), v.square().sum())
        torch.testing.assert_close(from_spectrum(z, periodic), v)
    c = cosines(7)
    torch.testing.assert_close(c @ c.T, torch.eye(7, dtype=torch.float64))


def test_on_one_point_the_covariance_is_that_of_the_sample():
    grid = Grid((Axis("point", (0.0,), ("open", "open")),))
    sample = normal(40, 2, 1, 3, 1) @ torch.ones(1, 1, dtype=torch.float64)
    sample = torch.einsum("cd,nktdx->nktcx", normal(3, 3, seed=1), sample)
    expected = torch.cov(sample.flatten(0, 2)[..., 0].T)
    torch.testing.assert_close(matrix_of(spectral_covariance(sample, grid), 1, 3, 1), expected, rtol=1e-4, atol=1e-4)


def test_the_covariance_of_a_homogeneous_field_is_found_with_full_rank():
    """Two channels, the second the first shifted by two points: correlations between places and channels, at the Monte-Carlo rate."""
    points, count = 12, 4000
    axis = periodic_axis("x", points, 12.0)
    weights = torch.fft.fft(torch.exp(-0.5 * (torch.arange(points, dtype=torch.float64) / 2).square())).abs()
    first = from_spectrum(weights * spectrum(normal(count, 1, 1, 1, points), (True,)), (True,))
    states = torch.cat([first, 0.5 * first.roll(2, -1) + 0.1 * normal(count, 1, 1, 1, points, seed=2)], dim=3)
    found = matrix_of(spectral_covariance(states, Grid((axis,))), 1, 2, points)
    exact = torch.cov(states.flatten(1).T)  # of 4000 states
    assert (found - exact).abs().max() < 5 / count**0.5 * exact.diagonal().max()
    torch.testing.assert_close(found.diagonal(), exact.diagonal())
    few = spectral_covariance(states[:5], Grid((axis,)))  # fewer states than numbers in one
    assert torch.linalg.eigvalsh(matrix_of(few, 1, 2, points)).min() > 0


def test_between_walls_variances_are_exact_and_neighbours_know_each_other():
    points, count = 16, 4000
    place = torch.arange(points, dtype=torch.float64)
    kernel = torch.exp(-0.5 * ((place[:, None] - place) / 1.5).square())
    profile = torch.linspace(1, 3, points, dtype=torch.float64)
    root = torch.linalg.cholesky(kernel + 1e-9 * torch.eye(points, dtype=torch.float64))
    states = profile * (normal(count, 1, 1, 1, points) @ root.T)
    grid = Grid((Axis("z", tuple(place.tolist()), ("wall", "wall")),))
    found = matrix_of(spectral_covariance(states, grid), 1, 1, points)
    torch.testing.assert_close(found.diagonal(), states.var(dim=0).flatten())
    inside = slice(4, 12)
    correlation = found / (found.diagonal().sqrt() * found.diagonal().sqrt()[:, None])
    assert (correlation - kernel)[inside, inside].abs().max() < 0.1
    assert (correlation - kernel).abs().max() < 0.4  # at the walls it is only of the right kind


@pytest.mark.parametrize("lengths", [None, (0.3,)])
def test_draws_have_the_covariance(lengths):
    prior = scaled(static_prior(background(30), GRID, None, lengths), 0.7)
    root = prior.draw(torch.eye(POINTS, dtype=torch.float64).reshape(POINTS, 1, 1, POINTS)).reshape(POINTS, POINTS)
    torch.testing.assert_close(root.T @ root, matrix_of(prior, 1, 1, POINTS))
    whole = static_prior(background(30), GRID, None, lengths)
    torch.testing.assert_close(matrix_of(prior, 1, 1, POINTS), 0.7 * matrix_of(whole, 1, 1, POINTS))


def test_frames_of_a_context_are_correlated_as_in_the_sample():
    first = normal(3000, 1, 1, 1, POINTS)
    sample = torch.cat([first, 0.6 * first + 0.8 * normal(3000, 1, 1, 1, POINTS, seed=1)], dim=2)
    found = matrix_of(spectral_covariance(sample, GRID), 2, 1, POINTS)
    assert found[:POINTS, POINTS:].diagonal().mean().item() == pytest.approx(0.6, abs=4 / (3000 * POINTS) ** 0.5)


def test_an_update_is_the_kalman_formula_for_each_member():
    obs = observations(num_times=1)
    prior = scaled(static_prior(background(30), GRID, None, None), 0.4)
    b = matrix_of(prior, 1, 1, POINTS)
    states, errors = normal(3, 2, 1, 1, POINTS, seed=5), normal(3, 2, obs.seen(0, 1).values.shape[1], seed=6)
    options = ThreeDVarOptions(tolerance=1e-13)
    found = static_update(states, obs.seen(0, 1), prior, perturbations=errors, options=options)
    for member in range(3):
        for case in range(2):
            seen = obs.mask[case, 0, 0]
            h, y = torch.eye(POINTS, dtype=torch.float64)[seen], obs.values[case, 0, 0][seen]
            y = y + obs.noise_std[0] * errors[member, case, : len(y)]
            gain = (
                b @ h.T @ torch.linalg.inv(h @ b @ h.T + obs.noise_std[0] ** 2 * torch.eye(len(y), dtype=torch.float64))
            )
            x = states[member, case, 0, 0]
            torch.testing.assert_close(found[member, case, 0, 0], x + gain @ (y - h @ x), rtol=0, atol=1e-10)


def test_a_filter_with_a_static_gain_is_its_recursion_and_keeps_the_spread_of_that_gain():
    """x_a = x_f + K (y - H x_f) with the same B throughout; members spread as (1 - K H) P (1 - K H)^T + K R K^T."""
    model, obs, start = LinearModel(), observations(cases=1), background(60, cases=1)
    options = ThreeDVarOptions(tolerance=1e-13, forecast_variance=0.3)
    alone = assimilate(
        "3dvar", model, obs, obs.conditions(), members=1, seed=0, mode="filter", background=start, options=options
    )
    many = assimilate(
        "3dvar", model, obs, obs.conditions(), members=800, seed=0, mode="filter", background=start, options=options
    )
    climate = matrix_of(static_prior(start, GRID, None, None), 1, 1, POINTS)
    x, p = start.mean(dim=(0, 1))[0, 0], climate
    for k in range(6):
        b = climate if k == 0 else 0.3 * climate
        if k:
            x, p = model.matrix @ x, model.matrix @ p @ model.matrix.T
        seen = obs.mask[0, k, 0]
        h, y = torch.eye(POINTS, dtype=torch.float64)[seen], obs.values[0, k, 0][seen]
        gain = b @ h.T @ torch.linalg.inv(h @ b @ h.T + 0.09 * torch.eye(len(y), dtype=torch.float64))
        x = x + gain @ (y - h @ x)
        left = torch.eye(POINTS, dtype=torch.float64) - gain @ h
        p = left @ p @ left.T + 0.09 * gain @ gain.T
        torch.testing.assert_close(alone[0, 0, k, 0], x, rtol=0, atol=1e-9)
        # members differ by draws of mean 0, so that their mean is the unperturbed analysis
        torch.testing.assert_close(many[:, 0, k, 0].mean(dim=0), x, rtol=0, atol=1e-9)
        spread = torch.cov(many[:, 0, k, 0].T)
        assert (spread - p).abs().max() < 5 * (2 / 800) ** 0.5 * p.diagonal().max()


def test_without_a_forecast_it_is_optimal_interpolation():
    obs, start = observations(cases=1, num_times=1), background(40, cases=1)
    found = assimilate(
        "3dvar", LinearModel(), obs, obs.conditions(), members=1, seed=0, mode="filter", background=start,
        options=ThreeDVarOptions(lengths=(0.25,), tolerance=1e-12),
    )  # fmt: skip
    expected = assimilate(
        "interpolation", None, obs, obs.conditions(), members=1, seed=0, background=start,
        options=InterpolationOptions(scales=(1.0, 0.25), tolerance=1e-12),
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


class Squared:
    """Each value squared, and the product with the frame before."""

    def __call__(self, states):
        return (states[..., -1, 0, :].square() + 0.5 * states[..., 0, 0, :] * states[..., -1, 0, :])[..., :3]


def test_a_nonlinear_operator_that_looks_back_leads_to_the_minimum():
    """grad J = 0: B^-1 (x - x_b) = H'^T R^-1 (y - H(x)), H seen as a function of the last state alone."""
    prior = scaled(static_prior(background(30), GRID, None, None), 0.05)
    b = matrix_of(prior, 1, 1, POINTS)
    states = 1.5 + 0.2 * normal(1, 1, 2, 1, POINTS)
    values = Squared()(states)[0] + 0.3
    seen = Measurement(Squared(), values, torch.full_like(values, 0.3), torch.zeros(1, 3, 1), torch.ones(1, 3))
    options = ThreeDVarOptions(tolerance=1e-12, linearisations=30)
    x = static_update(states, seen, prior, options=options)[0, 0, 0, 0].requires_grad_()
    earlier, before = states[0, 0, 0, 0], states[0, 0, 1, 0]
    misfit = (values[0] - Squared()(torch.stack([earlier, x])[:, None])) / 0.3
    cost = 0.5 * (x - before) @ torch.linalg.solve(b, x - before) + 0.5 * misfit.square().sum()
    (gradient,) = torch.autograd.grad(cost, x)
    assert (b @ gradient).norm() < 1e-3 * (x - before).norm()  # the last linearisation misses less than 1e-3
    once = static_update(states, seen, prior, options=replace(options, linearisations=1))
    assert (once[0, 0, 0, 0] - x).abs().max() > 1e-3


def lorenz(cases=4, times=9, dt=0.12, std=2**0.5, seed=1):
    """A twin: truth, observations of all three variables, climatology and the solver that made the truth."""
    system = simulators.get_system("lorenz-63")
    made = simulators.simulate(system, trajectories=cases + 60, steps=times, dt=dt, seed=5, inner_dt=0.04)
    truth = made.states[:cases].double()
    climate = made.states[cases:, :1].double()[:, None].expand(-1, cases, -1, -1, -1)
    obs = Observations(
        truth + std * normal(*truth.shape, seed=seed), torch.full((3,), std, dtype=torch.float64), system.grid((1,)),
        tuple((name, "1") for name in "xyz"), dt, torch.arange(cases), torch.zeros(cases, dtype=torch.long),
        parameters=system.info.default_parameters().double().expand(cases, 3).clone(),
        parameter_names=system.info.parameter_names,
    )  # fmt: skip
    return truth, obs, climate, Emulator(SolverModel(system, inner_dt=0.04), IdentitySpace())


def window_problem(model, obs, start, *, members=2, piece=4, begun=False, context=1):
    noise = MemberNoise.grid(0, obs.num_cases, members)
    covariance = static_prior(start, obs.grid, None, None)
    known = background_of(start, covariance, None, noise=noise, context=context, continued=begun)
    pieces = pieces_of(obs, noise, 0, obs.num_times, begun=begun, length=piece, offset=0)
    return WindowProblem(
        model, obs.conditions(), noise, known, covariance, pieces, origin=-1 if begun else 0, offset=0,
        dtype=torch.float64,
    )  # fmt: skip


@pytest.mark.parametrize("begun", [False, True])
def test_the_gradient_is_that_of_finite_differences(begun):
    _, obs, climate, solver = lorenz(cases=2, times=6)
    problem = window_problem(solver, obs, climate, begun=begun)
    v = 0.1 * normal(*problem.known.states.shape, seed=2)
    value, gradient = problem.value_and_gradient(v)
    assert value.shape == (2, 2)
    for direction in normal(3, *v.shape, seed=3):
        ahead, behind = (problem.cost(v + sign * 1e-5 * direction).detach() for sign in (1, -1))
        slope = (gradient * direction).flatten(2).sum(dim=2)
        torch.testing.assert_close((ahead - behind) / 2e-5, slope, rtol=1e-6, atol=1e-6 * slope.abs().max().item())


def test_pieces_do_not_change_the_cost_nor_its_gradient():
    _, obs, climate, solver = lorenz(cases=2, times=7)
    v = torch.zeros(1, 2, 1, 3, 1, dtype=torch.float64)
    short, long = (window_problem(solver, obs, climate, members=1, piece=piece) for piece in (1, 6))
    for one, other in zip(short.value_and_gradient(v), long.value_and_gradient(v), strict=True):
        torch.testing.assert_close(one, other)
    states = short.states(v)
    expected = 0.5 * ((states - obs.values) / obs.noise_std[0]).square().flatten(2).sum(dim=2)
    torch.testing.assert_close(short.cost(v).detach(), expected)


@pytest.mark.parametrize("context", [1, 2])
def test_with_a_linear_model_it_is_the_kalman_smoother(context):
    model, obs, start = LinearModel(context=context), observations(cases=2), background(25, context=context)
    options = FourDVarOptions(tolerance=1e-10, iterations=200)
    with gather_findings() as found:
        states = assimilate("4dvar", model, obs, obs.conditions(), members=1, seed=0, background=start, options=options)
    (told,) = found["minimisations"]
    assert told["reached"] == 1 and told["gradient_norm"] <= 1e-10 < told["first_gradient_norm"]
    prior = matrix_of(spectral_covariance(start, GRID), context, 1, POINTS)
    eye, paths = torch.eye(context * POINTS, dtype=torch.float64), []
    paths = [eye[k * POINTS : (k + 1) * POINTS] for k in range(context)]
    while len(paths) < 5 + context:
        paths.append(model.matrix @ paths[-1] - (0.3 * paths[-2] if context == 2 else 0))
    paths = torch.stack(paths[context - 1 :])
    for case in range(2):
        mean = start[:, case].mean(dim=0).flatten()
        seen = obs.mask[case, :, 0]
        h, y = paths[seen], obs.values[case, :, 0][seen]
        gain = prior @ h.T @ torch.linalg.inv(h @ prior @ h.T + 0.09 * torch.eye(len(y), dtype=torch.float64))
        z = mean + gain @ (y - h @ mean)
        torch.testing.assert_close(states[0, case, :, 0], paths @ z, rtol=0, atol=1e-6)
        if context == 1:  # and the textbook recursion says the same
            _, smoothed = kalman_and_rts(obs, case, model.matrix, mean, prior, torch.zeros(POINTS, POINTS), last=6)
            torch.testing.assert_close(states[0, case, :, 0], torch.stack([m for m, _ in smoothed]), rtol=0, atol=1e-6)


def test_members_are_draws_from_the_posterior_of_a_linear_model():
    model, obs, start, members = LinearModel(), observations(cases=1), background(25, cases=1), 800
    options = FourDVarOptions(tolerance=1e-8)
    states = assimilate(
        "4dvar", model, obs, obs.conditions(), members=members, seed=1, background=start, options=options
    )
    prior = matrix_of(spectral_covariance(start, GRID), 1, 1, POINTS)
    mean = start[:, 0, 0, 0].mean(dim=0)
    _, smoothed = kalman_and_rts(obs, 0, model.matrix, mean, prior, torch.zeros(POINTS, POINTS), last=6)
    for k, (exact, covariance) in enumerate(smoothed):
        torch.testing.assert_close(states[:, 0, k, 0].mean(dim=0), exact, rtol=0, atol=1e-6)
        spread = torch.cov(states[:, 0, k, 0].T)
        assert (spread - covariance).abs().max() < 5 * (2 / members) ** 0.5 * covariance.diagonal().max()


def test_blocks_go_on_from_each_other_and_after_a_restart_bit_by_bit():
    model, obs, start = LinearModel(noise_std=0.1), observations(), background(20)
    for name, options in (
        ("3dvar", ThreeDVarOptions(climatology=start[:, :1])),
        ("4dvar", FourDVarOptions(climatology=start[:, :1])),
    ):

        def begin(name=name, options=options):
            return start_cycle(
                name, model, obs.conditions(), members=4, seed=3, cases=obs.trajectories, background=start, options=options
            )  # fmt: skip

        whole, first = begin(), begin()
        kept = [whole.step(obs, k, k + 2) for k in (0, 2, 4)]
        first.step(obs, 0, 2)
        again = begin()
        again.load_state_dict(first.state_dict())
        assert torch.equal(again.step(obs, 2, 4), kept[1]) and torch.equal(again.step(obs, 4, 6), kept[2])
        late = obs.window(4, 6)
        mode = "filter" if name == "3dvar" else "smooth"
        with pytest.raises(InputError, match="set climatology in the options"):
            assimilate(name, model, late, late.conditions(), members=4, seed=0, mode=mode, background=kept[1],
                       continued=True)  # fmt: skip


def test_on_lorenz_63_the_smoother_beats_the_filter_and_knows_its_error():
    truth, obs, climate, solver = lorenz()

    def rms(states):
        return (states.mean(dim=0) - truth).square().mean().sqrt().item()

    settings = {"seed": 0, "background": climate}
    filtered = assimilate("3dvar", solver, obs, obs.conditions(), members=5, mode="filter", **settings)
    assert rms(filtered) < 2**0.5  # the forecast is worth something: less than the error of what is observed
    with gather_findings() as found:
        smoothed = assimilate("4dvar", solver, obs, obs.conditions(), members=5, **settings)
    assert rms(smoothed) < 0.6 * rms(filtered)
    spread = smoothed.var(dim=0).mean().sqrt().item()
    assert 0.5 < spread / rms(smoothed) < 2.0
    control, members = found["minimisations"]
    assert control["reached"] == members["reached"] == 1
    assert control["cost_per_observation"] == pytest.approx(1.0, abs=5 * (2 / obs.count) ** 0.5)


def test_windows_grow_where_there_is_more_to_fit():
    obs = observations(num_times=12, cases=1, empty=(4, 5, 6, 7))
    noise = MemberNoise.grid(0, 1, 1)
    pieces = pieces_of(obs, noise, 0, 12, begun=False, length=2, offset=0)
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 1), *((k, min(k + 2, 12)) for k in range(1, 12, 2))]
    stops = growing(pieces, 2)
    assert [pieces[stop - 1].stop for stop in stops] == [3, 5, 9, 11]
    assert growing(pieces, None) == []


def test_models_without_gradients_and_wrong_settings_are_told():
    class Sampler(LinearModel):
        @torch.no_grad()
        def advance(self, *args, **kwargs):
            return super().advance(*args, **kwargs)

    obs, start = observations(), background(10)
    with pytest.raises(InputError, match="gives no gradients"):
        assimilate("4dvar", Sampler(), obs, obs.conditions(), members=1, seed=0, background=start)
    for name, mode in (("3dvar", "filter"), ("4dvar", "smooth")):
        with pytest.raises(InputError, match="pass a background"):
            assimilate(name, LinearModel(), obs, obs.conditions(), members=1, seed=0, mode=mode)
    with pytest.raises(InputError, match="positive shares"):
        ThreeDVarOptions(forecast_variance=0.0)
    with pytest.raises(InputError, match="one per space axis"):
        static_prior(start, GRID, None, (1.0, 2.0))
    with pytest.raises(InputError, match="piece must be at least 1"):
        FourDVarOptions(piece=0)
