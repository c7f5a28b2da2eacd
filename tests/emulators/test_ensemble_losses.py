"""What ensembles are trained by: unbiased where fair, with the optimum that theory says, the same wherever an axis begins."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exact_models import channel_grid, conditions, normal, ring
from torch import Tensor, nn

from eddycast.emulators import (
    Emulator,
    IdentitySpace,
    ModelShape,
    Regression,
    RegressionConfig,
    ScoringConfig,
    ScoringRule,
    TrainingBatch,
    build_model,
)
from eddycast.emulators.objectives import (
    almost_fair_crps,
    almost_fair_energy_score,
    spectral_amplitude_error,
    spectral_crps,
    spread_and_error,
)
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid
from eddycast.networks import UNetConfig

TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)
CASES = 20_000
LINE = torch.tensor([True] * 4 + [False] * 2)


def energy(ensemble: Tensor, truth: Tensor, fairness: float) -> Tensor:
    """Of fields with one channel, (..., 1, points)."""
    return almost_fair_energy_score(ensemble, truth, fairness, axes=1)


def root_chi(points: int) -> float:
    """E |z| / sqrt(points) for z ~ N(0, 1) in so many points."""
    return math.sqrt(2 / points) * math.exp(math.lgamma((points + 1) / 2) - math.lgamma(points / 2))


def gaussian_score(spread: float, members: int, fairness: float) -> float:
    """Either score of members ~ N(0, s^2) of a truth ~ N(0, 1), but for E |z|: sqrt(1 + s^2) - (f + (1 - f)(M - 1) / M) s / sqrt(2)."""
    counted = fairness + (1 - fairness) * (members - 1) / members
    return math.sqrt(1 + spread**2) - counted * spread / math.sqrt(2)


def far(values: Tensor, exact: float) -> float:
    """Distance of the mean from what it should be, in standard errors."""
    return abs(float(values.mean()) - exact) / float(values.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("members", [2, 4, 8])
@pytest.mark.parametrize("points, score", [(1, almost_fair_crps), (1, energy), (6, energy)])
def test_fair_scores_do_not_depend_on_the_number_of_members_and_unfair_ones_do(points, score, members):
    ensemble = 0.7 * normal(members, CASES, 1, points, seed=members)
    truth = normal(CASES, 1, points, seed=1)
    for fairness in (1.0, 0.0, 0.6):
        scores = score(ensemble, truth, fairness).flatten()
        assert far(scores, root_chi(points) * gaussian_score(0.7, members, fairness)) < 4
        if fairness == 0:
            assert far(scores, root_chi(points) * gaussian_score(0.7, members, 1.0)) > 6


@pytest.mark.parametrize("points, score", [(1, almost_fair_crps), (6, energy)])
@pytest.mark.parametrize("fairness, best", [(1.0, 1.0), (0.0, 1 / math.sqrt(7))])
def test_two_members_want_the_spread_of_the_truth_if_the_score_is_fair_and_a_third_of_it_if_not(
    points, score, fairness, best
):
    """d/ds of the score is s / sqrt(1 + s^2) - counted / sqrt(2): zero at s = 1, or 1 / sqrt(7) where pairs count half."""
    slopes = {}
    for spread in (best, 1.0):
        s = torch.full((CASES, 1, 1), spread, dtype=torch.float64, requires_grad=True)
        ensemble = s * normal(2, CASES, 1, points, seed=3)
        slopes[spread] = torch.autograd.grad(score(ensemble, normal(CASES, 1, points, seed=1), fairness).sum(), s)[
            0
        ].flatten()
    assert far(slopes[best], 0.0) < 4
    if fairness < 1:
        assert slopes[1.0].mean() > 0.2, "the unfair score pushes a calibrated pair together"


def test_the_energy_score_of_one_point_is_the_crps():
    ensemble, truth = normal(3, 50, 1, 1), normal(50, 1, 1, seed=1)
    for fairness in (1.0, 0.95, 0.0):
        exact = almost_fair_crps(ensemble, truth, fairness)[:, 0, 0]
        assert torch.allclose(energy(ensemble, truth, fairness), exact, atol=1e-9)


@pytest.mark.parametrize("members", [2, 5])
@pytest.mark.parametrize("fairness, estimator", [(1.0, "fair"), (0.0, "nrg")])
def test_scoringrules_agrees_on_the_energy_score(referee, members, fairness, estimator):
    """Two channels of a plane with land: its points hold anything, and the norm is the Euclidean one over the root of their number."""
    rules = referee("scoringrules")
    valid = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)) < 0.6
    ensemble, truth = normal(members, 7, 3, 2, 4, 5), normal(7, 3, 2, 4, 5, seed=1)
    ours = almost_fair_energy_score(ensemble, truth, fairness, axes=2, valid=valid)
    assert ours.shape == (7, 3)
    flat = [each[..., valid].flatten(-2).numpy() for each in (truth, ensemble)]
    exact = torch.as_tensor(rules.es_ensemble(*flat, m_axis=0, v_axis=-1, estimator=estimator))
    assert torch.allclose(ours * math.sqrt(2 * int(valid.sum())), exact, atol=1e-9)
    spoilt = ensemble + 5 * torch.where(valid, 0.0, 1.0)
    assert torch.equal(almost_fair_energy_score(spoilt, truth, fairness, axes=2, valid=valid), ours)


# Of Fourier modes


def wave(amplitude: float, phase: float, shape: tuple[int, ...], axis: int, wavenumber: int = 2) -> Tensor:
    """amplitude cos(k x + phase) along one axis."""
    points = shape[axis]
    x = 2 * math.pi * wavenumber * torch.arange(points, dtype=torch.float64) / points + phase
    return (amplitude * torch.cos(x)).view([-1 if each == axis else 1 for each in range(len(shape))]).expand(shape)


@pytest.mark.parametrize(
    "shape, dims, modes",
    [((9,), (-1,), 5), ((8,), (-1,), 5), ((6, 8), (-2, -1), 30), ((8, 5), (-2,), 5), ((6, 8, 5), (-3, -2, -1), 144)],
)
def test_waves_differ_by_half_the_difference_of_their_amplitudes(shape, dims, modes):
    """A wave along the first axis has the modes k and -k with half its amplitude each, the second among those kept if another axis is
    halved; bounded axes are averaged over. Amplitudes do not see its phase, the score of coefficients does."""
    truth, kept = wave(1.0, 0.3, shape, 0), 1 if len(dims) == 1 else 2
    members = torch.stack([wave(1.5, 0.3, shape, 0), wave(3.0, 2.0, shape, 0)])
    error = spectral_amplitude_error(members, truth, dims).item()
    assert error == pytest.approx(kept * (0.25 + 1.0) / 2 / modes, abs=1e-12)
    assert spectral_amplitude_error(wave(1.0, 1.1, shape, 0), truth, dims).item() == pytest.approx(0.0, abs=1e-12)
    parts = [0.5 * abs(1.5 - 1), 0.5 * abs(complex(3 * math.cos(1.7) - 1, 3 * math.sin(1.7)))]
    apart = 0.5 * abs(complex(3 * math.cos(1.7) - 1.5, 3 * math.sin(1.7)))
    exact = kept * (sum(parts) / 2 - apart / 2) / modes
    assert spectral_crps(members, truth, 1.0, dims).item() == pytest.approx(exact, abs=1e-12)


def test_amplitude_errors_reward_members_at_the_median_amplitude_and_the_spectral_crps_the_true_law():
    """A coefficient is complex Gaussian of standard deviation s per part, its amplitude Rayleigh's. The error of amplitudes of the true
    law is 2 s sqrt(pi / 2) (1 - 1 / sqrt 2); members that are one, of the median amplitude s sqrt(2 ln 2), do better. Not so in the
    score of coefficients, whose slope in the spread of members is zero at the law and asks for more below it.
    """
    points, mode = 8, 2
    s = 1 / math.sqrt(2 * points)
    truth = normal(CASES, points, seed=1)
    law = normal(2, CASES, points, seed=2)
    phase = 2 * math.pi * torch.rand(CASES, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = 2 * math.pi * mode * torch.arange(points, dtype=torch.float64) / points
    median = (2 * s * math.sqrt(2 * math.log(2)) * torch.cos(x + phase)).expand(2, -1, -1)

    def alone(fields: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(fields) * (torch.arange(points // 2 + 1) == mode), points)

    def scores(ensemble: Tensor, score) -> Tensor:
        """Of this mode alone, case by case."""
        one = alone(ensemble), alone(truth)
        return torch.stack([score(one[0][:, case], one[1][case]) for case in range(0, CASES, 40)]) * (points // 2 + 1)

    def amplitude(ensemble: Tensor, truth: Tensor) -> Tensor:
        return spectral_amplitude_error(ensemble, truth, (-1,))

    def proper(ensemble: Tensor, truth: Tensor) -> Tensor:
        return spectral_crps(ensemble, truth, 1.0, (-1,))

    rayleigh = s * math.sqrt(math.pi / 2)
    least = s * math.sqrt(2 * math.log(2)) + rayleigh * (1 - 2 * math.erf(math.sqrt(math.log(2))))
    of_law, of_median = scores(law, amplitude), scores(median, amplitude)
    assert far(of_law, 2 * rayleigh * (1 - 1 / math.sqrt(2))) < 4 and far(of_median, least) < 4
    assert of_median.mean() < 0.8 * of_law.mean()
    assert far(scores(law, proper), rayleigh / math.sqrt(2)) < 4  # half of E |x - y|
    difference = scores(median, proper) - scores(law, proper)
    assert difference.mean() > 4 * difference.std() / math.sqrt(len(difference)), "a proper score prefers the law"
    for spread, slope in ((1.0, 0.0), (0.5, rayleigh * (0.5 / math.sqrt(1.25) - 1 / math.sqrt(2)))):
        wide = torch.full((CASES, 1), spread, dtype=torch.float64, requires_grad=True)
        (slopes,) = torch.autograd.grad(scores(wide * law, proper).sum(), wide)
        assert far(slopes[::40, 0], slope) < 4


@pytest.mark.parametrize("shape, dims", [((9,), (-1,)), ((6, 8), (-2, -1)), ((6, 5), (-2,)), ((4, 3, 6), (-3, -1))])
def test_losses_are_the_same_wherever_a_periodic_axis_begins(shape, dims):
    ensemble, truth = normal(3, 4, 2, *shape), normal(4, 2, *shape, seed=1)
    moved = [each.roll(tuple(range(2, 2 + len(dims))), dims) for each in (ensemble, truth)]
    for score in (
        lambda x, y: almost_fair_crps(x, y, 0.9).mean(),
        lambda x, y: almost_fair_energy_score(x, y, 0.9, axes=len(shape)),
        lambda x, y: spectral_amplitude_error(x, y, dims),
        lambda x, y: spectral_crps(x, y, 0.9, dims),
    ):
        assert torch.allclose(score(*moved), score(ensemble, truth), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_gradients_are_finite_where_members_coincide_with_each_other_and_the_truth(value):
    """Float32, and coefficients that are exactly zero: no slope of a root or of an amplitude at 0 gets in."""
    truth = torch.full((5, 2, 8), value)
    for score in (
        lambda x: almost_fair_energy_score(x, truth, 0.95, axes=1).sum(),
        lambda x: spectral_crps(x, truth, 0.95, (-1,)),
        lambda x: spectral_amplitude_error(x, truth, (-1,)),
    ):
        x = truth.expand(3, 5, 2, 8).clone().requires_grad_()
        (slope,) = torch.autograd.grad(score(x), x)
        assert slope.isfinite().all() and slope.abs().max() < 1


# In the families


class Noise(nn.Module):
    """Increments that are the noise fields: the exact law of a random walk with steps N(0, 1)."""

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        return inputs[:, -1:, 1:]


def spectral_share(kind: str, points: int, fairness: float) -> float:
    """Expected spectral term of N(0, 1) members and truth at each of an even number of points, two members."""
    if kind == "none":
        return 0.0
    inner, ends, modes = points // 2 - 1, 2, points // 2 + 1
    if kind == "crps":
        disc, line = math.sqrt(math.pi / 2) / math.sqrt(2 * points), root_chi(1) / math.sqrt(points)
        return gaussian_score(1.0, 2, fairness) * (inner * disc + ends * line) / modes
    rayleigh = math.sqrt(math.pi / (4 * points))
    disc = 2 * rayleigh * (1 - 1 / math.sqrt(2))
    line = (4 / math.sqrt(math.pi) - 2 * math.sqrt(2 / math.pi)) / math.sqrt(points)
    return (inner * disc + ends * line) / modes


@pytest.mark.parametrize("unroll", [1, 2])
@pytest.mark.parametrize("spectral", ["none", "amplitude", "crps"])
@pytest.mark.parametrize("score", ["crps", "energy"])
def test_the_whole_loss_of_a_perfect_ensemble_is_the_closed_form_in_one_step_and_in_two(score, spectral, unroll):
    """From 0 at the start, step n of a random walk is sqrt(n) times the first: so are score and spectral term."""
    points, fairness, weight = 8, 0.9, 0.7
    config = ScoringConfig(
        score=score, spectral=spectral, spectral_weight=weight, fairness=fairness, unroll=unroll,
        noise_channels=1, gain=1.0, pretrain=0.0, network=TINY,
    )  # fmt: skip
    model = ScoringRule(config, ModelShape(1, (True,))).double()
    model.network = Noise()
    generator, losses, ratios = torch.Generator().manual_seed(5), [], []
    for seed in range(30):
        steps = normal(300, unroll, 1, points, seed=100 + seed)
        x = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(dim=1)], dim=1)
        batch = TrainingBatch(x, conditions(300), generator)
        losses.append(model.stages()[-1].objective(batch).detach())
        ratios.append((batch.told["spread"] / batch.told["error"]).sqrt())
    one = root_chi(1 if score == "crps" else points) * gaussian_score(1.0, 2, fairness)
    expected = one + weight * spectral_share(spectral, points, fairness)
    assert far(torch.stack(losses), expected * sum(math.sqrt(n + 1) for n in range(unroll)) / unroll) < 4
    assert far(torch.stack(ratios), 1.0) < 4, "a calibrated ensemble"


def test_unfair_pairs_would_be_reported_at_their_optimum_with_a_ratio_of_one_over_root_five():
    ensemble, truth = normal(2, CASES, 1, 4) / math.sqrt(7), normal(CASES, 1, 4, seed=1)
    told = spread_and_error(ensemble, truth, conditions(CASES))
    assert math.sqrt(told["spread"] / told["error"]) == pytest.approx(1 / math.sqrt(5), rel=0.02)


@pytest.mark.parametrize("score", ["crps", "energy"])
@pytest.mark.parametrize("spectral", ["none", "amplitude", "crps"])
def test_gradients_of_two_steps_reach_every_weight_and_are_those_of_differences(score, spectral):
    config = ScoringConfig(
        score=score, spectral=spectral, spectral_weight=0.5, unroll=2, context=2, members=3, gain=1.0, network=TINY
    )
    model = ScoringRule(config, ModelShape(2, (True, False))).double()
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
    x, here = normal(4, 4, 2, 8, 6), conditions(4, channel_grid())

    def loss() -> Tensor:
        return model.stages()[-1].objective(TrainingBatch(x, here, torch.Generator().manual_seed(0)))

    gradients = torch.autograd.grad(loss(), list(model.parameters()))
    assert all(slope.isfinite().all() and slope.abs().max() > 0 for slope in gradients)
    ways = [normal(*weight.shape, seed=50 + n) for n, weight in enumerate(model.parameters())]
    along = sum((slope * way).sum() for slope, way in zip(gradients, ways, strict=True))
    step, values = 1e-6, []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, way in zip(model.parameters(), ways, strict=True):
                weight.add_(sign * step * way)
            values.append(loss().item())
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(along), rel=1e-4)


@pytest.mark.parametrize("variable", ["departure", "state"])
def test_a_regression_adds_the_error_of_amplitudes_in_one_step_and_in_two(variable):
    """The difference of the losses with and without it: amplitudes of the states, in units of increments where these are learned."""
    x, here = normal(6, 3, 1, 8), conditions(6)
    losses = {}
    for weight in (0.0, 0.8):
        model = Regression(
            RegressionConfig(variable=variable, unroll=2, spectral_weight=weight, network=TINY), ModelShape(1, (True,))
        )
        model.double().scales.fill_(0.4)
        for stage in model.stages():
            batch = TrainingBatch(x[:, : stage.frames], here, torch.Generator())
            losses[stage.name, weight] = stage.objective(batch).item()
    unit = 0.4 if variable == "departure" else 1.0
    still = [x[:, 0] if variable == "departure" else 0 * x[:, 0]] * 2  # what an untrained network says
    terms = [spectral_amplitude_error(still[n] / unit, x[:, n + 1] / unit, (-1,)).item() for n in range(2)]
    assert losses["regression", 0.8] - losses["regression", 0.0] == pytest.approx(0.8 * terms[0])
    assert losses["unroll", 0.8] - losses["unroll", 0.0] == pytest.approx(0.8 * sum(terms) / 2)


class Oscillator(nn.Module):
    """Increments of x(t + 1) = 2 cos(w) x(t) - x(t - 1), from two states in their order; noise fields are not looked at."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        before, now = inputs[:, -2:-1, :1], inputs[:, -1:, :1]
        return (2 * math.cos(self.rate) - 1) * now - before


