"""Random discs: their law, their distances, and that a layout is its number."""

import pytest
import torch

from eddycast.errors import InputError
from eddycast.simulators import get_system
from eddycast.simulators.channel_flow import dirichlet_mask, obstacle_mask
from eddycast.simulators.obstacles import discs, inside_discs

MANY = range(400)


def test_discs_keep_their_distances():
    for layout in MANY:
        x, y, radius = discs(layout, 4).T
        assert radius.min() >= 0.05 and radius.max() <= 0.1
        assert (x - radius).min() >= 0.25 and (x + radius).max() <= 2.2 - 0.25
        assert (y - radius).min() >= 0.05 - 1e-12 and (y + radius).max() <= 0.41 - 0.05 + 1e-12
        apart = torch.hypot(x[:, None] - x, y[:, None] - y) - radius[:, None] - radius
        assert apart[~torch.eye(4, dtype=torch.bool)].min() >= 0.05 - 1e-12


def test_the_first_disc_is_uniform():
    """Each draw in units of its range, mean 1/2 and variance 1/12, to 4 standard errors."""
    x, y, radius = torch.stack([discs(layout, 1)[0] for layout in MANY]).T
    unit = torch.stack(
        [(radius - 0.05) / 0.05, (x - 0.25 - radius) / (1.7 - 2 * radius), (y - 0.05 - radius) / (0.31 - 2 * radius)]
    )
    assert unit.min() >= 0 and unit.max() <= 1
    assert (unit.mean(dim=1) - 0.5).abs().max() < 4 / (12 * len(MANY)) ** 0.5
    assert (unit.var(dim=1) * 12 - 1).abs().max() < 4 * (0.8 / len(MANY)) ** 0.5  # kurtosis 1.8 of a uniform number
    assert torch.corrcoef(unit).triu(1).abs().max() < 4 / len(MANY) ** 0.5


def test_a_layout_is_its_number():
    assert torch.equal(discs(7, 4), discs(7, 4)) and not torch.equal(discs(7, 4), discs(8, 4))
    assert torch.equal(discs(7, 4)[:2], discs(7, 2)) and discs(7, 0).shape == (0, 3)
    assert discs(2**20 - 1, 8).shape == (8, 3)


def test_no_room_is_said():
    with pytest.raises(InputError, match="no room for 40 discs"):
        discs(0, 40)


def test_masks_are_those_of_the_run():
    """Discs as large as they are (to the staircase), at their places; with walls and inflow in the other mask."""
    system = get_system("channel-obstacles")
    grid = system.grid((441, 83))
    run = torch.tensor([1e-3, 1.0, 3, 11], dtype=torch.float64)
    bodies, fixed = obstacle_mask(run, grid), dirichlet_mask(run, grid)
    places = discs(11, 3)
    assert torch.equal(bodies, inside_discs(places, grid).double())
    area = torch.pi * (places[:, 2] ** 2).sum()
    assert bodies.sum().item() * 0.005 * (0.41 / 82) == pytest.approx(area.item(), rel=0.02)
    centres = (places[:, :2] / 0.005).round().long()
    assert all(bodies[x, y] == 1 for x, y in centres.tolist())
    assert fixed[0].all() and fixed[:, 0].all() and fixed[:, -1].all()
    assert torch.equal(fixed[1:, 1:-1], bodies[1:, 1:-1]) and not bodies[0].any() and not bodies[:, 0].any()
    assert not obstacle_mask(torch.tensor([1e-3, 1.0, 0, 11]), grid).any()
