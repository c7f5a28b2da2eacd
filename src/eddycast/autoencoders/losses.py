"""What an autoencoder loses, field by field, so that no field drowns another."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

FLOOR = 1e-2
"""Added to the variance of a frame: young convection is nearly at rest, and its relative error would be all that counts."""


def variance_normalised(x: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """VMSE = <(x - target)^2> / (<(target - <target>)^2> + FLOOR), mean over space of each frame and field.

    Args:
        x, target: (batch, channel, *space), normalised.
        weights: Quadrature weights (*space) of mean one; None for equal.

    Returns: (batch, channel).
    Source: arXiv:2507.02608, section 3.
    """

    def mean(value: Tensor) -> Tensor:
        return (value if weights is None else value * weights).flatten(2).mean(dim=2)

    deviation = target - mean(target)[(...,) + (None,) * (target.ndim - 2)]
    return mean((x - target).square()) / (mean(deviation.square()) + FLOOR)


def vmse(x: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over fields of `variance_normalised`, (batch,)."""
    return variance_normalised(x, target, weights).mean(dim=1)


def vrmse(x: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over fields of its root, (batch,)."""
    return (variance_normalised(x, target, weights) + 1e-12).sqrt().mean(dim=1)


def mae(x: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute error over fields and space, (batch,)."""
    error = (x - target).abs()
    return (error if weights is None else error * weights).flatten(1).mean(dim=1)


LOSSES: dict[str, Callable[..., Tensor]] = {"vmse": vmse, "vrmse": vrmse, "mae": mae}
