"""From a recipe and data to a run directory."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from eddycast import distributed
from eddycast.data import (
    Dataset,
    Family,
    Mixture,
    Normalisation,
    StaticFields,
    piece_trajectories,
    read_manifest,
    statistics,
)
from eddycast.emulators import (
    Autoencoding,
    AutoencodingConfig,
    Emulator,
    IdentitySpace,
    LatentSpace,
    Space,
    SpectralGuard,
    Trainable,
    build_model,
)
from eddycast.errors import InputError
from eddycast.files import staged_directory
from eddycast.progress import progress_bar
from eddycast.recipes.adaptation import adapted_stages, adapted_views, all_windows, base_of
from eddycast.recipes.boundary import boundary_hook
from eddycast.recipes.calibration import calibrated, reconstruction_error, validation_of_all
from eddycast.recipes.continuing import (
    check_resumed,
    constants_of,
    is_finished,
    joined_ranges,
    require_new_stage,
    require_same_autoencoder,
    trained_stages,
    untrained_stages,
)
from eddycast.recipes.latents import autoencoder_of, encode_dataset, open_cache, require_encodable, require_whole
from eddycast.recipes.measured import model_shape, sample_windows
from eddycast.recipes.recipe import Recipe
from eddycast.recipes.record import data_summary, describe_hardware, write_components, write_config, write_context
from eddycast.recipes.run import (
    AUTOENCODER,
    Run,
    load_run,
    load_weights,
    require_possible,
    seeded_model,
)
from eddycast.training import (
    Position,
    RunDirectory,
    Training,
    TrainingObserver,
    collapsed_stages,
    exclusive,
)


def train_recipe(
    recipe: Recipe,
    data: Dataset | Family,
    directory: Path,
    *,
    stage: str | None = None,
    init: Path | None = None,
    autoencoder: Path | None = None,
    latents: Path | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    observer: TrainingObserver | None = None,
) -> Position:
    """Train what a recipe says on a data set and leave a run directory.

    A recipe in latent space trains its autoencoder first, as a run of its own within the directory, then encodes the training split
    once, then trains the emulator on windows of latents. Processes that have joined (`distributed.process_group`) all call it; the
    first one alone writes.

    Args:
        data: A data set, or a family of them on grids of their own for a recipe that takes any.
        stage: Only this stage, from the weights that are in the directory (or in `init`).
        init: Run whose weights are the start, and whose autoencoder is taken where it has one.
        autoencoder: Run whose autoencoder is copied in instead of training one.
        latents: Cache of the training split made by that autoencoder, instead of encoding.
        resume: Go on from the last checkpoint in the directory.

    Raises: InputError for a stage that does not exist, weights that do not fit, nothing to resume, or a directory that another
        process is writing.
    """
    family = data if isinstance(data, Family) else None
    if family is not None and recipe.grids == "one":
        raise InputError(
            f"{recipe.name} is for data on one grid, these are {len(family.members)} data sets ({', '.join(family.members)}): give one "
            "of them, or --set grids=any where the network takes any grid."
        )
    dataset = data if isinstance(data, Dataset) else first_of(recipe, data)
    with exclusive(directory) if distributed.is_first() else nullcontext():
        files = RunDirectory(directory)
        begun = files.config.exists() and files.component("space").exists()
        encoder_begun = RunDirectory(directory / AUTOENCODER).config.exists()
        if resume and not begun and not (recipe.autoencoder is not None and encoder_begun):
            raise InputError(f"There is nothing to resume in {directory}: leave --resume out.")
        if begun and not resume and stage is None:
            raise InputError(
                f"{directory} already holds a run: pass --resume to go on with it, or choose another --out."
            )
        if recipe.autoencoder is None:
            if autoencoder is not None or latents is not None:
                raise InputError(f"{recipe.name} works in physical space: leave --autoencoder and --latents out.")
            space = statistics(dataset, "train", **recipe.statistics)
            windows = dataset if family is None else all_windows(family)
            material = Material(dataset, space, space, space, windows, family=family)
        else:
            require_possible_stages(recipe, dataset, stage)
            if latents is not None:
                read_manifest(latents)  # before an autoencoder is trained
                if autoencoder is None and init is None and not is_finished(directory / AUTOENCODER):
                    raise InputError("Latents belong to the autoencoder that made them: pass its run as --autoencoder.")
            encoder = prepared_autoencoder(
                recipe, dataset, directory, autoencoder, init, latents, resume, device, observer
            )
            if stage == AUTOENCODER:
                return Position(stage=AUTOENCODER, done=0, complete=True)
            recipe = with_autoencoder(recipe, encoder)
            material = latent_material(recipe, encoder, dataset, directory, latents)
        return _train(recipe, material, directory, stage, init, resume and begun, device, observer)


@dataclass(frozen=True, eq=False)
class Material:
    """What an emulator is trained on.

    Args:
        dataset: Physical states, on which it is validated.
        space: Physical <-> model space.
        statistics: The normalisation in it.
        training_space: From `windows` to model space.
        windows: Where windows of the training split come from: the data, or their latents.
        encoder: The run of the autoencoder, in latent space.
        family: All data sets, where there are several.
    """

    dataset: Dataset
    space: Space
    statistics: Normalisation
    training_space: Space
    windows: Dataset | Mixture
    encoder: Run | None = None
    family: Family | None = None

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return (self.dataset,) if self.family is None else self.family.datasets


def prepared_autoencoder(
    recipe: Recipe,
    dataset: Dataset,
    directory: Path,
    given: Path | None,
    init: Path | None,
    latents: Path | None,
    resume: bool,
    device: torch.device | str,
    observer: TrainingObserver | None,
) -> Run:
    """The run of the autoencoder within a run directory: there already, copied in, or trained now.

    Raises: InputError for one that is given and differs from the one that is there, has not finished, or does not fit the data or
        `latents`; for settings other than those with which the one that is there was trained.
    """
    assert recipe.autoencoder is not None, "checked by the caller"
    require_whole(dataset)
    place, name = directory / AUTOENCODER, f"{directory}/{AUTOENCODER}"
    source = given if given is not None else init
    inner = None if source is None else source / AUTOENCODER if (source / AUTOENCODER).is_dir() else source
    finished = is_finished(place)
    if finished and source is None and RunDirectory(place).checkpoint.exists():
        require_same_autoencoder(recipe, load_run(place, name))
    if finished and given is not None and inner is not None:
        wanted = load_run(inner, str(given)).fingerprint()
        if load_run(place, name).fingerprint() != wanted:
            raise InputError(f"{directory} holds another autoencoder than {given}: choose another --out.")
    if not finished and inner is not None:
        candidate = load_run(inner, str(source))
        autoencoder_of(candidate)  # complains of a run that has none
        candidate.check(dataset)
        if latents is not None:
            open_cache(latents, candidate, dataset, recipe.autoencoder.copies)
        distributed.barrier()
        if distributed.is_first():
            copy_run(inner, place)
        distributed.barrier()
    elif not finished:
        alone = Recipe(
            f"{recipe.name}/{AUTOENCODER}",
            f"Autoencoder of {recipe.name}.",
            recipe.autoencoder.model,
            simulation=recipe.simulation,
            space=recipe.space,
            guard=False,
            training=recipe.autoencoder.training,
            evaluation=recipe.evaluation,
        )
        again = resume and RunDirectory(place).component("space").exists()
        train_recipe(alone, dataset, place, resume=again, device=device, observer=observer)
    run = load_run(place, name, device)
    run.check(dataset)
    return run


def require_possible_stages(recipe: Recipe, dataset: Dataset, stage: str | None) -> None:
    """Look at the emulator before its autoencoder is trained: its sizes, windows, and the stage that is asked for.

    Raises: InputError.
    """
    assert recipe.autoencoder is not None, "checked by the caller"
    shape = model_shape(dataset, recipe)
    require_possible(recipe, shape)
    with torch.device("meta"):
        model = build_model(recipe.emulator, shape)
    assert isinstance(model, Trainable), "families of recipes are trained"
    require_stage(recipe, stage, [each.name for each in model.stages()])
    dataset.windows("train", max(each.frames for each in model.stages()))
    if dataset.static is not None and recipe.autoencoder.copies > 1:
        raise InputError(
            f"Other views of the training split would need other views of its static fields ({', '.join(dataset.static_names)}): "
            "set autoencoder.copies=1."
        )


def require_stage(recipe: Recipe, stage: str | None, names: Sequence[str]) -> None:
    """Raises: InputError for a stage that a recipe does not have."""
    known = [AUTOENCODER, *names] if recipe.autoencoder is not None else list(names)
    if stage is not None and stage not in known:
        raise InputError(f"{recipe.name} has no stage {stage!r}: it has {', '.join(known)}.")


def copy_run(source: Path, target: Path) -> None:
    """What a run needs to be used, without what is needed to resume it."""
    with staged_directory(target, "copy") as stage:
        for name in ("config.json", "normalization.json"):
            shutil.copyfile(source / name, stage / name)
        shutil.copytree(source / "components", stage / "components")


def with_autoencoder(recipe: Recipe, encoder: Run) -> Recipe:
    """The recipe with the autoencoder that is really used, and the normalisation that it was trained with."""
    model = encoder.recipe.emulator
    assert recipe.autoencoder is not None and isinstance(model, AutoencodingConfig), "an autoencoder was loaded"
    stage = replace(recipe.autoencoder, model=model, training=encoder.recipe.training)
    return replace(recipe, autoencoder=stage, space=encoder.recipe.space)


def latent_material(recipe: Recipe, encoder: Run, dataset: Dataset, directory: Path, given: Path | None) -> Material:
    """The training split in latent space: from a cache that is given, or one in the run directory, which is made if need be."""
    assert recipe.autoencoder is not None and isinstance(encoder.space, LatentSpace), "an autoencoder was loaded"
    copies = recipe.autoencoder.copies
    place = directory / "latents" if given is None else given
    if given is None:
        distributed.barrier()
        if distributed.is_first() and not place.exists():
            with progress_bar("encoding") as line:
                encode_dataset(encoder, dataset, place, splits=("train",), copies=copies, progress=line)
        distributed.barrier()
    windows = open_cache(place, encoder, dataset, copies)
    inner = encoder.space.inner
    assert isinstance(inner, Normalisation), "runs are normalised by statistics"
    static = dataset.static
    if isinstance(static, StaticFields):
        static = static.taken(piece_trajectories(place))
    windows = replace(windows, static=static, static_names=dataset.static_names)  # networks average them
    return Material(dataset, encoder.space, inner, IdentitySpace(), windows, encoder)


def _train(
    recipe: Recipe,
    material: Material,
    directory: Path,
    stage: str | None,
    init: Path | None,
    resume: bool,
    device: torch.device | str,
    observer: TrainingObserver | None,
) -> Position:
    """What `train_recipe` does while no other process writes the directory."""
    files, dataset, space = RunDirectory(directory), material.dataset, material.statistics
    shape = model_shape(dataset, recipe, material.datasets)
    start = init if init is not None else directory if stage is not None and files.component("model").exists() else None
    if start is not None and recipe.adaptation is not None:
        space, shape = constants_of(start, dataset, space, shape, begun=resume and start == directory)
        material = replace(material, space=space, statistics=space, training_space=space)
    model = seeded_model(recipe, shape).to(device)
    if isinstance(model, Autoencoding):
        require_encodable(model, dataset, space)
    assert isinstance(model, Trainable), "families of recipes are trained"
    stages, views = model.stages(), {}
    if recipe.adaptation is not None:
        stages = adapted_stages(stages, recipe.adaptation, model)
        views = adapted_views(recipe.adaptation, material.family or dataset, stage)
    frames = max(each.frames for each in stages)
    if resume:
        check_resumed(files, recipe, dataset, space)
    source = dataset if isinstance(material.windows, Mixture) else material.windows
    sample = sample_windows(source, material.training_space, frames)
    model.prepare((sample if dataset.valid is None else sample[..., dataset.valid]).to(device))
    guard = fitted_guard(recipe, material, sample)
    whole = stages
    if stage is not None:
        require_stage(recipe, stage, [each.name for each in stages])
        if files.component("model").exists() and not resume:
            require_new_stage(directory, stage)
        stages = tuple(each for each in stages if each.name == stage)
    if start is not None:
        load_weights(model, RunDirectory(start))
    hook = boundary_hook(
        recipe.boundary,
        system=str(dataset.attributes.get("system", "")),
        fields=dataset.field_names,
        parameter_names=dataset.parameter_names,
        static_names=dataset.static_names,
    )
    emulator = Emulator(model, material.space, guard, hook)  # type: ignore[arg-type]
    validate, score_name = validation_of_all(emulator, material.datasets, space, recipe.evaluation), "validation_crps"
    if isinstance(model, Autoencoding):
        validate, score_name = reconstruction_error(model, space, dataset, recipe.evaluation), "validation_vrmse"
    summary = data_summary(dataset, material.datasets)
    summary["parameter_ranges"] = joined_ranges(summary["parameter_ranges"], start)
    provenance = describe_hardware(device) | {"processes": distributed.size(), "trained": False}
    provenance["stages"] = trained_stages(stages, start)
    if lacking := untrained_stages(whole, stages, start):
        provenance["untrained"] = lacking
    if material.encoder is not None:
        provenance["autoencoder"] = material.encoder.fingerprint()
    training = Training(
        model=model,
        space=material.training_space,
        data=material.windows,
        stages=stages,
        settings=recipe.training,
        directory=files,
        validate=validate,
        score_name=score_name,
        views=views,
    )
    if observer is not None:
        training.observer = observer
    if resume:
        training.check()
    distributed.barrier()  # all have seen what was there before the first one writes
    if distributed.is_first():
        write_components(files, model, space, guard)
        write_context(files, dataset)
        write_config(files, recipe, summary, shape, provenance)
    position = training.run(resume=resume)
    model.eval()
    if distributed.is_first():
        recipe = calibrated(recipe, emulator, dataset)
        write_components(files, model, space, guard)
        cost = {"steps": position.steps, "seconds": position.seconds, "cpu_seconds": position.cpu_seconds}
        collapsed = collapsed_stages(files.log)
        told = {"collapsed": collapsed} if collapsed else {}
        write_config(files, recipe, summary, shape, provenance | {"trained": True} | cost | told)
    distributed.barrier()  # the run is whole for whoever loads it
    return position


def fitted_guard(recipe: Recipe, material: Material, sample: Tensor) -> SpectralGuard | None:
    """What keeps rollouts in the band of the training data, on one grid or on several; None where the recipe or the data have none.

    Args:
        sample: Windows of training data in model space, (window, time, channel, *space).
    """
    dataset, space = material.dataset, material.statistics
    # With a map as mean or scale, with land, logarithms or in latents, the modes of x are not those of the field: see the guard.
    plain = dataset.valid is None and space.mean[0].numel() == space.std[0].numel() == 1 and not space.offsets
    physical = isinstance(material.windows, Mixture) or material.windows is dataset
    if not (recipe.guard and plain and physical) or isinstance(recipe.emulator, AutoencodingConfig):
        return None
    guard = SpectralGuard.fit(sample, dataset.grid.periodic)
    if recipe.grids == "one":
        return guard
    others = [one for one in material.datasets if one is not dataset]
    samples = [(one.grid, sample_windows(one, material.training_space, sample.shape[1])) for one in others]
    guards = [SpectralGuard.fit(each, grid.periodic).of(grid) for grid, each in samples]
    return SpectralGuard.joined([guard.of(dataset.grid), *guards], material.datasets[-1].grid)


def first_of(recipe: Recipe, family: Family) -> Dataset:
    """The data set of a family on which scales are measured: that of pre-training, or the one with the fewest points."""
    return family.datasets[0] if recipe.adaptation is None else base_of(recipe.adaptation, family)
