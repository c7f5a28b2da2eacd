"""What every network promises, asked of every network: shapes, symmetry, gradients, conditioning, and that it learns."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from eddycast.networks import (
    NETWORKS,
    DyffusionCNNConfig,
    FNOConfig,
    LocalTransformerConfig,
    MLPConfig,
    ModernUNetConfig,
    NetworkConfig,
    OtnessUNetConfig,
    ResNetUNetConfig,
    SDAUNetConfig,
    SpaceTimeTransformerConfig,
    TransformerConfig,
    UNetConfig,
    build_network,
)
from eddycast.networks.layers import stack_frames, unstack_frames

CONFIGS: dict[str, NetworkConfig] = {
    "unet": UNetConfig(channels=(4, 6), blocks=1, kernel=3, embedding=8),
    "transformer": TransformerConfig(patch=2, width=16, heads=2, blocks=2, embedding=8),
    "transformer-axial": TransformerConfig(patch=2, width=16, heads=2, blocks=2, embedding=8, attention="axial"),
    "fno": FNOConfig(modes=3, width=6, blocks=2, embedding=8),
    "unet-sda": SDAUNetConfig(channels=(4, 6), blocks=(1, 2), embedding=8, spare_outputs=1),
    "unet-modern": ModernUNetConfig(hidden=4, multipliers=(1, 2), blocks=1, first_factor=2, spare_outputs=1),
    "transformer-latent": SpaceTimeTransformerConfig(patch=2, width=16, heads=2, blocks=2, embedding=8),
    "transformer-latent-values": SpaceTimeTransformerConfig(
        patch=2, width=16, heads=2, blocks=2, embedding=8, block="value-residual"
    ),
    "transformer-latent-learned": SpaceTimeTransformerConfig(
        patch=2, width=16, heads=2, blocks=2, embedding=8, positions="learned", timed=False
    ),
    "mlp": MLPConfig(width=6, blocks=2, embedding=8),
    "cnn-dyffusion": DyffusionCNNConfig(width=6, kernels=(5, 3), embedding=8, time_factor=3.0),
    "cnn-dyffusion-boundary": DyffusionCNNConfig(
        width=6, kernels=(5, 3), embedding=8, time_factor=3.0, norm="channel", padding="boundary"
    ),
    "unet-otness": OtnessUNetConfig(size=8, stem=4, channels=(4, 6), kernels=(4, 2), embedding=8, time_factor=3.0),
    "unet-otness-channel": OtnessUNetConfig(
        size=8, stem=4, channels=(4, 6), kernels=(4, 2), embedding=8, time_factor=3.0, norm="channel"
    ),
    "unet-resnet": ResNetUNetConfig(
        width=4, multipliers=(1, 2), heads=2, head_width=4, embedding=8, time_factor=3.0, attention_dropout=0.1
    ),
    "unet-resnet-boundary": ResNetUNetConfig(
        width=4, multipliers=(1, 2), heads=2, head_width=4, embedding=8, time_factor=3.0, padding="boundary"
    ),
    "transformer-local": LocalTransformerConfig(window=3, width=8, heads=2, blocks=2, expansion=2.0, embedding=8),
    "transformer-local-vectors": LocalTransformerConfig(
        window=3, width=8, heads=2, blocks=2, expansion=2.0, embedding=8, positions="vectors", gate=True
    ),
}
STEP = {
    "unet": 2,
    "transformer": 2,
    "transformer-axial": 2,
    "fno": 1,
    "unet-sda": 2,
    "unet-modern": 2,
    "transformer-latent": 2,
    "transformer-latent-values": 2,
    "mlp": 1,
    "cnn-dyffusion-boundary": 1,
    "unet-resnet-boundary": 2,
    "transformer-local": 1,
    "transformer-local-vectors": 1,
}
"""Points of a shift that commutes with the network of `CONFIGS`: the stride of the U-Nets, the patch. Positions that are learned along
all axes know no periods, nor do zeros beyond all ends: such networks are not asked."""

SHAPES = {1: [(16,), (13,), (1,)], 2: [(8, 12), (5, 7)], 3: [(4, 6, 5), (3, 1, 4)]}
CASES = [
    (space, periodic, frames)
    for axes, shapes in SHAPES.items()
    for space in shapes
    for periodic in itertools.product((True, False), repeat=axes)
    if axes < 3 or periodic in ((True,) * 3, (False,) * 3, (True, False, True))
    for frames in ((1, 1), (3, 2))
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: NetworkConfig, periodic: tuple[bool, ...], *, frames=(3, 2), shared: int = 0) -> nn.Module:
    """Weights of variance 1 / fan-in from fixed seeds; those that start at zero do so. As in use: batch norms know their statistics."""
    net = build_network(
        config,
        in_frames=frames[0],
        out_frames=frames[1],
        in_channels=2,
        out_channels=3,
        num_scalars=2,
        periodic=periodic,
        shared_channels=shared,
    ).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            if weight.abs().max() > 0:
                weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(max(weight[0].numel(), 1)))
    return net.eval()


def perturbed(net: nn.Module, size: float = 0.2) -> nn.Module:
    """With the weights that started at zero moved too."""
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.add_(size * normal(*weight.shape, seed=1000 + number).to(weight))
    return net


def inputs(space: tuple[int, ...], frames: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return normal(batch, frames, 2, *space), normal(batch, 2, seed=1)


def test_every_network_is_asked():
    assert {config.kind for config in CONFIGS.values()} == set(NETWORKS)
    assert all("checkpoint" in [field.name for field in fields(config)] for config in CONFIGS.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_any_grid_gives_frames_of_its_shape_and_gradients_to_every_weight(name):
    """Odd, prime, single points, non-square; periodic, bounded, mixed; one frame and several: all in one test, for their number."""
    for space, periodic, frames in CASES:
        net = build(CONFIGS[name], periodic, frames=frames)
        x, scalars = inputs(space, frames[0])
        with torch.no_grad():
            assert torch.equal(net(x, scalars), x.new_zeros(2, frames[1], 3, *space)), "an untrained network says zero"
        y = perturbed(net)(x.requires_grad_(), scalars.requires_grad_())
        assert y.shape == (2, frames[1], 3, *space) and y.dtype == torch.float64 and y.isfinite().all()
        y.square().sum().backward()
        # One token needs no queries: attention is then the identity. A norm of one point and two channels leaves signs.
        single = name in ("unet", "unet-sda") or math.prod(space) > 1
        for label, weight in [*net.named_parameters(), ("x", x), ("scalars", scalars)]:
            place = (label, space, periodic, frames)
            assert weight.grad is not None and weight.grad.isfinite().all(), place
            assert weight.grad.abs().max() > 0 or not single, place


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("space, periodic", [((8,), (True,)), ((5, 7), (True, False)), ((4, 3, 2), (False,) * 3)])
def test_entries_of_a_batch_do_not_meet(name, space, periodic):
    net = perturbed(build(CONFIGS[name], periodic))
    x, scalars = inputs(space, 3, batch=5)
    with torch.no_grad():
        y = net(x, scalars)
        parts = torch.cat([net(x[:1], scalars[:1]), net(x[1:], scalars[1:])])
        other = x.clone()
        other[3] += 1
        change = (net(other, scalars) - y).abs().flatten(1).amax(dim=1)
    assert torch.allclose(parts, y, rtol=1e-10, atol=1e-10 * y.abs().max())
    assert change[3] > 1e-3 and change[[0, 1, 2, 4]].max() == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_each_scalar_changes_its_own_entry(name):
    net = perturbed(build(CONFIGS[name], (True, False)))
    x, scalars = inputs((4, 6), 3)
    with torch.no_grad():
        y = net(x, scalars)
        for number in range(2):
            other = scalars.clone()
            other[0, number] += 0.4
            change = net(x, other) - y
            assert change[0].abs().max() > 1e-3 * y.abs().max()
            assert change[1].abs().max() == 0


@pytest.mark.parametrize("name", STEP)
@pytest.mark.parametrize("space", [(16,), (8, 12), (4, 8, 6)])
def test_shifts_along_periodic_axes_commute_with_the_network(name, space):
    net, step = perturbed(build(CONFIGS[name], (True,) * len(space))), STEP[name]
    x, scalars = inputs(space, 3)
    with torch.no_grad():
        y = net(x, scalars)
        for axis in range(len(space)):
            for points in (step, 3 * step):
                moved = net(x.roll(points, 3 + axis), scalars)
                assert torch.allclose(moved, y.roll(points, 3 + axis), rtol=1e-8, atol=1e-8 * y.abs().max())


@pytest.mark.parametrize("name", STEP)
def test_mixed_axes_have_the_symmetry_only_where_they_are_periodic(name):
    net, step = perturbed(build(CONFIGS[name], (True, False))), STEP[name]
    x, scalars = inputs((8, 8), 3)
    with torch.no_grad():
        y = net(x, scalars)
        along, across = net(x.roll(step, 3), scalars), net(x.roll(step, 4), scalars)
    assert torch.allclose(along, y.roll(step, 3), rtol=1e-8, atol=1e-8 * y.abs().max())
    if name == "mlp":  # it knows of no walls: points do not meet
        assert torch.allclose(across, y.roll(step, 4), rtol=1e-8, atol=1e-8 * y.abs().max())
    else:
        assert (across - y.roll(step, 4)).abs().max() > 1e-2 * y.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("periodic", [(True,), (True, False)])
def test_recomputing_blocks_gives_the_same_gradients(name, periodic):
    """And really computes them twice: the forward passes of the blocks are counted."""
    x, scalars = inputs((6, 5)[: len(periodic)], 3)
    found, calls = [], []
    for again in (False, True):
        net = perturbed(build(replace(CONFIGS[name], checkpoint=again), periodic))
        blocks = [part for part in net.modules() if type(part).__name__.endswith("Block")]
        assert blocks
        counter = [0]
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, counter=counter: counter.__setitem__(0, counter[0] + 1))
        y = net(x, scalars)
        y.sin().sum().backward()
        found.append([y.detach()] + [weight.grad for weight in net.parameters()])
        calls.append(counter[0] / len(blocks))
        with torch.no_grad():
            assert torch.allclose(net(x, scalars), y, rtol=1e-12, atol=1e-12)
    assert calls == [1, 2]
    for plain, again in zip(*found, strict=True):
        assert torch.allclose(plain, again, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_survive_safetensors(name):
    net, other = perturbed(build(CONFIGS[name], (True, False))), build(CONFIGS[name], (True, False))
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    assert all(not value.is_complex() for value in state.values()), "real tensors: any optimiser and dtype takes them"
    other.load_state_dict(load(save(state)))
    x, scalars = inputs((4, 6), 3)
    with torch.no_grad():
        assert torch.equal(net(x, scalars), other(x, scalars))


@pytest.mark.parametrize("name", CONFIGS)
def test_single_precision_agrees_with_double(name):
    net = perturbed(build(CONFIGS[name], (True, False)))
    x, scalars = inputs((6, 5), 3)
    with torch.no_grad():
        y = net(x, scalars)
        single = net.float()(x.float(), scalars.float())
    assert single.dtype == torch.float32
    assert (single - y).abs().max() < 1e-4 * y.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_under_autocast_is_near(name):
    net = perturbed(build(CONFIGS[name], (True, False))).float()
    x, scalars = (part.float() for part in inputs((6, 5), 3))
    y = net(x, scalars)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = net(x, scalars)
    rough.float().sum().backward()
    assert (rough - y).abs().max() < 0.1 * y.abs().max()


@pytest.mark.parametrize("name", CONFIGS)
def test_channels_shared_by_all_frames_matter(name):
    net = perturbed(build(CONFIGS[name], (True,), shared=1))
    x, scalars = inputs((8,), 3)
    x[:, :, 1] = x[:, :1, 1]
    other = x.clone()
    other[:, :, 1] += 0.5
    with torch.no_grad():
        assert (net(other, scalars) - net(x, scalars)).abs().max() > 1e-3


def test_frames_are_stacked_channel_by_channel():
    """Fields (frame, channel) 10 f + c, the last channel shared; one field keeps the order frames, then the planes of the mask."""
    x = (10 * torch.arange(3)[:, None] + torch.arange(3)).expand(2, 3, 3).clone()[..., None]
    x[:, :, 2] = 99
    assert stack_frames(x, 1)[0, :, 0].tolist() == [0, 10, 20, 1, 11, 21, 99]
    assert torch.equal(unstack_frames(stack_frames(x), 3), x)


@pytest.mark.parametrize(
    "sizes, words",
    [
        ({"out_frames": 3}, r"1 \.\.\. in_frames = 2, got 3"),
        ({"out_frames": 0}, r"1 \.\.\. in_frames = 2, got 0"),
        ({"periodic": ()}, "1 to 3 space axes, got 0"),
        ({"periodic": (True,) * 4}, "1 to 3 space axes, got 4"),
        ({"shared_channels": 2}, r"0 \.\.\. in_channels = 1, got 2"),
    ],
)
@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_that_make_no_network_are_refused(name, sizes, words):
    good = {"in_frames": 2, "out_frames": 1, "in_channels": 1, "out_channels": 1, "num_scalars": 1, "periodic": (True,)}
    with pytest.raises(ValueError, match=words):
        build_network(CONFIGS[name], **{**good, **sizes})
