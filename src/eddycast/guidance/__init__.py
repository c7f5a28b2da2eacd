"""Guidance: a denoiser of states becomes one of states given observations."""

from eddycast.guidance.covariance import Covariance, StationaryCovariance, StationaryGamma, WhiteCovariance
from eddycast.guidance.dps import DPSGuidance
from eddycast.guidance.likelihood import GaussianLikelihood
from eddycast.guidance.mmps import MMPSGuidance
from eddycast.guidance.posterior import Guidance
from eddycast.guidance.reconstruction import PiGDMGuidance, SDAGuidance, TMPDGuidance, VideoDiffusionGuidance
from eddycast.guidance.registry import GUIDANCE, make_guidance

__all__ = [
    "GUIDANCE",
    "Covariance",
    "DPSGuidance",
    "GaussianLikelihood",
    "Guidance",
    "MMPSGuidance",
    "PiGDMGuidance",
    "SDAGuidance",
    "StationaryCovariance",
    "StationaryGamma",
    "TMPDGuidance",
    "VideoDiffusionGuidance",
    "WhiteCovariance",
    "make_guidance",
]
