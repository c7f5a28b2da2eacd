"""The published backbones of DYffusion: as many weights as arithmetic gives, and their maps written out with torch alone."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eddycast.errors import InputError
from eddycast.networks import (
    DyffusionCNNConfig,
    MLPConfig,
    NetworkConfig,
    OtnessUNetConfig,
    ResNetUNetConfig,
    build_network,
)
from eddycast.networks.resnet_unet import AttentionBlock, Halving

# name: config, frames in, channels of a frame (static ones included), static channels, channels out, weights, published in millions
PUBLISHED: dict[str, tuple[NetworkConfig, int, int, int, int, int, str]] = {
    "spring mesh": (DyffusionCNNConfig(), 2, 5, 1, 4, 478_532, "0.479"),
    "spring mesh, Dropout baseline": (DyffusionCNNConfig(), 1, 5, 1, 4, 457_796, "0.458"),
    "Navier-Stokes interpolator": (OtnessUNetConfig(), 2, 5, 2, 3, 10_273_411, "10.27"),
    "Navier-Stokes forecaster": (OtnessUNetConfig(), 1, 5, 2, 3, 10_273_219, "10.27"),
    "sea surface temperature": (ResNetUNetConfig(), 2, 1, 0, 1, 9_480_385, "9.48"),
    "sea surface temperature, Dropout baseline": (ResNetUNetConfig(), 1, 1, 0, 1, 9_477_249, "9.48"),
}
TIME, FILM_OF = 64 * 128 + 128 + 128 * 128 + 128, 128 + 1
"""Weights of the embedding of the time, and of a modulation for each of its outputs."""


def build(
    config: NetworkConfig, frames=2, channels=1, shared=0, out=1, scalars=1, periodic=(False, False)
) -> nn.Module:
    return build_network(
        config,
        in_frames=frames,
        out_frames=1,
        in_channels=channels,
        out_channels=out,
        num_scalars=scalars,
        periodic=periodic,
        shared_channels=shared,
    )


def conv(a: int, b: int, kernel: int) -> int:
    return a * b * kernel**2 + b


def cnn_weights(seen: int, said: int) -> int:
    """Four convolutions; each with scale and shift of its norm and of the time, 64 channels."""
    widths = [seen, 64, 64, 64, 64]
    blocks = sum(conv(a, b, kernel) for (a, b), kernel in zip(pairwise(widths), (9, 7, 5, 3), strict=True))
    return TIME + blocks + 4 * (2 * 64 + 2 * 64 * FILM_OF) + conv(64, said, 1)


def otness_weights(seen: int, said: int) -> int:
    """Each level down and up; on the way up twice as many channels come in, but at the bottom."""
    widths, kernels = [64, 128, 128, 256, 512, 512, 512], [4, 4, 4, 4, 2, 2]
    down = sum(conv(a, b, kernel) for (a, b), kernel in zip(pairwise(widths), kernels, strict=True))
    up = conv(512, 512, 1) + conv(1024, 512, 1) + conv(1024, 256, 3) + conv(512, 128, 3) + conv(256, 128, 3)
    up += conv(256, 64, 3)
    told = sum(widths[1:]) + sum(widths[:-1])
    return TIME + conv(seen, 64, 1) + down + up + told * (2 + 2 * FILM_OF) + conv(2 * 64, said, 4)


def resnet_weights(seen: int, said: int) -> int:
    def block(a: int, b: int) -> int:
        skip = conv(a, b, 1) if a != b else 0
        return conv(a, b, 3) + conv(b, b, 3) + 2 * (2 * b) + 2 * b * FILM_OF + skip

    def attention(c: int, norms: int) -> int:
        return 3 * 128 * c + conv(128, c, 1) + norms * c

    steps = [(64, 64), (64, 128), (128, 256)]
    total = TIME + conv(seen, 64, 7)
    total += sum(2 * block(a, a) + attention(a, 2) for a, _ in steps) + conv(64, 64, 4) + conv(64, 128, 4)
    total += conv(128, 256, 3) + 2 * block(256, 256) + attention(256, 1)
    total += sum(2 * block(a + b, b) + attention(b, 2) + conv(b, a, 3) for a, b in steps)
    return total + block(128, 64) + conv(64, said, 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_weights_is_the_published_one(name):
    """Three ways to the same number: the module on the meta device, the sum over layers by hand, the figure of the sheet in millions."""
    config, frames, channels, shared, out, exact, millions = PUBLISHED[name]
    with torch.device("meta"):
        net = build(config, frames, channels, shared, out)
    seen = frames * (channels - shared) + shared
    by_hand = {"cnn-dyffusion": cnn_weights, "unet-otness": otness_weights, "unet-resnet": resnet_weights}
    assert sum(weight.numel() for weight in net.parameters()) == by_hand[config.kind](seen, out) == exact
    assert f"{exact / 1e6:.{len(millions.partition('.')[2])}f}" == millions


@pytest.mark.parametrize("config, space", [(DyffusionCNNConfig(), (10, 10)), (ResNetUNetConfig(), (60, 60))])
def test_published_shapes_pass_on_the_meta_device(config, space):
    with torch.device("meta"):
        y = build(config, 2, 4, 1, 3)(torch.empty(5, 2, 4, *space), torch.empty(5, 1))
    assert y.shape == (5, 1, 3, *space)


def test_obstacle_flow_is_formed_at_twice_the_inner_lattice():
    sizes = []
    with torch.device("meta"):
        net = build(OtnessUNetConfig(), 2, 5, 2, 3)
        net.get_submodule("stem").register_forward_hook(lambda *told: sizes.append(told[2].shape[1:]))
        net.get_submodule("descent.5").register_forward_hook(lambda *told: sizes.append(told[2].shape[1:]))
        net.get_submodule("head").register_forward_hook(lambda *told: sizes.append(told[2].shape[1:]))
        assert net(torch.empty(2, 2, 5, 221, 42), torch.empty(2, 1)).shape == (2, 1, 3, 221, 42)
    assert sizes == [(64, 256, 256), (512, 4, 4), (3, 512, 512)]


@pytest.mark.parametrize("config", [DyffusionCNNConfig(), OtnessUNetConfig(), ResNetUNetConfig()])
def test_scalars_beyond_the_time_cost_one_linear_map_and_none_at_all_no_embedding(config):
    with torch.device("meta"):
        nets = [build(config, scalars=count) for count in range(4)]
    sizes = [sum(weight.numel() for weight in net.parameters()) for net in nets]
    films = sum(w.numel() for name, w in nets[1].named_parameters() if ".film." in name or name.startswith("last.film"))
    assert sizes[1] - sizes[0] == TIME + films
    assert [sizes[2] - sizes[1], sizes[3] - sizes[2]] == [128, 128]


@pytest.mark.parametrize(
    "config",
    [
        DyffusionCNNConfig(width=8, kernels=(3, 3), zero_start=False),
        OtnessUNetConfig(size=8, stem=4, channels=(4, 8), kernels=(4, 2), zero_start=False),
        ResNetUNetConfig(width=8, multipliers=(1, 2), zero_start=False),
    ],
)
def test_further_scalars_say_nothing_at_the_start_and_the_first_does(config):
    net = build(config, scalars=2).double().eval()
    x, scalars = normal(2, 2, 1, 6, 5), torch.rand(2, 2).double()
    with torch.no_grad():
        y = net(x, scalars)
        assert torch.equal(net(x, scalars + torch.tensor([0.0, 5.0])), y)
        assert (net(x, scalars + torch.tensor([0.3, 0.0])) - y).abs().max() > 1e-6 * y.abs().max()
    single = build(config, scalars=0).double().eval()
    assert single(x, scalars[:, :0]).shape == y.shape


# The maps, written out


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_weights(net: nn.Module) -> nn.Module:
    """Every weight and every running statistic from a fixed seed, none of them zero; in use."""
    net = net.double().eval()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(max(weight[0].numel(), 1)))
        for number, (name, buffer) in enumerate(net.named_buffers()):
            if "running" in name:
                buffer.copy_(normal(*buffer.shape, seed=900 + number).square() + 0.5)
    return net


class Written:
    """Layers of a network by their weights' names."""

    def __init__(self, net: nn.Module) -> None:
        self.state = dict(net.named_parameters()) | dict(net.named_buffers())

    def two(self, name: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self.state[f"{name}.weight"], self.state.get(f"{name}.bias")

    def conv(self, x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return F.conv2d(x, *self.two(name), **how)

    def told(self, scalar: torch.Tensor, factor: float) -> torch.Tensor:
        phase = factor * scalar * torch.exp(-math.log(1e4) * torch.arange(32) / 31)
        first, second = (self.two(f"embedding.layers.{number}") for number in (0, 2))
        return F.linear(F.gelu(F.linear(torch.cat([phase.sin(), phase.cos()], 1), *first)), *second)

    def film(self, x: torch.Tensor, told: torch.Tensor, name: str) -> torch.Tensor:
        scale, shift = F.linear(F.silu(told), *self.two(f"{name}.film.modulation"))[..., None, None].chunk(2, 1)
        return x * (1 + scale) + shift

    def batch_norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = (self.state[f"{name}.{kind}"][:, None, None] for kind in ("running_mean", "running_var"))
        weight, bias = (part[:, None, None] for part in self.two(name))  # type: ignore[index]
        return weight * (x - mean) / (variance + 1e-5).sqrt() + bias


def test_cnn_is_the_published_map():
    net = with_weights(build(DyffusionCNNConfig(width=8, kernels=(5, 3), time_factor=7.0)))
    written, x, scalar = Written(net), normal(3, 2, 1, 6, 5), torch.rand(3, 1).double()
    told, y = written.told(scalar, 7.0), x.flatten(1, 2)
    for number, kernel in enumerate((5, 3)):
        name = f"blocks.{number}"
        z = written.batch_norm(written.conv(y, f"{name}.conv.conv", padding=kernel // 2), f"{name}.norm")
        z = F.gelu(written.film(z, told, name))
        y = z if number == 0 else y + z
    exact = written.conv(y, "head.conv")[:, None]
    assert torch.allclose(net(x, scalar), exact, atol=1e-5 * exact.abs().max().item())


def test_otness_is_the_published_map():
    config = OtnessUNetConfig(size=8, stem=4, channels=(6, 16), kernels=(4, 2), time_factor=7.0)
    net = with_weights(build(config))
    written, x, scalar = Written(net), normal(3, 2, 1, 9, 5), torch.rand(3, 1).double()
    told = written.told(scalar, 7.0)

    def resampled(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=False)

    start = written.conv(resampled(x.flatten(1, 2), (8, 8)), "stem")
    y = written.batch_norm(written.conv(start, "descent.0.conv", stride=2, padding=1), "descent.0.norm")
    first = F.leaky_relu(written.film(y, told, "descent.0"), 0.2)
    y = F.group_norm(written.conv(first, "descent.1.conv", stride=2), 8, *written.two("descent.1.norm"))
    y = F.leaky_relu(written.film(y, told, "descent.1"), 0.2)
    y = written.batch_norm(written.conv(resampled(y, (4, 4)), "ascent.0.conv"), "ascent.0.norm")
    y = torch.cat([F.relu(written.film(y, told, "ascent.0")), first], 1)
    y = written.batch_norm(written.conv(resampled(y, (8, 8)), "ascent.1.conv", padding=1), "ascent.1.norm")
    y = torch.cat([F.relu(written.film(y, told, "ascent.1")), start], 1)
    y = F.conv_transpose2d(y, *written.two("head"), stride=2, padding=1)
    assert y.shape[2:] == (16, 16)
    exact = resampled(y, (9, 5))[:, None]
    assert torch.allclose(net(x, scalar), exact, atol=1e-5 * exact.abs().max().item())


@pytest.mark.parametrize("space", [(8, 4), (7, 5)])
def test_resnet_is_the_published_map(space):
    """Two levels; an odd axis gets a line of zeros at its end where it is halved, and the last points of the way up are cut."""
    net = with_weights(build(ResNetUNetConfig(width=16, multipliers=(1, 2), heads=2, head_width=4, time_factor=7.0)))
    written, x, scalar = Written(net), normal(3, 2, 1, *space), torch.rand(3, 1).double()
    told = written.told(scalar, 7.0)

    def standardised(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = written.two(f"{name}.conv")
        flat = weight.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return F.conv2d(x, flat.reshape(weight.shape), bias, padding=1)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        y = F.group_norm(standardised(x, f"{name}.first"), 8, *written.two(f"{name}.first_norm"))
        y = standardised(F.silu(written.film(y, told, name)), f"{name}.second")
        y = F.silu(F.group_norm(y, 8, *written.two(f"{name}.second_norm")))
        skip = f"{name}.skip.conv"
        return y + (written.conv(x, skip) if f"{skip}.weight" in written.state else x)

    def gained(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x.movedim(1, -1), x.shape[1:2], written.state[f"{name}.gain"]).movedim(-1, 1)

    def attention(x: torch.Tensor, name: str, *, linear: bool) -> torch.Tensor:
        heads = written.conv(gained(x, f"{name}.norm"), f"{name}.qkv").flatten(2).unflatten(1, (3, 2, 4))
        q, k, v = heads.unbind(1)  # each (batch, head, feature, point)
        if linear:
            context = torch.einsum("bhdn,bhen->bhde", k.softmax(-1), v)
            out = torch.einsum("bhde,bhdn->bhen", context, q.softmax(-2) / 2)
        else:
            out = torch.einsum("bhij,bhej->bhei", torch.einsum("bhdi,bhdj->bhij", q / 2, k).softmax(-1), v)
        out = written.conv(out.reshape(len(x), 8, *x.shape[2:]), f"{name}.out")
        return x + (gained(out, f"{name}.out_norm") if linear else out)

    def level(y: torch.Tensor, name: str, found: list[torch.Tensor]) -> torch.Tensor:
        for number in range(2):
            y = block(torch.cat([y, found.pop()], 1), f"{name}.{number}")
        return attention(y, f"{name}.2", linear=True)

    start = y = written.conv(x.flatten(1, 2), "stem.conv", padding=3)
    skips = []
    for number in range(2):
        skips.append(block(y, f"descent.{number}.0"))
        y = attention(block(skips[-1], f"descent.{number}.1"), f"descent.{number}.2", linear=True)
        skips.append(y)
        if number == 0:
            filled = F.pad(y, (0, space[1] % 2, 0, space[0] % 2))
            y = written.conv(filled, "downs.0.conv", stride=2, padding=1)
        else:
            y = written.conv(y, "downs.1.conv", padding=1)
    y = block(attention(block(y, "middle.0"), "middle.1", linear=False), "middle.2")
    y = level(y, "ascent.0", skips)
    doubled = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
    if space == (7, 5):
        doubled = F.interpolate(y, size=space, mode="nearest")
    y = level(written.conv(doubled, "ups.0.conv", padding=1), "ascent.1", skips)
    y = block(torch.cat([written.conv(y, "ups.1.conv", padding=1), start], 1), "last")
    exact = written.conv(y, "head.conv")[:, None]
    assert torch.allclose(net(x, scalar), exact, atol=1e-5 * exact.abs().max().item())


def test_full_attention_with_and_without_a_rate_is_one_map():
    """The weights that dropout needs are written out, those without it are left to a fused kernel."""
    rates = (0.0, 0.5)
    layers = [
        AttentionBlock(8, ResNetUNetConfig(heads=2, head_width=4, attention_dropout=rate), 2, linear=False).double()
        for rate in rates
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = normal(2, 8, 5, 3)
    assert torch.allclose(layers[0](x), layers[1](x), atol=1e-12)


def test_halving_of_any_grid_has_the_rounded_up_size():
    for periodic, zeros in (((True, False), False), ((False, False), True)):
        layer = Halving(3, 4, periodic, zeros=zeros).double()
        for space in [(8, 6), (7, 5), (1, 2), (1, 1)]:
            assert layer(normal(2, 3, *space)).shape == (2, 4, *(-(-size // 2) for size in space))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DyffusionCNNConfig(kernels=()), "at least one block"),
        (lambda: DyffusionCNNConfig(kernels=(4,)), "must be odd"),
        (lambda: DyffusionCNNConfig(dropout=1.0), r"\[0, 1\), got 1.0"),
        (lambda: DyffusionCNNConfig(embedding=6), "multiple of 4, got 6"),
        (lambda: OtnessUNetConfig(channels=()), "at least one level"),
        (lambda: OtnessUNetConfig(channels=(4, 4)), "each of its 2 levels"),
        (lambda: OtnessUNetConfig(size=100), "multiple of 64 for its 6 levels, got 100"),
        (lambda: OtnessUNetConfig(dropout=-0.1), r"\[0, 1\), got -0.1"),
        (lambda: ResNetUNetConfig(multipliers=()), "at least one level"),
        (lambda: ResNetUNetConfig(width=7), "even and positive, got 7"),
        (lambda: ResNetUNetConfig(attention_dropout=1.5), r"attention_dropout .* got 1.5"),
        (lambda: MLPConfig(blocks=0), "must be positive"),
        (lambda: MLPConfig(dropout=1.0), r"\[0, 1\), got 1.0"),
    ],
)
def test_sizes_that_make_no_network_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_lattice_of_other_axes_is_refused_in_one_line():
    with pytest.raises(InputError, match="has 2 entries, but the data have 1 space axes"):
        build(OtnessUNetConfig(size=(64, 128)), periodic=(False,))
