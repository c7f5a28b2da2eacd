"""Train and score a list of jobs within a time budget, on any device; every figure in the documentation comes from here.

    python validation/run.py --minutes 60 [--device cuda] [--only ks-universal] [--list]

Training leaves checkpoints in --runs and goes on from them next time; a finished job writes results/<name>-s<seed>.json with hardware,
seed and cost. Jobs whose file is there are skipped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import conditional_diffusion
import dyffusion
import latent_diffusion
import parametric
import protocols
import torch
import yaml
from own_data import sample_data

from eddycast import api
from eddycast.api.data import opened_to_train
from eddycast.files import write_json
from eddycast.recipes.record import describe_hardware
from eddycast.training import ProgressBar

HERE = Path(__file__).parent
COMPARISONS = conditional_diffusion.PROTOCOLS | latent_diffusion.PROTOCOLS | dyffusion.PROTOCOLS | parametric.PROTOCOLS
"""Protocols that look at several runs."""


@dataclass(frozen=True)
class Job:
    """One line of the plan, with one of its seeds."""

    name: str
    data: str
    seed: int
    protocol: str = ""  # none: a run that other jobs compare
    recipe: str = ""
    run: str = ""
    runs: dict[str, str] = field(default_factory=dict)  # several, by the name that the protocol knows them by
    test: str = ""  # data to score on, where they are not the test split of `data`
    autoencoder: str = ""  # label of the run whose latents an emulator works in; empty: its own, or pixels
    stage: str = ""  # the only one that is trained; empty: all
    init: str = ""  # label, or name with the seed of the job, of the run whose weights are the start
    overrides: dict[str, Any] = field(default_factory=dict)
    budget: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}-s{self.seed}"


class Deadline(ProgressBar):
    """A progress bar that stops the training, checkpoint and all, when the time is up."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self.end = end

    def step(self, done: int, loss: float) -> None:
        super().step(done, loss)
        if time.monotonic() > self.end:
            raise KeyboardInterrupt


def read_plan(path: Path) -> tuple[dict[str, Any], list[Job]]:
    content = yaml.safe_load(path.read_text())
    jobs = []
    for line in content["jobs"]:
        seeds = line.pop("seeds", [0])
        jobs += [Job(seed=seed, **line) for seed in seeds]
    return content["data"], jobs


def prepared(data: dict[str, Any], name: str, runs: Path) -> api.Dataset | api.Family:
    """The data set of that name: a file that others distribute, or simulated once."""
    if "sample" in data[name]:
        return sample_data(data[name])
    if "of" in data[name]:
        return with_less(prepared(data, data[name]["of"], runs), data[name]["train_share"])
    path = runs / f"{name}-data"
    settings = dict(data[name])
    options = {key: settings.pop(key) for key in ("fractions",) if key in settings}
    if "parameters" in settings:
        settings["parameters"] = {
            key: api.Values(tuple(value["values"]), tuple(value.get("counts", ())))
            if isinstance(value, dict)
            else value
            for key, value in settings["parameters"].items()
        }
    if not path.exists():
        api.simulate(settings.pop("system"), out=path, **settings)
    return opened_to_train(path) if "spacing" in settings else api.open_dataset(path, **options)


def with_less(dataset: api.Dataset, share: float) -> api.Dataset:
    """The same data with a share of the training trajectories, the first ones."""
    train = dataset.splits["train"]
    return replace(dataset, splits={**dataset.splits, "train": train[: round(share * len(train))]})


def is_trained(path: Path) -> bool:
    return (path / "config.json").exists() and json.loads((path / "config.json").read_text())["provenance"]["trained"]


def trained(job: Job, dataset: api.Dataset, runs: Path, device: str, end: float) -> api.Forecaster | None:
    """The run of a job, trained as far as time allows; None when it is not finished."""
    path = runs / f"{job.name}-s{job.seed}"
    if is_trained(path):
        return api.load(path, device=device)
    resume = any(path.glob("**/training/checkpoint.safetensors"))
    given: dict[str, Any] = {}
    if job.autoencoder:
        given = {"autoencoder": runs / job.autoencoder, "latents": runs / f"{job.autoencoder}-{job.data}-latents"}
        if not is_trained(given["autoencoder"]):
            return None
        if not given["latents"].exists():
            api.encode(given["autoencoder"], dataset, out=given["latents"], splits=["train"], device=device)
    if job.init:
        given["init"] = labelled_run(runs, job.init, job.seed)
        if not is_trained(given["init"]):
            return None
    if job.stage:
        given["stage"] = job.stage
    try:
        return api.train(
            job.recipe, data=dataset, out=path, overrides=job.overrides, seed=job.seed, device=device, resume=resume,
            observer=Deadline(end), **given,
        )  # fmt: skip
    except KeyboardInterrupt:
        return None


