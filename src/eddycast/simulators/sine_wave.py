"""One wave that runs to the left or to the right: the smallest forecast that cannot be told from one state.

    u_t + w u_x = 0 (to the right)   or   u_t - w u_x = 0 (to the left)   on [0, 2 pi), periodic;   u(x, 0) = A sin(x + phi)

A snapshot tells amplitude and phase but not the direction. So for who sees one state and is not told the parameter `leftward` the future
has exactly two branches of equal weight, if `leftward` was drawn with equal odds:

    u(x, t) = A sin(x - w t + phi)   or   A sin(x + w t + phi)

Each point by itself is a harmonic oscillator of which the value alone is seen:

    u(t) = u(0) cos(w t) +- (A^2 - u(0)^2)^{1/2} sin(w t)

The branches part, are farthest from each other a quarter of a period later, and meet again after half a period. Two states in a row
tell the direction.

Good values to start from: the defaults, where each trajectory has a direction of its own, and networks that are not told it
(`tell_parameters` false) and see one state; 16 outputs of 0.1 lead to the widest split. `branches` gives the law of the future,
`two_branch_crps` the score of who knows it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.grid import Grid, periodic_axis
from eddycast.noise import MemberNoise
from eddycast.simulators.advection_diffusion import AdvectionDiffusion
from eddycast.simulators.protocols import FieldInfo, Flow, InitialInfo, ParameterInfo, SystemInfo

LENGTH = 2 * math.pi
_TRANSPORT = AdvectionDiffusion()  # on a box of length 1


@dataclass(frozen=True)
class SineWave:
    """Exact in Fourier space, whatever the duration: each state is shifted.

    Args:
        least_amplitude: Amplitudes A of the trajectories are uniform between this,
        largest_amplitude: and this.

    Raises: InputError for amplitudes that are not positive, or not in order.
    """

    least_amplitude: float = 1.0
    largest_amplitude: float = 1.0

    info: ClassVar[SystemInfo] = SystemInfo(
        name="sine-wave",
        description="One wave that runs left or right: two branches that one state cannot tell apart.",
        equation="u_t + (1 - 2 leftward) frequency u_x = 0, u(x, 0) = A sin(x + phase)",
        fields=(FieldInfo("u", "1", "displacement"),),
        parameters=(
            ParameterInfo("frequency", 1.0, 0.0, 100.0, "1", "angular frequency w of the value at a point"),
            ParameterInfo("leftward", 0.0, 0.0, 1.0, "1", "0: to larger x, 1: to smaller x", whole=True, label=True),
        ),
        shape=(32,),
        dt=0.1,
        inner_dt=math.inf,
        spin_up=0.0,
        scheme="exact in Fourier space",
        initial=(
            InitialInfo("least_amplitude", 1.0, 0.01, 100.0, "least amplitude; uniform between the two"),
            InitialInfo("largest_amplitude", 1.0, 0.01, 100.0, "largest amplitude"),
        ),
    )

    def __post_init__(self) -> None:
        if not 0 < self.least_amplitude <= self.largest_amplitude < math.inf:
            raise InputError(
                f"{self.info.name} needs 0 < least_amplitude <= largest_amplitude; "
                f"got {self.least_amplitude:g} and {self.largest_amplitude:g}."
            )

    def grid(self, shape: tuple[int, ...] | None = None, parameters: Tensor | None = None) -> Grid:
        """Points 2 pi k / N. Raises: InputError for other than one axis, or fewer than 4 points."""
        shape = self.info.shape if shape is None else shape
        if len(shape) != 1 or shape[0] < 4:
            raise InputError(f"{self.info.name} needs one axis of at least 4 points, got {shape}.")
        return Grid((periodic_axis("x", shape[0], LENGTH),))

    def initial(
        self,
        parameters: Tensor,
        grid: Grid,
        noise: MemberNoise,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """A sin(x + phi), phi uniform on the circle and A between the amplitudes, (*batch, 1, points).

        The law does not change in time.
        """
        turn, part = noise.uniform((2,), key=(0, 0, "initial"), dtype=torch.float64)[..., None].unbind(-2)
        amplitude = self.least_amplitude + (self.largest_amplitude - self.least_amplitude) * part
        place = torch.tensor(grid.axes[0].coordinates, dtype=torch.float64)
        return (amplitude * torch.sin(place + 2 * math.pi * turn))[..., None, :].to(device=device, dtype=dtype)

    def flow(
        self,
        parameters: Tensor,
        grid: Grid,
        duration: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        inner_dt: float | None = None,
    ) -> Flow:
        """The map of (*batch, 1, points) over `duration`, in one step: `inner_dt` changes nothing.

        Any state is shifted as a whole, w duration along x or back; the highest mode of an even number of points stands still.
        """
        frequency, leftward = parameters.to(torch.float64).unbind(-1)
        velocity = (1 - 2 * leftward) * frequency / LENGTH
        columns = torch.stack([velocity, torch.zeros_like(velocity)], dim=-1)
        return _TRANSPORT.flow(columns, grid, duration, dtype=dtype, device=device)

    def lyapunov_exponent(self, parameters: Tensor) -> Tensor:
        """0, (*batch) float64: errors are shifted, they neither grow nor decay."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.float64)

    def chaotic(self, parameters: Tensor) -> Tensor:
        """False: the equation is linear; what is hard to foretell is the direction."""
        return torch.zeros(parameters.shape[:-1], dtype=torch.bool)


def branches(state: Tensor, frequency: Tensor | float, lead_times: Tensor) -> Tensor:
    """All that can follow a state: first the wave that runs to the right, then the one to the left, each with probability 1/2.

    Args:
        state: (*batch, 1, points), any state on [0, 2 pi).
        frequency: w, (*batch) or a number.
        lead_times: (time), in time units.

    Returns: (2, *batch, time, 1, points), in the dtype of `state`.
    """
    grid = SineWave().grid((state.shape[-1],))
    rate = torch.as_tensor(frequency, dtype=torch.float64, device=state.device)
    turned = rate[..., None] * lead_times.to(rate)
    turned = turned.expand(*state.shape[:-2], len(lead_times))  # w t of every case and lead time
    start = state.unsqueeze(-3).expand(*turned.shape, *state.shape[-2:])
    found = []
    for leftward in (0.0, 1.0):
        parameters = torch.stack([turned, torch.full_like(turned, leftward)], dim=-1)
        flow = SineWave().flow(parameters, grid, 1.0, dtype=state.dtype, device=state.device)
        found.append(flow(start))
    return torch.stack(found)


def two_branch_crps(first: Tensor, second: Tensor, *, members: int | None = None) -> Tensor:
    """CRPS, expected at each point, of an ensemble drawn from the law of two values a and b of probability 1/2, one of which comes true.

        E CRPS = |a - b| / 4                            of the law itself, and of any number of members with the fair score
        E CRPS = |a - b| / 4 (1 + 1 / M)                of M members with the biased score

    For `branches` of a wave of amplitude A after a time t the law itself has A |sin(w t)| / pi on average over the circle, and no forecast
    from one state has a lower expectation.

    Args:
        first: One branch, any shape.
        second: The other, of the same shape.
        members: M for the biased score, at least 1; None for the law itself.

    Returns: the shape of the branches.
    Raises: ValueError for no members.
    Source: CRPS(F, y) = E|X - y| - E|X - X'| / 2; Gneiting and Raftery (2007), doi:10.1198/016214506000001437, eq. 21.
    """
    if members is not None and members < 1:
        raise ValueError(f"The score needs at least 1 member, got {members}.")
    return (first - second).abs() / 4 * (1.0 if members is None else 1 + 1 / members)
