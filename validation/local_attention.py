"""What local attention costs, into results/local-attention.json: growth with the grid, time and memory against dense; 3 CPU-minutes.

    OMP_NUM_THREADS=1 python validation/local_attention.py

Times are CPU times of one thread, forward and back. Rounds go through all grids in turn, so that what else the machine does meets all
alike; a time is the least of the rounds, an exponent the slope of log time over log points, with the range of the rounds' own slopes.
Memory is the largest sum of what tensors hold at once above the inputs, from torch's own record of each allocation: no other process
and no allocator's habit enters.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from eddycast.files import write_json
from eddycast.networks import LocalTransformerConfig, build_network
from eddycast.networks.local_attention import local_attention
from eddycast.recipes.record import describe_hardware

POINTS, WINDOW = (128, 256, 512, 1024, 2048), 17
BATCH, HEADS, WIDTH = 4, 4, 128
SMALL = (32, 44, 64, 88, 128)
STEPS = [(64, 44, 96, 9), (64, 44, 128, 9), (32, 128, 64, 17), (16, 400, 128, 9)]
"""Batch, points, width and window of whole training steps of six blocks."""


def attention(backend: str, batch: int, points: int, width: int, window: int) -> Callable[[], None]:
    """One pass forward and back of attention with a learned bias, from the joint queries, keys and values on."""
    generator = torch.Generator().manual_seed(0)
    joint = torch.randn(batch, points, 3 * width, generator=generator, requires_grad=True)
    bias = torch.randn(HEADS, window, generator=generator, requires_grad=True)
    slope = torch.randn(batch, points, HEADS, width // HEADS, generator=generator)

    def run() -> None:
        q, k, v = joint.unflatten(-1, (3, HEADS, -1)).unbind(-3)
        out = local_attention(q, k, v, window=(window,), periodic=(True,), bias=bias, backend=backend)
        torch.autograd.grad(out, (joint, bias), slope)

    return run


def step(backend: str, batch: int, points: int, width: int, window: int) -> Callable[[], None]:
    """One training step of the network without its optimiser."""
    config = LocalTransformerConfig(window=window, width=width, backend=backend)  # pyright: ignore[reportArgumentType]
    net = build_network(
        config, in_frames=1, out_frames=1, in_channels=1, out_channels=1, num_scalars=1, periodic=(True,)
    )
    generator = torch.Generator().manual_seed(0)
    x, scalars = torch.randn(batch, 1, 1, points, generator=generator), torch.randn(batch, 1, generator=generator)
    torch.nn.init.normal_(net.head.weight, std=0.02, generator=generator)

    def run() -> None:
        net.zero_grad()
        net(x, scalars).square().mean().backward()

    return run


def cpu_time(run: Callable[[], None]) -> float:
    """CPU-milliseconds."""
    start = time.process_time()
    run()
    return 1e3 * (time.process_time() - start)


def peak_megabytes(run: Callable[[], None]) -> float:
    """The largest sum of allocations that live at once, above what lived before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    assert record.profiler is not None and record.profiler.kineto_results is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(np.cumsum(changes).tolist()) / 2**20


def exponent(points: list[int], times: list[float]) -> float:
    """Slope of log time over log points."""
    return float(np.polyfit(np.log(points), np.log(times), 1)[0])


def growth(backend: str, rounds: int) -> dict[str, Any]:
    """Times and memory for each grid, and how they grow."""
    runs = {points: attention(backend, BATCH, points, WIDTH, WINDOW) for points in POINTS}
    for run in runs.values():
        run()
    table = [[cpu_time(run) for run in runs.values()] for _ in range(rounds)]
    best = [min(column) for column in zip(*table, strict=True)]
    slopes = sorted(exponent(list(POINTS), row) for row in table)
    memory = [peak_megabytes(run) for run in runs.values()]
    return {
        "rounds": rounds,
        "milliseconds": dict(zip(map(str, POINTS), (round(t, 2) for t in best), strict=True)),
        "median_milliseconds": dict(
            zip(map(str, POINTS), (round(median(c), 2) for c in zip(*table, strict=True)), strict=True)
        ),
        "peak_megabytes": dict(zip(map(str, POINTS), (round(m, 1) for m in memory), strict=True)),
        "exponent": round(exponent(list(POINTS), best), 3),
        "exponent_of_rounds": [round(slopes[0], 3), round(median(slopes), 3), round(slopes[-1], 3)],
        "exponent_of_memory": round(exponent(list(POINTS), memory), 3),
    }


def choice(rounds: int) -> dict[str, Any]:
    """CPU-milliseconds of the two fast backends on small grids, some 2800 points with the batch: where `auto` changes over."""
    rows = {}
    for points in SMALL:
        runs = {name: attention(name, 2816 // points, points, WIDTH, 9) for name in ("dense", "blocks")}
        table = [[cpu_time(run) for run in runs.values()] for _ in range(rounds)]
        rows[str(points)] = dict(zip(runs, (round(min(c), 1) for c in zip(*table, strict=True)), strict=True))
    return rows


def training_steps(rounds: int) -> list[dict[str, Any]]:
    """Whole steps with the backend that is picked and with the dense one, and what part of them attention alone takes."""
    rows = []
    for sizes in STEPS:
        runs = {
            "auto": step("auto", *sizes),
            "dense": step("dense", *sizes),
            "attention": attention("auto", *sizes),
            "dense attention": attention("dense", *sizes),
        }
        best = dict.fromkeys(runs, math.inf)
        for _ in range(rounds):
            for name, run in runs.items():
                best[name] = min(best[name], cpu_time(run))
        blocks = LocalTransformerConfig().blocks
        rows.append(
            dict(zip(("batch", "points", "width", "window"), sizes, strict=True))
            | {f"{name.replace(' ', '_')}_milliseconds": round(value, 1) for name, value in best.items()}
            | {"attention_share": round(blocks * best["attention"] / best["auto"], 3)}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=15, help="times each grid is measured, dense a third as often; 15"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results" / "local-attention.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, cpu = time.monotonic(), time.process_time()
    result = {
        "setting": {"batch": BATCH, "heads": HEADS, "width": WIDTH, "window": WINDOW, "points": POINTS},
        "local": growth("blocks", options.rounds),
        "dense": growth("dense", max(3, options.rounds // 3)),
        "choice": choice(max(3, options.rounds // 2)),
        "steps": training_steps(max(3, options.rounds // 3)),
    }
    provenance = describe_hardware("cpu") | {
        "seed": 0,
        "rounds": options.rounds,
        "seconds": round(time.monotonic() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"job": "local-attention", "provenance": provenance, "result": result})
    local, dense = result["local"], result["dense"]
    print(f"time grows as points^{local['exponent']} (rounds {local['exponent_of_rounds']}), dense {dense['exponent']}")
    print(f"{provenance['cpu_seconds']} CPU-seconds, {options.out.name}")


if __name__ == "__main__":
    main()
