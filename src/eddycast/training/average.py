"""Exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eddycast.networks import running_statistics


def kept(module: nn.Module) -> dict[str, Tensor]:
    """What a module is left with by training: its parameters, and the running statistics of its batch norms, which belong to them."""
    return {name: weight.detach() for name, weight in module.named_parameters()} | running_statistics(module)


class WeightAverage:
    """average <- d average + (1 - d) weights, with d = min(decay, (1 + n) / (10 + n)) at update n, so that the start is forgotten.

    Running statistics of batch norms are averaged with the weights. Those of the last weights would not fit the averaged ones; neither,
    exactly, does their average, which is good where weights change slowly over 1 / (1 - d) steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"The decay of the average must lie in [0, 1), got {decay}.")
        self.module = module
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: tensor.clone() for name, tensor in kept(module).items()}

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        self.num_updates += 1
        own = kept(self.module)
        targets: list[Tensor] = list(self.weights.values())
        torch._foreach_lerp_(targets, [own[name] for name in self.weights], 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for name, tensor in kept(self.module).items():
            tensor.copy_(self.weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged weights inside, its own again afterwards."""
        own = {name: tensor.clone() for name, tensor in kept(self.module).items()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in kept(self.module).items():
                    tensor.copy_(own[name])
