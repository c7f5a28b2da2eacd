"""The space-time transformer of latent diffusion: published sizes, its map written out a second time, positions, derivatives."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eddycast.diffusion import PreconditionedDenoiser
from eddycast.diffusion.schedules import RectifiedSchedule
from eddycast.errors import InputError
from eddycast.networks import SpaceTimeTransformerConfig, build_network
from eddycast.networks.space_time_transformer import (
    Attention,
    Modulation,
    gated,
    lattice_index,
    mixed_frequencies,
    sinusoid,
    turned,
)

LATENT = SpaceTimeTransformerConfig(
    patch=1, width=1024, heads=8, blocks=16, embedding=256, positions="learned", zero_start=False
)
SOLVER = replace(LATENT, timed=False)
PIXEL = replace(SOLVER, patch=16, width=2048, heads=16)
HALF = replace(LATENT, width=512, heads=4)
# name: config, space axes, channels of a state, numbers of theta, weights, published in millions
PUBLISHED: dict[str, tuple[SpaceTimeTransformerConfig, int, int, int, int, str]] = {
    "denoiser-c64": (LATENT, 2, 64, 5, 222_888_256, "222.9"),
    "denoiser-c4": (LATENT, 2, 4, 5, 222_703_876, "222.7"),
    "denoiser-3d": (LATENT, 3, 64, 9, 223_946_048, "223.9"),
    "solver-c64": (SOLVER, 2, 64, 5, 222_756_672, "222.8"),
    "solver-pixel": (PIXEL, 2, 5, 5, 860_810_240, "860.8"),
    "denoiser-half": (HALF, 2, 64, 5, 60_951_872, "61.0"),
}
SMALL = SpaceTimeTransformerConfig(width=12, heads=2, blocks=3, embedding=6, zero_start=False)
FORMS = [
    pytest.param(replace(SMALL, block=block, positions=positions, width=16), id=f"{block}-{positions}")
    for block in ("re-injection", "value-residual")
    for positions in ("lattice", "learned")
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(
    config: SpaceTimeTransformerConfig,
    periodic: tuple[bool, ...] = (True, False),
    *,
    frames: tuple[int, int] = (3, 3),
    channels: tuple[int, int] = (4, 2),
    scalars: int = 3,
) -> nn.Module:
    """In double precision; every weight from a fixed seed, of variance 1 / fan-in."""
    net = build_network(
        config,
        in_frames=frames[0],
        out_frames=frames[1],
        in_channels=channels[0],
        out_channels=channels[1],
        num_scalars=scalars,
        periodic=periodic,
    ).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(max(weight[0].numel(), 1)))
    return net


def on_meta(config: SpaceTimeTransformerConfig, axes: int, channels: int, theta: int) -> nn.Module:
    """As published: the mask comes in beside the state, once for each of its channels."""
    with torch.device("meta"):
        return build_network(
            config,
            in_frames=5,
            out_frames=5,
            in_channels=2 * channels,
            out_channels=channels,
            num_scalars=theta + config.timed,
            periodic=(True,) * axes,
        )


def count(net: nn.Module) -> int:
    return sum(weight.numel() for weight in net.parameters())


def linear(a: int, b: int) -> int:
    return a * b + b


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("block", ["re-injection", "value-residual"])
def test_number_of_weights_is_the_published_one(name, block):
    """Three ways to the same number: the module on the meta device, the sum over layers by hand, the figure of the paper's program."""
    config, axes, channels, theta, exact, millions = PUBLISHED[name]
    net = on_meta(replace(config, block=block), axes, channels, theta)
    width, points = config.width, 256 if config.patch == 16 else 1
    outside = (
        linear(2 * channels * points, width) + linear(width, channels * points) + linear((1 + axes) * width, width)
    )
    told = linear(theta, 256) + linear(256, 256) + config.timed * 2 * linear(256, 256)
    modulation = linear(256, 256) + linear(256, 4 * width)
    attention = 3 * width**2 + linear(width, width)
    hidden = linear(width, 4 * width) + linear(4 * width, width)
    rotary = (1 + axes) * width // 2
    assert count(net) == outside + told + config.blocks * (modulation + attention + hidden + rotary) == exact
    assert f"{exact / 1e6:.1f}" == millions


def test_parts_of_a_block_are_the_published_ones():
    block = on_meta(LATENT, 2, 64, 5).get_submodule("blocks.7")
    parts = {name: count(part) for name, part in block.named_children()}
    assert parts == {"modulation": 1_118_464, "attention": 4_195_328 + 3 * 512, "ffn": 8_393_728}


