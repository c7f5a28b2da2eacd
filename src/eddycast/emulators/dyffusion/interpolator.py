"""The stochastic interpolator: the state at a time inside a window from the states at both ends."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.dyffusion.config import InterpolatorConfig
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import almost_fair_crps, valid_mean
from eddycast.emulators.protocols import TrainingBatch
from eddycast.networks import MemberMasks, masks_from
from eddycast.noise import MemberNoise


@dataclass(frozen=True)
class Draws:
    """Where the randomness of some calls of an interpolator comes from.

    Args:
        noise: Addresses of the members, (batch,).
        window: Of the rollout.
        steps: Number of the draw for each copy of the batch; a copy is one time that is asked for.
    """

    noise: MemberNoise
    window: int
    steps: tuple[int, ...]

    def masks(self) -> MemberMasks:
        return MemberMasks(self.noise, self.window, self.steps, "interpolator")

    def fields(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers (batch * copies, *shape)."""
        drawn = {
            step: self.noise.draw(shape, key=(self.window, step, "interpolator"), dtype=like.dtype, device=like.device)
            for step in set(self.steps)
        }
        return torch.stack([drawn[step] for step in self.steps], dim=1).flatten(0, 1)


class Interpolator(nn.Module):
    """I(x_0, x_h, i; noise) = line(i) + scale(i) F(x_0, x_h, i [; noise]), or F itself with `variable` state.

    line(i) = x_0 + (i / h) (x_h - x_0), and scale(i) the rms departure of the training data from it, 0 at both ends.

        dropout   the noise is masks inside F; trained on the squared error, as published. The spread is whatever the rate makes it.
        noise     F sees white-noise fields; trained on the almost fair CRPS of some members, which asks for the right spread.
        bridge    I = line + scale (m + sqrt(4 s (1 - s)) e^w z), s = i / h, z white noise, m and w from F; trained on the CRPS of that
                  Gaussian, which is known in closed form. The spread is right at each point; neighbours know nothing of each other.

    Source: `dropout`: arXiv:2306.01984, section 3.1; the others are ours.

    Args:
        config: Settings.
        shape: Of the data.
        horizon: h.
        departures: Whether F says departures.

    Raises: ValueError for masks without a layer that drops anything.
    """

    scales: Tensor

    def __init__(self, config: InterpolatorConfig, shape: ModelShape, *, horizon: int, departures: bool) -> None:
        super().__init__()
        self.config = config
        self.horizon = horizon
        self.departures = departures
        self.channels = shape.channels
        drawn = config.noise_channels if config.noise == "noise" else 0
        self.network = ConditionedNetwork(
            config.network,
            shape,
            in_frames=2,
            out_frames=1,
            in_channels=shape.channels + drawn,
            out_channels=(2 if config.noise == "bridge" else 1) * shape.channels,
            num_scalars=1,
            shared_channels=drawn,
        )
        self.register_buffer("scales", torch.ones(horizon, shape.channels))

    def prepare(self, x: Tensor) -> None:
        """Measure departures from the line on windows of training data (batch, time, channel, *space), time > h."""
        h = self.horizon
        part = torch.arange(1, h, device=x.device).to(x)[(...,) + (None,) * (x.ndim - 2)] / h
        windows = x.unfold(1, h + 1, h).movedim(-1, 2).flatten(0, 1)
        first, last = windows[:, :1], windows[:, -1:]
        square = (windows[:, 1:-1] - torch.lerp(first, last, part)).square()
        mean = square.mean(dim=[d for d in range(square.ndim) if d not in (1, 2)]).sqrt().clamp_min(1e-4)
        self.scales[:-1].copy_(mean)
        self.scales[-1] = 0.0

    @property
    def noise_channels(self) -> int:
        """Channels of the noise fields that `state` takes; 0 where the noise is masks."""
        return {"dropout": 0, "noise": self.config.noise_channels, "bridge": self.channels}[self.config.noise]

    def forward(self, start: Tensor, end: Tensor, time: Tensor, conditions: Conditions, draws: Draws) -> Tensor:
        """States (batch, channel, *space) of members at `time` (batch,) inside (0, h), from those at both ends.

        Args:
            conditions: Batch (batch,), origin at the start.
            draws: Of the members; its copies times its addresses are the batch.
        """
        if self.config.noise == "dropout":
            with masks_from(draws.masks()):
                return self.state(start, end, time, conditions, None)
        fields = draws.fields((self.noise_channels, *start.shape[2:]), start)
        return self.state(start, end, time, conditions, fields)

    def state(self, start: Tensor, end: Tensor, time: Tensor, conditions: Conditions, fields: Tensor | None) -> Tensor:
        """I with noise fields (batch, noise_channels, *space): those that its network sees, or z of a bridge; None without any."""
        if self.config.noise == "bridge":
            assert fields is not None, "a bridge needs its noise"
            mean, deviation = self.gaussian(start, end, time, conditions)
            if conditions.valid is not None:  # elsewhere the noise of all windows would add up
                deviation = deviation * conditions.valid.to(deviation)
            return mean + deviation * fields
        base, scale = self.line(start, end, time)
        return base + scale * self._network(start, end, time, conditions, fields)

    def line(self, start: Tensor, end: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the network adds to, and the scale of what it says."""
        if not self.departures:
            return torch.zeros_like(start), start.new_ones(())
        spread = (...,) + (None,) * (start.ndim - 2)
        return torch.lerp(start, end, (time / self.horizon)[:, None][spread]), departure_at(self.scales, time)[spread]

    def gaussian(self, start: Tensor, end: Tensor, time: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a bridge."""
        base, scale = self.line(start, end, time)
        told, width = self._network(start, end, time, conditions, None).chunk(2, dim=1)
        part = (time / self.horizon)[(...,) + (None,) * (start.ndim - 1)]
        envelope = (4 * part * (1 - part)).clamp_min(0).sqrt()
        return base + scale * told, scale * envelope * width.clamp(-10, 4).exp()

    def _network(
        self, start: Tensor, end: Tensor, time: Tensor, conditions: Conditions, fields: Tensor | None
    ) -> Tensor:
        frames = torch.stack([start, end], dim=1)
        if fields is not None:
            frames = torch.cat([frames, fields[:, None].expand(-1, 2, *fields.shape[1:])], dim=2)
        return self.network(frames, conditions, time[:, None] / self.horizon)[:, 0]

    def drawn(self, start: Tensor, end: Tensor, time: Tensor, batch: TrainingBatch, copies: int = 1) -> Tensor:
        """States of (copies of) windows in training with the noise of a forecast: masks where these are the noise, and only there."""
        fields = self.training_noise(batch, copies)
        with nullcontext() if fields is None else masks_from(None):
            return self.state(start, end, time, batch.conditions.expand(copies).flatten(), fields)

    def training_noise(self, batch: TrainingBatch, copies: int = 1) -> Tensor | None:
        """Noise fields (copies * batch, noise_channels, *space) for a training pass; None where the noise is masks."""
        if not self.noise_channels:
            return None
        x = batch.x
        shape = (copies, batch.size, self.noise_channels, *x.shape[3:])
        drawn = torch.randn(shape, generator=batch.generator, dtype=x.dtype, device=x.device)
        return batch.own(drawn, 1).flatten(0, 1)

    def loss(self, batch: TrainingBatch) -> Tensor:
        """Error of the state at a time drawn from 1 ... h - 1 for each window."""
        x, config, generator = batch.x, self.config, batch.generator
        time = batch.own(torch.randint(1, self.horizon, (batch.size,), generator=generator, device=x.device))
        start, end = x[:, 0], x[:, self.horizon]
        truth = x[torch.arange(len(x), device=x.device), time]
        time = time.to(x)
        scale = self.line(start, end, time)[1]
        if config.noise == "dropout":
            error = (self.state(start, end, time, batch.conditions, None) - truth) / scale
            return valid_mean(error.abs() if config.loss == "absolute" else error.square(), batch.conditions)
        if config.noise == "bridge":
            mean, deviation = self.gaussian(start, end, time, batch.conditions)
            return valid_mean(gaussian_crps(mean, deviation, truth) / scale, batch.conditions)
        members = config.members
        drawn = self.training_noise(batch, members)

        def several(one: Tensor) -> Tensor:
            return one.expand(members, *one.shape).flatten(0, 1)

        conditions = batch.conditions.expand(members).flatten()
        told = self.state(several(start), several(end), several(time), conditions, drawn)
        score = almost_fair_crps(told.unflatten(0, (members, -1)) / scale, truth / scale, config.fairness)
        return valid_mean(score, batch.conditions)


def departure_at(scales: Tensor, time: Tensor) -> Tensor:
    """Scales (h, channel) of the times 1 ... h at times (batch,), linear between whole ones and from 0 at 0: (batch, channel)."""
    table = torch.cat([torch.zeros_like(scales[:1]), scales])
    below = time.floor().long().clamp(0, len(scales) - 1)
    return torch.lerp(table[below], table[below + 1], (time - below).to(scales)[:, None])


def gaussian_crps(mean: Tensor, deviation: Tensor, truth: Tensor) -> Tensor:
    """CRPS of a normal law at each point: s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)), z = (y - m) / s.

    Source: Gneiting et al. (2005), doi:10.1175/MWR2904.1, eq. 5.
    """
    z = (truth - mean) / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return deviation * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))
