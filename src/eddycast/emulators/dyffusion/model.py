"""Dynamics-informed diffusion (DYffusion): a forecaster of the end of a window, and an interpolator back into it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.emulators.dyffusion.config import DYffusionConfig
from eddycast.emulators.dyffusion.interpolator import Draws, Interpolator
from eddycast.emulators.dyffusion.sampling import Path, sample_window
from eddycast.emulators.dyffusion.schedule import WHOLE, index_of
from eddycast.emulators.increments import increment_scale, scale_at
from eddycast.emulators.network import ConditionedNetwork, ModelShape
from eddycast.emulators.objectives import almost_fair_crps, valid_mean
from eddycast.emulators.protocols import Stage, TrainingBatch
from eddycast.errors import InputError
from eddycast.networks import has_dropout
from eddycast.noise import MemberNoise

AT_ONCE = 1024
"""States that one pass of the interpolator refines at most; more are cut into passes, for the same numbers."""
REFINED = 2**32
"""First number of the draws of refinement: beyond those of the steps."""


class DYffusion(nn.Module):
    """Forecasts of whole windows by steps that are physical times.

    The forecaster says the end of a window from any state inside, x_h = F(x_i, i); the interpolator I goes back from both ends to any time
    inside, with noise. In training, and in a forecast, the state at i_n takes the place that noised data have in a diffusion model:

        interpolator   min  |I(x_0, x_h, i; xi) - x_i|,                    i uniform in 1 ... h - 1       (or a CRPS, see `Interpolator`)
        forecaster     min  (1 - w) |F(z_n, i_n) - x_h| + w |F(I(x_0, F(z_n, i_n), i_{n+1}; xi'), i_{n+1}) - x_h|,
                            z_n = I(x_0, x_h, i_n; xi), z_0 = x_0, n uniform in 0 ... N - 1; the second term for n < N - 1

    The interpolator is frozen while the forecaster learns, its noise on; the gradient of the second term goes through it.
    Known bias: the interpolator learns with true ends and is used with forecast ones; each window begins with one state that is taken for
    certain, so that errors jump where windows meet; masks give a noise whose size nothing has tuned.

    Source: arXiv:2306.01984, equations 2 to 5, algorithms 1 and 2.
    """

    scales: Tensor

    def __init__(self, config: DYffusionConfig, shape: ModelShape) -> None:
        super().__init__()
        self.config = config
        self.interpolator = Interpolator(
            config.interpolator, shape, horizon=config.horizon, departures=config.variable == "departure"
        )
        if config.interpolator.noise == "dropout" and not has_dropout(self.interpolator):
            raise InputError(
                "interpolator.noise dropout needs a network with dropout: set emulator.interpolator.network.dropout (0.1, say), "
                "or emulator.interpolator.noise to noise or bridge."
            )
        frames = 1 if config.conditioning == "none" else 2
        self.forecaster = ConditionedNetwork(
            config.network,
            shape,
            in_frames=frames,
            out_frames=1,
            in_channels=shape.channels + self.own_noise,
            out_channels=shape.channels,
            num_scalars=1,
            shared_channels=self.own_noise,
        )
        self.channels = shape.channels
        self.register_buffer("scales", torch.ones(config.horizon, shape.channels))

    @property
    def own_noise(self) -> int:
        """Channels of noise that the forecaster sees as they are."""
        return self.config.noise_channels if self.config.loss == "crps" else 0

    @property
    def noise_channels(self) -> int:
        """Channels of the noise fields that `forecast` takes: those, and those that drown the first state."""
        return self.own_noise + (self.channels if self.config.conditioning == "data+noise" else 0)

    @property
    def context(self) -> int:
        return 1

    @property
    def overlap(self) -> int:
        return 1

    @property
    def window(self) -> int:
        return self.config.horizon + 1

    @property
    def continuous(self) -> bool:
        return True

    def prepare(self, x: Tensor) -> None:
        """Measure the scales of departures on windows of training data (batch, time, channel, *space)."""
        self.scales.copy_(increment_scale(x, self.config.horizon))
        self.interpolator.prepare(x)

    def forecast(self, state: Tensor, time: Tensor, start: Tensor, noise: Tensor, conditions: Conditions) -> Tensor:
        """F: the end of the window from states (batch, channel, *space) at `time` (batch,).

        Args:
            start: The first state, which `conditioning` may show.
            noise: Fields (batch, noise_channels, *space).
        """
        config = self.config
        frames = [state]
        if config.conditioning == "data":
            frames = [start, state]
        elif config.conditioning == "data+noise":
            clean = (self._index(time) / max(1, len(config.trained) - 1))[(...,) + (None,) * (state.ndim - 1)]
            frames = [torch.lerp(noise[:, self.own_noise :], start, clean), state]
        if self.own_noise:
            frames = [torch.cat([frame, noise[:, : self.own_noise]], dim=1) for frame in frames]
        told = time / config.horizon if config.told == "time" else self._index(time) / len(config.trained)
        said = self.forecaster(torch.stack(frames, dim=1), conditions, told[:, None])[:, 0]
        base, scale = self._left(state, time)
        return base + scale * said

    def _left(self, state: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the forecaster adds to, and the scale of what it says: the way that is left from `time` to the end."""
        if self.config.variable == "state":
            return torch.zeros_like(state), state.new_ones(())
        left = scale_at(self.scales, self.config.horizon - time)
        return state, left[(...,) + (None,) * (state.ndim - 2)]

    def _index(self, time: Tensor) -> Tensor:
        """Steps n that times stand for, between whole n by linear interpolation."""
        times = time.new_tensor(self.config.trained)
        above = torch.searchsorted(times, time.detach().contiguous(), right=True).clamp(1, max(1, len(times) - 1))
        if len(times) == 1:
            return torch.zeros_like(time)
        low, high = times[above - 1], times[above]
        return above - 1 + (time - low) / (high - low)

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
        start = known[:, known_mask][:, -1]
        path = self.sample(start, conditions, noise=noise, window=window)
        wanted = [float(lead) for lead in lead_times[~known_mask]]
        stood = {} if self.config.refine else dict(zip(path.times, path.states, strict=True))
        states: dict[float, Tensor] = {}
        for lead in wanted:
            near = [time for time in (*stood, float(self.config.horizon)) if abs(time - lead) < 1e3 * WHOLE]
            if near:
                states[lead] = path.end if near[0] == self.config.horizon else stood[near[0]]
        missing = [lead for lead in wanted if lead not in states]
        inside = self.interpolate(start, path.end, missing, conditions, noise=noise, window=window)
        states |= zip(missing, inside.unbind(1), strict=True)
        return torch.cat([known[:, known_mask], torch.stack([states[lead] for lead in wanted], dim=1)], dim=1)

    def sample(self, start: Tensor, conditions: Conditions, *, noise: MemberNoise, window: int = 0) -> Path:
        """One window from states (batch, channel, *space), as `config.sampler` and its settings say."""
        config, batch = self.config, len(start)
        at = 0 if config.shared == "rollout" else window
        one = config.shared in ("window", "rollout")

        def forecast(state: Tensor, time: float) -> Tensor:
            drawn = start[:, :0]
            if self.noise_channels:
                step = 0 if one else round(index_of(time, config.trained) * 2**16)
                shape = (self.noise_channels, *start.shape[2:])
                drawn = noise.draw(shape, key=(at, step, "forecaster"), dtype=start.dtype, device=start.device)
            return self.forecast(state, start.new_full((batch,), time), start, drawn, conditions)

        def interpolate(end: Tensor, time: Tensor, draw: int) -> Tensor:
            draws = Draws(noise, at, (0 if one else draw,))
            return self.interpolator(start, end, time.expand(batch), conditions, draws)

        return sample_window(
            start,
            config.visited,
            float(config.horizon),
            forecast,
            interpolate,
            sampler=config.sampler,
            last=config.last,
            fresh=config.shared == "independent",
        )

    def interpolate(
        self,
        start: Tensor,
        end: Tensor,
        leads: list[float],
        conditions: Conditions,
        *,
        noise: MemberNoise,
        window: int = 0,
    ) -> Tensor:
        """States (batch, lead, channel, *space) at leads inside (0, h), all in one pass of at most `AT_ONCE` states.

        The noise at a lead does not depend on the other leads that are asked for.
        """
        shared = self.config.shared
        at = 0 if shared == "rollout" else window
        states = [start[:, None][:, :0]]
        each = max(1, AT_ONCE // len(start))
        for first in range(0, len(leads), each):
            part = leads[first : first + each]
            steps = tuple(0 if shared in ("window", "rollout") else REFINED + round(lead * 2**16) for lead in part)

            def copies(one: Tensor, number: int = len(part)) -> Tensor:
                return one.repeat_interleave(number, dim=0)

            rows = copies(torch.arange(len(start), device=conditions.time.device))
            told = self.interpolator(
                copies(start), copies(end), start.new_tensor(part).repeat(len(start)), conditions.select(rows),
                Draws(noise, at, steps),
            )  # fmt: skip
            states.append(told.unflatten(0, (len(start), len(part))))
        return torch.cat(states, dim=1)

    def stages(self) -> tuple[Stage, ...]:
        share = self.config.interpolator_share
        return (
            Stage("interpolator", self.window, self.interpolator, self._interpolator_loss, share=share),
            Stage(
                "forecaster", self.window, self.forecaster, self._forecaster_loss,
                share=1 - share, learning_rate=self.config.forecaster_rate,
            ),
        )  # fmt: skip

    def _interpolator_loss(self, batch: TrainingBatch) -> Tensor:
        self.interpolator.requires_grad_(True)
        return self.interpolator.loss(batch)

    def _forecaster_loss(self, batch: TrainingBatch) -> Tensor:
        self.interpolator.requires_grad_(False).eval()
        config, x, generator = self.config, batch.x, batch.generator
        members = config.members if config.loss == "crps" else 1
        start, end, steps = x[:, 0], x[:, config.horizon], len(config.trained)
        times = start.new_tensor([*config.trained, config.horizon])
        number = torch.randint(steps, (batch.size,), generator=generator, device=x.device)
        coins = torch.rand(2, batch.size, generator=generator, device=x.device)
        number = batch.own(torch.where(coins[0] < config.start_share, 0, number))
        spread = (...,) + (None,) * (start.ndim - 1)

        def several(one: Tensor) -> Tensor:
            return one.expand(members, *one.shape).flatten(0, 1)

        first_states, conditions = several(start), batch.conditions.expand(members).flatten()

        def error(states: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
            shape = (members, batch.size, self.noise_channels, *x.shape[3:])
            noise = batch.own(torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device), 1).flatten(0, 1)
            told = self.forecast(states, several(time), first_states, noise, conditions)
            scale = self._left(start, time)[1]
            ensemble = told.unflatten(0, (members, -1)) / scale
            if config.loss == "crps":
                return told, almost_fair_crps(ensemble, end / scale, config.fairness)
            departure = ensemble[0] - end / scale
            return told, departure.square() if config.loss == "squared" else departure.abs()

        time = times[number]
        inside = self.interpolator.drawn(start, end, time, batch)
        told, first = error(several(torch.where((number > 0)[spread], inside, start)), time)
        if config.lookahead == 0:
            return valid_mean(first, batch.conditions)
        # the last step has no next one: its place is computed with the others and counts nothing
        ahead = number < steps - 1
        beyond = (batch.own(coins[1]) * (steps - 1 - number)).long() if config.ahead == "any" else 0
        time = times[torch.where(ahead, number + 1 + beyond, steps - 1)]
        _, second = error(self.interpolator.drawn(first_states, told, several(time), batch, members), time)
        counted = 1 - (1 - config.start_share) / steps  # the share of windows with a next step
        second = second * ahead[spread].to(second) / counted
        return valid_mean((1 - config.lookahead) * first + config.lookahead * second, batch.conditions)
