"""Training of an autoencoder, as a family among the others: it has stages, but it forecasts nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from eddycast.autoencoders import (
    KINDS,
    LOSSES,
    Autoencoder,
    AutoencoderConfig,
    Components,
    ResidualScale,
    draw_view,
)
from eddycast.conditions import Conditions
from eddycast.emulators.network import ModelShape
from eddycast.emulators.protocols import Stage, TrainingBatch


@dataclass(frozen=True)
class AutoencodingConfig(AutoencoderConfig):
    """Settings of an autoencoder and of its training.

    Args:
        loss: A key of `autoencoders.LOSSES`: `vmse` as published, `vrmse` its root, `mae`.
        augment: Views that are drawn of a batch in each step, of `autoencoders.KINDS`.
        residual_width: Width of a small network that learns, in a second stage, how far a reconstruction is from the state at each
            point, so that forecasts can be dressed with what compression has lost (`LatentSpace.dressed`); 0 leaves it out.
        Others as in `AutoencoderConfig`.
    """

    kind: Literal["autoencoder"] = "autoencoder"
    loss: str = "vmse"
    augment: tuple[str, ...] = ()
    residual_width: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {self.loss!r}.")
        if strange := [name for name in self.augment if name not in KINDS]:
            raise ValueError(f"augment takes {', '.join(KINDS)}, got {strange[0]!r}.")
        if self.residual_width < 0:
            raise ValueError(f"residual_width must not be negative, got {self.residual_width}.")


class Autoencoding(nn.Module):
    """An autoencoder with the loss of single frames, each step of another view of its batch.

    One view is drawn for a whole batch. Points are weighted by the quadrature of the grid.
    """

    def __init__(self, config: AutoencodingConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.network = Autoencoder(config, shape.channels, shape.periodic)
        self.residual = None
        if config.residual_width:
            self.residual = ResidualScale(shape.channels, config.residual_width, shape.periodic)
        self.components = Components(shape.vector_axes, shape.vectors, len(shape.periodic)) if shape.vectors else None

    def prepare(self, x: Tensor) -> None:
        """Nothing is measured: states come normalised."""

    def stages(self) -> tuple[Stage, ...]:
        first = Stage("autoencoder", 1, self.network, self._loss)
        if self.residual is None:
            return (first,)
        return (first, Stage("residual", 1, self.residual, self._residual_loss, share=0.15))

    def _view(self, batch: TrainingBatch) -> Tensor:
        x = batch.x.flatten(0, 1)
        if not self.config.augment or self.components is None:
            return x
        periodic = batch.conditions.grid.periodic
        return draw_view(self.config.augment, x.shape[2:], periodic, batch.generator)(x, self.components)

    def _residual_loss(self, batch: TrainingBatch) -> Tensor:
        """Negative log-likelihood of what the reconstruction misses, N(0, scale^2) at each point."""
        assert self.residual is not None, "there is no such stage without it"
        x = self._view(batch)
        self.network.eval()  # what it loses in use: dropout belongs to the first stage
        with torch.no_grad():
            again, _ = self.network(x)
        scale = self.residual(again)
        return (scale.log() + 0.5 * ((x - again) / scale).square()).mean()

    def _loss(self, batch: TrainingBatch) -> Tensor:
        x, config = self._view(batch), self.config
        if config.dropout == 0:
            again, _ = self.network(x)
        else:  # its draws come from the default generator, and must be those of this step alone
            seed = int(torch.randint(2**31, (), generator=batch.generator, device=batch.generator.device))
            with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
                torch.default_generator.manual_seed(seed)
                if x.is_cuda:
                    torch.cuda.default_generators[x.device.index or 0].manual_seed(seed)
                again, _ = self.network(x)
        return LOSSES[config.loss](again, x, quadrature(batch.conditions, x)).mean()


def quadrature(conditions: Conditions, x: Tensor) -> Tensor | None:
    """Weights of the grid (*space) of mean one like x, None where all are equal."""
    if all(axis.weights is None for axis in conditions.grid.axes):
        return None
    return conditions.grid.weights().to(x)
