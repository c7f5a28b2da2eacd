"""What `assimilate` does, method by method, where the posterior is known, into results/exact-posteriors.json; some 7 CPU-minutes.

Each case goes through `assimilate` with the options that a user gets by default, or with those that the row says; nothing is tuned to a
case. Denoisers are exact, so that all error is that of the method, of its steps and of the number of members.

    field      a smooth periodic Gaussian field of 128 points, by default 512 members (`exact_gaussian.periodic_field`)
    mixture    three regimes of a field of 32 points, of which few are seen (`exact_mixture`)

Sensors of the field are spread (every tenth point) or clustered (13 side by side, 2 elsewhere), with equal errors of 0.05 or errors from
0.05 to 0.5. A window has two frames: the second is white noise of its own, which is not observed and not scored.

    OMP_NUM_THREADS=1 python validation/exact_posteriors.py [--truths N] [--members N] [--repeats N] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from exact_gaussian import GaussianProblem, periodic_field
from exact_mixture import MixtureProblem
from torch import Tensor

from eddycast.assimilation import (
    METHODS,
    DAPSOptions,
    DPSOptions,
    MMPSOptions,
    PiGDMOptions,
    SDAOptions,
    TMPDOptions,
    TwistedOptions,
    VideoDiffusionOptions,
    assimilate,
)
from eddycast.diffusion import SCHEDULES, Schedule
from eddycast.diffusion.schedules import scales
from eddycast.emulators import Emulator, OpenWindow
from eddycast.emulators.passes import count_passes, record
from eddycast.files import write_json
from eddycast.grid import Grid, periodic_axis
from eddycast.guidance import GaussianLikelihood, Guidance, MMPSGuidance, StationaryCovariance
from eddycast.observations import Measurement, Observations
from eddycast.recipes.record import describe_hardware

SCHEDULE = SCHEDULES["rectified"]()
"""That of diffusion emulators by default."""
SENSORS = {"spread": tuple(range(0, 128, 10)), "clustered": (*range(13), 60, 90)}
SEEN = {"few": ((5, 21), 0.3), "cluster": ((5, 6, 7, 21), 0.5), "noisy": ((5, 21), 0.8)}
"""Sensors and error of the mixture."""


class Problem(Protocol):
    """What a window model is made of."""

    @property
    def schedule(self) -> Schedule: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def denoiser(self, x_t: Tensor, time: Tensor) -> Tensor: ...


class ExactModel:
    """A window of a problem and of a frame of white noise, an exact denoiser in the place of a network; passes are counted."""

    frames, window, context, overlap, continuous = 2, 2, 1, 1, False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def open(self, known: Tensor, known_mask: Tensor, conditions: object, lead_times: Tensor) -> OpenWindow:
        if known_mask.any():
            raise ValueError("This model begins with nothing known.")

        def denoiser(x_t: Tensor, time: Tensor) -> Tensor:
            alpha, sigma = scales(self.problem.schedule, time, x_t)
            white = alpha * x_t[:, 1:] / (alpha**2 + sigma**2)
            return record(torch.cat([self.problem.denoiser(x_t[:, :1], time), white], dim=1))

        return OpenWindow(denoiser, self.problem.schedule, lambda x: x)

    def advance(self, *args: object, **options: object) -> Tensor:
        raise NotImplementedError("Only the denoiser is known here.")


class Identity:
    """States are what the model works with."""

    def encode(self, state: Tensor, conditions: object, lead_times: Tensor) -> Tensor:
        return state

    def decode(self, x: Tensor, conditions: object, lead_times: Tensor) -> Tensor:
        return x


class SensorErrors:
    """Gridded observations of which each entry has an error of its own."""

    def __init__(self, gridded: Observations, std: Tensor) -> None:
        self.gridded, self.std = gridded, std

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gridded, name)

    def seen(self, start: int, stop: int, *, since: int | None = None) -> Measurement | None:
        measurement = self.gridded.seen(start, stop, since=since)
        return None if measurement is None else replace(measurement, std=self.std.expand_as(measurement.std))


def emulator(problem: Problem) -> Emulator:
    return Emulator(ExactModel(problem), Identity(), chunk=4096)


def observations(problem: GaussianProblem | MixtureProblem, sensors: tuple[int, ...], std: Tensor) -> Any:
    """Of the first of two frames, sorted by point as entries of a grid are."""
    points = problem.shape[-1]
    values = torch.full((1, 2, 1, points), torch.nan, dtype=torch.float64)
    values[0, 0, 0, list(sensors)] = problem.value
    gridded = Observations(
        values=values, noise_std=torch.ones(1, dtype=torch.float64), grid=Grid((periodic_axis("x", points, 1.0),)),
        fields=(("u", "1"),), dt=1.0, trajectories=torch.zeros(1, dtype=torch.long), frames=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    return SensorErrors(gridded, std.expand(len(sensors)))


def errors_of(name: str, sensors: int) -> Tensor:
    """Equal: 0.05. Unequal: 0.05 to 0.5 in equal ratios, good and bad ones in turn."""
    if name == "equal":
        return torch.full((sensors,), 0.05, dtype=torch.float64)
    levels = 0.05 * 10 ** torch.linspace(0, 1, sensors, dtype=torch.float64)
    return levels[4 * torch.arange(sensors) % sensors]  # 13 and 15 have no factor in common with 4


def field(sensors: str, errors: str, truth: int) -> tuple[GaussianProblem, Any, Tensor]:
    """A problem, its observations and the spectrum of the field."""
    places = SENSORS[sensors]
    std = errors_of(errors, len(places))
    problem, spectrum = periodic_field(std, places, seed=3 + 10 * truth, schedule=SCHEDULE)
    return problem, observations(problem, places, std), spectrum


def mixture(name: str, truth: int) -> tuple[MixtureProblem, Any]:
    sensors, std = SEEN[name]
    problem = MixtureProblem(SCHEDULE, sensors, std, seed=3 + 10 * truth)
    return problem, observations(problem, sensors, torch.tensor(std, dtype=torch.float64))


@dataclass(frozen=True)
class SpectralOptions(MMPSOptions):
    """Moment matching with the fitted covariance of a stationary field, which is no option of `mmps` but of the rule."""

    jacobian: bool = False
    covariance: StationaryCovariance | None = None

    def guidance(self, likelihoods: tuple[GaussianLikelihood, ...]) -> Guidance:
        return MMPSGuidance(likelihoods, self.iterations, self.solver, jacobian=False, covariance=self.covariance)


Options = Callable[[Tensor], Any]
"""Spectrum of the prior -> options of a method; what is no stationary field has none, and gets None."""
ROWS: dict[str, tuple[str, Options]] = {
    "`mmps` (default)": ("mmps", lambda spectrum: METHODS["mmps"].options()),
    "`mmps`, 32 steps": ("mmps", lambda spectrum: MMPSOptions(num_steps=32, grid="quadratic")),
    "`mmps`, at most 3 iterations": ("mmps", lambda spectrum: MMPSOptions(iterations=3)),
    "`mmps`, ancestral": ("mmps", lambda spectrum: MMPSOptions(sampler="ancestral")),
    "`mmps`, Adams-Bashforth, 20 steps": ("mmps", lambda spectrum: MMPSOptions(sampler="adams-bashforth", num_steps=20)),
    "`mmps` without Jacobian, spectrum": (
        "mmps", lambda spectrum: SpectralOptions(covariance=StationaryCovariance(spectrum, (-1,))),
    ),
    "`sda` (default, automatic gamma)": ("sda", lambda spectrum: SDAOptions()),
    "`sda`, gamma 0.1": ("sda", lambda spectrum: SDAOptions(gamma=0.1)),
    "`tmpd`": ("tmpd", lambda spectrum: TMPDOptions()),
    "`pigdm`": ("pigdm", lambda spectrum: PiGDMOptions()),
    "`video-diffusion`": ("video-diffusion", lambda spectrum: VideoDiffusionOptions()),
    "`dps`": ("dps", lambda spectrum: DPSOptions()),
    "`daps`": ("daps", lambda spectrum: DAPSOptions()),
    "`twisted`": ("twisted", lambda spectrum: TwistedOptions()),
}  # fmt: skip
REPEATED = ("`mmps` (default)", "`mmps`, 32 steps")
"""Rows that see every truth; the errors of the others are so much larger than those of chance that the first is enough."""
MIXTURE_ROWS = [
    "`mmps` (default)",
    "`sda` (default, automatic gamma)",
    *(name for name in ROWS if name.strip("`") in METHODS),
]


def analysis(
    row: str, problem: Problem, observed: Any, members: int, seed: int, spectrum: Tensor
) -> tuple[Tensor, Any]:
    """Members of the observed frame, (member, points), and the passes of one member."""
    name, options = ROWS[row]
    with count_passes() as passes:
        states = assimilate(
            name,
            emulator(problem),
            observed,
            observed.conditions(),
            members=members,
            seed=seed,
            options=options(spectrum),
        )
    cost = {"forward": passes.forward / members, "backward": passes.backward / members}
    return states[:, 0, 0, 0], cost


def field_scores(problem: GaussianProblem, x: Tensor) -> dict[str, float]:
    """Error of the mean, ratio of deviations, misfit, and relative errors (Frobenius) of two blocks of the covariance."""
    leading = torch.linalg.eigh(problem.posterior).eigenvectors[:, -10:]
    scores = {
        "error": (x.mean(dim=0) - problem.mean).square().mean().sqrt().item(),
        "spread": (x.std(dim=0) / problem.posterior.diag().sqrt()).mean().item(),
        "misfit": ((problem.value - x @ problem.matrix.T).square() / problem.variances).mean().item(),
    }
    for name, basis in (("observed", problem.matrix.T), ("leading", leading)):
        exact = basis.T @ problem.posterior @ basis
        error = torch.linalg.matrix_norm(torch.cov((x @ basis).T) - exact) / torch.linalg.matrix_norm(exact)
        scores[f"covariance_{name}"] = error.item()
    return scores


def mean_of(scores: list[dict[str, float]]) -> dict[str, float]:
    """Root mean squares of errors, means of the others."""
    square = {"error", "weights"}
    return {
        key: (sum(s[key] ** 2 for s in scores) / len(scores)) ** 0.5
        if key in square
        else sum(s[key] for s in scores) / len(scores)
        for key in scores[0]
    }


def field_rows(truths: int, members: int) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for sensors in SENSORS:
        for errors in ("equal", "unequal"):
            cases = [field(sensors, errors, truth) for truth in range(truths)]
            for row in ROWS:
                started, scores, costs = time.process_time(), [], []
                for truth, (problem, observed, spectrum) in enumerate(cases if row in REPEATED else cases[:1]):
                    x, cost = analysis(row, problem, observed, members, truth, spectrum)
                    scores.append(field_scores(problem, x))
                    costs.append(cost)
                rows.setdefault(row, {})[f"{sensors}, {errors}"] = (
                    mean_of(scores) | mean_of(costs) | {"cpu_seconds": time.process_time() - started}
                )
            # What exact draws have: the error of chance alone.
            chance = [
                field_scores(problem, exact_draws(problem, members, truth))
                for truth, (problem, _, _) in enumerate(cases)
            ]
            rows.setdefault("exact draws", {})[f"{sensors}, {errors}"] = mean_of(chance)
            print(sensors, errors, "done", flush=True)
    return rows


def exact_draws(problem: GaussianProblem, members: int, seed: int) -> Tensor:
    values, basis = torch.linalg.eigh(problem.posterior)
    noise = torch.randn(members, len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return problem.mean + (noise * values.clamp(min=0).sqrt()) @ basis.T


def mixture_scores(problem: MixtureProblem, runs: list[Tensor]) -> dict[str, float]:
    """Weights of modes over several runs: their error in each run, and whether their mean is off by more than its standard error."""
    weights = torch.stack([problem.memberships(x).mean(dim=0) for x in runs])
    off = weights - problem.posterior_weights
    # Total variation, |w - w*|_1 / 2.
    standard_error = weights.std(dim=0) / len(runs) ** 0.5
    x = torch.cat(runs)
    return {
        "weights": off.abs().sum(dim=1).mul(0.5).square().mean().sqrt().item(),
        "bias": (0.5 * off.mean(dim=0).abs().sum()).item(),
        "bias_by_chance": (0.5 * (2 / torch.pi) ** 0.5 * standard_error.sum()).item(),
        "error": (x.mean(dim=0) - problem.mean).square().mean().sqrt().item(),
        "spread": (x.std(dim=0) / problem.deviation).mean().item(),
    }


def mixture_rows(truths: int, members: int, repeats: int) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for name in SEEN:
        cases = [mixture(name, truth) for truth in range(truths)]
        for row in [*MIXTURE_ROWS, "exact draws"]:
            started, scores, costs = time.process_time(), [], []
            for truth, (problem, observed) in enumerate(cases):
                runs = []
                for repeat in range(repeats):
                    seed = 100 * truth + repeat
                    if row == "exact draws":
                        runs.append(problem.draw(members, seed))
                        continue
                    x, cost = analysis(row, problem, observed, members, seed, torch.ones(1))
                    runs.append(x)
                    costs.append(cost)
                scores.append(mixture_scores(problem, runs))
            result = mean_of(scores) | (mean_of(costs) if costs else {})
            rows.setdefault(row, {})[name] = result | {"cpu_seconds": time.process_time() - started}
        print(name, "done", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--truths", type=int, default=3, help="truths with observations of their own; 3")
    parser.add_argument("--members", type=int, default=512, help="members of each analysis of a field; 512")
    parser.add_argument(
        "--repeats", type=int, default=4, help="analyses of each mixture, of half as many members and one truth less; 4"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "exact-posteriors.json")
    options = parser.parse_args()
    start, cpu = time.monotonic(), time.process_time()
    result = {
        "field": field_rows(options.truths, options.members),
        "mixture": mixture_rows(max(1, options.truths - 1), options.members // 2, options.repeats),
    }
    provenance = describe_hardware("cpu") | {
        "seed": 0,
        "truths": options.truths,
        "members": options.members,
        "repeats": options.repeats,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"job": "exact-posteriors", "provenance": provenance, "result": result})
    print(f"{provenance['cpu_seconds']} CPU-seconds, {options.out.name}")


if __name__ == "__main__":
    main()
