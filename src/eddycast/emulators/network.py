"""A backbone that is told the conditions: the one place where they become channels and scalars."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.passes import record
from eddycast.errors import InputError
from eddycast.grid import Grid
from eddycast.networks import NetworkConfig, build_network

POOLS = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
"""Means over the points of each latent one, by the number of space axes."""


@dataclass(frozen=True)
class ModelShape:
    """What a model must know of the data before it sees any.

    Args:
        channels: Channels of a state in model space.
        periodic: Whether each space axis is periodic.
        parameter_mean, parameter_std: Training statistics of the scalar parameters, one entry each.
        parameter_log: Which of them are told as logarithms, of which those are the statistics; empty for none.
        cyclic: Whether absolute time has a cycle (months of the year).
        static: Number of static fields, the mask of valid points included.
        boundaries: Whether networks are told the codes of the boundaries, two per axis.
        vector_axes, vectors: Space axis along which each channel points, and the vector that it belongs to; None for scalars, and
            nothing at all in spaces whose channels have no direction.
    """

    channels: int
    periodic: tuple[bool, ...]
    parameter_mean: tuple[float, ...] = ()
    parameter_std: tuple[float, ...] = ()
    cyclic: bool = False
    static: int = 0
    boundaries: bool = False
    vector_axes: tuple[int | None, ...] = ()
    vectors: tuple[str | None, ...] = ()
    parameter_log: tuple[bool, ...] = ()


class ConditionedNetwork(nn.Module):
    """Network with parameters, season and static fields of `Conditions` beside the channels and scalars of the caller.

    Scalars are, in this order: those of the caller, parameters standardised with training statistics, codes of the boundaries (`wall` 0,
    `open` 1, `periodic` 2; lower and upper side of each axis), cosine and sine of the phase of the cycle at the origin of the conditions.
    Static fields and the mask of valid points are added to each frame as channels, in a latent space averaged over the points of each
    latent one. The output is 0 at points that are not valid: no loss sees them, and what an untrained point says would feed back in a
    rollout.

    A backbone with `noise_shape(space)` takes in random numbers of that shape per entry, and the distance of points along each axis, as
    `noise` and `spacing` of its call; others are given neither.

    Args:
        in_frames, out_frames, in_channels, out_channels, num_scalars, shared_channels: As in `networks.Network`, without what the
            conditions add.
        noisy: Whether the caller gives the backbone its noise.

    Raises: InputError for a backbone with noise of its own that nobody gives, or without where it is to be given.
    """

    def __init__(
        self,
        config: NetworkConfig,
        shape: ModelShape,
        *,
        in_frames: int,
        out_frames: int,
        in_channels: int,
        out_channels: int,
        num_scalars: int,
        shared_channels: int = 0,
        noisy: bool = False,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.backbone = build_network(
            config,
            in_frames=in_frames,
            out_frames=out_frames,
            in_channels=in_channels + shape.static,
            out_channels=out_channels,
            num_scalars=num_scalars
            + len(shape.parameter_mean)
            + 2 * len(shape.periodic) * shape.boundaries
            + 2 * shape.cyclic,
            periodic=shape.periodic,
            shared_channels=shared_channels + shape.static,
        )
        inside = self.noise_shape((1,) * len(shape.periodic)) is not None
        if noisy and not inside:
            raise InputError(
                f"Noise in the network needs a backbone that takes it, got {config.kind!r} without: set emulator.network.kind to "
                "transformer-local and emulator.network.noise to latent or global, or emulator.noise to input."
            )
        if inside and not noisy:
            raise InputError(
                f"The network {config.kind!r} wants noise that nobody gives it: set emulator.noise to network in the family scoring, "
                "or emulator.network.noise to none."
            )

    def noise_shape(self, space: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of the noise that the backbone takes per entry of the batch on a grid of `space` points; None for one without noise."""
        declared = getattr(self.backbone, "noise_shape", None)
        return None if declared is None else declared(space)

    def forward(self, x: Tensor, conditions: Conditions, scalars: Tensor, *, noise: Tensor | None = None) -> Tensor:
        """Frames (batch, in_frames, in_channels, *space), scalars (batch, num_scalars) -> (batch, out_frames, out_channels, *space).

        Args:
            noise: Standard normal numbers (batch, *noise_shape), for a backbone with noise.
        """
        known = [scalars]
        if self.shape.parameter_mean:
            mean = x.new_tensor(self.shape.parameter_mean)
            std = x.new_tensor(self.shape.parameter_std)
            parameters = conditions.parameters.to(x)
            if self.shape.parameter_log:
                logarithmic = torch.tensor(self.shape.parameter_log, device=x.device)
                parameters = torch.where(logarithmic, parameters.log(), parameters)
            known.append((parameters - mean) / std)
        if self.shape.boundaries:
            known.append(conditions.boundary_codes().to(x).flatten(-2).expand(len(x), -1))
        if self.shape.cyclic:
            phase = conditions.phase(torch.zeros(1, device=x.device))
            assert phase is not None, "a cyclic model needs conditions with a cycle"
            angle = 2 * torch.pi * phase.to(x)
            known += [angle.cos(), angle.sin()]
        fields = static_channels(conditions) if self.shape.static else None
        if fields is not None:
            if fields.shape[-len(x.shape[3:]) :] != x.shape[3:]:
                fields = POOLS[x.ndim - 3](fields.to(x), x.shape[3:])
            if fields.ndim == x.ndim - 1:  # of each entry: for all its frames
                fields = fields[:, None]
            x = torch.cat([x, fields.to(x).expand(*x.shape[:2], *fields.shape[-x.ndim + 2 :])], dim=2)
        told = {}
        if hasattr(self.backbone, "noise_shape"):
            told = {"noise": noise, "spacing": spacings(conditions.grid, tuple(x.shape[3:]))}
        out = record(self.backbone(x, torch.cat(known, dim=1), **told))
        return out if conditions.valid is None else torch.where(conditions.valid.to(out.device), out, 0.0)


def spacings(grid: Grid, points: tuple[int, ...]) -> tuple[float, ...]:
    """Distance between neighbours along each axis for `points` per axis, which in a latent space are fewer than those of the grid.

    In the unit of the coordinates; the mean of uneven ones. 1 along a bounded axis of a single point, which has no neighbours.
    """
    found = []
    for axis, count in zip(grid.axes, points, strict=True):
        if axis.period is not None:
            found.append(axis.period / count)
        elif axis.size == 1:
            found.append(1.0)
        else:
            step = abs(axis.coordinates[-1] - axis.coordinates[0]) / (axis.size - 1)
            found.append(step * axis.size / count)
    return tuple(found)


def static_channels(conditions: Conditions) -> Tensor | None:
    """Static fields and, where it is not everywhere, the mask of valid points.

    Returns: (static, *space); (*batch, static, *space) where the fields differ between entries; None for none.
    """
    fields = conditions.static_fields()
    if conditions.valid is None:
        return fields
    valid = conditions.valid[None].to(torch.float32)
    if fields is None:
        return valid
    axes = len(conditions.grid.axes)
    return torch.cat([fields, valid.to(fields).expand(*fields.shape[: -axes - 1], *valid.shape)], dim=-axes - 1)
