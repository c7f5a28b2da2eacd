"""What `benchmark.py` times: one function per side, each run in a process of its own.

A side takes its settings and returns `seconds` of the work, and what else it knows (`compile_seconds`, `error`, ...). The
libraries are imported by the sides that need them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

Settings = dict[str, Any]
CHECKED = 16  # trajectories whose accuracy is measured


def timed(work: Callable[[], Any], runs: int) -> tuple[float, float, Any]:
    """Shortest wall time of some runs, processor time of that run, and what the last returned."""
    walls = []
    result = None
    for _ in range(runs):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        walls.append((time.perf_counter() - wall, time.process_time() - cpu))
    return *min(walls), result


def relative(result: Any, exact: np.ndarray) -> float:
    difference = np.asarray(result, dtype=np.float64) - exact
    return float(np.linalg.norm(difference) / np.linalg.norm(exact))


# Solvers: the start is on the attractor, made in float64. The errors are those of a short time against the same solver in
# float64 with a 20 times smaller step, so that they are of step and rounding; the two truncations in space differ by one mode.


def prepare_solver(settings: Settings) -> Settings:
    """Start and exact solution into the file `path`."""
    import torch

    from eddycast.simulators import get_system, integrate, simulate

    system = get_system(settings["system"])
    shape, fixed = tuple(settings["shape"]), settings["parameters"]
    run = simulate(
        system, trajectories=settings["drawn"], steps=1, grid_shape=shape, parameters=fixed, dtype=torch.float64,
        spin_up=settings["spin_up"], inner_dt=settings["step"], seed=1,
    )  # fmt: skip
    state = run.states[:, 0]
    exact = integrate(
        system, state[:CHECKED], run.parameters[0], run.grid, [settings["checked_time"]], inner_dt=settings["step"] / 20
    )[:, 0]
    drawn = len(state)
    if settings["trajectories"] > drawn:  # moved along x, under which the law of the flow does not change
        turns = range(-(-settings["trajectories"] // drawn))
        state = torch.cat([state.roll(turn * 3, dims=-len(shape)) for turn in turns])[: settings["trajectories"]]
    if settings["system"] == "kolmogorov-flow":
        np.savez(settings["path"], state=state.numpy(), exact=vorticity_of(exact), vorticity=vorticity_of(state))
    else:
        np.savez(settings["path"], state=state.numpy(), exact=exact.numpy())
    return {"seconds": 0.0}


def vorticity_of(velocity: Any) -> Any:
    """dv/dx - du/dy on the box of 2 pi, (*batch, 1, n_x, n_y)."""
    from eddycast.numerics.spectral import derivative

    box = [2 * np.pi] * 2
    return (derivative(velocity[..., 1, :, :], box, [1, 0]) - derivative(velocity[..., 0, :, :], box, [0, 1]))[
        ..., None, :, :
    ]


def eddycast_solver(settings: Settings) -> Settings:
    import torch

    from eddycast.simulators import get_system, integrate, uniform_times

    system = get_system(settings["system"])
    dtype = getattr(torch, settings["dtype"])
    stored = np.load(settings["path"])
    state = torch.from_numpy(stored["state"]).to(dtype)
    named = settings["parameters"]
    parameters = torch.tensor([named.get(one.name, one.default) for one in system.info.parameters], dtype=torch.float64)
    grid = system.grid(tuple(settings["shape"]), parameters)

    def run(outputs: int) -> Any:
        times = uniform_times(settings["output_dt"], outputs)
        return integrate(system, state, parameters, grid, times, inner_dt=settings["step"])

    run(2)
    seconds, cpu, states = timed(lambda: run(settings["outputs"]), settings["runs"])
    found = states[:, round(settings["checked_time"] / settings["output_dt"]) - 1][: len(stored["exact"])].double()
    found = vorticity_of(found) if settings["system"] == "kolmogorov-flow" else found
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "error": relative(found, stored["exact"]),
        "finite": bool(states[:, -1].isfinite().all()),
    }


def exponax_stepper(settings: Settings, step: float) -> tuple[Any, Any]:
    """Its stepper and our start in its variable: u, or minus the vorticity, whose force has the other sign."""
    import exponax

    stored, named, points = np.load(settings["path"]), settings["parameters"], settings["shape"][0]
    if settings["system"] == "kolmogorov-flow":
        stepper = exponax.stepper.KolmogorovFlowVorticity(
            2, 2 * np.pi, points, step, diffusivity=named["viscosity"], drag=-named["drag"], order=4,
            injection_mode=4, injection_scale=-1.0,
        )  # fmt: skip
        return stepper, -stored["vorticity"]
    length = named["domain_length"]
    return exponax.stepper.KuramotoSivashinskyConservative(1, length, points, step, order=4), stored["state"]


def prepare_exponax(settings: Settings) -> Settings:
    """Its own exact solution, beside ours in the file `path`."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import exponax

    stepper, state = exponax_stepper(settings, settings["step"] / 20)
    between = exponax.RepeatedStepper(stepper, round(20 * settings["checked_time"] / settings["step"]))
    stored = dict(np.load(settings["path"]))
    exact = np.asarray(jax.jit(jax.vmap(between))(state[: len(stored["exact"])]))
    sign = -1.0 if settings["system"] == "kolmogorov-flow" else 1.0
    np.savez(settings["path"], **stored, exact_of_exponax=exact)
    return {"seconds": 0.0, "difference": relative(sign * exact, stored["exact"])}


