"""The local transformer: its formula, what scalars and noise do, how far it sees, and what physical units mean."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from eddycast.errors import InputError
from eddycast.networks import LocalTransformer, LocalTransformerConfig, build_network
from eddycast.networks.local_transformer import LatentGaussian

SMALL = LocalTransformerConfig(window=3, width=8, heads=2, blocks=2, expansion=2.0, embedding=8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: LocalTransformerConfig, periodic=(True,), *, scalars: int = 2) -> LocalTransformer:
    """With random weights, but for those of the modulations that start at zero."""
    net = build_network(
        config, in_frames=2, out_frames=1, in_channels=1, out_channels=1, num_scalars=scalars, periodic=periodic
    ).double()
    assert isinstance(net, LocalTransformer)
    inert = {id(weight) for layer in net.modulations[1:] for weight in layer.parameters()}
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            if id(weight) not in inert:
                weight.copy_(0.4 * normal(*weight.shape, seed=number))
    return net


def told(net: LocalTransformer) -> LocalTransformer:
    """With weights of the modulations that have left their start."""
    with torch.no_grad():
        for number, weight in enumerate(net.modulations.parameters()):
            weight.add_(0.3 * normal(*weight.shape, seed=500 + number))
    return net


def inputs(*space: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    return normal(batch, 2, 1, *space), normal(batch, 2, seed=1)


@pytest.mark.parametrize("gate", [False, True])
def test_the_formula_written_out(gate):
    """One block, one head, a ring of 6 points, one entry."""
    net = told(build(replace(SMALL, heads=1, blocks=1, gate=gate)))
    x, scalars = inputs(6, batch=1)
    embedding, last = net.modulations
    parts = last(embedding(scalars))[0].split(8)
    block = net.blocks[0]

    def normalised(z: Tensor) -> Tensor:
        return (z - z.mean(dim=-1, keepdim=True)) / (z.var(dim=-1, correction=0, keepdim=True) + 1e-5).sqrt()

    with torch.no_grad():
        z = x[0, :, 0].T @ net.stem.weight.T + net.stem.bias
        q, k, v = block.attention.qkv(normalised(z) * (1 + parts[0]) + parts[1]).split(8, dim=-1)
        rows = []
        for at in range(6):
            near = [(at - 1) % 6, at, (at + 1) % 6]
            logits = k[near] @ q[at] / math.sqrt(8) + block.attention.bias[0]
            rows.append(logits.softmax(dim=0) @ v[near])
        z = z + (1 + parts[4] if gate else 1) * block.attention.out(torch.stack(rows))
        hidden = F.gelu(block.there(normalised(z) * (1 + parts[2]) + parts[3]))
        z = z + (1 + parts[5] if gate else 1) * block.back(hidden)
        exact = net.head(z)[:, 0]
        assert torch.allclose(net(x, scalars)[0, 0, 0], exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("noise", ["none", "global"])
def test_frozen_modulations_are_exactly_inert(gate, noise):
    """Also after the other weights were trained: gamma is 1 and delta 0, to the bit. Trained, they tell the scalars."""
    net = build(replace(SMALL, gate=gate, noise=noise))
    x, scalars = inputs(9)
    drawn = None if noise == "none" else normal(2, *net.noise_shape((9,)), seed=3)
    net.modulations.requires_grad_(False)
    optimiser = torch.optim.AdamW([weight for weight in net.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(3):
        optimiser.zero_grad()
        net(x, scalars, noise=drawn).square().sum().backward()
        optimiser.step()
    with torch.no_grad():
        y = net(x, scalars, noise=drawn)
        assert torch.equal(net(x, 10 * scalars + 3, noise=drawn), y)
        assert (told(net)(x, scalars, noise=drawn) - net(x, 10 * scalars + 3, noise=drawn)).abs().max() > 1e-2


def test_modulations_are_all_that_only_scalars_reach():
    """An MLP and a last layer for each block; the maps of noise are elsewhere. A start without scalars is the start with any."""
    net = told(build(replace(SMALL, noise="global", gate=True)))
    assert len(net.modulations) == 1 + len(net.blocks)
    others = {name.split(".")[0] for name, _ in net.named_parameters() if not name.startswith("modulations")}
    assert others == {"stem", "blocks", "head", "noise_maps"}
    x, scalars = inputs(9)
    y = net(x, scalars, noise=normal(2, 32, seed=3))
    y.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in net.parameters())
    none = build(SMALL, scalars=0)
    assert len(none.modulations) == 0
    some = build(SMALL)
    some.load_state_dict(none.state_dict(), strict=False)
    with torch.no_grad():
        assert torch.equal(none(x, scalars[:, :0]), some(x, scalars))


@pytest.mark.parametrize("backend", ["auto", "unfold", "offsets", "dense", "blocks"])
@pytest.mark.parametrize("positions", ["bias", "vectors"])
def test_shifts_tiles_and_other_lengths(positions, backend):
    """By single points on a ring that blocks do not divide, and on one three times as long."""
    net = told(build(replace(SMALL, window=5, positions=positions, backend=backend)))
    x, scalars = inputs(97)
    with torch.no_grad():
        y = net(x, scalars)
        assert torch.allclose(net(x.roll(5, -1), scalars), y.roll(5, -1), rtol=0, atol=1e-11)
        assert torch.allclose(net(x.repeat(1, 1, 1, 3), scalars), y.repeat(1, 1, 1, 3), rtol=0, atol=1e-11)
        single = net.float()(x.roll(5, -1).float(), scalars.float())
    assert (single - y.roll(5, -1)).abs().max() < 1e-5 * y.abs().max()


@pytest.mark.parametrize("periodic", [(True,), (False,)])
def test_a_point_knows_those_within_its_radius_and_no_others(periodic):
    """R = N r: two blocks of a window of 7 see 6 points to each side, across the seam of a ring and not beyond a wall."""
    net = build(replace(SMALL, window=7), periodic)
    x, scalars = inputs(40)
    other = x.clone()
    other[..., 2] += 1
    with torch.no_grad():
        changed = (net(other, scalars) - net(x, scalars)).abs().amax(dim=(0, 1, 2)) > 0
    known = {at % 40 if periodic[0] else at for at in range(2 - 6, 2 + 7)}
    assert changed.nonzero().flatten().tolist() == sorted(at for at in known if at >= 0)


def test_bounded_axes_are_told_their_coordinate():
    """Without the column of the coordinate, a constant field stays constant up to the walls; with it, it does not."""
    net = build(SMALL, (False,))
    x, scalars = torch.ones(1, 2, 1, 12, dtype=torch.float64), normal(1, 2)
    with torch.no_grad():
        assert net(x, scalars).std() > 1e-2
        net.stem.weight[:, -1] = 0
        assert net(x, scalars).std() < 1e-12


PHYSICAL = replace(SMALL, window=9, units="physical", reference=0.2)


def smooth(points: int) -> Tensor:
    """Two frames of waves on a ring of length 12.8."""
    phase = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
    return torch.stack([phase.sin() + (3 * phase).cos(), (2 * phase).cos() - phase.sin()])[None, :, None]


def test_physical_units_make_one_function_of_all_resolutions():
    """The same weights at spacings 0.2, 0.1 ... 0.0125 tend to one map of functions, with order 2; in units of points they do not.

    The window of 9 points at 0.2 reaches 0.8 to each side at all of them."""
    net, scalars = told(build(PHYSICAL)), normal(1, 2, seed=1)
    plain = told(build(replace(PHYSICAL, units="points", reference=None)))
    sizes = (64, 128, 256, 512, 1024)
    with torch.no_grad():
        found = [net(smooth(n), scalars, spacing=(12.8 / n,))[..., :: n // 64] for n in sizes]
        stretched = [plain(smooth(n), scalars)[..., :: n // 64] for n in (64, 128)]
    steps = [(fine - coarse).abs().max().item() for coarse, fine in pairwise(found)]
    assert [a / b for a, b in pairwise(steps[1:])] == pytest.approx([4, 4], rel=0.15)
    assert steps[0] < 0.1 * found[-1].std()
    assert (stretched[0] - stretched[1]).abs().max() > 10 * steps[0]


def test_physical_bias_at_its_reference_is_a_table_whose_ends_count_half():
    net, scalars = told(build(replace(PHYSICAL, window=(5, 3)), (True, False))), normal(2, 2, seed=1)
    points = told(build(replace(PHYSICAL, window=(5, 3), units="points", reference=None), (True, False)))
    points.load_state_dict({key: value for key, value in net.state_dict().items() if "smooth" not in key}, strict=False)
    lines = torch.arange(-2, 3).double() / 2, torch.arange(-1, 2).double()
    halves = torch.outer(torch.tensor([0.5, 1, 1, 1, 0.5]), torch.tensor([0.5, 1, 0.5])).double()
    with torch.no_grad():
        for mine, other in zip(net.blocks, points.blocks, strict=True):
            values = mine.attention.smooth(torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)).movedim(-1, 0)
            other.attention.bias.copy_(values + halves.log())
        x = normal(2, 2, 1, 9, 8)
        given = net(x, scalars, spacing=(0.2, 0.2))
    assert torch.allclose(given, points(x, scalars), rtol=0, atol=1e-12)


def test_physical_windows_follow_the_spacing_and_end_at_the_ring():
    net = build(PHYSICAL)
    for step, size, window in ((0.2, 64, 9), (0.1, 64, 17), (0.4, 64, 5), (5.0, 64, 3), (0.1, 12, 11), (0.2, 9, 9)):
        offsets = net._offsets((size,), (step,))
        assert offsets.shape == (window, 2)
        assert torch.allclose(offsets[:, 0], torch.arange(-(window // 2), window // 2 + 1).double() * step / 0.8)
        ring = window >= size - 1
        assert torch.allclose(offsets[[0, -1], 1].exp(), torch.full((2,), 1.0 if ring else 0.5).double())
    fixed = build(replace(PHYSICAL, reference=None))
    assert fixed._offsets((64,), (0.1,)).shape == (9, 2)
    x, scalars = inputs(12)
    with pytest.raises(InputError, match=r"need the spacing .* passes none: set units to 'points'"):
        net(x, scalars)
    with pytest.raises(InputError, match=r"passes \[1.0, 1.0\]"):
        net(x, scalars, spacing=(1.0, 1.0))


def test_latent_noise_has_the_law_that_its_heads_say():
    latent = LatentGaussian(3, start=0.1).double()
    z, draws = normal(1, 4, 3), 40000
    with torch.no_grad():
        for number, weight in enumerate(latent.parameters()):
            weight.copy_(0.5 * normal(*weight.shape, seed=number))
        latent.log_std.bias[0], latent.log_std.bias[1] = -50.0, 50.0  # beyond the bounds
        sample = latent(z.expand(draws, 4, 3), normal(draws, 4, 3, seed=8))
        sigma = latent.log_std(z)[0].clamp(-7, 2).exp()
        mean = latent.mean(z)[0]
    assert torch.allclose(sigma[:, 0], torch.full((4,), math.exp(-7)).double())
    assert torch.allclose(sigma[:, 1], torch.full((4,), math.exp(2)).double())
    assert ((sample.mean(dim=0) - mean) / sigma * math.sqrt(draws)).abs().max() < 4
    assert ((sample.var(dim=0) / sigma**2 - 1) * math.sqrt(draws / 2)).abs().max() < 4


def test_a_deterministic_network_goes_on_with_latent_noise_where_it_stood():
    """The heads start at mu = z: the same function without noise, and members near it with some."""
    before, after = told(build(SMALL)), build_like(replace(SMALL, noise="latent"))
    missing = after.load_state_dict(before.state_dict(), strict=False)
    assert missing.unexpected_keys == [] and {key.split(".")[0] for key in missing.missing_keys} == {"latent"}
    x, scalars = inputs(16, batch=64)
    with torch.no_grad():
        y = before(x, scalars)
        assert torch.allclose(after(x, scalars), y, rtol=0, atol=1e-14)
        members = torch.stack([after(x, scalars, noise=normal(64, 8, 16, seed=seed)) for seed in range(8)])
    spread = members.std(dim=0).mean() / y.std()
    assert 0.005 < spread < 0.2, spread


def build_like(config: LocalTransformerConfig) -> LocalTransformer:
    """As it starts."""
    net = build_network(
        config, in_frames=2, out_frames=1, in_channels=1, out_channels=1, num_scalars=2, periodic=(True,)
    )
    assert isinstance(net, LocalTransformer)
    return net.double()


@pytest.mark.parametrize("noise, space, shape", [
    ("none", (7,), None), ("latent", (7,), (8, 7)), ("latent", (3, 5), (8, 3, 5)), ("global", (3, 5), (32,)),
])  # fmt: skip
def test_shapes_of_noise(noise, space, shape):
    net = build(replace(SMALL, noise=noise), (True,) * len(space))
    assert net.noise_shape(space) == shape
    x, scalars = normal(2, 2, 1, *space), normal(2, 2, seed=1)
    if shape is not None:
        drawn, zero = normal(2, *shape, seed=2), torch.zeros(2, *shape, dtype=torch.float64)
        with torch.no_grad():
            y = net(x, scalars)
            assert torch.equal(net(x, scalars, noise=zero), y), "no noise is noise of zero"
            change = net(x, scalars, noise=drawn) - y
            assert change.abs().flatten(1).amax(dim=1).min() > 1e-3
            one = net(x[:1], scalars[:1], noise=drawn[:1])
            assert torch.allclose(one, (y + change)[:1], rtol=0, atol=1e-12), "each entry has its own"
    with pytest.raises(ValueError, match=rf"noise '{noise}' on .* takes numbers of shape"):
        net(x, scalars, noise=normal(2, 5))


@pytest.mark.parametrize("noise", ["latent", "global"])
def test_noise_moves_with_the_field(noise):
    """Latent noise stands at points and moves with them; a global vector has no place."""
    net = build(replace(SMALL, noise=noise))
    x, scalars = inputs(11)
    drawn = normal(2, *net.noise_shape((11,)), seed=2)
    moved = drawn.roll(4, -1) if noise == "latent" else drawn
    with torch.no_grad():
        y = net(x, scalars, noise=drawn)
        assert torch.allclose(net(x.roll(4, -1), scalars, noise=moved), y.roll(4, -1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", ["latent", "global"])
def test_a_narrow_ensemble_opens_under_the_score(noise):
    """Targets of spread one about nothing, from the start of a network: the fair CRPS of two members widens it to that spread."""
    net = build_like(replace(SMALL, noise=noise)).float()
    with torch.no_grad():
        net.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        for number, weight in enumerate(weight for weight in net.parameters() if weight.ndim > 1):
            if weight is not net.head.weight and weight.abs().max() > 0 and not (weight == 1).any():
                scale = weight.std()
                weight.copy_(scale * normal(*weight.shape, seed=number))
    x, scalars = torch.zeros(128, 2, 1, 8), torch.zeros(128, 2)

    def members(seed: int) -> Tensor:
        drawn = [normal(128, *net.noise_shape((8,)), seed=seed + part).float() for part in (0, 10**6)]
        return torch.stack([net(x, scalars, noise=eps) for eps in drawn])

    with torch.no_grad():
        narrow = members(1).std(dim=1).mean().item()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for step in range(150):
        pair, truth = members(step), normal(128, 1, 1, 1, seed=5 * 10**6 + step).float()
        loss = (pair - truth).abs().mean() - (pair[0] - pair[1]).abs().mean() / 2
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        wide = members(10**5).std(dim=1).mean().item()
    assert narrow < 0.1 and 0.8 < wide < 1.2, (narrow, wide)


def test_number_of_weights():
    """12 C^2 + 9 C + h K + 4 C (H + 1) a block, and an MLP of two hidden layers for all.

    The fact sheet has 231 204 for C = 128, K = 9, H = 64, with an MLP of one hidden layer, 2 H weights, in each block.
    """

    def count(**changes) -> int:
        config = LocalTransformerConfig(**changes)
        with torch.device("meta"):
            net = build_network(
                config, in_frames=2, out_frames=1, in_channels=3, out_channels=3, num_scalars=2, periodic=(True, False)
            )
        return sum(weight.numel() for weight in net.parameters())

    def block(c: int, h: int, window: int, wide: int = 64) -> int:
        return 12 * c**2 + 9 * c + h * window + 4 * c * (wide + 1)

    assert block(128, 4, 9) == 231_204 - 2 * 64
    around = (7 * 128 + 128) + (128 * 3 + 3) + (2 * 64 + 64) + (64 * 64 + 64)
    base = count(window=(9, 1))
    assert base == 6 * block(128, 4, 9) + around
    assert count(window=5, width=96, blocks=4, expansion=2.0) == 4 * (
        block(96, 4, 25) - 2 * 2 * 96**2 - 2 * 96
    ) + (7 * 96 + 96) + (96 * 3 + 3) + (2 * 64 + 64) + (64 * 64 + 64)  # fmt: skip
    assert count(window=(9, 1), positions="vectors") == base + 6 * (2 * 9 * 128 - 4 * 9)
    assert count(window=9, units="physical") == base + 6 * (3 * 32 + 33 * 4 - 4 * 9)
    assert count(window=(9, 1), gate=True) == base + 6 * 2 * 128 * 65
    assert count(window=(9, 1), noise="latent") == base + 2 * (128**2 + 128)
    assert count(window=(9, 1), noise="global", noise_size=16) == base + 6 * 16 * 4 * 128


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"window": 8}, r"odd to have a centre, got \[8\]"),
        ({"window": (5, 4)}, r"odd to have a centre, got \[5, 4\]"),
        ({"window": ()}, "odd to have a centre"),
        ({"width": 30}, "multiple of heads = 4, got 30"),
        ({"blocks": 0}, "must be positive"),
        ({"noise_start": 0.0}, "must be positive"),
        ({"positions": "rotary"}, "bias, vectors, got 'rotary'"),
        ({"noise": "white"}, "none, latent, global, got 'white'"),
        ({"backend": "flex"}, "auto, unfold, offsets, dense, blocks, got 'flex'"),
        ({"units": "physical", "positions": "vectors"}, "know positions 'bias' only"),
        ({"reference": 0.3}, "needs units 'physical'"),
        ({"dropout": 1.0}, "dropout of a local transformer"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        LocalTransformerConfig(**settings)


def test_the_window_must_suit_the_axes_of_the_data():
    with pytest.raises(InputError, match=r"window \[3, 3\] has 2 entries, but the data have 1 space axes"):
        build(replace(SMALL, window=(3, 3)))
