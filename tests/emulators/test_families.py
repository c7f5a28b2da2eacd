"""Trained families: with an exact network plugged in they are exact; tiny ones learn problems with a known answer."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from exact_models import (
    AffineSpace,
    GaussianNetwork,
    SeasonalNetwork,
    addresses,
    autoregressive,
    channel_grid,
    conditions,
    fit,
    gaussian_conditioning,
    initialised,
    normal,
    perturbed,
    ring,
    seasonal_states,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eddycast.conditions import Conditions
from eddycast.diffusion import make_sampler, starting_noise
from eddycast.emulators import (
    FAMILIES,
    AmortisedConfig,
    Diffusing,
    DYffusionConfig,
    Emulator,
    IdentitySpace,
    InterpolatorConfig,
    JointConfig,
    ModelShape,
    NeuralSolverConfig,
    RefinerConfig,
    Regression,
    RegressionConfig,
    ScoringConfig,
    ScoringRule,
    TrainingBatch,
    UniversalConfig,
    WindowDiffusion,
    build_model,
)
from eddycast.emulators.increments import increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork
from eddycast.emulators.objectives import almost_fair_crps, valid_mean
from eddycast.metrics import crps
from eddycast.networks import UNetConfig

TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)
POINTWISE = UNetConfig(channels=(16,), blocks=1, kernel=1, embedding=8)
CONFIGS = {
    "regression": RegressionConfig(network=TINY),
    "scoring": ScoringConfig(network=TINY),
    "refiner": RefinerConfig(network=TINY),
    "joint": JointConfig(network=TINY, num_steps=6),
    "amortised": AmortisedConfig(network=TINY),
    "universal": UniversalConfig(network=TINY),
    "neural-solver": NeuralSolverConfig(network=TINY),
    "dyffusion": DYffusionConfig(horizon=3, interpolator=InterpolatorConfig("noise", network=TINY), network=TINY),
}
FORECASTING = [family for family in FAMILIES if family != "autoencoder"]
"""An autoencoder has stages but forecasts nothing: tests/autoencoders, tests/recipes."""


# Objectives and scales


@pytest.mark.parametrize("members", [2, 3, 5])
def test_almost_fair_crps_lies_between_the_two_scores(members):
    """Fairness 1 is the fair CRPS, 0 that of the ensemble as it is, in between the straight line."""
    ensemble, truth = normal(members, 40, 3), normal(40, 3, seed=1)
    fair, biased = crps(ensemble, truth, fair=True), crps(ensemble, truth, fair=False)
    assert torch.allclose(almost_fair_crps(ensemble, truth, 1.0), fair, atol=1e-12)
    assert torch.allclose(almost_fair_crps(ensemble, truth, 0.0), biased, atol=1e-12)
    assert torch.allclose(almost_fair_crps(ensemble, truth, 0.95), 0.95 * fair + 0.05 * biased, atol=1e-12)


def test_gradient_of_the_score_is_finite_where_members_meet():
    ensemble = torch.tensor([[1.0, 0.0], [1.0, 2.0]], requires_grad=True)
    almost_fair_crps(ensemble, torch.tensor([1.0, 1.0]), 0.95).sum().backward()
    assert ensemble.grad is not None and ensemble.grad.isfinite().all()


def test_valid_mean_counts_the_ocean_only():
    values, valid = normal(3, 4, 8), torch.tensor([True] * 5 + [False] * 3)
    assert valid_mean(values, conditions(3)).item() == pytest.approx(values.mean().item())
    ocean = valid_mean(values, conditions(3, valid=valid))
    assert ocean.item() == pytest.approx(values[..., :5].mean().item())


def test_increments_of_a_random_walk_grow_like_the_root_of_the_lag():
    """rms = step sqrt(lag) in each channel; a channel that stands still keeps the floor 1e-4."""
    steps = torch.tensor([0.3, 2.0, 0.0], dtype=torch.float64)[:, None]
    walk = (normal(400, 9, 3, 10) * steps).cumsum(dim=1)
    lags = torch.arange(1, 5, dtype=torch.float64)
    exact = (lags.sqrt()[:, None] * steps[:, 0]).clamp_min(1e-4)
    assert torch.allclose(increment_scale(walk, 4), exact, rtol=0.04)  # 4000 walks: about 1 % each


def test_scale_between_lags_is_linear_and_starts_at_zero():
    scales = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    leads = torch.tensor([0.5, 1.0, 1.25, 2.0, 3.0])
    exact = torch.tensor([[0.5, 1.0], [1.0, 2.0], [1.5, 2.75], [3.0, 5.0], [3.0, 5.0]])
    assert torch.allclose(scale_at(scales, leads), exact)


@pytest.mark.parametrize("family", FORECASTING)
def test_prepared_scale_is_that_of_the_data(family):
    config = {
        "regression": RegressionConfig(horizon=4, network=TINY),
        "scoring": ScoringConfig(horizon=4, network=TINY),
        "refiner": RefinerConfig(network=TINY),
        "joint": JointConfig(frames=5, network=TINY),
        "amortised": AmortisedConfig(frames=5, network=TINY),
        "universal": UniversalConfig(frames=5, network=TINY),
        "neural-solver": NeuralSolverConfig(frames=5, network=TINY),
        "dyffusion": DYffusionConfig(horizon=4, interpolator=InterpolatorConfig("bridge", network=TINY), network=TINY),
    }[family]
    model = build_model(config, ModelShape(1, (True,)))
    model.prepare((0.3 * normal(400, 9, 1, 10)).cumsum(dim=1))
    lags = 1 if family == "refiner" else 4
    exact = 0.3 * torch.arange(1.0, lags + 1).sqrt()[:, None]
    assert isinstance(model.scales, torch.Tensor) and model.scales.shape == exact.shape
    assert torch.allclose(model.scales, exact, rtol=0.04)
    assert "scales" in model.state_dict(), "the scale travels with the weights"


# What the network is told


def test_conditions_reach_the_backbone_in_the_stated_order():
    shape = ModelShape(1, (True,), parameter_mean=(2.0, 0.0), parameter_std=(0.5, 4.0), cyclic=True, static=2)
    network = ConditionedNetwork(
        TINY, shape, in_frames=5, out_frames=1, in_channels=3, out_channels=1, num_scalars=1, shared_channels=1
    )
    assert network.backbone.stem.conv.in_channels == 5 * 2 + 1 + 2, "what is the same in all frames is seen once"
    seen = {}

    class Recorder(nn.Module):
        def forward(self, x, scalars):
            seen.update(x=x, scalars=scalars)
            return x

    network.backbone = Recorder()
    grid, valid, static = ring(4), torch.tensor([True, True, False, True]), normal(1, 4).float()
    parameters, time = torch.tensor([[2.5, 8.0], [2.0, -4.0]]), torch.tensor([3.0, 12.0])
    here = Conditions(grid, 1.0, parameters, time, cycle=12.0, static=static, valid=valid)
    x = normal(2, 5, 3, 4).float()
    network(x, here, torch.tensor([[0.25], [0.75]]))
    exact = torch.tensor([[0.25, 1.0, 2.0, 0.0, 1.0], [0.75, 0.0, -1.0, 1.0, 0.0]])
    assert torch.allclose(seen["scalars"], exact, atol=1e-6)
    assert torch.equal(seen["x"][:, :, :3], x)
    assert torch.equal(seen["x"][:, :, 3], static.expand(2, 5, 4))
    assert torch.equal(seen["x"][:, :, 4], valid.float().expand(2, 5, 4))


@pytest.mark.parametrize("family", FORECASTING)
def test_season_parameters_and_mask_change_the_forecast(family):
    shape = ModelShape(2, (True, False), parameter_mean=(0.0,), parameter_std=(1.0,), cyclic=True, static=1)
    grid, valid = channel_grid(), torch.ones(8, 6, dtype=torch.bool)
    here = conditions(2, grid, parameters=1, cycle=12.0, valid=valid)
    emulator = Emulator(perturbed(build_model(CONFIGS[family], shape)), IdentitySpace())
    context = normal(2, 1, 2, 8, 6).float()

    def forecast(told: Conditions) -> torch.Tensor:
        return emulator.forecast(context, told, torch.arange(1, 6), members=2, seed=0)

    base = forecast(here)
    assert base.shape == (2, 2, 5, 2, 8, 6) and base.isfinite().all()
    assert torch.allclose(forecast(here.shifted(12)), base, atol=1e-5), "a year later is the same season"
    land = replace(here, valid=valid & (torch.arange(6) > 0))
    for other in (here.shifted(3), replace(here, parameters=here.parameters + 0.5), land):
        assert (forecast(other) - base).abs().max() > 1e-3


# Regression and scoring rule: exact networks


SEASONAL = {
    "one step": {"context": 1, "horizon": 1},
    "several leads": {"context": 2, "horizon": 3},
    "unrolled": {"context": 2, "horizon": 2, "unroll": 3},
    "unrolled steps": {"context": 3, "horizon": 1, "unroll": 2},
}


def seasonal_model(family: str, settings: dict[str, int]):
    config = {"regression": RegressionConfig, "scoring": ScoringConfig}[family](network=TINY, **settings)
    model = build_model(config, ModelShape(2, (True,))).double()
    model.network = SeasonalNetwork(model)
    frames = 2 * config.context + 4 * config.horizon
    here = conditions(6, ring(), parameters=1, cycle=12.0)
    x = seasonal_states(here, normal(6, 2, 8, seed=3), frames)
    model.prepare(x)
    return model, x, here


@pytest.mark.parametrize("family", ["regression", "scoring"])
@pytest.mark.parametrize("settings", SEASONAL.values(), ids=SEASONAL.keys())
def test_exact_network_has_no_loss_at_any_stage(family, settings):
    """Targets, scales, leads and the origin of the conditions all have to agree for that; a false origin has a loss."""
    model, x, here = seasonal_model(family, settings)
    names = [stage.name for stage in model.stages()]
    assert ("unroll" in names) == ("unroll" in settings)
    for stage in model.stages():
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            loss = stage.objective(TrainingBatch(x[:, : stage.frames], here, generator))
            assert loss.item() == pytest.approx(0, abs=1e-12)
            false = stage.objective(TrainingBatch(x[:, : stage.frames], here.shifted(1), generator))
            assert false.item() > 1e-3


@pytest.mark.parametrize("family", ["regression", "scoring"])
@pytest.mark.parametrize("settings", SEASONAL.values(), ids=SEASONAL.keys())
def test_exact_network_forecasts_exactly_over_many_windows(family, settings):
    model, x, here = seasonal_model(family, settings)
    emulator, context = Emulator(model, IdentitySpace()), x[:, : model.context]
    origin = here.shifted(model.context - 1)
    leads = torch.arange(1, 15, dtype=torch.float64)
    if model.continuous:
        leads = torch.cat([leads, torch.tensor([0.5, 6.75], dtype=torch.float64)]).sort().values
    forecast = emulator.forecast(context, origin, leads, members=2, seed=0)
    time = origin.time[:, None] + leads
    change = torch.sin(2 * math.pi * time / 12) - torch.sin(2 * math.pi * origin.time[:, None] / 12)
    exact = context[:, -1:] + (here.parameters * change)[..., None, None]
    assert torch.allclose(forecast, exact.expand_as(forecast), atol=1e-9)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least 2 members"):
        ScoringConfig(members=1)
    for wrong in ({"context": 0}, {"context": 5}, {"overlap": 0}, {"overlap": 5}):
        with pytest.raises(ValueError, match=r"1 \.\.\. frames - 1 = 4"):
            UniversalConfig(**wrong)


# Regression and scoring rule: learning


def test_regression_learns_linear_advection():
    """u(x, t + 1) = u(x - 1, t) on smooth waves: after 300 small steps the error is a few percent of the change."""

    def waves(step: int, frames: int):
        phase = 2 * math.pi * torch.arange(16) / 16
        amplitude, shift = normal(32, 3, 1, seed=step).float(), 6.3 * normal(32, 3, 1, seed=9000 + step).float()
        number = torch.arange(1, 4)[:, None]
        states = [(amplitude * (number * (phase - t * math.pi / 8) + shift).cos()).sum(dim=1) for t in range(frames)]
        return torch.stack(states, dim=1)[:, :, None], conditions(32, ring(16))

    model = initialised(Regression(RegressionConfig(network=TINY), ModelShape(1, (True,))))
    x, here = waves(-1, 5)
    model.prepare(x)
    losses = fit(model, waves, 300)
    assert losses[0] == pytest.approx(1, abs=0.15), "an untrained network persists, at the scale of the increments"
    forecast = Emulator(model, IdentitySpace()).forecast(x[:, :1], here, torch.arange(1, 5), members=1, seed=0)[0]
    error = (forecast - x[:, 1:]).square().mean(dim=(0, 2, 3)).sqrt()
    persistence = (x[:, :1] - x[:, 1:]).square().mean(dim=(0, 2, 3)).sqrt()
    assert (error < 0.15 * persistence).all(), (error / persistence).tolist()


def test_scoring_rule_learns_the_law_of_an_autoregressive_process():
    """x' = phi x + s noise: each member adds fresh noise of standard deviation s to the same mean."""
    phi, innovation = 0.8, 0.6

    def windows(step: int, frames: int):
        return autoregressive(64, frames, 8, phi, seed=step).float(), conditions(64)

    model = initialised(ScoringRule(ScoringConfig(fairness=1.0, network=POINTWISE), ModelShape(1, (True,))))
    x, here = windows(99_999, 9)
    model.prepare(x)
    fit(model, windows, 100, stage=0)
    fit(model, windows, 400)
    forecast = Emulator(model, IdentitySpace()).forecast(x[:, :1], here, torch.tensor([1.0]), members=50, seed=0)
    deviation = forecast[:, :, 0] - phi * x[:, 0]
    assert deviation.mean().item() == pytest.approx(0, abs=0.1 * innovation)
    assert forecast.std(dim=0).mean().item() == pytest.approx(innovation, rel=0.12)
    z = (forecast - forecast.mean(dim=0)) / forecast.std(dim=0)
    inside = (z.abs() < 1).double().mean().item()
    assert inside == pytest.approx(0.683, abs=0.07), "about the Gaussian share within one standard deviation"
    long = Emulator(model, IdentitySpace()).forecast(x[:, :1], here, torch.arange(1, 26), members=10, seed=1)
    assert long[:, :, -1].std().item() == pytest.approx(1, rel=0.2), "iterated, it reaches the stationary variance"


