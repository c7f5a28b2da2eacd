"""Kinds of diffusion emulators with the exact network of a Gaussian process: each samples the law it should, or its known bias."""

from __future__ import annotations

import math

import pytest
import torch
from exact_models import addresses, autoregressive, conditions, gaussian_conditioning, normal
from torch import Tensor, nn

from eddycast.diffusion import PARAMETRISATIONS, SCHEDULES
from eddycast.diffusion.schedules import scales
from eddycast.emulators import (
    AmortisedConfig,
    Emulator,
    IdentitySpace,
    JointConfig,
    ModelShape,
    TrainingBatch,
    UniversalConfig,
    WindowDiffusion,
    count_passes,
)
from eddycast.networks import UNetConfig

PHI = 0.8
TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)


class ExactNetwork(nn.Module):
    """F of E[x | x_t, known] for the AR(1) process in any layout, schedule and parametrisation that is told the time."""

    def __init__(self, model: WindowDiffusion) -> None:
        super().__init__()
        self.config, self.schedule = model.config, model.schedule

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        time = scalars[:, 0]
        if self.config.layout == "beside":
            masks, told, x_in = inputs.unbind(dim=2)
            known = masks[0, :, 0] > 0.5
            assert torch.equal(told, torch.where(known[:, None], told, 0.0)), "nothing unknown is told"
        else:
            x_in, told, known = inputs[:, :, 0], inputs[:, :, 0], torch.zeros(inputs.shape[1], dtype=torch.bool)
        alpha, sigma = scales(self.schedule, time, x_in)
        c = PARAMETRISATIONS[self.config.parametrisation].coefficients(alpha, sigma, time.reshape(alpha.shape), 1.0)
        x_t = x_in / c.c_in
        gain, cov = gaussian_conditioning(PHI, known) if known.any() else (None, covariance(len(known)))
        mean = torch.zeros_like(x_t[:, ~known]) if gain is None else gain @ told[:, known]
        unknown = x_t[:, ~known]
        inner = alpha**2 * cov + sigma**2 * torch.eye(len(cov), dtype=cov.dtype)
        posterior = x_t.clone()
        posterior[:, ~known] = mean + alpha * cov @ torch.linalg.solve(inner, unknown - alpha * mean)
        posterior[:, known] = told[:, known]
        return ((posterior - c.c_skip * x_t) / c.c_out)[:, :, None]


def covariance(frames: int) -> Tensor:
    lags = torch.arange(frames)
    return PHI ** (lags[:, None] - lags).abs().double()


def exact(config) -> WindowDiffusion:
    model = WindowDiffusion(config, ModelShape(1, (True,))).double()
    model.network = ExactNetwork(model)
    return model


def drawn(model: WindowDiffusion, mask: Tensor, known: Tensor, members: int = 500) -> Tensor:
    start = torch.where(mask[:, None, None], known, 55.0).expand(members, -1, -1, -1)
    leads = torch.arange(len(mask), dtype=torch.float64)
    return model.advance(start, mask, conditions(members), leads, noise=addresses(members))


@pytest.mark.parametrize("parametrisation", ["velocity", "noise", "data"])
@pytest.mark.parametrize("schedule", ["cosine-pdediff", "cosine-sda", "linear"])
def test_published_layout_samples_the_conditional_law(parametrisation, schedule):
    """State variable, mask and known states beside x_t, any parametrisation: mean and variance of the unknown frames."""
    assert schedule in SCHEDULES
    config = UniversalConfig(
        network=TINY, variable="state", layout="beside", parametrisation=parametrisation, schedule=schedule,
        sampler="heun", num_steps=24, grid="log-snr",
    )  # fmt: skip
    mask, known = torch.tensor([True, True, False, False, False]), autoregressive(1, 5, 8, PHI, seed=5)
    states = drawn(exact(config), mask, known)
    gain, cov = gaussian_conditioning(PHI, mask)
    unknown, mean, std = states[:, ~mask, 0], gain @ known[0, mask, 0], cov.diagonal().sqrt()
    assert torch.equal(states[:, mask], known[:, mask].expand(500, -1, -1, -1))
    assert (((unknown.mean(dim=0) - mean) / std[:, None]).abs() < 5 / math.sqrt(500) + 0.02).all()
    spread = (unknown - mean).square().mean(dim=(0, 2)).sqrt()
    assert torch.allclose(spread, std, rtol=5 / math.sqrt(2 * 4000) + 0.02)


