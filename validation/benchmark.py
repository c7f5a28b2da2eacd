"""Speed, ours against the peers', on this machine: one command, one table.

    python validation/benchmark.py [--only NAME] [--quick] [--data DIR] [--threads 2] [--out results/benchmark.json]

Each side runs in a fresh process, pinned to the same cores with the same number of threads, and the two take turns
(A B A B ...), so that a busy machine slows both. Compilation is timed apart. A ratio above 1 means that we are faster; the
last column says whether the target is met. Sides and their work are in `benchmark_sides.py`. Take a quiet machine: the
load is printed, and a run under load proves little.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmark_sides import ENTRY_POINTS, SIDES, Settings, found_data, idle_program
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve()
PACKAGES = ("torch", "numpy", "h5py", "jax", "jaxlib", "exponax", "the_well", "scoringrules")
SOLVER_TARGET, DATA_TARGET, SCORE_TARGET = 2.5, 3.0, 1.0
SAMPLER_TARGET, IDLE_TARGET = 0.05, 0.02  # at most


@dataclass
class Row:
    """One line of the table.

    Args:
        name: What is compared.
        ours, peer: As shown.
        ratio: Peer over ours where more is better; else the share that must stay below the target.
        target: Bound of `ratio`; None where the line is for information.
        at_most: Whether the target bounds from above.
        details: All that was measured.
    """

    name: str
    ours: str
    peer: str
    ratio: float
    target: float | None
    at_most: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.ratio <= self.target if self.at_most else self.ratio >= self.target


@dataclass(frozen=True)
class Run:
    """How sides are run."""

    threads: int
    repeats: int
    quick: bool
    data: Path
    workplace: Path
    tell: Callable[[str], None]

    def environment(self, threads: int) -> dict[str, str]:
        number = str(threads)
        eigen = "true" if threads > 1 else "false"
        kept = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
        return kept | {
            "OMP_NUM_THREADS": number,
            "OMP_WAIT_POLICY": "passive",
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={number}",
            "NPROC": number,
            "JAX_PLATFORMS": "cpu",
            "PYTHONWARNINGS": "ignore",
        }

    def side(self, name: str, settings: Settings) -> Settings:
        """Result of one side, from a process of its own on the first `threads` cores that we may use."""
        threads = settings.get("threads", self.threads)
        self.tell(f"{name} {settings.get('label', '')}")
        command = [sys.executable, str(HERE), "--side", name, "--threads", str(threads)]
        done = subprocess.run(  # noqa: S603 - this file
            command, input=json.dumps(settings), capture_output=True, text=True, env=self.environment(threads)
        )
        if done.returncode:
            raise SystemExit(f"{name} failed with {settings}:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def turns(self, ours: tuple[str, Settings], peer: tuple[str, Settings]) -> tuple[list[Settings], list[Settings]]:
        """Results of both sides, in turns."""
        pairs = [(self.side(*ours), self.side(*peer)) for _ in range(self.repeats)]
        return [one for one, _ in pairs], [other for _, other in pairs]


def seconds(results: list[Settings]) -> float:
    return median(result["seconds"] for result in results)


def spread(results: list[Settings], unit: str = "s", scale: float = 1.0) -> str:
    """Median and range."""
    values = sorted(scale * result["seconds"] for result in results)
    return f"{median(values):.3g} {unit} ({values[0]:.3g} to {values[-1]:.3g})"


def compared(name: str, ours: list[Settings], peer: list[Settings], target: float | None, **details: Any) -> Row:
    """Row of a comparison of times."""
    ratios = sorted(other["seconds"] / one["seconds"] for one, other in zip(ours, peer, strict=True))
    details |= {"ours": ours, "peer": peer, "ratios": ratios}
    return Row(name, spread(ours), spread(peer), seconds(peer) / seconds(ours), target, details=details)


def solvers(run: Run, system: str) -> list[Row]:
    """A solver against exponax in both precisions, from the same start; the errors are those of a short time."""
    if system == "kuramoto-sivashinsky":
        common: Settings = {
            "parameters": {"domain_length": 64.0}, "trajectories": 256, "drawn": 256, "step": 0.05, "output_dt": 0.2,
            "outputs": 640, "checked_time": 2.0, "spin_up": 100.0,
        }  # fmt: skip
        cases = [((256,), common)]
    else:
        flow: Settings = {"trajectories": 16, "drawn": 4, "step": 0.01, "output_dt": 0.1, "checked_time": 0.5}
        wide = flow | {"parameters": {"viscosity": 0.01, "drag": 0.1}, "outputs": 20, "spin_up": 30.0}
        fine = flow | {"parameters": {"viscosity": 0.0025, "drag": 0.1}, "outputs": 10, "spin_up": 20.0}
        cases = [((64, 64), wide), ((128, 128), fine)]
    if run.quick:
        cases = [(shape, case | {"trajectories": 8, "drawn": 2, "spin_up": 1.0}) for shape, case in cases[:1]]
        cases = [(shape, case | {"outputs": 12 if len(shape) == 1 else 5}) for shape, case in cases]
    rows = []
    for shape, case in cases:
        size = " x ".join(map(str, shape))
        path = str(run.workplace / f"{system}-{shape[0]}.npz")
        settings = case | {"system": system, "shape": shape, "path": path, "runs": 1 if run.quick else 2}
        run.side("prepare-solver", settings | {"label": f"{system} {size}"})
        apart = run.side("prepare-exponax", settings | {"label": f"{system} {size}"})["difference"]
        for dtype in ("float32", "float64"):
            chosen = settings | {"dtype": dtype, "label": f"{system} {size} {dtype}"}
            ours, peer = run.turns(("eddycast-solver", chosen), ("exponax-solver", chosen))
            steps = round(case["outputs"] * case["output_dt"] / case["step"])
            name = f"{system}, {size}, {case['trajectories']} runs, {steps} steps, {dtype}"
            told = {key: value for key, value in chosen.items() if key != "path"}
            row = compared(name, ours, peer, SOLVER_TARGET, settings=told, exact_solutions_differ=apart)
            row.ours += f", error {ours[0]['error']:.1e}"
            row.peer += f", error {peer[0]['error']:.1e}"
            rows.append(row)
            if run.threads > 1 and not run.quick:  # threads are not always its gain: shown, so that all can judge
                alone = [run.side("exponax-solver", chosen | {"threads": 1}) for _ in range(run.repeats)]
                rows.append(compared(f"the same, exponax on one thread, {dtype}", ours, alone, None))
    return rows


def data_loading(run: Run) -> list[Row]:
    """Windows per second of shuffled batches of 32 windows of 5 frames against The Well's loader."""
    folders = found_data(run.data)
    if not folders:
        run.tell(f"data: skipped, none of the outside data sets lies in {run.data}; see --data.")
    rows = []
    for folder in folders[:1] if run.quick else folders:
        for workers in (0,) if run.quick else (0, 2):
            base = {"path": str(folder), "workers": workers, "seconds": 0.3 if run.quick else 2.0}
            modes = {"held in memory": {"held": True, "cache": True}, "streamed": {"held": False, "cache": True}}
            if not workers:
                modes["streamed, no block kept"] = {"held": False, "cache": False}
            for mode, options in modes.items():
                label = f"{folder.name}, {workers} workers, {mode}"
                ours, peer = run.turns(
                    ("eddycast-windows", base | options | {"label": label}), ("well-windows", base | {"label": label})
                )
                target = None if "no block" in mode else DATA_TARGET  # shows what the blocks are worth
                row = compared(f"windows, {label}", ours, peer, target)
                row.ours, row.peer = (
                    f"{median(one['windows_per_second'] for one in side):.0f} / s" for side in (ours, peer)
                )
                rows.append(row)
    return rows


