"""Assimilation: filters, smoothers and guided diffusion, which turn observations into posterior ensembles."""

from eddycast.assimilation.etkf import ETKFOptions, ensemble_kalman, etkf_weights, transform_ensemble
from eddycast.assimilation.guided import guided
from eddycast.assimilation.guided_options import (
    DPSOptions,
    GuidedOptions,
    MMPSOptions,
    PiGDMOptions,
    SDAOptions,
    VideoDiffusionOptions,
)
from eddycast.assimilation.interpolation import InterpolationOptions
from eddycast.assimilation.methods import METHODS, assimilate, describe_methods, get_method
from eddycast.assimilation.online import OnlineTask, assimilate_online
from eddycast.assimilation.protocols import ForecastModel, Method, Mode
from eddycast.assimilation.representation import enlarged, is_lossy, representation_of, representation_std

__all__ = [
    "METHODS",
    "DPSOptions",
    "ETKFOptions",
    "ForecastModel",
    "GuidedOptions",
    "InterpolationOptions",
    "MMPSOptions",
    "Method",
    "Mode",
    "OnlineTask",
    "PiGDMOptions",
    "SDAOptions",
    "VideoDiffusionOptions",
    "assimilate",
    "assimilate_online",
    "describe_methods",
    "enlarged",
    "ensemble_kalman",
    "etkf_weights",
    "get_method",
    "guided",
    "is_lossy",
    "representation_of",
    "representation_std",
    "transform_ensemble",
]
