"""SOAP, an optimiser with a preconditioner for each axis of a weight, from the optional package pytorch-optimizer; its state as tensors.

Kron (PSGD) of the same package is not offered: each of its updates draws from the global generators of torch and NumPy, so that a resumed
training would differ from one that was never interrupted. SOAP draws nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eddycast.errors import InputError

LARGEST_AXIS = 4096
"""Longer axes of a weight are left as they are: their bases would cost more than the network."""

GRAM, BASIS = "gram", "basis"


def soap(
    parameters: list[Tensor] | list[dict[str, Any]], *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam in the eigenbases of the gradient's second moments, G G^T and G^T G for a matrix, and likewise for each axis of a kernel.

    The moments and both averages of Adam forget with 0.95 a step; the bases are turned by one power iteration every 10 steps. Vectors and
    scalars take plain Adam steps. The first step only measures, and moves nothing. Weight decay is decoupled; learning rates are those of
    AdamW. Memory: beside Adam's, twice the squared length of each axis.

    Raises: InputError when the package is not installed.
    Source: arXiv:2409.11321, algorithms 3 and 4.
    """
    try:
        from pytorch_optimizer import SOAP
    except ImportError as error:
        raise InputError(
            "training.optimiser=soap needs the package pytorch-optimizer: pip install 'eddycast[optimisers]', or choose muon or adamw."
        ) from error
    optimiser = SOAP(
        parameters,
        lr=learning_rate,
        betas=(0.95, 0.95),
        weight_decay=weight_decay,
        precondition_frequency=10,
        max_precondition_dim=LARGEST_AXIS,
    )
    optimiser.register_step_post_hook(_row_major)
    return optimiser


def _row_major(optimiser: torch.optim.Optimizer, arguments: Any, named: Any) -> None:
    """Bring the state into the layout that it has in a file: products of matrices round by their layout, and bases come in columns."""
    for state in optimiser.state.values():
        for key, value in state.items():
            if isinstance(value, Tensor):
                state[key] = value.contiguous()
            elif isinstance(value, list):
                state[key] = [one.contiguous() if isinstance(one, Tensor) else one for one in value]


def is_soap(optimiser: torch.optim.Optimizer) -> bool:
    """Whether `soap` made it; without importing the package."""
    return "precondition_frequency" in optimiser.defaults


def soap_shapes(parameter: Tensor) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that SOAP keeps for a parameter."""
    shape = tuple(parameter.shape)
    axes = [(axis, size) for axis, size in enumerate(shape) if len(shape) > 1 and size <= LARGEST_AXIS]
    squares = {f"{kind}.{axis}": (size, size) for kind in (GRAM, BASIS) for axis, size in axes}
    return {"step": (), "exp_avg": shape, "exp_avg_sq": shape, **squares}


def soap_tensors(optimiser: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state of SOAP as tensors, by number of the parameter; what it keeps in lists and in its group has a name each."""
    (group,) = optimiser.param_groups
    outcome: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(group["params"]):
        state = optimiser.state.get(parameter)
        if not state:
            continue
        step = torch.tensor(float(group["step"]), dtype=torch.float64)
        one = {"step": step, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
        for kind, matrices in ((GRAM, state["GG"]), (BASIS, state["Q"])):
            one |= {f"{kind}.{axis}": matrix for axis, matrix in enumerate(matrices) if len(matrix)}
        outcome[index] = one
    return outcome


def load_soap(optimiser: torch.optim.Optimizer, tensors: dict[int, dict[str, Tensor]]) -> None:
    """Inverse of `soap_tensors`; names and shapes have been checked against `soap_shapes`.

    Raises: ValueError when the parameters are not at the same step, which they always are.
    """
    (group,) = optimiser.param_groups
    steps = {float(one["step"]) for one in tensors.values()}
    if len(steps) > 1:
        raise ValueError(f"the parameters are at different steps: {', '.join(f'{step:g}' for step in sorted(steps))}")
    state: dict[int, dict[str, Any]] = {}
    for index, one in tensors.items():
        axes = range(group["params"][index].ndim)
        state[index] = {
            "exp_avg": one["exp_avg"],
            "exp_avg_sq": one["exp_avg_sq"],
            "GG": [one.get(f"{GRAM}.{axis}", []) for axis in axes],
            "Q": [one.get(f"{BASIS}.{axis}", []) for axis in axes],
            "precondition_frequency": group["precondition_frequency"],
            "shampoo_beta": group["betas"][1],
        }
    (described,) = optimiser.state_dict()["param_groups"]
    if steps:
        described = described | {"step": int(steps.pop())}
    optimiser.load_state_dict({"state": state, "param_groups": [described]})
