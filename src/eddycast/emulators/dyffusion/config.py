"""Settings of a dynamics-informed diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from eddycast.emulators.dyffusion.sampling import STEPS, Last, SamplerName
from eddycast.emulators.dyffusion.schedule import ScheduleKind, check_times, sampling_times, training_times
from eddycast.networks import NetworkConfig, UNetConfig

InterpolatorKind = Literal["dropout", "noise", "bridge"]
Conditioning = Literal["none", "data", "data+noise"]
Sharing = Literal["independent", "step", "window", "rollout"]


@dataclass(frozen=True)
class InterpolatorConfig:
    """Settings of an interpolator.

    Args:
        noise: What makes it random. `dropout`: masks in its network, as published. `noise`: white-noise fields that its network sees.
            `bridge`: a Gaussian about its mean, whose standard deviation vanishes at both ends.
        loss: Of `dropout`: `squared` as published, or `absolute`. The others minimise a fair CRPS.
        members: Members drawn per window in training, with `noise`.
        fairness: Weight of the fair CRPS, with `noise`; see `objectives.almost_fair_crps`.
        noise_channels: Of white noise, with `noise`.
        network: The backbone; with `dropout` one that has dropout.
    """

    noise: InterpolatorKind = "dropout"
    loss: Literal["squared", "absolute"] = "squared"
    members: int = 2
    fairness: float = 0.95
    noise_channels: int = 2
    network: NetworkConfig = field(default_factory=UNetConfig)

    def __post_init__(self) -> None:
        if self.noise == "noise" and (self.members < 2 or self.noise_channels < 1):
            raise ValueError(
                f"noise needs members >= 2 and noise_channels >= 1, got {self.members} and {self.noise_channels}."
            )


@dataclass(frozen=True)
class DYffusionConfig:
    """Settings of a dynamics-informed diffusion.

    Args:
        horizon: Steps of a window, h >= 2.
        variable: What the networks say. `departure`: standardised departures, of the state at i from the straight line between the ends,
            and of the end from the state at i. `state`: the states themselves, as published.
        interpolator: The interpolator.
        conditioning: What the forecaster sees beside the state at i: nothing, the first state (`data`), or the first state drowned in
            noise the more the earlier i is (`data+noise`).
        told: What the forecaster is told of i: the `time` i / h, or the `index` n / N of the step (which knows only its schedule).
        schedule, extra: Times of the steps in training, see `schedule.training_times`.
        times: These times instead, if any.
        start_share: Share of the training windows whose step is the first, n = 0, beside those that the uniform law gives it; published
            is 0. Only there is the forecaster shown nothing of the end: later states were interpolated from the true one, which it can
            read off them.
        ahead: The step of the second loss: the `next` one, as published, or `any` later one.
        lookahead: Weight of the second loss, of the end as forecast from where the interpolator takes the first forecast; the first has
            the rest.
        loss: Of the forecaster: `absolute` as published, `squared`, or `crps`, for which it sees white-noise fields and says members. The
            first two know one end for each state: where a state has several futures, all members of the ensemble take the same one.
        members, fairness, noise_channels: With `crps`, as in `InterpolatorConfig`.
        interpolator_share: Part of the training budget for the interpolator.
        forecaster_rate: Peak learning rate of the forecaster, relative to that of the training settings, which the interpolator has.
        network: Backbone of the forecaster.

        sampler: How a forecast steps, a key of `sampling.STEPS`.
        sampling: Which of the times it visits, see `schedule.sampling_times`.
        sampling_times: These times instead, if any.
        last: Step to the end of a window: `direct` from the forecaster, or `stepped` like the others.
        refine: States inside the window are interpolated anew from its final end; otherwise they are where the sampler stood.
        sharing: Noise of the calls of both networks. `independent` of each other (published), the same in all calls of one `step`, in the
            whole `window`, or in the whole `rollout`. None: what keeps the spread of a linear process with a known law nearest to the
            right one: with loss `crps` independent for `naive`, else of the step; otherwise independent for `naive` and `cold` with
            dropout, as published, else of the window.
    """

    kind: Literal["dyffusion"] = "dyffusion"
    horizon: int = 8
    variable: Literal["departure", "state"] = "departure"
    interpolator: InterpolatorConfig = field(default_factory=InterpolatorConfig)
    conditioning: Conditioning = "data"
    told: Literal["time", "index"] = "time"
    schedule: ScheduleKind = "base"
    extra: int = 0
    times: tuple[float, ...] = ()
    start_share: float = 0.0
    ahead: Literal["next", "any"] = "next"
    lookahead: float = 0.5
    loss: Literal["squared", "absolute", "crps"] = "absolute"
    members: int = 2
    fairness: float = 0.95
    noise_channels: int = 2
    interpolator_share: float = 0.4
    forecaster_rate: float = 1.0
    network: NetworkConfig = field(default_factory=UNetConfig)
    sampler: SamplerName = "cold"
    sampling: str = "all"
    sampling_times: tuple[float, ...] = ()
    last: Last = "direct"
    refine: bool = True
    sharing: Sharing | None = None

    def __post_init__(self) -> None:
        if self.horizon < 2:
            raise ValueError(
                f"horizon must be at least 2: between neighbouring states nothing is known, got {self.horizon}."
            )
        if self.sampler not in STEPS:
            raise ValueError(f"sampler must be one of {', '.join(STEPS)}, got {self.sampler!r}.")
        for name in ("lookahead", "start_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}.")
        if self.loss == "crps" and (self.members < 2 or self.noise_channels < 1):
            raise ValueError(
                f"loss crps needs members >= 2 and noise_channels >= 1, got {self.members} and {self.noise_channels}."
            )
        if not self.forecaster_rate > 0:
            raise ValueError(f"forecaster_rate must be positive, got {self.forecaster_rate}.")
        if not 0 < self.interpolator_share < 1:
            raise ValueError(f"interpolator_share is a share in (0, 1), got {self.interpolator_share}.")
        if self.lookahead and len(self.trained) < 2:
            raise ValueError("lookahead needs at least two times: give more, or lookahead = 0.")
        between = set(self.visited) - set(
            self.trained
        )  # asked for whatever is told: lists and rules of times are checked there
        if self.told == "index" and (self.sampler == "rk4" or between):
            raise ValueError(
                "a forecaster told the index knows only its own times: sample at those (rk4 does not), or tell it the time."
            )

    @property
    def trained(self) -> tuple[float, ...]:
        """Times of the steps in training."""
        if self.times:
            return check_times(self.times, self.horizon)
        return training_times(self.horizon, self.schedule, self.extra)

    @property
    def visited(self) -> tuple[float, ...]:
        """Times of the steps of a forecast."""
        if self.sampling_times:
            return check_times(self.sampling_times, self.horizon)
        return sampling_times(self.trained, self.sampling)

    @property
    def shared(self) -> Sharing:
        """`sharing`, or what None stands for."""
        if self.sharing is not None:
            return self.sharing
        if self.loss == "crps":
            return "independent" if self.sampler == "naive" else "step"
        published = self.interpolator.noise == "dropout" and self.sampler in ("naive", "cold")
        return "independent" if published else "window"
