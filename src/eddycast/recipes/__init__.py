"""Typed experiments by name.

A recipe for another system is one file with `recipes()`, and one entry in `SOURCES`.
"""

from __future__ import annotations

import difflib

from eddycast.errors import InputError
from eddycast.recipes import (
    conditional_diffusion,
    dyffusion,
    kuramoto_sivashinsky,
    latent_diffusion,
    navier_stokes,
    own_data,
    parametric,
)
from eddycast.recipes.boundary import boundary_hook, read_boundary
from eddycast.recipes.latents import autoencoder_of, encode_dataset, open_cache
from eddycast.recipes.measured import sample_states
from eddycast.recipes.recipe import (
    AutoencoderStage,
    EvaluationSettings,
    HeldValues,
    Recipe,
    SimulationSettings,
    SpaceSettings,
    explain,
    parse_value,
    read_recipe,
    recipe_from_dict,
    recipe_to_dict,
    with_overrides,
)
from eddycast.recipes.run import AUTOENCODER, Run, load_run
from eddycast.recipes.train import train_recipe

SOURCES = (
    kuramoto_sivashinsky,
    conditional_diffusion,
    latent_diffusion,
    dyffusion,
    parametric,
    navier_stokes,
    own_data,
)


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by name."""
    return {recipe.name: recipe for source in SOURCES for recipe in source.recipes()}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name. Raises: InputError with near names when there is none."""
    known = all_recipes()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`eddycast recipes` lists them."
    raise InputError(f"There is no recipe {name!r}, nor a file of that name: {hint}")


__all__ = [
    "AUTOENCODER",
    "AutoencoderStage",
    "EvaluationSettings",
    "HeldValues",
    "Recipe",
    "Run",
    "SimulationSettings",
    "SpaceSettings",
    "all_recipes",
    "autoencoder_of",
    "boundary_hook",
    "encode_dataset",
    "explain",
    "get_recipe",
    "load_run",
    "open_cache",
    "parse_value",
    "read_boundary",
    "read_recipe",
    "recipe_from_dict",
    "recipe_to_dict",
    "sample_states",
    "train_recipe",
    "with_overrides",
]
