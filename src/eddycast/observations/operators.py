"""Observation operators: what a noise-free instrument sees of physical states.

An operator keeps one entry per cell and puts 0 where nothing is observed. Values are stored with 0 there as well, so
that unobserved entries never have a residual, for any noise; a batch may then hold cases with different masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ObservationOperator(Protocol):
    """Noise-free observation (*batch, *observed) of a physical state (*batch, time, channel, *space)."""

    def __call__(self, state: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class MaskOperator:
    """State where `mask`, else 0; linear and its own adjoint.

    Args:
        mask: True where observed, bool; its shape broadcasts from the right against (*batch, time, channel, *space).

    Values behind the mask may be NaN (land): neither they nor their gradients get through.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool:
            raise ValueError(f"mask must be bool, got {self.mask.dtype}: pass mask > 0.")

    def __call__(self, state: Tensor) -> Tensor:
        return torch.where(self.mask.to(state.device), state, torch.zeros((), dtype=state.dtype, device=state.device))


@dataclass(frozen=True, eq=False)
class CoarsenOperator:
    """Weighted mean over blocks of cells, H x = sum_block(w x) / sum_block(w); blocks without weight give 0.

    Args:
        factor: Cells per block along each space axis; each divides its axis.
        weights: Non-negative weight of each cell (*space), such as its area; 0 keeps a cell out (land). None means
            equal.
        mask: True where a block is observed, shape broadcasting against the coarse (*batch, time, channel, *blocks);
            None means everywhere.
    """

    factor: tuple[int, ...]
    weights: Tensor | None = None
    mask: Tensor | None = None

    @property
    def cell_axes(self) -> int:
        return len(self.factor)

    def __call__(self, state: Tensor) -> Tensor:
        if self.weights is None:
            coarse = block_sum(state, self.factor) / torch.tensor(self.factor).prod().item()
        else:
            weights = self.weights.to(dtype=state.dtype, device=state.device)
            total = block_sum(weights, self.factor)
            filled = torch.where(weights > 0, state, torch.zeros((), dtype=state.dtype, device=state.device))
            share = torch.where(total > 0, 1 / total.clamp(min=torch.finfo(state.dtype).tiny), torch.zeros_like(total))
            coarse = block_sum(weights * filled, self.factor) * share
        return coarse if self.mask is None else MaskOperator(self.mask)(coarse)


@dataclass(frozen=True, eq=False)
class PointwiseOperator:
    """A function of each value seen by another operator, f(H x) with f(0) = 0: an instrument that saturates, say.

    Args:
        function: Differentiable and pointwise, with f(0) = 0, so that unobserved entries stay 0 (`torch.atan`).
        operator: The linear part H.
    """

    function: Callable[[Tensor], Tensor]
    operator: ObservationOperator

    def __post_init__(self) -> None:
        at_zero = self.function(torch.zeros(1)).item()
        if at_zero != 0:
            raise ValueError(f"function must map 0 to 0, got {at_zero}: subtract f(0) from it and from the values.")

    def __call__(self, state: Tensor) -> Tensor:
        return self.function(self.operator(state))


def block_sum(state: Tensor, factor: tuple[int, ...]) -> Tensor:
    """Sum over blocks of the last len(factor) axes, (*batch, *space) -> (*batch, *blocks).

    Raises: ValueError when a factor does not divide its axis.
    """
    dims = len(factor)
    space = state.shape[state.ndim - dims :]
    if any(size % cells for size, cells in zip(space, factor, strict=True)):
        raise ValueError(f"Blocks of {factor} do not divide the space {tuple(space)}: choose divisors of each axis.")
    split = [n for size, cells in zip(space, factor, strict=True) for n in (size // cells, cells)]
    blocks = state.reshape(*state.shape[: state.ndim - dims], *split)
    return blocks.sum(dim=tuple(range(-2 * dims + 1, 0, 2)))
