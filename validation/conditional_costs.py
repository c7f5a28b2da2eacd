"""Seconds and peak memory of sampling window by window and all at once; each measured in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from eddycast import api

WAYS: dict[str, dict[str, Any]] = {
    "autoregressive 5|4": {"context": 4, "overlap": 4, "num_steps": 16, "sampler": "ddim"},
    "all at once": {"context": 4, "rollout": "all-at-once", "num_steps": 16, "sampler": "ddim", "chunk": 4096},
}


def lengths(dataset: api.Dataset, runs: Mapping[str, api.Forecaster], seed: int) -> dict[str, Any]:
    """Seconds and peak memory of both ways of sampling against the length of the forecast; each in a process of its own."""
    run = runs["joint"].path
    assert run is not None
    rows = {}
    for steps in (24, 48, 96, 192, 288):
        for name in WAYS:
            command = [sys.executable, __file__, str(run), str(steps), name]
            done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603, our own words
            rows[f"{name}, {steps} states"] = json.loads(done.stdout)
    return {"length_rows": rows, "note": "done"}


def measure(run: str, steps: int, way: str) -> None:
    """Four members of one case, after a first short forecast that pays for what is paid once; prints JSON."""
    torch.set_num_threads(1)
    model = api.load(run)
    assert model.run is not None
    fresh = api.simulate("kuramoto-sivashinsky", trajectories=1, steps=steps + 9, dt=0.5, seed=7)
    start = replace(fresh, splits={"test": fresh.splits["train"]}).initial("test", start=7).select(range(1))
    model.forecast(start, steps=2, members=1, overrides=WAYS[way] | {"num_steps": 2})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock = time.monotonic()
    made = model.forecast(start, steps=steps, members=4, overrides=WAYS[way])
    print(
        json.dumps(
            {
                "steps": steps,
                "members": 4,
                "seconds": round(time.monotonic() - clock, 2),
                "passes_forward": made.attrs["eddycast_network_passes_forward"],
                "extra_megabytes": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
            }
        )
    )


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])
