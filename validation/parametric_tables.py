"""Tables of the page on parametric emulation, from results/pe-*.json; used by `tables.py`. Run alone, it draws the page's picture:

python validation/parametric_tables.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pages import ROOT, results, table

PICTURES = ROOT / "docs" / "pictures"
SEEN = ("22", "36", "64", "100", "200")
UNSEEN = ("44", "56", "80", "160")


def found(job: str) -> list[dict[str, Any]]:
    """Results of a job, by seed."""
    return [record for record in results(f"pe-{job}-s") if record["job"].rpartition("-s")[0] == f"pe-{job}"]


def spent(record: dict[str, Any], name: str) -> str:
    """CPU-minutes of the last stage of training."""
    run = record["provenance"].get("runs", {}).get(name)
    return "" if run is None else f"{run['cpu_seconds'] / 60:.1f}"


def time_of(row: dict[str, Any]) -> str:
    """High-correlation time with its interval."""
    beyond = "> " if row["beyond"] else ""
    low, high = row["high_correlation_time_low"], row["high_correlation_time_high"]
    return f"{beyond}{row['high_correlation_time']:.2f} ({low:.1f} to {high:.1f})"


def tracking(job: str, values: tuple[str, ...] | None = None) -> Callable[[], str]:
    """High-correlation times by parameter value."""

    def build() -> str:
        rows, columns = [], list(values or ())
        records = [
            record
            for suffix in ("-noisier", "-noise", "-unrolled", "-wide", "", "-second")
            for record in found(f"{job}{suffix}")
        ]
        seen: set[str] = set()
        for record in records:
            seed = record["provenance"]["seed"]
            for name, row in record["result"]["tracking"].items():
                columns = columns or list(row)
                if name.startswith("solver") and name in seen:
                    continue
                seen.add(name)
                rows.append(
                    [name, "" if name.startswith("solver") else str(seed), spent(record, name)]
                    + [time_of(row[value]) if value in row else "" for value in columns]
                )
        return table(["forecast", "seed", "CPU-minutes of the last stage", *columns], rows)

    return build


def valid_times() -> str:
    """Median valid time (NRMSE 0.5) and error of one step at each length."""
    rows = []
    for record in (
        found("lengths-noisier")
        + found("lengths-noise")
        + found("lengths-unrolled")
        + found("lengths-wide")
        + found("lengths")
    ):
        for name, row in record["result"]["tracking"].items():
            if name.startswith("solver"):
                continue
            cells = [
                f"{row[value]['valid_time_0.5'][1]:.2f}; {row[value]['nrmse_lead_1']:.1e}" if value in row else ""
                for value in (*UNSEEN, *SEEN)
            ]
            rows.append([name, *cells])
    return table(["forecast", *UNSEEN, *(f"{value} (seen)" for value in SEEN)], rows)


def far() -> str:
    """Statistics of long runs where there is no chaos, and far beyond the lengths of training."""
    rows = []
    for record in found("lengths-far"):
        for name, groups in record["result"]["statistics"].items():
            rows += [
                [name, value, *distances(group), f"{group['blown_up']} of {group['runs']}"]
                for value, group in groups.items()
            ]
    return table(
        ["forecast", "L", "Hellinger distance", "by chance (95 %)", "spectrum, mean log10 error", "bound", "lost"], rows
    )


def distances(group: dict[str, Any]) -> list[str]:
    average, spectrum = group["average"], group["spectrum"]
    return [
        figure(average["hellinger"]),
        f"{figure(average['by_chance'])} ({figure(average['bound'])})",
        figure(spectrum["error"]["all"]),
        figure(spectrum["bound"]["all"] if spectrum["bound"] else None),
    ]


def figure(value: Any, digits: int = 3) -> str:
    return "" if value is None else f"{value:.{digits}g}" if isinstance(value, float | int) else str(value)


def cost() -> str:
    rows = []
    for record in found("cost"):
        for name, groups in record["result"]["cost"].items():
            for value, row in groups.items():
                rows.append(
                    [
                        value,
                        name,
                        f"{row['cpu_seconds_per_1000_time_units']:.3g}",
                        time_of(row),
                        f"{row['nrmse_lead_1']:.1e}",
                    ]
                )
    rows.sort(key=lambda row: float(row[0]))
    return table(
        ["L", "forecast", "CPU-seconds per 1000 time units", "high-correlation time", "error of one step"], rows
    )


def skill(*jobs: str) -> Callable[[], str]:
    """Fair CRPS over 20 states by beta, and spread over error at leads 1, 5 and 20."""

    def build() -> str:
        rows, columns = [], []
        for record in (record for job in jobs for record in found(job)):
            for name, row in record["result"]["skill"].items():
                columns = columns or list(row)
                cells = []
                for one in (row[value] for value in columns):
                    ratio = one.get("spread_skill_by_lead")
                    told = "" if ratio is None else "; " + " ".join(f"{ratio[at]:.2f}" for at in (0, 4, 19))
                    cells.append(f"{one['crps']:.3f} ± {one['crps_se']:.3f}{told}")
                rows.append([name, str(record["provenance"]["seed"]), spent(record, name), *cells])
        return table(
            ["forecast", "seed", "CPU-minutes of the last stage", *(f"beta = {value}" for value in columns)], rows
        )

    return build


def climate() -> str:
    """Distances and rates of events of long runs at unseen beta."""
    rows = []
    for record in found("zonal-climate") + found("zonal-losses-climate") + found("zonal-balanced-climate"):
        for name, groups in record["result"]["climate"].items():
            for value, group in groups.items():
                rows.append(
                    [name, str(record["provenance"]["seed"]), value, *distances(group)]
                    + [
                        f"{jets(group['jets'])} / {jets(group['truth_jets'])}",
                        f"{events(group['jets'])} / {events(group['truth_jets'])}",
                    ]
                )
    header = [
        "forecast",
        "seed",
        "beta",
        "Hellinger distance",
        "by chance (95 %)",
        "spectrum, mean log10 error",
        "bound",
    ]
    return table([*header, "jets, emulator / solver", "changes per 100 states, emulator / solver"], rows)


def jets(side: dict[str, Any]) -> str:
    return f"{side['mean']:.2f}"


def events(side: dict[str, Any]) -> str:
    """Nucleations and coalescences in 5000 time units, 100 states, with the range of their 95 % intervals."""
    value, low, high = (
        5000 * (one + two) for one, two in zip(side["nucleation_rate"], side["coalescence_rate"], strict=True)
    )
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def gusts() -> str:
    rows = []
    for record in found("gusts") + found("gusts-more"):
        for name, row in record["result"]["gusts"].items():
            rows.append(
                [name, f"{row['between']:.2f}", f"{row['peaks']:.2f}", f"{row['std']:.2f}", figure(row.get("crps"))]
            )
    return table(
        ["one state later", "share in the middle third", "distance of the peaks", "standard deviation", "CRPS"], rows
    )


def few() -> str:
    rows = []
    for record in found("few"):
        for name, row in record["result"]["few"].items():
            rows.append(
                [
                    name,
                    str(record["provenance"]["seed"]),
                    spent(record, name),
                    f"{row['nrmse']:.4f} ± {row['nrmse_se']:.4f}",
                ]
            )
    return table(["fine-tuned", "seed", "CPU-minutes", "error over 20 steps"], rows)


def attention() -> str:
    rows = []
    for record in results("local-attention"):
        local, dense = record["result"]["local"], record["result"]["dense"]
        for points, took in local["milliseconds"].items():
            other = dense["milliseconds"].get(points)
            rows.append(
                [
                    points,
                    f"{took:.1f}",
                    figure(other),
                    figure(local["peak_megabytes"][points]),
                    figure(dense["peak_megabytes"].get(points)),
                ]
            )
        rows.append(
            [
                "exponent",
                f"{local['exponent']:.2f}",
                f"{dense['exponent']:.2f}",
                f"{local['exponent_of_memory']:.2f}",
                f"{dense['exponent_of_memory']:.2f}",
            ]
        )
    return table(["points", "local, ms", "dense, ms", "local, MB", "dense, MB"], rows)


TABLES = {
    "pe-unseen": tracking("lengths", UNSEEN),
    "pe-seen": tracking("lengths", SEEN),
    "pe-valid": valid_times,
    "pe-far": far,
    "pe-cost": cost,
    "pe-viscous": tracking("viscous"),
    "pe-viscous-rates": tracking("viscous-rates"),
    "pe-skill": skill("zonal-skill"),
    "pe-losses": skill("zonal-losses", "zonal-losses-more"),
    "pe-climate": climate,
    "pe-gusts": gusts,
    "pe-few": few,
    "pe-attention": attention,
}


def draw() -> None:
    """Laws and spectra of the zonal flow at unseen beta."""
    import matplotlib.pyplot as plt

    for record in found("zonal-climate")[:1]:
        groups = record["result"]["climate"]["told beta"]
        drawn, panels = plt.subplots(2, len(groups), figsize=(3 * len(groups), 5), layout="constrained", squeeze=False)
        for column, (value, group) in enumerate(groups.items()):
            for density in group["densities"][:1]:
                middle = [(a + b) / 2 for a, b in zip(density["edges"], density["edges"][1:], strict=False)]
                panels[0, column].semilogy(middle, density["truth"], color="#000000", lw=1, label="solver")
                panels[0, column].semilogy(middle, density["forecast"], color="#b5482a", lw=1.3, label="emulator")
            panels[0, column].set_title(f"beta = {value}", fontsize=10)
            panels[0, column].set_xlabel("U")
            spectrum = group["spectrum"]
            for side, colour in (("truth", "#000000"), ("forecast", "#b5482a")):
                panels[1, column].loglog(spectrum["wavenumber"], spectrum[side]["mean"], color=colour, lw=1.2)
                panels[1, column].fill_between(
                    spectrum["wavenumber"], spectrum[side]["low"], spectrum[side]["high"], color=colour, alpha=0.15
                )
            panels[1, column].set_xlabel("wavenumber")
        panels[0, 0].set_ylabel("density")
        panels[1, 0].set_ylabel("power of U")
        panels[0, 0].legend(fontsize=8, frameon=False)
        drawn.savefig(PICTURES / "pe-zonal.png", dpi=100)


if __name__ == "__main__":
    draw()
