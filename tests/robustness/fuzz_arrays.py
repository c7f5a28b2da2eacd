"""Ways to spoil the structure of Zarr, NumPy and safetensors files."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import torch
from fuzz_bytes import BYTES, Mutation, Rng, pick
from fuzz_text import json_tree, mutated_tree
from safetensors import safe_open
from safetensors.torch import save_file

# Zarr: any file of the store


def zarr_file(path: Path, rng: Rng) -> None:
    files = sorted(item for item in path.rglob("*") if item.is_file())
    pick(list(BYTES), rng)(pick(files, rng), rng)


def zarr_lost(path: Path, rng: Rng) -> None:
    pick(sorted(item for item in path.rglob("*") if item.is_file()), rng).unlink()


def zarr_metadata(path: Path, rng: Rng) -> None:
    json_tree(pick(sorted(path.rglob("zarr.json")), rng), rng)


def zarr_array_shape(path: Path, rng: Rng) -> None:
    """Shapes or chunks that do not fit what is stored, or anything at all."""
    arrays = [item for item in sorted(path.rglob("zarr.json")) if '"array"' in item.read_text()]
    file = pick(arrays, rng)
    content = json.loads(file.read_text())
    size = pick([-1, 0, 2**45, 2**62, 1, 3, 1.5, "x"], rng)
    if rng.random() < 0.7:
        content["shape"][-1] = size
    else:
        content["chunk_grid"]["configuration"]["chunk_shape"][-1] = size
    file.write_text(json.dumps(content))


def zarr_outside(path: Path, rng: Rng) -> None:
    """An array that is a link to a folder outside of the store."""
    array = pick(sorted(item.parent for item in path.rglob("zarr.json") if item.parent != path), rng)
    shutil.rmtree(array)
    os.symlink(pick(["/etc", "..", str(path), "/nowhere"], rng), array)


ZARR: tuple[Mutation, ...] = (
    zarr_file,
    zarr_file,
    zarr_lost,
    zarr_metadata,
    zarr_metadata,
    zarr_array_shape,
    zarr_outside,
)


# NumPy


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin1")
    text += b" " * ((64 - (10 + len(text) + 1) % 64) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def _npy_header(rng: Rng) -> bytes:
    shape = pick(["(3, 1099511627776, 16)", "(-3, 12, 16)", "(3, 12, 16", "3", "(1e9,)", "(True, 2, 2)", "(3, 12, 'x')", "()",
                   "(3, 0, 16)", "(9223372036854775807, 2, 2)"], rng)  # fmt: skip
    kind = pick(["'<f4'", "'|O'", "'<U4'", "'<c8'", "'<f9'", "[('a', '<f4')]", "None", "'<M8[s]'", "'|V3'"], rng)
    if rng.random() < 0.5:
        kind = "'<f4'"
    return _npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}", bytes(2304))


def npy_header(path: Path, rng: Rng) -> None:
    path.write_bytes(_npy_header(rng))


def npy_object(path: Path, rng: Rng) -> None:
    """A pickle, which must never be loaded."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}, "b"], dtype=object), allow_pickle=True)
    path.write_bytes(buffer.getvalue())


def npy_values(path: Path, rng: Rng) -> None:
    values = np.load(path, allow_pickle=False)
    whole = values.astype("f8")
    choices = (whole.astype("c8"), whole.astype("U4"), whole * np.nan, whole * 1e38, whole[:, :1], whole[:0], whole[0], whole > 0,
               whole * 1e200, whole[..., None, None, None, None], whole.astype("i8"))  # fmt: skip
    np.save(path, pick(list(choices), rng))


def npz_member(path: Path, rng: Rng) -> None:
    """One array of the archive becomes something else."""
    with np.load(path, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    name = pick(sorted(content), rng)
    value = content[name]
    odd = (np.array("text"), np.array([[1.0, 2.0]]), np.zeros(0), np.full(value.shape, np.nan), -np.abs(value) - 1, np.array(0.0),
           np.array(-1), value[..., None], value.astype("U3"), value * 1j, np.array(1e300), np.array([np.inf]), np.arange(5))  # fmt: skip
    other = pick([name, "time", "fields", "parameter_names", "dt", "x"], rng)
    np.savez(path, **(content | {other: pick(list(odd), rng)}))


def npz_lost(path: Path, rng: Rng) -> None:
    with np.load(path, allow_pickle=False) as file:
        content = {name: file[name] for name in file.files}
    content.pop(pick(sorted(content), rng))
    np.savez(path, **content)


def npz_archive(path: Path, rng: Rng) -> None:
    """Members with pickles, paths outside of the archive, no arrays, or headers that announce terabytes."""
    how = int(rng.integers(6))
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    if how == 0:
        buffer = io.BytesIO()
        np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        members["states.npy"] = buffer.getvalue()
    elif how == 1:
        members["../../outside.npy"] = members["states.npy"]
    elif how == 2:
        members["/tmp/absolute.npy"] = members["states.npy"]
    elif how == 3:
        members["states.npy"] = _npy_header(rng)
    elif how == 4:
        members["readme.txt"] = b"not an array"
    else:
        members = {"states.npy": b"", "x.npy": b"\x93NUMPY"}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)


NPY: tuple[Mutation, ...] = (npy_header, npy_header, npy_values)
NPZ: tuple[Mutation, ...] = (npz_member, npz_member, npz_lost, npz_archive)


# Safetensors


def st_header(path: Path, rng: Rng) -> None:
    """The JSON in front of the tensors: shapes, kinds, offsets, names."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = mutated_tree(json.loads(content[8 : 8 + size]), rng)
    if rng.random() < 0.3 and isinstance(header, dict):
        names = [name for name in header if name != "__metadata__" and isinstance(header[name], dict)]
        if names:
            header[pick(names, rng)]["shape"] = [2**40, 2**20]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def st_length(path: Path, rng: Rng) -> None:
    content = path.read_bytes()
    size = pick([0, 1, 2**40, 2**63, len(content), 100], rng)
    path.write_bytes(int(size).to_bytes(8, "little") + content[8:])


def st_tensors(path: Path, rng: Rng) -> None:
    """A sound file whose tensors have another name, shape, kind or value."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    name = pick(sorted(tensors), rng)
    value = tensors.pop(name)
    how = int(rng.integers(8))
    if how == 1:
        tensors[f"{name}_"] = value
    elif how == 2:
        tensors[name] = torch.zeros(*value.shape, 2)
    elif how == 3:
        tensors[name] = torch.full(value.shape, float("nan"))
    elif how == 4:
        tensors[name] = value.to(torch.int8)
    elif how == 5:
        tensors[name] = torch.zeros(0)
    elif how == 6:
        tensors[name] = value.flatten()[:1].clone()
    elif how == 7:
        tensors |= {name: value, "extra": torch.ones(2)}
        metadata = None
    save_file(tensors, path, metadata=metadata)


def st_metadata(path: Path, rng: Rng) -> None:
    """Another state in the header of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata() or {}
    if "state" in metadata:
        state = mutated_tree(json.loads(metadata["state"]), rng)
        metadata["state"] = json.dumps(state) if rng.random() < 0.8 else "{no json"
    else:
        metadata = {"state": "[]"}
    save_file(tensors, path, metadata=metadata)


SAFETENSORS: tuple[Mutation, ...] = (st_header, st_header, st_tensors, st_tensors)
