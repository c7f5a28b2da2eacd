"""Zeros in a heap of HDF5: the library never ends on them, so they are found before."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from eddycast import data
from eddycast.errors import InputError
from eddycast.hdf5 import SIGNATURE, require_finite_heaps


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "sound.h5"
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(100.0)
        for number in range(400):
            file.attrs[f"name_{number}"] = f"text of variable length {'x' * number}"
    return path


def spoil(path) -> None:
    """Zeros from the second object of the first heap on, for a hundred bytes."""
    content = bytearray(path.read_bytes())
    at = content.find(SIGNATURE)
    size = int.from_bytes(content[at + 24 : at + 32], "little")
    second = at + 32 + (size + 7) // 8 * 8
    content[second : second + 100] = bytes(100)
    path.write_bytes(bytes(content))


def test_sound_heaps_pass(sound):
    assert sound.read_bytes().count(SIGNATURE) > 1
    require_finite_heaps(sound)


def test_zeros_in_a_heap_are_refused_in_one_line(sound):
    spoil(sound)
    for call in (require_finite_heaps, data.open_dataset):
        with pytest.raises(InputError, match="heap of names at byte") as caught:
            call(sound)
        assert "\n" not in str(caught.value) and str(sound) in str(caught.value)


def test_empty_and_tiny_files_pass(tmp_path):
    for length in (0, 3, 8, 100):
        path = tmp_path / "tiny"
        path.write_bytes(SIGNATURE[:length] + bytes(max(0, min(8, length - 8))))
        require_finite_heaps(path)
