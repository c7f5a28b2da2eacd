"""One door for all formats."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eddycast.data.arrays import open_numpy
from eddycast.data.dataset import Dataset
from eddycast.data.gridded import open_gridded
from eddycast.data.splits import check_fractions
from eddycast.data.well import open_well
from eddycast.data.well_schema import GROUPS
from eddycast.data.well_source import find_files, open_hdf5
from eddycast.errors import InputError, reading
from eddycast.labelled import NETCDF3_MAGIC

if TYPE_CHECKING:
    import xarray as xr

Format = Literal["well", "gridded", "numpy"]
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
EXPECTED = "The Well HDF5 (file or folder), NetCDF, Zarr, .npz or .npy"


def existing(path: str | Path) -> Path:
    """The path, which must exist. Raises: InputError with similar names beside it."""
    found = Path(path).expanduser()
    if found.exists():
        return found
    folder = found.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    near = difflib.get_close_matches(found.name, [item.name for item in folder.iterdir()], n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the folder {folder} has nothing with such a name."
    raise InputError(f"{path}: no such file or folder; {hint}")


def file_format(path: Path) -> Format:
    """Which reader a file or folder needs, from its content. Raises: InputError for an unknown one."""
    if path.is_dir():
        if any((path / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json", ".zattrs")):
            return "gridded"
        if find_files(path):
            return "well"
        if (path / "config.json").is_file():
            raise InputError(
                f"{path} is a run, not data: make a file with `eddycast forecast {path} --data DATA --out FILE.nc`, or look at it with "
                f"`eddycast report {path}`."
            )
        folders = sorted(item for item in path.iterdir() if item.is_dir() and not item.name.startswith("."))
        if folders and all(find_files(item) for item in folders):
            raise InputError(
                f"{path} holds {len(folders)} data sets, a family that only `train` takes whole: name one of "
                f"{', '.join(item.name for item in folders[:5])}."
            )
        inside = ", ".join(sorted(item.name for item in path.iterdir())[:5]) or "nothing"
        raise InputError(f"{path}: expected data/train/*.hdf5 (and valid, test) or a Zarr store, found {inside}.")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    if head[:3] == NETCDF3_MAGIC:
        return "gridded"
    if head == HDF5_MAGIC:
        with open_hdf5(path) as handle:
            with reading(path):
                ours = any(group in handle for group in GROUPS) or "n_trajectories" in handle.attrs
        return "well" if ours else "gridded"
    if path.suffix in (".npy", ".npz"):
        return "numpy"
    state = "it is empty" if not head else f"it begins with {head!r}"
    raise InputError(f"{path}: not a known format ({state}); expected {EXPECTED}.")


def _names(value: str | Sequence[str] | None) -> list[str] | None:
    """Names from a sequence, or from text with commas."""
    if value is None:
        return None
    parts = value.split(",") if isinstance(value, str) else list(value)
    return [str(part).strip() for part in parts]


def open_dataset(
    path: str | Path | xr.Dataset,
    *,
    fields: str | Sequence[str] | None = None,
    fractions: Sequence[float] | None = None,
    periodic: str | Sequence[str] | None = None,
    missing: Literal["error", "union"] = "error",
    time: str | None = None,
    dt: float | None = None,
    space_dims: int | None = None,
) -> Dataset:
    """Open a data set lazily, whatever its format.

    Args:
        path: The Well HDF5 (file or folder), NetCDF-3 or 4, Zarr, `.npz`, `.npy`, or an xarray data set.
        fields: Fields to use ("u,v" or a list); all that fit together otherwise.
        fractions: Shares of train, valid and test; (0.8, 0.1, 0.1) or the file's own otherwise.
        periodic: Axes that repeat, for NetCDF, Zarr and NumPy ("x,y" or a list).
        missing: "error" refuses missing values that come and go, "union" masks every point that is ever missing.
        time: Name of the time dimension in NetCDF or Zarr, where it cannot be found.
        dt: Time step of NumPy files, or of NetCDF without a useful time.
        space_dims: Number of space axes of NumPy arrays, where the shape is ambiguous.

    Raises: InputError, in one line, for a missing, damaged or unknown file and anything in it that cannot be used.
    """
    if missing not in ("error", "union"):
        raise InputError(f"missing must be 'error' or 'union', got {missing!r}.")
    if fractions is not None:
        fractions = check_fractions(fractions)
    if not isinstance(path, (str, Path)):
        options = _options(fields=_names(fields), fractions=fractions, periodic=_names(periodic), time=time, dt=dt)
        return open_gridded(path, missing=missing, **options)
    found = existing(path)
    kind = file_format(found)
    try:
        return _open(found, kind, fields, fractions, periodic, missing, time, dt, space_dims)
    except InputError as error:
        if found.name in str(error):
            raise
        raise InputError(f"{path}: {error}") from error


def _open(
    found: Path,
    kind: Format,
    fields: str | Sequence[str] | None,
    fractions: Sequence[float] | None,
    periodic: str | Sequence[str] | None,
    missing: Literal["error", "union"],
    time: str | None,
    dt: float | None,
    space_dims: int | None,
) -> Dataset:
    """What `open_dataset` does once it knows the format."""
    given: dict[str, Any] = {"periodic": periodic, "time": time, "dt": dt, "space_dims": space_dims}
    allowed = {"well": (), "gridded": ("periodic", "time", "dt"), "numpy": ("periodic", "dt", "space_dims")}[kind]
    if useless := [name for name, value in given.items() if value is not None and name not in allowed]:
        raise InputError(f"{found}: the option {useless[0]!r} does not apply to this format.")
    options = _options(fields=_names(fields), fractions=fractions)
    if kind == "well":
        return open_well(found, **options)
    options |= _options(periodic=_names(periodic), dt=dt)
    if kind == "numpy":
        return open_numpy(found, missing=missing, space_dims=space_dims, **options)
    return open_gridded(found, missing=missing, time=time, **options)


def _options(**given: Any) -> dict[str, Any]:
    """Those that were given."""
    return {name: value for name, value in given.items() if value is not None}
