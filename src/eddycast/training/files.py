"""Layout of a run directory, and tensors in files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eddycast.errors import InputError, reason
from eddycast.files import write_bytes

SCHEMA_VERSION = 1
CHECKSUM = "checksum"


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, with a checksum of all that is in it."""
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = metadata or {}
    write_bytes(path, save(own, metadata=metadata | {CHECKSUM: checksum(own, metadata)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises: InputError when it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path} is missing: expected a safetensors file of a run directory.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({reason(error)}): restore it or train again.") from error
    expected = metadata.pop(CHECKSUM, None)
    if expected is not None and expected != checksum(tensors, metadata):
        raise InputError(f"{path} is damaged (its checksum differs): restore it or train again.")
    return tensors, metadata


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of names, kinds, shapes, bytes and metadata: a flipped bit in a weight shows nowhere else."""
    value = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


@dataclass(frozen=True)
class RunDirectory:
    """Where everything of a run lies; nothing is ever pickled."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def normalization(self) -> Path:
        return self.path / "normalization.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "training" / "checkpoint.safetensors"

    def component(self, name: str) -> Path:
        return self.path / "components" / f"{name}.safetensors"
