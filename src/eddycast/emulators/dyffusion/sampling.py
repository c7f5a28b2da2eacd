"""Sampling of one window by a forecaster F and an interpolator I, whatever they are.

A window starts at x_0 and ends at time h. F(x, s) says the end from the state at s, I(x_0, x_h, s) the state at s from both ends, with
I(., ., 0) = x_0, I(., x_h, h) = x_h and F(x, h) = x. The state follows

    dx/ds = d/ds I(x_0, F(x, s), s)

    sampler     step from s to s', with D(f) = I(x_0, f, s') - I(x_0, f, s)     F / I a step   order
    naive       x' = I(x_0, F(x, s), s')                                        1 / 1          none
    cold        x' = x + D(F(x, s))                                             1 / 2          1
    multistep   x' = x + D(f), f extrapolated from the last two F to (s + s')/2 1 / 2          2
    heun        x' = x + (D(f) + D(f'))/2, f' = F(x + D(f), s')                 2 / 4          2
    rk4         classical Runge-Kutta on the equation, d/ds by forward mode     4 / 4          4

An order needs the same noise in all calls of I within a step, and an I that is smooth between the times of the steps; it speaks of this
equation, not of the truth; a bridge, whose noise begins like s^(3/2), holds rk4 to 3/2. `naive` throws the state
away in each step: what I(x_0, F(x, s), s) and x differ by is never returned, so that more steps make it worse.
Source: `naive`, `cold` and the equation: arXiv:2306.01984, algorithm 2 and appendix A.2; the others are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

SamplerName = Literal["naive", "cold", "multistep", "heun", "rk4"]
Last = Literal["direct", "stepped"]


class Interpolate(Protocol):
    """I of the module at a time strictly inside the window; `draw` says which noise of the caller it has."""

    def __call__(self, end: Tensor, time: Tensor, draw: int) -> Tensor: ...


Forecast = Callable[[Tensor, float], Tensor]
"""F of the module: state and time before the end -> state at the end."""


@dataclass(frozen=True)
class Path:
    """A sampled window.

    Args:
        end: State at its end.
        times: Times inside at which the sampler stood, 0 left out.
        states: Its states there.
    """

    end: Tensor
    times: tuple[float, ...]
    states: tuple[Tensor, ...]


def sample_window(
    start: Tensor,
    times: tuple[float, ...],
    horizon: float,
    forecast: Forecast,
    interpolate: Interpolate,
    *,
    sampler: SamplerName = "cold",
    last: Last = "direct",
    fresh: bool = True,
) -> Path:
    """Go from time 0 to the end of a window.

    With M times there are M calls of F, and of I: 2 M - 3 for `cold` and `multistep`, M - 1 for `naive` (M > 1, `last` direct).

    Args:
        start: x_0, of any shape.
        times: Where F is asked, from 0, ascending, below `horizon`.
        horizon: Time of the end.
        forecast, interpolate: F and I.
        last: The step to the end. `direct`: what F says from the last time; `stepped`: a step of the sampler like the others.
        fresh: Each call of I has noise of its own (`draw` 0, 1, ...); otherwise all of one step share theirs (`draw` = its number).
    """
    step = _Stepper(start, horizon, forecast, interpolate, fresh)
    make = STEPS[sampler]
    x, states = start, []
    for number, time in enumerate(times):
        step.number = number
        final = number == len(times) - 1
        if final and last == "direct":
            x = forecast(x, time)
        else:
            x = make(step, x, time, horizon if final else times[number + 1])
        if not final:
            states.append(x)
    return Path(x, tuple(times[1:]), tuple(states))


@dataclass
class _Stepper:
    """F and I with their ends, and what a step remembers of the ones before."""

    start: Tensor
    horizon: float
    forecast: Forecast
    interpolate: Interpolate
    fresh: bool
    number: int = 0
    calls: int = 0
    said: tuple[float, Tensor] | None = None  # time and answer of F in the step before

    def end(self, x: Tensor, time: float) -> Tensor:
        return x if time >= self.horizon else self.forecast(x, time)

    def state(self, end: Tensor, time: float) -> Tensor:
        if time <= 0:
            return self.start
        return end if time >= self.horizon else self.interpolate(end, end.new_tensor(time), self._draw())

    def rate(self, end: Tensor, time: float, beside: float) -> Tensor:
        """Partial derivative of I at a time, from the side of the time `beside`: I may bend at whole times, and have no slope at 0."""
        draw = self._draw()
        at = torch.nextafter(end.new_tensor(time + 1e-12 * (beside - time)), end.new_tensor(beside))
        return torch.func.jvp(lambda s: self.interpolate(end, s, draw), (at,), (torch.ones_like(at),))[1]

    def change(self, end: Tensor, time: float, then: float) -> Tensor:
        return self.state(end, then) - self.state(end, time)

    def _draw(self) -> int:
        self.calls += 1
        return self.calls - 1 if self.fresh else self.number


def _naive(step: _Stepper, x: Tensor, time: float, then: float) -> Tensor:
    return step.state(step.end(x, time), then)


def _cold(step: _Stepper, x: Tensor, time: float, then: float) -> Tensor:
    end = step.end(x, time)
    if time <= 0:
        return step.state(end, then)  # x - I(., 0) = 0, which rounding would miss
    return x + step.change(end, time, then)


def _multistep(step: _Stepper, x: Tensor, time: float, then: float) -> Tensor:
    end = step.end(x, time)
    before, step.said = step.said, (time, end)
    if before is not None:
        end = end + (then - time) / (2 * (time - before[0])) * (end - before[1])
    return x + step.change(end, time, then)


def _heun(step: _Stepper, x: Tensor, time: float, then: float) -> Tensor:
    first = step.change(step.end(x, time), time, then)
    return x + (first + step.change(step.end(x + first, then), time, then)) / 2


def _rk4(step: _Stepper, x: Tensor, time: float, then: float) -> Tensor:
    size, middle = then - time, (time + then) / 2

    def slope(state: Tensor, at: float) -> Tensor:
        return step.rate(step.end(state, at), at, beside=middle if at != middle else then)

    k1 = slope(x, time)
    k2 = slope(x + size / 2 * k1, middle)
    k3 = slope(x + size / 2 * k2, middle)
    k4 = slope(x + size * k3, then)
    return x + size / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


STEPS: dict[str, Callable[[_Stepper, Tensor, float, float], Tensor]] = {
    "naive": _naive,
    "cold": _cold,
    "multistep": _multistep,
    "heun": _heun,
    "rk4": _rk4,
}
"""To add a sampler: a function of a `_Stepper` here, and its name in `SamplerName`."""
