"""Trajectories on disk and in memory; foreign axis orders, calendars and missing values are converted here.

dataset        Dataset, Field, Segment, Initial: what is open, and frames on request
opening        open_dataset: one door for all formats
arrays         in memory, .npy and .npz
well           The Well's HDF5 (well_schema: what it must contain; well_writer: write and validate)
latents        encoded trajectories: a cache with its provenance
records        many NetCDF files as one record in time
tiles          boxes cut from a record (tiling: where they lie, which years train; spool: their frames meanwhile)
gridded        NetCDF and Zarr through xarray (axes: which dimension is what)
clock          times and calendars
quadrature     axes with their weights
splits         train, valid, test
normalisation  statistics; physical <-> normalised
windows        batches for training (mixture: from several data sets)
family         data sets on grids of their own as one; parts of one by the values of its parameters
output         forecasts and analyses as labelled files
inspection     what is in a data set, as text
"""

from eddycast.data.arrays import from_arrays
from eddycast.data.balance import Rarity
from eddycast.data.clock import CalendarClock, Clock, PlainClock
from eddycast.data.dataset import Dataset, Field, Initial, Segment
from eddycast.data.family import (
    Family,
    by_parameters,
    is_family,
    open_family,
    same_parameters,
    with_parameters,
    without_parameters,
)
from eddycast.data.inspection import describe, inspect
from eddycast.data.latents import Piece, coarse_grid, open_latents, piece_trajectories, read_manifest, write_latents
from eddycast.data.mixture import Batches, MixedBatches, Mixture, training_batches
from eddycast.data.normalisation import Normalisation, statistics
from eddycast.data.opening import open_dataset
from eddycast.data.output import check_output, grid_of, read, to_xarray, write
from eddycast.data.splits import make_splits
from eddycast.data.static import StaticFields
from eddycast.data.tiles import in_units, tile
from eddycast.data.well_writer import validate_well, write_well
from eddycast.data.windows import WindowBatches

__all__ = [
    "Batches",
    "CalendarClock",
    "Clock",
    "Dataset",
    "Family",
    "Field",
    "Initial",
    "MixedBatches",
    "Mixture",
    "Normalisation",
    "Piece",
    "PlainClock",
    "Rarity",
    "Segment",
    "StaticFields",
    "WindowBatches",
    "by_parameters",
    "check_output",
    "coarse_grid",
    "describe",
    "from_arrays",
    "grid_of",
    "in_units",
    "inspect",
    "is_family",
    "make_splits",
    "open_dataset",
    "open_family",
    "open_latents",
    "piece_trajectories",
    "read",
    "read_manifest",
    "same_parameters",
    "statistics",
    "tile",
    "to_xarray",
    "training_batches",
    "validate_well",
    "with_parameters",
    "without_parameters",
    "write",
    "write_latents",
    "write_well",
]
