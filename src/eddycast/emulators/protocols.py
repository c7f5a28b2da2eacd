"""What every forecaster looks like to the rest of the house: a space, a window model and the stages that train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from eddycast.conditions import Conditions
from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.sampling import starting_noise
from eddycast.guidance import GaussianLikelihood
from eddycast.noise import MemberNoise


class Space(Protocol):
    """Physical <-> model space: a normalisation, or an autoencoder on top of one."""

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Physical states (*batch, time, channel, *space) at `lead_times` (time,) to model space."""
        ...

    def decode(self, x: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Model space to physical states; inverse of `encode` up to what an autoencoder loses."""
        ...


class WindowModel(Protocol):
    """One window of any family, in model space.

    Attributes:
        context: Known states with which a forecast starts.
        overlap: States of a window that the next one is given; equal to `context` but for models that start differently.
        window: States of one window, known and new ones; a window gives `window - context` (later `- overlap`) new states. None: one
            window for the whole forecast, however long.
        continuous: Whether lead times between multiples of dt are possible.
    """

    @property
    def context(self) -> int: ...
    @property
    def overlap(self) -> int: ...
    @property
    def window(self) -> int | None: ...
    @property
    def continuous(self) -> bool: ...

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
        """Fill the unknown states of one window.

        Args:
            known: States (batch, time, channel, *space) in model space; frames that are not known hold anything finite.
            known_mask: Which frames are known, (time,).
            conditions: Batch (batch,), origin at lead time 0.
            lead_times: Times of the frames in steps of dt relative to the origin, ascending, (time,).
            noise: Addresses of the batch, (batch,).
            window: Number of this window within the rollout, part of the address of every draw.

        Returns: States of the shape of `known`; known frames as they came.
        """
        ...


@dataclass(frozen=True, eq=False)
class OpenWindow:
    """A window as a denoising problem.

    Args:
        denoiser: Of the variable that is diffused, (batch, time, channel, *space).
        schedule: Its noise schedule.
        to_x: From that variable to model space.
        settled: What the denoiser says at known frames, zero elsewhere; None where that is zero everywhere, or nothing is settled.
        likelihoods: Of model space, for what is known of the window and the denoiser does not know; whoever samples guides with them.
    """

    denoiser: Denoiser
    schedule: Schedule
    to_x: Callable[[Tensor], Tensor]
    likelihoods: tuple[GaussianLikelihood, ...] = ()
    settled: Tensor | None = None

    def start(self, noise: Tensor) -> Tensor:
        """x_1 of a sample from standard normal numbers: where states are settled, with what the schedule leaves of them at time 1."""
        x_1 = starting_noise(self.schedule, noise)
        return x_1 if self.settled is None else x_1 + self.schedule(x_1.new_ones(()))[0] * self.settled


@runtime_checkable
class Diffusing(Protocol):
    """A window model that is a denoiser, and so can be guided, composed and sampled by others.

    Attributes:
        frames: States of a window.
    """

    @property
    def frames(self) -> int: ...

    def open(self, known: Tensor, known_mask: Tensor, conditions: Conditions, lead_times: Tensor) -> OpenWindow:
        """The denoiser of p(window | known frames), with the arguments of `WindowModel.advance`; known frames come back as they are."""
        ...


@dataclass(frozen=True)
class TrainingBatch:
    """Windows of the training data in model space: x (batch, time, channel, *space), origin at the first frame.

    Where processes or passes share the batch of one step, this is a part of it. An objective then draws for the whole batch
    (`size` windows), in the same order in every part, and keeps its `own` numbers: the parts together see what one pass would see.
    Its loss is a mean over windows, so that the means of the parts, weighted by their windows, give that of the whole.

    Args:
        x, conditions: The windows of this part.
        generator: At the same state for every part.
        first: Place of x[0] in the whole batch.
        whole: Windows of the whole batch; None when this is all of it.
        told: What the objective tells of this part besides its loss, by name: means over its windows, without gradients. The log has
            what training makes of them; `spread` and `error` are mean squares, of which `collapse` speaks.
    """

    x: Tensor
    conditions: Conditions
    generator: torch.Generator
    first: int = 0
    whole: int | None = None
    told: dict[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Windows of the whole batch, for which an objective draws."""
        return len(self.x) if self.whole is None else self.whole

    def own(self, drawn: Tensor, dim: int = 0) -> Tensor:
        """This part of numbers that were drawn for the whole batch, whose windows lie along `dim`."""
        return drawn.narrow(dim, self.first, len(self.x))


@dataclass(frozen=True)
class Stage:
    """One stage of training: what is shown, what is moved, what is minimised.

    Args:
        name: As in `--stage`.
        frames: States of a training window.
        module: Whose parameters are trained; the loss depends on every one of them.
        objective: Batch -> scalar loss, a mean over windows.
        share: Part of the training budget, relative to the other stages.
        learning_rate: Peak learning rate, relative to that of the training settings.
        view: Which of the views of the training data the windows come from (`training.Training.views`); empty for all of it.
        frozen: Modules of `module` that stay as they are in this stage, without decay; the loss need not depend on them.
        rates: Modules of `module` with a learning rate of their own, relative to that of the stage.
    """

    name: str
    frames: int
    module: nn.Module
    objective: Callable[[TrainingBatch], Tensor]
    share: float = 1.0
    learning_rate: float = 1.0
    view: str = ""
    frozen: tuple[nn.Module, ...] = ()
    rates: tuple[tuple[nn.Module, float], ...] = ()


@runtime_checkable
class Trainable(Protocol):
    """A window model with weights."""

    def prepare(self, x: Tensor) -> None:
        """Measure scales on windows of training data in model space, (batch, time, channel, *space)."""
        ...

    def stages(self) -> tuple[Stage, ...]: ...