# Universal diffusion


def universal(frames: int = 5, phi: float = 0.8, **changes) -> WindowDiffusion:
    """In float64, with the exact network and the exact scales of the autoregressive process."""
    config = UniversalConfig(frames=frames, network=TINY, **{"sampler": "heun", "num_steps": 24, **changes})
    model = WindowDiffusion(config, ModelShape(1, (True,))).double()
    lags = torch.arange(1, frames, dtype=torch.float64)
    assert isinstance(model.scales, torch.Tensor)
    model.scales.copy_(torch.sqrt(2 * (1 - phi**lags))[:, None])
    model.network = GaussianNetwork(model, phi)
    return model


MASKS = ["00000", "10000", "00001", "10001", "00100", "01010", "11110", "11011"]


@pytest.mark.parametrize("bits", MASKS)
def test_exact_denoiser_samples_the_conditional_law(bits):
    """Mean and covariance of the unknown frames given the known: 5 standard errors and 1 % for the sampler."""
    phi, members, model = 0.8, 400, universal()
    mask = torch.tensor([bit == "1" for bit in bits])
    known = autoregressive(1, 5, 8, phi, seed=5)
    start = torch.where(mask[:, None, None], known, torch.full_like(known, 77.0)).expand(members, -1, -1, -1)
    leads = torch.arange(5, dtype=torch.float64)
    states = model.advance(start, mask, conditions(members), leads, noise=addresses(members))
    assert torch.equal(states[:, mask], start[:, mask]), "known frames come back bitwise"
    gain, cov = gaussian_conditioning(phi, mask)
    mean = gain @ known[0, mask, 0]
    unknown = states[:, ~mask, 0]
    error = (unknown.mean(dim=0) - mean) / cov.diagonal().sqrt()[:, None]
    assert error.abs().max() < 5 / math.sqrt(members) + 0.01
    deviation = (unknown - mean).movedim(1, 2).flatten(0, 1)
    count = len(deviation)
    found = deviation.T @ deviation / count
    variances = cov.diagonal()
    allowed = 5 * torch.sqrt((variances[:, None] * variances + cov**2) / count) + 0.01 * variances.max()
    assert ((found - cov).abs() < allowed).all(), (found - cov).tolist()


