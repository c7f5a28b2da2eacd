"""Write the tables of the documentation from results/*.json, between the markers that stand there.

    python validation/tables.py [--check]

A table replaces what stands between `<!-- results:NAME -->` and `<!-- end -->` in README.md and docs/*.md. `--check` changes nothing
and fails when a table is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

import conditional_tables
import dyffusion_tables
import latent_tables
import parametric_tables
from pages import ROOT, results, table

MARKED = re.compile(r"(<!-- results:([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
LYAPUNOV_LEADS = {2: "1", 3: "2", 5: "4", 6: "5"}
"""Place of a lead among those of a curve: its Lyapunov times."""
LENGTHS = {"ks": "L = 36: ", "ks64": "L = 64: "}
FAMILIES = {"regression": "regression", "scoring": "scoring rule", "universal": "universal diffusion"}


def time_of(skill: dict[str, Any], kind: str) -> str:
    """High-correlation time with its interval, in Lyapunov times."""
    row = skill["high_correlation_lyapunov_times"][kind]
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def curve(skill: dict[str, Any], name: str, place: int, digits: int = 3) -> str:
    """The score `name` at the lead number `place` of those that are kept."""
    values = [*skill["curves"].get(name, {}).values()]
    return f"{values[place]:.{digits}f}" if place < len(values) else ""


def cost(record: dict[str, Any]) -> str:
    training = record["provenance"].get("training")
    return "" if training is None else f"{training['cpu_seconds'] / 60:.1f}"


def title(record: dict[str, Any]) -> str:
    name, seed = record["job"].rsplit("-s", 1)
    system, family, size = name.split("-", 2)
    return f"{LENGTHS[system]}{FAMILIES[family]}, {size}, seed {seed}"


def forecasts() -> list[dict[str, Any]]:
    return [record for system in LENGTHS for record in results(f"{system}-") if "skill" in record["result"]]


def ks_forecast() -> str:
    """Skill of every emulator and reference."""
    rows = []
    for record in forecasts():
        skill = record["result"]["skill"]
        rows.append(
            [title(record), cost(record), time_of(skill, "member first"), time_of(skill, "mean first")]
            + [curve(skill, "crps", lead) or curve(skill, "mae_mean", lead) for lead in LYAPUNOV_LEADS]
        )
    for system, length in LENGTHS.items():
        for name, skill in [
            row for record in results(f"{system}-reference") for row in record["result"]["rows"].items()
        ]:
            rows.append(
                [
                    length + name.removeprefix("baseline:"),
                    "",
                    time_of(skill, "member first"),
                    time_of(skill, "mean first"),
                ]
                + [curve(skill, "crps", lead) for lead in LYAPUNOV_LEADS]
            )
    header = ["forecast", "CPU-minutes of training", "high-correlation time, first member", "ensemble mean"]
    return table(header + [f"CRPS at {time} LT" for time in LYAPUNOV_LEADS.values()], rows)


def ks_calibration() -> str:
    """Spread over error at some leads."""
    leads = ["1 step", "0.3 LT", "1 LT", "2 LT", "3 LT", "4 LT", "5 LT"]
    rows = [
        [title(record)] + [curve(record["result"]["skill"], "spread_skill", place, 2) for place in range(len(leads))]
        for record in forecasts()
        if record["result"]["skill"]["members"] > 1
    ]
    return table(["spread / error at lead"] + leads, rows)


def ks_stability() -> str:
    """Long runs with and without the guard."""
    rows = []
    for record in forecasts():
        if "stability" not in record["result"]:
            continue
        kept, free = record["result"]["stability"], record["result"]["stability_without_guard"]
        rows.append(
            [
                title(record),
                f"{kept['blown_up']} of {kept['cases']} in {kept['steps']} steps",
                f"{free['blown_up']} of {free['cases']} in {free['steps']} steps",
                f"{kept['spectrum_largest_error']:.2f} / {kept['spectrum_mean_error']:.3f}"
                if "spectrum_modes" in kept
                else "",
                f"{free['spectrum_largest_error']:.2f} / {free['spectrum_mean_error']:.3f}"
                if "spectrum_modes" in free
                else "",
            ]
        )
    header = [
        "emulator",
        "blown up, with guard",
        "without",
        "spectrum error (largest / mean, decades), with guard",
        "without",
    ]
    return table(header, rows)


def ks_assimilation() -> str:
    """Analyses of the same observations by all methods."""
    rows = []
    for record in results("ks-assimilation"):
        for name, row in record["result"]["rows"].items():
            rows.append(
                [
                    f"{name}, seed {record['provenance']['seed']}",
                    str(row["members"]),
                    *(f"{row[key]:.3f}" for key in ("rmse", "rmse_first", "rmse_middle", "rmse_last")),
                    f"{row['spread_skill']:.2f}",
                    f"{row['rmse_over_smoother']:.2f} / {row['rmse_over_best_smoother']:.2f}",
                ]
            )
    header = ["analysis", "members", "RMSE (sd)", "first frame", "middle", "last", "spread / error"]
    return table([*header, "RMSE over that of the perfect-model smoother in 1 / 4 passes"], rows)


def ks_summary() -> str:
    """The README's few lines."""
    rows = []
    for record in forecasts():
        kept = record["result"].get("stability")
        blown = "" if kept is None else f"{kept['blown_up']} of {kept['cases']} in {kept['steps']} steps"
        rows.append([title(record), cost(record), time_of(record["result"]["skill"], "member first"), blown])
    header = [
        "emulator of the Kuramoto-Sivashinsky equation",
        "CPU-minutes",
        "first member stays above 0.8 correlation (Lyapunov times)",
        "blown up",
    ]
    return table(header, rows)


