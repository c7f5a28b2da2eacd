"""The baselines of dynamics-informed diffusion (arXiv:2306.01984, section 5) as settings of families that are there anyway.

    baseline          family       forecast of a window of h steps                                                     passes
    Dropout           regression   f(x_t, i) for each lead i, masks on, fresh for each                                 h
    Perturbation      regression   the same network without masks, members from x_t + sigma eps                        h
    DDPM              amortised    h states at once by diffusion, cosine noise, few levels                             5
    MCVD              amortised    the same by 1000 levels, noise linear in time, and one more denoising at the end    1001

Few steps cost spread, whatever the training: on the AR(1) process of the tests an exact network has 0.70, 0.81, 0.88 and 0.97 of the
right spread with DDPM at 5, 10, 20 and 100 levels (published spread-skill ratio at 5: 0.67), MCVD 0.6, 0.77 and 0.95 at 10, 20 and 100
steps. A network that says the noise needs a schedule whose alpha does not come too close to 0: "cosine" ends at 1e-3, where ten steps
amplify its errors to several times the spread of the data, "cosine-ddpm" at 1e-2.

Perturbation is Dropout with other settings in use: `--set ensemble=perturbation --set perturbation=0.1`; `--set ensemble=none` is the
deterministic forecast. Its sigma is not published; tune it on the validation split.

Not as published: known states stand beside the noised ones as h + 1 states of C channels go in, and as many come out, of which the
first is not used (published: h come out); the noise of Perturbation is one for all leads of a member (in the code another for
each lead of the first window, which leaves each lead as it is). Networks with a `time_factor` want h in the first two, the number of
levels in the others. MCVD proper also learns with past or future states left out (zeros in their place, a share of windows); the
baseline did not, and here `UniversalConfig` does the like, whose states that are not known are diffused with the others:
`unconditional` for windows without a past, `backward` for those that are known by their end.
The paper trained DDPM with h = 1 and MCVD with h = 4 on the flow, and got neither to converge on the spring mesh.
"""

from __future__ import annotations

from eddycast.emulators import AmortisedConfig, RegressionConfig
from eddycast.networks import NetworkConfig


def dropout(horizon: int, network: NetworkConfig) -> RegressionConfig:
    """Monte-Carlo dropout: one network for all leads, trained on the squared error of the state, masks on in the forecast.

    Args:
        network: One with dropout; published rates are 0.6, 0.3 and 0.6 (sea surface), 0.2 (flow), 0.05 (spring mesh).
    """
    return RegressionConfig(horizon=horizon, variable="state", ensemble="dropout", network=network)


def ddpm(horizon: int, network: NetworkConfig, levels: int = 5) -> AmortisedConfig:
    """Diffusion of h states given the one before them, the network saying the noise, trained on its absolute error.

    Args:
        levels: Noise levels in training, and steps of a forecast.
    """
    return AmortisedConfig(
        frames=horizon + 1, variable="state", layout="concat", schedule="cosine-ddpm", parametrisation="noise", loss="absolute",
        levels=levels, sampler="ancestral", num_steps=levels, network=network,
    )  # fmt: skip


def video_diffusion(horizon: int, network: NetworkConfig, num_steps: int = 1000) -> AmortisedConfig:
    """The same with the noise and the sampler of masked conditional video diffusion (MCVD, arXiv:2205.09853).

    Args:
        num_steps: Steps of a forecast, a divisor of 1000: the levels 1000 / num_steps, ..., 1000 of those in training. With few, leave
            out the last denoising (`sampler_options={}`), which then smooths; in the published code it then also has a wrong label.
    """
    return AmortisedConfig(
        frames=horizon + 1, variable="state", layout="concat", schedule="linear-ddpm", parametrisation="noise", loss="absolute",
        levels=1000, sampler="ancestral", num_steps=num_steps, sampler_options={"again": True}, network=network,
    )  # fmt: skip