def test_frames_that_are_not_known_do_not_matter():
    model, mask = universal(num_steps=4), torch.tensor([True, False, False, True, False])
    x, leads, here = normal(3, 5, 1, 8), torch.arange(5, dtype=torch.float64), conditions(3)
    other = torch.where(mask[:, None, None], x, 1e3)
    first, second = (model.advance(f, mask, here, leads, noise=addresses(3)) for f in (x, other))
    assert torch.equal(first, second)
    third = model.advance(x, mask, here, leads, noise=addresses(3), window=1)
    assert not torch.allclose(first, third), "another window, another draw"


def test_what_is_diffused_are_departures_from_the_nearest_known_state():
    model, mask = universal(num_steps=4), torch.tensor([True, False, False, False, False])
    x, here, leads = normal(3, 5, 1, 8), conditions(3), torch.arange(5, dtype=torch.float64)
    to_x = model.open(x, mask, here, leads).to_x
    zero = to_x(torch.zeros_like(x))
    assert torch.equal(zero, x[:, :1].expand_as(x)), "no departure means: as the nearest known state"
    unit = to_x(torch.ones_like(x)) - zero
    scale = torch.sqrt(2 * (1 - 0.8 ** torch.arange(1, 5, dtype=torch.float64)))
    assert torch.allclose(unit[:, 1:], scale[:, None, None].expand_as(unit[:, 1:]), atol=1e-12)
    assert (unit[:, 0] == 0).all(), "no departure moves a known state"


