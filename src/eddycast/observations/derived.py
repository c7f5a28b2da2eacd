"""What is observed when it is no field but a function of fields: a speed, an instrument that saturates.

To add one: an entry in `FUNCTIONS`. In a table it is written `name(field, field)`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eddycast.errors import InputError


@dataclass(frozen=True)
class Function:
    """A function that tables may name.

    Args:
        function: Differentiable and pointwise, of tensors of one shape.
        fewest, most: Fields that it takes.
        description: One line.
    """

    function: Callable[..., Tensor]
    fewest: int
    most: int
    description: str


@dataclass(frozen=True, eq=False)
class Derived:
    """An observed variable f(field, field, ...).

    Args:
        name: As rows name it.
        function: Differentiable and pointwise, of tensors of one shape.
        fields: Names of its arguments.
    """

    name: str
    function: Callable[..., Tensor]
    fields: tuple[str, ...]


def speed(*components: Tensor) -> Tensor:
    """|u|; its derivative at rest is taken to be 0."""
    square = sum(component.square() for component in components)
    assert isinstance(square, Tensor)
    moving = square > 0
    return torch.where(moving, torch.where(moving, square, 1).sqrt(), 0)


def energy(*components: Tensor) -> Tensor:
    """|u|^2 / 2."""
    return 0.5 * torch.stack(components).square().sum(dim=0)


FUNCTIONS: dict[str, Function] = {
    "speed": Function(speed, 2, 3, "length of a vector"),
    "energy": Function(energy, 1, 3, "half the square of a vector"),
    "arctan": Function(torch.atan, 1, 1, "an instrument that saturates"),
    "square": Function(torch.square, 1, 1, "square"),
    "exp": Function(torch.exp, 1, 1, "exponential"),
    "log": Function(torch.log, 1, 1, "natural logarithm of a positive field"),
    "product": Function(lambda a, b: a * b, 2, 2, "product of two fields"),
    "difference": Function(lambda a, b: a - b, 2, 2, "first field less the second"),
}

VECTORS = (("u", "v", "w"), ("velocity_x", "velocity_y", "velocity_z"), ("u10", "v10"), ("vx", "vy", "vz"))
"""Names under which `speed` and `energy` find their components where a table does not say them."""


def derived_from(
    name: str, fields: Sequence[str], own: Mapping[str, tuple[Callable[..., Tensor], Sequence[str]]]
) -> Derived:
    """The function of fields that a row names.

    Args:
        name: `arctan(u)`, `speed(u, v)`, `speed` where the components have usual names, or a key of `own`.
        fields: Names of the fields that there are.
        own: Functions of the user by name, with the names of the fields that they take.

    Raises: InputError, one line with the nearest name, when there is no such variable.
    """
    if name in own:
        function, arguments = own[name]
        chosen = Derived(name, function, tuple(arguments))
    else:
        called = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", name)
        word = called[1] if called else name
        if called is None or word not in FUNCTIONS:
            known = [*fields, *own, *FUNCTIONS]
            near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join([*fields, *own])}."
            raise InputError(f"There is no variable {name!r} in the run: {hint}")
        if called[2] is None:
            arguments = next((found for found in _vectors(fields)), ())
            if FUNCTIONS[word].most == 1 or not arguments:
                raise InputError(
                    f"Say of what {name!r} is taken, such as {word}({', '.join(fields[: FUNCTIONS[word].fewest])})."
                )
        else:
            arguments = tuple(part.strip() for part in called[2].split(","))
        chosen = Derived(name, FUNCTIONS[word].function, tuple(arguments))
        if not FUNCTIONS[word].fewest <= len(arguments) <= FUNCTIONS[word].most:
            raise InputError(
                f"{name!r} has {len(arguments)} fields, {word} takes {FUNCTIONS[word].fewest} to {FUNCTIONS[word].most}."
            )
    if lost := [part for part in chosen.fields if part not in fields]:
        raise InputError(f"{name!r} is taken of {lost[0]!r}, which the run does not have: it has {', '.join(fields)}.")
    return chosen


def _vectors(fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Components that have usual names, at least two of them."""
    found = [tuple(name for name in names if name in fields) for names in VECTORS]
    return [names for names in found if len(names) > 1]
