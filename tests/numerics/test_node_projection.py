"""Direct solution of block tridiagonal systems; projection and transport on the nodes of a channel."""

import pytest
import torch

from eddycast.numerics.block_tridiagonal import factorise
from eddycast.numerics.node_projection import cell_divergence, cell_divergence_transpose, node_projection
from eddycast.numerics.node_transport import node_pressure, node_tendency

DOUBLE = torch.float64
SQUARE, OBLONG = (0.1, 0.1), (0.1, 0.13)


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def channel(shape, batch=3):
    """Free nodes without a body, with a block, and with a single node at rest."""
    free = torch.zeros(batch, *shape, dtype=DOUBLE)
    free[:, 1:, 1:-1] = 1
    if batch > 1:
        free[1, 4:7, 3:6] = free[2, 3, 2] = 0
    return free


def admissible(free, *group, seed=0):
    """Random velocities with zero walls and bodies, and some inflow."""
    velocity = normal(*group, *free.shape[:-2], 2, *free.shape[-2:], seed=seed) * free[..., None, :, :]
    velocity[..., 0, 0, 1:-1] = 1.0
    return velocity


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("rows", [1, 3])
def test_block_tridiagonal_systems_are_solved(blocks, rows):
    """Against a dense matrix put together from the same blocks."""
    size = 4
    root, below = normal(5, blocks, size, size), normal(5, blocks - 1, size, size, seed=1)
    diagonal = root @ root.mT + 8 * torch.eye(size, dtype=DOUBLE)
    dense = torch.zeros(5, blocks, size, blocks, size, dtype=DOUBLE)
    for k in range(blocks):
        dense[:, k, :, k] = diagonal[:, k]
        if k:
            dense[:, k, :, k - 1], dense[:, k - 1, :, k] = below[:, k - 1], below[:, k - 1].mT
    right = normal(5, blocks, rows, size, seed=2)
    x = factorise(diagonal, below).solve(right)
    again = torch.einsum("bkilj,blrj->bkri", dense, x)
    assert (again - right).abs().max() < 1e-12


def test_blocks_must_fit():
    with pytest.raises(ValueError, match="K - 1"):
        factorise(torch.eye(2).expand(3, 2, 2), torch.zeros(3, 2, 2))


@pytest.mark.parametrize("spacing", [SQUARE, OBLONG])
def test_divergence_and_its_transpose_are_adjoint_and_exact_for_linear_fields(spacing):
    velocity, pressure = normal(2, 9, 7), normal(8, 6, seed=1)
    one = (cell_divergence(velocity, spacing) * pressure).sum()
    other = (velocity * cell_divergence_transpose(pressure, spacing)).sum()
    assert one.item() == pytest.approx(other.item(), rel=1e-12)
    x, y = torch.arange(9, dtype=DOUBLE)[:, None] * spacing[0], torch.arange(7, dtype=DOUBLE) * spacing[1]
    linear = torch.stack([2 * x + 3 * y, 5 * x - 0.5 * y])
    assert (cell_divergence(linear, spacing) - 1.5).abs().max() < 1e-12
    slope = cell_divergence_transpose((4 * (x + spacing[0] / 2) - y)[:-1, :-1], spacing)[:, 1:-1, 1:-1]
    assert torch.allclose(slope, torch.tensor([-4.0, 1.0], dtype=DOUBLE)[:, None, None].expand_as(slope))


@pytest.mark.parametrize("spacing", [SQUARE, OBLONG])
@pytest.mark.parametrize("shape", [(12, 8), (13, 9)])
def test_projection_is_exact_and_nearest(spacing, shape):
    """No divergence, fixed nodes untouched, applied twice as once, and what is taken away is orthogonal to all that may stay."""
    free = channel(shape)
    project = node_projection(free, spacing, dtype=DOUBLE, device="cpu")
    assert project.split == (spacing == SQUARE)
    given, other = admissible(free), admissible(free, seed=5)
    velocity, pressure = project(given)
    assert cell_divergence(velocity, spacing).abs().max() < 1e-10
    held = (free == 0)[:, None].expand_as(given)
    assert torch.equal(velocity[held], given[held])
    assert (project(velocity)[0] - velocity).abs().max() < 1e-10
    mass = torch.ones(shape, dtype=DOUBLE)
    mass[-1] = 0.5
    stays = project(other)[0] - velocity  # zero at fixed nodes, no divergence
    assert (mass * (given - velocity) * stays).sum(dim=(-3, -2, -1)).abs().max() < 1e-9
    slope = -free[:, None] * cell_divergence_transpose(pressure, spacing) / mass
    assert torch.allclose(given - velocity, slope, atol=1e-11)


