"""Tables of the page on latent diffusion, from results/ld-*.json; used by `tables.py`. Run alone, it draws the page's pictures:

python validation/latent_tables.py [--runs runs/validation]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pages import ROOT, results, table

PICTURES = ROOT / "docs" / "pictures"
RATES = ("5", "20", "80")
HORIZONS = ("1", "1-5", "6-15", "16-25")
PUBLISHED = ("low_band_power_rmse", "mid_band_power_rmse", "high_band_power_rmse", "wasserstein_values", "semd")


def found(job: str) -> list[dict[str, Any]]:
    """Results of a job, by seed."""
    return results(f"ld-{job}-s")


def figure(row: dict[str, Any], name: str, digits: int = 3) -> str:
    value, error = row.get(name), row.get(f"{name}_se")
    if value is None:
        return ""
    return f"{value:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")


def cost(record: dict[str, Any], name: str) -> str:
    """CPU-minutes of training."""
    run = record["provenance"].get("runs", {}).get(name)
    return "" if run is None else f"{run['cpu_seconds'] / 60:.1f}"


def named(record: dict[str, Any], name: str) -> str:
    return f"{name}, seed {record['provenance']['seed']}"


def emulation() -> str:
    """Every emulator: ensemble mean and member over the horizons, cost of training and of a state."""
    rows = []
    for record in found("emulation"):
        for name, row in record["result"]["latent_rows"].items():
            each = row["horizons"]
            rows.append(
                [named(record, name), cost(record, name)]
                + [figure(each[label], "vrmse_mean") for label in HORIZONS]
                + [figure(each[label], "vrmse_member") for label in ("1", "16-25")]
                + [
                    str(row["members"]),
                    f"{row['milliseconds_per_state']:.1f}" if "milliseconds_per_state" in row else "",
                ]
            )
    header = ["", "CPU-min"] + [f"VRMSE of the mean, lead {label}" for label in HORIZONS]
    return table([*header, "member, lead 1", "member, 16-25", "members", "ms per state"], rows)


def calibration() -> str:
    """CRPS, spread over skill and coverage of the same forecasts."""
    rows = []
    for record in found("emulation"):
        for name, row in record["result"]["latent_rows"].items():
            each = row["horizons"]
            if row["members"] == 1 and "solver" not in name:
                continue
            rows.append(
                [named(record, name)]
                + [figure(each[label], "crps") for label in HORIZONS]
                + [figure(each[label], "spread_skill", 2) for label in HORIZONS]
                + [figure(each[label], "inside_80", 2).partition(" ")[0] for label in ("1", "16-25")]
            )
    header = ["", *(f"CRPS, lead {label}" for label in HORIZONS), *(f"spread / skill, {label}" for label in HORIZONS)]
    return table([*header, "in 80 % interval, lead 1", "16-25"], rows)


def spectra() -> str:
    """Errors of the power spectrum in three bands, distance of values, and mass to carry, as `eddycast evaluate` gives them."""
    wanted = ("low_band_power_rmse", "mid_band_power_rmse", "high_band_power_rmse", "wasserstein_values", "semd")
    rows = []
    for record in found("emulation"):
        for name, row in record["result"]["latent_rows"].items():
            scores = row.get("published")
            if not scores:
                continue
            cells = [
                " / ".join(f"{scores[label][key]:.3f}" if key in scores[label] else "" for key in wanted)
                for label in ("1:5", "6:15", "16:25")
            ]
            rows.append([named(record, name), *cells])
    return table(["low / mid / high band / Wasserstein / SEMD", "leads 1-5", "6-15", "16-25"], rows)


def contrasts() -> str:
    """Paired differences, with their standard errors."""
    rows = []
    for record in found("emulation"):
        for name, horizons in record["result"]["contrasts"].items():
            for score in next(iter(horizons.values())):
                cells = [
                    f"{horizons[label][score]['mean']:+.3f} ± {horizons[label][score]['se']:.3f}" for label in HORIZONS
                ]
                rows.append([named(record, name), score.replace("_", " "), *cells])
    return table(["difference", "score", *(f"lead {label}" for label in HORIZONS)], rows)


def plain_rows(job: str) -> str:
    """Rows of a comparison: VRMSE, CRPS and spread over skill by horizon."""
    rows = []
    for record in found(job):
        for name, row in record["result"]["latent_rows"].items():
            each = row["horizons"]
            rows.append(
                [named(record, name)]
                + [figure(each[label], "vrmse_mean") for label in HORIZONS]
                + [figure(each[label], "crps").partition(" ")[0] for label in HORIZONS]
                + [figure(each[label], "spread_skill", 2) for label in HORIZONS]
                + [figure(each[label], "inside_80", 2).partition(" ")[0] for label in ("1", "6-15", "16-25")]
            )
    header = [""]
    header += [f"VRMSE of the mean, lead {label}" for label in HORIZONS] + [f"CRPS, {label}" for label in HORIZONS]
    header += [f"spread / skill, {label}" for label in HORIZONS]
    return table([*header, *(f"in 80 % interval, {label}" for label in ("1", "6-15", "16-25"))], rows)


def costs() -> str:
    rows = []
    for record in found("costs"):
        for name, row in record["result"]["milliseconds"].items():
            rows.append(
                [named(record, name), f"{row['median']:.2f}", ", ".join(f"{each:.2f}" for each in row["turns"])]
            )
    return table(["", "CPU-ms per state and member", "in turns"], rows)


def guidance() -> str:
    rows = []
    for record in found("guidance"):
        for name, row in record["result"]["guided_rows"].items():
            mean, error = row["mean"], row["se"]
            rows.append(
                [named(record, name)]
                + [f"{mean[key]:.3f} ± {error[key]:.3f}" for key in ("vrmse_mean", "vrmse_member", "crps")]
                + [f"{row['spread_skill']:.2f}", f"{row['passes'][0]:.0f} + {row['passes'][1]:.0f}"]
            )
    return table(["", "VRMSE of the mean", "of a member", "CRPS", "spread / skill", "passes forward + back"], rows)


def training() -> str:
    """Reconstruction error of autoencoders while they learn."""
    rows = []
    for record in found("training"):
        for name, row in record["result"]["curves"].items():
            marks = "  ".join(f"{step}: {value:.3f}" for step, value in zip(row["steps"], row["vrmse"], strict=True))
            rows.append([name, marks, f"{row['cpu_seconds_per_step']:.3f}", f"{row['cpu_seconds'] / 60:.1f}"])
    return table(["", "validation VRMSE at step", "CPU-s per step", "CPU-min"], rows)


def latents() -> str:
    """How well a probe of the central token tells a parameter, and how the latent space is ordered along it."""
    rows = []
    for record in found("latents"):
        for name, parameters in record["result"]["latents"].items():
            for parameter, row in parameters.items():
                chance = max(value for value in row["r2_permuted"] if value is not None)
                furthest = max(value for line in row["bures_wasserstein"] for value in line if value is not None)
                floors = [value for value in row["floor"] if value is not None]
                floor = f"{sum(floors) / len(floors):.2f}" if floors else ""
                rows.append(
                    [
                        name,
                        parameter,
                        f"{row['r2']:.3f}",
                        f"{chance:.3f}",
                        f"{row['order']:.2f}",
                        f"{furthest:.2f}",
                        floor,
                    ]
                )
    header = ["compression", "parameter", "R² of the probe", "of dealt parameters, at most", "order along it"]
    return table([*header, "largest Bures–Wasserstein distance", "by chance"], rows)


def paper(systems: tuple[str, ...] = ("euler", "rayleigh-benard", "turbulence")) -> str:
    """Single steps of the published sizes of these systems."""
    rows = []
    for path in sorted((ROOT / "results").glob("paper-*.json")):
        record = json.loads(path.read_text())
        hardware = record["provenance"].get("hardware", path.stem)
        for name, row in record["rows"].items():
            if "input" in row and name.startswith(systems):
                shape = " x ".join(map(str, row["input"]))
                rows.append(
                    [f"`{name}`", f"{row['parameters']:,}", shape, f"{row['seconds_per_step']:.1f}", str(hardware)]
                )
    return table(
        ["recipe", "parameters", "input (batch, frames, channels, points)", "seconds of one step", "hardware"], rows
    )


TABLES: dict[str, Callable[[], str]] = {
    "ld-emulation": emulation,
    "ld-calibration": calibration,
    "ld-spectra": spectra,
    "ld-contrasts": contrasts,
    "ld-contexts": lambda: plain_rows("contexts"),
    "ld-shares": lambda: plain_rows("shares"),
    "ld-dressing": lambda: plain_rows("dressing"),
    "ld-costs": costs,
    "ld-guidance": guidance,
    "ld-training": training,
    "ld-latents": latents,
    "ld-paper": paper,
}


def draw(runs: Path) -> None:
    """Error over compression, and one test case: truth, reconstructions, members and solvers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    record = next(each for each in found("emulation") if each["provenance"]["seed"] == 0)
    rows = record["result"]["latent_rows"]
    figure_, panels = plt.subplots(1, len(HORIZONS), figsize=(10, 3), sharey=True, layout="constrained")
    kinds = (
        ("reconstruction", "#777777", "s"),
        ("latent diffusion", "#0072b2", "o"),
        ("latent solver", "#d55e00", "^"),
    )
    for panel, label in zip(panels, HORIZONS, strict=True):
        for kind, colour, marker in kinds:
            known = [rate for rate in RATES if f"{kind} /{rate}" in rows]
            here = [rows[f"{kind} /{rate}"]["horizons"][label] for rate in known]
            panel.errorbar(
                [float(rate) for rate in known], [part["vrmse_mean"] for part in here],
                [part["vrmse_mean_se"] for part in here], color=colour, marker=marker, label=kind, capsize=2,
            )  # fmt: skip
        for name, colour in (("pixel diffusion", "#009e73"), ("pixel solver", "#cc79a7")):
            if name in rows:
                panel.axhline(rows[name]["horizons"][label]["vrmse_mean"], color=colour, linestyle="--", label=name)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xticks([5, 20, 80], ["5", "20", "80"])
        panel.minorticks_off()
        panel.set_title(f"lead {label}", fontsize=10)
        panel.set_xlabel("compression")
    panels[0].set_ylabel("VRMSE of the ensemble mean")
    figure_.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8, frameon=False
    )
    figure_.savefig(PICTURES / "ld-compression.png", dpi=110)
    draw_case(runs)


