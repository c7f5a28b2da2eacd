"""Settings of guided diffusion: what all guidance rules share, and what each adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from eddycast.diffusion import STEP_LAWS, RectifiedSchedule, Sampler, Schedule, make_sampler
from eddycast.emulators import OpenWindow
from eddycast.errors import InputError
from eddycast.guidance import GaussianLikelihood, Guidance, make_guidance

Rollout = Literal["all-at-once", "autoregressive"]

# draw(site, step): standard normal numbers of the shape of x_1 at an address of their own for each member.
Draw = Callable[[str, int], Tensor]


class PosteriorSampler(Protocol):
    """The options of a method that samples a denoiser given observations: those of `WindowOptions`, and what it does with one window."""

    @property
    def together(self) -> bool: ...
    @property
    def rollout(self) -> Rollout: ...
    @property
    def stride(self) -> int | None: ...
    @property
    def overlap(self) -> int | None: ...
    @property
    def previous(self) -> Literal["input", "guidance"] | None: ...
    @property
    def std(self) -> float | None: ...
    @property
    def given(self) -> int | None: ...
    @property
    def observed(self) -> Literal["guidance", "none"]: ...

    def sample(
        self, window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], start: Tensor, draw: Draw, case: Tensor
    ) -> Tensor:
        """The variable that is diffused, given all likelihoods, from x_1; `case` (batch,) tells which members belong together."""
        ...


@dataclass(frozen=True)
class WindowOptions:
    """How a series is covered by windows and what enters them: what all methods share that sample a denoiser given observations.

    Args:
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

    together: ClassVar[bool] = False
    """Whether the members of a case depend on each other, and must be sampled in one batch."""

    rollout: Rollout = "all-at-once"
    stride: int | None = None
    overlap: int | None = None
    previous: Literal["input", "guidance"] | None = None
    std: float | None = None
    given: int | None = None
    observed: Literal["guidance", "none"] = "guidance"
    representation: bool = True

    def __post_init__(self) -> None:
        if self.stride is not None and self.stride < 1:
            raise InputError(f"stride must be at least 1, got {self.stride}.")
        for name, known in (
            ("rollout", ("all-at-once", "autoregressive")),
            ("previous", (None, "input", "guidance")),
            ("observed", ("guidance", "none")),
        ):
            check_choice(name, getattr(self, name), known)
        if self.std is not None and not self.std > 0:
            raise InputError(f"std must be positive, got {self.std:g}: 0.01 is published.")
        if self.given is not None and self.given < 0:
            raise InputError(f"given counts states, got {self.given}.")


def check_choice(name: str, value: Any, known: tuple[Any, ...]) -> None:
    """Raises: InputError for a value that is not known, with the known ones."""
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(filter(None, known))}, got {value!r}.")


@dataclass(frozen=True)
class GuidedOptions(WindowOptions):
    """Settings that all guidance rules share; those of the rule itself stand in the class of each.

    The default sampler was chosen where the posterior is known (`docs/guidance.md`): 64 ancestral steps leave 0.92 to 0.97 of the
    posterior's spread, since a step forgets the variance of x given x_t; the multistep one has 1.00 at the same cost. It keeps fresh
    noise, which repairs what a rough rule gets wrong: deterministic steps of second order do with 20 evaluations what it needs 32
    for where the rule is exact, and blow up with `sda` at published widths on clustered sensors.

    Args:
        jacobian: Guide through the network; False keeps to what is observed and needs no pass back.
        sampler: A key of `diffusion.SAMPLERS`. None: `sde-dpm-solver++`, or `predictor-corrector` where there are corrections;
            published are `ancestral` and `ddim`.
        num_steps: Its steps, many more than a forecast needs.
        grid: How they are spread, a key of `diffusion.GRIDS`; None for the sampler's own.
        corrections: Langevin steps after each step; they carry what is observed along a series longer than the window.
        amplitude, step_law: Their length, see `diffusion.PredictorCorrectorSampler`.
        Others as in `WindowOptions`.
    """

    rule: ClassVar[str] = ""

    jacobian: bool = True
    sampler: str | None = None
    num_steps: int = 64
    grid: str | None = None
    corrections: int = 0
    amplitude: float = 0.25
    step_law: str = "sigma"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1 or self.corrections < 0:
            raise InputError("num_steps must be at least 1, corrections at least 0.")
        if self.sampler is not None and (self.corrections > 0) != (self.sampler == "predictor-corrector"):
            raise InputError(
                f"corrections and the sampler predictor-corrector belong together, got {self.corrections} with "
                f"{self.sampler!r}: leave the sampler out."
            )
        check_choice("step_law", self.step_law, tuple(STEP_LAWS))
        if not 0 < self.amplitude < 2:
            raise InputError(f"amplitude must lie in (0, 2), got {self.amplitude:g}: published are 0.25 to 1.")
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
        name = self.sampler or ("predictor-corrector" if self.corrections else "sde-dpm-solver++")
        langevin = {"num_corrections": self.corrections, "amplitude": self.amplitude, "step_law": self.step_law}
        more = langevin if name == "predictor-corrector" else {}
        return make_sampler(name, schedule, self.num_steps, self.grid, **more)

    def sample(
        self, window: OpenWindow, likelihoods: tuple[GaussianLikelihood, ...], start: Tensor, draw: Draw, case: Tensor
    ) -> Tensor:
        """A sample of the window given the likelihoods, in the variable that is diffused; see `PosteriorSampler`."""
        denoiser = window.denoiser
        if likelihoods:
            denoiser = self.guidance(likelihoods)(denoiser, window.schedule, window.to_x)
        return self.make_sampler(window.schedule)(denoiser, start, noise=lambda step: draw("sampler", step))


@dataclass(frozen=True)
class SDAOptions(GuidedOptions):
    """Settings of SDA guidance.

    Args:
        gamma: Width of the guess of what is not known yet; smaller follows the observations more closely, too small is
            unstable. `auto` takes it from the denoiser's own covariance, at one more pass back; published are 0.03 and 0.1.
        Others as in `GuidedOptions`.
    """

    rule: ClassVar[str] = "sda"

    gamma: float | Literal["auto"] = "auto"


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
class TMPDOptions(GuidedOptions):
    """Settings of guidance with the row sums of the denoiser's covariance, which has no number of its own; see `GuidedOptions`."""

    rule: ClassVar[str] = "tmpd"


@dataclass(frozen=True)
class MMPSOptions(GuidedOptions):
    """Settings of moment-matching guidance.

    Args:
        iterations: Krylov iterations at most, each one pass back; members stop sooner where the residual has fallen to a hundredth, after 2
            to 4 for sensors far apart with equal errors, and some 10 for 13 side by side, where 3 are not enough. 1 and 2 are published.
        solver: `gmres`, or `cg`, which stops at negative curvature.
        Others as in `GuidedOptions`.
    """

    rule: ClassVar[str] = "mmps"

    iterations: int = 16
    solver: Literal["gmres", "cg"] = "gmres"
