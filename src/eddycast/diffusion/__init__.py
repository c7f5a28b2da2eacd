"""Diffusion: schedules, time grids and laws, preconditioned denoisers and their loss, samplers."""

from eddycast.diffusion.adams_bashforth import AdamsBashforthSampler, NoiseAdamsBashforthSampler
from eddycast.diffusion.denoiser import (
    PARAMETRISATIONS,
    PreconditionedDenoiser,
    denoising_loss,
    marginal_std,
    precondition,
)
from eddycast.diffusion.deterministic import DDIMSampler, HeunSampler, exponential_integrator
from eddycast.diffusion.dpm_solver import DPMSolverSampler, StochasticDPMSolverSampler
from eddycast.diffusion.grids import GRIDS
from eddycast.diffusion.langevin import STEP_LAWS, PredictorCorrectorSampler
from eddycast.diffusion.protocols import Denoiser, InvertibleSchedule, Schedule
from eddycast.diffusion.registry import SAMPLERS, make_sampler
from eddycast.diffusion.sampling import Sampler, starting_noise
from eddycast.diffusion.schedules import (
    SCHEDULES,
    CosineSchedule,
    DDPMCosineSchedule,
    EDMSchedule,
    LinearSchedule,
    LogLogitSchedule,
    PdediffCosineSchedule,
    RectifiedSchedule,
    SDACosineSchedule,
    log_snr,
    time_at_log_snr,
)
from eddycast.diffusion.stochastic import AncestralSampler, StochasticHeunSampler
from eddycast.diffusion.time_laws import TIME_LAWS

__all__ = [
    "GRIDS",
    "PARAMETRISATIONS",
    "SAMPLERS",
    "SCHEDULES",
    "STEP_LAWS",
    "TIME_LAWS",
    "AdamsBashforthSampler",
    "AncestralSampler",
    "CosineSchedule",
    "DDIMSampler",
    "DDPMCosineSchedule",
    "DPMSolverSampler",
    "Denoiser",
    "EDMSchedule",
    "HeunSampler",
    "InvertibleSchedule",
    "LinearSchedule",
    "LogLogitSchedule",
    "NoiseAdamsBashforthSampler",
    "PdediffCosineSchedule",
    "PreconditionedDenoiser",
    "PredictorCorrectorSampler",
    "RectifiedSchedule",
    "SDACosineSchedule",
    "Sampler",
    "Schedule",
    "StochasticDPMSolverSampler",
    "StochasticHeunSampler",
    "denoising_loss",
    "exponential_integrator",
    "log_snr",
    "make_sampler",
    "marginal_std",
    "precondition",
    "starting_noise",
    "time_at_log_snr",
]