def test_open_window_is_the_problem_that_advance_samples():
    """At pure noise the denoiser is the conditional mean (to alpha_min = 1e-3); sampled by hand it is `advance`."""
    model, mask = universal(num_steps=4), torch.tensor([True, False, True, False, False])
    x, here, leads = normal(3, 5, 1, 8), conditions(3), torch.arange(5, dtype=torch.float64)
    problem = model.open(x, mask, here, leads)
    start = normal(3, 5, 1, 8, seed=1)
    mean = problem.to_x(problem.denoiser(start, torch.tensor(1.0, dtype=torch.float64)))
    gain, _ = gaussian_conditioning(0.8, mask)
    assert torch.equal(mean[:, mask], x[:, mask])
    assert torch.allclose(mean[:, ~mask, 0], gain @ x[:, mask, 0], atol=0.02)
    noise = addresses(3).draw((5, 1, 8), key=(4, 0, "start"), dtype=torch.float64)
    sampler = make_sampler("heun", problem.schedule, 4)
    by_hand = problem.to_x(sampler(problem.denoiser, starting_noise(problem.schedule, noise)))
    assert torch.equal(by_hand, model.advance(x, mask, here, leads, noise=addresses(3), window=4))


@pytest.mark.parametrize("family", FORECASTING)
def test_only_denoisers_can_be_opened(family):
    model = build_model(CONFIGS[family], ModelShape(1, (True,)))
    assert isinstance(model, Diffusing) == (family in ("joint", "amortised", "universal"))


