"""Resampling, saturation, padding and normalisation: inverses, orders of channels, symmetries, published counts of parameters."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from eddycast.autoencoders import (
    SATURATIONS,
    Autoencoder,
    AutoencoderConfig,
    compression,
    depth_to_space,
    latent_points,
    layers,
    space_to_depth,
)
from eddycast.autoencoders.layers import PlacedConv, ResidualBlock, ResidualScale, SiteNorm
from eddycast.errors import InputError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(config: AutoencoderConfig, channels: int, periodic: tuple[bool, ...], seed: int = 0) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Autoencoder(config, channels, periodic).double()


def without_bias(module: nn.Module) -> nn.Module:
    for name, value in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(value)
    return module


# Resampling.


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 4, 6)], ids=str)
def test_space_to_depth_and_back(shape):
    axes = len(shape)
    x = normal(2, 3, *shape)
    deep = space_to_depth(x, axes)
    assert deep.shape == (2, 3 * 2**axes, *(size // 2 for size in shape))
    assert torch.equal(depth_to_space(deep, axes), x)
    y = normal(2, 5 * 2**axes, *shape)
    assert torch.equal(space_to_depth(depth_to_space(y, axes), axes), y)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_channels_vary_slowest_then_places_with_the_last_axis_fastest(axes):
    """Channel C 2^axes + place is the field C at the points 2 i + offset, offsets counted in binary."""
    x = normal(1, 3, *(4,) * axes)
    deep = space_to_depth(x, axes)
    for channel in range(3):
        for place in range(2**axes):
            offsets = [place >> (axes - 1 - axis) & 1 for axis in range(axes)]
            sub = x[(0, channel, *(slice(offset, None, 2) for offset in offsets))]
            assert torch.equal(deep[0, channel * 2**axes + place], sub)


def test_the_order_is_that_of_torch_in_two_dimensions():
    x = normal(2, 3, 4, 6)
    assert torch.equal(space_to_depth(x, 2), torch.nn.functional.pixel_unshuffle(x, 2))
    assert torch.equal(depth_to_space(normal(2, 8, 4, 6), 2), torch.nn.functional.pixel_shuffle(normal(2, 8, 4, 6), 2))


# Near-identity initialisation.


@pytest.mark.parametrize("padding", ["boundary", "zeros"])
@pytest.mark.parametrize("periodic", [(True,), (True, False), (False, False, True)], ids=str)
def test_a_level_down_and_up_is_the_identity_when_channels_suffice(periodic, padding, monkeypatch):
    """Without the random part and the biases; with as many channels as there are numbers, and with more."""
    monkeypatch.setattr(layers, "NEAR_IDENTITY", 0.0)
    axes = len(periodic)
    shape = (4,) * axes
    for extra in (0, 3):
        deep = 3 * 2**axes + extra
        config = AutoencoderConfig((3, deep), 2, deep + extra, padding=padding, saturation="none")
        model = without_bias(built(config, 2, periodic))
        x = normal(2, 3, *shape)
        down = model.down[0](space_to_depth(x, axes))
        assert torch.equal(down[:, : 3 * 2**axes], space_to_depth(x, axes))
        assert torch.equal(depth_to_space(model.up[0](down), axes), x)
        state = normal(2, 2, *shape, seed=1)
        again, _ = model(state)
        torch.testing.assert_close(again, model.head(model.stem(state)))


def test_with_fewer_channels_the_first_ones_are_kept_and_copied(monkeypatch):
    monkeypatch.setattr(layers, "NEAR_IDENTITY", 0.0)
    down = without_bias(PlacedConv(8, 3, (True, True), identity=True).double())
    x = normal(1, 8, 4, 4)
    assert torch.equal(down(x), x[:, :3])
    up = without_bias(PlacedConv(3, 8, (True, True), identity=True).double())
    assert torch.equal(up(x[:, :3]), x[:, [0, 1, 2, 0, 1, 2, 0, 1]])


def test_the_random_part_is_a_hundredth_of_the_usual_weights():
    def weights(**options) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return PlacedConv(4, 8, (True, True), **options).conv.weight.detach()

    plain, near = weights(), weights(identity=True)
    identity = torch.zeros_like(near)
    identity[torch.arange(8), torch.arange(8) % 4, 1, 1] = 1
    torch.testing.assert_close(near - identity, 0.01 * plain, rtol=0, atol=1e-7)
    torch.testing.assert_close(weights(scale=0.01), 0.01 * plain)


# Saturation.


@pytest.mark.parametrize("bound", [5.0, 0.7])
@pytest.mark.parametrize("name", sorted(set(SATURATIONS) - {"none"}))
def test_saturations_are_odd_monotone_bounded_and_of_slope_one(name, bound):
    saturate = SATURATIONS[name]
    z = torch.linspace(-60 * bound, 60 * bound, 20001, dtype=torch.float64)
    out = saturate(z, bound)
    assert torch.equal(out, -saturate(-z, bound))
    assert (out.diff() >= 0).all() and (out[(z.abs() < 15 * bound)].diff() > 0).all()
    assert (out.abs() <= bound).all() and (saturate(z[z.abs() < 15 * bound], bound).abs() < bound).all()
    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(saturate(at, bound), at)[0].item() == pytest.approx(1)
    far = saturate(torch.tensor([1e3, 1e6, 1e12]) * bound, bound)  # float32, as latents are
    assert (far <= bound * (1 + 1e-6)).all() and (far > 0.99 * bound).all()


def test_the_published_saturation():
    assert SATURATIONS["root"](torch.tensor(5.0), 5.0).item() == pytest.approx(5 / 2**0.5)
    assert SATURATIONS["rational"](torch.tensor(5.0), 5.0).item() == pytest.approx(2.5)


@pytest.mark.parametrize("name", sorted(set(SATURATIONS) - {"none"}))
def test_latents_stay_below_the_bound(name):
    """Whatever the input: of wild states, and of a network whose last weights are huge."""
    model = built(AutoencoderConfig((4, 8), 1, 3, saturation=name, bound=2.0), 2, (True, False))
    nn.init.normal_(model.to_latent.conv.weight, std=10.0, generator=torch.Generator().manual_seed(1))
    z = model.encode(50 * normal(3, 2, 8, 8))
    assert z.shape == (3, 3, 4, 4)
    assert z.abs().max() <= 2 and z.abs().max() > 1.5


# Normalisation and blocks.


def test_site_norm_has_unbiased_variance_and_nothing_learned():
    x = 3 + 2 * normal(2, 7, 5, 4)
    out = SiteNorm()(x)
    assert list(SiteNorm().parameters()) == []
    torch.testing.assert_close(out.mean(dim=1), torch.zeros(2, 5, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    exact = (x - x.mean(dim=1, keepdim=True)) / torch.sqrt(
        (x - x.mean(dim=1, keepdim=True)).square().sum(dim=1, keepdim=True) / 6 + 1e-5
    )
    torch.testing.assert_close(out, exact)
    assert torch.isfinite(SiteNorm()(torch.zeros(1, 4, 3))).all()


def test_one_channel_cannot_be_normalised_and_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        AutoencoderConfig((1, 8), 1, 2)
    assert torch.isfinite(built(AutoencoderConfig((1, 8), 0, 2), 1, (True,))(normal(1, 1, 8))[0]).all()


def test_a_residual_block_begins_near_the_identity():
    block = ResidualBlock(8, (True, False), zeros=False, dropout=0.0).double()
    x = normal(2, 8, 6, 6)
    assert (block(x) - block.second.conv.bias[:, None, None] - x).abs().max() < 0.02 * x.abs().max()
    noisy = ResidualBlock(8, (True, False), zeros=False, dropout=0.5).double()
    noisy.load_state_dict(block.state_dict())
    assert not torch.equal(noisy(x), block(x)) and torch.equal(noisy.eval()(x), block(x))


def test_the_residual_scale_is_positive_and_begins_at_a_tenth():
    scale = ResidualScale(3, 8, (True, False)).double()
    found = scale(normal(2, 3, 8, 8))
    assert found.shape == (2, 3, 8, 8) and (found > 0).all()
    assert found.mean().item() == pytest.approx(0.1, rel=0.3)
    assert (scale(1e4 * normal(1, 3, 8, 8)) >= 1e-4).all()


# Boundaries.

CONFIG = {"channels": (4, 8, 8), "blocks": 1, "latent_channels": 3}


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_periodic_autoencoder_commutes_with_rolls_by_its_factor(axes):
    model = built(AutoencoderConfig(**CONFIG), 2, (True,) * axes)
    shape = (16,) + (8,) * (axes - 1)
    x, dims, factor = normal(1, 2, *shape), tuple(range(2, 2 + axes)), model.config.factor
    assert factor == 4
    shifts = tuple(factor * (axis + 1) for axis in range(axes))
    moved = x.roll(shifts, dims)
    z = model.encode(x)
    torch.testing.assert_close(model.encode(moved), z.roll(tuple(shift // factor for shift in shifts), dims))
    torch.testing.assert_close(model(moved)[0], model(x)[0].roll(shifts, dims))


def test_zeros_and_bounded_axes_do_not():
    x = normal(1, 2, 16, 8)
    for periodic, padding, moves in (((True, True), "zeros", (True, True)), ((True, False), "boundary", (False, True))):
        model = built(AutoencoderConfig(**CONFIG, padding=padding), 2, periodic)
        for axis, differs in enumerate(moves, start=2):
            change = model.encode(x.roll(4, axis)) - model.encode(x).roll(1, axis)
            assert (change.abs().max() > 1e-6) == differs


def test_padding_of_one_convolution():
    """A kernel of ones sums neighbours: wrapped along the first axis, the edge repeated along the second; or zeros."""
    x = torch.arange(12.0).reshape(1, 1, 4, 3)
    bounded, zeros = (without_bias(PlacedConv(1, 1, (True, False), zeros=flag)) for flag in (False, True))
    for conv in (bounded, zeros):
        nn.init.ones_(conv.conv.weight)
    rows = x + x.roll(1, 2) + x.roll(-1, 2)
    edges = torch.cat([rows[..., :1], rows, rows[..., -1:]], dim=-1)
    assert torch.equal(bounded(x), edges[..., :-2] + edges[..., 1:-1] + edges[..., 2:])
    assert zeros(x)[0, 0, 0, 0].item() == 0 + 1 + 3 + 4


def test_latents_of_one_point_and_grids_that_do_not_divide():
    model = built(AutoencoderConfig(**CONFIG), 2, (True, False))
    assert model.encode(normal(2, 2, 4, 4)).shape == (2, 3, 1, 1)
    assert model.latent_shape((64, 4)) == (16, 1)
    for shape in ((6, 8), (8, 2), (9, 9)):
        with pytest.raises(InputError, match=r"not divisible by 4; regrid the data, or take fewer levels\.$") as caught:
            model.encode(normal(1, 2, *shape))
        assert "\n" not in str(caught.value)
    assert latent_points((8, 12), 4) == (2, 3) and latent_points((8, 10), 4) is None


# Sizes.


def parameters(config: AutoencoderConfig, channels: int, axes: int) -> int:
    with torch.device("meta"):
        model = Autoencoder(config, channels, (True,) * axes)
    return sum(parameter.numel() for parameter in model.parameters())


def by_hand(widths: tuple[int, ...], latent: int, channels: int, axes: int, blocks: int = 3) -> int:
    """Convolutions of 3^axes weights a pair and a bias: ends, levels (2^axes C -> C' and back), blocks of two."""

    def conv(inputs: int, outputs: int) -> int:
        return 3**axes * inputs * outputs + outputs

    total = conv(channels, widths[0]) + conv(widths[0], channels) + conv(widths[-1], latent) + conv(latent, widths[-1])
    for a, b in pairwise(widths):
        total += conv(2**axes * a, b) + conv(b, 2**axes * a)
    return total + sum(2 * blocks * 2 * conv(width, width) for width in widths)


PUBLISHED_2D, PUBLISHED_3D = (64, 128, 256, 512, 768, 1024), (64, 256, 512, 1024)
HALF = tuple(width // 2 for width in PUBLISHED_2D)


@pytest.mark.parametrize(
    "widths, latent, channels, axes, count",
    [
        (PUBLISHED_2D, 64, 5, 2, 313_098_629),
        (PUBLISHED_2D, 16, 5, 2, 312_213_845),
        (PUBLISHED_2D, 4, 5, 2, 311_992_649),
        (HALF, 64, 5, 2, 78_581_989),
        (PUBLISHED_3D, 64, 6, 3, 741_019_014),
        (PUBLISHED_3D, 4, 6, 3, 737_701_194),
    ],
)
def test_published_counts_of_parameters(widths, latent, channels, axes, count):
    """313.1, 312.2 and 312.0 million; 78.6 at half the width; 741.0 and 737.7 in 3-D. Euler has 5 fields, turbulence 6."""
    config = AutoencoderConfig(widths, 3, latent, padding="zeros", dropout=0.05)
    assert parameters(config, channels, axes) == by_hand(widths, latent, channels, axes) == count


@pytest.mark.parametrize(
    "channels, latent, factor, axes, rate",
    [(5, 64, 32, 2, 80), (5, 4, 32, 2, 1280), (4, 16, 32, 2, 256), (6, 64, 8, 3, 48), (6, 4, 8, 3, 768)],
)
def test_published_rates_of_compression(channels, latent, factor, axes, rate):
    assert compression(channels, latent, factor, axes) == rate


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": ()}, {"channels": (4, 0)}, {"latent_channels": 0}, {"blocks": -1}, {"padding": "wrap"}, {"init": "he"},
        {"saturation": "relu"}, {"bound": 0.0}, {"dropout": 1.0}, {"dropout": -0.1},
    ],
)  # fmt: skip
def test_sizes_that_cannot_be(changes):
    with pytest.raises(ValueError, match="got"):
        AutoencoderConfig(**changes)
