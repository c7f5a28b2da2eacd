"""Local attention against its law written out point by point, and its four computations against one another."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from eddycast.networks.local_attention import BACKENDS, block_size, effective_radii, fastest, local_attention

HEADS, FEATURES = 2, 3
CASES = [
    ((13,), (5,), (True,)),
    ((13,), (5,), (False,)),
    ((61,), (9,), (True,)),  # blocks of 31, 31: the last is one short
    ((61,), (9,), (False,)),
    ((100,), (17,), (True,)),  # blocks of 25
    ((7,), (7,), (True,)),  # the whole ring
    ((6,), (9,), (True,)),  # more than the ring
    ((6,), (21,), (False,)),
    ((1,), (3,), (True,)),
    ((50,), (1,), (False,)),
    ((11, 19), (3, 5), (True, False)),
    ((4, 30), (7, 5), (False, True)),
    ((5, 6, 9), (3, 3, 5), (True, False, True)),
]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fields(space: tuple[int, ...]) -> list[Tensor]:
    return [normal(2, *space, HEADS, FEATURES, seed=seed) for seed in range(3)]


def tables(window: tuple[int, ...], positions: str) -> dict[str, Tensor]:
    found = {}
    if "bias" in positions:
        found["bias"] = normal(HEADS, *window, seed=3)
    if "vectors" in positions:
        found["key_vectors"] = normal(HEADS, *window, FEATURES, seed=4)
        found["value_vectors"] = normal(HEADS, *window, FEATURES, seed=5)
    return found


def written_out(q, k, v, window, periodic, bias, key_vectors, value_vectors) -> Tensor:
    """The law for one point after the other; a neighbour met before is not met again."""
    space, out = q.shape[1:-2], torch.zeros_like(v)
    for batch, head in itertools.product(range(len(q)), range(HEADS)):
        for point in itertools.product(*(range(size) for size in space)):
            logits, values, seen = [], [], set()
            by_distance = sorted(itertools.product(*(range(points) for points in window)), key=lambda place: sum(
                (at - points // 2) ** 2 for at, points in zip(place, window, strict=True)
            ))  # fmt: skip
            for place in by_distance:
                there = [at + o - points // 2 for at, o, points in zip(point, place, window, strict=True)]
                if any(not 0 <= at < size and not wrap for at, size, wrap in zip(there, space, periodic, strict=True)):
                    continue
                there = tuple(at % size for at, size in zip(there, space, strict=True))
                if there in seen:
                    continue
                seen.add(there)
                key, value = k[(batch, *there, head)], v[(batch, *there, head)]
                key, value = key + key_vectors[(head, *place)], value + value_vectors[(head, *place)]
                logits.append(q[(batch, *point, head)] @ key / math.sqrt(FEATURES) + bias[(head, *place)])
                values.append(value)
            out[(batch, *point, head)] = torch.stack(logits).softmax(dim=0) @ torch.stack(values)
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "space, window, periodic",
    [
        ((8,), (5,), (True,)),
        ((8,), (5,), (False,)),
        ((5,), (5,), (True,)),
        ((5,), (9,), (True,)),
        ((3, 5), (3, 3), (True, False)),
    ],
)
def test_the_law_point_by_point(backend, space, window, periodic):
    q, k, v = fields(space)
    learned = tables(window, "bias and vectors")
    found = local_attention(q, k, v, window=window, periodic=periodic, backend=backend, **learned)
    exact = written_out(q, k, v, window, periodic, *learned.values())
    assert torch.allclose(found, exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["none", "bias", "vectors", "bias and vectors"])
@pytest.mark.parametrize("space, window, periodic", CASES)
def test_all_backends_are_one_function_with_one_derivative(space, window, periodic, positions):
    learned = tables(window, positions)
    given = [part.requires_grad_() for part in (*fields(space), *learned.values())]
    weight, found = normal(2, *space, HEADS, FEATURES, seed=9), {}
    for backend in (*BACKENDS, "auto"):
        out = local_attention(*given[:3], window=window, periodic=periodic, backend=backend, **learned)
        found[backend] = [out, *torch.autograd.grad((out * weight).sum(), given)]
    for backend, parts in found.items():
        for part, exact in zip(parts, found["unfold"], strict=True):
            assert torch.allclose(part, exact, rtol=0, atol=1e-10), backend


def test_both_fast_backends_are_picked_and_blocks_need_not_divide():
    """What the cases above rely on."""
    assert [fastest((size,), (4,)) for size in (44, 64, 96, 400)] == ["dense", "dense", "blocks", "blocks"]
    assert fastest((100,), (45,)) == "dense", "a block and its halo would cover the ring"
    assert fastest((32, 32), (3, 3)) == "blocks" and fastest((6, 6), (3, 3)) == "dense"
    assert block_size(61, 4, 1) == 21 and block_size(96, 4, 1) == 24 and block_size(400, 40, 1) == 40
    for size in range(1, 300):
        points = block_size(size, 4, 1)
        assert 0 <= -(-size // points) * points - size < -(-size // points), "at most one point a block is filled up"


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_second_order_and_forward_mode(backend):
    window, periodic = (3, 3), (True, False)
    q, k, v = (part[:1, :3, :4].requires_grad_() for part in fields((3, 4)))
    bias = tables(window, "bias")["bias"].requires_grad_()

    def attend(q, k, v, bias):
        return local_attention(q, k, v, window=window, periodic=periodic, bias=bias, backend=backend)

    assert torch.autograd.gradcheck(attend, (q, k, v, bias), check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, (q, k, v, bias), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shifts_and_tiles(backend):
    """On a ring: moved fields give the moved result, and three copies of a field three copies of its result."""
    learned, settings = tables((5,), "bias and vectors"), {"window": (5,), "periodic": (True,), "backend": backend}
    q, k, v = fields((29,))
    out = local_attention(q, k, v, **settings, **learned)
    for shift in (1, 13):
        moved = local_attention(*(part.roll(shift, 1) for part in (q, k, v)), **settings, **learned)
        assert torch.allclose(moved, out.roll(shift, 1), rtol=0, atol=1e-13)
    tiled = local_attention(*(part.repeat(1, 3, 1, 1) for part in (q, k, v)), **settings, **learned)
    assert torch.allclose(tiled, out.repeat(1, 3, 1, 1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrap", [True, False])
def test_nothing_stands_beyond_an_end(backend, wrap):
    """Weights sum to one also there, where zeros beyond the end would take their share; a bias for one offset alone is a shift."""
    q, k, v = fields((30,))
    settings = {"window": (5,), "periodic": (wrap,), "backend": backend}
    constant = local_attention(q, k, torch.ones_like(v), bias=tables((5,), "bias")["bias"], **settings)
    assert torch.allclose(constant, torch.ones_like(v), rtol=0, atol=1e-13)
    bias = torch.zeros(HEADS, 5, dtype=torch.float64)
    bias[:, 4] = 1e4  # two points to the right
    shifted = local_attention(q, k, v, bias=bias, **settings)
    assert torch.equal(shifted[:, :28], v[:, 2:])
    if wrap:
        assert torch.equal(shifted[:, 28:], v[:, :2])
    else:  # the right neighbour but one is not there: the others share
        logits = torch.einsum("bhd,bohd->boh", q[:, 29], k[:, 27:]) / math.sqrt(FEATURES)
        assert torch.allclose(shifted[:, 29], (logits.softmax(dim=1)[..., None] * v[:, 27:]).sum(dim=1), atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_window_larger_than_the_ring_meets_everyone_once(backend):
    q, k, v = fields((7,))
    settings = {"periodic": (True,), "backend": backend}
    everyone = local_attention(torch.zeros_like(q), k, v, window=(21,), **settings)
    assert torch.allclose(everyone, v.mean(dim=1, keepdim=True).expand_as(v), rtol=0, atol=1e-13)
    large = tables((21,), "bias")["bias"]
    cut = local_attention(q, k, v, window=(7,), bias=large[:, 7:14], **settings)
    assert torch.equal(local_attention(q, k, v, window=(21,), bias=large, **settings), cut)
    q, k, v = fields((6,))  # even: the point opposite is left out
    most = local_attention(torch.zeros_like(q), k, v, window=(21,), **settings)
    assert torch.allclose(most[:, 0], v[:, [0, 1, 2, 4, 5]].mean(dim=1), rtol=0, atol=1e-13)
    assert effective_radii((21, 21, 3), (7, 7, 9), (True, False, True)) == (3, 6, 1)


@pytest.mark.parametrize("backend", ["dense", "blocks"])
def test_tables_first_made_in_inference_serve_training(backend):
    q, k, v = fields((53 if backend == "dense" else 59,))  # sizes that no other test has used
    with torch.inference_mode():
        local_attention(q, k, v, window=(3,), periodic=(True,), backend=backend, **tables((3,), "bias and vectors"))
    learned = {name: table.requires_grad_() for name, table in tables((3,), "bias and vectors").items()}
    local_attention(q, k, v, window=(3,), periodic=(True,), backend=backend, **learned).sum().backward()
    assert all(table.grad is not None for table in learned.values())


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"window": (4,)}, r"odd to have a centre, got \[4\]"),
        ({"window": (0,)}, r"odd to have a centre, got \[0\]"),
        ({"window": (3, 3)}, "1 space axes need as many entries"),
        ({"periodic": (True, True)}, "1 space axes need as many entries"),
        ({"backend": "flex"}, "auto, unfold, offsets, dense, blocks; got 'flex'"),
    ],
)
def test_windows_without_a_centre_and_unknown_backends_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        local_attention(*fields((8,)), **{"window": (3,), "periodic": (True,), **changes})