def labelled_run(runs: Path, name: str, seed: int) -> Path:
    """A run by its label, or by the name of its job with the seed of the comparison."""
    return runs / name if name.rpartition("-s")[2].isdecimal() else runs / f"{name}-s{seed}"


def plain(value: Any) -> Any:
    """JSON knows no NaN: an interval that does not exist (of a single case, say) becomes null."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    parser.add_argument("--results", type=Path, default=HERE.parent / "results")
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs" / "validation")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--only", default="", help="jobs whose label contains this; several, by commas, in that order")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    data, jobs = read_plan(options.plan)
    end = time.monotonic() + 60 * options.minutes
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    options.runs.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    wanted = {job.label: job for part in options.only.split(",") for job in jobs if part in job.label}
    for job in wanted.values():
        target = options.results / f"{job.label}.json"
        if not job.protocol and is_trained(options.runs / job.label):
            print(f"{job.label:<32} trained")
            continue
        if options.list or target.exists():
            print(f"{job.label:<32} {'done' if target.exists() else 'pending'}")
            continue
        if time.monotonic() > end:
            print(f"{job.label:<32} no time left")
            continue
        dataset = prepared(data, job.data, options.runs)
        test = prepared(data, job.test, options.runs) if job.test else dataset
        forecaster, several = None, {}
        if job.runs:
            paths = {name: labelled_run(options.runs, run, job.seed) for name, run in job.runs.items()}
            waiting = [path.name for path in paths.values() if not is_trained(path)]
            if waiting:
                print(f"{job.label:<32} waits for {', '.join(waiting)}")
                continue
            several = {name: api.load(path, device=options.device) for name, path in paths.items()}
        elif job.recipe:
            forecaster = trained(job, dataset, options.runs, options.device, end)
            if forecaster is None:
                print(f"{job.label:<32} training goes on next time")
                continue
        elif job.run:
            path = options.runs / f"{job.run}-s{job.seed}"
            if not (path / "config.json").exists():
                print(f"{job.label:<32} waits for {job.run}-s{job.seed}")
                continue
            forecaster = api.load(path, device=options.device)
        start, cpu = time.monotonic(), time.process_time()
        if job.protocol in COMPARISONS:
            result = COMPARISONS[job.protocol](test, several, job.seed)
        elif job.protocol:
            result = protocols.PROTOCOLS[job.protocol](test, forecaster, job.seed)
        else:  # a run that others are compared with
            print(f"{job.label:<32} trained")
            continue
        provenance: dict[str, Any] = describe_hardware(options.device) | {
            "seed": job.seed,
            "budget": job.budget,
            "data": data[job.data],
            "test": data[job.test or job.data],
            "scoring_seconds": round(time.monotonic() - start, 1),
            "scoring_cpu_seconds": round(time.process_time() - cpu, 1),
        }
        if forecaster is not None and forecaster.run is not None:
            own = forecaster.run.provenance
            provenance["training"] = {
                key: own.get(key) for key in ("hardware", "threads", "steps", "seconds", "cpu_seconds")
            }
            provenance["recipe"] = forecaster.run.recipe.name
            provenance["overrides"] = job.overrides
        for name, each in several.items():
            assert each.run is not None
            provenance.setdefault("runs", {})[name] = {
                "recipe": each.run.recipe.name,
                **{
                    key: each.run.provenance.get(key)
                    for key in ("hardware", "threads", "steps", "seconds", "cpu_seconds")
                },
            }
        write_json(target, {"job": job.label, "provenance": provenance, "result": plain(result)})
        say = parametric.headline if job.protocol in parametric.PROTOCOLS else protocols.headline
        print(f"{job.label:<32} {say(result)}", flush=True)


if __name__ == "__main__":
    main()
