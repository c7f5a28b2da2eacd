"""Diffusion: schedules, preconditioned denoisers and their loss, samplers."""

from eddycast.diffusion.denoiser import (
    KnownFramesDenoiser,
    PreconditionedDenoiser,
    denoising_loss,
    marginal_std,
    precondition,
)
from eddycast.diffusion.deterministic import AdamsBashforthSampler, DDIMSampler, HeunSampler
from eddycast.diffusion.protocols import Denoiser, Schedule
from eddycast.diffusion.registry import SAMPLERS, make_sampler
from eddycast.diffusion.sampling import Sampler, starting_noise
from eddycast.diffusion.schedules import SCHEDULES, CosineSchedule, RectifiedSchedule
from eddycast.diffusion.stochastic import AncestralSampler, PredictorCorrectorSampler

__all__ = [
    "SAMPLERS",
    "SCHEDULES",
    "AdamsBashforthSampler",
    "AncestralSampler",
    "CosineSchedule",
    "DDIMSampler",
    "Denoiser",
    "HeunSampler",
    "KnownFramesDenoiser",
    "PreconditionedDenoiser",
    "PredictorCorrectorSampler",
    "RectifiedSchedule",
    "Sampler",
    "Schedule",
    "denoising_loss",
    "make_sampler",
    "marginal_std",
    "precondition",
    "starting_noise",
]