@pytest.mark.parametrize(
    "config",
    [
        RegressionConfig(context=3, unroll=3, network=TINY),
        ScoringConfig(context=3, unroll=3, pretrain=0.5, network=TINY),
    ],
)
def test_a_history_of_states_is_kept_in_order_in_training_and_in_forecasts(config):
    """Oscillations need two states. Every stage finds the exact law without error, and a forecast follows it."""
    points, rate = 5, 0.4
    time = torch.arange(40, dtype=torch.float64)[:, None, None]
    phases = normal(4, 1, 1, points)
    states = torch.cos(rate * time + 3 * phases)
    model = build_model(config, ModelShape(1, (True,))).double()
    model.network = Oscillator(rate)
    for stage in model.stages():
        batch = TrainingBatch(states[:, : stage.frames], conditions(4, ring(points)), torch.Generator().manual_seed(0))
        assert stage.objective(batch).item() < 1e-12
    emulator = Emulator(model, IdentitySpace())
    forecast = emulator.forecast(states[:, :3], conditions(4, ring(points)), torch.arange(1, 31), members=2, seed=0)
    assert torch.allclose(forecast, states[:, 3:33].expand_as(forecast), atol=1e-9)


# Mistakes


@pytest.mark.parametrize(
    "family, settings, words",
    [
        (ScoringConfig, {"members": 1}, "at least 2 members"),
        (ScoringConfig, {"fairness": 1.5}, "fairness is a share"),
        (ScoringConfig, {"spectral_weight": -1.0}, "spectral_weight must be 0 or more"),
        (ScoringConfig, {"spectral_weight": float("nan")}, "spectral_weight must be 0 or more"),
        (RegressionConfig, {"spectral_weight": -1.0}, "spectral_weight must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_are_refused(family, settings, words):
    with pytest.raises(ValueError, match=words):
        family(**settings)


SPECTRAL = [
    RegressionConfig(spectral_weight=0.5, unroll=2, network=TINY),
    ScoringConfig(spectral="crps", unroll=2, network=TINY),
    ScoringConfig(score="energy", spectral="amplitude", unroll=2, network=TINY),
]


@pytest.mark.parametrize("config", SPECTRAL)
def test_a_spectral_term_refuses_land_in_every_stage_and_axes_without_a_period(config):
    model = build_model(config, ModelShape(1, (True,), static=1))
    for stage in model.stages():
        x = normal(3, stage.frames, 1, 6).float()
        with pytest.raises(InputError, match=r"2 of 6 are land: set emulator.spectral to none"):
            stage.objective(TrainingBatch(x, conditions(3, ring(6), valid=LINE), torch.Generator()))
    with pytest.raises(InputError, match="needs a periodic axis"):
        build_model(config, ModelShape(1, (False, False)))


def test_the_energy_score_trains_on_land_and_on_bounded_axes():
    """Points of land do not count: what the truth holds there does not matter."""
    walls = Grid((Axis("x", tuple(map(float, range(6))), ("wall", "wall")),))
    model = build_model(ScoringConfig(score="energy", gain=1.0, network=TINY), ModelShape(1, (False,), static=1))
    here, losses = conditions(3, walls, valid=LINE), []
    x = normal(3, 2, 1, 6).float()
    for added in (0.0, 7.0):
        truth = x.clone()
        truth[:, 1] += torch.where(LINE, 0.0, added)
        batch = TrainingBatch(truth, here, torch.Generator().manual_seed(0))
        losses.append(model.stages()[-1].objective(batch).item())
    assert losses[0] == losses[1]
    full = TrainingBatch(x, replace(here, valid=None), torch.Generator().manual_seed(0))
    plain = build_model(ScoringConfig(score="energy", gain=1.0, network=TINY), ModelShape(1, (False,)))
    assert plain.stages()[-1].objective(full).item() != pytest.approx(losses[0], rel=1e-3)
