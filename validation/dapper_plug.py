"""DAPPER's twin experiments scored with our methods, and our models and observations in its terms.

    import dapper.mods.Lorenz96.sakov2008 as twin
    from dapper_plug import Eddycast

    xx, yy = twin.HMM.simulate()
    xp = Eddycast(N=24, method="etkf", settings={"inflation": 1.013, "rotate": True})
    xp.assimilate(twin.HMM, xx, yy)
    xp.stats.err.rms.a[twin.HMM.tseq.masko].mean()

Any filter of `eddycast.assimilation.METHODS` will do; it runs with DAPPER's dynamics and DAPPER keeps the scores. DAPPER 1.7.1 (MIT
licence) comes with `pip install -e ".[referee]"`. The truth is never shown to the method.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from dapper.da_methods import da_method
from torch import Tensor

from eddycast.assimilation import get_method, start_cycle
from eddycast.conditions import Conditions
from eddycast.grid import Grid, periodic_axis
from eddycast.observations import Measurement


def ring(points: int) -> Grid:
    """State vectors as one field on a ring of unit distances, as DAPPER's localisation takes them."""
    return Grid((periodic_axis("site", points, float(points)),))


@dataclass(eq=False)
class DapperModel:
    """The dynamics of a hidden Markov model of DAPPER as a forecast model; a frame is the time between two observations."""

    twin: Any
    context: int = 1

    def advance(
        self, context: Tensor, conditions: Conditions, lead_times: Tensor, *, noise: Any, first_window: int = 0
    ) -> Tensor:
        tseq = self.twin.tseq
        states = context[..., -1, :, :].flatten(0, -2).double().numpy()
        k = round(float(conditions.time.reshape(-1)[0])) * tseq.dko
        outcome = []
        for _ in range(len(lead_times)):
            for _ in range(tseq.dko):
                states, k = self.twin.Dyn(states, k * tseq.dt, tseq.dt), k + 1
            outcome.append(torch.from_numpy(states).reshape(context[..., -1, :, :].shape))
        return torch.stack(outcome, dim=-3).to(context)


@dataclass(frozen=True, eq=False)
class _Seen:
    """The observation operator of one time."""

    twin: Any
    number: int
    scale: Tensor  # R^-1/2

    def __call__(self, states: Tensor) -> Tensor:
        rows = states[..., -1, 0, :]
        seen = self.twin.Obs(self.number)(rows.reshape(-1, rows.shape[-1]).double().numpy())
        return (torch.from_numpy(seen) @ self.scale.T).reshape(*rows.shape[:-1], -1).to(states)

    def select(self, index: Tensor) -> _Seen:
        assert len(index) == 1, "a twin is one case"
        return self


@dataclass(frozen=True, eq=False)
class DapperObservations:
    """The observations of a twin, R^-1/2 y of R^-1/2 H(x), as our methods see them.

    Args:
        twin: Hidden Markov model.
        yy: Its observations, one vector for each time.
        sites: Positions of the entries; None: those of the state where all of it is observed, otherwise none.
    """

    twin: Any
    yy: Any
    sites: tuple[float, ...] | None = None
    fields: tuple[tuple[str, str], ...] = (("x", "1"),)
    valid: Tensor | None = None
    start: int = 0

    @property
    def grid(self) -> Grid:
        return ring(self.twin.Nx)

    @property
    def dt(self) -> float:
        return self.twin.tseq.dto

    @property
    def trajectories(self) -> Tensor:
        return torch.zeros(1, dtype=torch.long)

    @property
    def frames(self) -> Tensor:
        return torch.full((1,), self.start)

    @property
    def num_cases(self) -> int:
        return 1

    @property
    def num_times(self) -> int:
        return len(self.yy)

    @property
    def count(self) -> int:
        return sum(map(len, self.yy))

    def observed_frames(self) -> Tensor:
        return torch.ones(self.num_times, dtype=torch.bool)

    def conditions(self, static: Tensor | None = None) -> Conditions:
        """Time 0 is the first observation, one frame after the start of the twin."""
        return Conditions(self.grid, self.dt, torch.zeros(1, 0), torch.ones(1, dtype=torch.float64) + self.start)

    def window(self, start: int, stop: int) -> DapperObservations:
        return replace(self, yy=self.yy[start:stop], start=self.start + start)

    def select(self, index: Tensor) -> DapperObservations:
        return self

    def seen(self, start: int, stop: int, *, since: int | None = None) -> Measurement | None:
        number = stop - 1
        assert since is None or since == number, "an observation looks at one frame"
        y = torch.from_numpy(np.asarray(self.yy[number], dtype=np.float64))
        noise = self.twin.Obs(self.start + number).noise.C
        scale = torch.from_numpy(np.asarray(noise.sym_sqrt_inv, dtype=np.float64))
        if self.sites is not None:
            positions = torch.tensor(self.sites, dtype=torch.float64)
        elif len(y) == self.twin.Nx:
            positions = torch.arange(len(y), dtype=torch.float64)
        else:
            positions = torch.full((len(y),), torch.nan, dtype=torch.float64)
        return Measurement(
            _Seen(self.twin, self.start + number, scale),
            (scale @ y)[None],
            torch.ones(1, len(y), dtype=torch.float64),
            positions[None, :, None],
            torch.full((1, len(y)), number),
        )


@da_method()
class Eddycast:
    """A filter of ours as a method of DAPPER.

    Args:
        N: Members.
        method: Name in `eddycast.assimilation.METHODS`.
        settings: Of its options.
        sites: See `DapperObservations`.
        seed: Of rotations and perturbations.
    """

    N: int
    method: str = "etkf"
    settings: dict = field(default_factory=dict)
    sites: tuple | None = None
    seed: int = 0

    def assimilate(self, HMM: Any, xx: Any, yy: Any) -> None:
        """Called by DAPPER, with the truth for its own statistics."""
        start = HMM.X0.sample(self.N)
        self.stats.assess(0, E=start)
        observations = DapperObservations(HMM, yy, self.sites)
        cycle = start_cycle(
            self.method, DapperModel(HMM), observations.conditions(),
            members=self.N, seed=self.seed, background=torch.from_numpy(start)[:, None, None, None], continued=True,
            options=get_method(self.method).options(**self.settings),
        )  # fmt: skip
        for k, ko, _, _ in HMM.tseq.ticker:
            if ko is not None:
                self.stats.assess(k, ko, E=cycle.step(observations, ko, ko + 1)[:, 0, 0, 0].numpy())
