"""Events that an ensemble is asked about, and when they happen in each member.

To add a kind: a frozen dataclass with `words`, in the union `Event`; its text in `read_event`, what it needs in `check_event`, when it
happens in `times_of`; a test with known times in `test_event_study.py`; `--event` in `docs/scores.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.gather import JetSettings, check_jet_settings
from eddycast.evaluation.runs import Run, Source
from eddycast.metrics import mask_weights, weighted_mean
from eddycast.metrics.chunks import spans
from eddycast.metrics.events import time_to_event
from eddycast.metrics.jets import count_jets, jet_events

Change = Literal["change", "nucleation", "coalescence"]
CHANGES: tuple[Change, ...] = ("change", "nucleation", "coalescence")
MEASURES = ("mean", "max", "min", "rms")
ONE_START = 0.5
"""Distance of the first states of members, in standard deviations of the field, up to which they count as restarts of one state."""


@dataclass(frozen=True)
class JetEvent:
    """The number of jets has changed for good: up (nucleation), down (coalescence), or either (change).

    Args:
        change: Which.
        settings: What counts as a jet and as lasting; the prominence in standard deviations of all states of the (solver's) ensemble.
    """

    change: Change = "change"
    settings: JetSettings = field(default_factory=JetSettings)

    @property
    def words(self) -> str:
        return {
            "change": "the number of jets has changed",
            "nucleation": "a jet has formed",
            "coalescence": "jets have merged",
        }[self.change]


@dataclass(frozen=True)
class ThresholdEvent:
    """A number of the field has passed a bound.

    Args:
        measure: `mean`, `max`, `min` or `rms` over space.
        bound: In units of the field.
        above: Whether it must be above the bound, or below.
    """

    measure: str
    bound: float
    above: bool = True

    @property
    def words(self) -> str:
        return f"the {self.measure} of the field has been {'above' if self.above else 'below'} {self.bound:g}"


Event = JetEvent | ThresholdEvent


def read_event(text: str, settings: JetSettings) -> Event:
    """An event from text. Raises: InputError for one that there is not."""
    word = text.strip().lower()
    if word in ("jets", *CHANGES):
        return JetEvent("change" if word == "jets" else word, settings)  # pyright: ignore[reportArgumentType]
    for sign in "<>":
        measure, found, bound = word.partition(sign)
        if found and measure.strip() in MEASURES:
            try:
                return ThresholdEvent(measure.strip(), float(bound), sign == ">")
            except ValueError as error:
                raise InputError(
                    f"The event {text!r} has no number after {sign}: write it as {measure.strip()}{sign}0.5."
                ) from error
    raise InputError(
        f"There is no event {text!r}: use jets, nucleation, coalescence, or a bound such as 'mean>0.5' ({', '.join(MEASURES)}; > or <)."
    )


def check_event(event: Event) -> None:
    """Raises: InputError for what cannot happen."""
    if isinstance(event, ThresholdEvent):
        if event.measure not in MEASURES:
            raise InputError(f"There is no measure {event.measure!r}: use {', '.join(MEASURES)}.")
    elif event.change not in CHANGES:
        raise InputError(f"There is no change {event.change!r} of jets: use {', '.join(CHANGES)}.")
    else:
        check_jet_settings(event.settings)


def states_of(source: Source, runs: list[Run], count: int) -> Tensor:
    """(member, lead, *space), float32."""
    first = 0 if source.ensemble else 1
    return torch.stack([run.fetch(first, first + count).float() for run in runs])


def deviation_of(runs: Iterable[Run]) -> float:
    """Standard deviation of all states of some runs, over space and time; 0 where there is none."""
    total, square, mass = 0.0, 0.0, 0
    for run in runs:
        values = run.fetch(0, run.frames).double()
        values = values[values.isfinite()]
        total, square, mass = total + float(values.sum()), square + float(values.square().sum()), mass + values.numel()
    return max(0.0, square / max(mass, 1) - (total / max(mass, 1)) ** 2) ** 0.5


def check_start(source: Source, runs: Sequence[Run]) -> None:
    """Whether trajectories of data are members of one case: restarted from one state, which stored first states may have left by a step.

    Their root mean square distance from their mean is that of independent states when it is the standard deviation of the field; up to
    `ONE_START` of that, three quarters of the variance are still in common.

    Raises: InputError for others.
    """
    first = torch.stack([run.fetch(0, 1)[0].double() for run in runs])
    apart = (first - first.mean(dim=0)).square() * len(runs) / (len(runs) - 1)
    known = apart.isfinite()
    distance, std = float(apart[known].mean().sqrt()) if bool(known.any()) else 0.0, deviation_of(runs)
    if distance > ONE_START * std > 0:
        raise InputError(
            f"{source.name}: its trajectories start {distance / std:.2f} standard deviations apart, so they are no ensemble from one "
            "state: restart one state with other seeds, or give an ensemble forecast."
        )


def with_prominence(event: JetEvent, source: Source, cases: Mapping[Any, list[Run]]) -> tuple[JetEvent, str]:
    """The prominence in units of the field, from the standard deviation of the reference ensemble."""
    std = deviation_of(run for runs in cases.values() for run in runs)
    if not std > 0:
        raise InputError(f"{source.name}: {source.field!r} does not vary, so it has no jets.")
    settings = event.settings
    told = (
        f"Jets stand out by {settings.prominence:g} standard deviations ({settings.prominence * std:.4g}) after smoothing over "
        f"{settings.width:g} grid steps; a change lasts {settings.hold} states."
    )
    return replace(event, settings=replace(settings, prominence=settings.prominence * std)), told


def start_of(event: Event, states: Tensor) -> Tensor | None:
    """Number of jets before anything happens: that of most members at the first lead, the same for both ensembles."""
    if not isinstance(event, JetEvent):
        return None
    first = count_jets(states[:, 0].double(), prominence=event.settings.prominence, width=event.settings.width)
    return first.mode().values


def times_of(event: Event, states: Tensor, leads: Tensor, start: Tensor | None, source: Source) -> Tensor:
    """(member,); a member that is not finite has had no event from then on."""
    if isinstance(event, JetEvent):
        assert start is not None
        found = [
            count_jets(states[some].double(), prominence=event.settings.prominence, width=event.settings.width)
            for some in spans(len(states), 8 * states[0].numel())
        ]
        counts = torch.cat(found)
        changes = jet_events(counts, event.settings.hold, start=start)
        later = event.settings.hold - 1  # states without a value have no jet: no change may lean on them
        shown = states.isfinite().flatten(2).all(dim=-1).cumprod(dim=-1)
        changes = changes * torch.nn.functional.pad(shown[:, later:], (0, later))
        signs = {"change": changes != 0, "nucleation": changes > 0, "coalescence": changes < 0}
        return time_to_event(signs[event.change], leads)
    weights = mask_weights(source.grid.weights(), source.valid)
    dims = tuple(range(-len(source.grid.axes), 0))
    values = states.double()
    land = weights == 0
    if event.measure in ("mean", "rms"):
        safe = torch.where(land, 0.0, values)
        of = weighted_mean(safe if event.measure == "mean" else safe.square(), weights)
        of = of if event.measure == "mean" else of.sqrt()
    else:
        fill = -torch.inf if event.measure == "max" else torch.inf
        filled = torch.where(land, fill, values)
        of = filled.amax(dim=dims) if event.measure == "max" else filled.amin(dim=dims)
    return time_to_event(of > event.bound if event.above else of < event.bound, leads)
