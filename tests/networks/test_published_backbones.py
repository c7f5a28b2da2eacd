"""The two published backbones: as many weights as arithmetic gives, the published map on even periodic grids, the seam."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from eddycast.networks import ModernUNetConfig, NetworkConfig, SDAUNetConfig, build_network
from eddycast.networks.modern_unet import Doubling

KS = SDAUNetConfig()
KOLMOGOROV = SDAUNetConfig(channels=(96, 192, 384), embedding=64, spare_outputs=1)
MODERN_2D = ModernUNetConfig(hidden=128, multipliers=(1, 1, 2, 4), first_factor=2, spare_outputs=1)
# name: config, axes, frames, channels of the state, conditional (mask, masked state and noisy state come in), weights, published
PUBLISHED: dict[str, tuple[NetworkConfig, int, int, int, bool, int, str]] = {
    "burgers-joint-sda": (SDAUNetConfig(channels=(64, 128, 256)), 1, 9, 1, False, 3_481_769, "3.5"),
    "ks-joint-sda": (KS, 1, 9, 1, False, 43_019_689, "43.0"),
    "ks-conditional-sda": (KS, 1, 9, 1, True, 43_023_145, "43.0"),
    "kolmogorov-joint-sda-large": (
        SDAUNetConfig(channels=(128, 128, 256, 1024), spare_outputs=1), 2, 5, 2, False, 129_857_579, "129.9"
    ),
    "kolmogorov-joint-sda": (KOLMOGOROV, 2, 5, 2, False, 22_900_363, "22.9"),
    "kolmogorov-conditional-sda": (KOLMOGOROV, 2, 5, 2, True, 22_917_643, "22.9"),
    "ks-joint-modern": (ModernUNetConfig(), 1, 9, 1, False, 55_933_385, "55.9"),
    "ks-conditional-modern": (ModernUNetConfig(), 1, 9, 1, True, 55_936_841, "55.9"),
    "kolmogorov-joint-modern": (MODERN_2D, 2, 5, 2, False, 156_727_563, "156.7"),
    "kolmogorov-conditional-modern": (MODERN_2D, 2, 5, 2, True, 156_750_603, "156.8"),
}  # fmt: skip
"""The last one is our own: 156.7 is published for Kolmogorov flow, which the joint net has; 20 more inputs are 23 040 more weights."""


def build(
    config: NetworkConfig, axes: int, frames: int, channels: int, conditional: bool, scalars: int = 1
) -> nn.Module:
    """With the field of the forcing, the same in all frames, in two dimensions."""
    shared = int(axes == 2)
    return build_network(
        config,
        in_frames=frames,
        out_frames=frames,
        in_channels=channels * (3 if conditional else 1) + shared,
        out_channels=channels,
        num_scalars=scalars,
        periodic=(True,) * axes,
        shared_channels=shared,
    )


def linear(a: int, b: int) -> int:
    return a * b + b


def sda_weights(axes: int, seen: int, said: int, widths: tuple[int, ...], blocks: int, embedding: int) -> int:
    """Kernel 3. Two ways of residual blocks, a convolution in, one out, one down and one up between levels."""

    def conv(a: int, b: int) -> int:
        return a * b * 3**axes + b

    time = linear(128, 256) + linear(256, embedding)
    residual = sum(2 * blocks * (linear(embedding, c) + 2 * conv(c, c)) for c in widths)
    between = sum(conv(a, b) + conv(b, a) for a, b in pairwise(widths))
    return time + residual + between + conv(seen, widths[0]) + conv(widths[0], said)


def modern_weights(axes: int, seen: int, said: int, hidden: int, widths: tuple[int, ...], first: int) -> int:
    """Two blocks a level on the way down (2 `first` at the first), two in the middle, three a level on the way up. The last of
    the three narrows to the width of the level above (`hidden` at the top), from which its skip connection comes: the stem's output,
    or with `first` = 2, where widths agree, that of a block."""

    def conv(a: int, b: int) -> int:
        return a * b * 3**axes + b

    def block(a: int, b: int) -> int:
        norms = 2 * a + 2 * b
        return norms + conv(a, b) + conv(b, b) + linear(4 * hidden, 2 * b) + (linear(a, b) if a != b else 0)

    above = (hidden, *widths[:-1])
    total = linear(hidden, 4 * hidden) + linear(4 * hidden, 4 * hidden) + conv(seen, hidden)
    total += block(hidden, widths[0]) + (2 * first - 1) * block(widths[0], widths[0])
    total += sum(block(a, b) + block(b, b) for a, b in pairwise(widths))
    total += sum(conv(a, a) for a in widths[:-1])
    total += 2 * block(widths[-1], widths[-1])
    total += sum(2 * block(2 * b, b) + block(b + a, a) for a, b in zip(above, widths, strict=True))
    total += sum(a * a * 4**axes + a for a in widths[:-1])
    return total + 2 * hidden + conv(hidden, said)


@pytest.mark.parametrize("name", PUBLISHED)
def test_number_of_weights_is_the_published_one(name):
    """Three ways to the same number: the module on the meta device, the sum over layers by hand, the figure of the sheet in millions."""
    config, axes, frames, channels, conditional, exact, millions = PUBLISHED[name]
    with torch.device("meta"):
        net = build(config, axes, frames, channels, conditional)
    found = sum(weight.numel() for weight in net.parameters())
    forcing = int(axes == 2)
    seen, said = frames * channels * (3 if conditional else 1) + forcing, frames * channels + forcing
    if isinstance(config, SDAUNetConfig):
        by_hand = sda_weights(axes, seen, said, config.channels, 3, config.embedding)
    else:
        assert isinstance(config, ModernUNetConfig)
        by_hand = modern_weights(axes, seen, said, config.hidden, config.widths, config.first_factor)
    assert found == by_hand == exact
    assert f"{exact / 1e6:.1f}" == millions


@pytest.mark.parametrize("config", [KS, ModernUNetConfig()])
def test_further_scalars_cost_their_embedding_alone(config):
    with torch.device("meta"):
        sizes = [sum(w.numel() for w in build(config, 1, 9, 1, False, scalars).parameters()) for scalars in (1, 2, 3)]
    if isinstance(config, SDAUNetConfig):
        width = config.embedding
        assert sizes[1] - sizes[0] == linear(33, width) + linear(width, width)
        assert sizes[2] - sizes[1] == 33 * width
    else:
        assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == linear(64, 256) + linear(256, 256)


def with_weights(net: nn.Module) -> nn.Module:
    """Every weight from a fixed seed, those that start at zero too."""
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            weight.copy_(random / math.sqrt(max(weight[0].numel(), 1)))
    return net


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wrapped(x: torch.Tensor, layer: nn.Module, stride: int = 1) -> torch.Tensor:
    """A circular convolution in one dimension, written with torch alone."""
    conv = layer.get_submodule("conv")
    weight, bias = conv.get_parameter("weight"), conv.get_parameter("bias")
    width = weight.shape[-1] // 2
    return F.conv1d(F.pad(x, (width, width), mode="circular"), weight, bias, stride=stride)


def test_sda_unet_is_the_published_map():
    """Written out for two levels in one dimension; two frames and the forcing come in, the spare output is dropped."""
    config = SDAUNetConfig(channels=(4, 6), blocks=1, embedding=5, spare_outputs=1)
    net = with_weights(build_network(config, in_frames=2, out_frames=2, in_channels=2, out_channels=1, num_scalars=1,
                                     periodic=(True,), shared_channels=1).double())  # fmt: skip
    field, forcing, time = normal(3, 2, 1, 8), normal(8, seed=1).expand(3, 2, 1, 8), torch.rand(3, 1).double()

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x.mT, x.shape[1:2]).mT

    def block(x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        y = norm(x + layer.get_submodule("shift")(told)[..., None])
        return x + wrapped(F.silu(wrapped(y, layer.get_submodule("residue.1"))), layer.get_submodule("residue.3"))

    frequencies = math.pi / 2 * 1000 ** (torch.arange(64).double() / 63)
    phase = time * frequencies
    told = net.get_submodule("time.layers")(torch.cat([phase.cos(), phase.sin()], dim=1))
    x = wrapped(torch.cat([field[:, :, 0], forcing[:, 0]], dim=1), net.get_submodule("stem"))
    fine = block(x, net.get_submodule("descent.0.0"))
    coarse = block(wrapped(fine, net.get_submodule("downs.0"), stride=2), net.get_submodule("descent.1.0"))
    coarse = norm(block(coarse, net.get_submodule("ascent.1.0")))
    x = fine + wrapped(coarse.repeat_interleave(2, dim=-1), net.get_submodule("ups.0"))
    exact = wrapped(block(x, net.get_submodule("ascent.0.0")), net.get_submodule("head"))[:, :2, None]
    with torch.no_grad():
        found = net(torch.cat([field, forcing], dim=2), time)
    # Frequencies are kept in single precision: phases up to 1571 are good to 1e-4.
    assert torch.allclose(found, exact, rtol=0, atol=1e-4 * exact.abs().max().item())


@pytest.mark.parametrize("factor", [1, 2])
def test_modern_unet_is_the_published_map(factor):
    """Written out for two levels in one dimension, skip connections taken last in, first out; transposed convolutions see zeros."""
    config = ModernUNetConfig(hidden=8, multipliers=(1, 2), blocks=1, first_factor=factor, wrap_transposed=False)
    net = with_weights(build_network(config, in_frames=1, out_frames=1, in_channels=2, out_channels=2, num_scalars=2,
                                     periodic=(True,)).double())  # fmt: skip
    field, scalars = normal(3, 1, 2, 8), torch.rand(3, 2).double()

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        layer = net.get_submodule(name)
        parts = dict(layer.named_children())

        def norm(x: torch.Tensor, which: str) -> torch.Tensor:
            part = layer.get_submodule(which)
            return F.group_norm(x, 1, part.get_parameter("weight"), part.get_parameter("bias"))

        y = norm(wrapped(F.gelu(norm(x, "first_norm")), parts["first"]), "second_norm")
        scale, shift = parts["modulation"](told)[..., None].chunk(2, dim=1)
        y = wrapped(F.gelu(y * (1 + scale) + shift), parts["second"])
        return y + (x if x.shape == y.shape else wrapped(x, parts["skip"]))

    def told_by(number: int, value: torch.Tensor) -> torch.Tensor:
        phase = value[:, None] * torch.exp(-math.log(10000) * torch.arange(4) / 4)
        return net.get_submodule(f"embeddings.{number}.layers")(torch.cat([phase.cos(), phase.sin()], dim=1))

    told = told_by(0, 1000 * scalars[:, 0]) + told_by(1, scalars[:, 1])
    x = wrapped(field[:, 0], net.get_submodule("stem"))
    skips = [x]
    for number in range(factor):
        x = block(x, f"descent.0.{number}")
        skips.append(x)
    x = wrapped(x, net.get_submodule("downs.0"), stride=2)
    skips.append(x)
    x = block(x, "descent.1.0")
    skips.append(x)
    x = block(block(x, "middle.0"), "middle.1")
    for number in range(2):
        x = block(torch.cat([x, skips.pop()], dim=1), f"ascent.0.{number}")
    transposed = net.get_submodule("ups.0.conv")
    x = F.conv_transpose1d(x, transposed.get_parameter("weight"), transposed.get_parameter("bias"), stride=2, padding=1)
    for number in range(2):
        x = block(torch.cat([x, skips.pop()], dim=1), f"ascent.1.{number}")
    final = net.get_submodule("norm")
    x = F.gelu(F.group_norm(x, 4, final.get_parameter("weight"), final.get_parameter("bias")))
    exact = wrapped(x, net.get_submodule("head"))[:, None]
    with torch.no_grad():
        found = net(field, scalars)
    assert torch.allclose(found, exact, rtol=0, atol=1e-4 * exact.abs().max().item())


def test_doubling_wraps_repeats_or_ends_in_zeros():
    """On a ring: the middle of three turns. At a wall: a field that goes on with its edge value. Without wrapping: torch's own."""
    ring, wall = Doubling(2, (True,), wrap=True).double(), Doubling(2, (False,), wrap=True).double()
    seam = Doubling(2, (True,), wrap=False).double()
    for layer in (wall, seam):
        layer.load_state_dict(ring.state_dict())
    weight, bias = ring.conv.weight, ring.conv.bias

    def plain(x: torch.Tensor) -> torch.Tensor:
        return F.conv_transpose1d(x, weight, bias, stride=2, padding=1)

    x = normal(3, 2, 5)
    size = torch.Size((10,))
    assert torch.allclose(ring(x, size), plain(x.repeat(1, 1, 3))[..., 10:20], atol=1e-12)
    longer = torch.cat([x[..., :1]] * 3 + [x] + [x[..., -1:]] * 3, dim=-1)
    assert torch.allclose(wall(x, size), plain(longer)[..., 6:16], atol=1e-12)
    assert torch.allclose(seam(x, size), plain(x), atol=1e-12)
    assert torch.equal(ring(x, torch.Size((9,))), ring(x, size)[..., :9])
    difference = (ring(x, size) - seam(x, size)).abs().amax(dim=(0, 1))
    assert difference[[0, 9]].min() > 1e-2 and difference[1:9].max() < 1e-12, "the seam is one point wide on each side"


