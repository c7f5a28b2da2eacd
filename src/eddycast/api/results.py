"""Results: score, draw, report, compare."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from eddycast import data as rooms
from eddycast import distributed, evaluation
from eddycast import report as pictures
from eddycast.api.data import Data, opened
from eddycast.api.forecaster import Forecaster, load
from eddycast.data import Dataset
from eddycast.errors import InputError
from eddycast.evaluation import LatentAnalysis, Scores, passed_through
from eddycast.files import keep_inputs, stage_of, staged_directory, write_bytes, write_json
from eddycast.recipes import autoencoder_of


def evaluate(
    forecast: xr.Dataset | str | Path,
    *,
    truth: Data,
    out: str | Path | None = None,
    through: str | Path | Forecaster | None = None,
    device: str = "cpu",
    **options: Any,
) -> Scores:
    """Scores of a forecast or an analysis; see `evaluation.evaluate` for options and what is computed.

    Under torchrun every process calls it, the cases are shared, and the first process writes.

    Args:
        forecast: From `Forecaster.forecast` or `.assimilate`, or a file.
        truth: The data that it was made from.
        out: JSON file to write.
        through: Run whose autoencoder the truth passes first, encoded and decoded: scores are then free of its error.
        device: Where that autoencoder computes.
    """
    keep_inputs(out, forecast, truth)
    with distributed.process_group(device) as place:
        dataset = opened(truth) if through is None else auto_encoded(truth, through, device=place)
        scores = evaluation.evaluate(forecast, dataset, **options)
        if out is not None and distributed.is_first():
            scores.to_json(Path(out))
        return scores


def auto_encoded(truth: Data, run: str | Path | Forecaster, *, device: str = "cpu") -> Dataset:
    """Data as the autoencoder of a run gives them back: frames are encoded and decoded when they are read.

    Args:
        truth: Physical data, opened or a path.
        run: An autoencoder, or an emulator in latent space.
        device: Where it computes.

    Raises: InputError for a run without autoencoder, and for data that do not fit it.
    """
    forecaster = load(run, device=device)
    if forecaster.run is None:
        raise InputError(f"{forecaster.name} has no autoencoder: --through takes a run with one.")
    _, space = autoencoder_of(forecaster.run)
    dataset = opened(truth)
    forecaster.run.check(dataset)
    return passed_through(dataset, space, forecaster.name, device=device)


def analyse_latents(
    cache: str | Path,
    *,
    split: str = "train",
    out: str | Path | None = None,
    picture: str | Path | None = None,
    seed: int = 0,
) -> LatentAnalysis:
    """What the latents of a cache know of the parameters; see `evaluation.analyse_latents`.

    Args:
        cache: Directory made by `encode`.
        split: Of its pieces; views beyond the first are left out, and all are cut to the shortest.
        out: JSON file to write.
        picture: Picture of the embedding and of the distances to write.
        seed: Of the probe.

    Raises: InputError for a directory that is no cache, and where there is too little to analyse.
    """
    dataset, pieces = rooms.open_latents(Path(cache)), rooms.read_manifest(Path(cache))["pieces"]
    segments = [one for one in dataset.segments(split) if pieces[one.trajectory]["view"] == 0]
    shortest = min(map(len, segments))
    z = torch.stack([dataset.read(one.trajectory, 0, shortest) for one in segments])
    parameters = torch.stack([dataset.parameters(one.trajectory) for one in segments])
    generator = torch.Generator().manual_seed(seed)
    found = evaluation.analyse_latents(z, parameters, dataset.parameter_names, generator=generator)
    if out is not None:
        write_json(Path(out), found.to_dict())
    if picture is not None:
        pictures.write_figure(pictures.latent_picture(found), Path(picture))
    return found


def plot(file: xr.Dataset | str | Path, out: str | Path, *, truth: Any = None, **options: Any) -> Path:
    """One picture or movie of a forecast, an analysis or observations; see `report.plot`. `truth` may be the path of a data set."""
    keep_inputs(out, file, truth, options.get("observations"))
    if isinstance(truth, (str, Path)):
        truth = opened(truth)
    if isinstance(file, rooms.Family):
        opened(file)  # which tells its members
    return pictures.plot(file, Path(out), truth=truth, **options)


def report(inputs: Sequence[str | Path], out: str | Path) -> Path:
    """One HTML page of runs, forecasts, analyses and scores; see `report.report_from`."""
    keep_inputs(out, *inputs)
    return pictures.report_from([Path(item) for item in inputs], Path(out))


def compare(
    runs: Sequence[str | Path | Forecaster],
    *,
    data: Data,
    out: str | Path,
    split: str = "test",
    start: Any = None,
    members: int = 16,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """All methods on the same cases: one forecast and score file each, one table, one report.

    Every forecaster starts from the same frames, late enough for the one with the longest context. Under torchrun every process
    calls it, forecasts and scores are shared, and the first process writes.

    Returns: the report.
    Raises: InputError when there is nothing to compare, or data do not fit a run.
    """
    if not runs:
        raise InputError("There is nothing to compare: name runs, shipped runs, system:NAME or baseline:NAME.")
    with distributed.process_group(device) as place:
        dataset = opened(data)
        forecasters = [load(run, device=place) for run in runs]
        stems = [forecaster.name.replace("/", "-").replace(":", "-").strip("-.") for forecaster in forecasters]
        if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
            raise InputError(f"{twice[0]} is named twice: give each run once.")
        if steps is None:
            steps = min(forecaster.default_steps for forecaster in forecasters)
        context = max(forecaster.emulator(dataset).context for forecaster in forecasters)
        directory = Path(out)
        initial = dataset.initial(split, start=start, leads=steps).resolved(context)
        label = os.getpid() if distributed.size() == 1 else os.environ["MASTER_PORT"]  # the same for all processes
        first = distributed.is_first()
        with staged_directory(directory, label) if first else nullcontext(stage_of(directory, label)) as stage:
            scores: dict[str, Scores] = {}
            for forecaster, stem in zip(forecasters, stems, strict=True):
                made: xr.Dataset | Path = forecaster.forecast(initial, steps=steps, members=members, seed=seed)
                if first:
                    rooms.write(made, stage / f"{stem}.nc")
                if distributed.size() > 1:  # the others have nothing in memory
                    distributed.barrier()
                    made = stage / f"{stem}.nc"
                scores[forecaster.name] = evaluate(made, truth=dataset, out=stage / f"{stem}.scores.json")
            if first:
                comparison_report(scores, stage)
            distributed.barrier()  # nobody reads any more what now moves
        return directory / "report.html"


def comparison_report(scores: Mapping[str, Scores], directory: Path) -> Path:
    """Table and report of several scores in a directory."""
    write_bytes(directory / "table.txt", (evaluation.compare_table(scores) + "\n").encode())
    return pictures.write_report(pictures.comparison(scores), directory / "report.html")
