"""Springs of a mesh: each counted once, forces that are the slope of the energy and obey Newton's third law, rest on the lattice."""

import itertools
import math

import pytest
import torch

from eddycast.numerics.springs import lattice, spring_energy, spring_force

SHAPES = [(10, 10), (2, 2), (5, 3), (2, 7)]


def enumerated(shape):
    """Every pair of particles at Chebyshev distance 1, with the length at rest, by looking at all pairs."""
    nodes = list(itertools.product(*map(range, shape)))
    return [
        (a, b, math.dist(a, b))
        for a, b in itertools.combinations(nodes, 2)
        if max(abs(a[0] - b[0]), abs(a[1] - b[1])) == 1
    ]


def pushed(shape, batch=(), size=0.3, seed=0):
    noise = torch.randn(*batch, 2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return lattice(shape) + size * noise.tanh()


def test_published_mesh_has_342_springs():
    springs = enumerated((10, 10))
    assert len(springs) == 342
    assert sum(rest == 1 for *_, rest in springs) == 180 and sum(rest > 1.4 for *_, rest in springs) == 162


@pytest.mark.parametrize("shape", SHAPES)
def test_force_and_energy_are_the_sums_over_all_pairs(shape):
    position = pushed(shape)
    force, total = torch.zeros_like(position), 0.0
    for a, b, rest in enumerated(shape):
        apart = position[:, *a] - position[:, *b]
        length = apart.norm()
        force[:, *a] -= (length - rest) * apart / length
        force[:, *b] += (length - rest) * apart / length
        total += (length - rest).square().item() / 2
    assert (spring_force(position) - force).abs().max() < 1e-13
    assert spring_energy(position).item() == pytest.approx(total, rel=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_force_is_minus_the_slope_of_the_energy(shape):
    position = pushed(shape, batch=(3, 2)).requires_grad_()
    energy = spring_energy(position)
    assert energy.shape == (3, 2)
    (slope,) = torch.autograd.grad(energy.sum(), position)
    assert (spring_force(position) + slope).abs().max() < 1e-13


@pytest.mark.parametrize("shape", SHAPES)
def test_no_net_force_and_no_net_torque(shape):
    """Of a mesh that is fixed nowhere: actions equal reactions, and point along the line between the two."""
    position = pushed(shape, batch=(4,))
    force = spring_force(position)
    assert force.abs().max() > 0.1
    assert force.sum(dim=(-2, -1)).abs().max() < 1e-12
    torque = position[:, 0] * force[:, 1] - position[:, 1] * force[:, 0]
    assert torque.sum(dim=(-2, -1)).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lattice_rests_wherever_it_lies(dtype):
    """Exactly on the integers, and turned and moved as a whole to rounding."""
    at_rest = lattice((6, 5), dtype=dtype)
    assert spring_force(at_rest).abs().max() == 0 and spring_energy(at_rest) == 0
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=dtype)
    moved = torch.einsum("ab,bxy->axy", turn, at_rest) + 3.7
    assert spring_force(moved).abs().max() < 300 * torch.finfo(dtype).eps  # places up to 10, eight springs each


def test_all_transforms_of_torch_pass():
    """Forward mode, reverse mode and vmap agree: the forces are summed in place, which some of them could refuse."""
    position, direction = pushed((4, 4)), pushed((4, 4), seed=1)
    forward = torch.func.jvp(spring_force, (position,), (direction,))[1]
    jacobian = torch.func.jacrev(spring_force)(position)
    assert (forward - torch.einsum("axybzw,bzw->axy", jacobian, direction)).abs().max() < 1e-12
    many = pushed((4, 4), batch=(3,))
    assert torch.equal(torch.func.vmap(spring_force)(many), spring_force(many))


def test_positions_have_two_components():
    with pytest.raises(ValueError, match="2, n_x, n_y"):
        spring_force(torch.zeros(4, 10, 10))
