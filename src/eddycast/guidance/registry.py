"""Every guidance rule by its name in recipes; the first line of its docstring describes it in listings.

To add one: a file with a frozen dataclass whose first field is the likelihood and whose `__call__` is that of `Guidance`
(`posterior.guided_denoiser` does the work where the rule is a choice of u), one line here, and one in the table of `docs/guidance.md`.
To assimilate with it as `--method`: its settings in `assimilation/guided_options.py`, one line in `assimilation/methods.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from eddycast.errors import InputError
from eddycast.guidance.dps import DPSGuidance
from eddycast.guidance.likelihood import GaussianLikelihood
from eddycast.guidance.mmps import MMPSGuidance
from eddycast.guidance.posterior import Guidance
from eddycast.guidance.reconstruction import PiGDMGuidance, SDAGuidance, TMPDGuidance, VideoDiffusionGuidance

GUIDANCE: dict[str, Callable[..., Guidance]] = {
    "sda": SDAGuidance,
    "dps": DPSGuidance,
    "video-diffusion": VideoDiffusionGuidance,
    "pigdm": PiGDMGuidance,
    "tmpd": TMPDGuidance,
    "mmps": MMPSGuidance,
}


def make_guidance(
    name: str, likelihood: GaussianLikelihood | tuple[GaussianLikelihood, ...], **options: Any
) -> Guidance:
    """The rule of that name for one likelihood, or several independent ones.

    Raises: InputError for a rule that does not exist, and for an option that the rule lacks or refuses.
    """
    if name not in GUIDANCE:
        raise InputError(f"Unknown guidance '{name}': choose one of {', '.join(GUIDANCE)}.")
    known = [option for option in inspect.signature(GUIDANCE[name]).parameters if option != "likelihood"]
    if lacking := [option for option in options if option not in known]:
        raise InputError(f"Guidance '{name}' has no option {lacking[0]!r}: it has {', '.join(known)}.")
    try:
        return GUIDANCE[name](likelihood, **options)
    except TypeError as error:  # a value of another kind, such as text for a number
        raise InputError(f"Guidance '{name}': {error}.") from error
    except ValueError as error:
        raise InputError(f"Guidance '{name}': {error}") from error
