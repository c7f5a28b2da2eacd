"""Tables of the page on DYffusion, from results/dy-*.json; used by `tables.py`. Run alone, it draws the page's pictures:

python validation/dyffusion_tables.py [--runs runs/validation]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latent_tables import paper
from pages import ROOT, results, table

PICTURES = ROOT / "docs" / "pictures"
SYSTEMS = {"spring": "spring mesh", "sst": "synthetic SST", "sine": "sine wave", "l63": "Lorenz-63"}


def found(job: str) -> list[dict[str, Any]]:
    """Results of a job, by seed."""
    return [record for record in results(f"dy-{job}-s") if record["job"].rpartition("-s")[0] == f"dy-{job}"]


def figure(row: dict[str, Any], name: str, digits: int = 3) -> str:
    """Three figures, with the standard error if there is one."""
    value, error = row.get(name), row.get(f"{name}_se")
    if value is None:
        return ""
    return f"{value:.{digits}g}" + (f" ± {error:.1g}" if error is not None else "")


def cost(record: dict[str, Any], name: str) -> str:
    """CPU-minutes of training."""
    run = record["provenance"].get("runs", {}).get(name)
    return "" if run is None else f"{run['cpu_seconds'] / 60:.1f}"


def rows_of(record: dict[str, Any], columns: Callable[[str, dict[str, Any]], list[str]]) -> list[list[str]]:
    seed = record["provenance"]["seed"]
    return [
        [f"{name.removeprefix('baseline:')}, seed {seed}", *columns(name, row)]
        for name, row in record["result"]["dyffusion_rows"].items()
    ]


HEADER = ["CRPS", "CRPS, biased", "MSE of the mean", "SSR, published", "spread / skill"]


def common(row: dict[str, Any]) -> list[str]:
    return [
        figure(row, "crps"),
        figure(row, "crps_biased").partition(" ")[0],
        figure(row, "mse"),
        figure(row, "ssr_published", 2).partition(" ")[0],
        figure(row, "spread_skill", 2),
    ]


def methods(job: str) -> str:
    """Every emulator of a system."""
    rows = []
    for record in [*found(job), *found(f"{job}-second")]:
        rows += rows_of(
            record,
            lambda name, row, record=record: [
                cost(record, name), *common(row), figure(row, "inside_80", 2).partition(" ")[0], f"{row['passes_per_state']:.1f}",
            ],
        )  # fmt: skip
    return table(["", "CPU-min", *HEADER, "in 80 % interval", "passes per state"], rows)


def sampling(job: str) -> str:
    """One emulator sampled in many ways; the difference is of the first row of the table, paired by case."""
    rows = []
    for record in found(f"{job}-sampling"):
        contrasts = record["result"]["contrasts"]

        def columns(name: str, row: dict[str, Any], contrasts: dict[str, Any] = contrasts) -> list[str]:
            gap = next((value for key, value in contrasts.items() if key.startswith(f"{name} less ")), None)
            return [
                figure(row, "crps"),
                "" if gap is None else f"{gap['mean']:+.2g} ± {gap['se']:.1g}",
                figure(row, "spread_skill", 2),
                f"{row['passes_per_state']:.2f}",
                f"{row['cpu_milliseconds_per_state']:.2f}",
            ]

        rows += rows_of(record, columns)
    return table(["", "CRPS", "less the first", "spread / skill", "passes per state", "CPU-ms per state"], rows)


def settings(*jobs: str) -> str:
    """Runs that differ in one setting; of interpolators their own CRPS, given both true ends."""
    rows = []
    for job in jobs:
        for record in found(job):
            rows += rows_of(
                record,
                lambda name, row: [figure(row, "interpolator_crps"), *common(row), f"{row['passes_per_state']:.1f}"],
            )
    return table(["", "CRPS of the interpolator", *HEADER, "passes per state"], rows)


TABLES: dict[str, Callable[[], str]] = {
    **{f"dy-{job}": lambda job=job: methods(job) for job in SYSTEMS},
    **{f"dy-{job}-sampling": lambda job=job: sampling(job) for job in SYSTEMS},
    "dy-rates": lambda: settings("l63-rates", "sst-rates"),
    "dy-horizons": lambda: settings("l63-horizons"),
    "dy-worse": lambda: settings("l63-widths", "l63-degraded", "sst-degraded"),
    "dy-shares": lambda: settings("sst-shares"),
    "dy-paper": lambda: paper(("spring-mesh", "channel-obstacles", "sea-surface")),
}

COLOURS = {
    "DYffusion, dropout": "#0072b2", "DYffusion, noise": "#009e73", "DYffusion, bridge": "#56b4e9", "dropout": "#d55e00",
    "DDPM": "#cc79a7", "video diffusion": "#e69f00", "autoregressive": "#777777", "exact law": "#000000",
}  # fmt: skip


def draw(runs: Path) -> None:
    """CRPS and spread over skill along the leads, and one forecast of the spring mesh."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    known = {job: found(job)[0] for job in SYSTEMS if found(job)}
    drawn, panels = plt.subplots(2, len(known), figsize=(3.1 * len(known), 5), layout="constrained", squeeze=False)
    for column, (job, record) in enumerate(known.items()):
        for name, row in record["result"]["dyffusion_rows"].items():
            if name not in COLOURS:
                continue
            for place, score in enumerate(("crps", "spread_skill")):
                values = row["curves"].get(score)
                if values is not None:
                    panels[place, column].plot(
                        range(1, len(values) + 1), values, color=COLOURS[name], label=name, lw=1.3
                    )
        panels[0, column].set_title(SYSTEMS[job], fontsize=10)
        panels[0, column].set_yscale("log")
        panels[1, column].axhline(1, color="#bbbbbb", lw=0.8, zorder=0)
        panels[1, column].set_ylim(0, 2.5)
        panels[1, column].set_xlabel("lead, steps")
    panels[0, 0].set_ylabel("CRPS, standard deviations")
    panels[1, 0].set_ylabel("spread / skill")
    lines = {line.get_label(): line for panel in panels[0] for line in panel.get_lines()}
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    drawn.savefig(PICTURES / "dy-leads.png", dpi=110)
    draw_mesh(runs)


