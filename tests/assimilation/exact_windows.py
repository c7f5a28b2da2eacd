"""Stationary Gaussian processes, window models that know them exactly, and the laws that rollouts of these must have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.diffusion import SCHEDULES, Schedule
from eddycast.emulators import Emulator, OpenWindow
from eddycast.emulators.passes import record
from eddycast.grid import Grid, periodic_axis
from eddycast.guidance import GaussianLikelihood
from eddycast.observations import Observations
from eddycast.simulators import get_system

MEAN, STD = 5.0, 2.0  # of physical states; model space has mean 0 and unit variance


@dataclass(frozen=True)
class Process:
    """x_t with `points` numbers per frame and E[x_(t + lag) x_t^T] = lags[lag]."""

    lags: Tensor

    @property
    def points(self) -> int:
        return self.lags.shape[-1]

    @property
    def grid(self) -> Grid:
        return Grid((periodic_axis("x", self.points, 1.0),))

    def covariance(self, frames: int) -> Tensor:
        """(frames * points, frames * points)."""
        return torch.cat(
            [torch.cat([self._between(i - j) for j in range(frames)], dim=1) for i in range(frames)], dim=0
        )

    def _between(self, lag: int) -> Tensor:
        return self.lags[lag] if lag >= 0 else self.lags[-lag].T

    def draw(self, cases: int, frames: int, *, seed: int = 0) -> Tensor:
        """Trajectories in model space, (case, time, 1, points)."""
        noise = torch.randn(
            cases, frames * self.points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        root = torch.linalg.cholesky(self.covariance(frames) + 1e-12 * torch.eye(frames * self.points))
        return (noise @ root.T).unflatten(1, (frames, 1, self.points))


def chain(*coefficients: float, points: int = 4, frames: int = 64) -> Process:
    """AR(p) of one or two coefficients with unit variance, independent at each point."""
    lags = [1.0, coefficients[0] / (1 - sum(coefficients[1:]))]
    while len(lags) < frames:
        lags.append(sum(a * lags[-1 - j] for j, a in enumerate(coefficients)))
    return Process(torch.tensor(lags, dtype=torch.float64)[:, None, None] * torch.eye(points, dtype=torch.float64))


def tracer(points: int = 8, frames: int = 64, drag: float = 0.97) -> Process:
    """Advection and diffusion of a tracer by the exact solver, with drag and as much noise as keeps it stationary.

    x_(t + 1) = M x_t + e, M = drag times the flow over 0.25 time units (an eighth of the domain); M commutes with the covariance.
    """
    system = get_system("advection-diffusion")
    flow = system.flow(
        torch.tensor([0.5, 0.002], dtype=torch.float64), system.grid((points,)), 0.25, dtype=torch.float64
    )
    step = drag * flow(torch.eye(points, dtype=torch.float64)[:, None])[:, 0].T
    modes = torch.fft.fftfreq(points, 1 / points, dtype=torch.float64)
    spectrum = torch.exp(-(modes**2) / 4) + 1e-2
    row = torch.fft.ifft(spectrum / spectrum.mean()).real
    lags = [torch.stack([torch.roll(row, shift) for shift in range(points)])]
    while len(lags) < frames:
        lags.append(step @ lags[-1])
    return Process(torch.stack(lags))


class ExactWindow:
    """The denoiser of a window of a process in float64, told known frames as `universal` or as `joint` models are.

    A universal one is conditioned on them exactly; a joint one knows nothing and has a likelihood of std 0.01. `record` counts its calls as
    those of a network.
    """

    continuous = False

    def __init__(
        self,
        process: Process,
        frames: int,
        *,
        kind: str = "universal",
        overlap: int = 1,
        context: int = 1,
        schedule: Schedule | None = None,
    ) -> None:
        self.process, self.frames, self.window, self.kind = process, frames, frames, kind
        self.overlap, self.context = overlap, context
        self.schedule = schedule or SCHEDULES["rectified"]()

    def open(self, known, known_mask, conditions, lead_times):
        assert known.shape[1] == len(lead_times) == len(known_mask) == self.frames
        assert known.shape[0] == conditions.time.shape[0]
        index = known_mask.nonzero()[:, 0]
        told = ()
        if self.kind == "joint" and len(index):
            told = (GaussianLikelihood(lambda x: x[:, index], known[:, index], 0.01),)
            known_mask = torch.zeros_like(known_mask)
        mean, cov, free = self._given(known, known_mask)
        values, basis = torch.linalg.eigh(cov)

        def denoiser(x_t, time):
            alpha, sigma = self.schedule(time)
            innovation = (x_t[:, free].flatten(1) - alpha * mean) @ basis
            update = (alpha * values / (alpha**2 * values + sigma**2) * innovation) @ basis.T
            out = torch.where(free[:, None, None], 0.0, known)
            return record(out.index_copy(1, free.nonzero()[:, 0], (mean + update).unflatten(1, (-1, *known.shape[2:]))))

        return OpenWindow(
            denoiser, self.schedule, lambda w: torch.where(free[:, None, None], w, known), likelihoods=told
        )

    def _given(self, known: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (batch, n) and covariance (n, n) of the frames that are not known, and which these are."""
        free, points = ~mask, self.process.points
        cov, rows = self.process.covariance(self.frames), mask.repeat_interleave(points)
        gain = torch.linalg.solve(cov[rows][:, rows], cov[rows][:, ~rows]).T
        return known[:, mask].flatten(1) @ gain.T, cov[~rows][:, ~rows] - gain @ cov[rows][:, ~rows], free

    def advance(self, known, known_mask, conditions, lead_times, *, noise, window=0):
        """An exact draw, without diffusion."""
        mean, cov, free = self._given(known, known_mask)
        draw = noise.draw((len(cov),), key=(window, 0, "exact"), dtype=known.dtype)
        new = mean + draw @ torch.linalg.cholesky(cov + 1e-12 * torch.eye(len(cov))).T
        return known.index_copy(1, free.nonzero()[:, 0], new.unflatten(1, (-1, *known.shape[2:])))


