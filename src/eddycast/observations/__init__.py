"""Observations: operators on physical states, observed values with their noise, and the files that hold them."""

from eddycast.observations.measurement import EntryOperator, Measurement, ObservationSet
from eddycast.observations.observations import KINDS, Kind, Observations
from eddycast.observations.observe import fixed_sensors, observe, random_points
from eddycast.observations.operators import CoarsenOperator, MaskOperator, ObservationOperator, PointwiseOperator

__all__ = [
    "KINDS",
    "CoarsenOperator",
    "EntryOperator",
    "Kind",
    "MaskOperator",
    "Measurement",
    "ObservationOperator",
    "ObservationSet",
    "Observations",
    "PointwiseOperator",
    "fixed_sensors",
    "observe",
    "random_points",
]
