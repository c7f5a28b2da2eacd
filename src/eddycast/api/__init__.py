"""The verbs: one function each, on paths or objects. The command line calls these, and so does a notebook."""

from eddycast.api.data import inspect, observe, one_of, open_dataset, systems
from eddycast.api.demo import demo
from eddycast.api.forecaster import Forecaster, load
from eddycast.api.reduction import zonal_mean
from eddycast.api.results import analyse_latents, compare, evaluate, plot, report
from eddycast.api.runs import assimilate, encode, forecast, methods, recipes, reconstruct, train
from eddycast.api.simulation import simulate
from eddycast.api.slurm import batch_script
from eddycast.api.stations import read_observations
from eddycast.api.statistics import events, statistics
from eddycast.api.tiles import tile
from eddycast.data import Dataset, Family
from eddycast.evaluation import Scores
from eddycast.observations import Observations, ObservationTable, rows_of
from eddycast.simulators import Values

__all__ = [
    "Dataset",
    "Family",
    "Forecaster",
    "ObservationTable",
    "Observations",
    "Scores",
    "Values",
    "analyse_latents",
    "assimilate",
    "batch_script",
    "compare",
    "demo",
    "encode",
    "evaluate",
    "events",
    "forecast",
    "inspect",
    "load",
    "methods",
    "observe",
    "one_of",
    "open_dataset",
    "plot",
    "read_observations",
    "recipes",
    "reconstruct",
    "report",
    "rows_of",
    "simulate",
    "statistics",
    "systems",
    "tile",
    "train",
    "zonal_mean",
]
