"""One short loop for every family, with exact resume."""

from eddycast.training.checkpoint import Position
from eddycast.training.files import SCHEMA_VERSION, RunDirectory, read_tensors, write_tensors
from eddycast.training.lock import exclusive
from eddycast.training.log import collapsed_stages
from eddycast.training.loop import FREE_SETTINGS, Training
from eddycast.training.progress import ProgressBar, SilentObserver, TrainingObserver
from eddycast.training.settings import TrainingSettings

__all__ = [
    "FREE_SETTINGS",
    "SCHEMA_VERSION",
    "Position",
    "ProgressBar",
    "RunDirectory",
    "SilentObserver",
    "Training",
    "TrainingObserver",
    "TrainingSettings",
    "collapsed_stages",
    "exclusive",
    "read_tensors",
    "write_tensors",
]
