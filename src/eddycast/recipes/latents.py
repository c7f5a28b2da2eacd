"""Latents of a data set: encoded once by the autoencoder of a run, kept with their provenance, refused where that differs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eddycast.autoencoders import AutoencoderConfig, Components, View, draw_view
from eddycast.data import (
    Dataset,
    Normalisation,
    Piece,
    Segment,
    coarse_grid,
    open_latents,
    read_manifest,
    write_latents,
)
from eddycast.emulators import Autoencoding, LatentSpace
from eddycast.errors import InputError
from eddycast.recipes.run import Run

FRAMES = 32
"""Frames that are read and encoded at once."""
Progress = Callable[[int, int], None]


def autoencoder_of(run: Run) -> tuple[Autoencoding, LatentSpace]:
    """The trained autoencoder of a run, and its latents as a space; of an emulator in latent space, its own.

    Raises: InputError for a run without one.
    """
    if not isinstance(run.space, LatentSpace):
        raise InputError(
            f"{run.name} has no autoencoder: train one (recipes named .../autoencoder-...), or an emulator in latent space."
        )
    model = run.model if isinstance(run.model, Autoencoding) else run.autoencoder
    assert isinstance(model, Autoencoding), "a latent space has an autoencoder"
    return model, run.space


def encode_dataset(
    run: Run,
    dataset: Dataset,
    path: Path,
    *,
    splits: tuple[str, ...] | None = None,
    copies: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Dataset:
    """Encode splits of a data set into a cache, frame by frame, with flat memory; returns it opened.

    Args:
        run: With an autoencoder; its statistics normalise.
        path: Directory of the cache; an earlier cache there is replaced.
        splits: None for all that the data have.
        copies: Views of the training split: the first as it is, the others drawn (`autoencoders.draw_view`).
        seed: Of the views.
        progress: Called with frames done and frames in all.

    Raises: InputError for data that do not fit the run, or land, which latents do not know.
    """
    model, space = autoencoder_of(run)
    run.check(dataset)
    require_whole(dataset)
    shape = space.autoencoder.latent_shape(dataset.grid.shape)
    chosen = tuple(split for split in dataset.splits if dataset.splits[split]) if splits is None else splits
    plan = [
        (split, segment, copy)
        for split in chosen
        for segment in dataset.segments(split)
        for copy in range(copies if split == "train" else 1)
    ]
    total, done = sum(len(segment) for _, segment, _ in plan), 0
    views = Views(model, dataset, seed)

    def pieces() -> Iterator[tuple[Piece, Iterator[Tensor]]]:
        for split, segment, copy in plan:
            view = views(segment, copy)
            yield views.piece(split, segment, copy, view), blocks(segment, view)

    def blocks(segment: Segment, view: View | None) -> Iterator[Tensor]:
        nonlocal done
        for start in range(segment.start, segment.stop, FRAMES):
            stop = min(start + FRAMES, segment.stop)
            yield encoded(dataset, segment.trajectory, start, stop, space, views.components, view)
            done += stop - start
            if progress is not None:
                progress(done, total)

    summary = {
        "dt": dataset.dt,
        "time_units": dataset.time_units,
        "cycle": dataset.cycle,
        "parameter_names": list(dataset.parameter_names),
        "provenance": provenance(run, dataset, copies),
    }
    write_latents(path, pieces(), coarse_grid(dataset.grid, shape), summary)
    return open_latents(path)


@torch.no_grad()
def encoded(
    dataset: Dataset,
    trajectory: int,
    start: int,
    stop: int,
    space: LatentSpace,
    components: Components | None = None,
    view: View | None = None,
) -> Tensor:
    """Latents of some frames, (time, channel, *latent space), on the CPU."""
    place = next(space.autoencoder.parameters()).device
    conditions = dataset.conditions([trajectory], [start]).to(place)
    leads = torch.arange(stop - start, dtype=torch.float64)
    states = dataset.read(trajectory, start, stop)[None].to(place)
    if view is None or components is None:
        return space.encode(states, conditions, leads)[0].cpu()
    x = view(space.inner.encode(states, conditions, leads), components)
    return space.encode_normalised(x, conditions)[0].cpu()


class Views:
    """Which view each piece is encoded in: the first copy as it is, others drawn by seed, trajectory, first frame and number."""

    def __init__(self, model: Autoencoding, dataset: Dataset, seed: int) -> None:
        self.kinds, self.components = model.config.augment, model.components
        self.dataset, self.seed = dataset, seed

    def __call__(self, segment: Segment, copy: int) -> View | None:
        if copy == 0:
            return None
        bits = np.random.SeedSequence([self.seed, segment.trajectory, segment.start, copy]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(bits[0] >> 1))
        return draw_view(self.kinds, self.dataset.grid.shape, self.dataset.grid.periodic, generator)

    def piece(self, split: str, segment: Segment, copy: int, view: View | None) -> Piece:
        """What the manifest says of a segment in one view, with the boundary codes of that view."""
        codes = self.dataset.conditions([segment.trajectory], [segment.start]).boundary_codes()[0]
        codes = codes if view is None else view.codes(codes)
        return Piece(
            split,
            segment.trajectory,
            segment.start,
            segment.stop,
            copy,
            self.dataset.clock.step(segment.trajectory, segment.start),
            tuple(self.dataset.parameters(segment.trajectory).tolist()),
            tuple((float(low), float(high)) for low, high in codes.tolist()),
        )


def provenance(run: Run, dataset: Dataset, copies: int) -> dict[str, Any]:
    """What the latents in a cache depend on, as plain values."""
    model, space = autoencoder_of(run)
    inner = space.inner
    assert isinstance(inner, Normalisation), "runs are normalised by statistics"
    return {
        "autoencoder": digest(model.network.state_dict(), architecture(model)),
        "statistics": digest(inner.to_tensors(), repr(inner.offsets)),
        "fields": list(dataset.field_names),
        "grid": list(dataset.grid.shape),
        "dt": dataset.dt,
        "stride": 1,
        "data": data_digest(dataset),
        "copies": copies,
    }


WORDS = {
    "autoencoder": "another autoencoder",
    "statistics": "other statistics of the fields",
    "fields": "other fields",
    "grid": "another grid",
    "dt": "another time step",
    "stride": "another stride",
    "data": "other data",
    "copies": "another number of copies",
}
"""What a cache is of where an entry of its provenance differs."""


def open_cache(path: Path, run: Run, dataset: Dataset, copies: int | None = None) -> Dataset:
    """The latents of a cache, if they are those of this data set by this autoencoder.

    Args:
        copies: Views of the training split that are expected; None for any number.

    Raises: InputError that names what differs.
    """
    known = read_manifest(path)["provenance"]
    if not isinstance(known, dict):
        raise InputError(f"{path} says nothing of its provenance: encode the data again.")
    expected = provenance(run, dataset, known.get("copies", 1) if copies is None else copies)
    for key, value in expected.items():
        if known.get(key) != value:
            raise InputError(
                f"{path} holds latents of {WORDS[key]} ({known.get(key)}, expected {value}): encode the data again with "
                f"`eddycast encode`."
            )
    return open_latents(path)


def architecture(model: Autoencoding) -> str:
    """What else than its weights the latents of an autoencoder depend on, and the views in which states are encoded."""
    names = sorted({item.name for item in fields(AutoencoderConfig)} - {"dropout"} | {"augment"})
    return repr([(name, getattr(model.config, name)) for name in names])


def digest(tensors: dict[str, Tensor], more: str = "") -> str:
    """First digits of a SHA-256 of names, shapes and bytes, and of more text."""
    total = hashlib.sha256(more.encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()[:16]


def data_digest(dataset: Dataset) -> str:
    """The same of a data set: of its layout, and the first and last frame of each segment."""
    total = hashlib.sha256(repr((dataset.field_names, dataset.grid.to_dict(), dataset.dt, dataset.lengths)).encode())
    for split, segments in sorted(dataset.splits.items()):
        for segment in segments:
            total.update(f"{split} {segment} {dataset.parameters(segment.trajectory).tolist()}".encode())
            for frame in (segment.start, segment.stop - 1):
                state = dataset.read(segment.trajectory, frame, frame + 1).nan_to_num(0.0)
                total.update(state.contiguous().numpy().data)
    return total.hexdigest()[:16]


def require_encodable(model: Autoencoding, dataset: Dataset, space: Normalisation) -> None:
    """Raises: InputError for land, a grid that the levels do not divide, and views of states with maps of means that do not move."""
    require_whole(dataset)
    model.network.latent_shape(dataset.grid.shape)
    maps = space.mean[0].numel() > 1 or space.std[0].numel() > 1
    if model.config.augment and maps:
        raise InputError(
            f"augment ({', '.join(model.config.augment)}) moves states, but not the maps of their mean and spread: set space.mean=field "
            "and space.std=field, or leave augment empty."
        )


def require_whole(dataset: Dataset) -> None:
    """Raises: InputError for data with points that are not valid: what an autoencoder makes of land would leak into the sea."""
    if dataset.valid is not None:
        raise InputError(
            "Latents need fields that are defined everywhere; these data have points without values (land): train in "
            "physical space, or fill them."
        )