@pytest.mark.parametrize("variable, layout", [("state", "in-place"), ("departure", "beside")])
def test_variable_and_layout_may_be_mixed_in_training(variable, layout):
    """Each mixture trains on finite numbers, and an untrained network (F = 0) has a loss near one in unit variance."""
    config = UniversalConfig(network=TINY, variable=variable, layout=layout)
    model = WindowDiffusion(config, ModelShape(1, (True,))).double()
    x = autoregressive(256, 5, 8, PHI)
    model.prepare(x)
    loss = model.stages()[0].objective(TrainingBatch(x, conditions(256), torch.Generator().manual_seed(0)))
    assert loss.item() == pytest.approx(1, abs=0.15)


def test_joint_model_forecasts_by_guidance_within_its_known_bias():
    """Known states with error std = 0.01: the mean is that of the conditional law to a tenth of its deviation, the spread too."""
    config = JointConfig(
        network=TINY, parametrisation="noise", schedule="cosine-pdediff", sampler="ancestral", num_steps=128, gamma=0.3
    )
    mask, known = torch.tensor([True, False, False, False, False]), autoregressive(1, 5, 8, PHI, seed=5)
    states = drawn(exact(config), mask, known)
    gain, cov = gaussian_conditioning(PHI, mask)
    std = cov.diagonal().sqrt()
    error = (states[:, ~mask, 0].mean(dim=0) - gain @ known[0, mask, 0]) / std[:, None]
    assert error.square().mean().sqrt() < 0.15, error.square().mean().sqrt()
    ratio = states[:, ~mask, 0].std(dim=0).mean(dim=1) / std
    assert ((ratio - 1).abs() < 0.2).all(), ratio.tolist()


@pytest.mark.parametrize("sampler, pull", [("ancestral", 0.52), ("ddim", 0.36)])
def test_replacement_forgets_part_of_what_is_known(sampler, pull):
    """ACDM: noisy known states say less than clean ones, so the mean is pulled by `pull` instead of 0.8; documented figures."""
    config = JointConfig(
        network=TINY, parametrisation="noise", schedule="linear", sampler=sampler, num_steps=64,
        conditioning="replacement", frames=3, context=2, overlap=2,
    )  # fmt: skip
    mask, known = torch.tensor([True, True, False]), autoregressive(1, 3, 8, PHI, seed=5)
    states = drawn(exact(config), mask, known)
    assert torch.equal(states[:, mask], known[:, mask].expand(500, -1, -1, -1))
    mean = states[:, 2, 0].mean(dim=0)
    slope = ((mean * known[0, 1, 0]).sum() / known[0, 1, 0].square().sum()).item()
    variance = states[:, 2, 0].var(dim=0).mean().item()
    assert slope == pytest.approx(pull, abs=0.05)
    assert 1.2 * (1 - PHI**2) < variance < 0.75, "and the spread is too large"


def test_all_at_once_forecast_is_one_window_and_counts_every_window_of_every_step():
    config = JointConfig(
        network=TINY, parametrisation="noise", schedule="cosine-pdediff", sampler="ddim", num_steps=8, frames=5,
        rollout="all-at-once",
    )  # fmt: skip
    model = exact(config)
    emulator, x = Emulator(model, IdentitySpace()), autoregressive(2, 1, 8, PHI, seed=1)
    with count_passes() as passes:
        states = emulator.forecast(x, conditions(2), torch.arange(1, 12), members=3, seed=0)
    assert states.shape == (3, 2, 11, 1, 8) and states.isfinite().all()
    assert (passes.forward, passes.backward) == (0, 0), "the exact network is no network that is counted"
    short = emulator.forecast(x, conditions(2), torch.arange(1, 3), members=3, seed=0)
    assert short.shape[2] == 2, "a forecast shorter than a window is cut from one"
    counted = WindowDiffusion(config, ModelShape(1, (True,)))
    with count_passes() as passes:
        Emulator(counted, IdentitySpace()).forecast(x.float(), conditions(2), torch.arange(1, 12), members=3, seed=0)
    assert passes.forward == 3 * 2 * 8 * (12 - 4) and passes.backward == passes.forward