OWN_DATA = {
    "own-e1": "air temperature, years",
    "own-e1-context-10": "air temperature, years, 10 states known",
    "own-ostia": "sea temperature, months",
    "own-ostia-16-months": "sea temperature, months, shares 0.6 / 0.1 / 0.3",
}


def own_data() -> str:
    """CRPS at the first lead on real records, and by how much the emulator is below each baseline."""
    rows = []
    for record in results("own-"):
        name, seed = record["job"].rsplit("-s", 1)
        result = record["result"]
        scores = result["records"]
        cells = [
            f"{OWN_DATA[name]}, seed {seed}",
            cost(record),
            str(result["starts"]),
            f"{scores['emulator']['crps_lead_1']:.3f}",
        ]
        for baseline in ("persistence", "climatology", "recent climatology"):
            row = scores[baseline]
            gain, low, high = row["emulator_lower_by"]
            interval = f" ({low:+.3f} to {high:+.3f})" if low == low and low is not None else ""
            cells.append(f"{row['crps_lead_1']:.3f}; {gain:+.3f}{interval}")
        rows.append([*cells, f"{scores['emulator']['spread_skill'][0]:.2f}"])
    header = [
        "record",
        "CPU-minutes",
        "starts",
        "emulator",
        "persistence; gain",
        "climatology; gain",
        "recent climatology; gain",
    ]
    return table([*header, "spread / error"], rows)


def benchmarks() -> str:
    """Ours beside the peers, from the files of `benchmark.py`; of the samplers the costliest alone."""
    rows = []
    for case in ("ks", "kolmogorov", "data", "crps", "samplers", "idle"):
        for record in results(f"benchmark-{case}"):
            found = record["rows"]
            if case == "samplers":
                found = [max(found, key=lambda row: row["ratio"])]
            for row in found:
                target = "" if row["target"] is None else ("at most " if row["at_most"] else "") + f"{row['target']:g}"
                met = "" if row["target"] is None else "yes" if row["met"] else "no"
                rows.append([row["name"], row["ours"], row["peer"], f"{row['ratio']:.3g}", target, met])
    return table(["what", "ours", "peer", "ratio", "target", "met"], rows)


def guidance_result() -> dict[str, Any]:
    (record,) = results("guidance")
    return record["result"]


def bias(row: dict[str, Any]) -> str:
    """Error of the mean, spread."""
    return f"{row['error']:.3f}, {row['spread']:.2f}"


def guidance_rules() -> str:
    """Bias of every rule on every problem, and what an evaluation costs."""
    titles = {
        "field-0.05": "field, sd 0.05",
        "field-0.5": "field, sd 0.5",
        "ar1": "chain, order 1",
        "ar2": "chain, order 2",
        "tracer": "tracer",
    }
    result = guidance_result()
    rows = [
        [name]
        + [bias(row[key]) if key in row else "" for key in titles]
        + [f"{max(cell['forward'] for cell in row.values())}, {max(cell['backward'] for cell in row.values())}"]
        for name, row in result["rows"].items()
    ]
    rows.append(["*sampling error*", *(f"{result['floors'][key]:.3f}, 1" for key in titles), ""])
    return table(["rule", *titles.values(), "passes forward, back"], rows)


def guidance_corrections() -> str:
    """SDA with Langevin corrections, and with as many evaluations spent on steps."""
    rows = [
        [
            f"{row['gamma']:g}",
            str(row["corrections"]),
            str(row["evaluations"]),
            bias(row["corrected"]),
            bias(row["more steps"]),
        ]
        for row in guidance_result()["corrections"]
    ]
    return table(["gamma", "corrections", "evaluations", "64 steps with corrections", "that many steps without"], rows)


def guidance_schedules() -> str:
    """One gamma on the two published cosines."""
    columns = ("cosine-pdediff", "cosine-sda", "mistaken")
    rows = [[f"{row['gamma']:g}", *(bias(row[key]) for key in columns)] for row in guidance_result()["schedules"]]
    return table(["gamma", "`cosine-pdediff`", "`cosine-sda`", "rho of the other at the same time"], rows)


