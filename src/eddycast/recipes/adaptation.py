"""Two stages over the parameters of a system: learn the dynamics at one value, then adapt to many.

    1  pre-training at one parameter value, where data are cheap; what only parameters reach is inert (scale 1, shift 0) and frozen
    2  fine-tuning on few trajectories of diverse values, with all weights and a small learning rate

Source: arXiv:2509.09599 for the two stages, the inert modulation and the ratio 1/50 of the learning rates. The rest (replay, a rate of
its own for the modulation, shares of the budget) is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from eddycast.data import (
    Dataset,
    Family,
    Mixture,
    by_parameters,
    same_parameters,
    with_parameters,
    without_parameters,
)
from eddycast.emulators import Stage
from eddycast.emulators.network import ConditionedNetwork
from eddycast.errors import InputError

BASE, OTHERS = "pre-training", "fine-tuning"
"""Names of the two views of the training data."""
STAGE = "fine-tune"


@dataclass(frozen=True)
class Adaptation:
    """Pre-training at one parameter value, then fine-tuning on others.

    Args:
        pretrain: Parameters of the trajectories of the first stages, say {"domain_length": 22}.
        share: Of the steps that the last stage gets.
        learning_rate: Peak of the last stage, relative to that of the first one; 1/50 as published.
        modulation_rate: Of what only parameters reach, relative to the rest in the last stage, where it starts from nothing; 0 leaves it
            at that: the same emulator without conditioning.
        replay: Share of windows in the last stage that show the pre-training parameters again, against forgetting.

    Raises: ValueError for shares outside [0, 1) or rates that are not positive.
    """

    pretrain: dict[str, float] = field(default_factory=dict)
    share: float = 0.25
    learning_rate: float = 1 / 50
    modulation_rate: float = 1.0
    replay: float = 0.15

    def __post_init__(self) -> None:
        if not self.pretrain:
            raise ValueError("adaptation.pretrain names the parameters to begin with, such as {domain_length: 22}.")
        if not 0 < self.share < 1 or not 0 <= self.replay < 1:
            raise ValueError(f"share must lie in (0, 1) and replay in [0, 1), got {self.share} and {self.replay}.")
        if not self.learning_rate > 0 or not self.modulation_rate >= 0:
            raise ValueError(
                f"learning_rate must be positive and modulation_rate not negative, got {self.learning_rate} and {self.modulation_rate}."
            )


def adapted_stages(stages: tuple[Stage, ...], adaptation: Adaptation, model: nn.Module) -> tuple[Stage, ...]:
    """The stages of a family on the pre-training parameters, and its last one again on the others."""
    modulations = tuple(modulations_of(model))
    total = sum(stage.share for stage in stages)
    first = [
        replace(stage, view=BASE, frozen=modulations, share=(1 - adaptation.share) * stage.share / total)
        for stage in stages
    ]
    last = replace(
        stages[-1],
        name=STAGE,
        view=OTHERS,
        share=adaptation.share,
        learning_rate=stages[0].learning_rate * adaptation.learning_rate,
        frozen=modulations if adaptation.modulation_rate == 0 else (),
        rates=tuple((part, adaptation.modulation_rate) for part in modulations if adaptation.modulation_rate > 0),
    )
    return (*first, last)


def modulations_of(model: nn.Module) -> list[nn.Module]:
    """What only scalars reach in the networks that say so; the others are told a constant while there is one parameter value.

    Raises: InputError for a network that is told more than parameters (leads of a longer horizon): that must not be frozen.
    """
    found: list[nn.Module] = []
    for part in model.modules():
        if isinstance(part, ConditionedNetwork) and hasattr(part.backbone, "modulations"):
            if getattr(getattr(model, "config", None), "horizon", 1) > 1:
                raise InputError(
                    "Pre-training leaves out what scalars tell the network, the lead among them: set emulator.horizon=1."
                )
            found.append(part.backbone.modulations)  # type: ignore[arg-type]
    return found


def adapted_views(
    adaptation: Adaptation, data: Dataset | Family, stage: str | None = None
) -> dict[str, Dataset | Mixture]:
    """The two views of the training data: all values weigh alike in the second, however many trajectories each has.

    Args:
        stage: The only one that is to be trained; the data of the others need not be there.

    Raises: InputError where no trajectory has the pre-training parameters, or none has others, and a stage needs them.
    """
    datasets = data.datasets if isinstance(data, Family) else (data,)
    wanted = _told(adaptation.pretrain)
    base = [part for one in datasets if (part := with_parameters(one, adaptation.pretrain)) is not None]
    rest = [part for one in datasets if (part := without_parameters(one, adaptation.pretrain)) is not None]
    others = [each for part in rest for each in by_parameters(part)]
    if not base and (stage != STAGE or adaptation.replay > 0):
        again = ", or adaptation.replay=0 to do without" if stage == STAGE else ""
        raise InputError(
            f"No trajectory of the training split has {wanted}: give such data, or set adaptation.pretrain{again}."
        )
    if not others and stage in (None, STAGE):
        raise InputError(
            f"All trajectories of the training split have {wanted}: the stage {STAGE} needs others; --stage trains one stage alone."
        )
    views: dict[str, Dataset | Mixture] = {}
    if base:
        views[BASE] = base[0] if len(base) == 1 else Mixture(tuple(base), (1.0,) * len(base))
    if others:
        shares = [(1 - adaptation.replay) / len(others)] * len(others)
        if adaptation.replay > 0:
            others += base
            shares += [adaptation.replay / len(base)] * len(base)
        views[OTHERS] = Mixture(tuple(others), tuple(shares))
    return views


def base_of(adaptation: Adaptation, family: Family) -> Dataset:
    """The data set of a family on which scales are measured: one with the pre-training parameters, or the smallest."""
    for dataset in family.datasets:
        if bool(same_parameters(dataset, adaptation.pretrain).any()):
            return dataset
    return family.datasets[0]


def all_windows(family: Family) -> Mixture:
    """Windows of all data sets of a family, each as often as any other."""
    return Mixture(family.datasets, (1.0,) * len(family.datasets))


def _told(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in values.items())
