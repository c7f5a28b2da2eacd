"""Anything that forecasts: trained runs, the solver, baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from eddycast import __version__
from eddycast.api.settings import configured
from eddycast.api.shares import pass_attributes, shared_advance, window_lengths
from eddycast.api.solvers import refuse, solver, solver_attributes
from eddycast.conditions import Conditions
from eddycast.data import Dataset, Initial, read, statistics
from eddycast.data import to_xarray as label
from eddycast.emulators import (
    Autoencoding,
    Climatology,
    Emulator,
    IdentitySpace,
    Persistence,
    StateHook,
    count_passes,
)
from eddycast.errors import InputError
from eddycast.noise import MemberNoise
from eddycast.observations import Observations, ObservationTable
from eddycast.recipes import (
    Recipe,
    Run,
    autoencoder_of,
    boundary_hook,
    load_run,
    parse_value,
    read_boundary,
    sample_states,
)
from eddycast.simulators import get_system

BASELINES = {
    "persistence": "the last state, for ever",
    "climatology": "states of the training data, from the same time of the year where there is one",
}
ARCHIVE = 1024
"""States of the training data that the climatology draws from."""


def shipped() -> dict[str, Path]:
    """Small trained runs that come with the package, by name."""
    root = Path(str(resources.files("eddycast") / "shipped"))
    return {str(file.parent.relative_to(root)): file.parent for file in sorted(root.glob("*/*/config.json"))}


@dataclass(frozen=True, eq=False)
class Forecaster:
    """Anything that forecasts: a trained run, `system:NAME` or `baseline:NAME`.

    Args:
        name: As the user called it.
        run: The trained run; None for solvers and baselines, which are made to fit the data.
        device: Where a solver computes; a run computes where its weights are, baselines on the CPU.
    """

    name: str
    run: Run | None = None
    device: str = "cpu"

    @property
    def path(self) -> Path | None:
        return None if self.run is None else self.run.path

    @property
    def recipe(self) -> Recipe | None:
        return None if self.run is None else self.run.recipe

    @property
    def forecasts(self) -> bool:
        """False for an autoencoder."""
        return self.run is None or not isinstance(self.run.model, Autoencoding)

    @property
    def untrained(self) -> list[str]:
        """Stages of the training that the run still lacks."""
        return [] if self.run is None else list(self.run.provenance.get("untrained", ()))

    @property
    def default_steps(self) -> int:
        """Steps of a forecast that is not told how many."""
        return 100 if self.run is None else self.run.recipe.evaluation.steps

    def emulator(self, dataset: Dataset, overrides: Mapping[str, Any] | None = None) -> Emulator:
        """The emulator for these data. Raises: InputError for data that do not fit, or a setting that it does not have."""
        given = {
            key.removeprefix("emulator."): parse_value(value, f"--set {key}")
            for key, value in (overrides or {}).items()
        }
        hook = self._hook(dataset, given.pop("boundary", None))
        if self.run is not None:
            self.run.check(dataset)
            return replace(configured(self.run.emulator, given), hook=hook)
        kind, _, name = self.name.partition(":")
        if kind == "system":
            return replace(solver(name, dataset, given), place=self.device, hook=hook)
        refuse(given, ("boundary",))
        if name == "persistence":
            return Emulator(Persistence(), IdentitySpace(), hook=hook)
        space = statistics(dataset, "train")
        states, phase = sample_states(dataset, space, ARCHIVE)
        return Emulator(Climatology(states, phase), space, hook=hook)

    def _hook(self, dataset: Dataset, boundary: Any) -> StateHook | None:
        """Boundary values: those that are asked for; else of the recipe of a run; else of the system of the data."""
        if boundary is None and self.run is not None:
            return self.run.hook()
        return boundary_hook(
            "system" if boundary is None else read_boundary(boundary),
            system=str(dataset.attributes.get("system", "")),
            fields=dataset.field_names,
            parameter_names=dataset.parameter_names,
            static_names=dataset.static_names,
        )

    def forecast(
        self,
        initial: Initial,
        *,
        steps: int | None = None,
        leads: Sequence[float] | None = None,
        members: int = 16,
        seed: int = 0,
        parameters: Mapping[str, float] | None = None,
        overrides: Mapping[str, Any] | None = None,
        progress: Any = None,
    ) -> xr.Dataset:
        """Ensemble forecast as a data set (init, member, lead_time, *space).

        Processes that have joined (`distributed.process_group`) all call it and share the members and cases; the first gets the
        forecast, the others an empty data set.

        Args:
            initial: Where it starts, `data.initial("test")`.
            steps: Steps of dt; None for what the recipe evaluates, or 100.
            leads: Lead times instead, in time units.
            members: Members of the ensemble.
            seed: The same seed gives the same ensemble.
            parameters: Values that replace those of the data.
            overrides: Settings of the sampler or solver.
            progress: Called with (done, total).

        Raises: InputError for data, leads or settings that do not fit.
        """
        dataset = initial.data
        emulator = self.emulator(dataset, overrides)
        start = initial.resolved(emulator.context)
        conditions = start.conditions()
        for name, value in (parameters or {}).items():
            if name not in dataset.parameter_names:
                raise InputError(
                    f"The data have no parameter {name!r}: they have {', '.join(dataset.parameter_names) or 'none'}."
                )
            column = dataset.parameter_names.index(name)
            changed = conditions.parameters.clone()
            changed[..., column] = value
            conditions = replace(conditions, parameters=changed)
        lead_steps = self._lead_steps(dataset, steps, leads)
        context = start.context(emulator.context)
        made = self._labelled(
            emulator, context.expand(members, *context.shape), start, conditions, lead_steps, seed, progress
        )
        if parameters:
            made.attrs["eddycast_parameters"] = ", ".join(f"{name}={value:g}" for name, value in parameters.items())
        if self.run is not None and (beyond := self.run.extrapolated(dataset.parameter_names, conditions.parameters)):
            made.attrs["eddycast_extrapolated"] = beyond
        return made

    def forecast_from(
        self,
        analysis: xr.Dataset | str | Path,
        dataset: Dataset,
        *,
        steps: int | None = None,
        leads: Sequence[float] | None = None,
        members: int | None = None,
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
        progress: Any = None,
    ) -> xr.Dataset:
        """Forecast that goes on from the last frames of an analysis (or forecast), member by member; shared as `forecast` is.

        Args:
            analysis: Ensemble of states (init, member, lead_time, *space); the last ones, as many as the context, at steps in a row.
            dataset: The data that it is of; only labels and conditions are taken from it.
            members: At most those of the analysis, which is also the default.

        Raises: InputError when the analysis is too short for the context, has gaps there, or has fewer members.
        """
        from eddycast.api.analysis import ensemble_states

        opened_analysis = analysis if isinstance(analysis, xr.Dataset) else read(Path(analysis))
        states = ensemble_states(opened_analysis, dataset.field_names, dataset.grid)
        members = states.shape[0] if members is None else members
        emulator = self.emulator(dataset, overrides)
        if members > states.shape[0] or states.shape[2] < emulator.context:
            raise InputError(
                f"The analysis has {states.shape[0]} members of {states.shape[2]} states; {members} members with a context of "
                f"{emulator.context} were asked for: lower --members, or assimilate more."
            )
        stored = torch.tensor(opened_analysis["lead_time"].values, dtype=torch.float64) / dataset.dt
        used = stored[-emulator.context :]
        if bool(((used - used.round()).abs() > 1e-3).any()) or bool((used.diff().round() != 1).any()):
            raise InputError(
                f"A forecast goes on from {emulator.context} states at whole steps in a row, the last of this file lie at "
                f"{', '.join(f'{step:g}' for step in used.tolist())} steps: make it with --steps."
            )
        last = torch.as_tensor(opened_analysis["frame"].values).long() + int(used[-1].round())
        numbers = torch.as_tensor(opened_analysis["trajectory"].values).long()
        start = Initial(dataset, numbers, last, ())
        lead_steps = self._lead_steps(dataset, steps, leads)
        return self._labelled(emulator, states[:members], start, start.conditions(), lead_steps, seed, progress)

    def _labelled(
        self,
        emulator: Emulator,
        context: torch.Tensor,
        start: Initial,
        conditions: Conditions,
        leads: torch.Tensor,
        seed: int,
        progress: Any,
    ) -> xr.Dataset:
        """Advance a context (member, case, time, ...), count the passes, and put labels on the result."""
        members, cases = context.shape[:2]
        with count_passes() as passes:
            states = shared_advance(
                emulator,
                context,
                conditions.expand(members),
                leads,
                noise=MemberNoise.grid(seed, cases, members),
                progress=progress,
            )
        cost = pass_attributes(passes, members * cases)
        if states is None:
            return xr.Dataset()
        attributes = self.attributes(start.data, seed) | solver_attributes(emulator, start.data)
        attributes |= cost | window_lengths(emulator)
        return label(states, initial=start, lead_times=leads, attributes=attributes)

    def _lead_steps(self, dataset: Dataset, steps: int | None, leads: Sequence[float] | None) -> torch.Tensor:
        if leads is not None:
            return torch.tensor(list(leads), dtype=torch.float64) / dataset.dt
        return torch.arange(1, (self.default_steps if steps is None else steps) + 1, dtype=torch.float64)

    def assimilate(
        self,
        observations: Observations | ObservationTable,
        *,
        method: str | None = None,
        mode: str = "smooth",
        block: int | None = None,
        forecast: int | None = None,
        blocks: int | None = None,
        background: xr.Dataset | str | Path | None = None,
        withhold: float | Sequence[str] = 0.0,
        members: int = 16,
        seed: int = 0,
        overrides: Mapping[str, Any] | None = None,
        progress: Any = None,
    ) -> xr.Dataset:
        """Posterior ensemble given observations, as a data set (init, member, lead_time, *space) with lead 0 the first observed frame.

        In mode `online` init counts the blocks of each case: lead 0 is the first frame of a block, and the forecast from it follows.

        Args:
            observations: From `observe`, or a table of your own (`read_observations`).
            method: See `methods()`; None for the best that this forecaster allows.
            mode: `smooth`, `filter` or `online`.
            block, forecast, blocks: Of mode `online`, see `assimilation.OnlineTask`.
            background: Forecast or analysis to start from; None for climatology.
            withhold: Share of observations kept back, or names of platforms; the analysis is scored on them in its attributes.
            members, seed: Of the ensemble.
            overrides: Settings of the method.
            progress: Called with (done, total).
        """
        from eddycast.api.analysis import analyse, online_task

        return analyse(
            self,
            observations,
            method=method,
            mode=mode,
            task=online_task(mode, block, forecast, blocks),
            background=background,
            withhold=withhold,
            members=members,
            seed=seed,
            overrides=overrides or {},
            progress=progress,
        )

    def reconstruct(
        self,
        dataset: Dataset,
        *,
        split: str = "test",
        start: Any = None,
        steps: int | None = None,
        progress: Any = None,
    ) -> xr.Dataset:
        """The truth encoded and decoded, labelled like a forecast of one member (init, member, lead_time, *space).

        Args:
            dataset: Physical data.
            split, start: As for a forecast.
            steps: Leads 1 ... steps; None for what the recipe evaluates, or as many as there are.
            progress: Called with (done, total).

        Raises: InputError for a run without autoencoder, data that do not fit it, or more steps than there are states.
        """
        if self.run is None:
            raise InputError(f"{self.name} has no autoencoder: reconstruct takes a run.")
        _, space = autoencoder_of(self.run)
        self.run.check(dataset)
        longest = min(self.default_steps, min(map(len, dataset.segments(split))) - 1) if steps is None else steps
        initial = dataset.initial(split, start=start, leads=longest if start == "all" else 0).resolved(1)
        frames = [] if initial.frames is None else initial.frames.tolist()
        room = min(segment.stop - 1 - frame for segment, frame in zip(initial.segments, frames, strict=True))
        wanted = min(longest, room) if steps is None else steps
        if not 1 <= wanted <= room:
            raise InputError(
                f"The split {split!r} has {room} states after the first one, {wanted} were asked for: start earlier, or ask for "
                "fewer steps."
            )
        leads = torch.arange(1, wanted + 1, dtype=torch.float64)
        states = []
        for case in range(len(initial)):
            one = initial.select([case])
            here = one.conditions().to(next(space.autoencoder.parameters()).device)
            with torch.no_grad():
                z = space.encode(one.truth(wanted).to(here.time.device), here, leads)
                states.append(space.decode(z, here, leads).cpu())
            if progress is not None:
                progress(case + 1, len(initial))
        return label(
            torch.cat(states)[None],
            initial=initial,
            lead_times=range(1, wanted + 1),
            kind="forecast",
            attributes=self.attributes(dataset, 0) | {"eddycast_reconstruction": "truth, encoded and decoded"},
        )

    def attributes(self, dataset: Dataset | None, seed: int) -> dict[str, Any]:
        """Provenance of what this forecaster makes."""
        known = {} if dataset is None else dataset.attributes
        kept = {key: known[key] for key in ("lyapunov_time",) if key in known}
        return kept | {
            "source": f"eddycast {__version__}",
            "eddycast_run": self.name,
            "eddycast_recipe": "" if self.run is None else self.run.recipe.name,
            "eddycast_run_hash": "" if self.run is None else self.run.fingerprint(),
            "eddycast_seed": seed,
            "eddycast_system": str(known.get("system", "")),
        }


def load(run: str | Path | Forecaster, *, device: str = "cpu") -> Forecaster:
    """A forecaster from a run directory, the name of a shipped run, `system:NAME` or `baseline:NAME`.

    Raises: InputError when there is none of that name, with what there is.
    """
    if isinstance(run, Forecaster):
        return run
    name = str(run)
    kind, colon, what = name.partition(":")
    if colon and kind == "system":
        return Forecaster(f"system:{get_system(what).info.name}", device=device)
    if colon and kind == "baseline":
        if what not in BASELINES:
            raise InputError(f"There is no baseline {what!r}: known are {', '.join(BASELINES)}.")
        return Forecaster(name)
    path = Path(run)
    if path.is_dir():
        return Forecaster(name, load_run(path, name, device))
    if name in shipped():
        return Forecaster(name, load_run(shipped()[name], name, device))
    raise InputError(
        f"There is no run {name!r}: expected a run directory, a shipped run ({', '.join(shipped()) or 'none'}), system:NAME "
        f"(`eddycast systems` lists them) or baseline:NAME ({', '.join(BASELINES)})."
    )
