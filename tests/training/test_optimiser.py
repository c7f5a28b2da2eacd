"""Orthogonalised momentum, the average of weights and the learning-rate curve against what they are by definition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from eddycast.emulators import FAMILIES, ModelShape
from eddycast.recipes import all_recipes
from eddycast.training.average import WeightAverage
from eddycast.training.loop import learning_rate_factor
from eddycast.training.optimiser import Muon, build_optimisers, orthogonalise


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(draw(size, size, seed=seed))[0]


@pytest.mark.parametrize("shape", [(16, 16), (16, 90), (90, 16), (64, 64)])
def test_orthogonalise_brings_singular_values_to_one_within_the_band_it_states(shape):
    """Kernels of this shape with singular values over two decades; smaller ones have further to go."""
    rank = min(shape)
    left, right = rotation(shape[0], 1)[:, :rank], rotation(shape[1], 2)[:, :rank]
    matrix = left @ torch.diag(torch.logspace(-1.5, 0, rank, dtype=torch.float64)) @ right.T
    result = orthogonalise(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.66
    assert values.max() < 1.3
    # The directions are those of the polar factor: the result only stretches them.
    inside = left.T @ result @ right
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-9)


def test_orthogonalise_does_not_see_the_scale():
    matrix = draw(20, 30)
    assert torch.allclose(orthogonalise(1e-3 * matrix), orthogonalise(1e3 * matrix), atol=1e-3)


def test_muon_commutes_with_rotations_of_inputs_and_outputs():
    """The law that sets it apart from AdamW: in rotated coordinates it takes the rotated step."""
    left, right = rotation(24, 1), rotation(40, 2)
    start, gradients = draw(24, 40, seed=3), [draw(24, 40, seed=seed) for seed in (4, 5, 6)]

    def path(turn):
        weight = nn.Parameter(turn(start).clone())
        optimiser = Muon([weight], lr=0.1, weight_decay=0.1)
        for gradient in gradients:
            weight.grad = turn(gradient)
            optimiser.step()
        return weight.detach()

    plain = path(lambda matrix: matrix)
    turned = path(lambda matrix: left @ matrix @ right.T)
    assert torch.allclose(turned, left @ plain @ right.T, atol=1e-10)
    assert not torch.allclose(plain, start)


def test_muon_takes_kernels_as_matrices_and_steps_with_the_rms_of_adamw():
    kernel = nn.Parameter(torch.zeros(32, 16, 3, 3, dtype=torch.float64))
    kernel.grad = draw(32, 16, 3, 3)
    Muon([kernel], lr=1.0).step()
    rms = kernel.detach().square().mean().sqrt().item()
    assert rms == pytest.approx(0.2, rel=0.25)  # singular values are within a band around one
    flat = nn.Parameter(torch.zeros(32, 144, dtype=torch.float64))
    flat.grad = kernel.grad.flatten(1)
    Muon([flat], lr=1.0).step()
    assert torch.equal(flat.detach(), kernel.detach().flatten(1))


def test_muon_decays_weights_apart_from_the_gradient():
    weight = nn.Parameter(draw(16, 16))
    start = weight.detach().clone()
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight.detach(), start * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_optimisers_find_the_minimum_of_an_ill_conditioned_quadratic(kind):
    """|A (W - W*)|^2 with condition number 30, learning rate to zero: the error ends a thousand times smaller."""
    target, stretch = draw(24, 24, seed=1), torch.logspace(-0.75, 0.75, 24, dtype=torch.float64)
    layer = nn.Linear(24, 24, bias=False, dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    (optimiser,) = build_optimisers(layer, kind=kind, learning_rate=0.1, weight_decay=0.0)
    for step in range(400):
        for group in optimiser.param_groups:
            group["lr"] = 0.1 * learning_rate_factor(step, 400, 10)
        optimiser.zero_grad()
        loss = (stretch[:, None] * (layer.weight - target)).square().sum()
        loss.backward()
        optimiser.step()
    assert (layer.weight.detach() - target).norm() < 1e-3 * target.norm()


@pytest.mark.parametrize("kind", ["muon", "adamw"])
@pytest.mark.parametrize("name", sorted(name for name in all_recipes() if name.endswith("-small")))
def test_every_parameter_is_moved_by_exactly_one_optimiser(name, kind):
    config = all_recipes()[name].emulator
    model = FAMILIES[config.kind](config, ModelShape(channels=2, periodic=(True, False), static=1, cyclic=True))
    optimisers = build_optimisers(model, kind=kind, learning_rate=1e-3, weight_decay=0.0)
    moved = [id(weight) for optimiser in optimisers for group in optimiser.param_groups for weight in group["params"]]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())
    assert isinstance(optimisers[0], Muon) == (kind == "muon")
    betas = {group["betas"] for group in optimisers[-1].param_groups}
    assert betas == {(0.9, 0.99 if kind == "muon" else 0.999)}, "as published where AdamW is alone"
    if kind == "muon":
        assert all(
            weight.ndim >= 2 and min(weight.flatten(1).shape) >= 16
            for weight in optimisers[0].param_groups[0]["params"]
        )


def test_parameters_that_do_not_learn_are_left_out():
    layer = nn.Linear(20, 20)
    layer.weight.requires_grad_(False)
    (optimiser,) = build_optimisers(layer, kind="muon", learning_rate=1e-3, weight_decay=0.0)
    assert optimiser.param_groups[0]["params"][0] is layer.bias


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_average_is_the_closed_form_of_its_recursion(decay):
    """a_n = prod d_i w_0 + sum_i (1 - d_i) prod_{j > i} d_j w_i, with d_i = min(decay, (1 + i) / (10 + i))."""
    layer = nn.Linear(3, 2).double()
    average = WeightAverage(layer, decay)
    states, decays = [layer.weight.detach().clone()], []
    for step in range(30):
        with torch.no_grad():
            layer.weight.copy_(draw(2, 3, seed=step))
        states.append(layer.weight.detach().clone())
        decays.append(min(decay, (1 + step) / (10 + step)))
        average.update()
    expected = math.prod(decays) * states[0]
    for step, rate in enumerate(decays):
        expected = expected + (1 - rate) * math.prod(decays[step + 1 :]) * states[step + 1]
    assert torch.allclose(average.weights["weight"], expected, atol=1e-14)


def test_average_is_lent_to_the_module_and_given_for_good():
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, 0.9)
    own = layer.weight.detach().clone()
    average.weights["weight"].fill_(7.0)
    with pytest.raises(RuntimeError, match="in the middle"), average.applied():
        assert torch.equal(layer.weight, torch.full((2, 3), 7.0))
        raise RuntimeError("in the middle")
    assert torch.equal(layer.weight, own)
    average.copy_to_module()
    assert torch.equal(layer.weight, torch.full((2, 3), 7.0))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_average_refuses_a_decay_that_is_none(decay):
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(nn.Linear(1, 1), decay)


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_zero():
    factors = [learning_rate_factor(step, 1000, 100) for step in range(1000)]
    cosine = [0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(1000)]
    assert factors[100:] == pytest.approx(cosine[100:])
    assert factors[:100] == pytest.approx([(step + 1) / 100 * cosine[step] for step in range(100)])
    assert factors[-1] < 1e-5
    assert max(factors) <= 1


@pytest.mark.parametrize(("steps", "warmup"), [(1, 100), (6, 100), (50, 0), (2000, 100)])
def test_learning_rate_is_positive_and_warm_up_is_a_tenth_at_most(steps, warmup):
    factors = [learning_rate_factor(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors.index(max(factors)) <= max(0, min(warmup, steps // 10) - 1) + 1