@pytest.mark.parametrize(
    "config, space, channels, tokens",
    [
        (LATENT, (16, 16), 64, 1280),
        (LATENT, (16, 4), 64, 320),
        (LATENT, (8, 8, 8), 64, 2560),
        (PIXEL, (512, 512), 5, 5120),
    ],
)
def test_number_of_tokens_is_the_published_one(config, space, channels, tokens):
    net, seen = on_meta(config, len(space), channels, 5), []
    net.get_submodule("blocks.0").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.device("meta"), torch.no_grad():
        y = net(torch.empty(2, 5, 2 * channels, *space), torch.empty(2, 5 + config.timed))
    assert seen == [(2, tokens, config.width)] and y.shape == (2, 5, channels, *space)


def written_out(net: nn.Module, config: SpaceTimeTransformerConfig, x: torch.Tensor, scalars: torch.Tensor):
    """The published map a second time, for tokens of one point: one entry, one token, one head after the other, complex rotations."""
    weights = dict(net.named_parameters())

    def apply(name: str, y: torch.Tensor) -> torch.Tensor:
        return y @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def waves(value: float, features: int) -> torch.Tensor:
        exponents = torch.arange(features // 2, dtype=torch.float64) / (features // 2 - 1)
        frequencies = 1000**-exponents
        return torch.cat([torch.sin(value * frequencies), torch.cos(value * frequencies)])

    def silu(y: torch.Tensor) -> torch.Tensor:
        return y / (1 + torch.exp(-y))

    width, heads = config.width, config.heads
    pairs = width // heads // 2
    out = []
    for entry, numbers in zip(x, scalars, strict=True):
        lattice = [tuple(at) for at in torch.ones(entry.shape[0], *entry.shape[2:]).nonzero().tolist()]
        clock = apply("told.time.2", silu(apply("told.time.0", waves(40 * numbers[0].item(), config.embedding))))
        told = clock + apply("told.rest.2", silu(apply("told.rest.0", numbers[1:])))
        source = torch.stack([apply("stem", entry[(at[0], slice(None), *at[1:])]) for at in lattice])
        places = torch.stack([torch.cat([waves(float(i), width) for i in at]) for at in lattice])
        tokens, first = source + apply("place", places), None
        for number in range(config.blocks):
            name = f"blocks.{number}"
            a, b, c, d = apply(f"{name}.modulation.layers.2", silu(apply(f"{name}.modulation.layers.0", told))).reshape(
                4, width
            )
            mean, variance = tokens.mean(1, keepdim=True), tokens.var(1, correction=0, keepdim=True)
            y = (1 + a) * (tokens - mean) / (variance + 1e-5).sqrt() + b
            q, k, v = apply(f"{name}.attention.qkv", y).split(width, dim=1)
            first = v if first is None else first
            if config.block == "value-residual":
                v = (v + d * first) / (1 + d**2).sqrt()
            angles = torch.tensor(lattice).double() @ weights[f"{name}.attention.frequencies"]
            mixed = torch.zeros_like(v)
            for head in range(heads):
                mine = slice(2 * pairs * head, 2 * pairs * (head + 1))
                turn = torch.polar(
                    torch.ones(len(lattice), pairs).double(), angles[:, pairs * head : pairs * (head + 1)]
                )
                turned_parts = []
                for part in (q[:, mine], k[:, mine]):
                    part = part / (part.square().mean(1, keepdim=True) + 1e-5).sqrt()
                    turned_parts.append(torch.complex(part[:, 0::2], part[:, 1::2]) * turn)
                logits = (turned_parts[0] @ turned_parts[1].mH).real / math.sqrt(2 * pairs)
                mixed[:, mine] = logits.softmax(dim=1) @ v[:, mine]
            y = y + apply(f"{name}.attention.out", mixed)
            y = apply(f"{name}.ffn.2", silu(apply(f"{name}.ffn.0", y)))
            tokens = (tokens + c * y) / (1 + c**2).sqrt()
            if config.block == "re-injection":
                tokens = (tokens + d * source) / (1 + d**2).sqrt()
        said = apply("head", tokens)
        frame = torch.zeros(entry.shape[0], said.shape[1], *entry.shape[2:], dtype=torch.float64)
        for at, values in zip(lattice, said, strict=True):
            frame[(at[0], slice(None), *at[1:])] = values
        out.append(frame)
    return torch.stack(out)


@pytest.mark.parametrize("block", ["re-injection", "value-residual"])
@pytest.mark.parametrize("space", [(4,), (3, 2), (2, 1, 3)])
def test_network_is_the_published_map(block, space):
    config = replace(SMALL, block=block, positions="learned")
    net = build(config, (True,) * len(space))
    x, scalars = normal(2, 3, 4, *space), normal(2, 3, seed=1)
    with torch.no_grad():
        found, exact = net(x, scalars), written_out(net, config, x, scalars)
    assert torch.allclose(found, exact, rtol=0, atol=1e-12 * exact.abs().max().item())


def test_the_two_forms_are_different_networks():
    """Of the same weights, of the same names: only what d does tells them apart."""
    x, scalars = normal(2, 3, 4, 5, 4), normal(2, 3, seed=1)
    nets = [build(replace(SMALL, block=block)) for block in ("re-injection", "value-residual")]
    nets[1].load_state_dict(nets[0].state_dict())
    with torch.no_grad():
        first, second = (net(x, scalars) for net in nets)
        assert (first - second).abs().max() > 0.1 * first.abs().max()
        for net in nets:
            for block in net.blocks:
                for part in (block.modulation.layers[2].weight, block.modulation.layers[2].bias):
                    part.chunk(4)[3].zero_()
        first, second = (net(x, scalars) for net in nets)
    assert torch.allclose(first, second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", FORMS)
def test_closed_gates_make_a_block_the_identity(config):
    net = build(replace(config, timed=False), scalars=0)
    x, source = normal(2, 12, 16), normal(2, 12, 16, seed=1)
    where = lattice_index((3, 2, 2), torch.float64, x.device)
    if config.positions == "lattice":
        where = net.turns((3, 2, 2), torch.Size((2, 2)), x.dtype, x.device)
    block = net.blocks[0]
    with torch.no_grad():
        assert (block(x, source, x.new_zeros(2, 0), where) - x).abs().max() > 0.1
        block.modulation.constants[2:].zero_()
        assert torch.equal(block(x, source, x.new_zeros(2, 0), where), x)
        if config.block == "re-injection":  # an open d alone goes to the tokens that came in
            block.modulation.constants[3].fill_(1e8)
            assert torch.allclose(block(x, source, x.new_zeros(2, 0), where), source, atol=1e-6)


def test_gates_keep_the_variance():
    x, y, gate = normal(400, 500), normal(400, 500, seed=1), normal(500, seed=2)
    found = gated(x, gate, y)
    assert found.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / found.numel()))
    assert torch.allclose(gated(x, torch.full_like(gate, 0.75), y), 0.8 * x + 0.6 * y)


