"""The U-Net on every kind of axis: it runs, commutes with the shifts it should, minds boundaries, and learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eddycast.networks import UNet, UNetConfig, build_network
from eddycast.networks.layers import ChannelNorm, PaddedConv, pad, resize

SMALL = UNetConfig(channels=(4, 6, 6), blocks=1, kernel=3, embedding=8)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class OneFrame(nn.Module):
    """A network of one frame in and out without its time axis: (batch, channel, *space) both ways."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        return self.net(x[:, None], scalars)[:, 0]


def build(config: UNetConfig, periodic: tuple[bool, ...], *, channels: int, scalars: int) -> OneFrame:
    frames = {"in_frames": 1, "out_frames": 1}
    sizes = {"in_channels": channels, "out_channels": 3, "num_scalars": scalars}
    return OneFrame(build_network(config, **frames, **sizes, periodic=periodic))


def make(config: UNetConfig, periodic: tuple[bool, ...], *, scalars: int = 2, channels: int = 2) -> nn.Module:
    """A U-Net in float64 all of whose weights are set, the zero-initialised ones included."""
    net = build(config, periodic, channels=channels, scalars=scalars).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
    return net


SHAPES = {1: [(16,), (13,), (3,), (1,)], 2: [(8, 12), (5, 7), (2, 9)], 3: [(4, 6, 5), (3, 1, 4)]}
COMBINATIONS = [
    (space, periodic)
    for axes, shapes in SHAPES.items()
    for space in shapes
    for periodic in itertools.product((True, False), repeat=axes)
]


@pytest.mark.parametrize("space, periodic", COMBINATIONS)
def test_any_size_on_any_boundaries(space, periodic):
    """Odd, non-square and smaller than the kernel: same space comes out, each entry of the batch on its own."""
    net = make(SMALL, periodic)
    x, scalars = normal(3, 2, *space), normal(3, 2, seed=1)
    with torch.no_grad():
        y = net(x, scalars)
        alone = net(x[1:2], scalars[1:2])
    assert y.shape == (3, 3, *space) and y.dtype == torch.float64 and y.isfinite().all()
    assert torch.allclose(alone[0], y[1], rtol=1e-9, atol=1e-9)


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    width=st.integers(0, 9),
    bits=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_pad_is_that_of_numpy(shape, width, bits):
    """wrap on periodic axes, edge on bounded ones; axes much shorter than the padding included."""
    periodic = tuple(bits[: len(shape)])
    x = torch.arange(float(2 * int(np.prod(shape)))).reshape(1, 2, *shape)
    exact = x.numpy()
    for axis, wrap in enumerate(periodic, start=2):
        widths = [(0, 0)] * exact.ndim
        widths[axis] = (width, width)
        exact = np.pad(exact, widths, mode="wrap" if wrap else "edge")
    assert np.array_equal(pad(x, width, periodic).numpy(), exact)


