"""Every family with every network: it forecasts, its losses reach every weight, and what is the same in all frames arrives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exact_models import channel_grid, conditions, normal

from eddycast.emulators import (
    DYffusionConfig,
    Emulator,
    IdentitySpace,
    InterpolatorConfig,
    ModelShape,
    RefinerConfig,
    RegressionConfig,
    ScoringConfig,
    TrainingBatch,
    UniversalConfig,
    build_model,
)
from eddycast.networks import (
    DyffusionCNNConfig,
    FNOConfig,
    MLPConfig,
    ModernUNetConfig,
    OtnessUNetConfig,
    ResNetUNetConfig,
    SDAUNetConfig,
    SpaceTimeTransformerConfig,
    TransformerConfig,
    UNetConfig,
)

NETWORKS = {
    "unet": UNetConfig(channels=(4, 6), blocks=1, kernel=3, embedding=8),
    "transformer": TransformerConfig(patch=(2, 3), width=16, heads=2, blocks=1, embedding=8),
    "fno": FNOConfig(modes=2, width=6, blocks=1, embedding=8),
    "unet-sda": SDAUNetConfig(channels=(4, 6), blocks=1, embedding=8),
    "unet-modern": ModernUNetConfig(hidden=4, multipliers=(1, 2), blocks=1),
    "transformer-latent": SpaceTimeTransformerConfig(patch=(2, 3), width=16, heads=2, blocks=1, embedding=8),
    "mlp": MLPConfig(width=8, blocks=1, embedding=8),
    "cnn-dyffusion": DyffusionCNNConfig(width=6, kernels=(3, 3), embedding=8, norm="channel"),
    "unet-otness": OtnessUNetConfig(size=8, stem=4, channels=(4, 6), kernels=(4, 2), embedding=8, norm="channel"),
    "unet-resnet": ResNetUNetConfig(width=4, multipliers=(1, 2), heads=2, head_width=4, embedding=8),
}
FAMILIES = {
    "regression": RegressionConfig(context=2),
    "scoring": ScoringConfig(context=2),
    "refiner": RefinerConfig(context=2, refinements=2, min_noise_std=0.1),
    "universal": UniversalConfig(frames=3, num_steps=2),
    "dyffusion": DYffusionConfig(horizon=2, interpolator=InterpolatorConfig("noise")),
}
SHAPE = ModelShape(2, (True, False), parameter_mean=(0.0,), parameter_std=(1.0,), cyclic=True, static=2)


def model(family: str, network: str) -> torch.nn.Module:
    config = replace(FAMILIES[family], network=NETWORKS[network])
    if isinstance(config, DYffusionConfig):
        config = replace(config, interpolator=replace(config.interpolator, network=NETWORKS[network]))
    found = build_model(config, SHAPE)
    with torch.no_grad():
        for number, weight in enumerate(found.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
    return found


def situation(batch: int):
    valid = torch.ones(8, 6, dtype=torch.bool)
    valid[0, 0] = False
    return conditions(batch, channel_grid(), parameters=1, cycle=12.0, valid=valid, static=normal(1, 8, 6).float())


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_forecast_of_any_network_knows_its_conditions(family, network):
    emulator, here = Emulator(model(family, network), IdentitySpace()), situation(2)
    context = normal(2, emulator.context, 2, 8, 6).float()

    def forecast(told, states=context) -> torch.Tensor:
        return emulator.forecast(states, told, torch.arange(1, 4), members=2, seed=0)

    base = forecast(here)
    assert base.shape == (2, 2, 3, 2, 8, 6) and base.isfinite().all()
    assert here.static is not None
    for other in (
        forecast(here.shifted(3)),
        forecast(replace(here, parameters=here.parameters + 0.5)),
        forecast(replace(here, static=here.static + 1)),
        forecast(here, context + 0.5) - 0.5,
    ):
        assert (other - base).abs().max() > 1e-3
    if family != "regression":
        assert (base[0] - base[1]).abs().max() > 1e-3, "members differ"


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_reach_every_weight(family, network):
    found, here = model(family, network), situation(4)
    for stage in found.stages()[
        0 if family == "dyffusion" else -1 :
    ]:  # the last one trains all, or a network of its own
        x = normal(4, stage.frames, 2, 8, 6).float()
        stage.objective(TrainingBatch(x, here, torch.Generator().manual_seed(0))).backward()
        for name, weight in stage.module.named_parameters():
            assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("network", NETWORKS)
def test_a_frame_of_the_diffusion_network_holds_its_own_fields_and_mask(network):
    """Two fields: channels are field 1, field 2, known or not, then static fields, frame by frame."""
    found, here, seen = model("universal", network), situation(2), []
    found.network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, mask = normal(2, 3, 2, 8, 6).float(), torch.tensor([True, False, True])
    problem = found.open(x, mask, here, torch.arange(3.0))
    x_t = normal(2, 3, 2, 8, 6, seed=1).float()
    problem.denoiser(x_t, torch.tensor(0.5))
    assert seen[0].shape == (2, 3, 5, 8, 6)
    assert torch.equal(seen[0][:, mask, :2], x[:, mask])
    ratio = seen[0][:, 1, :2] / x_t[:, 1]
    assert torch.allclose(ratio, ratio.flatten()[0].expand_as(ratio), rtol=1e-4), "the unknown frame is noise, scaled"
    assert seen[0][:, :, 2, 0, 0].tolist() == [[1, 0, 1]] * 2
    assert here.static is not None and here.valid is not None
    assert torch.equal(seen[0][:, :, 3], here.static[0].expand(2, 3, 8, 6))
    assert torch.equal(seen[0][:, :, 4], here.valid.float().expand(2, 3, 8, 6))