def test_sinusoids_are_sines_then_cosines_of_a_thousandfold_range():
    found = sinusoid(torch.tensor([0.0, 2.0], dtype=torch.float64), 8)
    assert found[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    for j, frequency in enumerate((1, 0.1, 0.01, 0.001)):
        assert found[1, j].item() == pytest.approx(math.sin(2 * frequency), abs=1e-12)
        assert found[1, 4 + j].item() == pytest.approx(math.cos(2 * frequency), abs=1e-12)


def test_diffusion_time_is_told_as_published():
    """From a noise level to the sinusoids of 10 log(sigma / alpha): through the denoiser that tells log(sigma / alpha) / 4."""
    net, seen = build(SMALL, scalars=3), []
    net.get_submodule("told.time").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    theta = normal(2, 2, seed=3)
    schedule = RectifiedSchedule()

    def network(x_in: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return net(torch.cat([x_in, x_in], dim=2), torch.cat([told.expand(2)[:, None], theta], dim=1))

    time = torch.tensor([0.2, 0.9], dtype=torch.float64)
    PreconditionedDenoiser(network, schedule)(normal(2, 3, 2, 4, 4), time)
    alpha, sigma = schedule(time)
    assert torch.allclose(seen[0], sinusoid(10 * torch.log(sigma / alpha), 6), atol=1e-12)


def test_without_scalars_modulations_are_learned():
    net = build(replace(SMALL, timed=False), scalars=0)
    constants = net.get_submodule("blocks.1.modulation").get_parameter("constants")
    assert constants.shape == (4, 12) and not any("told" in name for name, _ in net.named_parameters())
    y = net(normal(2, 3, 4, 5, 4), normal(2, 0))
    y.sum().backward()
    assert constants.grad is not None and constants.grad.abs().amax(dim=1).min() > 0
    with pytest.raises(InputError, match="no scalars: set timed to false"):
        build(SMALL, scalars=0)


@pytest.mark.parametrize("timed, scalars, weights", [(True, 1, 1), (True, 3, 2), (False, 3, 1)])
def test_time_and_parameters_have_their_own_layers(timed, scalars, weights):
    net = build(replace(SMALL, timed=timed), scalars=scalars)
    told = net.get_submodule("told")
    assert len(list(told.children())) == weights


def test_modulations_start_near_zero_and_rotations_in_any_direction():
    modulation = Modulation(64, 512)
    assert modulation.layers is not None
    bound = 1 / math.sqrt(64)
    assert (
        0.009 * bound < modulation.layers[2].weight.abs().max() <= 0.01 * bound < modulation.layers[2].bias.abs().max()
    )
    constants = Modulation(0, 4000).constants
    assert constants is not None and constants.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * 16000))
    frequencies = mixed_frequencies(3, 20000).double()
    length = frequencies.norm(dim=0)
    assert length.min() + 1e-7 >= 0.01 and length.max() <= 1 + 1e-6
    # log is uniform in (-log 100, 0), directions have no mean and no preferred axis
    error = 4 / math.sqrt(20000)
    assert length.log().mean().item() == pytest.approx(-math.log(100) / 2, abs=error * math.log(100) / math.sqrt(12))
    direction = frequencies / length
    assert (direction @ direction.T / 20000 - torch.eye(3) / 3).abs().max() < error
    assert direction.mean(dim=1).abs().max() < error


