"""The transformer's parts against their formulas: positions, attention, patches, and which tokens meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eddycast.errors import InputError
from eddycast.networks import TransformerConfig, build_network
from eddycast.networks.layers import bounded_coordinates, pad_to_multiple
from eddycast.networks.transformer import (
    Attention,
    patches,
    rotary_angles,
    rotary_frequencies,
    rotate,
    unpatched,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: TransformerConfig, periodic: tuple[bool, ...], *, frames=(3, 3)) -> torch.nn.Module:
    net = build_network(
        config,
        in_frames=frames[0],
        out_frames=frames[1],
        in_channels=1,
        out_channels=1,
        num_scalars=1,
        periodic=periodic,
    ).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(0.3 * normal(*weight.shape, seed=number))
    return net


@pytest.mark.parametrize("period", [None, 16.0, 7.0, 4.25, 2.0, 1.0])
def test_frequencies_go_from_a_right_angle_to_the_longest_wave(period):
    """Whole numbers of waves on a ring, also where a token shares points with the next (period 17 / 4 tokens)."""
    found = rotary_frequencies(8, period)
    if period is None:
        assert found[0].item() == pytest.approx(math.pi / 2)
        assert found[-1].item() == pytest.approx(2 * math.pi / 400)
        ratio = found[1:] / found[:-1]
        assert torch.allclose(ratio, ratio[:1].expand(7))
    else:
        waves = found * period / (2 * math.pi)
        assert torch.allclose(waves, waves.round(), atol=1e-12) and waves.min() == 1
        assert waves.max().item() == pytest.approx(max(1, round(period / 4)))


@given(
    size=st.integers(2, 9),
    shift=st.integers(1, 20),
    first=st.integers(0, 8),
    second=st.integers(0, 8),
    wrap=st.booleans(),
)
def test_products_know_the_difference_of_positions_only(size, shift, first, second, wrap):
    """On a line for shifts that stay on it; on a ring for all."""
    first, second = first % size, second % size
    if not wrap:
        shift = min(shift, size - 1 - max(first, second))
    angles = rotary_angles((1, size), (None, float(size) if wrap else None), 6, torch.device("cpu"))[0]
    query, key = normal(12), normal(12, seed=1)

    def product(i: int, j: int) -> float:
        one, other = (rotate(vector, angles[at].cos(), angles[at].sin()) for vector, at in ((query, i), (key, j)))
        return float(one @ other)

    moved = ((first + shift) % size, (second + shift) % size)
    assert product(*moved) == pytest.approx(product(first, second), abs=1e-9)
    assert abs(product(first, first) - float(query @ key)) < 1e-9


def test_positions_of_different_axes_have_their_own_pairs():
    angles = rotary_angles((2, 3, 4), (None, None, 4.0), 7, torch.device("cpu"))
    for axis in range(3):
        moving = (angles.diff(dim=axis).abs() > 1e-9).flatten(0, 2).all(dim=0)
        assert moving.nonzero().flatten().tolist() == list(range(axis, 7, 3))


def test_attention_is_the_softmax_of_turned_and_normalised_products():
    """Written out for one head of a (time 2, x 3) lattice."""
    config = TransformerConfig(width=8, heads=1, blocks=1)
    attention = Attention(config).double()
    x = normal(1, 2, 3, 8)
    angles = rotary_angles((2, 3), (None, 3.0), 4, torch.device("cpu"))
    with torch.no_grad():
        found = attention(x, angles.cos()[..., None, :], angles.sin()[..., None, :])
    q, k, v = (x[0].reshape(6, 8) @ attention.qkv.weight.T).chunk(3, dim=-1)
    turn = torch.complex(angles.cos(), angles.sin()).reshape(6, 4)

    def turned(part: torch.Tensor) -> torch.Tensor:
        part = part / part.square().mean(dim=-1, keepdim=True).sqrt()
        return torch.complex(part[:, :4], part[:, 4:]) * turn

    logits = (turned(q) @ turned(k).mH).real / math.sqrt(8)
    exact = logits.softmax(dim=-1) @ v @ attention.out.weight.T + attention.out.bias
    assert torch.allclose(found[0].reshape(6, 8), exact, atol=1e-5)  # 1e-6 in the norm of queries and keys


@pytest.mark.parametrize("attention, periodic", [("full", (True,)), ("axial", (True,)), ("axial", (False, True))])
def test_axial_attention_sees_the_lines_through_a_token(attention, periodic):
    """One block, patches of one point: what changes when one point does is its own lines, or all."""
    config = TransformerConfig(patch=1, width=16, heads=2, blocks=1, embedding=8, attention=attention)
    net, space = build(config, periodic), (5, 4)[: len(periodic)]
    x, scalars = normal(1, 3, 1, *space), normal(1, 1, seed=1)
    other = x.clone()
    other[(0, 1, 0) + (2,) * len(space)] += 1.0
    with torch.no_grad():
        changed = ((net(other, scalars) - net(x, scalars))[0, :, 0] != 0).nonzero().tolist()
    touched = (1, *(2,) * len(space))
    lattice = np.ndindex(3, *space)
    lines = [list(at) for at in lattice if sum(a != b for a, b in zip(at, touched, strict=True)) <= 1]
    everything = [list(at) for at in np.ndindex(3, *space)]
    assert changed == (everything if attention == "full" else lines)


def test_outputs_stand_at_the_last_frames():
    """With attention cut, a frame that comes out knows the frame at its place alone."""
    net = build(TransformerConfig(patch=2, width=16, heads=2, blocks=2, embedding=8), (True,), frames=(4, 2))
    with torch.no_grad():
        for block in net.blocks:
            block.attention.out.weight.zero_()
        x, scalars = normal(1, 4, 1, 8), normal(1, 1, seed=1)
        y = net(x, scalars)
        for frame in range(4):
            other = x.clone()
            other[:, frame] += 1.0
            change = (net(other, scalars) - y).abs().amax(dim=(0, 2, 3)) > 0
            assert change.tolist() == [frame == 2, frame == 3]


@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3), points=st.integers(1, 3))
def test_patches_are_blocks_of_points(sizes, points):
    patch = tuple(points + axis % 2 for axis in range(len(sizes)))
    space = tuple(size * width for size, width in zip(sizes, patch, strict=True))
    x = torch.arange(float(2 * 2 * math.prod(space))).reshape(1, 2, 2, *space)
    tokens = patches(x, patch)
    assert tokens.shape == (1, 2, *sizes, 2 * math.prod(patch))
    last = tuple(slice(size - width, size) for size, width in zip(space, patch, strict=True))
    assert torch.equal(tokens[(0, 1, *(-1,) * len(patch))], x[(0, 1, slice(None), *last)].flatten())
    assert torch.equal(unpatched(tokens, patch), x)


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    multiples=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    bits=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_filling_up_is_that_of_numpy(shape, multiples, bits):
    periodic, multiple = tuple(bits[: len(shape)]), tuple(multiples[: len(shape)])
    x = torch.arange(float(math.prod(shape))).reshape(1, 1, 1, *shape)
    exact = x.numpy()
    for axis, (size, wrap) in enumerate(zip(shape, periodic, strict=True), start=3):
        widths = [(0, 0)] * exact.ndim
        widths[axis] = (0, -size % multiple[axis - 3])
        exact = np.pad(exact, widths, mode="wrap" if wrap else "edge")
    assert np.array_equal(pad_to_multiple(x, multiple, periodic).numpy(), exact)


def test_coordinates_of_bounded_axes_go_from_wall_to_wall():
    x = torch.zeros(2, 3, 1, 4, 5, 1, dtype=torch.float64)
    where = bounded_coordinates(x, (True, False, False))
    assert where.shape == (2, 4, 5, 1) and where.dtype == x.dtype
    assert where[0, 2, :, 0].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert where[1].abs().max() == 0, "one point stands in the middle"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"width": 30, "heads": 4}, "multiple of 2 heads = 8, got 30"),
        ({"patch": 0}, "positive"),
        ({"patch": ()}, "positive"),
        ({"patch": (2, 0)}, "positive"),
        ({"blocks": 0}, "positive"),
        ({"expansion": 0.0}, "positive"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TransformerConfig(**settings)


def test_patches_and_heads_must_suit_the_axes_of_the_data():
    with pytest.raises(InputError, match=r"patch \[2, 2\] has 2 entries, but the data have 1 space axes"):
        build(TransformerConfig(patch=(2, 2)), (True,))
    with pytest.raises(InputError, match=r"width / heads must be at least 8"):
        build(TransformerConfig(width=24, heads=4), (True,) * 3)


def test_config_sets_the_size():
    def count(**changes) -> int:
        config = TransformerConfig(**{"patch": 2, "width": 8, "heads": 1, "blocks": 1, "embedding": 4, **changes})
        with torch.device("meta"):
            net = build_network(
                config, in_frames=5, out_frames=1, in_channels=3, out_channels=1, num_scalars=1, periodic=(True, False)
            )
        return sum(weight.numel() for weight in net.parameters())

    base = count()
    block = 3 * 64 + 72 + (8 * 32 + 32) + (16 * 8 + 8) + (4 * 48 + 48)
    embedding = (33 * 4 + 4) + (4 * 4 + 4)
    assert base == embedding + (4 * 4 * 8 + 8) + 5 * 8 + block + (4 * 16 + 16) + (8 * 4 + 4)
    assert count(blocks=3) == base + 2 * block
    assert count(heads=2, width=12, attention="axial") == count(heads=1, width=12)
    assert count(expansion=4.0) == base + (8 * 32 + 32) + 16 * 8
    assert count(patch=(1, 4)) == base
