"""Direct solution of symmetric positive definite block tridiagonal systems, each of a batch with a matrix of its own.

    B_{k-1} x_{k-1} + A_k x_k + B_k^T x_{k+1} = b_k,   k = 0 .. K - 1

Block cyclic reduction: every second block is eliminated, which leaves such a system of half as many, and so on, log2 K times. That is
a Cholesky factorisation in another order, and as stable; all blocks of a level are treated at once, so that a solution takes a few
operations on large tensors and no loop over blocks.

Source: Golub and Van Loan, Matrix Computations, 4th ed. (2013), section 4.5.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockFactors:
    """A factorised matrix, from `factorise`.

    Args:
        levels: For each level, of the blocks k that it eliminates, A_k^-1, B_{k-1}^T A_k^-1 and B_k A_k^-1 one below the other,
            (*batch, eliminated, 3 n, n).
        last: Inverse of the block that remains, (*batch, n, n).
    """

    levels: tuple[Tensor, ...]
    last: Tensor

    def to(self, dtype: torch.dtype, device: torch.device | str) -> BlockFactors:
        return BlockFactors(
            tuple(level.to(dtype=dtype, device=device) for level in self.levels),
            self.last.to(dtype=dtype, device=device),
        )

    def solve(self, b: Tensor) -> Tensor:
        """x of right-hand sides b, the rows of (*batch, K, rows, n); five times K n^2 multiplications for each.

        Rows rather than columns, because a row times a small matrix is several times as fast as a small matrix times a column.
        """
        eliminated: list[Tensor] = []
        sizes: list[int] = []
        for level in self.levels:
            kept, odd = b[..., 0::2, :, :], b[..., 1::2, :, :]
            own, to_left, to_right = (odd @ level.mT).chunk(3, dim=-1)
            eliminated.append(own)
            sizes.append(b.shape[-3])
            b = kept - _placed(to_left, 0, kept.shape[-3]) - _placed(to_right, 1, kept.shape[-3])
        x = (b[..., 0, :, :] @ self.last.mT)[..., None, :, :]
        for level, own, size in zip(reversed(self.levels), reversed(eliminated), reversed(sizes), strict=True):
            count = own.shape[-3]
            sides = torch.cat([x[..., :count, :, :], _placed(x[..., 1:, :, :], 0, count)], dim=-1)
            odd = _placed(own - sides @ level[..., own.shape[-1] :, :], 0, x.shape[-3])
            x = torch.stack([x, odd], dim=-3).flatten(-4, -3)[..., :size, :, :]
        return x


def factorise(diagonal: Tensor, below: Tensor) -> BlockFactors:
    """Factors of a symmetric positive definite block tridiagonal matrix; take float64.

    Args:
        diagonal: A_k, (*batch, K, n, n), K >= 1.
        below: B_k, which couples block k + 1 to block k, (*batch, K - 1, n, n).
    """
    if below.shape[-3] != diagonal.shape[-3] - 1 or below.shape[-2:] != diagonal.shape[-2:]:
        raise ValueError(f"{tuple(diagonal.shape)} and {tuple(below.shape)} are no K and K - 1 blocks of one size.")
    levels = []
    while diagonal.shape[-3] > 1:
        kept, odd = diagonal[..., 0::2, :, :], diagonal[..., 1::2, :, :]
        count = odd.shape[-3]
        left = below[..., 0::2, :, :]  # of an eliminated block, to the one before it
        right = below[..., 1::2, :, :]  # of the one after it, to an eliminated block
        if right.shape[-3] < count:
            right = torch.cat([right, torch.zeros_like(left[..., :1, :, :])], dim=-3)
        inverse = torch.linalg.inv(odd)
        to_left, to_right = left.mT @ inverse, right @ inverse
        levels.append(torch.cat([inverse, to_left, to_right], dim=-2))
        fill = kept.shape[-3]
        diagonal = kept - _placed(to_left @ left, 0, fill) - _placed(to_right @ right.mT, 1, fill)
        below = -(to_right @ left)[..., : fill - 1, :, :]
    return BlockFactors(tuple(levels), torch.linalg.inv(diagonal[..., 0, :, :]))


def _placed(blocks: Tensor, before: int, length: int) -> Tensor:
    """Blocks (..., count, n, m) from position `before` of `length` blocks, zeros elsewhere; what is beyond is dropped."""
    after = length - before - blocks.shape[-3]
    return blocks if before == after == 0 else torch.nn.functional.pad(blocks, (0, 0, 0, 0, before, after))
