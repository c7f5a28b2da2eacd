"""The one cycle of blocks of observations, analyses and forecasts, which can be left at any block and gone on with later.

    cycle = start_cycle("etkf", model, conditions, members=40, seed=0, background=states)
    for observations in blocks:                    # as they come in
        analysis = cycle.step(observations)        # (member, case, time, channel, *space)
        ahead = cycle.forecast(48)
    safetensors.torch.save_file(cycle.state_dict(), "cycle.safetensors")

Filters take blocks of one frame, smoothers all frames as one block, the online task a block after the other. The cycle keeps the last
states and little else, however long it runs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from eddycast.assimilation.findings import report
from eddycast.assimilation.protocols import ForecastModel
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.observations import ObservationSet

FORECAST = 2**24
"""Number of the first window of a forecast in the addresses of its noise, beyond those of any analysis."""

SEEDS = 2**40
"""Seeds of consecutive blocks lie this far apart, so that no block repeats the noise of another."""

MEMORY = 0.1
"""Weight of the newest analysis in the running mean of the misfit."""

MISFIT_LIMIT = 4.0
"""Square of the innovations over what spread and error allow, from which on an ensemble is told to have diverged: 1 is right."""

SPIN_UP = 10
"""Analyses after which the misfit is looked at, so that a poor start is no divergence; as many again must have been looked at."""


class DivergenceWarning(RuntimeWarning):
    """An ensemble that has collapsed, or no longer fits what is observed; the analysis goes on."""


@dataclass(frozen=True, eq=False)
class Standing:
    """Where a cycle stands: all that it knows.

    Args:
        states: Last states of the analysis, (member, case, context, channel, *space); None before the first block of a method that
            starts from nothing.
        launch: The same states as the next forecast begins with them (inflated), where those differ.
        frame: Number of the next frame, counted from the start of the cycle.
        block: Number of the next block.
        begun: The last state stands at `frame` - 1. Otherwise at frame 0, which is still to be analysed.
        parameters: Unknown parameters of each member as z, (member, case, P).
        misfit: Running sums of squared innovations over their expectation and of weights, and number of analyses, (case, 3).
    """

    states: Tensor | None
    launch: Tensor | None = None
    frame: int = 0
    block: int = 0
    begun: bool = False
    parameters: Tensor | None = None
    misfit: Tensor | None = None


@dataclass(frozen=True, eq=False)
class BlockResult:
    """Analysis of a block.

    Args:
        states: (member, case, time, channel, *space).
        standing: Where the cycle stands after it; the states in there may be more than a context.
        parameters: Unknown parameters by name, each (member, case, time), in physical units.
    """

    states: Tensor
    standing: Standing
    parameters: Mapping[str, Tensor] | None = None


class BlockAnalysis(Protocol):
    """How a method takes in one block."""

    def told(self, conditions: Conditions, standing: Standing) -> Conditions:
        """Conditions (member, case) with what the members know of the dynamics."""
        ...

    def __call__(
        self,
        cycle: Cycle,
        observations: ObservationSet,
        first: int,
        last: int,
        progress: Callable[[int, int], None] | None,
    ) -> BlockResult:
        """Frames [first, last) of the observations are the next ones of the cycle."""
        ...


class Cycle:
    """Analyses of blocks, one after the other, and forecasts from them.

    Args:
        model: Forecasts.
        analysis: How a block is taken in.
        conditions: Batch (case,), origin at the first frame.
        members: Of the ensemble.
        seed: Of everything random.
        cases: Numbers of the cases in the address of their noise, (case,); default 0, 1, ...
        background: States (member, case, time, channel, *space) before any observation, the last at the first frame; with
            `continued` one frame before it, and then an analysis of what came earlier.
        continued: See there.
    """

    def __init__(
        self,
        model: ForecastModel,
        analysis: BlockAnalysis,
        conditions: Conditions,
        *,
        members: int,
        seed: int,
        cases: Tensor | None = None,
        background: Tensor | None = None,
        continued: bool = False,
    ) -> None:
        self.model, self.analysis, self.conditions = model, analysis, conditions
        self.members, self.seed = members, seed
        self.cases = torch.arange(len(conditions.time)) if cases is None else cases
        self.standing = Standing(background, begun=continued)
        self.parameters: Mapping[str, Tensor] | None = None
        self.divergence: str | None = None
        self._observed: tuple[ObservationSet, Tensor] | None = None

    def step(
        self,
        observations: ObservationSet,
        first: int = 0,
        last: int | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Analysis of the next frames, (member, case, time, channel, *space): each state knows what is observed up to the last one.

        Args:
            observations: Their frames [first, last) are the next ones of the cycle; default all. Frames without an observation
                are forecast.
            progress: Called with (done, total).

        Raises: InputError when the ensemble is no longer finite; warns, once, when it no longer fits what is observed (`divergence`).
        """
        last = observations.num_times if last is None else last
        if not 0 <= first < last <= observations.num_times:
            raise InputError(f"Frames [{first}, {last}) are not within the {observations.num_times} observed ones.")
        found = self.analysis(self, observations, first, last, progress)
        standing, keep = found.standing, max(1, self.model.context)
        assert standing.states is not None, "a block was analysed"
        # clones: views would keep all frames of the block
        self.standing = replace(standing, states=standing.states[:, :, -keep:].clone(), block=standing.block + 1)
        self.parameters = found.parameters
        return found.states

    def run(
        self, observations: ObservationSet, block: int, *, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Analysis of all frames by blocks, (member, case, time, channel, *space)."""
        total, states, parameters = observations.num_times, [], []
        for first in range(0, total, block):
            last = min(first + block, total)

            def part(done: int, all_of_it: int, first: int = first, last: int = last) -> None:
                if progress is not None:
                    progress(1000 * first + 1000 * (last - first) * done // max(1, all_of_it), 1000 * total)

            states.append(self.step(observations, first, last, progress=part))
            parameters.append(self.parameters or {})
            part(1, 1)
        report_parameters(parameters)
        return torch.cat(states, dim=2)

    def forecast(self, steps: int) -> Tensor:
        """States of the next `steps` frames, (member, case, time, channel, *space); the cycle stays where it is.

        Raises: InputError where fewer states are known than the model continues.
        """
        standing = self.standing
        seed = (self.seed + max(0, standing.block - 1) * SEEDS) % 2**63
        return self.free_run(steps, seed=seed, first_window=FORECAST)

    def free_run(self, steps: int, *, seed: int, first_window: int) -> Tensor:
        """Forecast with noise at the given addresses."""
        standing = self.standing
        origin = standing.frame - 1 if standing.begun else standing.frame
        return self.model.advance(
            known_context(standing.states, self.model.context),
            self.analysis.told(self.conditions.shifted(origin).expand(self.members), standing),
            torch.arange(1.0, steps + 1.0, dtype=torch.float64),
            noise=MemberNoise.grid(seed, self.cases, self.members),
            first_window=first_window,
        )

    def observed_frames(self, observations: ObservationSet) -> Tensor:
        """True at frames of which something is observed, (time,); reckoned once for a set that is gone through in many steps."""
        if self._observed is None or self._observed[0] is not observations:
            self._observed = (observations, observations.observed_frames())
        return self._observed[1]

    def state_dict(self) -> dict[str, Tensor]:
        """All that a cycle made in the same way needs to go on, bit by bit as if it had never stopped."""
        standing = self.standing
        whole = {"frame": standing.frame, "block": standing.block, "begun": int(standing.begun), "seed": self.seed}
        content = {name: torch.tensor(value, dtype=torch.int64) for name, value in whole.items()}
        for name in ("states", "launch", "parameters", "misfit"):
            value = getattr(standing, name)
            if value is not None:
                content[name] = value.clone().contiguous()
        return content

    def load_state_dict(self, content: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave. Raises: InputError for the state of a cycle with another seed, or other cases or members."""
        if missing := {"frame", "block", "begun", "seed"} - set(content):
            raise InputError(f"This is no state of a cycle: it lacks {', '.join(sorted(missing))}.")
        if int(content["seed"]) != self.seed:
            raise InputError(
                f"The state is of a cycle with seed {int(content['seed'])}, this one has {self.seed}: start it with that."
            )
        states = content.get("states")
        expected = (self.members, len(self.cases))
        if states is not None and tuple(states.shape[:2]) != expected:
            raise InputError(
                f"The state holds {states.shape[0]} members of {states.shape[1]} cases, this cycle has {expected[0]} of "
                f"{expected[1]}: start it with as many."
            )
        parts = {
            name: content[name].clone() if name in content else None
            for name in ("states", "launch", "parameters", "misfit")
        }
        self.standing = Standing(
            **parts,
            frame=int(content["frame"]),
            block=int(content["block"]),
            begun=bool(content["begun"]),
        )

    def watch(
        self, deviations: Tensor, innovation: Tensor, entries: Tensor, misfit: Tensor | None, frame: int
    ) -> Tensor:
        """Compare innovations with what spread and error allow; returns the running sums, (case, 3).

        Args:
            deviations, innovation: In units of the noise, (case, member, entry) and (case, entry).
            entries: True at entries, (case, entry).
            misfit: The sums so far.
            frame: Of this analysis.
        """
        count = entries.sum(dim=1)
        variance = deviations.square().sum(dim=1) / (deviations.shape[1] - 1)
        ratio = innovation.square() / (1 + variance)
        newest = torch.stack([ratio.sum(dim=1) / count.clamp(min=1), torch.ones_like(ratio[:, 0]), count > 0], dim=1)
        before = torch.zeros_like(newest) if misfit is None else misfit.to(newest)
        decay = torch.tensor([1 - MEMORY, 1 - MEMORY, 1.0], dtype=newest.dtype, device=newest.device)
        newest[:, :2] *= (before[:, 2:] >= SPIN_UP).to(newest)
        after = torch.where(count[:, None] > 0, decay * before + newest, before)
        if self.divergence is None:
            identical = (count > 0) & (variance.sum(dim=1) == 0)
            mean = after[:, 0] / after[:, 1].clamp(min=1e-300)
            lost = (count > 0) & (after[:, 2] >= 2 * SPIN_UP) & (mean > MISFIT_LIMIT)
            if bool((identical | lost).any()):
                case = int((identical | lost).nonzero()[0])
                where = f"The ensemble of trajectory {int(self.cases[case])} at frame {frame}"
                spread = math.sqrt(variance[case].sum().item() / int(count[case]))
                self.divergence = (
                    f"{where} has collapsed: all members see the same, observations change nothing any more; inflate."
                    if bool(identical[case])
                    else f"{where} no longer fits what is observed (divergence): innovations are {mean[case].sqrt():.1f} times as large as "
                    f"spread ({spread:.2g} of the error) and error allow; take more members, more inflation, or a better model."
                )
                report(divergence=self.divergence)
                warnings.warn(self.divergence, DivergenceWarning, stacklevel=2)
        return after


def report_parameters(blocks: Sequence[Mapping[str, Tensor]]) -> None:
    """Tell whoever gathers findings what consecutive blocks say of unknown parameters: values of the members and their deviation."""
    series = {name: torch.cat([one[name] for one in blocks], dim=2) for name in blocks[0]}
    if series:
        report(parameters=series, parameter_std={name: one.std(dim=0, keepdim=True) for name, one in series.items()})


def known_context(states: Tensor | None, context: int) -> Tensor:
    """The last states of a history (member, case, time, ...). Raises: InputError when they are too few."""
    if states is None or states.shape[2] < context:
        raise InputError(
            f"The emulator continues {context} states, and a block has fewer: raise block, or pass a background with {context}."
        )
    return states[:, :, -context:]


def require_finite(ensemble: Tensor, frame: int, cases: Tensor, valid: Tensor | None) -> None:
    """Divergence is told, not passed on.

    Args:
        ensemble: (member, case, ...), with *space at the end where there is a mask.
        frame: Of the observations.
        cases: Numbers of the trajectories, (case,).
        valid: True where the fields are defined, (*space), or None.

    Raises: InputError, one line, for a number that is not finite.
    """
    values = ensemble if valid is None else ensemble[..., valid.to(ensemble.device)]
    finite = values.isfinite().flatten(2).all(dim=2).all(dim=0)
    if not finite.all():
        case = int((~finite).nonzero()[0])
        raise InputError(
            f"The ensemble of trajectory {int(cases[case])} is no longer finite at frame {frame} of the observations (divergence): "
            "take more members, less inflation, or a more stable emulator."
        )


def fit_background(background: Tensor | None, members: int, cases: int, context: int) -> Tensor:
    """The first `members` members and the last `context` states of a background.

    Raises: InputError when there is none, or too few of something.
    """
    if background is None:
        raise InputError(
            "This method starts from an ensemble of states: pass a background (climatology, or a forecast)."
        )
    if background.shape[0] < members or background.shape[1] != cases or background.shape[2] < context:
        raise InputError(
            f"The background has {background.shape[0]} members, {background.shape[1]} cases and "
            f"{background.shape[2]} states; "
            f"{members}, {cases} and {context} are needed."
        )
    return background[:members, :, background.shape[2] - context :]
