"""Window models and networks with known answers, shared by the tests of this folder."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators import TrainingBatch, WindowDiffusion
from eddycast.emulators.increments import scale_at
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.noise import MemberNoise

CYCLE = 12.0


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ring(points: int = 8) -> Grid:
    return Grid((periodic_axis("x", points, float(points)),))


def channel_grid(points: tuple[int, int] = (8, 6)) -> Grid:
    """Periodic along the first axis, walls along the second."""
    walls = Axis("y", tuple(float(j) for j in range(points[1])), ("wall", "wall"))
    return Grid((periodic_axis("x", points[0], 1.0), walls))


def conditions(batch: int, grid: Grid | None = None, *, parameters: int = 0, **more) -> Conditions:
    """A batch with times 0, 1, ... and parameters drawn from N(0, 1)."""
    time = torch.arange(batch, dtype=torch.float64)
    return Conditions(grid or ring(), 1.0, normal(batch, parameters, seed=9), time, **more)


class StraightLine:
    """State x(t) = x(0) + slope t at absolute times, the slope being the first parameter: exact at any lead.

    Checks on the way that the known frames lie on the line, at the times that the rollout claims for them.
    """

    def __init__(self, context: int = 1, overlap: int = 1, window: int = 4, continuous: bool = True) -> None:
        self.context, self.overlap, self.window, self.continuous = context, overlap, window, continuous
        self.calls: list[tuple[int, Tensor, Tensor]] = []

    def advance(self, known, known_mask, conditions, lead_times, *, noise, window=0):
        size = int(known_mask.sum())
        assert known_mask[:size].all() and size == (self.context if not self.calls else self.overlap)
        assert size < len(known_mask) <= self.window or self.continuous
        assert torch.equal(lead_times[:size], torch.arange(1.0 - size, 1.0, dtype=lead_times.dtype))
        slope = conditions.parameters[:, 0][(...,) + (None,) * (known.ndim - 1)]
        lead = lead_times[(...,) + (None,) * (known.ndim - 2)]
        line = known[:, size - 1 : size] + slope * lead
        assert torch.allclose(known[:, :size], line[:, :size], atol=1e-9), "known frames off their times"
        self.calls.append((window, lead_times, conditions.time))
        return torch.cat([known[:, :size], line[:, size:]], dim=1)


class RandomWalk:
    """Each window adds noise of its own address: x <- shift right, plus `amplitude` times a draw per frame."""

    context, overlap, window, continuous = 1, 1, 3, False

    def __init__(self, amplitude: float = 1.0, growth: float = 1.0) -> None:
        self.amplitude, self.growth = amplitude, growth

    def advance(self, known, known_mask, conditions, lead_times, *, noise, window=0):
        states = [known[:, 0]]
        for frame in range(1, known.shape[1]):
            kick = noise.draw(known.shape[2:], key=(window, frame, "walk"), dtype=known.dtype)
            states.append(self.growth * states[-1].roll(1, dims=-1) + self.amplitude * kick)
        return torch.stack(states, dim=1)


class AffineSpace:
    """Physical = 3 + 2 x; undefined points are 0 in model space."""

    def encode(self, state, conditions, lead_times):
        return ((state - 3) / 2).nan_to_num(nan=0.0)

    def decode(self, x, conditions, lead_times):
        return 3 + 2 * x


def season(time: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * time / CYCLE)


class SeasonalNetwork(nn.Module):
    """Exact network of regression and scoring rule for x(t) = x(0) + a (season(t) - season(0)), a the parameter.

    Right only if the conditions it is shown have their origin at the last state of the context.
    """

    def __init__(self, model) -> None:
        super().__init__()
        self.model = [model]

    def forward(self, inputs: Tensor, conditions: Conditions, scalars: Tensor) -> Tensor:
        lead = scalars[:, 0] * self.model[0].config.horizon
        increment = conditions.parameters[:, 0] * (season(conditions.time + lead) - season(conditions.time))
        scaled = increment[:, None] / scale_at(self.model[0].scales, lead)
        return scaled[:, None][(...,) + (None,) * (inputs.ndim - 3)].expand(-1, -1, -1, *inputs.shape[3:])


def seasonal_states(batch: Conditions, start: Tensor, frames: int) -> Tensor:
    """Exact states (batch, frames, channel, *space) from `start` (batch, channel, *space), the first at the origin."""
    time = batch.time[:, None] + torch.arange(frames)
    change = batch.parameters[:, :1] * (season(time) - season(time[:, :1]))
    return start[:, None] + change[(...,) + (None,) * (start.ndim - 1)]


def autoregressive(batch: int, frames: int, points: int, phi: float, *, seed: int = 0) -> Tensor:
    """Stationary AR(1) in time with unit variance, independent points: (batch, frames, 1, points), float64."""
    kicks = normal(batch, frames, 1, points, seed=seed)
    states = [kicks[:, 0]]
    for frame in range(1, frames):
        states.append(phi * states[-1] + math.sqrt(1 - phi**2) * kicks[:, frame])
    return torch.stack(states, dim=1)


def gaussian_conditioning(phi: float, known: Tensor) -> tuple[Tensor, Tensor]:
    """Gain A and covariance S of unknown given known frames of that process: x_u | x_k ~ N(A x_k, S)."""
    frames = torch.arange(len(known))
    cov = phi ** (frames[:, None] - frames).abs().double()
    gain = torch.linalg.solve(cov[known][:, known], cov[known][:, ~known]).T
    return gain, cov[~known][:, ~known] - gain @ cov[known][:, ~known]


class GaussianNetwork(nn.Module):
    """Exact network of a universal diffusion model for that process: F of E[w | w_t, known], rectified schedule."""

    def __init__(self, model: WindowDiffusion, phi: float) -> None:
        super().__init__()
        self.model, self.phi, self.factor = [model], phi, 1.0
        self.times: list[Tensor] = []

    def forward(self, inputs: Tensor, conditions: Conditions, scalars: Tensor) -> Tensor:
        self.times.append(conditions.time)
        x, planes, masks = inputs[:, :, 0], inputs[:, :, 1], scalars[:, 1:] > 0.5
        assert torch.equal(planes, scalars[:, 1:, None].expand_as(planes)), "planes and bits"
        result = torch.zeros_like(x)
        for mask in masks.unique(dim=0):
            rows = (masks == mask).all(dim=1)
            if mask.all():
                continue
            result[rows] = self._one_mask(x[rows], mask, scalars[rows, 0])
        return self.factor * result[:, :, None]

    def _one_mask(self, x: Tensor, known: Tensor, c_noise: Tensor) -> Tensor:
        ratio = torch.exp(4 * c_noise)[:, None, None]
        alpha, sigma = 1 / (1 + ratio), ratio / (1 + ratio)
        total = torch.sqrt(alpha**2 + sigma**2)
        base, scale = self.model[0].departure(x[:, :, None], known.expand(len(x), -1))
        base, scale = base[:, ~known, 0], scale[:, ~known, 0]
        gain, cov = gaussian_conditioning(self.phi, known)
        mean = (gain @ x[:, known] - base) / scale
        cov = cov / (scale * scale.mT)
        w_t = x[:, ~known] * total
        inner = alpha**2 * cov + sigma**2 * torch.eye(len(gain), dtype=x.dtype)
        posterior = mean + alpha * cov @ torch.linalg.solve(inner, w_t - alpha * mean)
        result = torch.zeros_like(x)
        result[:, ~known] = (posterior - alpha / total**2 * w_t) * total / sigma
        return result


def addresses(batch: int, seed: int = 0) -> MemberNoise:
    return MemberNoise.grid(seed, batch, 1).flatten()


def perturbed(model: nn.Module, size: float = 0.2) -> nn.Module:
    """All weights set, the zero-initialised ones included."""
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.add_(size * normal(*weight.shape, seed=number).to(weight))
    return model


def initialised(model: nn.Module) -> nn.Module:
    """Random weights of variance 1 / fan-in from a fixed seed where the network does not start at zero."""
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.ndim > 1 and weight.abs().max() > 0:
                weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(weight[0].numel()))
            elif weight.ndim == 1 and weight is not getattr(model, "gain", None):
                weight.zero_()
    return model


def fit(model, draw, steps: int, *, stage: int = -1, rate: float = 1e-2) -> list[float]:
    """Adam with a cosine decay on one stage; `draw(step, frames)` gives windows and their conditions."""
    chosen, generator = model.stages()[stage], torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(chosen.module.parameters(), lr=rate)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        x, here = draw(step, chosen.frames)
        loss = chosen.objective(TrainingBatch(x, here, generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
