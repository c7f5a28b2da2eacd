"""Dynamics-informed diffusion.

To add noise for the interpolator: a name in `config.InterpolatorKind`, its loss and its state in `Interpolator`. To add a sampler: a
function in `sampling.STEPS`. To add a schedule: a line in `schedule`.
"""

from __future__ import annotations

from eddycast.emulators.dyffusion.config import DYffusionConfig, InterpolatorConfig
from eddycast.emulators.dyffusion.interpolator import Interpolator
from eddycast.emulators.dyffusion.model import DYffusion
from eddycast.emulators.dyffusion.sampling import sample_window
from eddycast.emulators.dyffusion.schedule import sampling_times, training_times

__all__ = [
    "DYffusion",
    "DYffusionConfig",
    "Interpolator",
    "InterpolatorConfig",
    "sample_window",
    "sampling_times",
    "training_times",
]
