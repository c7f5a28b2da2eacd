"""Noise schedules: time in [0, 1] to the scales of x_t = alpha x + sigma noise, and back from the log SNR to time.

All keep alpha and sigma positive at either end, so that neither sigma / alpha at time 1 nor a division by sigma at
time 0 breaks. Samplers step from the last time to sigma = 0 by themselves (see `sampling`). The log SNR is
log(alpha^2 / sigma^2), twice the lambda = log(alpha / sigma) of the DPM-Solver papers; it falls with time.

Four schedules are called cosine in the literature. They differ in what the cosine is, hence in the noise that a time means:

    name               alpha          sigma^2                   alpha at time 1   sigma at time 0
    "cosine"           cos(angle)     1 - alpha^2               alpha_min         sigma_min
    "cosine-pdediff"   cos(w t)       1 - alpha^2 + eta^2       sqrt(eta)         eta
    "cosine-sda"       cos(w t)^2     1 - alpha^2 + eta^2       eta               eta
    "cosine-ddpm"      about cos(v)   1 - alpha^2 + eta^2       alpha_min         eta

with w = acos(sqrt(eta)) and v = (t + 0.008) / 1.008 pi / 2. Networks that are told the time, and guidance strengths that are tuned
against sigma / alpha, do not carry over from one to another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from eddycast.diffusion.protocols import InvertibleSchedule, Schedule


def _check_ends(alpha_min: float, sigma_min: float) -> None:
    if not (0 < alpha_min < 0.5 and 0 < sigma_min < 0.5):
        raise ValueError(
            f"alpha_min and sigma_min must lie in (0, 0.5), got {alpha_min} and {sigma_min}: they keep the ends of the "
            "schedule away from a division by zero; 1e-3 is a good value."
        )


def _check_eta(eta: float) -> None:
    if not 0 < eta < 0.5:
        raise ValueError(
            f"eta must lie in (0, 0.5), got {eta}: it keeps the ends of the schedule away from a division by zero; "
            "published is 1e-3."
        )


@dataclass(frozen=True)
class RectifiedSchedule:
    """Straight paths (flow matching): alpha = 1 - tau, sigma = tau, tau linear in time from sigma_min to 1 - alpha_min.

    alpha + sigma = 1 at every time. With time uniform in [0, 1], log(sigma / alpha) has a logistic law.
    Source: arXiv:2209.03003, 2210.02747; clamped ends as in arXiv:2507.02608, whose sigma / alpha spans 1e-3 to 1e3.
    """

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _check_ends(self.alpha_min, self.sigma_min)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        span = 1 - self.alpha_min - self.sigma_min
        return self.alpha_min + span * (1 - time), self.sigma_min + span * time

    def time_at(self, log_snr: Tensor) -> Tensor:
        return (torch.sigmoid(-log_snr / 2) - self.sigma_min) / (1 - self.alpha_min - self.sigma_min)


@dataclass(frozen=True)
class CosineSchedule:
    """Variance preserving: alpha = cos(a), sigma = sin(a), with an angle a linear in time.

    The angle goes from asin(sigma_min) to acos(alpha_min); alpha^2 + sigma^2 = 1 at every time. Our own ends; for those of
    published models see `PdediffCosineSchedule` and `SDACosineSchedule`.
    Source: arXiv:2102.09672, 2202.00512.
    """

    alpha_min: float = 1e-3
    sigma_min: float = 1e-3

    def __post_init__(self) -> None:
        _check_ends(self.alpha_min, self.sigma_min)

    def _ends(self) -> tuple[float, float]:
        return math.asin(self.sigma_min), math.acos(self.alpha_min)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self._ends()
        angle = start + (stop - start) * time
        return torch.cos(angle), torch.sin(angle)

    def time_at(self, log_snr: Tensor) -> Tensor:
        start, stop = self._ends()
        return (torch.atan(torch.exp(-log_snr / 2)) - start) / (stop - start)


@dataclass(frozen=True)
class PdediffCosineSchedule:
    """Cosine of conditional diffusion for PDEs: alpha = cos(w t), sigma^2 = 1 - alpha^2 + eta^2, w = acos(sqrt(eta)).

    alpha runs from 1 to sqrt(eta) = 0.032, sigma from eta = 1e-3 to 1: at time 1 a trace of the data is left, while the
    published models start from N(0, 1) all the same, as `starting_noise` does (to 5e-7). sigma^2 + alpha^2 = 1 + eta^2; the
    DPM-Solver of the published code leaves out that eta^2.
    Source: arXiv:2410.16415 and its code (`pdediff/sde.py`, "cos", where alpha of the code is our alpha^2).
    """

    eta: float = 1e-3

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        angle = math.acos(math.sqrt(self.eta)) * time
        # sin^2, not 1 - cos^2: in single precision the difference would lose sigma near time 0.
        return torch.cos(angle), torch.sqrt(torch.sin(angle) ** 2 + self.eta**2)

    def time_at(self, log_snr: Tensor) -> Tensor:
        alpha, rest = _invert_total(log_snr, self.eta)
        return torch.atan2(torch.sqrt(rest), alpha) / math.acos(math.sqrt(self.eta))


@dataclass(frozen=True)
class SDACosineSchedule:
    """Cosine of score-based data assimilation: alpha = cos(w t)^2, sigma^2 = 1 - alpha^2 + eta^2, w = acos(sqrt(eta)).

    alpha runs from 1 to eta = 1e-3, sigma from eta to 1: at the same time it is noisier than `PdediffCosineSchedule`.
    Source: arXiv:2306.10574 and its code (`sda/score.py`, "cos").
    """

    eta: float = 1e-3

    def __post_init__(self) -> None:
        _check_eta(self.eta)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        angle = math.acos(math.sqrt(self.eta)) * time
        alpha = torch.cos(angle) ** 2
        return alpha, torch.sqrt(torch.sin(angle) ** 2 * (1 + alpha) + self.eta**2)  # sin^2 (1 + cos^2) = 1 - cos^4

    def time_at(self, log_snr: Tensor) -> Tensor:
        alpha, rest = _invert_total(log_snr, self.eta)
        return torch.atan2(torch.sqrt(rest / (1 + alpha)), torch.sqrt(alpha)) / math.acos(math.sqrt(self.eta))


@dataclass(frozen=True)
class DDPMCosineSchedule:
    """Cosine of improved DDPM: alpha^2 = (1 - a) f(t) / f(0) + a, f = cos^2((t + s) / (1 + s) pi / 2), sigma^2 = 1 - alpha^2 + eta^2.

    Published are the steps k / N of f(t) / f(0), the last of which would be pure noise and is cut by beta <= 0.999: at alpha = 0.0097 with
    N = 5 steps, at 5e-5 with 1000. Here a = alpha_min^2 does that, at any number of steps; elsewhere alpha^2 is the published one to 1e-4.
    Where a network says the noise its error is divided by alpha: few steps from a small alpha amplify it.
    Source: arXiv:2102.09672, eq. 17.

    Args:
        offset: s, which keeps the first steps from being too small to matter.
        alpha_min: alpha at time 1.
        eta: sigma at time 0.
    """

    offset: float = 0.008
    alpha_min: float = 0.01
    eta: float = 1e-3

    def __post_init__(self) -> None:
        _check_ends(self.alpha_min, self.eta)
        if not 0 <= self.offset < 1:
            raise ValueError(f"offset must lie in [0, 1), got {self.offset}.")

    def _ends(self) -> tuple[float, float]:
        """The angle at time 0, and how far it goes to pi / 2."""
        start = self.offset / (1 + self.offset) * math.pi / 2
        return start, math.pi / 2 - start

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        start, span = self._ends()
        # sin(b - a) sin(b + a) = cos^2 a - cos^2 b, without loss of digits near time 0
        lost = torch.sin(span * time) * torch.sin(2 * start + span * time) / math.cos(start) ** 2
        kept = torch.cos(start + span * time) ** 2 / math.cos(start) ** 2
        a = self.alpha_min**2
        return torch.sqrt((1 - a) * kept + a), torch.sqrt((1 - a) * lost + self.eta**2)

    def time_at(self, log_snr: Tensor) -> Tensor:
        start, span = self._ends()
        alpha, rest = _invert_total(log_snr, self.eta)
        a, cosine = self.alpha_min**2, math.cos(start)
        kept = ((alpha**2 - a) / (1 - a)).clamp_min(0.0)
        sine = torch.sqrt(math.sin(start) ** 2 + cosine**2 * (rest / (1 - a)))
        return (torch.atan2(sine, cosine * torch.sqrt(kept)) - start) / span


def _invert_total(log_snr: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """alpha and 1 - alpha^2 at a log SNR where alpha^2 + sigma^2 = 1 + eta^2, without loss of digits near alpha = 1."""
    signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
    return torch.sqrt((1 + eta**2) * signal), (noise - eta**2 * signal).clamp(min=0.0)


@dataclass(frozen=True)
class LinearSchedule:
    """Variance preserving, noise rate beta linear in time: alpha = exp(-B / 2), B = integral of beta, sigma^2 = 1 - alpha^2 + eta^2.

        B(t) = beta_min t + (beta_max - beta_min) t^2 / 2

    The defaults are the continuous form of the discrete steps of autoregressive conditional diffusion (ACDM), beta from 1e-4 to 0.02
    times 500 / R over R steps, so that B(1) = 5.03 whatever R: alpha at time 1 is 0.081, and a trace of the data is left. (With R = 20
    the product over discrete steps gives 0.045.)

    With beta_min = 0.1 and beta_max = 20 ("linear-ddpm") it is that of the 1000 steps of DDPM, beta from 1e-4 to 0.02: step k at time
    k / 1000 has sigma^2 within 11 % (k = 1; 0.8 % from k = 100 on) and alpha within 3.5 % (k = 1000, where both are below 0.007) of
    the product over discrete steps.
    Sources: arXiv:2309.01745, section 3 and code; arXiv:2006.11239, section 4; continuous form: arXiv:2011.13456, eq. 32 and 33.
    """

    beta_min: float = 0.05
    beta_max: float = 10.0
    eta: float = 1e-3

    def __post_init__(self) -> None:
        _check_eta(self.eta)
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"0 < beta_min <= beta_max is needed, got {self.beta_min} and {self.beta_max}.")

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        total = self.beta_min * time + (self.beta_max - self.beta_min) * time**2 / 2
        return torch.exp(-total / 2), torch.sqrt(-torch.expm1(-total) + self.eta**2)

    def time_at(self, log_snr: Tensor) -> Tensor:
        alpha, rest = _invert_total(log_snr, self.eta)
        # where little noise is left, log1p of the rest keeps the digits that 1 - alpha^2 has lost
        total = torch.where(rest < 0.5, -torch.log1p(-rest), -2 * torch.log(alpha)).clamp_max(1e30)
        slope = self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * total))


@dataclass(frozen=True)
class EDMSchedule:
    """Variance exploding: alpha = 1, sigma^(1/rho) linear in time from sigma_min to sigma_max.

        sigma(t) = (sigma_min^(1/rho) + t (sigma_max^(1/rho) - sigma_min^(1/rho)))^rho

    Equidistant times are the published sampling grid; with large rho the steps shorten towards clean data. States at time 1
    are of the size of sigma_max. Published data had standard deviation 0.5, ours 1: the same sigma means less noise here.
    Source: arXiv:2206.00364, eq. 5 and table 1.

    Args:
        sigma_min, sigma_max: Noise at times 0 and 1.
        rho: Exponent, 1 or more; 1 makes sigma linear in time.
    """

    sigma_min: float = 2e-3
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and 1 <= self.rho < math.inf):
            raise ValueError(
                f"0 < sigma_min < sigma_max and rho >= 1 are needed, got sigma_min = {self.sigma_min}, sigma_max = "
                f"{self.sigma_max} and rho = {self.rho}: sigma_min = 0 would lead to a division by zero."
            )

    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self._ends()
        return torch.ones_like(time), (start + (stop - start) * time) ** self.rho

    def time_at(self, log_snr: Tensor) -> Tensor:
        start, stop = self._ends()
        return (torch.exp(-log_snr / (2 * self.rho)) - start) / (stop - start)


@dataclass(frozen=True)
class LogLogitSchedule:
    """Variance exploding: alpha = 1, log sigma = logit(tau), tau linear in time, so that sigma = tau / (1 - tau).

    The rectified schedule with the same ends, divided by its alpha: trajectories of the probability flow are the same up to that
    factor, and so is what a sampler makes of them. States at time 1 are of the size of sigma_max.
    Source: arXiv:2507.02608 and its code.
    """

    sigma_min: float = 1e-3
    sigma_max: float = 1e3

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"0 < sigma_min < sigma_max is needed, got {self.sigma_min} and {self.sigma_max}: sigma_min = 0 would lead to a division "
                "by zero."
            )

    def _ends(self) -> tuple[float, float]:
        """tau at time 0, and 1 - tau at time 1."""
        return self.sigma_min / (1 + self.sigma_min), 1 / (1 + self.sigma_max)

    def __call__(self, time: Tensor) -> tuple[Tensor, Tensor]:
        start, rest = self._ends()
        span = 1 - start - rest
        return torch.ones_like(time), (start + span * time) / (rest + span * (1 - time))

    def time_at(self, log_snr: Tensor) -> Tensor:
        start, rest = self._ends()
        return (torch.sigmoid(-log_snr / 2) - start) / (1 - start - rest)


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "rectified": RectifiedSchedule,
    "cosine": CosineSchedule,
    "cosine-pdediff": PdediffCosineSchedule,
    "cosine-sda": SDACosineSchedule,
    "cosine-ddpm": DDPMCosineSchedule,
    "linear": LinearSchedule,
    "linear-ddpm": partial(LinearSchedule, beta_min=0.1, beta_max=20.0),
    "edm": EDMSchedule,
    "log-logit": LogLogitSchedule,
}


def scales(schedule: Schedule, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at `time`, () or (*batch), shaped to multiply `like` (*batch, ...)."""
    alpha, sigma = schedule(time)
    if time.ndim == 0:
        return alpha, sigma
    shape = (*time.shape, *(1,) * (like.ndim - time.ndim))
    return alpha.reshape(shape), sigma.reshape(shape)


def log_snr(schedule: Schedule, time: Tensor) -> Tensor:
    """log(alpha^2 / sigma^2) at `time`, of the same shape; falls with time."""
    alpha, sigma = schedule(time)
    return 2 * (torch.log(alpha) - torch.log(sigma))


def time_at_log_snr(schedule: Schedule, values: Tensor) -> Tensor:
    """Times in [0, 1] at which the log SNR has these values; beyond the schedule's ends, the ends themselves.

    Analytic, in the dtype of `values`, where the schedule has `time_at` (`InvertibleSchedule`). For any other schedule by
    bisection in float64 on the CPU, to the last digit wherever the log SNR falls with time; the result then returns to the
    dtype and device of `values`.

    Args:
        values: Any shape; infinite values are allowed.

    Returns: times, the shape of values.
    """
    if isinstance(schedule, InvertibleSchedule):
        return schedule.time_at(values).clamp(0.0, 1.0)
    wanted = values.detach().to("cpu", torch.float64)
    low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
    wanted = wanted.clamp(log_snr(schedule, high), log_snr(schedule, low))
    for _ in range(60):
        middle = (low + high) / 2
        noisier = log_snr(schedule, middle) < wanted
        low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
    return ((low + high) / 2).to(values)
