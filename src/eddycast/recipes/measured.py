"""What a model must know of the data before it is trained: its shape, and a sample of states and windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eddycast.autoencoders import Components
from eddycast.conditions import Conditions
from eddycast.data import Dataset, WindowBatches
from eddycast.emulators import AutoencodingConfig, ModelShape, Space
from eddycast.errors import InputError
from eddycast.recipes.recipe import Recipe

SAMPLE_WINDOWS, SAMPLE_BYTES = 512, 2**28
"""Windows on which scales, bands and conserved means are measured, and their size in memory: the smaller one bounds them."""


def model_shape(dataset: Dataset, recipe: Recipe, family: Sequence[Dataset] = ()) -> ModelShape:
    """What the model must know of the data.

    Raises: InputError for a logarithm of a parameter that the data do not have, or that is not positive there.
    """
    parameters = training_parameters(family or (dataset,))
    logarithmic = logarithms(recipe.log_parameters, dataset.parameter_names, parameters)
    parameters = torch.where(torch.tensor(logarithmic, dtype=torch.bool), parameters.log(), parameters)
    parameters = parameters if recipe.tell_parameters else parameters[:, :0]
    std = (parameters - parameters.mean(dim=0)).square().mean(dim=0).sqrt()
    vectors = (
        vector_components(dataset, recipe.emulator.augment) if isinstance(recipe.emulator, AutoencodingConfig) else None
    )
    return ModelShape(
        channels=len(dataset.fields) if recipe.autoencoder is None else recipe.autoencoder.model.latent_channels,
        periodic=dataset.grid.periodic,
        parameter_mean=tuple(parameters.mean(dim=0).tolist()),
        parameter_std=tuple(torch.where(std > 1e-6 * parameters.abs().amax(dim=0), std, 1.0).tolist()),
        parameter_log=logarithmic if recipe.tell_parameters and any(logarithmic) else (),
        cyclic=dataset.cycle is not None,
        static=len(dataset.static_names) + (dataset.valid is not None),
        boundaries=recipe.tell_boundaries,
        vector_axes=() if vectors is None else vectors.axis,
        vectors=() if vectors is None else vectors.vector,
    )


def training_parameters(datasets: Sequence[Dataset]) -> Tensor:
    """Parameters of all trajectories of the training splits, (trajectory, P), float64."""
    rows = [
        dataset.parameters(number)
        for dataset in datasets
        for number in sorted({segment.trajectory for segment in dataset.segments("train")})
    ]
    return torch.stack(rows).double()


def parameter_ranges(datasets: Sequence[Dataset]) -> dict[str, list[float]]:
    """Smallest and largest value of each parameter in the training splits."""
    columns = training_parameters(datasets).unbind(dim=1)
    return {
        name: [values.min().item(), values.max().item()]
        for name, values in zip(datasets[0].parameter_names, columns, strict=True)
    }


def logarithms(wanted: Sequence[str], names: Sequence[str], values: Tensor) -> tuple[bool, ...]:
    """Which parameters are told as logarithms; values (trajectory, P). Raises: InputError for those that cannot be."""
    for name in wanted:
        if not names:
            raise InputError(f"log_parameters: the data have no parameters, {name!r} neither: set log_parameters=[].")
        if name not in names:
            raise InputError(f"log_parameters: the data have no parameter {name!r}, but {', '.join(names)}.")
        if not bool((values[:, list(names).index(name)] > 0).all()):
            raise InputError(f"log_parameters: {name} is not positive in all trajectories: leave it out.")
    return tuple(name in wanted for name in names)


def vector_components(dataset: Dataset, augment: Sequence[str]) -> Components:
    """Directions of the fields. Raises: InputError where flips or permutations are asked for and a direction is not known."""
    found = Components.of(dataset.field_names, [item.vector for item in dataset.fields], dataset.grid.names)
    for item, axis in zip(dataset.fields, found.axis, strict=True):
        if item.vector and axis is None and set(augment) & {"flip", "permute"}:
            raise InputError(
                f"{item.name!r} is a component of {item.vector!r}, but its name tells no axis of {', '.join(dataset.grid.names)}: flips "
                "and permutations would turn it wrongly; leave them out of augment."
            )
    for vector in {name for name in found.vector if name}:
        given = {axis for axis, name in zip(found.axis, found.vector, strict=True) if name == vector}
        if len(given) < len(dataset.grid.axes) and "permute" in augment:
            raise InputError(
                f"The vector {vector!r} lacks a component along some of {', '.join(dataset.grid.names)}: permutations would exchange it "
                "with nothing; leave them out of augment."
            )
    return found


def sample_windows(dataset: Dataset, space: Space, frames: int) -> Tensor:
    """Windows of training data in model space, (window, time, channel, *space), as many as there are up to a limit."""
    window_bytes = 4 * frames * math.prod(dataset.state_shape)
    count = min(SAMPLE_WINDOWS, max(1, SAMPLE_BYTES // window_bytes), len(dataset.windows("train", frames)))
    batches = WindowBatches(dataset, "train", frames, batch_size=count, seed=0)
    state, conditions = batches.batch(0)
    return space.encode(state, conditions, torch.arange(frames, dtype=torch.float64))


def training_states(dataset: Dataset, count: int) -> tuple[Tensor, Conditions]:
    """States spread evenly over the training split, physical, (state, 1, channel, *space), and their conditions."""
    starts = dataset.windows("train", 1)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, min(count, len(starts))).round().astype(int))]
    states = torch.stack([dataset.read(one, at, at + 1) for one, at in chosen.tolist()])
    return states, dataset.conditions(chosen[:, 0].tolist(), chosen[:, 1].tolist())


def sample_states(dataset: Dataset, space: Space, count: int) -> tuple[Tensor, Tensor | None]:
    """The same in model space, (state, channel, *space), and their phases of the cycle (state,), if there is one."""
    states, conditions = training_states(dataset, count)
    lead = torch.zeros(1, dtype=torch.float64)
    phase = conditions.phase(lead)
    return space.encode(states, conditions, lead)[:, 0], None if phase is None else phase[:, 0]