def test_rollout_of_the_exact_denoiser_is_the_process():
    """Over several windows each lead has mean phi^lead x and variance 1 - phi^(2 lead), in physical units too."""
    phi, members, space = 0.8, 500, AffineSpace()
    emulator = Emulator(universal(frames=4, num_steps=16), space, chunk=2000)
    x = autoregressive(1, 1, 8, phi, seed=5)
    context, leads = space.decode(x, None, None), torch.tensor([1.0, 3.0, 4.0, 7.0])
    states = emulator.forecast(context, conditions(1), leads, members=members, seed=0)[:, 0, :, 0]
    scaled = space.encode(states, None, None) - phi ** leads.double()[:, None] * x[0, 0]
    variance = 1 - phi ** (2 * leads.double())
    count = members * 8
    assert (scaled.mean(dim=(0, 2)).abs() < 5 * (variance / count).sqrt() + 0.01).all()
    assert torch.allclose(scaled.square().mean(dim=(0, 2)), variance, rtol=5 * math.sqrt(2 / count) + 0.02)


def test_network_is_told_the_time_of_the_first_frame_in_training_and_forecast():
    """Windows of 5 states, 2 of them known: the first begins one step before the origin, the next three steps later."""
    model, here = universal(context=2, overlap=2, num_steps=1), conditions(3).shifted(100)
    assert isinstance(model.network, GaussianNetwork)
    x = autoregressive(3, 5, 8, 0.8)
    model.stages()[0].objective(TrainingBatch(x, here, torch.Generator().manual_seed(0)))
    assert torch.equal(torch.stack(model.network.times).unique(dim=0), here.time[None])
    model.network.times.clear()
    Emulator(model, IdentitySpace()).forecast(x[:, :2], here, torch.arange(1, 7), members=1, seed=0)
    assert torch.equal(torch.stack(model.network.times).unique(dim=0), torch.stack([here.time - 1, here.time + 2]))


