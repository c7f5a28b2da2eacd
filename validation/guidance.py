"""The tables of `docs/guidance.md`: every guidance rule against exact posteriors, into results/guidance.json; some 2 CPU-minutes.

Right because prior and observations are Gaussian: denoiser and posterior are known, the posterior of the series is checked against a
Kalman smoother in `tests/guidance`, and the periodic field is a problem with reference figures.

    OMP_NUM_THREADS=1 python validation/guidance.py [--draws N] [--out FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_gaussian import Bias, GaussianProblem, Rule, chain, drifting_tracer, periodic_field
from torch import Tensor

from eddycast.diffusion import (
    AncestralSampler,
    CosineSchedule,
    PdediffCosineSchedule,
    PredictorCorrectorSampler,
    Sampler,
    SDACosineSchedule,
)
from eddycast.files import write_json
from eddycast.guidance import (
    DPSGuidance,
    GaussianLikelihood,
    Guidance,
    MMPSGuidance,
    PiGDMGuidance,
    SDAGuidance,
    StationaryCovariance,
    StationaryGamma,
    VideoDiffusionGuidance,
)
from eddycast.recipes.record import describe_hardware

SCHEDULE = CosineSchedule()
STEPS = 64
SAMPLES = {"field-0.05": 512, "field-0.5": 512, "ar1": 2048, "ar2": 2048, "tracer": 1024}
RULES: dict[str, Rule] = {
    "MMPS, converged": partial(MMPSGuidance, iterations=16, solver="cg", tolerance=1e-4),
    "MMPS, 3 iterations": partial(MMPSGuidance, iterations=3),
    "MMPS, 1 iteration": partial(MMPSGuidance, iterations=1),
    "MMPS without Jacobian, white": partial(MMPSGuidance, jacobian=False),
    "SDA, gamma 0.01": partial(SDAGuidance, gamma=0.01),
    "SDA, gamma 0.1": partial(SDAGuidance, gamma=0.1),
    "SDA, gamma 1": partial(SDAGuidance, gamma=1.0),
    "SDA without Jacobian, gamma 0.1": partial(SDAGuidance, gamma=0.1, jacobian=False),
    "PiGDM": PiGDMGuidance,
    "PiGDM without Jacobian": partial(PiGDMGuidance, jacobian=False),
    "video diffusion, gamma 0.1": partial(VideoDiffusionGuidance, gamma=0.1),
    "video diffusion, gamma 1": partial(VideoDiffusionGuidance, gamma=1.0),
    "video diffusion without Jacobian, gamma 1": partial(VideoDiffusionGuidance, gamma=1.0, jacobian=False),
    "DPS, zeta 5": partial(DPSGuidance, zeta=5.0),
    "DPS, zeta 20": partial(DPSGuidance, zeta=20.0),
    "DPS without Jacobian, zeta 20": partial(DPSGuidance, zeta=20.0, jacobian=False),
}


def problems(draw: int) -> dict[str, GaussianProblem]:
    """The same problems with another truth and other observations for each draw."""
    seed = 3 + 10 * draw
    return {
        "field-0.05": periodic_field(0.05, seed=seed)[0],
        "field-0.5": periodic_field(0.5, seed=seed)[0],
        "ar1": chain(SCHEDULE, 1, seed=seed),
        "ar2": chain(SCHEDULE, 2, seed=seed),
        "tracer": drifting_tracer(SCHEDULE, seed=seed).problem,
    }


def fitted(problem: GaussianProblem) -> dict[str, Rule]:
    """Rules that take the spectrum of the field, as it would be fitted to training data."""
    row = problem.covariance[0]
    spectrum = torch.fft.fft(row).real
    return {
        "SDA, gamma of the spectrum": partial(SDAGuidance, gamma=StationaryGamma(spectrum)),
        "MMPS without Jacobian, spectrum": partial(
            MMPSGuidance, jacobian=False, covariance=StationaryCovariance(spectrum, (-1,))
        ),
    }


def passes(problem: GaussianProblem, make: Rule) -> tuple[int, int]:
    """Passes forward and back through the denoiser at one evaluation, at a noise of the size of the signal."""
    count = [0, 0]

    def back(gradient: Tensor) -> None:
        count[1] += 1

    def counted(x_t: Tensor, at: Tensor) -> Tensor:
        count[0] += 1
        mean = problem.denoiser(x_t, at)
        if mean.requires_grad:
            mean.register_hook(back)
        return mean

    guided = make(problem.likelihood)(counted, problem.schedule, lambda x: x)
    guided(torch.ones(1, *problem.shape, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    return count[0], count[1]


def pooled(biases: list[Bias]) -> dict[str, float]:
    """Root mean square error and mean ratio over the draws."""
    errors, spreads, misfits = zip(*biases, strict=True)
    count = len(biases)
    return {
        "error": (sum(e**2 for e in errors) / count) ** 0.5,
        "spread": sum(spreads) / count,
        "misfit": sum(misfits) / count,
    }


def rule_rows(draws: int) -> dict[str, Any]:
    """Bias and cost of every rule on every problem."""
    rows: dict[str, dict[str, Any]] = {}
    several = [problems(draw) for draw in range(draws)]
    for key, samples in SAMPLES.items():
        here = [each[key] for each in several]
        sampler = AncestralSampler(here[0].schedule, STEPS, to_clean=False)
        for name, make in {**RULES, **(fitted(here[0]) if key.startswith("field") else {})}.items():
            started = time.process_time()
            biases = [problem.bias(make, sampler, samples, seed=draw) for draw, problem in enumerate(here)]
            row = pooled(biases) | {"cpu_seconds": time.process_time() - started}
            forward, backward = passes(here[0], make)
            rows.setdefault(name, {})[key] = row | {"forward": forward, "backward": backward}
        print(key, "done", flush=True)
    floors = {key: several[0][key].floor(samples) for key, samples in SAMPLES.items()}
    return {"rows": rows, "floors": floors, "samples": SAMPLES}


def mean_bias(make: Callable[[int], GaussianProblem], rule: Rule, sampler: Sampler, draws: int) -> dict[str, float]:
    return pooled([make(draw).bias(rule, sampler, SAMPLES["ar2"], seed=draw) for draw in range(draws)])


def correction_rows(draws: int) -> list[dict[str, Any]]:
    """What Langevin corrections do to SDA on the second-order chain, and as many evaluations without them."""
    rows = []
    for gamma in (0.1, 1.0):
        for corrections in (0, 1, 2, 4, 8):
            sampler = PredictorCorrectorSampler(SCHEDULE, STEPS, corrections, 0.5)
            more = PredictorCorrectorSampler(SCHEDULE, sampler.num_evaluations, 0)
            rule = partial(SDAGuidance, gamma=gamma)

            def problem(draw: int) -> GaussianProblem:
                return chain(SCHEDULE, 2, seed=3 + 10 * draw)

            rows.append(
                {
                    "gamma": gamma,
                    "corrections": corrections,
                    "evaluations": sampler.num_evaluations,
                    "corrected": mean_bias(problem, rule, sampler, draws),
                    "more steps": mean_bias(problem, rule, more, draws),
                }
            )
    return rows


def schedule_rows(draws: int) -> list[dict[str, Any]]:
    """SDA at the same gamma on the two published cosines, and with the scales of the wrong one."""
    ours, theirs = PdediffCosineSchedule(), SDACosineSchedule()

    def mistaken(likelihood: GaussianLikelihood, gamma: float) -> Guidance:
        def factor(rho: Tensor) -> Tensor:
            alpha, sigma = theirs(ours.time_at(-2 * torch.log(rho)))
            return gamma * (sigma / alpha / rho) ** 2

        return SDAGuidance(likelihood, factor)

    rows = []
    for gamma in (0.01, 0.03, 0.1, 0.3, 1.0):
        rule = partial(SDAGuidance, gamma=gamma)
        row: dict[str, Any] = {"gamma": gamma}
        for name, schedule, make in (
            ("cosine-pdediff", ours, rule),
            ("cosine-sda", theirs, rule),
            ("mistaken", ours, partial(mistaken, gamma=gamma)),
        ):

            def problem(draw: int, schedule: PdediffCosineSchedule | SDACosineSchedule = schedule) -> GaussianProblem:
                return chain(schedule, 2, seed=3 + 10 * draw)

            row[name] = mean_bias(problem, make, AncestralSampler(schedule, STEPS, to_clean=False), draws)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3, help="truths with observations of their own; 3")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "guidance.json")
    options = parser.parse_args()
    start, cpu = time.monotonic(), time.process_time()
    result = rule_rows(options.draws) | {
        "corrections": correction_rows(options.draws),
        "schedules": schedule_rows(options.draws),
    }
    provenance = describe_hardware("cpu") | {
        "seed": 0,
        "draws": options.draws,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"job": "guidance", "provenance": provenance, "result": result})
    print(f"{provenance['cpu_seconds']} CPU-seconds, {options.out.name}")


if __name__ == "__main__":
    main()
