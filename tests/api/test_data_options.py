"""Options of a data set that stand in its name."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from eddycast import api
from eddycast.errors import InputError


@pytest.fixture
def file(tmp_path):
    generator = np.random.default_rng(0)
    dims = ("time", "x")
    fields = {name: (dims, generator.normal(size=(40, 8)).astype("float32")) for name in ("a", "b")}
    coords = {"time": np.arange(40.0), "x": np.arange(8.0)}
    path = tmp_path / "two.nc"
    xr.Dataset(fields, coords).to_netcdf(path, engine="h5netcdf")
    return path


def test_options_follow_a_question_mark(file):
    data = api.open_dataset(f"{file}?fields=b&fractions=0.5,0.25,0.25&periodic=x")
    assert data.field_names == ("b",)
    assert [len(data.segments(name)[0]) for name in ("train", "valid", "test")] == [20, 10, 10]
    assert data.grid.periodic == (True,)
    assert "b" in api.inspect(f"{file}?fields=b")


@pytest.mark.parametrize(
    "query, words", [("colour=red", "known are fields"), ("fields", "name=value"), ("dt=soon", "number")]
)
def test_mistakes_are_told(file, query, words):
    with pytest.raises(InputError, match=words):
        api.open_dataset(f"{file}?{query}")
