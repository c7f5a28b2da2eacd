"""Batch norm against torch's own, its statistics against their recursion, and what keeps entries apart in use."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.networks import BatchNorm, DyffusionCNNConfig, OtnessUNetConfig, build_network, running_statistics
from eddycast.networks.batch_norm import batch_norms, settled

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONFIGS = {
    "cnn": DyffusionCNNConfig(width=6, kernels=(5, 3), embedding=8),
    "unet": OtnessUNetConfig(size=8, stem=4, channels=(4, 6), kernels=(4, 2), embedding=8),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net_of(name: str) -> nn.Module:
    """Weights from fixed seeds, statistics as some passes in training mode leave them."""
    net = build_network(
        CONFIGS[name], in_frames=2, out_frames=1, in_channels=2, out_channels=2, num_scalars=1, periodic=(True, False)
    ).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.add_(0.2 * normal(*weight.shape, seed=number))
        for step in range(5):
            net.train()(3 + 2 * normal(8, 2, 2, 6, 5, seed=step), normal(8, 1, seed=100 + step))
    return net


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_it_is_the_layer_of_torch_in_training_and_in_use(axes):
    ours, theirs = BatchNorm(3).double(), NORMS[axes](3).double()
    with torch.no_grad():
        for layer in (ours, theirs):
            layer.weight.copy_(normal(3, seed=1))
            layer.bias.copy_(normal(3, seed=2))
    space = (4, 3, 2)[:axes]
    for step in range(3):
        x = 2 + 3 * normal(5, 3, *space, seed=step)
        assert torch.allclose(ours(x), theirs(x), atol=1e-12)
    assert torch.allclose(ours.running_mean, theirs.running_mean) and torch.allclose(
        ours.running_var, theirs.running_var
    )
    for layer in (ours, theirs):
        layer.eval()
    assert torch.allclose(ours(x), theirs(x), atol=1e-12)


def test_running_statistics_move_by_a_tenth_towards_those_of_the_batch():
    layer, x = BatchNorm(2).double(), normal(6, 2, 4)
    layer(x)
    mean, variance = x.mean((0, 2)), x.transpose(0, 1).flatten(1).var(1)
    assert torch.allclose(layer.running_mean, 0.1 * mean) and torch.allclose(layer.running_var, 0.9 + 0.1 * variance)
    before = {name: tensor.clone() for name, tensor in running_statistics(layer).items()}
    with settled([layer]):
        out = layer(x + 5)
    layer.eval()(x + 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in running_statistics(layer).items())
    assert out.mean().abs() < 1e-12 and layer.counts, "the batch's own statistics, uncounted"


@pytest.mark.parametrize("name", CONFIGS)
def test_in_use_entries_do_not_meet_and_in_training_they_do(name):
    net, x, scalars = net_of(name), normal(4, 2, 2, 6, 5, seed=50), normal(4, 1, seed=51)
    with torch.no_grad():
        alone, among = net.eval()(x[2:3], scalars[2:3]), net(x, scalars)[2:3]
        assert torch.allclose(alone, among, atol=1e-12)
        other = x.clone()
        other[0] += 1
        change = (net.train()(other, scalars) - net(x, scalars))[1:].abs().max()
    assert change > 1e-3, "the published layer, as documented"


@pytest.mark.parametrize("name", CONFIGS)
def test_statistics_are_buffers_that_the_state_of_a_network_keeps(name):
    net, other = net_of(name).eval(), net_of(name).eval()
    found = running_statistics(net)
    assert len(found) == 2 * len(batch_norms(net)) > 0
    state = net.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in found.items())
    assert all(tensor.abs().max() > 0.01 for tensor in found.values())
    for tensor in running_statistics(other).values():
        tensor.fill_(1.0)
    x, scalars = normal(2, 2, 2, 6, 5, seed=50), normal(2, 1)
    with torch.no_grad():
        assert (net(x, scalars) - other(x, scalars)).abs().max() > 1e-3
        other.load_state_dict(state)
        assert torch.equal(net(x, scalars), other(x, scalars))


def test_one_number_has_no_variance():
    layer = BatchNorm(3)
    with pytest.raises(InputError, match="more than one number per channel"):
        layer(torch.ones(1, 3, 1))
    assert layer.eval()(torch.ones(1, 3, 1)).isfinite().all()


def test_training_in_half_precision_keeps_single_statistics():
    net = net_of("cnn").float().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net(normal(4, 2, 2, 6, 5).float(), normal(4, 1).float()).float().sum().backward()
    assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in running_statistics(net).values())
