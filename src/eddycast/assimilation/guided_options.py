"""Settings of guided diffusion: what all guidance rules share, and what each adds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from eddycast.diffusion import STEP_LAWS, RectifiedSchedule, Sampler, Schedule, make_sampler
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood, Guidance, make_guidance

Rollout = Literal["all-at-once", "autoregressive"]


@dataclass(frozen=True)
class GuidedOptions:
    """Settings that all guidance rules share; those of the rule itself stand in the class of each.

    Args:
        jacobian: Guide through the network; False keeps to what is observed and needs no pass back.
        sampler: A key of `diffusion.SAMPLERS`; fresh noise repairs what guidance gets wrong. None: `ancestral`, or
            `predictor-corrector` where there are corrections.
        num_steps: Its steps, many more than a forecast needs.
        grid: How they are spread, a key of `diffusion.GRIDS`; None for the sampler's own.
        corrections: Langevin steps after each step; they carry what is observed along a series longer than the window.
        amplitude, step_law: Their length, see `diffusion.PredictorCorrectorSampler`.
        rollout: How a series longer than the window is covered; see `guided`.
        stride: Distance of the windows of `all-at-once`; None is a quarter of the window, 1 is most accurate.
        overlap: States that each window of `autoregressive` shares with the one before; None for the model's own.
        previous: How those enter a window. `input`: known to the network (or put in by the sampler, for a joint model with
            replacement). `guidance`: by a likelihood, to a model that knows nothing. None: as the model was made for.
        std: Error of states that enter by a likelihood, in model space; None for the model's own, or 0.01.
        given: First states that are completely observed and taken as they are. None: 0, or for a model that cannot
            begin with nothing known, as many as it continues.
        observed: `guidance`, or `none`, with which the observations are not used but for the states that are `given`.
        representation: Add what an autoencoder loses, as the operator sees it, to the error of the observations (see
            `assimilation.representation`); nothing where the model has no autoencoder.
    """

    rule: ClassVar[str] = ""

    jacobian: bool = True
    sampler: str | None = None
    num_steps: int = 64
    grid: str | None = None
    corrections: int = 0
    amplitude: float = 0.25
    step_law: str = "sigma"
    rollout: Rollout = "all-at-once"
    stride: int | None = None
    overlap: int | None = None
    previous: Literal["input", "guidance"] | None = None
    std: float | None = None
    given: int | None = None
    observed: Literal["guidance", "none"] = "guidance"
    representation: bool = True

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.corrections < 0 or (self.stride is not None and self.stride < 1):
            raise InputError("num_steps and stride must be at least 1, corrections at least 0.")
        if self.sampler is not None and (self.corrections > 0) != (self.sampler == "predictor-corrector"):
            raise InputError(
                f"corrections and the sampler predictor-corrector belong together, got {self.corrections} with "
                f"{self.sampler!r}: leave the sampler out."
            )
        for name, known in (
            ("rollout", ("all-at-once", "autoregressive")),
            ("previous", (None, "input", "guidance")),
            ("observed", ("guidance", "none")),
            ("step_law", tuple(STEP_LAWS)),
        ):
            if getattr(self, name) not in known:
                names = ", ".join(filter(None, known))
                raise InputError(f"{name} must be one of {names}, got {getattr(self, name)!r}.")
        if not 0 < self.amplitude < 2:
            raise InputError(f"amplitude must lie in (0, 2), got {self.amplitude:g}: published are 0.25 to 1.")
        if self.std is not None and not self.std > 0:
            raise InputError(f"std must be positive, got {self.std:g}: 0.01 is published.")
        if self.given is not None and self.given < 0:
            raise InputError(f"given counts states, got {self.given}.")
        self.guidance(())
        self.make_sampler(RectifiedSchedule())

    def guidance(self, likelihoods: tuple[GaussianLikelihood, ...]) -> Guidance:
        """The rule with these settings. Raises: InputError for one that it refuses."""
        shared = {field.name for field in fields(GuidedOptions)} - {"jacobian"}
        own: dict[str, Any] = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in shared
        }
        return make_guidance(self.rule, likelihoods, **own)

    def make_sampler(self, schedule: Schedule) -> Sampler:
        """The sampler on that schedule. Raises: InputError for a sampler or a grid that does not exist."""
        name = self.sampler or ("predictor-corrector" if self.corrections else "ancestral")
        langevin = {"num_corrections": self.corrections, "amplitude": self.amplitude, "step_law": self.step_law}
        more = langevin if name == "predictor-corrector" else {}
        return make_sampler(name, schedule, self.num_steps, self.grid, **more)


@dataclass(frozen=True)
class SDAOptions(GuidedOptions):
    """Settings of SDA guidance.

    Args:
        gamma: Width of the guess of what is not known yet; smaller follows the observations more closely, too small is
            unstable.
        Others as in `GuidedOptions`.
    """

    rule: ClassVar[str] = "sda"

    gamma: float = 0.03


@dataclass(frozen=True)
class DPSOptions(GuidedOptions):
    """Settings of DPS guidance.

    Args:
        zeta: Pull of the observations; to be tuned for each number of them.
        Others as in `GuidedOptions`. With previous states by guidance, their misfit shares the norm of the others.
    """

    rule: ClassVar[str] = "dps"

    zeta: float = 20.0


@dataclass(frozen=True)
class VideoDiffusionOptions(GuidedOptions):
    """Settings of the guidance of video diffusion, which takes observations as free of error.

    Args:
        gamma: 1 / w_r of the source; smaller follows the observations more closely.
        Others as in `GuidedOptions`.
    """

    rule: ClassVar[str] = "video-diffusion"

    gamma: float = 1.0


@dataclass(frozen=True)
class PiGDMOptions(GuidedOptions):
    """Settings of pseudoinverse guidance, which has no number of its own; see `GuidedOptions`."""

    rule: ClassVar[str] = "pigdm"


@dataclass(frozen=True)
class MMPSOptions(GuidedOptions):
    """Settings of moment-matching guidance.

    Args:
        iterations: Krylov iterations at most; 1 is published, a few more are worth it where observations are dense.
        solver: `gmres`, or `cg`, which stops at negative curvature.
        Others as in `GuidedOptions`.
    """

    rule: ClassVar[str] = "mmps"

    iterations: int = 3
    solver: Literal["gmres", "cg"] = "gmres"
