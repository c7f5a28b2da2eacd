"""What an observation says about a state, and its derivatives through a denoiser.

Model: value = operator(state) + error, error ~ N(0, std^2), in the physical units of the observation. Inside this
package the observed axes of each sample are flattened to one, entries are divided by std (whitened), and an entry that
is missing (value NaN or std infinite) has weight 0 = 1 / infinity, so it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion.protocols import Denoiser

Operator = Callable[[Tensor], Tensor]
ToState = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GaussianLikelihood:
    """p(value | state) = N(value; operator(state), std^2), independent errors.

    Args:
        operator: States (batch, time, channel, *space) in physical units to what is observed of them,
            (batch, *observed); made of differentiable torch operations, one sample independent of the next.
        value: Observed values, broadcastable to (batch, *observed), physical units; NaN where nothing was observed.
        std: Standard deviation of the observation error, broadcastable likewise, positive; infinite switches off.

    Raises: ValueError when a std is NaN or not positive.
    """

    operator: Operator
    value: Tensor
    std: float | Tensor

    def __post_init__(self) -> None:
        std = torch.as_tensor(self.std)
        if not bool((std > 0).all()):
            raise ValueError(
                f"std must be positive, got {std.min().item()}: give the size of the observation error, "
                "or infinity where nothing is observed."
            )

    def whitened(self, predicted: Tensor) -> tuple[Tensor, Tensor]:
        """Residual (value - predicted) / std and weight 1 / std, both (batch, observed); 0 where missing."""
        value = self.value.to(predicted).expand_as(predicted).flatten(1)
        std = torch.as_tensor(self.std, dtype=predicted.dtype, device=predicted.device).expand_as(predicted).flatten(1)
        weight = torch.where(torch.isnan(value), 0, 1 / std)
        residual = torch.where(weight > 0, weight * (value - predicted.flatten(1)), 0)
        return residual, weight

    def log_density(self, state: Tensor) -> Tensor:
        """log p(value | state) of each sample, (batch,), over the observed entries; differentiable in the state."""
        residual, weight = self.whitened(self.operator(state))
        normalisation = torch.where(weight > 0, torch.log(weight) - 0.5 * math.log(2 * math.pi), 0)
        return (normalisation - 0.5 * residual**2).sum(dim=-1)


@dataclass(frozen=True)
class Linearisation:
    """First-order model of the whitened observations around the denoised state of each sample.

    With D the denoiser at x_t, J = dD/dx_t, H' the derivative of the whitened observations at D and r their residual:
    `pull_back` is H'^T, `pull_back_to_noisy` is J^T, `push_forward` is H'. Products are matrix free and repeatable.
    """

    mean: Tensor  # D(x_t), (batch, *shape), detached
    residual: Tensor  # (batch, observed), detached
    weight: Tensor  # (batch, observed): 1 / std, 0 where missing
    sizes: tuple[int, ...]  # observed entries of each likelihood, in their order
    _noisy: Tensor
    _mean: Tensor
    _free_mean: Tensor
    _predicted: Tensor
    _probe: Tensor
    _pulled: Tensor

    def pull_back(self, cotangent: Tensor) -> Tensor:
        """H'^T of (batch, observed), the shape of the mean."""
        return _vjp(self._predicted, self._free_mean, cotangent.to(self._predicted))

    def pull_back_to_noisy(self, cotangent: Tensor) -> Tensor:
        """J^T of the shape of the mean, the shape of x_t: one pass back through the denoiser.

        Only where `linearise` kept the denoiser's graph (`jacobian=True`).
        """
        return _vjp(self._mean, self._noisy, cotangent)

    def push_forward(self, tangent: Tensor) -> Tensor:
        """H' of the shape of the mean, (batch, observed): the derivative of H'^T u in u, without forward mode."""
        return _vjp(self._pulled, self._probe, tangent)


def _vjp(output: Tensor, source: Tensor, cotangent: Tensor) -> Tensor:
    (product,) = torch.autograd.grad(output, source, cotangent, retain_graph=True, materialize_grads=True)
    return product.detach()


def linearise(
    denoiser: Denoiser,
    x_t: Tensor,
    time: Tensor,
    to_state: ToState,
    likelihoods: tuple[GaussianLikelihood, ...],
    *,
    jacobian: bool = True,
) -> Linearisation | Tensor:
    """Denoise and linearise the observations there; just the denoised mean when it cannot change them.

    Gradients are switched on inside, under a caller's no_grad too (but not its inference_mode, whose tensors autograd
    refuses), and nothing returned carries a graph to the outside. Without `jacobian` the denoiser runs without gradients
    and keeps no activations.
    """
    with torch.set_grad_enabled(jacobian):
        noisy = x_t.detach().requires_grad_(jacobian)
        mean = denoiser(noisy, time)
    with torch.enable_grad():
        free_mean = mean.detach().requires_grad_()
        state = to_state(free_mean)
        residuals, weights, predictions = [], [], []
        for likelihood in likelihoods:
            predicted = likelihood.operator(state)
            residual, weight = likelihood.whitened(predicted.detach())
            residuals.append(residual)
            weights.append(weight)
            predictions.append(weight * predicted.flatten(1))
        predicted = torch.cat(predictions, dim=1)
        if not (predicted.requires_grad and (mean.requires_grad or not jacobian)):
            return mean.detach()
        probe = torch.zeros_like(predicted).requires_grad_()
        (pulled,) = torch.autograd.grad(predicted, free_mean, probe, create_graph=True, materialize_grads=True)
    return Linearisation(
        mean.detach(),
        torch.cat(residuals, dim=1),
        torch.cat(weights, dim=1),
        tuple(weight.shape[1] for weight in weights),
        noisy,
        mean,
        free_mean,
        predicted,
        probe,
        pulled,
    )


def as_tuple(likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...]) -> tuple[GaussianLikelihood, ...]:
    """Independent observations of the same states multiply their likelihoods; one is the usual case."""
    return (likelihood,) if isinstance(likelihood, GaussianLikelihood) else tuple(likelihood)
