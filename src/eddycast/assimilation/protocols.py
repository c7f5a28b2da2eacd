"""What an assimilation method asks of a forecast model, and what it looks like itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.noise import MemberNoise

Mode = Literal["smooth", "filter"]
Need = Literal["denoiser", "samples", "gradients", "nothing"]


class ForecastModel(Protocol):
    """Anything that continues members which differ already: every emulator, the simulators and the baselines."""

    @property
    def context(self) -> int:
        """Known states that a forecast continues."""
        ...

    def advance(
        self,
        context: Tensor,
        conditions: Conditions,
        lead_times: Tensor,
        *,
        noise: MemberNoise,
        first_window: int = 0,
    ) -> Tensor:
        """Physical states (*batch, lead, channel, *space) at `lead_times`, in steps of dt after `context` (*batch,
        time, ...).

        The origin of `conditions` (*batch) is the last state of the context; `noise` has the same batch. Draws are
        addressed by window numbers from `first_window` on.
        """
        ...


class Assimilate(Protocol):
    """A method: observations of several cases -> posterior ensemble (member, case, time, channel, *space), physical.

    `background` holds states (member, case, time, channel, *space) that are known before these observations. The last one stands at
    the first observed frame; with `continued` one frame before it, and is the analysis of observations up to there.
    """

    def __call__(
        self,
        emulator: Any,
        observations: Any,
        conditions: Conditions,
        *,
        members: int,
        seed: int,
        options: Any,
        mode: Mode = "smooth",
        background: Tensor | None = None,
        continued: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Method:
    """One line of the table of methods.

    Args:
        name: As in `--method`.
        needs: What it asks of an emulator: a denoiser, samples of a forecast, gradients, or nothing.
        modes: What may be known where: `smooth` (all observations at every time), `filter` (past ones only).
        background: Whether it needs states to start from (climatological ones, or a forecast).
        continues: Whether it can go on from the last states of an earlier analysis; otherwise each block of an online task is
            analysed by itself.
        description: One line.
        function: The method.
        options: Frozen dataclass of its settings; `options()` are the defaults.
    """

    name: str
    needs: Need
    modes: tuple[Mode, ...]
    background: bool
    continues: bool
    description: str
    function: Assimilate
    options: type
