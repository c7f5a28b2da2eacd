"""Layout of a run directory, and tensors in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eddycast.errors import InputError
from eddycast.files import write_bytes

SCHEMA_VERSION = 1


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(own, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises: InputError when it is missing or damaged."""
    if not path.is_file():
        raise InputError(f"{path} is missing: expected a safetensors file of a run directory.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): restore it or train again.") from error


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
