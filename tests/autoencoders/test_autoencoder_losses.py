"""Losses of an autoencoder against their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eddycast.autoencoders import LOSSES, mae, variance_normalised, vmse, vrmse
from eddycast.autoencoders.losses import FLOOR


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_variance_normalised_is_the_published_formula():
    """<(u - v)^2> / (<(u - <u>)^2> + 1e-2) of each frame and field by itself, in loops."""
    assert FLOOR == 0.01
    target = normal(3, 2, 5, 4) * torch.tensor([0.1, 3.0])[:, None, None] + 7
    x = target + 0.2 * normal(3, 2, 5, 4, seed=1)
    found = variance_normalised(x, target)
    assert found.shape == (3, 2)
    for frame in range(3):
        for field in range(2):
            u, v = target[frame, field], x[frame, field]
            exact = ((u - v) ** 2).mean() / (((u - u.mean()) ** 2).mean() + 0.01)
            assert found[frame, field].item() == pytest.approx(exact.item(), rel=1e-12)
    assert torch.allclose(vmse(x, target), found.mean(dim=1))


def test_the_root_is_taken_per_field_and_frame():
    target = normal(4, 3, 16)
    x = target + normal(4, 3, 16, seed=2) * torch.tensor([0.1, 1.0, 5.0])[:, None]
    each = torch.cat([vrmse(x[:, [field]], target[:, [field]])[:, None] for field in range(3)], dim=1)
    torch.testing.assert_close(each.square(), variance_normalised(x, target), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(vrmse(x, target), each.mean(dim=1))
    assert (vrmse(x, target) ** 2 < vmse(x, target)).all()  # Jensen: no root of a mean


def test_the_mean_of_the_target_scores_one_but_for_the_floor():
    target = 50 + 10 * normal(2, 2, 64, 64)
    still = target.mean(dim=(2, 3), keepdim=True).expand_as(target)
    assert vmse(still, target).tolist() == pytest.approx([1, 1], rel=2e-4)
    assert (vmse(still, target) < 1).all()


def test_a_constant_field_is_measured_by_the_floor():
    target = torch.full((1, 1, 8, 8), 3.0, dtype=torch.float64)
    assert vmse(target + 0.1, target).item() == pytest.approx(0.1**2 / 0.01)
    exact = target.clone().requires_grad_()
    vrmse(exact, target).sum().backward()
    assert exact.grad is not None and torch.isfinite(exact.grad).all()  # the root has a slope there


@pytest.mark.parametrize("name", LOSSES)
def test_weights_are_those_of_a_quadrature(name):
    """A point of weight 3 counts as three points; equal weights as none."""
    loss = LOSSES[name]
    target, x = normal(2, 2, 4), normal(2, 2, 4, seed=3)
    weights = torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    tripled = torch.tensor([0, 0, 0, 1, 2, 3])
    found = loss(x, target, weights / weights.mean())
    torch.testing.assert_close(found, loss(x[..., tripled], target[..., tripled]))
    torch.testing.assert_close(loss(x, target, torch.ones(4, dtype=torch.float64)), loss(x, target))
    assert not torch.allclose(found, loss(x, target))


def test_mean_absolute_error():
    target, x = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=3)
    torch.testing.assert_close(mae(x, target), (x - target).abs().mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("name", LOSSES)
def test_no_field_drowns_another_and_zero_is_zero(name):
    """Frames are scored one by one, and an exact reconstruction has no loss."""
    loss = LOSSES[name]
    target, x = normal(3, 2, 8), normal(3, 2, 8, seed=4)
    assert loss(target, target).abs().max() < 1e-5
    torch.testing.assert_close(loss(x, target)[1:2], loss(x[1:2], target[1:2]))
