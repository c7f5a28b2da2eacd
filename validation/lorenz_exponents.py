"""The Lyapunov exponents of the two Lorenz systems quoted in `eddycast/simulators/lorenz_{63,96}.py`; some CPU-minutes.

Right for the same reasons as `lyapunov_exponents.py`. For many short runs the time in which the perturbation turns to the leading
direction is left out.

    python validation/lorenz_exponents.py [--runs N]
"""

from __future__ import annotations

import argparse

import torch

from eddycast.noise import MemberNoise
from eddycast.numerics.lyapunov import LyapunovEstimate, leading_exponent
from eddycast.simulators import get_system

INTERVAL, SPIN_UP, DISCARDED, MEASURED = 0.5, 40.0, 20, 100
FORCINGS = (6.0, 8.0, 10.0, 12.0, 16.0)


def exponent(name: str, values: dict[str, float], runs: int, seed: int = 0) -> LyapunovEstimate:
    """Leading exponent over independent runs with these parameters, others at their defaults, in double precision."""
    system = get_system(name)
    parameters = system.info.default_parameters().expand(runs, -1).clone()
    for key, value in values.items():
        parameters[:, system.info.parameter_names.index(key)] = value
    grid = system.grid(None, parameters)
    number = torch.arange(runs)
    noise = MemberNoise(seed, number, torch.zeros_like(number))
    state = system.initial(parameters, grid, noise, dtype=torch.float64)
    flow = system.flow(parameters, grid, INTERVAL, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(round(SPIN_UP / INTERVAL)):
            state = flow(state)
    tangent = noise.draw(tuple(state.shape[1:]), key=(0, 0, "tangent"), dtype=torch.float64)
    return leading_exponent(flow, state, tangent, interval=INTERVAL, num_intervals=MEASURED, num_discarded=DISCARDED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=4096, help="of Lorenz-63; of Lorenz-96 a sixteenth for each forcing"
    )
    runs = parser.parse_args().runs
    found = exponent("lorenz-63", {}, runs)
    print(f"lorenz-63, rho = 28: {found.exponent:.4f}, standard error {found.standard_error:.4f}")
    for forcing in FORCINGS:
        found = exponent("lorenz-96", {"forcing": forcing}, max(2, runs // 16))
        print(
            f"lorenz-96, F = {forcing:g}: {found.exponent:.3f}, standard error {found.standard_error:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
