"""Keep long rollouts within what the data show to be conserved and resolved.

A network trained on smooth fields knows nothing of modes that are empty in its training data: whatever it leaves there is
not damped, feeds back at each step, and ends a long stochastic rollout. Two facts about the system are visible in any
training set and cure it: spatial means that do not change along a trajectory are conserved, and every mode has a largest
amplitude, zero for those beyond the resolved band.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SpectralGuard:
    """Projection of states onto the conserved means and the band of amplitudes seen in training.

    Args:
        conserved: Channels whose spatial mean is constant along trajectories, (channel,) bool.
        ceiling: Largest amplitude allowed to each mode of a real FFT (norm "forward") along the periodic axes, (channel, *modes);
            0 removes the mode. Empty when no axis is periodic.
        periodic: Which space axes are periodic.

    Applied to model space that is an affine map of the physical fields with one scale per channel; anything else has other modes.
    """

    conserved: Tensor
    ceiling: Tensor
    periodic: tuple[bool, ...]

    @classmethod
    def fit(cls, x: Tensor, periodic: tuple[bool, ...], *, floor: float = 1e-10, margin: float = 1.2) -> SpectralGuard:
        """Measure on windows of training data (batch, time, channel, *space).

        Args:
            floor: Modes with less than this part of the largest mean power of their channel are empty: float32 noise, or beyond a solver's
                dealiasing cut.
            margin: Factor on the largest amplitude seen, since the data are finite.
        """
        space = tuple(range(-len(periodic), 0))
        mean = x.mean(dim=space)
        wander = (mean - mean[:, :1]).square().mean(dim=(0, 1)).sqrt()
        std = x.std(dim=(0, 1, *space)).clamp_min(1e-12)
        conserved = wander < 1e-4 * std
        dims = _wrapped(periodic)
        if not dims:
            return cls(conserved, x.new_zeros(0), periodic)
        amplitude = torch.fft.rfftn(x, dim=dims, norm="forward").abs()
        power = amplitude.square().mean(dim=(0, 1))
        peak = power.flatten(1).amax(dim=1)[(...,) + (None,) * len(periodic)]
        largest = amplitude.flatten(0, 1).amax(dim=0)
        return cls(conserved, torch.where(power > floor * peak, margin * largest, 0.0), periodic)

    def means(self, x: Tensor) -> Tensor:
        """Spatial means (batch, 1, channel, 1, ...) of the last state of x (batch, time, channel, *space)."""
        return x[:, -1:].mean(dim=tuple(range(-len(self.periodic), 0)), keepdim=True)

    def __call__(self, x: Tensor, means: Tensor | None) -> Tensor:
        """States (batch, time, channel, *space) with conserved means reset to `means` and amplitudes below the ceiling.

        A member that has already become non-finite stays so: the guard prevents, it does not hide.
        """
        dims = _wrapped(self.periodic)
        if dims:
            modes = torch.fft.rfftn(x, dim=dims, norm="forward")
            ceiling = self.ceiling.to(x)
            modes = modes * (ceiling / modes.abs().clamp_min(1e-30)).clamp_max(1.0)
            x = torch.fft.irfftn(modes, s=[x.shape[d] for d in dims], dim=dims, norm="forward")
        if means is None:
            return x
        space = tuple(range(-len(self.periodic), 0))
        drift = x.mean(dim=space, keepdim=True) - means
        return x - torch.where(self.conserved.to(x.device)[(...,) + (None,) * len(space)], drift, 0.0)

    def to_tensors(self) -> dict[str, Tensor]:
        return {"conserved": self.conserved, "ceiling": self.ceiling, "periodic": torch.tensor(self.periodic)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> SpectralGuard:
        return cls(tensors["conserved"], tensors["ceiling"], tuple(tensors["periodic"].tolist()))


def _wrapped(periodic: tuple[bool, ...]) -> tuple[int, ...]:
    """Negative dimensions of the periodic axes."""
    return tuple(axis - len(periodic) for axis, wrap in enumerate(periodic) if wrap)