class Affine:
    def encode(self, state, conditions, lead_times):
        assert state.shape[1] == len(lead_times)
        return (state - MEAN) / STD

    def decode(self, x, conditions, lead_times):
        assert x.shape[1] == len(lead_times)
        return MEAN + STD * x


def emulator(process: Process, frames: int, *, chunk: int = 4096, **settings) -> Emulator:
    return Emulator(ExactWindow(process, frames, **settings), Affine(), chunk=chunk)


def observed(
    process: Process,
    num_times: int,
    *,
    cases: int = 2,
    std: float = 0.3,
    fraction: float = 0.4,
    complete: int = 0,
    empty: tuple[int, ...] = (),
    seed: int = 0,
) -> Observations:
    """Observations of trajectories of a process with errors of `std` in model space; none in the frames `empty`."""
    x = process.draw(cases, num_times, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    values = MEAN + STD * (x + std * torch.randn(x.shape, generator=generator, dtype=torch.float64))
    hidden = torch.rand(values.shape, generator=generator) > fraction
    hidden[:, :complete] = False
    hidden[:, list(empty)] = True
    return Observations(
        values=values.masked_fill(hidden, torch.nan), noise_std=torch.tensor([STD * std], dtype=torch.float64),
        grid=process.grid, fields=(("u", "1"),), dt=1.0, trajectories=torch.arange(cases),
        frames=torch.zeros(cases, dtype=torch.long),
    )  # fmt: skip


@dataclass
class Law:
    """Mean (n,) and covariance (n, n) of a Gaussian of time * points numbers, in model space."""

    mean: Tensor
    cov: Tensor

    @property
    def std(self) -> Tensor:
        return self.cov.diagonal().sqrt()


def _seen(obs: Observations, case: int, frames: slice) -> tuple[Tensor, Tensor, float]:
    """Which numbers of these frames are observed, the values, and their error, in model space."""
    values = (obs.values[case, frames].flatten() - MEAN) / STD
    return ~values.isnan(), values, float(obs.noise_std[0]) / STD


def conditioned(law: Law, seen: Tensor, values: Tensor, std: float) -> Law:
    gain = torch.linalg.solve(law.cov[seen][:, seen] + std**2 * torch.eye(int(seen.sum())), law.cov[seen]).T
    return Law(law.mean + gain @ (values[seen] - law.mean[seen]), law.cov - gain @ law.cov[seen])


def smoother(process: Process, obs: Observations, case: int, until: int | None = None) -> Law:
    """p(x | y up to frame `until`), the Kalman smoother of the whole series."""
    size = obs.num_times * process.points
    seen, values, std = _seen(obs, case, slice(None))
    if until is not None:
        seen = seen & (torch.arange(size) < until * process.points)
    return conditioned(
        Law(torch.zeros(size, dtype=torch.float64), process.covariance(obs.num_times)), seen, values, std
    )


def sequential(
    process: Process,
    obs: Observations,
    case: int,
    *,
    frames: int,
    overlap: int,
    resampled: bool,
    start: Law | None = None,
    told_first: int | None = None,
    told_std: float = 0.01,
) -> Law:
    """Law of windows sampled one after the other, each exactly given the sample of its overlap and its own observations.

    With `resampled` the overlap is seen with an error of `told_std`, drawn again, and replaced; otherwise it is known and stays.
    `start`: law of the states known at the first frames; None for nothing known. The first window is told all of them, or the last
    `told_first`.
    """
    points, size = process.points, obs.num_times * process.points
    law = Law(torch.zeros(0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)) if start is None else start
    prior, first = process.covariance(frames), True
    while len(law.mean) < size:
        told = overlap * points
        if first:
            told = len(law.mean) if told_first is None else told_first * points
        begin = len(law.mean) - told
        frame = begin // points
        seen, values, std = _seen(obs, case, slice(frame, frame + frames))
        seen = torch.cat([seen, torch.zeros(frames * points - len(seen), dtype=torch.bool)])
        seen[:told] = False
        h = torch.eye(frames * points, dtype=torch.float64)
        rows = torch.cat([h[:told], h[seen]])
        error = torch.tensor([told_std if resampled else 1e-7] * told + [std] * int(seen.sum()), dtype=torch.float64)
        gain = torch.linalg.solve(rows @ prior @ rows.T + torch.diag(error**2), rows @ prior).T
        cov = prior - gain @ rows @ prior
        slope, offset = gain[:, :told], gain[:, told:] @ values[seen[: len(values)]]
        keep = 0 if resampled else told
        slope, offset, cov = slope[keep:], offset[keep:], cov[keep:, keep:]
        old = begin + keep
        cross = slope @ law.cov[begin:, :old]
        law = Law(
            torch.cat([law.mean[:old], slope @ law.mean[begin:] + offset]),
            torch.cat([
                torch.cat([law.cov[:old, :old], cross.T], dim=1),
                torch.cat([cross, slope @ law.cov[begin:, begin:] @ slope.T + cov], dim=1),
            ]),
        )  # fmt: skip
        first = False
    return Law(law.mean[:size], law.cov[:size, :size])


@dataclass(frozen=True)
class Misfit:
    """Of samples to a law: rms error of the mean in units of the exact deviation, and mean ratio of deviations."""

    error: float
    ratio: float


def misfit(analysis: Tensor, laws: list[Law], frames: slice = slice(None)) -> Misfit:
    """Of an analysis (member, case, time, 1, points), physical, to the laws of its cases."""
    x = (analysis - MEAN) / STD
    shape = x.shape[2:]
    mean = torch.stack([law.mean.reshape(shape) for law in laws])[:, frames]
    std = torch.stack([law.std.reshape(shape) for law in laws])[:, frames]
    x = x[:, :, frames]
    error = ((x.mean(dim=0) - mean) / std).square().mean().sqrt().item()
    return Misfit(error, (x.std(dim=0) / std).mean().item())