def draw_case(runs: Path) -> None:
    """Density of the first test case at four leads."""
    import cmocean
    import matplotlib.pyplot as plt

    from eddycast import api

    dataset = api.open_dataset(runs / "euler-data")
    initial = dataset.initial("test", start=0, leads=1).select([0])
    leads = (1, 5, 12, 24)
    made: dict[str, Any] = {}
    for rate, channels in zip(RATES, (64, 16, 4), strict=True):
        made[f"reconstruction /{rate}"] = api.load(runs / f"ld-ae-{channels}-s0").reconstruct(dataset, steps=leads[-1])
    for title, run in (
        ("latent diffusion /20, a member", "ld-diffusion-16-s0"),
        ("latent solver /20", "ld-solver-16-s0"),
        ("pixel diffusion, a member", "ld-pixel-diffusion-s0"),
        ("pixel solver", "ld-pixel-solver-s0"),
    ):
        if (runs / run / "config.json").exists():
            made[title] = api.load(runs / run).forecast(initial, steps=leads[-1], members=1, seed=0)
    truth = dataset.read(int(initial.trajectories[0]), 1, leads[-1] + 1)[:, dataset.field_names.index("density")]
    low, high = float(truth.min()), float(truth.max())
    panels = plt.figure(figsize=(8, 1.75 * (len(made) + 1)), layout="constrained").subplots(len(made) + 1, len(leads))
    for row, (name, states) in enumerate([("truth", truth.numpy()), *made.items()]):
        values = states if name == "truth" else states["density"].isel(init=0, member=0).values
        for column, lead in enumerate(leads):
            panel = panels[row, column]
            panel.imshow(values[lead - 1].T, origin="lower", cmap=cmocean.cm.dense, vmin=low, vmax=high)
            panel.set_xticks([], [])
            panel.set_yticks([], [])
            if row == 0:
                panel.set_title(f"lead {lead} (t = {lead * dataset.dt:.2f})", fontsize=9)
        panels[row, 0].set_ylabel(name.replace(", ", ",\n"), fontsize=7)
    plt.gcf().savefig(PICTURES / "ld-case.png", dpi=100)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "validation")
    draw(parser.parse_args().runs)
