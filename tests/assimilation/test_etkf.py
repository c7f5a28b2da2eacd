"""The ensemble transform Kalman filter and smoother: against Kalman and RTS, and on Lorenz 63."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eddycast.assimilation import ETKFOptions, assimilate, ensemble_kalman, etkf_weights, transform_ensemble
from eddycast.assimilation.updates import mean_preserving_rotation
from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.observations import Observations

POINTS = 5
GRID = Grid((periodic_axis("x", POINTS, 1.0),))


class LinearModel:
    """x' = M x + noise_std e; with two context states x'' = M x' - 0.3 x."""

    def __init__(self, context=1, noise_std=0.0):
        self.context, self.noise_std = context, noise_std
        rotation = torch.linalg.matrix_exp(
            torch.tensor(
                [
                    [0.0, 0.9, 0, 0, 0],
                    [-0.9, 0, 0.3, 0, 0],
                    [0, -0.3, 0, 0.5, 0],
                    [0, 0, -0.5, 0, 1],
                    [0.0, 0, 0, -1, 0],
                ]
            )
        )
        self.matrix = (0.98 * rotation).double()

    def advance(self, context, conditions, lead_times, *, noise, first_window=0):
        assert context.shape[:2] == noise.batch == conditions.batch
        states = list(context.unbind(dim=-3))
        for step in range(len(lead_times)):
            new = states[-1] @ self.matrix.T
            if self.context == 2:
                new = new - 0.3 * states[-2]
            if self.noise_std:
                key = (first_window + step, 0, "model")
                new = new + self.noise_std * noise.draw(tuple(new.shape[2:]), key=key, dtype=new.dtype)
            states.append(new)
        return torch.stack(states[self.context :] if self.context == 1 else states[-len(lead_times) :], dim=-3)


def observations(num_times=6, cases=2, std=0.3, seed=0, fraction=0.5, empty=()):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(cases, num_times, 1, POINTS, generator=generator, dtype=torch.float64)
    values[torch.rand(values.shape, generator=generator) > fraction] = torch.nan
    values[:, list(empty)] = torch.nan
    return Observations(
        values=values,
        noise_std=torch.tensor([std], dtype=torch.float64),
        grid=GRID,
        fields=(("u", "1"),),
        dt=1.0,
        trajectories=torch.arange(cases),
        frames=torch.zeros(cases, dtype=torch.long),
    )


def background(members, cases=2, context=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(POINTS, POINTS, generator=generator, dtype=torch.float64) / POINTS**0.5
    raw = torch.randn(members, cases, context, 1, POINTS, generator=generator, dtype=torch.float64)
    return raw @ (mix + torch.eye(POINTS, dtype=torch.float64)) + 0.5


def covariance(ensemble):
    """(member, n) -> (n, n), unbiased."""
    deviations = ensemble - ensemble.mean(dim=0)
    return deviations.T @ deviations / (len(ensemble) - 1)


def kalman_and_rts(obs, case, matrix, mean, cov, noise_cov, last):
    """Filter and smoother means and covariances of the frames 0 ... last - 1, textbook form."""
    filtered, forecasts = [], []
    for k in range(last):
        if k:
            mean, cov = matrix @ mean, matrix @ cov @ matrix.T + noise_cov
        forecasts.append((mean, cov))
        seen = obs.mask[case, k, 0]
        h = torch.eye(POINTS, dtype=torch.float64)[seen]
        if len(h):
            gain = (
                cov
                @ h.T
                @ torch.linalg.inv(h @ cov @ h.T + obs.noise_std[0] ** 2 * torch.eye(len(h), dtype=torch.float64))
            )
            mean = mean + gain @ (obs.values[case, k, 0][seen] - h @ mean)
            cov = cov - gain @ h @ cov
        filtered.append((mean, cov))
    smoothed = [filtered[-1]]
    for k in range(last - 2, -1, -1):
        (m, p), (mf, pf), (ms, ps) = filtered[k], forecasts[k + 1], smoothed[0]
        gain = p @ matrix.T @ torch.linalg.inv(pf)
        smoothed.insert(0, (m + gain @ (ms - mf), p + gain @ (ps - pf) @ gain.T))
    return filtered, smoothed


@pytest.mark.parametrize("members", [3, 8])  # fewer and more than the 4 observations: two ways to the same
def test_analysis_is_the_kalman_update_with_the_sample_covariance(members):
    generator = torch.Generator().manual_seed(0)
    ensemble = torch.randn(members, 3, 12, generator=generator, dtype=torch.float64)  # (member, case, n)
    h = torch.randn(4, 12, generator=generator, dtype=torch.float64)
    std = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    y = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    seen = (ensemble @ h.T).movedim(0, 1)
    mean = seen.mean(dim=1)
    weights, transform = etkf_weights((seen - mean[:, None]) / std, (y - mean) / std)
    analysis = transform_ensemble(ensemble, weights, transform)
    for case in range(3):
        p = covariance(ensemble[:, case])
        gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + torch.diag(std**2))
        expected = ensemble[:, case].mean(dim=0)
        expected = expected + gain @ (y[case] - h @ expected)
        torch.testing.assert_close(analysis[:, case].mean(dim=0), expected, rtol=0, atol=1e-10)
        torch.testing.assert_close(covariance(analysis[:, case]), p - gain @ h @ p, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", ["filter", "smooth", "blocks"])
@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("empty", [(), (0, 3), (5,)])
def test_without_model_noise_the_cycle_is_kalman_and_rts_to_rounding(mode, rotate, empty):
    model, obs, start = LinearModel(), observations(empty=empty), background(12)
    options = ETKFOptions(inflation=1.0, rotate=rotate)
    if mode == "blocks":
        analysis = ensemble_kalman(model, obs, obs.conditions(), start, seed=0, block=4, options=options)
    else:
        analysis = assimilate(
            "etkf", model, obs, obs.conditions(), members=12, seed=0, mode=mode, background=start, options=options
        )
    assert analysis.shape == (12, 2, 6, 1, POINTS)
    for case in range(2):
        first = start[:, case, 0, 0]
        settings = (obs, case, model.matrix, first.mean(dim=0), covariance(first), torch.zeros(POINTS, POINTS))
        for k in range(6):
            if mode == "filter":
                mean, cov = kalman_and_rts(*settings, last=k + 1)[0][k]
            else:
                last = 6 if mode == "smooth" else (4 if k < 4 else 6)
                mean, cov = kalman_and_rts(*settings, last=last)[1][k]
            torch.testing.assert_close(analysis[:, case, k, 0].mean(dim=0), mean, rtol=0, atol=1e-9)
            torch.testing.assert_close(covariance(analysis[:, case, k, 0]), cov, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["filter", "smooth"])
def test_a_model_of_two_context_states_is_smoothed_jointly(mode):
    """The path is linear in the two first states z: its law given the observations is that of z, exactly."""
    model, obs, start = LinearModel(context=2), observations(cases=1), background(14, cases=1, context=2)
    analysis = assimilate(
        "etkf", model, obs, obs.conditions(), members=14, seed=0, mode=mode, background=start,
        options=ETKFOptions(inflation=1.0),
    )  # fmt: skip
    eye, zero = torch.eye(POINTS, dtype=torch.float64), torch.zeros(POINTS, POINTS, dtype=torch.float64)
    paths = [torch.cat([eye, zero], dim=1), torch.cat([zero, eye], dim=1)]
    while len(paths) < 7:
        paths.append(model.matrix @ paths[-1] - 0.3 * paths[-2])
    paths = torch.stack(paths[1:])  # (time, point, 2 points)
    z = start[:, 0, :, 0].flatten(1)
    for k in range(6):
        seen = obs.mask[0, :, 0].clone()
        if mode == "filter":
            seen[k + 1 :] = False
        h, y = paths[seen], obs.values[0, :, 0][seen]
        p = covariance(z)
        gain = p @ h.T @ torch.linalg.inv(h @ p @ h.T + 0.09 * torch.eye(len(h), dtype=torch.float64))
        mean = z.mean(dim=0) + gain @ (y - h @ z.mean(dim=0))
        torch.testing.assert_close(analysis[:, 0, k, 0].mean(dim=0), paths[k] @ mean, rtol=0, atol=1e-9)
        spread = paths[k] @ (p - gain @ h @ p) @ paths[k].T
        torch.testing.assert_close(covariance(analysis[:, 0, k, 0]), spread, rtol=0, atol=1e-9)


def test_repeated_passes_leave_a_linear_problem_as_it_is():
    """The tempered likelihoods multiply to the whole one."""
    model, obs, start = LinearModel(), observations(), background(12)
    settings = {"members": 12, "seed": 0, "background": start}
    once, often = (
        assimilate("etkf", model, obs, obs.conditions(), **settings, options=ETKFOptions(inflation=1.0, passes=passes))
        for passes in (1, 4)
    )
    torch.testing.assert_close(once.mean(dim=0), often.mean(dim=0), rtol=0, atol=1e-9)
    torch.testing.assert_close(once.var(dim=0), often.var(dim=0), rtol=0, atol=1e-9)


def test_large_ensembles_approach_the_exact_filter_at_the_monte_carlo_rate():
    """64 cases with the same observations are 64 independent ensembles; model noise included."""
    model, cases, noise_std = LinearModel(noise_std=0.4), 64, 0.4
    single = observations(cases=1, num_times=4)
    obs = replace(
        single,
        values=single.values.expand(cases, -1, -1, -1).clone(),
        trajectories=torch.arange(cases),
        frames=torch.zeros(cases, dtype=torch.long),
    )
    noise_cov = noise_std**2 * torch.eye(POINTS, dtype=torch.float64)
    exact = kalman_and_rts(single, 0, model.matrix, torch.full((POINTS,), 0.5, dtype=torch.float64),
                           torch.eye(POINTS, dtype=torch.float64), noise_cov, last=4)  # fmt: skip
    errors = {"filter": [], "smooth": []}
    sizes = [16, 64, 256]
    for members in sizes:
        generator = torch.Generator().manual_seed(members)
        start = 0.5 + torch.randn(members, cases, 1, 1, POINTS, generator=generator, dtype=torch.float64)
        for mode, estimates in zip(("filter", "smooth"), exact, strict=True):
            analysis = assimilate(
                "etkf", model, obs, obs.conditions(), members=members, seed=3, mode=mode, background=start,
                options=ETKFOptions(inflation=1.0),
            )  # fmt: skip
            mean = torch.stack([m for m, _ in estimates])
            errors[mode].append((analysis.mean(dim=0)[:, :, 0] - mean).square().mean().sqrt().item())
    for series in errors.values():
        slope = torch.tensor([series[0] / series[1], series[1] / series[2]]).log() / torch.tensor(4.0).log()
        assert slope.mean().item() == pytest.approx(0.5, abs=0.1)
        assert series[2] < 0.1


def test_frames_without_observations_are_the_free_forecast():
    model, obs, start = LinearModel(noise_std=0.2), observations(empty=(0, 1, 2, 3)), background(6)
    free = model.advance(start, obs.conditions().expand(6), torch.arange(1, 4), noise=MemberNoise.grid(0, 2, 6))
    analysis = assimilate("etkf", model, obs, obs.conditions(), members=6, seed=0, mode="filter", background=start)
    assert torch.equal(analysis[:, :, 0], start[:, :, 0])
    torch.testing.assert_close(analysis[:, :, 1:4], free, rtol=0, atol=1e-12)
    assert not torch.allclose(analysis[:, :, 4].var(dim=0), analysis[:, :, 3].var(dim=0))


def test_nearly_perfect_observations_are_met():
    model, start = LinearModel(), background(20)
    obs = observations(std=1e-5, fraction=1.0, num_times=1)
    analysis = assimilate("etkf", model, obs, obs.conditions(), members=20, seed=0, background=start)
    torch.testing.assert_close(analysis, obs.values.expand_as(analysis), rtol=0, atol=1e-4)


def test_inflation_widens_the_forecast_and_not_the_analysis():
    model, obs, start = LinearModel(), observations(num_times=2, empty=(1,)), background(10)
    spread = []
    for inflation in (1.0, 1.3):
        analysis = assimilate(
            "etkf", model, obs, obs.conditions(), members=10, seed=0, mode="filter", background=start,
            options=ETKFOptions(inflation=inflation),
        )  # fmt: skip
        spread.append(analysis.var(dim=0))
    torch.testing.assert_close(spread[1][:, 0], spread[0][:, 0])
    torch.testing.assert_close(spread[1][:, 1], 1.69 * spread[0][:, 1])


@pytest.mark.parametrize("mode", ["filter", "smooth"])
def test_a_continued_cycle_starts_one_frame_before_its_observations(mode):
    """The last state of an analysis up to frame 2 takes frames 3 to 5 in: the filter's mean and covariance there, with its inflation."""
    model, obs, start = LinearModel(), observations(), background(12)
    options = ETKFOptions(inflation=1.1)
    settings = {"members": 12, "seed": 0, "options": options}
    whole = assimilate("etkf", model, obs, obs.conditions(), mode="filter", background=start, **settings)
    late = obs.window(3, 6)
    analysis = assimilate(
        "etkf", model, late, late.conditions(), mode=mode, background=whole[:, :, 2:3], continued=True, **settings
    )
    assert analysis.shape[2] == 3
    if mode == "filter":
        torch.testing.assert_close(analysis, whole[:, :, 3:], rtol=0, atol=1e-9)
    torch.testing.assert_close(analysis[:, :, -1], whole[:, :, -1], rtol=0, atol=1e-9)