def draw_mesh(runs: Path) -> None:
    """Particles of one test mesh at three leads: truth, and ten members of two emulators."""
    import matplotlib.pyplot as plt

    from eddycast import api

    dataset = api.open_dataset(runs / "spring-data")
    initial = dataset.initial("test", start=0, leads=1).select([0])
    leads, members = (16, 48, 96), 10
    truth = dataset.read(int(initial.trajectories[0]), 1, leads[-1] + 1)
    made = {
        title: api.load(runs / run).forecast(initial, steps=leads[-1], members=members, seed=0)
        for title, run in (
            ("DYffusion, noise", "dy-spring-dyffusion-noise-s0"),
            ("dropout", "dy-spring-regression-dropout-s0"),
        )
    }
    drawn, panels = plt.subplots(len(made), len(leads), figsize=(9, 6), layout="constrained", squeeze=False)
    for row, (title, states) in enumerate(made.items()):
        for column, lead in enumerate(leads):
            panel = panels[row, column]
            x, y = (states[name].isel(init=0, lead_time=lead - 1).values for name in ("position_x", "position_y"))
            for member in range(members):
                panel.plot(x[member].ravel(), y[member].ravel(), ".", ms=2, color=COLOURS[title], alpha=0.5)
            here = truth[lead - 1, -2:].flatten(1)
            panel.plot(*here.numpy(), "o", ms=4, mfc="none", mec="#000000", mew=0.6)
            panel.set_aspect("equal")
            panel.set_xticks([], [])
            panel.set_yticks([], [])
            if row == 0:
                panel.set_title(f"lead {lead} (t = {lead * dataset.dt:g})", fontsize=9)
        panels[row, 0].set_ylabel(f"{title}: members", fontsize=9)
    drawn.savefig(PICTURES / "dy-mesh.png", dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "validation")
    draw(parser.parse_args().runs)
