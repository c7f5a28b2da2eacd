"""Assimilation: filters, smoothers and guided diffusion, which turn observations into posterior ensembles."""

from eddycast.assimilation.etkf import ETKFOptions, ensemble_kalman, etkf_weights, transform_ensemble
from eddycast.assimilation.guided import MMPSOptions, SDAOptions, guided_analysis
from eddycast.assimilation.interpolation import InterpolationOptions
from eddycast.assimilation.methods import METHODS, assimilate, describe_methods, get_method
from eddycast.assimilation.protocols import ForecastModel, Method, Mode

__all__ = [
    "METHODS",
    "ETKFOptions",
    "ForecastModel",
    "InterpolationOptions",
    "MMPSOptions",
    "Method",
    "Mode",
    "SDAOptions",
    "assimilate",
    "describe_methods",
    "ensemble_kalman",
    "etkf_weights",
    "get_method",
    "guided_analysis",
    "transform_ensemble",
]
