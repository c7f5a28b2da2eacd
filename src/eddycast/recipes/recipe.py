"""A typed experiment: data, emulator, training, evaluation. Text becomes one here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Discriminated
from pydantic import TypeAdapter, ValidationError

from eddycast.emulators import AutoencodingConfig, FamilyConfig, RegressionConfig
from eddycast.errors import InputError
from eddycast.files import read_text
from eddycast.recipes.adaptation import Adaptation
from eddycast.recipes.kinds import KindError, alternatives, choices_at, hints, resolved, with_kind
from eddycast.recipes.yaml_text import parse_yaml
from eddycast.simulators import Values
from eddycast.training import TrainingSettings

FREE_MAPPINGS = frozenset({"parameters", "initial", "published", "sampler_options", "log", "pretrain"})
"""Settings that are mappings with any keys; what the keys mean is checked where they are used."""


@dataclass(frozen=True)
class SimulationSettings:
    """Data that a recipe simulates when it is given none.

    Args:
        system: Key of `simulators.SYSTEMS`.
        trajectories, steps: Size.
        parameters: Fixed values, pairs (low, high) drawn per trajectory, or `Values` that trajectories take in turn.
        grid: Points per axis of the states; None for the system's own.
        spacing: Distance of the points instead, for domains whose length is a parameter; several lengths make a family.
        dt, spin_up: Time between stored states and before the first one; None for the system's own.
        seed: Of the simulation.
        evaluation_steps: States of the trajectories of valid and test; None for `steps`.
        split: Shares of train, valid and test.
        solver_grid: Points per axis of the solver; None for those of the states.
        initial: Settings of the system's law of initial states.
        store: What is stored of each state instead, such as `zonal-mean` of the beta plane.
    """

    system: str = "kuramoto-sivashinsky"
    trajectories: int = 640
    steps: int = 160
    parameters: dict[str, float | tuple[float, float] | Values] = field(default_factory=dict)
    grid: tuple[int, ...] | None = None
    spacing: float | None = None
    dt: float | None = None
    spin_up: float | None = None
    seed: int = 0
    evaluation_steps: int | None = None
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    solver_grid: tuple[int, ...] | None = None
    initial: dict[str, float] = field(default_factory=dict)
    store: str | None = None


@dataclass(frozen=True)
class SpaceSettings:
    """Normalisation: what the mean and the standard deviation depend on, and which fields are logarithms, see `data.statistics`."""

    mean: Literal["auto", "field", "pixel", "cycle"] = "auto"
    std: Literal["field", "pixel"] = "field"
    log: dict[str, float] = field(default_factory=dict)
    vectors: Literal["separate", "shared"] = "separate"


@dataclass(frozen=True)
class AutoencoderStage:
    """The autoencoder in whose latents an emulator works, trained before it unless one is given.

    Args:
        model: Its sizes, loss and augmentation.
        training: Of the autoencoder; frames take the place of windows.
        copies: Times that the training split is encoded, each trajectory as another view (`model.augment`) every time; with 1 it is
            encoded as it is.
    """

    model: AutoencodingConfig = field(default_factory=AutoencodingConfig)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    copies: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.copies < 2**10:
            raise ValueError(f"copies must be at least 1 and below 2**10, got {self.copies}.")
        if self.copies > 1 and not self.model.augment:
            raise ValueError("copies beyond 1 are other views of the training split: name some in augment.")


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is scored by default: lead times in steps, members, and what training looks at.

    With `calibrate` the noise of a scoring-rule emulator is scaled, after training, to the spread that the validation split asks for.
    """

    steps: int = 100
    members: int = 16
    validation_cases: int = 32
    validation_steps: int = 16
    validation_members: int = 4
    calibrate: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "members", "validation_cases", "validation_steps", "validation_members"):
            if not 1 <= getattr(self, name) < 2**20:
                raise ValueError(f"{name} must be positive and below 2**20, got {getattr(self, name)}.")


@dataclass(frozen=True)
class HeldValues:
    """Points that forecasts hold at their first values.

    Args:
        held: Name of a static field of the data, 1 at these points.
        fields: Fields that are held; none for all.
    """

    held: str
    fields: tuple[str, ...] = ()


