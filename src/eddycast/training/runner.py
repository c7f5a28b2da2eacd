"""One optimiser step of a stage, whatever the processes and passes that share its batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eddycast import distributed
from eddycast.conditions import Conditions
from eddycast.data import Batches
from eddycast.emulators import Space, Stage, TrainingBatch
from eddycast.emulators.network import ConditionedNetwork
from eddycast.errors import InputError, reason
from eddycast.networks import TrainingMasks, masks_from
from eddycast.training.average import WeightAverage
from eddycast.training.collapse import spread_error
from eddycast.training.optimiser import build_optimisers
from eddycast.training.settings import TrainingSettings


class Objective(nn.Module):
    """The objective of a stage as the forward pass of a module.

    Objectives call parts of the model as they please; DistributedDataParallel averages the gradients of what runs inside
    its own forward pass only. With the whole objective in there, no family needs to know of processes.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.module = stage.module
        self.objective = stage.objective

    def forward(self, batch: TrainingBatch) -> Tensor:
        return self.objective(batch)


class StageRunner:
    """Steps of one stage: each depends on the weights, the optimiser state, the seed and its number, and on nothing else.

    The batch of a step is cut into one part per process, and each of these into `accumulate` passes. The loss of a pass counts by its
    share of the windows, and every pass draws from the same numbers, so the gradient is that of the whole batch, to rounding.
    """

    def __init__(self, stage: Stage, space: Space, batches: Batches, settings: TrainingSettings, seed: int) -> None:
        self.stage = stage
        self.space = space
        self.batches = batches
        self.settings = settings
        self.seed = seed
        self.device = next(stage.module.parameters()).device
        self.generator = torch.Generator(self.device)
        self.peak = settings.learning_rate * stage.learning_rate
        freeze(stage)
        self.optimisers = stage_optimisers(stage, settings)
        self.average = None if settings.average is None else WeightAverage(stage.module, settings.average)
        stage.module.train()
        if settings.compile:
            compile_networks(stage.module)
        self.objective: nn.Module = Objective(stage)
        if distributed.size() > 1:  # starts from the weights of the first process
            self.objective = DistributedDataParallel(self.objective)

    def step(self, state: Tensor, conditions: Conditions, number: int, steps: int) -> dict[str, Any]:
        """One optimiser step, the `number`-th of `steps`; returns loss, norm of the gradient and learning rate, the same in each process.

        Args:
            state: Windows of this process, physical, (batch, time, channel, *space).
            conditions: Batch (batch,).

        Raises: FloatingPointError with a diagnosis, in every process, when loss or gradient are not finite.
        """
        rate = self.peak * learning_rate_factor(number, steps, self.settings.warmup)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            optimiser.zero_grad(set_to_none=True)
        conditions = conditions.to(self.device)
        leads = torch.arange(state.shape[1], dtype=torch.float64)
        x = self.space.encode(state.to(self.device), conditions, leads)
        told = self._gradient(x, conditions, number)
        norm = nn.utils.clip_grad_norm_(self.stage.module.parameters(), self.settings.clip)
        record = {"loss": told["loss"], "gradient_norm": norm.item(), "learning_rate": rate} | spread_error(told)
        if not math.isfinite(record["loss"]) or not math.isfinite(record["gradient_norm"]):
            raise FloatingPointError(self._diagnosis(record, number, x))
        for optimiser in self.optimisers:
            optimiser.step()
        if self.average is not None:
            self.average.update()
        return record

    def _gradient(self, x: Tensor, conditions: Conditions, number: int) -> dict[str, float]:
        """Loss of the whole batch, and what else the objective tells of it; the gradient of the loss is left in the parameters."""
        whole, passes = self.batches.size(number), self.settings.accumulate
        first, processes = self.batches.first(number), distributed.size()
        parts = []
        for index in range(passes):
            part = distributed.part(len(x), index, passes)
            if part.start == part.stop:  # fewer windows than passes, on large grids; the last pass has one
                continue
            self.generator.manual_seed(step_seed(self.seed, number))
            batch = TrainingBatch(x[part], conditions.select(part), self.generator, first + part.start, whole)
            weight = len(batch.x) / whole
            masks = TrainingMasks(step_seed(self.seed, number), batch.first, batch.size, len(batch.x))
            with (
                self._gradients_travel(index == passes - 1),
                reported_compiler(self.settings.compile),
                masks_from(masks),
            ):
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"
                ):  # no scaling of the loss: the exponents of bfloat16 are those of float32
                    loss = weight * self.objective(batch)
                (processes * loss).backward()  # gradients are averaged over processes, and are to be summed
            parts.append({"loss": loss.detach()} | {name: weight * value for name, value in batch.told.items()})
        sums = torch.stack([torch.stack([part[name] for part in parts]).sum() for name in parts[0]])
        return dict(zip(parts[0], distributed.total(sums).tolist(), strict=True))

    def _gradients_travel(self, last: bool):
        """Processes exchange gradients once per step, in its last pass."""
        waits = isinstance(self.objective, DistributedDataParallel) and not last
        return self.objective.no_sync() if waits else nullcontext()  # type: ignore[operator]

    def finish(self) -> None:
        """Leave the averaged weights in the module."""
        if self.average is not None:
            self.average.copy_to_module()
        self.stage.module.eval()
        freeze(self.stage, False)

    def _diagnosis(self, record: dict[str, Any], number: int, x: Tensor) -> str:
        what = f"Training stopped in stage {self.stage.name!r} at step {number + 1}: loss {record['loss']:g}"
        if distributed.anyone(not bool(torch.isfinite(x).all())):
            return f"{what}; the data of this batch are not finite: run `eddycast inspect` on them."
        bad = [name for name, weight in self.stage.module.named_parameters() if not bool(torch.isfinite(weight).all())]
        if bad:
            return (
                f"{what}; weights are no longer finite, first {bad[0]}: train anew with a lower training.learning_rate."
            )
        return (
            f"{what}, gradient norm {record['gradient_norm']:g}, largest input "
            f"{distributed.largest(x.abs().max().item()):.3g} standard deviations, "
            f"learning rate {record['learning_rate']:.2g}: lower training.learning_rate or training.clip, or look at the data for outliers."
        )


