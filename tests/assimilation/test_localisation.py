"""Local analyses against a loop over points, limits in which they are global, tapers and distances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eddycast.assimilation import localisation
from eddycast.assimilation.localisation import LocalUpdate, Places, distance_along, gaspari_cohn
from eddycast.assimilation.updates import etkf_weights, mean_preserving_rotation, mixed
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.noise import MemberNoise

MEMBERS, CASES, ENTRIES = 6, 2, 17
GRID = Grid((periodic_axis("x", 9, 4.5), Axis("y", (0.0, 0.7, 1.0, 2.5), boundary=("wall", "wall"))))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positions(seed: int = 5) -> torch.Tensor:
    spots = torch.rand(CASES, ENTRIES, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return spots * torch.tensor([4.5, 2.5], dtype=torch.float64)


def update(radius: float, cells: int = 1, where: torch.Tensor | None = None, **changes) -> LocalUpdate:
    y, d = normal(CASES, MEMBERS, ENTRIES, seed=1), normal(CASES, ENTRIES, seed=2)
    made = LocalUpdate(
        y - y.mean(dim=1, keepdim=True),
        d,
        positions() if where is None else where,
        GRID,
        Places.of(GRID, cells),
        radius,
    )
    return replace(made, **changes)


def states() -> torch.Tensor:
    return normal(MEMBERS, CASES, 3, 2, 9, 4, seed=3)


def test_the_taper_is_that_of_gaspari_and_cohn():
    """Values of their formula in exact arithmetic, smooth to the second derivative, and a correlation (no negative eigenvalue)."""
    z = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.5], dtype=torch.float64)  # radius 1: half of it is their c
    right = [1.0, 263 / 384, 5 / 24, 19 / 1152, 0.0, 0.0]
    torch.testing.assert_close(gaspari_cohn(z, 1.0), torch.tensor(right, dtype=torch.float64), rtol=0, atol=1e-14)
    fine = torch.linspace(0, 1.1, 11001, dtype=torch.float64)
    second = torch.diff(gaspari_cohn(fine, 1.0), n=2) / 1e-8
    assert torch.diff(second).abs().max() < 0.05  # no jump: the largest third derivative times the step
    line = torch.linspace(0, 8, 161, dtype=torch.float64)
    matrix = gaspari_cohn((line[:, None] - line).abs(), 1.7)
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12


def test_distances_go_the_shorter_way_round():
    ring, wall = GRID.axes
    there = torch.tensor([0.2, 2.3, 4.4, 4.6, torch.nan], dtype=torch.float64)
    here = torch.zeros(5, dtype=torch.float64)
    torch.testing.assert_close(
        distance_along(ring, here, there).tolist(), [0.2, 2.2, 0.1, 0.1, 0.0], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        distance_along(wall, here, there).tolist(), [0.2, 2.3, 4.4, 4.6, 0.0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("cells", [1, 2, 4])
@pytest.mark.parametrize("rotate", [False, True])
def test_each_place_is_an_ensemble_transform_with_tapered_precision(cells, rotate):
    """A loop over points, each with the observations near the centre of its block; some have no place along an axis."""
    where = positions()
    where[:, 3, 0] = torch.nan
    where[0, 5] = torch.nan
    rotation = None
    if rotate:
        rotation = mean_preserving_rotation(
            MEMBERS, MemberNoise(0, torch.arange(CASES), torch.zeros(CASES, dtype=torch.long)), key=(0, 0, "t")
        )
    made, x, radius = update(1.3, cells, where, rotation=rotation), states(), 1.3
    found = made(x)
    coordinates = [torch.tensor(axis.coordinates, dtype=torch.float64) for axis in GRID.axes]
    for i in range(9):
        for j in range(4):
            centre = [
                axis[place // cells * cells :][:cells].mean() for axis, place in zip(coordinates, (i, j), strict=True)
            ]
            for case in range(CASES):
                gap = torch.stack([(centre[a] - where[case, :, a]).abs() for a in range(2)])
                gap[0] = torch.minimum(gap[0], 4.5 - gap[0])
                distance = gap.nan_to_num(nan=0.0).square().sum(dim=0).sqrt()
                root = gaspari_cohn(distance, radius).sqrt()
                w, t = etkf_weights(made.deviations[case] * root, made.innovation[case] * root)
                t = t if rotation is None else rotation[case] @ t
                right = mixed(x[:, case, :, :, i, j], w + t)
                torch.testing.assert_close(found[:, case, :, :, i, j], right, rtol=0, atol=1e-10)


def test_without_a_limit_and_without_places_it_is_the_global_transform():
    x = states()
    for made in (update(1e7), update(0.1, where=torch.full((CASES, ENTRIES, 2), torch.nan, dtype=torch.float64))):
        w, t = etkf_weights(made.deviations, made.innovation)
        torch.testing.assert_close(made(x), mixed(x, w[:, None] + t), rtol=0, atol=1e-10)
        torch.testing.assert_close(made.shared, w[:, None] + t)


def test_points_without_observations_near_them_stay_as_they_are():
    where = torch.tensor([0.5, 0.7], dtype=torch.float64).expand(CASES, ENTRIES, 2)
    x = states()
    change = (update(1.1, where=where)(x) - x).abs().amax(dim=(0, 1, 2, 3))
    far = torch.zeros(9, 4, dtype=torch.bool)
    for i in range(9):
        for j, y in enumerate((0.0, 0.7, 1.0, 2.5)):
            gap = min(abs(0.5 * i - 0.5), 4.5 - abs(0.5 * i - 0.5))
            far[i, j] = (gap**2 + (y - 0.7) ** 2) ** 0.5 >= 1.1
    assert change[far].max() < 1e-13 < change[~far].min()


def test_chunks_do_not_show(monkeypatch):
    x = states().float()
    whole = [update(1.3, cells)(x) for cells in (1, 2)]
    monkeypatch.setattr(localisation, "CHUNK", 3 * MEMBERS**2 * CASES)
    for cells, expected in zip((1, 2), whole, strict=True):
        parts = update(1.3, cells)(x)
        assert parts.dtype == torch.float32
        torch.testing.assert_close(parts, expected, rtol=0, atol=1e-6)
