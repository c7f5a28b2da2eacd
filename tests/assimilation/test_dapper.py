"""DAPPER as referee: the same update on the same inputs, the same dynamics, and our filters plugged into its twins.

Scores over long twins stand in `results/dapper-twins.json`, made by `validation/dapper_twins.py`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from eddycast.assimilation import LETKFOptions, enkf_weights, etkf_weights, transform_ensemble
from eddycast.assimilation.updates import mixed, whitened_departures
from eddycast.noise import MemberNoise
from eddycast.simulators import get_system

sys.path.append(str(Path(__file__).resolve().parents[2] / "validation"))


@pytest.fixture(scope="module")
def dapper(tmp_path_factory):
    """DAPPER, which makes a folder for its data wherever it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("dapper"))
        module = pytest.importorskip("dapper")
    module.rc.liveplotting = False
    return module


def problem(members: int, observed: int, size: int = 30):
    generator = np.random.default_rng(members + observed)
    ensemble = generator.standard_normal((members, size)) @ generator.standard_normal((size, size)) / size**0.5
    h, root = generator.standard_normal((observed, size)), generator.standard_normal((observed, observed))
    return ensemble, h, generator.standard_normal(observed), root @ root.T / observed + 0.3 * np.eye(observed)


@pytest.mark.parametrize("members, observed", [(10, 25), (25, 10), (40, 30)])
def test_one_analysis_is_dappers_to_1e_10(dapper, members, observed):
    """Transform and perturbed observations (with its draws), with errors that are correlated."""
    from dapper.da_methods.ensemble import EnKF_analysis
    from dapper.tools.randvars import GaussRV

    ensemble, h, y, covariance = problem(members, observed)
    noise = GaussRV(C=covariance)
    root = torch.from_numpy(np.asarray(noise.C.sym_sqrt_inv))
    states = torch.from_numpy(ensemble)[:, None]
    seen, value = (states @ torch.from_numpy(h).T @ root).movedim(0, 1), torch.from_numpy(y)[None] @ root
    mean = seen.mean(dim=1)
    right = EnKF_analysis(ensemble.copy(), ensemble @ h.T, noise, y, "Sqrt")
    found = transform_ensemble(states, *etkf_weights(seen - mean[:, None], value - mean))
    assert np.abs(found[:, 0].numpy() - right).max() < 1e-10

    dapper.set_seed(7)
    right = EnKF_analysis(ensemble.copy(), ensemble @ h.T, noise, y, "PertObs")
    dapper.set_seed(7)
    drawn = noise.sample(members)
    drawn = (drawn - drawn.mean(axis=0)) * (members / (members - 1)) ** 0.5
    # it adds minus D to y, with D recentred as ours are
    found = mixed(states, enkf_weights(seen - mean[:, None], value - mean, -torch.from_numpy(drawn)[None] @ root))
    assert np.abs(found[:, 0].numpy() - right).max() < 1e-10


def test_one_local_analysis_is_dappers_to_1e_10(dapper):
    """Each point of a ring by itself, without the cut-off that it sets at a taper of 0.001."""
    from dapper.da_methods.ensemble import local_analyses
    from dapper.tools.localization import dist2coeff, pairwise_distances
    from dapper.tools.randvars import GaussRV
    from dapper_plug import ring

    from eddycast.observations import Measurement

    size, members, radius = 64, 8, 6.0
    ensemble, _, _, _ = problem(members, 5, size)
    sites = np.arange(0, size, 3)
    y = np.random.default_rng(1).standard_normal(len(sites))
    distances = pairwise_distances(np.arange(size)[:, None], sites[:, None], (size,))

    def taper(block):
        return np.arange(len(sites)), dist2coeff(distances[block].mean(axis=0), radius, "GC")

    noise = GaussRV(C=0.4 * np.eye(len(sites))).C
    blocks = [[point] for point in range(size)]
    right, _ = local_analyses(ensemble.copy(), ensemble[:, sites], noise, y, blocks, taper)
    states = torch.from_numpy(ensemble)[:, None, None, None]
    measurement = Measurement(
        lambda x: x[..., 0, 0, sites],
        torch.from_numpy(y)[None],
        torch.full((1, len(sites)), 0.4**0.5, dtype=torch.float64),
        torch.from_numpy(sites).double()[None, :, None],
        torch.zeros(1, len(sites), dtype=torch.long),
    )
    options = LETKFOptions(radius=2 * 1.82 * radius)
    noise = MemberNoise.grid(0, 1, members)
    update = options.update(whitened_departures(states, measurement), measurement, ring(size), noise=noise, key=(0, 0))
    assert np.abs(update(states)[:, 0, 0, 0].numpy() - right).max() < 1e-10


@pytest.mark.parametrize("name, module, dt", [("lorenz-63", "Lorenz63", 0.01), ("lorenz-96", "Lorenz96", 0.05)])
def test_our_solvers_take_the_same_steps(dapper, name, module, dt):
    step = importlib.import_module(f"dapper.mods.{module}").step
    system = get_system(name)
    parameters = system.info.default_parameters().double()
    size = 3 if name == "lorenz-63" else 40
    start = 3 * np.random.default_rng(0).standard_normal((5, size))
    states, right = torch.from_numpy(start), start
    channels = len(system.info.fields)
    grid = system.grid()
    flow = system.flow(parameters, grid, dt, dtype=torch.float64, inner_dt=dt)
    states = states.reshape(5, channels, *grid.shape)
    for _ in range(20):
        states, right = flow(states), step(right, 0.0, dt)
    assert np.abs(states.reshape(5, size).numpy() - right).max() < 1e-9


@pytest.mark.parametrize("method, settings", [("etkf", {}), ("letkf", {"radius": 1e6})])
def test_dapper_scores_our_filter_in_its_own_twin(dapper, method, settings):
    """Without rotations both are the same map: 25 cycles of its Lorenz-96 twin from the same ensemble agree to rounding, which grows."""
    from dapper.da_methods import EnKF
    from dapper_plug import Eddycast

    twin = importlib.import_module("dapper.mods.Lorenz96.sakov2008").HMM.copy()
    twin.tseq.BurnIn, twin.tseq.Ko = 0, 24
    dapper.set_seed(3)
    truth, seen = twin.simulate()
    errors = []
    for xp in (EnKF("Sqrt", N=24, infl=1.0), Eddycast(N=24, method=method, settings={"inflation": 1.0} | settings)):
        dapper.set_seed(5)
        xp.assimilate(twin, truth, seen)
        errors.append(np.stack([xp.stats.err.rms.a, xp.stats.spread.rms.a, xp.stats.crps.rms.a]))
    assert errors[0].min() > 0.005
    assert np.abs(errors[0] - errors[1]).max() < 1e-8