def test_colours_apart_are_the_whole():
    """Square cells, whose colours are solved apart, against cells that are square to 1e-7 and are solved together."""
    free = channel((13, 8))
    apart, together = (
        node_projection(free, spacing, dtype=DOUBLE, device="cpu") for spacing in (SQUARE, (0.1, 0.1 * (1 + 1e-7)))
    )
    assert apart.split and not together.split
    given = admissible(free)
    assert (apart(given)[0] - together(given)[0]).abs().max() < 1e-5


@pytest.mark.parametrize("spacing", [SQUARE, OBLONG])
def test_states_in_front_share_the_geometry(spacing):
    """A group of states, each with the geometries of the batch; or one geometry for all."""
    for free in (channel((12, 8)), channel((12, 8), batch=1)):
        project = node_projection(free, spacing, dtype=DOUBLE, device="cpu")
        given = admissible(free, 2, 3)
        velocity, pressure = project(given)
        alone, alone_pressure = project(given[1, 2])
        assert velocity.shape == given.shape and pressure.shape == (2, 3, len(free), 11, 7)
        assert torch.allclose(velocity[1, 2], alone, atol=1e-12)
        assert torch.allclose(pressure[1, 2], alone_pressure, atol=1e-9)


def test_single_precision_leaves_rounding_alone():
    free = channel((40, 20), batch=1)
    project = node_projection(free, (0.01, 0.01), dtype=torch.float32, device="cpu")
    given = admissible(free).float()
    velocity, _ = project(given)
    assert velocity.dtype == torch.float32
    left, before = (cell_divergence(one, (0.01, 0.01)).abs().max() for one in (velocity, given))
    assert left < 2e-5 * before


def transport_error(points, viscosity):
    """Of a smooth flow that blows everywhere towards the outflow and one wall, at inner nodes and beside the sides."""
    spacing = (1 / points, 1 / points)
    x = torch.linspace(0, 1, points + 1, dtype=DOUBLE)[:, None]
    y = torch.linspace(0, 1, points + 1, dtype=DOUBLE)
    u, v = 2 + torch.sin(2 * x + y), -1.5 + 0.5 * torch.cos(x - 3 * y)
    u_x, u_y, lap_u = 2 * torch.cos(2 * x + y), torch.cos(2 * x + y), -5 * torch.sin(2 * x + y)
    v_x, v_y, lap_v = -0.5 * torch.sin(x - 3 * y), 1.5 * torch.sin(x - 3 * y), -5 * torch.cos(x - 3 * y)
    exact = torch.stack([viscosity * lap_u - u * u_x - v * u_y, viscosity * lap_v - u * v_x - v * v_y])
    error = node_tendency(torch.stack([u, v]), torch.tensor(viscosity, dtype=DOUBLE), spacing) - exact
    quarter = points // 4
    inner = error[:, quarter:-quarter, quarter:-quarter].abs().max()
    sides = error[:, 1:, 1:-1].abs().max() if viscosity == 0 else inner
    return torch.stack([inner, sides])


@pytest.mark.parametrize("viscosity, inner, sides", [(0.0, 3, 2), (1.0, 2, 2)])
def test_orders_of_transport(viscosity, inner, sides):
    """Advection: third order inside, second at the sides, outflow included. Diffusion: second."""
    coarse, fine = transport_error(32, viscosity), transport_error(64, viscosity)
    assert (coarse / fine).log2().tolist() == pytest.approx([inner, sides], abs=0.25)


def test_what_nothing_moves_has_no_tendency():
    tendency = node_tendency(normal(4, 2, 9, 7), torch.tensor(0.1, dtype=DOUBLE), SQUARE)
    assert tendency.shape == (4, 2, 9, 7)
    assert not tendency[..., 0, :].any() and not tendency[..., 0].any() and not tendency[..., -1].any()
    assert tendency[..., 1:, 1:-1].all()


def test_pressure_on_nodes_is_exact_for_planes_and_blind_to_chequerboards():
    x, y = torch.arange(9, dtype=DOUBLE)[:, None], torch.arange(7, dtype=DOUBLE)
    plane = 3 * x - 2 * y + 1
    board = 1 - 2 * ((x + y) % 2)
    cells = (plane + 0.5)[:-1, :-1]  # the plane at their centres
    assert (node_pressure(cells) - plane).abs().max() < 1e-12
    seen = node_pressure(cells + board[:-1, :-1]) - plane
    assert seen[1:-1].abs().max() < 1e-12 and seen[:, 1:-1].abs().max() < 1e-12  # all but the four corners


def test_divergence_of_a_known_field():
    x, y = OBLONG[0] * torch.arange(9, dtype=DOUBLE)[:, None], OBLONG[1] * torch.arange(7, dtype=DOUBLE)
    velocity = torch.stack([2 * x + 5 * y, -3 * y + 7 * x]).expand(4, 5, 2, 9, 7)
    found = cell_divergence(velocity, OBLONG)
    assert found.shape == (4, 5, 8, 6) and (found + 1).abs().max() < 1e-12