def test_a_continued_cycle_draws_noise_of_its_own_for_the_step_from_the_frame_before():
    model, obs, start = LinearModel(noise_std=1.0), observations(empty=(0, 1, 2, 3, 4)), background(4)
    options = ETKFOptions(inflation=1.0)
    analysis = assimilate(
        "etkf", model, obs, obs.conditions(), members=4, seed=0, mode="filter", background=start, continued=True,
        options=options,
    )  # fmt: skip
    first = analysis[:, :, 0] - start[:, :, 0] @ model.matrix.T
    for frame in range(1, 5):
        kick = analysis[:, :, frame] - analysis[:, :, frame - 1] @ model.matrix.T
        assert (kick - first).abs().max() > 0.1


def test_rotation_is_orthogonal_keeps_the_mean_and_is_uniform():
    noise = MemberNoise(0, torch.arange(500), torch.zeros(500, dtype=torch.long))
    rotation = mean_preserving_rotation(6, noise, key=(0, 0, "test"))
    eye = torch.eye(6, dtype=torch.float64).expand(500, 6, 6)
    torch.testing.assert_close(rotation @ rotation.mT, eye, rtol=0, atol=1e-12)
    torch.testing.assert_close(rotation.sum(dim=2), torch.ones(500, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    # uniform on the orthogonal matrices that fix the ones: E = 11^T / N, each entry of variance (1 - 1/N)^2 / (N - 1)
    standard_error = (1 - 1 / 6) / 5**0.5 / 500**0.5
    assert (rotation.mean(dim=0) - 1 / 6).abs().max() < 4.5 * standard_error


def test_a_case_is_the_same_alone_and_in_a_batch():
    model, obs, start = LinearModel(noise_std=0.3), observations(), background(6)
    options = ETKFOptions(rotate=True, passes=2)
    settings = {"members": 6, "seed": 4, "options": options}
    both = assimilate("etkf", model, obs, obs.conditions(), background=start, **settings)
    one = obs.select(torch.tensor([1]))
    alone = assimilate("etkf", model, one, one.conditions(), background=start[:, 1:], **settings)
    torch.testing.assert_close(both[:, 1:], alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"members": 1}, "at least 2 members"),
        ({"members": 9}, "background has 8 members"),
        ({"background": None}, "pass a background"),
        ({"mode": "sideways"}, "no mode 'sideways': it has smooth, filter, online"),
        ({"options": 3}, "takes ETKFOptions, got int"),
    ],
)
def test_misuse_is_told(changes, words):
    obs = observations()
    settings = {"members": 8, "seed": 0, "background": background(8)} | changes
    with pytest.raises(InputError, match=words):
        assimilate("etkf", LinearModel(), obs, obs.conditions(), **settings)
    with pytest.raises(InputError, match="did you mean 'etkf'"):
        assimilate("etfk", LinearModel(), obs, obs.conditions(), members=8, seed=0)
    with pytest.raises(InputError, match=r"inflation must lie in \[1, 3\)"):
        ETKFOptions(inflation=0.9)