def exponax_solver(settings: Settings) -> Settings:
    """jit(scan(vmap)) over outputs; the steps between two outputs stay in Fourier space (`RepeatedStepper`)."""
    import jax

    jax.config.update("jax_enable_x64", settings["dtype"] == "float64")
    import exponax

    exact = np.load(settings["path"])["exact_of_exponax"]
    stepper, state = exponax_stepper(settings, settings["step"])
    between = exponax.RepeatedStepper(stepper, round(settings["output_dt"] / settings["step"]))

    def rollout(u: Any) -> Any:
        def output(u: Any, _: None) -> Any:
            u = jax.vmap(between)(u)
            return u, u

        return jax.lax.scan(output, u, None, length=settings["outputs"])[1]

    start = jax.numpy.asarray(state, dtype=settings["dtype"])
    wall = time.perf_counter()
    compiled = jax.jit(rollout, donate_argnums=0).lower(start).compile()
    compile_seconds = time.perf_counter() - wall
    walls = []
    for _ in range(settings["runs"]):
        copy = jax.numpy.array(start).block_until_ready()
        seconds, cpu, states = timed(lambda copy=copy: compiled(copy).block_until_ready(), 1)
        walls.append((seconds, cpu))
    found = np.asarray(states[round(settings["checked_time"] / settings["output_dt"]) - 1])[: len(exact)]
    seconds, cpu = min(walls)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "compile_seconds": compile_seconds,
        "error": relative(found, exact),
        "finite": bool(np.isfinite(states[-1]).all()),
    }


# Data loading: shuffled windows of 1 + 4 frames, for a fixed time after the first batch. That batch starts the workers and,
# where the split is held in memory, reads it; the blocks of a stream are decoded within the time.


def counted(batches: Iterable[Any], size: Callable[[Any], int], seconds: float) -> Settings:
    """Seconds per 1000 windows, without the first batch."""
    batches = iter(batches)
    next(batches)
    windows, wall = 0, time.perf_counter()
    while (passed := time.perf_counter() - wall) < seconds:
        windows += size(next(batches))
    return {"seconds": 1000 * passed / windows, "windows_per_second": windows / passed, "windows": windows}


def eddycast_windows(settings: Settings) -> Settings:
    from dataclasses import replace

    from eddycast.data import WindowBatches, open_dataset

    dataset = open_dataset(settings["path"])
    if not settings["cache"]:
        dataset = replace(dataset, source=replace(dataset.source, cache_bytes=0))
    limit = {} if settings["held"] else {"memory_limit": 0}
    batches = WindowBatches(dataset, "train", 5, batch_size=32, workers=settings["workers"], **limit)
    return counted(batches.iterate(0, 10**9), lambda batch: len(batch[0]), settings["seconds"])


