"""Guidance: a denoiser of states becomes one of states given observations."""

from eddycast.guidance.likelihood import GaussianLikelihood
from eddycast.guidance.mmps import MMPSGuidance
from eddycast.guidance.sda import SDAGuidance, StationaryGamma

__all__ = ["GaussianLikelihood", "MMPSGuidance", "SDAGuidance", "StationaryGamma"]