def test_divergence_is_told():
    class Exploding(LinearModel):
        def advance(self, *args, **settings):
            return super().advance(*args, **settings) / 0.0

    obs = observations()
    with pytest.raises(InputError, match=r"trajectory 0 is no longer finite at frame 1 .*divergence"):
        assimilate("etkf", Exploding(), obs, obs.conditions(), members=8, seed=0, background=background(8))


class Lorenz63:
    """dt 0.01, RK4; one frame is 25 steps. The three variables stand on a grid of three points."""

    context = 1

    def advance(self, context, conditions, lead_times, *, noise, first_window=0):
        x, states = context[..., -1, :, :], []
        for _ in range(len(lead_times)):
            for _ in range(25):
                k1 = self.tendency(x)
                k2 = self.tendency(x + 0.005 * k1)
                k3 = self.tendency(x + 0.005 * k2)
                k4 = self.tendency(x + 0.01 * k3)
                x = x + 0.01 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            states.append(x)
        return torch.stack(states, dim=-3)

    @staticmethod
    def tendency(state):
        x, y, z = state.unbind(dim=-1)
        return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], dim=-1)


def test_lorenz_63_reaches_the_published_error():
    """DAPPER, Lorenz63.sakov2012 (all seen every 25 steps, R = 2): ETKF with 10 members 0.60, its own run 0.549.

    32 cases of 64 cycles after a burn-in of 16 give a standard error of about 0.02.
    """
    generator = torch.Generator().manual_seed(1)
    cases, members, num_times = 32, 10, 80
    model = Lorenz63()
    start = torch.tensor([1.509, -1.531, 25.46]) + 2**0.5 * torch.randn(cases, 1, 1, 3, generator=generator)
    truth = torch.cat([start, model.advance(start, None, range(num_times - 1), noise=None)], dim=1)
    noise = 2**0.5 * torch.randn(truth.shape, generator=generator)
    obs = Observations(
        values=truth + noise,
        noise_std=torch.tensor([2**0.5]),
        grid=Grid((periodic_axis("x", 3, 3.0),)),
        fields=(("state", "1"),),
        dt=0.25,
        trajectories=torch.arange(cases),
        frames=torch.zeros(cases, dtype=torch.long),
    )
    background = truth[:, :1] + 2**0.5 * torch.randn(members, cases, 1, 1, 3, generator=generator)
    analysis = ensemble_kalman(
        model, obs, obs.conditions(), background, seed=0, options=ETKFOptions(inflation=1.02, rotate=True)
    )
    error = (analysis.mean(dim=0) - truth)[:, 16:].square().mean(dim=(2, 3)).sqrt().mean().item()
    assert 0.5 < error < 0.66