def freeze(stage: Stage, frozen: bool = True) -> None:
    """Keep the weights of the frozen modules of a stage as they are, or let them move again."""
    for part in stage.frozen:
        part.requires_grad_(not frozen)


def stage_optimisers(stage: Stage, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    """The optimisers of a stage, for its weights that move."""
    return build_optimisers(
        stage.module,
        kind=settings.optimiser,
        learning_rate=settings.learning_rate * stage.learning_rate,
        weight_decay=settings.weight_decay,
        rates=stage.rates,
    )


def step_seed(seed: int, number: int) -> int:
    """Seed of the generator of one step. All 32 bits that the CPU's generator reads depend on both numbers."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def learning_rate_factor(number: int, steps: int, warmup: int) -> float:
    """Linear rise over `warmup` steps (a tenth of all steps at most), times a cosine that ends at zero."""
    rise = min(1.0, (number + 1) / max(1, min(warmup, steps // 10)))
    return rise * 0.5 * (1 + math.cos(math.pi * number / steps))


def compile_networks(module: nn.Module) -> None:
    """Let torch.compile translate the networks of a model, in place; names of weights stay.

    The networks and not the whole objective: what an objective draws from a generator cannot be part of a graph.
    """
    for part in module.modules():
        if isinstance(part, ConditionedNetwork):
            part.backbone.compile()


@contextmanager
def reported_compiler(used: bool) -> Iterator[None]:
    """Turn what torch.compile complains of into an InputError; nothing is ever run uncompiled instead."""
    if not used:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise InputError(
            f"training.compile=true failed: {reason(error)}. It needs a compiler that torch can call (g++ or clang; Triton on a GPU): "
            "install one, or leave training.compile out."
        ) from error
