"""The online task: blocks of observations, one after the other, with a forecast from each; for every method.

A block is assimilated given its own observations and the last states of the analyses before it, member by member; then the same
members are forecast. All lead times count from the first frame of the block, whose own frames are the first ones of the result.
Source: arXiv:2410.16415, section 5: blocks of 20 frames with horizons of 400 for Kuramoto-Sivashinsky, of 5 with 40 for Kolmogorov flow.
Its horizon holds the block: 13 blocks fit into 640 frames and 5 into 64, as published, and not 12 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eddycast.assimilation.cycle import report_parameters
from eddycast.assimilation.etkf import names_of_parameters
from eddycast.assimilation.methods import start_cycle
from eddycast.assimilation.protocols import ForecastModel
from eddycast.conditions import Conditions
from eddycast.errors import InputError
from eddycast.observations import ObservationSet


@dataclass(frozen=True)
class OnlineTask:
    """How a series of observations is taken in and forecast from.

    Args:
        block: Frames of a block.
        forecast: Frames from the first of a block on, those of the block included.
        blocks: Number of blocks; None for all that the observations fill. What is left over of the last one is not used.
    """

    block: int
    forecast: int
    blocks: int | None = None

    def __post_init__(self) -> None:
        if self.block < 1 or (self.blocks is not None and self.blocks < 1):
            raise InputError(f"block and blocks must be at least 1, got {self.block} and {self.blocks}.")
        if self.forecast < self.block:
            raise InputError(
                f"forecast counts the frames of the block too: it must be at least block = {self.block}, got {self.forecast}."
            )

    def starts(self, num_times: int) -> list[int]:
        """First frames of the blocks. Raises: InputError when the observations are too short for them."""
        filled = num_times // self.block
        if filled < (self.blocks or 1):
            needed = (self.blocks or 1) * self.block
            raise InputError(
                f"Blocks of {self.block} frames: {needed} observed frames are needed, there are {num_times}: lower block, or observe more "
                "--steps."
            )
        return [number * self.block for number in range(self.blocks or filled)]


def assimilate_online(
    name: str,
    emulator: ForecastModel,
    observations: ObservationSet,
    conditions: Conditions,
    *,
    task: OnlineTask,
    members: int,
    seed: int,
    background: Tensor | None = None,
    options: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Analyses of blocks and the forecasts from them, by the method of that name in mode `smooth`.

    The blocks are those of `start_cycle`. A block without any observation is a forecast from the block before. A method that cannot
    continue an analysis (`interpolation`) takes each block by itself, with the same background.

    Args: as `methods.assimilate`, and
        emulator: Forecasts from each block; the method may use it as well.
        task: Blocks and length of the forecasts.
        background: Of the first block.

    Returns: (member, case, block, lead, channel, *space), physical; lead 0 is the first frame of the block.
    Raises: InputError as `assimilate`, where the observations are too short, where nothing is observed in the first block (ensemble
        methods forecast it from the background), and where the analyses are too short for the context of the emulator.
    """
    starts = task.starts(observations.num_times)
    cycle = start_cycle(
        name, emulator, conditions,
        members=members, seed=seed, cases=observations.trajectories, background=background, options=options,
        parameter_names=names_of_parameters(observations),
    )  # fmt: skip
    outcome, parameters = [], []
    for number, first in enumerate(starts):

        def step(done: int, total: int, number: int = number) -> None:
            if progress is not None:
                progress(1000 * number + 1000 * done // max(1, total), 1000 * len(starts))

        states = cycle.step(observations, first, first + task.block, progress=step)
        if task.forecast > task.block:
            states = torch.cat([states, cycle.forecast(task.forecast - task.block)], dim=2)
        outcome.append(states)
        parameters.append(cycle.parameters or {})
        step(1, 1)
    report_parameters(parameters)
    return torch.stack(outcome, dim=2)