@given(size=st.integers(1, 9), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]), wrap=st.booleans())
def test_convolution_is_the_sum_over_neighbours(size, kernel, stride, wrap):
    conv = PaddedConv(1, 1, kernel, (wrap,), stride=stride).double()
    x = normal(1, 1, size)
    with torch.no_grad():
        y = conv(x)[0, 0]
    index = np.arange(0, size, stride)
    exact = np.full(len(index), conv.conv.bias.item())
    for tap in range(kernel):
        at = index + tap - kernel // 2
        at = at % size if wrap else at.clip(0, size - 1)
        exact += conv.conv.weight[0, 0, tap].item() * x[0, 0].numpy()[at]
    assert y.shape == (-(-size // stride),) and np.allclose(y.numpy(), exact, rtol=1e-12)


def test_even_kernel_and_four_dimensions_are_refused():
    with pytest.raises(ValueError, match="odd"):
        PaddedConv(1, 1, 4, (True,))
    with pytest.raises(ValueError, match="1 to 3 space axes, got 4"):
        UNet(SMALL, in_frames=1, out_frames=1, in_channels=1, out_channels=1, num_scalars=1, periodic=(True,) * 4)


def test_resize_doubles_blocks_and_takes_odd_sizes():
    x = torch.tensor([[[1.0, 2.0, 3.0]]])
    assert resize(x, (6,)).flatten().tolist() == [1, 1, 2, 2, 3, 3]
    assert resize(x, (5,)).flatten().tolist() == [1, 1, 2, 2, 3]


def test_channel_norm_at_each_point():
    y = ChannelNorm()(5 + 3 * normal(2, 64, 7))
    assert y.mean(dim=1).abs().max() < 1e-12
    assert torch.allclose(y.square().mean(dim=1), torch.ones(2, 7, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("space", [(16,), (8, 12), (4, 8, 4)])
def test_periodic_network_commutes_with_shifts_by_the_stated_multiple(levels, space):
    """Shifts by 2^(levels - 1) commute to rounding; smaller ones do not, for they move points between blocks."""
    config = UNetConfig(channels=(4, 6, 6)[:levels], blocks=1, kernel=3, embedding=8)
    net, stride = make(config, (True,) * len(space)), 2 ** (levels - 1)
    x, scalars = normal(2, 2, *space), normal(2, 2, seed=1)
    with torch.no_grad():
        y = net(x, scalars)
        for axis in range(2, x.ndim):
            moved = net(x.roll(stride, axis), scalars)
            assert torch.allclose(moved, y.roll(stride, axis), rtol=1e-9, atol=1e-9 * y.abs().max())
            if levels > 1:
                off = net(x.roll(1, axis), scalars) - y.roll(1, axis)
                assert off.abs().max() > 1e-3 * y.abs().max()


def test_bounded_axis_knows_where_its_edges_are():
    """On (periodic, bounded) only the first axis has the symmetry."""
    net = make(SMALL, (True, False))
    x, scalars = normal(1, 2, 8, 8), normal(1, 2, seed=1)
    with torch.no_grad():
        y, along, across = net(x, scalars), net(x.roll(4, 2), scalars), net(x.roll(4, 3), scalars)
    assert torch.allclose(along, y.roll(4, 2), rtol=1e-9, atol=1e-9)
    assert (across - y.roll(4, 3)).abs().max() > 1e-2 * y.abs().max()


def test_impulse_at_an_edge_stays_on_its_side_of_a_bounded_axis():
    """One level with kernel 3: 4 convolutions reach 4 points; on a ring the far end sees it too."""
    config = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=8)
    x, scalars = normal(1, 2, 16), normal(1, 2, seed=1)
    touched = x.clone()
    touched[..., 0] += 1.0
    for wrap in (True, False):
        net = make(config, (wrap,))
        with torch.no_grad():
            change = (net(touched, scalars) - net(x, scalars)).abs().amax(dim=(0, 1))
        assert (change[:5] > 0).all(), "the reach is 4 points"
        assert (change[5:12] == 0).all()
        assert (change[12:] > 0).all() if wrap else (change[12:] == 0).all()


def test_untrained_network_predicts_zero():
    net = build(SMALL, (True,), channels=2, scalars=1)
    assert torch.equal(net(torch.randn(2, 2, 8), torch.zeros(2, 1)), torch.zeros(2, 3, 8))


def test_each_scalar_changes_the_output_of_its_own_entry():
    net = make(SMALL, (True,), scalars=3)
    x, scalars = normal(2, 2, 12), torch.zeros(2, 3, dtype=torch.float64)
    with torch.no_grad():
        y = net(x, scalars)
        for number in range(3):
            other = scalars.clone()
            other[0, number] = 0.4
            change = net(x, other) - y
            assert change[0].abs().max() > 1e-2 * y.abs().max()
            assert change[1].abs().max() == 0


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("blocks", [1, 2])
def test_gradients_reach_every_weight_and_the_input(normalise, blocks):
    config = UNetConfig(channels=(4, 6, 6), blocks=blocks, kernel=3, embedding=8, normalise=normalise)
    net = make(config, (True, False))
    x, scalars = normal(2, 2, 8, 6).requires_grad_(), normal(2, 2, seed=1).requires_grad_()
    net(x, scalars).square().sum().backward()
    for name, weight in [*net.named_parameters(), ("x", x), ("scalars", scalars)]:
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().max() > 0, name


def test_derivative_is_that_of_finite_differences():
    net = make(UNetConfig(channels=(3, 3), blocks=1, kernel=3, embedding=4), (False,), channels=1)
    assert torch.autograd.gradcheck(net, (normal(1, 1, 5).requires_grad_(), normal(1, 2, seed=1).requires_grad_()))


def test_config_sets_the_size():
    """Each field of the config changes the number of weights as it should, on the meta device."""

    def count(**changes) -> int:
        with torch.device("meta"):
            config = UNetConfig(**{"channels": (8, 8), "blocks": 1, "kernel": 3, "embedding": 8, **changes})
            net = UNet(
                config, in_frames=1, out_frames=1, in_channels=1, out_channels=1, num_scalars=1, periodic=(True,)
            )
        return sum(weight.numel() for weight in net.parameters())

    base = count()
    block = 2 * (3 * 8 * 8 + 8) + (8 * 16 + 16)
    up = (3 * 16 * 8 + 8) + (3 * 8 * 8 + 8) + (8 * 16 + 16) + (16 * 8 + 8)
    embedding = 33 * 8 + 8 + 8 * 8 + 8
    assert base == (3 * 8 + 8) + 2 * block + 2 * (3 * 8 * 8 + 8) + up + (3 * 8 + 1) + embedding
    assert count(blocks=2) == base + 3 * block
    assert count(kernel=5) == base + 2 * (2 * 8 + 2 * 2 * 64 + (128 + 64))
    assert count(channels=(8, 8, 8)) > count() > count(channels=(8,))
    assert count(normalise=False) == base