def well_windows(settings: Settings) -> Settings:
    """The_well's loader without the grid and the boundaries, which costs it least; workers stay alive between passes."""
    from the_well.data import WellDataset
    from torch.utils.data import DataLoader

    dataset = WellDataset(
        path=settings["path"], well_split_name="train", n_steps_input=1, n_steps_output=4, return_grid=False,
        boundary_return_type=None,
    )  # fmt: skip
    workers = settings["workers"]
    loader = DataLoader(dataset, batch_size=32, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    passes = chain.from_iterable(loader for _ in repeat(None))
    return counted(passes, lambda batch: len(batch["input_fields"]), settings["seconds"])


# Samplers: what remains of a call when the network costs nothing.


def sampler_overhead(settings: Settings) -> Settings:
    """Seconds per evaluation of each sampler with a denoiser that returns a constant, and of a pass of the network."""
    import torch

    from eddycast.diffusion.registry import SAMPLERS, make_sampler
    from eddycast.diffusion.schedules import CosineSchedule
    from eddycast.networks.unet import UNet, UNetConfig

    batch, frames, points = settings["batch"], 5, 64
    network = UNet(
        UNetConfig(channels=tuple(settings["channels"])), in_frames=frames, out_frames=frames, in_channels=1,
        out_channels=1, num_scalars=2, periodic=(True,),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    x_1 = torch.randn(batch, frames, 1, points, generator=generator)
    scalars, mean = torch.randn(batch, 2, generator=generator), 0.5 * x_1
    samplers = {name: make_sampler(name, CosineSchedule(), settings["steps"]) for name in SAMPLERS}
    walls: dict[str, list[float]] = {"network": [], **{name: [] for name in samplers}}
    with torch.no_grad():
        for _ in range(settings["runs"] + 1):
            walls["network"].append(timed(lambda: network(x_1, scalars), 1)[0])
            for name, sampler in samplers.items():
                noise = torch.Generator().manual_seed(1)
                draw = lambda step, noise=noise: torch.randn(x_1.shape, generator=noise)  # noqa: E731
                seconds = timed(lambda sampler=sampler, draw=draw: sampler(lambda x, t: mean, x_1, noise=draw), 1)[0]
                walls[name].append(seconds / sampler.num_evaluations)
    medians = {name: float(np.median(values[1:])) for name, values in walls.items()}
    return {"seconds": medians.pop("network"), "samplers": medians}


# CRPS of many points.


def _members(settings: Settings) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (settings["members"], settings["points"])
    return torch.randn(shape, generator=generator), torch.randn(settings["points"], generator=generator)


def _peak() -> float:
    """Largest memory of the process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def eddycast_crps(settings: Settings) -> Settings:
    from eddycast.metrics import crps

    ensemble, truth = _members(settings)
    crps(ensemble[:, :64], truth[:64])
    before = _peak()
    seconds, cpu, score = timed(lambda: crps(ensemble, truth, fair=settings["fair"]), settings["runs"])
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": _peak() - before,
        "value": score.double().mean().item(),
    }


def scoringrules_crps(settings: Settings) -> Settings:
    """One estimator with the members in one layout, of its torch backend."""
    import scoringrules

    ensemble, truth = _members(settings)
    if settings["members_last"]:
        ensemble = ensemble.T.contiguous()
    options = {"m_axis": -1 if settings["members_last"] else 0, "estimator": settings["estimator"], "backend": "torch"}
    small = ensemble[:64] if settings["members_last"] else ensemble[:, :64]
    scoringrules.crps_ensemble(truth[:64], small, **options)
    before = _peak()
    seconds, cpu, score = timed(lambda: scoringrules.crps_ensemble(truth, ensemble, **options), settings["runs"])
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": _peak() - before,
        "value": score.double().mean().item(),
    }


# Threads that wait.

ENTRY_POINTS = {
    "python -m eddycast": "runpy.run_module('eddycast', run_name='__main__', alter_sys=True)",
    "eddycast": "runpy.run_path(sys.argv.pop(1), run_name='__main__')",
    "import eddycast": "import eddycast; eddycast.simulate('kuramoto-sivashinsky', trajectories=2, steps=2, spin_up=1.0)",
    "import torch": "import torch",
}


def idle_program(entry: str) -> str:
    """Program that enters as named, runs operations on all threads, and prints its processor time in an idle second."""
    return (
        "import os, runpy, sys, time\n"
        f"try:\n    {ENTRY_POINTS[entry]}\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "import torch\n"
        "x = torch.ones(1 << 22)\n"
        "for _ in range(10): x = x * 1.5\n"
        "before = time.process_time()\n"
        "time.sleep(1)\n"
        "print(time.process_time() - before, torch.get_num_threads(), os.environ.get('OMP_WAIT_POLICY', ''))\n"
    )


SIDES: dict[str, Callable[[Settings], Settings]] = {
    "prepare-solver": prepare_solver,
    "prepare-exponax": prepare_exponax,
    "eddycast-solver": eddycast_solver,
    "exponax-solver": exponax_solver,
    "eddycast-windows": eddycast_windows,
    "well-windows": well_windows,
    "sampler-overhead": sampler_overhead,
    "eddycast-crps": eddycast_crps,
    "scoringrules-crps": scoringrules_crps,
}

DATA_SETS = ("kuramoto_sivashinsky", "kolmogorov_flow", "euler_multi_quadrants_periodicBC")


def found_data(folder: Path) -> list[Path]:
    """The outside data sets that lie in the folder."""
    return [folder / name for name in DATA_SETS if (folder / name / "data" / "train").is_dir()]