def samplers(run: Run) -> list[Row]:
    """Time of a sampler per evaluation, without the network, over that of one pass of a small U-Net."""
    rows = []
    for batch in (8, 64):
        settings = {"batch": batch, "channels": [64, 80, 80], "steps": 16, "runs": 2 if run.quick else 15}
        results = [run.side("sampler-overhead", settings | {"label": f"batch {batch}"}) for _ in range(run.repeats)]
        network = median(result["seconds"] for result in results)
        for name in results[0]["samplers"]:
            shares = [result["samplers"][name] / result["seconds"] for result in results]
            own = median(result["samplers"][name] for result in results)
            rows.append(
                Row(
                    f"sampler {name}, batch {batch}", f"{1e6 * own:.0f} us", f"network {1e3 * network:.3g} ms",
                    median(shares), SAMPLER_TARGET, at_most=True, details={"shares": shares, "settings": settings},
                )
            )  # fmt: skip
    return rows


def scores(run: Run) -> list[Row]:
    """CRPS of 32 members at a million points against the fastest estimator and layout that gives the same number."""
    size = {"members": 32, "points": 20_000 if run.quick else 1_000_000, "runs": 1 if run.quick else 2}
    rows = []
    for fair, estimators in ((True, ("pwm", "fair")), (False, ("qd", "int", "nrg"))):
        usual = estimators[:1] if run.quick else estimators[:-1]  # the last needs all pairs at once: 4 GB here
        options = [(name, last) for name in usual for last in (True, False)]
        trials = {
            choice: run.side("scoringrules-crps", size | {"estimator": choice[0], "members_last": choice[1]})
            for choice in options
        }
        best = min(trials, key=lambda choice: trials[choice]["seconds"])
        ours, peer = run.turns(
            ("eddycast-crps", size | {"fair": fair}),
            ("scoringrules-crps", size | {"estimator": best[0], "members_last": best[1]}),
        )
        if abs(ours[0]["value"] - peer[0]["value"]) > 1e-4:
            raise SystemExit(f"The scores differ: {ours[0]['value']} and {peer[0]['value']}.")
        kind = "fair" if fair else "biased"
        row = compared(f"CRPS, {kind}, 32 members x {size['points']} points", ours, peer, SCORE_TARGET)
        row.ours += f", +{max(one['peak_mb'] for one in ours):.0f} MB"
        row.peer += f", +{max(one['peak_mb'] for one in peer):.0f} MB ({best[0]})"
        row.details |= {
            "trials": [{"estimator": name, "members_last": last, **trials[name, last]} for name, last in trials]
        }
        rows.append(row)
    return rows


