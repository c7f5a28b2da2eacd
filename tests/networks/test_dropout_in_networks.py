"""Every network that can drop: silent until masks are open, the same weights with and without, the same gradients when recomputed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from eddycast.networks import (
    DyffusionCNNConfig,
    FNOConfig,
    LocalTransformerConfig,
    MemberMasks,
    MLPConfig,
    NetworkConfig,
    OtnessUNetConfig,
    ResNetUNetConfig,
    TrainingMasks,
    TransformerConfig,
    UNetConfig,
    batch_norms,
    build_network,
    has_dropout,
    masks_from,
    running_statistics,
)
from eddycast.networks.dropout import Dropout
from eddycast.noise import MemberNoise

SMALL = {"patch": 2, "width": 16, "heads": 2, "blocks": 2, "embedding": 8}
CONFIGS: dict[str, NetworkConfig] = {
    "unet": UNetConfig(channels=(4, 6), blocks=1, kernel=3, embedding=8, dropout=0.3),
    "transformer": TransformerConfig(**SMALL, dropout=0.3),
    "transformer-axial": TransformerConfig(**SMALL, attention="axial", dropout=0.3),
    "fno": FNOConfig(modes=3, width=6, blocks=2, embedding=8, dropout=0.3),
    "mlp": MLPConfig(width=6, blocks=2, embedding=8, dropout=0.3),
    "transformer-local": LocalTransformerConfig(window=3, width=16, heads=2, blocks=2, embedding=8, dropout=0.3),
    "cnn-dyffusion": DyffusionCNNConfig(width=6, kernels=(5, 3), embedding=8, dropout=0.3),
    "cnn-dyffusion-channel": DyffusionCNNConfig(width=6, kernels=(5, 3), embedding=8, dropout=0.3, norm="channel"),
    "unet-otness": OtnessUNetConfig(size=8, stem=4, channels=(4, 6), kernels=(4, 2), embedding=8, dropout=0.3),
    "unet-resnet": ResNetUNetConfig(
        width=4, multipliers=(1, 2), heads=2, head_width=4, embedding=8, dropout=0.3, first_dropout=0.2, attention_dropout=0.4
    ),
}  # fmt: skip
SITES = {"unet": 3, "transformer": 4, "transformer-axial": 4, "fno": 2, "mlp": 2, "cnn-dyffusion": 2} | {
    "transformer-local": 4,
    "cnn-dyffusion-channel": 2,
    "unet-otness": 4,
    "unet-resnet": 2 * 11 + 5,
}
"""Layers that drop: one a block; two a transformer block; both convolutions of 11 residual blocks and 5 attentions."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def started(config: NetworkConfig) -> nn.Module:
    """The random start from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(5)
        return build_network(
            config, in_frames=2, out_frames=1, in_channels=2, out_channels=2, num_scalars=2, periodic=(True, False)
        )


def net_of(config: NetworkConfig) -> nn.Module:
    """With the weights that start at zero moved too."""
    net = started(config).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.add_(0.2 * normal(*weight.shape, seed=number))
    return net


def inputs(batch: int = 4) -> tuple[Tensor, Tensor]:
    return normal(batch, 2, 2, 6, 5), normal(batch, 2, seed=1)


def without(config: NetworkConfig) -> NetworkConfig:
    rates = [name for name in ("dropout", "first_dropout", "attention_dropout") if hasattr(config, name)]
    return replace(config, **dict.fromkeys(rates, 0.0))


@pytest.mark.parametrize("name", CONFIGS)
def test_rates_change_neither_names_nor_start_of_the_weights(name):
    net, plain = started(CONFIGS[name]), started(without(CONFIGS[name]))
    assert has_dropout(net) and not has_dropout(plain)
    ours, theirs = net.state_dict(), plain.state_dict()
    assert list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)
    sites = [layer.site for layer in net.modules() if isinstance(layer, Dropout)]
    assert sites == list(range(SITES[name]))


@pytest.mark.parametrize("name", CONFIGS)
def test_masks_make_it_random_and_nothing_else_does(name):
    net, plain, given = net_of(CONFIGS[name]).eval(), net_of(without(CONFIGS[name])).eval(), inputs()

    def seen(seed: int, which: nn.Module = net) -> Tensor:
        with masks_from(TrainingMasks(seed, 0, 4, 4)):
            return which(*given)

    with torch.no_grad():
        still = net(*given)
        assert torch.allclose(still, plain(*given), atol=1e-12)
        assert torch.equal(seen(1, plain), plain(*given))
        assert torch.equal(seen(1), seen(1))
        for other in (seen(2), still):
            changes = (seen(1) - other).abs().flatten(1).amax(dim=1)
            assert changes.min() > 1e-3, "every entry"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_layer_that_drops_matters(name):
    """Its rate alone: a layer that the forward pass forgot would leave the output as it is."""
    net, given = net_of(CONFIGS[name]).eval(), inputs()
    layers = [layer for layer in net.modules() if isinstance(layer, Dropout)]
    rates = [layer.rate for layer in layers]
    with torch.no_grad():
        still = net(*given)
        for chosen in layers:
            for layer, rate in zip(layers, rates, strict=True):
                layer.rate = rate if layer is chosen else 0.0
            with masks_from(TrainingMasks(3, 0, 4, 4)):
                assert (net(*given) - still).abs().max() > 1e-4, chosen.site


@pytest.mark.parametrize("name", CONFIGS)
def test_a_member_has_its_masks_in_any_batch(name):
    net, (x, scalars) = net_of(CONFIGS[name]).eval(), inputs()
    noise = MemberNoise(7, torch.zeros(4, dtype=torch.long), torch.arange(4))

    def seen(part: slice) -> Tensor:
        with masks_from(MemberMasks(noise.select(part), 0, (0,), "net")), torch.no_grad():
            return net(x[:1].expand(4, *x.shape[1:])[part], scalars[:1].expand(4, 2)[part])

    together = seen(slice(None))
    assert torch.allclose(seen(slice(2, 3)), together[2:3], rtol=1e-10, atol=1e-12)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_recomputed_blocks_meet_the_same_masks_and_count_a_batch_once(name):
    """In training mode, with masks open, twice through the network in one pass, as in a look-ahead loss."""
    given, found = inputs(), []
    for again in (False, True):
        net = net_of(replace(CONFIGS[name], checkpoint=again)).train()
        calls = [0]
        for part in net.modules():
            if type(part).__name__.endswith("Block"):
                part.register_forward_pre_hook(lambda *_, calls=calls: calls.__setitem__(0, calls[0] + 1))
        with masks_from(TrainingMasks(11, 0, 4, 4)):
            first = net(*given)
            second = net(torch.cat([given[0][:, 1:], first], dim=1), given[1])
            loss = second.sin().sum() + first.square().sum()
        forward = calls[0]
        loss.backward()
        assert calls[0] == (2 if again else 1) * forward
        statistics = running_statistics(net)
        assert all(norm.counts for norm in batch_norms(net))
        found.append([loss.detach(), *(weight.grad for weight in net.parameters()), *statistics.values()])
    scale = max(part.abs().max() for part in found[0])
    for plain, again in zip(*found, strict=True):
        assert torch.allclose(plain, again, rtol=1e-9, atol=1e-11 * scale)


@pytest.mark.parametrize("config", [UNetConfig, TransformerConfig, FNOConfig])
def test_rates_outside_the_unit_interval_are_refused(config):
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"dropout of a.* must lie in"):
            config(dropout=rate)