def test_seam_breaks_the_symmetry_that_wrapping_keeps():
    config = ModernUNetConfig(hidden=4, multipliers=(1, 2), blocks=1)
    x, scalars = normal(2, 1, 1, 16), torch.full((2, 1), 0.3).double()
    errors = []
    for wrap in (True, False):
        net = with_weights(
            build(replace(config, wrap_transposed=wrap), axes=1, frames=1, channels=1, conditional=False).double()
        )
        with torch.no_grad():
            y = net(x, scalars)
            errors.append((net(x.roll(2, -1), scalars) - y.roll(2, -1)).abs().max() / y.abs().max())
    assert errors[0] < 1e-10 and errors[1] > 1e-3


def test_one_point_and_one_entry_are_a_grid():
    """The smallest case that a group norm meets: each group still holds two channels."""
    net = with_weights(build(ModernUNetConfig(hidden=2, multipliers=(1, 1), blocks=1), 1, 1, 1, False).double())
    with torch.no_grad():
        assert net(normal(1, 1, 1, 1), torch.ones(1, 1).double()).isfinite().all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: SDAUNetConfig(channels=()), "at least one level"),
        (lambda: SDAUNetConfig(channels=(4, 0)), "must be positive"),
        (lambda: SDAUNetConfig(channels=(4, 8), blocks=(1, 2, 3)), "each of its 2 levels, got 3"),
        (lambda: SDAUNetConfig(blocks=0), "must be positive"),
        (lambda: SDAUNetConfig(kernel=4), "odd and positive, got 4"),
        (lambda: SDAUNetConfig(spare_outputs=-1), "not be negative, got -1"),
        (lambda: ModernUNetConfig(multipliers=()), "at least one level"),
        (lambda: ModernUNetConfig(hidden=7), "even and positive, got 7"),
        (lambda: ModernUNetConfig(first_factor=0), "must be positive"),
        (lambda: ModernUNetConfig(spare_outputs=-1), "not be negative, got -1"),
        (lambda: build(KS, 1, 1, 1, False, scalars=0), "at least one scalar"),
        (lambda: build(ModernUNetConfig(), 1, 1, 1, False, scalars=0), "at least one scalar"),
    ],
)
def test_sizes_that_make_no_network_are_refused(make, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        make()
