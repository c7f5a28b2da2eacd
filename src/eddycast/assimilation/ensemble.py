"""How ensemble methods take in one block: forecasts from one observed frame to the next, and an update of all its states at each.

The weights of an update act on every state that the members hold, so those at the start of the block learn from what is observed at its
end: a block of one frame is a filter, all frames in one block are the smoother. The ensemble smoother instead forecasts the whole block
first and updates it once. Repeated with tempered noise, a block is gone through in smaller steps.
Source: Evensen and van Leeuwen (2000), doi:10.1175/1520-0493(2000)128<1852:AEKSFN>2.0.CO;2; all at once: van Leeuwen and Evensen (1996),
doi:10.1175/1520-0493(1996)124<2898:DAAIMI>2.0.CO;2; tempered: Emerick and Reynolds (2013), doi:10.1016/j.cageo.2012.03.011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eddycast.assimilation.cycle import BlockResult, Cycle, Standing, require_finite
from eddycast.assimilation.ensemble_options import EnsembleOptions
from eddycast.assimilation.inflation import inflated, relaxed_to_perturbations, relaxed_to_spread
from eddycast.assimilation.parameters import ParameterPriors
from eddycast.assimilation.updates import mixed, whitened_departures
from eddycast.conditions import Conditions
from eddycast.noise import MemberNoise
from eddycast.observations import Measurement, ObservationSet

ADDRESSES = 2**32
"""Numbers of windows wrap around here: frame -1 of a continued cycle has an address of its own."""

SWEEPS = 2**58
"""Seeds of repeated passes lie this far apart."""


@dataclass(frozen=True, eq=False)
class _Course:
    """Members on their way through a block.

    Args:
        states: From the context before the block on, (member, case, time, channel, *space).
        z: Unknown parameters at the same times, (member, case, time, P).
        launch, z_launch: Context and parameters as the next forecast begins with them.
        now: Frame of the last state, as the observations count.
    """

    states: Tensor
    z: Tensor
    launch: Tensor
    z_launch: Tensor
    now: int


@dataclass(frozen=True, eq=False)
class EnsembleAnalysis:
    """Analysis of blocks by an ensemble update; see the top of this module.

    Args:
        options: Of the method.
        parameter_names: Columns of `Conditions.parameters`.
    """

    options: EnsembleOptions
    parameter_names: tuple[str, ...] = ()

    @property
    def priors(self) -> ParameterPriors:
        return ParameterPriors.of(self.options.estimate, self.parameter_names)

    def told(self, conditions: Conditions, standing: Standing) -> Conditions:
        if standing.parameters is None or not self.options.estimate:
            return conditions
        return self.priors.told(conditions, standing.parameters)

    def __call__(
        self,
        cycle: Cycle,
        observations: ObservationSet,
        first: int,
        last: int,
        progress: Callable[[int, int], None] | None,
    ) -> BlockResult:
        standing, passes, priors = cycle.standing, self.options.passes, self.priors
        assert standing.states is not None, "ensemble methods start from a background"
        context = cycle.model.context
        states = standing.states[:, :, standing.states.shape[2] - context :]
        launch = standing.launch
        if launch is None:  # an analysis from elsewhere, of which the prior is not known
            launch = inflated(states, self.options.inflation) if standing.begun else states
        z = standing.parameters
        if z is None:
            z = priors.draw(MemberNoise.grid(cycle.seed, cycle.cases, cycle.members)).to(states.device)
        z_all = z[:, :, None].expand(-1, -1, context, -1)
        begin = first - 1 if standing.begun else first
        course = _Course(states, z_all, launch, z, begin)
        misfit = standing.misfit
        for sweep in range(passes):
            course, misfit = self._sweep(cycle, observations, course, first, last, sweep, misfit)
            if progress is not None:
                progress(sweep + 1, passes)
            if sweep < passes - 1:
                states, z_all = course.states[:, :, :context], course.z[:, :, :context]
                again = inflated(states, self.options.inflation) if standing.begun else states
                course = _Course(states, z_all, again, z_all[:, :, -1], begin)
        kept = last - first
        after = replace(
            standing,
            states=course.states,
            launch=course.launch.clone(),
            frame=standing.frame + kept,
            begun=True,
            parameters=course.z_launch if priors.names else None,
            misfit=misfit,
        )
        values = priors.physical(course.z[:, :, -kept:]) if priors.names else None
        named = None if values is None else dict(zip(priors.names, values.unbind(dim=-1), strict=True))
        return BlockResult(course.states[:, :, -kept:], after, named)

    def _sweep(
        self,
        cycle: Cycle,
        observations: ObservationSet,
        course: _Course,
        first: int,
        last: int,
        sweep: int,
        misfit: Tensor | None,
    ) -> tuple[_Course, Tensor | None]:
        """Go through the frames [first, last) once and smooth all states on the way."""
        seen = cycle.observed_frames(observations)
        for k in range(first, last):
            due = k == last - 1 if self.options.whole else bool(seen[k])
            if not due and k < last - 1:
                continue
            course = self._advanced(cycle, course, k, offset=cycle.standing.frame - first, sweep=sweep)
            require_finite(course.states[:, :, -1], k, cycle.cases, observations.valid)
            # An entry may look at the frame before as well, as interpolation in time does.
            since = first if self.options.whole else k
            start = max(since - 1, course.now + 1 - course.states.shape[2])
            if (measurement := observations.seen(start, k + 1, since=since)) is not None:
                course, misfit = self._updated(cycle, course, measurement, k + 1 - start, k, first, sweep, misfit)
                require_finite(course.states[:, :, -1], k, cycle.cases, observations.valid)
        return course, misfit

    def _advanced(self, cycle: Cycle, course: _Course, to: int, *, offset: int, sweep: int) -> _Course:
        """The course with the states up to frame `to`; `offset` is the number of the observations' frame 0 in the cycle."""
        ahead = to - course.now
        if ahead == 0:
            return course
        frame = course.now + offset
        noise = MemberNoise.grid((cycle.seed + sweep * SWEEPS) % 2**63, cycle.cases, cycle.members)
        conditions = cycle.conditions.shifted(frame).expand(cycle.members)
        z, priors = course.z_launch, self.priors
        if priors.names:
            z = priors.walked(z, self.options.walk * ahead**0.5, noise, frame=frame % ADDRESSES)
            conditions = priors.told(conditions, z)
        states = cycle.model.advance(
            course.launch,
            conditions,
            torch.arange(1.0, ahead + 1.0, dtype=torch.float64),
            noise=noise,
            first_window=frame % ADDRESSES,
        )
        states = torch.cat([course.states, states], dim=2)
        z_all = torch.cat([course.z, z[:, :, None].expand(-1, -1, ahead, -1)], dim=2)
        return _Course(states, z_all, states[:, :, -cycle.model.context :], z, to)

    def _updated(
        self,
        cycle: Cycle,
        course: _Course,
        measurement: Measurement,
        looked_at: int,
        k: int,
        first: int,
        sweep: int,
        misfit: Tensor | None,
    ) -> tuple[_Course, Tensor]:
        """The course after an update by a measurement that looks at its last `looked_at` states."""
        options, frame = self.options, cycle.standing.frame + k - first
        departures = whitened_departures(course.states[:, :, -looked_at:], measurement, options.passes)
        require_finite(departures[0].movedim(1, 0), k, cycle.cases, None)
        if sweep == 0:
            scale = options.passes**0.5
            entries = measurement.mask.to(departures[0].device)
            misfit = cycle.watch(departures[0] * scale, departures[1] * scale, entries, misfit, frame)
        assert misfit is not None, "the first pass has looked"
        update = options.update(
            departures,
            measurement,
            cycle.conditions.grid,
            noise=MemberNoise.grid(cycle.seed, cycle.cases, cycle.members),
            key=(frame % ADDRESSES, sweep),
        )
        context = cycle.model.context
        prior, z_prior = course.states[:, :, -context:], course.z
        states, z = update(course.states), course.z
        if self.priors.names:
            z = mixed(z_prior, update.shared)
        launch = relaxed_to_perturbations(states[:, :, -context:], prior, options.rtpp)
        launch = inflated(relaxed_to_spread(launch, prior, options.rtps), options.inflation)
        return _Course(states, z, launch, self.priors.kept_apart(z[:, :, -1], options.floor), course.now), misfit