def exact_posteriors() -> str:
    """Every method on Gaussian fields: error of the mean, spread, error of the covariance at the sensors; passes at their most."""
    (record,) = results("exact-posteriors")
    found = record["result"]["field"]
    cases = list(found["exact draws"])

    def cell(row: dict[str, float]) -> str:
        return f"{row['error']:.3f}, {row['spread']:.2f}, {row['covariance_observed']:.2f}"

    rows = []
    for name, row in found.items():
        cost = ""
        if "forward" in row[cases[0]]:
            backward = [row[case]["backward"] for case in cases]
            cost = f"{row[cases[0]]['forward']:.0f}, {min(backward):.0f}"
            cost += f" to {max(backward):.0f}" if max(backward) > min(backward) else ""
        rows.append([f"*{name}*" if not cost else name, *(cell(row[case]) for case in cases), cost])
    return table(["method", *cases, "passes forward, back"], rows)


def exact_mixtures() -> str:
    """Weights of modes: error of one analysis, and of the mean of all, with what chance makes of the latter."""
    (record,) = results("exact-posteriors")
    found = record["result"]["mixture"]
    cases = list(found["exact draws"])
    rows = [
        [
            name if "`" in name else f"*{name}*",
            *(
                f"{row[case]['weights']:.3f}; {row[case]['bias']:.3f} ({row[case]['bias_by_chance']:.3f})"
                for case in cases
            ),
        ]
        for name, row in found.items()
    ]
    return table(["method", *cases], rows)


SYSTEMS = {"kuramoto_sivashinsky": "Kuramoto-Sivashinsky", "kolmogorov_flow": "Kolmogorov flow"}


def systems() -> str:
    """Statistics of our solvers beside those of outside ones, from the file of `published_systems.py`."""
    rows = []
    for record in results("systems"):
        for key, name in SYSTEMS.items():
            for row in record["result"][key]:
                numbers = [f"{row[column]:.4f}" for column in ("outside", "ours", "standard_error")]
                rows.append([f"{name}: {row['what']}", *numbers, f"{row['deviation']:+.1f}"])
    return table(
        ["mean over runs", "outside solver", "ours", "standard error of the difference", "in such errors"], rows
    )


def systems_radau() -> str:
    """Error of the Kuramoto-Sivashinsky solver against an implicit one, from the same file."""
    rows: list[list[str]] = []
    times: list[float] = []
    for record in results("systems"):
        for row in record["result"]["radau"]:
            times = row["times"]
            rows.append([f"{row['inner_step']:g}", *(f"{error:.1e}" for error in row["relative_error"])])
    return table(["inner step", *(f"t = {time:g}" for time in times)], rows)


def convection() -> str:
    """Statistics of our Rayleigh-Benard runs beside those of Dedalus, from the file of `rayleigh_benard.py`."""
    rows = [
        [
            row["what"],
            *(f"{row[column]:.3f}" for column in ("outside", "ours", "standard_error")),
            f"{row['deviation']:+.1f}",
        ]
        for record in results("rayleigh-benard")
        for row in record["result"]["statistics"]
    ]
    return table(
        ["mean over six set-ups", "Dedalus", "ours", "standard error of the difference", "in such errors"], rows
    )


def beta_plane() -> str:
    """Jets, energy and zonostrophy of our beta-plane runs by beta, from the file of `beta_plane.py`."""
    rows = []
    for record in results("beta-plane-solver"):
        for row in record["result"]["climate"]:
            columns = ("jets", "energy_over_balance", "zonal_share", "zonostrophy", "change_per_frame")
            numbers = [f"{row[column]['mean']:.2f}" for column in columns]
            numbers[0] += f" ({row['jets']['lowest']:.2f} to {row['jets']['highest']:.2f})"
            changes = f"{row['changes_of_the_count_per_100_frames']:.1f}"
            rows.append([f"{row['beta']:g}", *numbers, changes, f"{row['rms_zonal_velocity']['mean']:.3f}"])
    return table(
        [
            "beta", "jets (trajectories)", "energy", "zonal share of it", "zonostrophy index", "change per state",
            "changes of the count per 100 states", "rms U",
        ],
        rows,
    )  # fmt: skip


TABLES: dict[str, Callable[[], str]] = {
    "systems": systems,
    "beta-plane": beta_plane,
    "rayleigh-benard": convection,
    "systems-radau": systems_radau,
    "ks": ks_summary,
    "ks-forecast": ks_forecast,
    "ks-calibration": ks_calibration,
    "ks-stability": ks_stability,
    "ks-assimilation": ks_assimilation,
    "own-data": own_data,
    "benchmarks": benchmarks,
    "guidance-rules": guidance_rules,
    "guidance-corrections": guidance_corrections,
    "guidance-schedules": guidance_schedules,
    "exact-posteriors": exact_posteriors,
    "exact-mixtures": exact_mixtures,
    **conditional_tables.TABLES,
    **latent_tables.TABLES,
    **parametric_tables.TABLES,
    **dyffusion_tables.TABLES,
}


def main() -> None:
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text()
        fresh = MARKED.sub(lambda m: m[1] + (TABLES[m[2]]() if m[2] in TABLES else m[3]) + m[4], text)
        if fresh != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(fresh)
    print(", ".join(stale) or "nothing", "to change" if "--check" in sys.argv else "changed")
    if stale and "--check" in sys.argv:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
