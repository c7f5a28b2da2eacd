"""Forecasts that need no training: what every emulator has to beat."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.noise import MemberNoise


class IdentitySpace:
    """Model space is physical space; undefined points become 0."""

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        return state if conditions.valid is None else state.nan_to_num(nan=0.0)

    def decode(self, x: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        return x


class Persistence(nn.Module):
    """Tomorrow is like today: every member is the last known state, at any lead time."""

    context = 1
    overlap = 1
    window = 65
    continuous = True

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        last = int(known_mask.nonzero().max())
        keep = known_mask.to(known.device)[(...,) + (None,) * (known.ndim - 2)]
        return torch.where(keep, known, known[:, last : last + 1])


class Climatology(nn.Module):
    """Members are states of the training data, drawn anew at each lead time, from the same phase of the cycle where there is one.

    The distribution that a forecast tends to when the initial state is forgotten. Members are not trajectories: they do not
    belong together in time. Finite archives are drawn from with replacement.

    Args:
        archive: Training states in model space, (state, channel, *space).
        phase: Phase of the cycle of each, (state,), or None.
    """

    context = 1
    overlap = 1
    window = 65
    continuous = True
    num_phases = 12
    archive: Tensor
    order: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, archive: Tensor, phase: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("archive", archive)
        groups = torch.zeros(len(archive), dtype=torch.long) if phase is None else self._group(phase)
        order = groups.argsort(stable=True)
        counts = torch.bincount(groups, minlength=1 if phase is None else self.num_phases)
        self.register_buffer("order", order)
        self.register_buffer("starts", counts.cumsum(0) - counts)
        self.register_buffer("counts", counts)

    def _group(self, phase: Tensor) -> Tensor:
        return (phase * self.num_phases + 1e-3).floor().long().remainder(self.num_phases)

    def advance(
        self,
        known: Tensor,
        known_mask: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        uniform = noise.uniform((len(lead_times),), key=(window, 0, "climatology"), device=known.device)
        phase = conditions.phase(lead_times)
        counts = torch.full_like(uniform, len(self.order), dtype=torch.long)
        starts = torch.zeros_like(counts)
        if phase is not None and len(self.counts) > 1:
            groups = self._group(phase.to(known.device)).expand_as(counts)
            seen = self.counts[groups] > 0  # a phase without training states draws from all of them
            counts = torch.where(seen, self.counts[groups], counts)
            starts = torch.where(seen, self.starts[groups], starts)
        pick = starts + (uniform * counts).long().minimum(counts - 1)
        states = self.archive[self.order[pick]]
        keep = known_mask.to(known.device)[(...,) + (None,) * (known.ndim - 2)]
        return torch.where(keep, known, states.to(known))
