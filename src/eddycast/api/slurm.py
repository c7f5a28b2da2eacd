"""The batch script of a training for Slurm."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from eddycast.api.runs import find_recipe
from eddycast.errors import InputError
from eddycast.recipes import with_overrides

TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}")
CPUS_PER_PROCESS = 8
GRACE = 180
"""Seconds before the limit at which the job is told to stop: enough for one step, one checkpoint and a requeue."""

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={job}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpu_line}#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --signal=B:USR1@{grace}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# Partition and account: sbatch --partition=... --account=... THIS_FILE. The environment of the shell that submits is kept.
set -euo pipefail

run={run}
command=({command})
again=()
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ] && [ -e "$run/config.json" ]; then
    again=({resume})
fi

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
host=${{hosts%%$'\\n'*}}
port=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS={threads} OMP_WAIT_POLICY=passive

srun --kill-on-bad-exit=1 torchrun --nnodes={nodes} --nproc-per-node={processes} \\
    --rdzv-id="$SLURM_JOB_ID-${{SLURM_RESTART_COUNT:-0}}" --rdzv-backend=c10d --rdzv-endpoint="$host:$port" \\
    -m eddycast "${{command[@]}}" ${{again[@]+"${{again[@]}}"}} &
step=$!

# Near the limit of time Slurm sends USR1: the training writes a checkpoint and ends, and the job queues again to go on from it.
stopped=0
trap 'stopped=1; kill -TERM "$step" 2>/dev/null || true' USR1
code=0
wait "$step" || code=$?
if [ "$stopped" = 1 ]; then
    code=0
    wait "$step" || code=$?  # the first wait ended with the signal, the training some seconds later
    if [ "$code" != 0 ]; then
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
fi
exit "$code"
"""


def batch_script(
    recipe: str,
    *,
    data: str | None = None,
    out: str | Path | None = None,
    init: str | None = None,
    stage: str | None = None,
    autoencoder: str | Path | None = None,
    latents: str | Path | None = None,
    minutes: float | None = None,
    overrides: Mapping[str, str] | None = None,
    resume: bool = False,
    device: str = "cpu",
    seed: int | None = None,
    threads: int | None = None,
    nodes: int = 1,
    gpus: int = 1,
    time: str = "24:00:00",
) -> str:
    """A script for sbatch that trains over processes, one per GPU, and queues again from its checkpoint when the time is up.

    Args:
        recipe, data, out, init, stage, autoencoder, latents, minutes, overrides, resume, seed, threads: As in `train`.
        device: Where to train without GPUs; with them every process takes one.
        nodes, gpus: Nodes, and GPUs (processes) on each; without GPUs there is one process per node.
        time: Limit of the job, as Slurm writes it.

    Raises: InputError for a recipe or a setting that does not exist, so that the job does not find out in the queue.
    """
    if not TIME.fullmatch(time):
        raise InputError(
            f"--time must read minutes, hours:minutes:seconds or days-hours:minutes:seconds, got {time!r}."
        )
    chosen = with_overrides(find_recipe(recipe), overrides or {})
    if chosen.training.batch_size < nodes * max(1, gpus) * chosen.training.accumulate:
        raise InputError(
            f"A batch of {chosen.training.batch_size} windows cannot be shared by {nodes * max(1, gpus)} processes: raise "
            "training.batch_size, or take fewer."
        )
    run = str(Path("runs") / chosen.name) if out is None else str(out)
    words = ["train", recipe, "--out", run]
    given = {"data": data, "init": init, "stage": stage, "autoencoder": autoencoder, "latents": latents}
    for option, value in (given | {"minutes": minutes, "seed": seed}).items():
        words += [] if value is None else [f"--{option}", str(value)]
    for name, value in (overrides or {}).items():
        words += ["--set", f"{name}={value}"]
    words += ["--device", "cuda" if gpus else device] + ["--resume"] * resume
    words += [] if threads is None else ["--threads", str(threads)]
    return SCRIPT.format(
        job=re.sub(r"[^A-Za-z0-9._-]+", "-", f"eddycast-{chosen.name}"),
        nodes=nodes,
        gpu_line=f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        cpus=CPUS_PER_PROCESS * max(1, gpus) if threads is None else threads * max(1, gpus),
        time=time,
        grace=GRACE,
        run=shlex.quote(run),
        command=shlex.join(words),
        resume="" if resume else "--resume",
        threads=CPUS_PER_PROCESS if threads is None else threads,
        processes=max(1, gpus),
    )