def test_training_loss_is_least_at_the_exact_denoiser():
    """Masks, departures, noise levels and targets of the loss agree with those of the sampler, or the optimum moves."""
    model, x = universal(), autoregressive(1500, 5, 8, 0.8, seed=6)
    losses = []
    for factor in (0.9, 1.0, 1.1):
        model.network.factor = factor
        generator = torch.Generator().manual_seed(0)
        losses.append(model.stages()[0].objective(TrainingBatch(x, conditions(1500), generator)).item())
    below, exact, above = losses
    assert exact < below and exact < above
    optimum = 1 + 0.1 * (below - above) / (2 * (below + above - 2 * exact))
    assert optimum == pytest.approx(1, abs=0.01)


def test_network_learns_towards_the_exact_loss():
    """From 1 (nothing explained) three quarters of the way to that of the exact denoiser, on the same noise."""
    phi = 0.9
    x = autoregressive(1000, 3, 8, phi, seed=7)

    def windows(step: int, frames: int):
        return autoregressive(64, frames, 8, phi, seed=step).float(), conditions(64)

    def loss(model, states) -> float:
        batch = TrainingBatch(states, conditions(1000), torch.Generator().manual_seed(1))
        with torch.no_grad():
            return model.stages()[0].objective(batch).item()

    config = UniversalConfig(frames=3, network=replace(POINTWISE, channels=(32,)))
    model = initialised(WindowDiffusion(config, ModelShape(1, (True,)))).double()
    model.prepare(x)
    untrained, exact = loss(model, x), loss(universal(frames=3, phi=phi), x)
    assert untrained == pytest.approx(1, abs=0.05)
    model.float()
    fit(model, windows, 400)
    trained = loss(model.double(), x)
    assert exact < trained < exact + 0.25 * (untrained - exact), (untrained, exact, trained)