def idle(run: Run) -> list[Row]:
    """Processor time of an idle second after operations on all threads, by entry point; spinning threads as a control."""
    script = shutil.which("eddycast", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    arguments = ["simulate", "kuramoto-sivashinsky", "--trajectories", "2", "--steps", "2"]
    rows = []
    for entry in ENTRY_POINTS:
        control = entry == "import torch"
        if entry == "eddycast" and script is None:
            run.tell("idle: no `eddycast` script is installed here; skipped.")
            continue
        environment = run.environment(max(2, run.threads))
        del environment["OMP_WAIT_POLICY"]
        if control:
            environment["OMP_WAIT_POLICY"] = "active"
        out = run.workplace / f"idle-{len(rows)}"
        command = [sys.executable, "-c", idle_program(entry)]
        command += [script] if entry == "eddycast" and script else []
        command += [] if "import" in entry else [*arguments, "--out", str(out)]
        run.tell(f"idle: {entry}")
        done = subprocess.run(command, capture_output=True, text=True, env=environment)  # noqa: S603 - this Python
        if done.returncode:
            raise SystemExit(f"{entry} failed:\n{done.stderr[-2000:]}")
        used, threads, policy = [*done.stdout.strip().splitlines()[-1].split(), ""][:3]
        name = "idle second, control: waiting threads told to spin" if control else f"idle second after `{entry}`"
        share = float(used)
        shown = f"{1000 * share:.1f} ms, {threads} threads, {policy or 'no policy'}"
        rows.append(Row(name, shown, "", share, None if control else IDLE_TARGET, at_most=True))
    return rows


CASES: dict[str, tuple[tuple[str, ...], Callable[[Run], list[Row]]]] = {
    "ks": (("jax", "exponax"), lambda run: solvers(run, "kuramoto-sivashinsky")),
    "kolmogorov": (("jax", "exponax"), lambda run: solvers(run, "kolmogorov-flow")),
    "data": (("the_well",), data_loading),
    "samplers": ((), samplers),
    "crps": (("scoringrules",), scores),
    "idle": ((), idle),
}


def hardware() -> dict[str, Any]:
    model = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def load() -> list[float]:
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []


def table(rows: list[Row]) -> Table:
    shown = Table(title="Ratio: theirs over ours, or the share of what it is compared with")
    for column in ("what", "ours", "peer", "ratio", "target", "met"):
        shown.add_column(column, justify="right" if column in ("ratio", "target") else "left", overflow="fold")
    for row in rows:
        bound = "" if row.target is None else f"{'<=' if row.at_most else '>='} {row.target:g}"
        verdict = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met]
        shown.add_row(row.name, row.ours, row.peer, f"{row.ratio:.3g}", bound, verdict)
    return shown


def one_side(name: str, threads: int) -> None:
    """Body of a side's process: settings from standard input, result as the last line of standard output."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    result = SIDES[name](json.loads(sys.stdin.read()))
    print("\n" + json.dumps(result))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=tuple(CASES), action="append", help="one case; may be given again")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one turn: does it run, not how fast")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each side")
    parser.add_argument("--repeats", type=int, help="turns of each pair; default 5, with --quick 1")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared" / "data", help="The Well's data sets")
    parser.add_argument("--out", type=Path, help="JSON file of all that was measured")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        one_side(options.side, options.threads)
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    started, before = datetime.now(UTC), load()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="eddycast-benchmark-") as workplace:
        repeats = options.repeats or (1 if options.quick else 5)
        run = Run(
            options.threads,
            repeats,
            options.quick,
            options.data,
            Path(workplace),
            lambda text: console.print(text, style="dim"),
        )
        for name in options.only or CASES:
            needed, case = CASES[name]
            if missing := [package for package in needed if importlib.util.find_spec(package) is None]:
                console.print(f"{name}: skipped, {', '.join(missing)} is not installed.")
                continue
            rows += case(run)
    console.print(table(rows))
    after = load()
    console.print(f"Load before {before}, after {after}; {options.threads} threads, {repeats} turns.", highlight=False)
    if options.out:
        report = {
            "started": started.isoformat(timespec="seconds"), "quick": options.quick, "threads": options.threads,
            "repeats": repeats, "load_before": before, "load_after": after, "hardware": hardware(),
            "versions": versions(), "rows": [asdict(row) | {"met": row.met} for row in rows],
        }  # fmt: skip
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