def test_passes_of_a_rollout_are_steps_times_windows():
    """16 steps in each of ceil(10 / 4) = 3 windows of 5 states that know one; guidance adds one pass back for each forward."""
    x = normal(2, 1, 1, 8).float()
    for config, backward in (
        (UniversalConfig(network=TINY), 0),
        (JointConfig(network=TINY), 1),
        (JointConfig(network=TINY, conditioning="replacement"), 0),
        (AmortisedConfig(network=TINY), 0),
    ):
        emulator = Emulator(WindowDiffusion(config, ModelShape(1, (True,))), IdentitySpace())
        with count_passes() as passes:
            emulator.forecast(x, conditions(2), torch.arange(1, 11), members=4, seed=0)
        assert passes.forward == 8 * 16 * 3 and passes.backward == backward * passes.forward, config.kind


def test_counters_nest_and_close():
    model = WindowDiffusion(UniversalConfig(network=TINY), ModelShape(1, (True,)))
    emulator, x = Emulator(model, IdentitySpace()), normal(2, 1, 1, 8).float()
    with count_passes() as outer:
        for _ in range(2):
            with count_passes() as inner:
                emulator.forecast(x, conditions(2), torch.arange(1, 5), members=1, seed=0)
    assert inner.forward == 32 and outer.forward == 64
    emulator.forecast(x, conditions(2), torch.arange(1, 5), members=1, seed=0)
    assert outer.forward == 64


def test_published_law_of_masks_draws_c_anew_for_each_batch():
    """unconditional = 1 / W and nothing else: C uniform in 0 ... W - 1, the same for all windows of a batch."""
    config = UniversalConfig(network=TINY, frames=9, unconditional=1 / 9, forecast=0.0, scattered=0.0, shared_mask=True)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(9)
    for _ in range(2000):
        masks = config.masks(4, generator)
        assert (masks == masks[0]).all() and (masks[0].int().diff() <= 0).all(), "prefixes, shared"
        counts[int(masks[0].sum())] += 1
    assert (counts / 2000 - 1 / 9).abs().max() < 5 * math.sqrt(8 / 81 / 2000)


def test_amortised_model_takes_nothing_but_what_it_was_trained_for():
    with pytest.raises(ValueError, match="exactly context = 2"):
        AmortisedConfig(frames=5, context=2)
    model = WindowDiffusion(AmortisedConfig(network=TINY, context=2, overlap=2), ModelShape(1, (True,)))
    x, leads = normal(1, 5, 1, 8).float(), torch.arange(5.0)
    for bits in ([False] * 5, [True] * 3 + [False] * 2, [False, True, True, False, False]):
        with pytest.raises(ValueError, match="universal or joint"):
            model.open(x, torch.tensor(bits), conditions(1), leads)
    model.open(x, torch.tensor([True, True, False, False, False]), conditions(1), leads)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"gamma": -1.0}, "gamma"),
        ({"std": 0.0}, "std"),
        ({"stride": 6}, "stride"),
        ({"rollout": "all-at-once", "conditioning": "replacement"}, "guidance"),
        ({"parametrisation": "score"}, "velocity"),
    ],
)
def test_bad_settings_of_joint_models_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        JointConfig(network=TINY, **wrong)


def test_loss_on_all_frames_needs_states():
    for layout in ("beside", "in-place", "in-place-full"):
        UniversalConfig(layout=layout, variable="state", loss_on="all")
        with pytest.raises(ValueError, match="variable state"):
            UniversalConfig(layout=layout, loss_on="all")
