"""Scores in pieces: every entry once, the same numbers whatever the layout, and memory that does not grow."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from eddycast.grid import Grid, periodic_axis
from eddycast.metrics import (
    coverage,
    crps,
    earth_movers_distance,
    empty_histogram,
    energy_score,
    neighbours,
    pooled_wasserstein,
    sketched_energy_score,
    sliced_wasserstein,
    variogram_score,
)
from eddycast.metrics.chunks import WORKSPACE, pieces, spans


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that any operation makes anew."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)}
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4), (2, 1, 9), (1, 100), (0, 3)])
@pytest.mark.parametrize("points", [1, 3, 4, 20, 1000])
def test_pieces_cover_every_entry_once(shape, points):
    seen = torch.zeros(shape, dtype=torch.int64)
    for place in pieces(shape, points):
        assert seen[place].numel() <= max(points, 1)
        seen[place] += 1
    assert bool((seen == 1).all())


def test_spans_cover_the_cases_within_the_workspace():
    for number, size in [(10, WORKSPACE // 3), (1, 10 * WORKSPACE), (7, 1)]:
        found = [list(range(number))[part] for part in spans(number, size)]
        assert [one for part in found for one in part] == list(range(number))
        assert all(len(part) == 1 or len(part) * size <= WORKSPACE for part in found)


@pytest.mark.parametrize("members", [1, 2, 7, 32, 129, 140])
@pytest.mark.parametrize("fair", [True, False])
def test_pieces_give_the_definition_in_any_layout(members, fair, monkeypatch):
    """Against the double sum over pairs; the layouts are contiguous, transposed, expanded."""
    if fair and members < 2:
        pytest.skip("no fair score of one member")
    monkeypatch.setattr("eddycast.metrics.ensemble.PIECE", 2000)
    ensemble, truth = normal(members, 3, 11, 5, dtype=torch.float64), normal(3, 11, 5, seed=1, dtype=torch.float64)
    pairs = sum((member - ensemble).abs().sum(dim=0) for member in ensemble)
    number = members * (members - 1 if fair else members)
    expected = (ensemble - truth).abs().mean(dim=0) - pairs / (2 * number)
    for laid in (ensemble, ensemble.mT.contiguous().mT, ensemble.movedim(0, -1).contiguous().movedim(-1, 0)):
        torch.testing.assert_close(crps(laid, truth, fair=fair), expected)
    wide = ensemble[:, :1].expand(members, 3, 11, 5)
    torch.testing.assert_close(crps(wide, truth, fair=fair)[0], expected[0])


def test_the_gradient_is_that_of_the_definition():
    """d CRPS / d x_i = sign(x_i - y) / M - (2 rank_i - M - 1) / (M (M - 1)); pieces without it, one graph with it."""
    ensemble, truth = normal(6, 40, dtype=torch.float64).requires_grad_(), normal(40, seed=1, dtype=torch.float64)
    score = crps(ensemble, truth)
    score.sum().backward()
    rank = ensemble.detach().argsort(dim=0).argsort(dim=0) + 1
    expected = (ensemble.detach() - truth).sign() / 6 - (2 * rank - 7) / 30
    torch.testing.assert_close(ensemble.grad, expected)
    with torch.no_grad():
        torch.testing.assert_close(crps(ensemble, truth), score.detach())


def test_float32_keeps_its_digits_under_an_offset():
    ensemble, truth = normal(32, 500), normal(500, seed=1)
    exact = crps(ensemble.double(), truth.double())
    torch.testing.assert_close(crps(ensemble, truth).double(), exact, rtol=0, atol=3e-6)
    kelvin = crps((ensemble.double() + 288).float(), (truth.double() + 288).float())
    assert float((kelvin - exact).abs().max()) < 8 * 288 * 2**-24  # rounding of the inputs only


SIZES = [2**17, 2**19]


@pytest.mark.parametrize("points", SIZES)
@pytest.mark.parametrize(
    "score",
    [
        lambda e, y, w: crps(e, y),
        lambda e, y, w: coverage(e, y, 0.5),
        energy_score,
        lambda e, y, w: sketched_energy_score(e, y, w, generator=torch.Generator(), size=512),
        lambda e, y, w: variogram_score(e, y, w, neighbours(w.shape, (True,))),
    ],
    ids=["crps", "coverage", "energy", "sketch", "variogram"],
)
def test_memory_beside_the_inputs_stays_in_the_workspace(score, points):
    """Members of 2 to 8 MB each, 24 of them: nothing made is larger than the workspace, or a few fields."""
    ensemble, truth = normal(24, 1, points), normal(1, points, seed=1)
    with Largest() as largest, torch.no_grad():
        score(ensemble, truth, torch.ones(points, dtype=torch.float64))
    assert largest.bytes <= max(WORKSPACE, 8 * points)
    assert largest.bytes < ensemble.numel() * 8 / 2


def test_many_cases_are_taken_a_few_at_a_time():
    """Here the batch is large and fields are small."""
    ensemble, truth, weights = normal(8, 4000, 16, 16), normal(4000, 16, 16, seed=1), torch.ones(16, 16)
    grid = Grid((periodic_axis("x", 16, 1.0), periodic_axis("y", 16, 1.0)))
    edges = torch.linspace(-3, 3, 9)
    for score in (
        lambda e, y: variogram_score(e, y, weights, neighbours((16, 16), (True, True), 1)),
        lambda e, y: energy_score(e, y, weights),
        lambda e, y: pooled_wasserstein(e[:2], y, weights),
        lambda e, y: sliced_wasserstein(e, e[:2], weights, generator=torch.Generator(), directions=2),
        lambda e, y: earth_movers_distance(y.square(), y.abs(), grid, directions=1),
        lambda e, y: empty_histogram(edges, edges).add(e[0], y, weights=weights).mass,
    ):
        with Largest() as largest, torch.no_grad():
            score(ensemble, truth)
        assert largest.bytes <= WORKSPACE
        part = score(ensemble[:, :3], truth[:3])
        assert bool(part.isfinite().all())
    few = energy_score(ensemble[:, :3], truth[:3], weights)
    torch.testing.assert_close(energy_score(ensemble, truth, weights)[:3], few)
    assert math.isfinite(float(few.sum()))
