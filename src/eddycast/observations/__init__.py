"""Observations: operators on physical states, observed values with their noise, and the files that hold them."""

from eddycast.observations.columns import table_from_frame
from eddycast.observations.derived import FUNCTIONS, Derived
from eddycast.observations.gridded import is_gridded, observations_from_grid
from eddycast.observations.measurement import EntryOperator, Measurement, ObservationSet
from eddycast.observations.observation_table import ObservationTable, observation_table
from eddycast.observations.observations import KINDS, Kind, Observations
from eddycast.observations.observe import fixed_sensors, observe, random_points
from eddycast.observations.operators import CoarsenOperator, MaskOperator, ObservationOperator, PointwiseOperator
from eddycast.observations.row_results import rows_of
from eddycast.observations.rows import REASONS, Rows
from eddycast.observations.stencils import RULES, Rule

__all__ = [
    "FUNCTIONS",
    "KINDS",
    "REASONS",
    "RULES",
    "CoarsenOperator",
    "Derived",
    "EntryOperator",
    "Kind",
    "MaskOperator",
    "Measurement",
    "ObservationOperator",
    "ObservationSet",
    "ObservationTable",
    "Observations",
    "PointwiseOperator",
    "Rows",
    "Rule",
    "fixed_sensors",
    "is_gridded",
    "observation_table",
    "observations_from_grid",
    "observe",
    "random_points",
    "rows_of",
    "table_from_frame",
]
