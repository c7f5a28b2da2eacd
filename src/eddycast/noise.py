"""Noise that is addressed, never consumed.

A draw depends on (seed, case, member) and on a key (window, step, site) and on nothing else, so a member gets the same numbers
bit by bit in a batch of 1 or 64, on any rank, after any restart. The generator is Philox, whose 256-bit counter *is* the address.
Source: Salmon et al. (2011), doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class MemberNoise:
    """Gaussian noise and uniform numbers for a batch of members.

    Args:
        seed: Non-negative seed of the whole ensemble, below 2**64.
        cases: Number of the case (initial time) of each batch entry, (*batch), integers below 2**32.
        members: Number of the member of each batch entry, (*batch), integers below 2**32.
    """

    seed: int
    cases: Tensor
    members: Tensor

    @classmethod
    def grid(cls, seed: int, cases: int | Tensor, members: int | Tensor) -> MemberNoise:
        """Addresses (member, case) of an ensemble: `cases` and `members` are counts or explicit numbers."""
        case = torch.arange(cases) if isinstance(cases, int) else cases
        member = torch.arange(members) if isinstance(members, int) else members
        shape = (len(member), len(case))
        return cls(seed, case.expand(shape), member[:, None].expand(shape))

    @property
    def batch(self) -> torch.Size:
        return self.cases.shape

    def flatten(self) -> MemberNoise:
        return MemberNoise(self.seed, self.cases.reshape(-1), self.members.reshape(-1))

    def select(self, index: Tensor | slice) -> MemberNoise:
        return MemberNoise(self.seed, self.cases[index], self.members[index])

    def draw(
        self,
        shape: tuple[int, ...],
        *,
        key: tuple[int, int, str],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Standard normal numbers (*batch, *shape) at the address key = (window, step, site)."""
        return self._fill(shape, key, dtype, device, uniform=False)

    def uniform(
        self,
        shape: tuple[int, ...],
        *,
        key: tuple[int, int, str],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Numbers uniform in [0, 1), (*batch, *shape), at the address key; dropout masks are drawn from these."""
        return self._fill(shape, key, dtype, device, uniform=True)

    def _fill(
        self,
        shape: tuple[int, ...],
        key: tuple[int, int, str],
        dtype: torch.dtype,
        device: torch.device | str,
        uniform: bool,
    ) -> Tensor:
        window, step, site = key
        counter = np.array([0, window, step, zlib.crc32(site.encode())], dtype=np.uint64)
        cases, members = self.cases.reshape(-1).tolist(), self.members.reshape(-1).tolist()
        numbers = np.empty((len(cases), *shape), dtype=np.float32)
        for row, (case, member) in enumerate(zip(cases, members, strict=True)):
            # uint64 from the start: a list of numbers beyond 2**63 would pass through float64 and lose the last digits.
            key_words = np.array([self.seed, case << 32 | member], dtype=np.uint64)
            bits = np.random.Philox(counter=counter, key=key_words)
            generator = np.random.Generator(bits)
            if uniform:
                generator.random(dtype=np.float32, out=numbers[row, ...])
            else:
                generator.standard_normal(dtype=np.float32, out=numbers[row, ...])
        return torch.from_numpy(numbers).reshape(*self.cases.shape, *shape).to(device=device, dtype=dtype)
