"""Optimisers: orthogonalised momentum for matrices, AdamW for the rest; SOAP where it is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from eddycast.errors import InputError
from eddycast.training.preconditioned import soap

# Odd quintic whose iteration drives singular values in (0, 1] towards 1, steep at 0. Source: K. Jordan, Muon (2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
SMALLEST_MATRIX = 16


def orthogonalise(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix to (rows, columns), to about 30 % in each singular value, by Newton-Schulz iteration."""
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each matrix is orthogonalised, so that all directions of a layer learn at the same pace.

    Kernels of convolutions are matrices (out, in * kernel). The update has the rms 0.2 of a typical AdamW step, so both optimisers
    take the same learning rate. Weight decay is decoupled. torch.optim.Muon does the same for 2-D parameters only.

    Source: K. Jordan (2024), "Muon"; scale and decay: arXiv:2502.16982, section 2.2.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "gradients are computed by the caller"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]).flatten(1)
                scale = 0.2 * max(update.shape) ** 0.5
                update = orthogonalise(update).view_as(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * scale)


def build_optimisers(
    module: nn.Module,
    *,
    kind: str,
    learning_rate: float,
    weight_decay: float,
    rates: Iterable[tuple[nn.Module, float]] = (),
) -> list[torch.optim.Optimizer]:
    """Optimisers that together move every parameter of the module once, except those that need no gradient.

    Parameters of the modules in `rates` form groups of their own, whose `factor` multiplies the learning rate.

    With `muon`, it takes the parameters that are matrices of at least 16 x 16 once flattened; AdamW takes biases, scales, and
    first and last layers of few channels. With `adamw` or `soap` there is that one alone.

    Raises: InputError for `soap` where its package is not installed, or with rates: it keeps one step for all it moves.
    """
    rates = tuple(rates)
    if kind == "soap" and any(factor != 1 for _, factor in rates):
        raise InputError(
            "The optimiser soap has one learning rate for all weights: take muon or adamw, or set the rates to 1."
        )
    factors = {id(parameter): factor for part, factor in rates for parameter in part.parameters()}
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        large = parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= SMALLEST_MATRIX
        (matrices if large and kind == "muon" else others).append(parameter)
    optimisers: list[torch.optim.Optimizer] = []
    if matrices:
        optimisers.append(Muon(grouped(matrices, factors), lr=learning_rate, weight_decay=weight_decay))
    if others and kind == "soap":
        optimisers.append(soap(grouped(others, factors), learning_rate=learning_rate, weight_decay=weight_decay))
    elif others:
        betas = (0.9, 0.99 if kind == "muon" else 0.999)  # alone: the usual ones, as published recipes have them
        optimisers.append(
            torch.optim.AdamW(grouped(others, factors), lr=learning_rate, betas=betas, weight_decay=weight_decay)
        )
    return optimisers


def grouped(parameters: list[Tensor], factors: dict[int, float]) -> list[dict[str, Any]]:
    """Groups of parameters, one for each factor of the learning rate, in the order in which they first come."""
    groups: dict[float, list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": members, "factor": factor} for factor, members in groups.items()]