def test_learned_rotations_know_differences_only():
    """In all axes at once, by any distance; moving a single token is noticed."""
    attention = Attention(replace(SMALL, positions="learned"), axes=3).double()
    y, where = normal(2, 12, 12), lattice_index((2, 3, 2), torch.float64, torch.device("cpu"))
    with torch.no_grad():
        base = attention(y, where)
        assert torch.allclose(attention(y, where + torch.tensor([3.0, -7.0, 40.5])), base, atol=1e-10)
        where[4, 1] += 1
        assert (attention(y, where) - base).abs().max() > 1e-4


def test_rotation_is_of_even_and_odd_features():
    angle = torch.tensor([0.3, -1.1], dtype=torch.float64)
    found = turned(torch.tensor([1.0, 0, 0, 1]).double(), angle.cos(), angle.sin())
    exact = [math.cos(0.3), math.sin(0.3), math.sin(1.1), math.cos(1.1)]
    assert found.tolist() == pytest.approx(exact)


def test_logits_are_bounded_by_the_root_of_the_head_width(monkeypatch):
    """However large the weights; equal query and key reach the bound."""
    attention, seen = Attention(SMALL, axes=2).double(), []
    with torch.no_grad():
        attention.qkv.weight.mul_(1e4)
        attention.qkv.weight[12:24] = attention.qkv.weight[:12]
    plain = F.scaled_dot_product_attention

    def spied(q, k, v):
        seen.append(q @ k.mT / math.sqrt(q.shape[-1]))
        return plain(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spied)
    with torch.no_grad():
        attention(normal(2, 12, 12), torch.stack([torch.ones(12, 1, 3), torch.zeros(12, 1, 3)]).double())
    assert seen[0].max().item() == pytest.approx(math.sqrt(6), abs=1e-6) and seen[0].abs().max() <= math.sqrt(6)


@pytest.mark.parametrize("block", ["re-injection", "value-residual"])
def test_tokens_without_positions_have_no_order(block):
    net = build(replace(SMALL, block=block, timed=False), scalars=0)
    x, source = normal(2, 10, 12), normal(2, 10, 12, seed=1)
    where = torch.stack([torch.ones(10, 1, 3), torch.zeros(10, 1, 3)]).double()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    told = x.new_zeros(2, 0)
    with torch.no_grad():
        y = net.blocks[0](x, source, told, where)
        assert torch.allclose(net.blocks[0](x[:, order], source[:, order], told, where), y[:, order], atol=1e-12)


def test_only_the_lattice_keeps_the_symmetry_of_a_ring():
    x, scalars = normal(2, 3, 4, 6, 5), normal(2, 3, seed=1)
    for positions, kept in (("lattice", True), ("learned", False)):
        net = build(replace(SMALL, positions=positions, width=16), (True, True))
        with torch.no_grad():
            y = net(x, scalars)
            error = (net(x.roll((2, 1), (3, 4)), scalars) - y.roll((2, 1), (3, 4))).abs().max() / y.abs().max()
        assert (error < 1e-10) if kept else (error > 1e-2)