@given(
    bits=st.lists(st.booleans(), min_size=2, max_size=6),
    channels=st.integers(1, 3),
    space=st.sampled_from([(4,), (2, 3)]),
)
def test_departures_start_from_the_nearest_known_state(bits, channels, space):
    """Nearest in time, either of two equally near; scale of that lag; 0 and 1 when nothing is known."""
    frames, known = len(bits), torch.tensor(bits)
    model = WindowDiffusion(UniversalConfig(frames=frames, network=TINY), ModelShape(channels, (True,) * len(space)))
    assert isinstance(model.scales, torch.Tensor)
    model.scales.copy_(1 + torch.arange(1.0, frames)[:, None] + 0.1 * torch.arange(channels))
    x = normal(2, frames, channels, *space).float()
    base, scale = model.departure(x, torch.stack([known, torch.zeros_like(known)]))
    assert base.shape == x.shape and scale.shape == (2, frames, channels, *[1] * len(space))
    assert (base[1] == 0).all() and (scale[1] == 1).all()
    at = known.nonzero()[:, 0].tolist()
    for frame in range(frames):
        if not at:
            assert (base[0, frame] == 0).all() and (scale[0, frame] == 1).all()
            continue
        lag = min(abs(frame - other) for other in at)
        nearest = [other for other in at if abs(frame - other) == lag]
        assert any(torch.equal(base[0, frame], x[0, other]) for other in nearest)
        exact = model.scales[lag - 1] if lag else torch.ones(channels)
        assert torch.equal(scale[0, frame].reshape(-1), exact)


@pytest.mark.parametrize("settings", [{}, {"frames": 3, "context": 2, "unconditional": 0.0, "scattered": 0.4}])
def test_training_masks_follow_their_law(settings):
    """The frequency of each pattern within 5 standard errors of its probability, worked out from the docstring."""
    config = UniversalConfig(network=TINY, **settings)
    count = 20_000
    size = config.frames
    masks = config.masks(count, torch.Generator().manual_seed(0))
    assert masks.shape == (count, size) and masks.dtype == torch.bool
    assert not masks.all(dim=1).any(), "never all are known"
    rest = 1 - config.unconditional - config.forecast - config.scattered
    exact = dict.fromkeys(itertools.product((False, True), repeat=size), 0.0)
    exact[(False,) * size] += config.unconditional
    exact[tuple(frame < config.context for frame in range(size))] += config.forecast
    for prefix in range(1, size):
        exact[tuple(frame < prefix for frame in range(size))] += rest / (size - 1)
    for free, coins in itertools.product(range(size), itertools.product((False, True), repeat=size)):
        pattern = tuple(coin and frame != free for frame, coin in enumerate(coins))
        exact[pattern] += config.scattered / size / 2**size
    assert sum(exact.values()) == pytest.approx(1)
    for pattern, probability in exact.items():
        found = (masks == torch.tensor(pattern)).all(dim=1).double().mean().item()
        error = math.sqrt(probability * (1 - probability) / count)
        assert abs(found - probability) <= 5 * error + 1e-12, pattern


def test_land_does_not_enter_the_loss():
    valid = torch.tensor([True] * 5 + [False] * 3)
    shape = ModelShape(1, (True,), static=1)
    model = perturbed(WindowDiffusion(UniversalConfig(network=POINTWISE), shape)).double()
    x = normal(8, 5, 1, 8)
    other = x + 100 * (~valid).double()
    here = conditions(8, valid=valid)
    losses = [
        model.stages()[0].objective(TrainingBatch(f, here, torch.Generator().manual_seed(3))).item() for f in (x, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12), "with a pointwise network land has no way in"


def test_window_of_another_length_is_refused():
    with pytest.raises(ValueError, match="has 5 states, got 3"):
        mask, leads = torch.tensor([True, False, False]), torch.arange(3.0)
        universal().advance(normal(1, 3, 1, 8), mask, conditions(1), leads, noise=addresses(1))
