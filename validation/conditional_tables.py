"""Tables of the page on conditional diffusion, from results/cd-*.json; used by `tables.py`. Run alone, it draws the page's pictures:

python validation/conditional_tables.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from pages import ROOT, results, table

PICTURES = ROOT / "docs" / "pictures"


def found(job: str) -> list[dict[str, Any]]:
    """Results of a job, by seed."""
    return results(f"cd-{job}-s")


def figure(row: dict[str, Any], name: str, digits: int = 2) -> str:
    """Mean and standard error; nothing where there is none."""
    value, error = row.get(name), row.get(f"{name}_se")
    if value is None:
        return ""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def passes(row: dict[str, Any]) -> str:
    return f"{row['passes_forward']:.0f} + {row['passes_backward']:.0f}"


def forecasts(*jobs: str) -> str:
    """Forecasts of one comparison: times in Lyapunov times, in both conventions."""
    rows = []
    for record in [record for job in jobs for record in found(job)]:
        for name, row in record["result"]["forecast_rows"].items():
            lost = f"{row['lost']} of {row['cases'] * row['members']}"
            spread = "" if "spread_skill" not in row else f"{row['spread_skill']:.2f}"
            rows.append(
                [
                    f"{name}, seed {record['provenance']['seed']}", figure(row, "counted"), figure(row, "first"),
                    figure(row, "rmsd"), figure(row, "crps", 3), spread, f"{row['cpu_seconds']:.0f}", lost,
                    passes(row),
                ]
            )  # fmt: skip
    header = [
        "forecast",
        "all states ≥ 0.8",
        "first crossing",
        "RMSD (sd)",
        "fair CRPS (sd)",
        "spread / error",
        "CPU-seconds",
    ]
    return table([*header, "lost members", "passes forward + back"], rows)


def analyses(job: str) -> str:
    """Analyses of one comparison."""
    rows = []
    for record in found(job):
        for name, row in record["result"]["analysis_rows"].items():
            label = f"{name}, seed {record['provenance']['seed']}"
            if "failed" in row:
                rows.append([label, "", row["failed"].split(":")[0], "", "", "", "", ""])
                continue
            gamma = row["settings"].get("gamma")
            rows.append(
                [
                    label, "" if gamma is None else f"{gamma:g}", figure(row, "rmsd", 3), figure(row, "rmsd_mean", 3),
                    f"{row['rmse_of_mean_last_quarter']:.3f}", figure(row, "crps", 3),
                    f"{row['spread_skill']:.2f}" if "spread_skill" in row else "", passes(row),
                ]
            )  # fmt: skip
    header = [
        "analysis",
        "gamma",
        "RMSD of a member (sd)",
        "of the mean",
        "of the mean, last quarter",
        "fair CRPS (sd)",
    ]
    return table([*header, "spread / error", "passes forward + back"], rows)


def costs() -> str:
    """Seconds and memory of both ways of sampling."""
    rows = [
        [name, f"{row['seconds']:.1f}", str(row["extra_megabytes"]), f"{row['passes_forward']:.0f}"]
        for record in found("lengths")
        for name, row in record["result"]["length_rows"].items()
    ]
    return table(
        ["forecast of four members", "seconds", "peak memory beyond the program's own (MB)", "passes of a member"], rows
    )


def unseen(system: str) -> str:
    """What was not in training."""
    rows = []
    for record in found(f"{system}-unseen"):
        for name, row in record["result"]["unseen_rows"].items():
            cells = [f"{row['vrmse_member'][lead]:.3f}" for lead in ("1", "10", "20", "60")]
            spread = f"{row['spread_skill']['20']:.2f}" if "spread_skill" in row else ""
            rows.append([f"{name}, seed {record['provenance']['seed']}", *cells, spread])
    return table(["forecast", "VRMSE of a member, lead 1", "10", "20", "60", "spread / error, lead 20"], rows)


def long_runs() -> str:
    """Stability far beyond the training length."""
    rows = []
    for record in found("long"):
        for name, row in record["result"]["long_rows"].items():
            bands = " / ".join("" if value is None else f"{value:.2f}" for value in row["bands"])
            ratio = f"{row['std_ratio']:.2f}" if "std_ratio" in row else ""
            label = f"{name}, seed {record['provenance']['seed']}"
            rows.append([label, str(row["steps"]), f"{row['blown_up']} of {row['cases']}", ratio, bands])
    header = ["rollout", "steps", "blown up", "standard deviation over that of the data"]
    return table([*header, "largest spectrum error in low / middle / high modes (decades)"], rows)


def paper() -> str:
    """Twenty steps of the published sizes."""
    rows = []
    for path in sorted((ROOT / "results").glob("paper-*.json")):
        record = json.loads(path.read_text())
        hardware = record["provenance"].get("hardware", path.stem)
        for name, row in record["rows"].items():
            if "input" in row:  # a single step of latent diffusion, on its own page
                continue
            loss = f"{row['loss_first']:.3f} to {row['loss_last']:.3f}"
            rows.append([f"`{name}`", f"{row['parameters']:,}", loss, f"{row['seconds_per_step']:.2f}", str(hardware)])
    return table(
        ["recipe", "parameters", "loss, first to last five of 20 steps", "seconds per step, two windows", "hardware"],
        rows,
    )


TABLES: dict[str, Callable[[], str]] = {
    "cd-rollouts": lambda: forecasts("rollouts"),
    "cd-splits": lambda: forecasts("splits", "splits-8"),
    "cd-splits-published": lambda: forecasts("splits-published"),
    "cd-baselines": lambda: forecasts("baselines"),
    "cd-offline": lambda: analyses("offline"),
    "cd-offline-given": lambda: analyses("offline-given"),
    "cd-online": lambda: analyses("online"),
    "cd-hybrid": lambda: analyses("hybrid"),
    "cd-hard": lambda: analyses("hard"),
    "cd-lengths": costs,
    "cd-long": long_runs,
    "cd-burgers-unseen": lambda: unseen("burgers"),
    "cd-kolmogorov-unseen": lambda: unseen("kolmogorov"),
    "cd-paper": paper,
}


def draw() -> None:
    """Four pictures: splits P|C, offline RMSD over the share of points, gamma in the hybrid, cost over length."""
    from eddycast.report.canvas import LINES, encode, new_figure, styled

    PICTURES.mkdir(exist_ok=True)
    with styled():
        pages: dict[str, Any] = {}
        figure_ = new_figure(5.6, 3.0)
        axes = figure_.add_subplot()
        for record in [*found("splits"), *found("splits-8"), *found("splits-published")]:
            published = "published" in record["job"]
            told = "as published" if published else f"departures, seed {record['provenance']['seed']}"
            rows = record["result"]["forecast_rows"]
            mark = "^" if published else "o" if record["provenance"]["seed"] == 0 else "s"
            for colour, kind in enumerate(("universal", "plain")):
                points = [(int(name.rpartition("|")[2]), row) for name, row in rows.items() if name.startswith(kind)]
                axes.errorbar(
                    [known for known, _ in points], [row["first"] for _, row in points],
                    [row["first_se"] for _, row in points], color=LINES[colour], marker=mark, capsize=2,
                    linestyle="-" if kind == "universal" else "--", alpha=0.5 if published else 1.0, label=f"{kind}, {told}",
                )  # fmt: skip
        axes.set(xlabel="known states C of 9", ylabel="correlation ≥ 0.8 (Lyapunov times)", ylim=(0, None))
        axes.legend(fontsize=7)
        pages["cd-splits"] = figure_
        figure_ = new_figure(5.6, 3.0)
        axes = figure_.add_subplot()
        lines: dict[str, list[tuple[float, float]]] = {}
        for record in found("offline-given")[:1]:
            for name, row in record["result"]["analysis_rows"].items():
                label, _, fraction = name.partition(" @ ")
                if "failed" not in row:
                    lines.setdefault(label, []).append((float(fraction), row["rmsd"]))
        for colour, (label, points) in enumerate(lines.items()):
            axes.loglog(*zip(*points, strict=True), color=LINES[colour % len(LINES)], marker="o", label=label)
        axes.set(xlabel="share of points observed", ylabel="RMSD of a member (sd)")
        axes.set_xticks([0.02, 0.05, 0.15, 0.5], ["0.02", "0.05", "0.15", "0.5"])
        axes.set_xticks([], minor=True)
        figure_.legend(fontsize=6, loc="outside right upper")
        pages["cd-offline"] = figure_
        figure_ = new_figure(5.6, 3.0)
        axes = figure_.add_subplot()
        for record in found("hybrid")[:1]:
            groups: dict[str, list[tuple[float, float]]] = {}
            for name, row in record["result"]["analysis_rows"].items():
                gamma = re.search(r"gamma ([\d.]+)", name)
                if gamma and "failed" not in row:
                    groups.setdefault(name.split(",")[0], []).append((float(gamma[1]), row["rmsd"]))
            for colour, (label, points) in enumerate(groups.items()):
                axes.loglog(*zip(*points, strict=True), color=LINES[colour], marker="o", label=label)
        axes.set(xlabel="gamma", ylabel="RMSD of a member (sd)")
        axes.legend(fontsize=7)
        pages["cd-hybrid"] = figure_
        figure_ = new_figure(5.6, 3.0)
        axes = figure_.add_subplot()
        for record in found("lengths"):
            groups = {}
            for name, row in record["result"]["length_rows"].items():
                groups.setdefault(name.split(",")[0], []).append((row["steps"], row["extra_megabytes"]))
            for colour, (label, points) in enumerate(groups.items()):
                axes.loglog(*zip(*points, strict=True), color=LINES[colour], marker="o", label=label)
        axes.set(xlabel="states of the forecast", ylabel="peak memory (MB)")
        axes.set_xticks([24, 48, 96, 192, 288], ["24", "48", "96", "192", "288"])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=7)
        pages["cd-lengths"] = figure_
        for name, page in pages.items():
            (PICTURES / f"{name}.png").write_bytes(encode(page, ".png"))


if __name__ == "__main__":
    draw()
