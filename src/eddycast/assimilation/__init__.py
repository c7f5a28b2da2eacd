"""Assimilation: filters, smoothers and guided diffusion, which turn observations into posterior ensembles."""

from eddycast.assimilation.cycle import Cycle, DivergenceWarning
from eddycast.assimilation.daps import DAPSOptions
from eddycast.assimilation.diagnostics import (
    Agreement,
    Desroziers,
    Diagnostics,
    agreement,
    desroziers,
    divergence_reason,
    innovation_chi_square,
    observed_ranks,
    observed_spread_skill,
    seen_by,
    with_errors,
)
from eddycast.assimilation.ensemble_options import (
    EnKFOptions,
    EnsembleOptions,
    EnsembleSmootherOptions,
    ETKFOptions,
    LETKFOptions,
)
from eddycast.assimilation.etkf import ensemble_cycle, ensemble_kalman
from eddycast.assimilation.findings import gather_findings
from eddycast.assimilation.guided import guided
from eddycast.assimilation.guided_options import (
    DPSOptions,
    GuidedOptions,
    MMPSOptions,
    PiGDMOptions,
    SDAOptions,
    TMPDOptions,
    VideoDiffusionOptions,
)
from eddycast.assimilation.interpolation import InterpolationOptions
from eddycast.assimilation.methods import METHODS, assimilate, describe_methods, get_method, start_cycle
from eddycast.assimilation.online import OnlineTask, assimilate_online
from eddycast.assimilation.protocols import ForecastModel, Method, Mode
from eddycast.assimilation.representation import enlarged, is_lossy, representation_of, representation_std
from eddycast.assimilation.static_covariance import SpectralCovariance, spectral_covariance
from eddycast.assimilation.strong_constraint import FourDVarOptions, Minimisation, WindowProblem
from eddycast.assimilation.twisted import TwistedOptions
from eddycast.assimilation.updates import enkf_weights, etkf_weights, transform_ensemble
from eddycast.assimilation.variational import ThreeDVarOptions, static_update

__all__ = [
    "METHODS",
    "Agreement",
    "Cycle",
    "DAPSOptions",
    "DPSOptions",
    "Desroziers",
    "Diagnostics",
    "DivergenceWarning",
    "ETKFOptions",
    "EnKFOptions",
    "EnsembleOptions",
    "EnsembleSmootherOptions",
    "ForecastModel",
    "FourDVarOptions",
    "GuidedOptions",
    "InterpolationOptions",
    "LETKFOptions",
    "MMPSOptions",
    "Method",
    "Minimisation",
    "Mode",
    "OnlineTask",
    "PiGDMOptions",
    "SDAOptions",
    "SpectralCovariance",
    "TMPDOptions",
    "ThreeDVarOptions",
    "TwistedOptions",
    "VideoDiffusionOptions",
    "WindowProblem",
    "agreement",
    "assimilate",
    "assimilate_online",
    "describe_methods",
    "desroziers",
    "divergence_reason",
    "enkf_weights",
    "enlarged",
    "ensemble_cycle",
    "ensemble_kalman",
    "etkf_weights",
    "gather_findings",
    "get_method",
    "guided",
    "innovation_chi_square",
    "is_lossy",
    "observed_ranks",
    "observed_spread_skill",
    "representation_of",
    "representation_std",
    "seen_by",
    "spectral_covariance",
    "start_cycle",
    "static_update",
    "transform_ensemble",
    "with_errors",
]
