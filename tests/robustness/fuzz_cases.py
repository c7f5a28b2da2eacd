"""Which files are spoiled, how, and which commands then read them."""

from __future__ import annotations

import shutil
import zlib
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import fuzz_arrays as arrays
import fuzz_bytes as raw
import fuzz_labelled as labelled
import fuzz_text as text
import numpy as np

DATA = ("inspect", "train", "forecast", "observe", "evaluate-truth", "plot", "compare")
ENSEMBLE = ("evaluate", "forecast-from", "background", "plot", "report")
RUN = ("forecast", "assimilate", "init", "report", "compare")


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Args:
        base: File or folder of the corpus.
        inner: The file within the folder that is spoiled; the folder itself where empty.
        commands: Who reads it.
        repeated: Mutations that draw, in turn.
        count: How many of these for each seed.
        once: Mutations that are the same each time.
    """

    base: str
    commands: tuple[str, ...]
    repeated: tuple[raw.Mutation, ...]
    count: int
    once: tuple[raw.Mutation, ...] = ()
    inner: str = ""


def _run_file(inner: str, *mutations: raw.Mutation, count: int, once: tuple[raw.Mutation, ...] = ()) -> Kind:
    return Kind("run", tuple(f"run-{name}" for name in RUN), mutations, count, once, inner)


def _latent_file(inner: str, *mutations: raw.Mutation, count: int) -> Kind:
    return Kind("latent", ("run-forecast", "encode", "resume-latent"), mutations, count, raw.ONCE, inner)


KINDS: dict[str, Kind] = {
    "well": Kind("well_file.hdf5", (*DATA, "forecast-run"), raw.BYTES + labelled.HDF5 * 3, 48, raw.ONCE),
    "well-folder": Kind("well", DATA, raw.BYTES + labelled.HDF5 * 2, 18, raw.ONCE, "data/train/kuramoto-sivashinsky.hdf5"),
    "netcdf4": Kind("dated.nc", DATA, raw.BYTES + labelled.HDF5 + labelled.NETCDF * 2, 37, raw.ONCE),
    "netcdf3": Kind("waves3.nc", DATA, raw.BYTES + labelled.NETCDF * 2, 25, raw.ONCE),
    "zarr": Kind("waves.zarr", DATA, arrays.ZARR, 28),
    "npz": Kind("waves.npz", DATA, raw.BYTES + arrays.NPZ * 3, 28, raw.ONCE),
    "npy": Kind("waves.npy", DATA, raw.BYTES + arrays.NPY * 3, 17, (*raw.ONCE, arrays.npy_object)),
    "yaml": Kind("recipe.yaml", ("recipe",), raw.BYTES + raw.TEXT + text.YAML * 4, 26, (*raw.ONCE, *text.YAML_ONCE)),
    "recipe-json": Kind("recipe.json", ("recipe",), raw.BYTES + text.JSON, 9, (*raw.ONCE, *text.JSON_ONCE)),
    "config": _run_file("config.json", *raw.BYTES, *raw.TEXT, *text.JSON * 6, count=32, once=(*raw.ONCE, *text.JSON_ONCE)),
    "normalization": _run_file("normalization.json", *raw.BYTES[:4], *text.JSON, count=7, once=(*raw.ONCE, *text.JSON_ONCE)),
    "log": Kind("run", ("run-report",), (*raw.BYTES[:6], text.json_lines, text.json_lines), 7, raw.ONCE, "log.jsonl"),
    "model": _run_file("components/model.safetensors", *raw.BYTES[:8], arrays.st_length, *arrays.SAFETENSORS * 2, count=13, once=raw.ONCE),
    "space": _run_file("components/space.safetensors", *raw.BYTES[:8], arrays.st_length, *arrays.SAFETENSORS * 2, count=13, once=raw.ONCE),
    "guard": _run_file("components/guard.safetensors", *raw.BYTES[:4], *arrays.SAFETENSORS, count=8, once=raw.ONCE),
    "climatology": _run_file("components/climatology.safetensors", *raw.BYTES[:4], *arrays.SAFETENSORS, count=5, once=raw.ONCE),
    "checkpoint": Kind(
        "begun",
        ("resume",),
        (*raw.BYTES[:8], arrays.st_length, *arrays.SAFETENSORS * 2, arrays.st_metadata, arrays.st_metadata),
        23,
        raw.ONCE,
        "training/checkpoint.safetensors",
    ),
    "begun-config": Kind("begun", ("resume",), (*raw.BYTES[:3], *text.JSON), 9, raw.ONCE, "config.json"),
    "begun-log": Kind("begun", ("resume",), (*raw.BYTES[:3], text.json_lines, text.json_lines), 4, raw.ONCE, "log.jsonl"),
    "latent-config": _latent_file("autoencoder/config.json", *raw.BYTES[:3], *text.JSON * 5, count=14),
    "latent-normalization": _latent_file("autoencoder/normalization.json", *raw.BYTES[:2], *text.JSON, count=5),
    "latent-model": _latent_file("autoencoder/components/model.safetensors", *raw.BYTES[:4], *arrays.SAFETENSORS, count=7),
    "latent-manifest": Kind(
        "latent", ("resume-latent",), (*raw.BYTES[:3], *raw.TEXT, *text.JSON * 6), 24, (*raw.ONCE, *text.JSON_ONCE), "latents/manifest.json"
    ),
    "latents": Kind("latent", ("resume-latent",), (*raw.BYTES, *labelled.HDF5[2:] * 2), 23, raw.ONCE, "latents/latents.hdf5"),
    "scores": Kind("scores.json", ("plot", "report"), raw.BYTES + raw.TEXT + text.JSON * 4, 30, (*raw.ONCE, *text.JSON_ONCE)),
    "forecast": Kind("forecast.nc", ENSEMBLE, raw.BYTES + labelled.HDF5 * 2 + labelled.NETCDF * 2, 26, raw.ONCE),
    "analysis": Kind("analysis.nc", ENSEMBLE, labelled.HDF5 + labelled.NETCDF, 9),
    "forecast-zarr": Kind("forecast.zarr", ENSEMBLE, arrays.ZARR, 9),
    "observations": Kind(
        "observations.nc",
        ("assimilate", "plot", "report"),
        (*raw.BYTES, *labelled.HDF5 * 2, *labelled.NETCDF, *(labelled.nc_header,) * 4),
        45,
        raw.ONCE,
    ),
    "observations-csv": Kind("observations.csv", ("assimilate",), raw.BYTES + raw.TEXT + text.CSV * 4, 30, raw.ONCE),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One spoiled file."""

    kind: str
    mutation: raw.Mutation
    seed: int

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.mutation.__name__}/{self.seed}"

    def make(self, corpus: Path, folder: Path) -> Path:
        """Copy the sound file into the folder and spoil it; returns what a command is given."""
        kind = KINDS[self.kind]
        target = folder / kind.base
        if (corpus / kind.base).is_dir():
            shutil.copytree(corpus / kind.base, target)
        else:
            shutil.copy(corpus / kind.base, target)
        rng = np.random.default_rng([self.seed, zlib.crc32(self.kind.encode())])
        self.mutation(target / kind.inner if kind.inner else target, rng)
        return target


def cases(seeds: int = 1) -> list[Case]:
    """All cases, the same ones each time; `seeds` multiplies those that draw."""
    found = []
    for name, kind in KINDS.items():
        turns = islice(cycle(kind.repeated), kind.count * seeds)
        found += [Case(name, mutation, number) for number, mutation in enumerate(turns)]
        found += [Case(name, mutation, 0) for mutation in kind.once]
    return found