Boundary = Literal["system", "none"] | HeldValues
"""Boundary values of forecasts: those that the system of the data declares, where it does; none; or points that are held."""


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Args:
        name: `<system>/<emulator>-<size>`.
        description: One line.
        simulation: Data to simulate when none are given; None where the user's own are needed.
        emulator: Settings of the family.
        space: Normalisation.
        autoencoder: Work in the latents of an autoencoder; None works in physical space.
        tell_parameters: Tell the networks the scalar parameters of the data. Published networks of one system are not told any.
        tell_boundaries: Tell the networks the codes of the boundaries.
        log_parameters: Parameters whose logarithm is told.
        grids: `one`: data come on the grid of training. `any`: on any grid of the same dimension and boundaries, several at once (a
            family of data sets) in training too; points as far apart as there, unless the network knows distances.
        adaptation: Two stages over parameters: pre-training at one value, fine-tuning on others.
        guard: Keep rollouts in the resolved band and with the conserved means of the training data.
        boundary: Values that rollouts keep at the boundary, for every member: `system`, `none`, or points that are `held`.
        training: Settings of the loop.
        evaluation: Settings of scores.
        published: Numbers to compare with, each with its source.
    """

    name: str
    description: str
    emulator: Annotated[FamilyConfig, Discriminated(discriminator="kind")] = field(default_factory=RegressionConfig)
    simulation: SimulationSettings | None = None
    space: SpaceSettings = field(default_factory=SpaceSettings)
    autoencoder: AutoencoderStage | None = None
    tell_parameters: bool = True
    tell_boundaries: bool = False
    log_parameters: tuple[str, ...] = ()
    grids: Literal["one", "any"] = "one"
    adaptation: Adaptation | None = None
    guard: bool = True
    boundary: Boundary = "system"
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    published: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.autoencoder is not None and (self.adaptation is not None or self.grids == "any"):
            raise ValueError("adaptation and grids any are for emulators in physical space: leave `autoencoder` out.")
        if isinstance(self.emulator, AutoencodingConfig) and self.autoencoder is not None:
            raise ValueError("an autoencoder is trained in physical space: leave `autoencoder` out of its recipe.")
        views = self.emulator if isinstance(self.emulator, AutoencodingConfig) else None
        views = views or (None if self.autoencoder is None else self.autoencoder.model)
        if views is not None and set(views.augment) & {"flip", "permute"} and self.space.vectors != "shared":
            raise ValueError(
                "flips and permutations of normalised states are those of the fields only with space.vectors shared: set it."
            )

    @property
    def statistics(self) -> dict[str, Any]:
        """What `data.statistics` takes."""
        space = self.space
        return {"mean": space.mean, "std": space.std, "log": space.log, "vectors": space.vectors}


ADAPTER = TypeAdapter(Recipe)


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values, ready for JSON and YAML; `recipe_from_dict` is the inverse."""
    return ADAPTER.dump_python(recipe, mode="json")


def recipe_from_dict(content: Any, where: str) -> Recipe:
    """Check and build. Raises: InputError that names the key, what was expected and what came."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: expected a mapping of settings, got {type(content).__name__}.")
    try:
        recipe = ADAPTER.validate_python(_with_chosen(content))
    except KindError as error:
        reason = error.reason
        told = f"{error.place}: {reason}." if isinstance(reason, str) else explain(reason, error.settings, error.place)
        raise InputError(f"{where}: {told}") from error
    except ValidationError as error:
        raise InputError(f"{where}: {explain(error, content)}") from error
    unknown = _unknown_keys(content, recipe_to_dict(recipe))
    if unknown:
        key, known = unknown[0]
        raise InputError(f"{where}: unknown setting {key!r}; known there: {', '.join(known)}.")
    return recipe


def _with_chosen(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with what a `kind` chooses inside the emulator, such as its network, as objects."""
    emulator = content.get("emulator")
    if not isinstance(emulator, Mapping):
        return dict(content)
    families, kind = alternatives(hints(Recipe)["emulator"]), emulator.get("kind")
    if not isinstance(kind, str) or kind not in families:
        return dict(content)  # the check of the whole names the families
    return {**content, "emulator": resolved(emulator, families[kind], "emulator.")}