@pytest.mark.parametrize("config", FORMS)
def test_more_frames_and_other_grids_go_on_in_the_same_code(config):
    """With attention cut, what a point says on a part of the grid or of the frames is what it says on the whole."""
    net = build(config, (True, False), frames=(4, 3))
    x, scalars = normal(2, 6, 4, 5, 7), normal(2, 3, seed=1)
    with torch.no_grad():
        whole = net(x, scalars)
        assert whole.shape == (2, 5, 2, 5, 7), "one frame less comes out, as in training"
        assert (net(x[:, :4], scalars) - whole[:, :3]).abs().max() > 1e-3, "the tokens meet"
        for block in net.blocks:
            block.attention.out.weight.zero_()
        whole = net(x, scalars)
        assert torch.allclose(net(x[:, :4, :, :3, :4], scalars), whole[:, :3, :, :3, :4], rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", FORMS)
def test_every_point_of_every_frame_reaches_every_other(config):
    net = build(config, (True, False))
    x, scalars = normal(1, 3, 4, 3, 4), normal(1, 3, seed=1)
    other = x.clone()
    other[0, 2, 1, 0, 3] += 1
    with torch.no_grad():
        assert (net(other, scalars) - net(x, scalars)).abs().amax(dim=2).min() > 0


@pytest.mark.parametrize("config", FORMS)
def test_derivatives_agree_with_differences(config):
    """Forward mode, reverse mode and second derivatives with the plain kernel; reverse mode with the fast one too."""
    net = build(replace(config, blocks=2))
    x, scalars = normal(2, 3, 4, 3, 2), normal(2, 3, seed=1)
    v, u = normal(*x.shape, seed=2), normal(2, 3, 2, 3, 2, seed=3)

    def said(x: torch.Tensor) -> torch.Tensor:
        return net(x, scalars)

    def pulled(x: torch.Tensor) -> torch.Tensor:
        return torch.func.vjp(said, x)[1](u)[0]

    step = 1e-5
    with torch.no_grad():
        slope = (said(x + step * v) - said(x - step * v)) / (2 * step)
    with sdpa_kernel(SDPBackend.MATH):
        _, forward = torch.func.jvp(said, (x,), (v,))
        reverse = pulled(x)
        curve = (pulled(x + step * v) - pulled(x - step * v)) / (2 * step)
        probe = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((u * said(probe)).sum(), probe, create_graph=True)
        (second,) = torch.autograd.grad((gradient * v).sum(), probe)
    assert torch.allclose(forward, slope, rtol=0, atol=1e-7 * slope.abs().max().item())
    assert (u * slope).sum().item() == pytest.approx((reverse * v).sum().item(), rel=1e-7)
    assert torch.allclose(pulled(x), reverse, rtol=0, atol=1e-10 * reverse.abs().max().item())
    # the second derivative is symmetric: H v by differences of the gradient is the gradient of (gradient, v)
    assert torch.allclose(second, curve, rtol=0, atol=1e-6 * curve.abs().max().item())


def test_an_untrained_network_speaks_only_when_asked_to():
    x, scalars = normal(2, 3, 4, 4, 4).float(), normal(2, 3, seed=1).float()
    for zero_start in (True, False):
        net = build_network(
            replace(SMALL, zero_start=zero_start), in_frames=3, out_frames=3, in_channels=4, out_channels=2,
            num_scalars=3, periodic=(True, True),
        )  # fmt: skip
        with torch.no_grad():
            assert (net(x, scalars).abs().max() > 0) == (not zero_start)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"width": 30, "heads": 4}, "multiple of 2 heads = 8, got 30"),
        ({"patch": 0}, "positive"),
        ({"patch": ()}, "positive"),
        ({"blocks": 0}, "positive"),
        ({"ffn_factor": 0.0}, "positive"),
        ({"embedding": 7}, "even, got 7"),
        ({"block": "dit"}, "one of re-injection, value-residual, got 'dit'"),
        ({"positions": "none"}, "lattice or learned, got 'none'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SpaceTimeTransformerConfig(**settings)


def test_patches_and_heads_must_suit_the_axes_of_the_data():
    with pytest.raises(InputError, match=r"patch \[2, 2\] has 2 entries, but the data have 1 space axes"):
        build(replace(SMALL, patch=(2, 2)), (True,))
    with pytest.raises(InputError, match=r"width / heads must be at least 8"):
        build(replace(SMALL, width=12), (True,) * 3)
