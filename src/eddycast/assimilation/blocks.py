"""Blocks of a method that knows nothing of cycles: each is an analysis by itself, given the last states of the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from eddycast.assimilation.cycle import FORECAST, SEEDS, BlockResult, Cycle, Standing, known_context
from eddycast.assimilation.protocols import Method
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.observations import ObservationSet


@dataclass(frozen=True, eq=False)
class MethodBlocks:
    """Analyses of blocks by the function of a method.

    A block without any observation is a forecast from the block before. A method that cannot continue an analysis (`interpolation`)
    takes each block by itself, with the same background.

    Args:
        method: What analyses.
        options: Its settings.
        background: Of the first block, as `assimilate` takes it.
        continued: Whether that is an analysis of the frame before.
    """

    method: Method
    options: Any
    background: Tensor | None
    continued: bool = False

    def told(self, conditions: Conditions, standing: Standing) -> Conditions:
        return conditions

    def __call__(
        self,
        cycle: Cycle,
        observations: ObservationSet,
        first: int,
        last: int,
        progress: Callable[[int, int], None] | None,
    ) -> BlockResult:
        standing, context = cycle.standing, cycle.model.context
        seed = (cycle.seed + standing.block * SEEDS) % 2**63
        carried = self.method.continues and standing.block > 0
        if bool(cycle.observed_frames(observations)[first:last].any()):
            states = self.method.function(
                cycle.model, observations.window(first, last), cycle.conditions.shifted(standing.frame),
                members=cycle.members, seed=seed, mode="smooth" if "smooth" in self.method.modes else self.method.modes[0],
                background=known_context(standing.states, context) if carried else self.background,
                continued=True if carried else self.continued, options=self.options, progress=progress,
            )  # fmt: skip
        elif standing.block:
            # the forecast from this block goes on from FORECAST
            states = cycle.free_run(last - first, seed=seed, first_window=2 * FORECAST)
        else:
            raise InputError(
                f"The first block of {last - first} frames holds no observation: observe from a later --start."
            )
        # The context may reach back over several blocks. A background that is not continued ends with the first frame itself.
        earlier = standing.states if standing.begun or standing.states is None else standing.states[:, :, :-1]
        known = states if earlier is None else torch.cat([earlier, states], dim=2)
        return BlockResult(states, replace(standing, states=known, frame=standing.frame + last - first, begun=True))