def explain(error: ValidationError, content: Any = None, place: str = "") -> str:
    """The first thing that did not fit: its place, what was expected, what came.

    Args:
        content: What was checked; parts of the place that are no keys of it (names of classes that were tried) are left out.
        place: Where the content itself stands.
    """
    first = error.errors(include_url=False)[0]
    parts: list[str] = [place] if place else []
    here: Any = content
    for part in first["loc"]:
        entries: Mapping[Any, Any] = here if isinstance(here, Mapping) else {}
        if isinstance(here, list | tuple) and isinstance(part, int):
            entries = dict(enumerate(here))
        if part in entries or content is None or first["type"] == "missing":
            parts.append(str(part))
            here = entries.get(part)
    told = f"{'.'.join(parts)}: " if parts else ""
    if first["type"] == "value_error":  # our own text, from a check of a settings class
        return told + first["msg"].removeprefix("Value error, ")
    came = "" if isinstance(first["input"], Mapping) else f", got {first['input']!r}"
    return f"{told}{first['msg'].rstrip('.')}{came}."


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with settings such as {"training.steps": "500"} replaced; text is read as YAML.

    A `kind` that changes starts from the defaults of the new kind (see `kinds.with_kind`), whatever the order of the overrides.

    Raises: InputError for a setting that does not exist or a value that does not fit.
    """
    content = recipe_to_dict(recipe)
    for path in sorted(overrides, key=lambda path: (not path.endswith(".kind"), path.count("."))):
        *parents, last = path.split(".")
        target, above = content, content
        for depth, part in enumerate(parents):
            if target.get(part) is None and part == "simulation":
                target[part] = asdict(SimulationSettings())
            if target.get(part) is None and part == "autoencoder":
                target[part] = asdict(AutoencoderStage())
            if target.get(part) is None and part == "adaptation":  # no object without parameters to begin with
                target[part] = {one.name: one.default for one in fields(Adaptation)} | {"pretrain": {}}
            if not isinstance(target.get(part), dict):
                known = ", ".join(target)
                raise InputError(f"--set {path}: there is no {'.'.join(parents[: depth + 1])!r}; known there: {known}.")
            target, above = target[part], target
        if last not in target and not set(parents[-1:]) & FREE_MAPPINGS:
            raise InputError(f"--set {path}: there is no {last!r}; known there: {', '.join(target)}.")
        value = parse_value(overrides[path], f"--set {path}")
        if last == "kind" and value != target.get("kind"):
            options = choices_at(parents, content, Recipe)
            if isinstance(value, str) and value in options:
                above[parents[-1]] = with_kind(target, value, options)
                continue
        target[last] = value
    return recipe_from_dict(content, "--set")


def parse_value(value: Any, where: str) -> Any:
    """Text as YAML, anything else as it is. Raises: InputError for text that is no YAML."""
    if not isinstance(value, str):
        return value
    try:
        return parse_yaml(value, repr(value))
    except InputError as error:
        raise InputError(f"{where}: {value!r} is not a value; write numbers, words, [lists] or null.") from error


def read_recipe(path: Path) -> Recipe:
    """A recipe from a YAML or JSON file. Raises: InputError when it cannot be read or does not fit."""
    content = parse_yaml(read_text(path), str(path))
    if isinstance(content, dict):
        content = {"name": path.stem, "description": f"Settings of {path.name}.", **content}
    return recipe_from_dict(content, str(path))


def _unknown_keys(given: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> list[tuple[str, list[str]]]:
    """Keys of `given` that are not in `known`, with those that are, at any depth."""
    found = []
    for key, value in given.items():
        name = f"{path}{key}"
        if key not in known:
            found.append((name, list(known)))
        elif isinstance(value, Mapping) and isinstance(known[key], Mapping) and key not in FREE_MAPPINGS:
            found += _unknown_keys(value, known[key], f"{name}.")
    return found
