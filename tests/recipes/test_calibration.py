"""The spread that the validation split asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import eddycast as ec
from eddycast.recipes import get_recipe
from eddycast.recipes.calibration import LOW, calibrated, error_over_spread


def exchangeable(members: int, width: float, generator: torch.Generator):
    """Members and truth drawn alike around a common mean that varies more; the members' departures are then scaled by `width`."""
    shape = (400, 3, 2, 5)
    centre = 10 * torch.randn(shape, generator=generator)
    truth = centre + torch.randn(shape, generator=generator)
    ensemble = centre + torch.randn(members, *shape, generator=generator)
    mean = ensemble.mean(0)
    return mean + width * (ensemble - mean), truth


@pytest.mark.parametrize("members", [4, 8])
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_the_ratio_says_by_how_much_an_ensemble_is_too_narrow(members, width):
    """One for members exchangeable with the truth; the statistical error of a standard deviation from 4000 values is about 1 %."""
    ensemble, truth = exchangeable(members, width, torch.Generator().manual_seed(members))
    assert error_over_spread(ensemble, truth) == pytest.approx(1 / width, rel=0.05)


def test_the_ratio_knows_neither_units_nor_land():
    ensemble, truth = exchangeable(8, 0.7, torch.Generator().manual_seed(0))
    ratio = error_over_spread(ensemble, truth)
    units = torch.tensor([1.0, 1e4])[:, None]
    assert error_over_spread(ensemble * units, truth * units) == pytest.approx(ratio, rel=1e-4)
    truth[..., 0] = torch.nan
    without = error_over_spread(ensemble[..., 1:], truth[..., 1:])
    assert error_over_spread(ensemble, truth) == pytest.approx(without, rel=1e-5)


def test_training_leaves_the_scale_in_the_run_and_a_forecast_uses_it(tmp_path):
    data = ec.simulate("kuramoto-sivashinsky", trajectories=20, steps=40, seed=0)
    trained = ec.train("ks/scoring-smoke", data=data, out=tmp_path / "run")
    scale = trained.recipe.emulator.noise_scale
    assert scale != 1.0 and scale >= LOW
    again = calibrated(
        replace(trained.recipe, emulator=replace(trained.recipe.emulator, noise_scale=1.0)), trained.run.emulator, data
    )
    assert again.emulator.noise_scale == scale
    first = data.initial("test")
    wide, narrow = (
        trained.forecast(first, steps=1, members=8, overrides={"noise_scale": value})["u"].std("member").mean().item()
        for value in (1.0, 0.25)
    )
    assert narrow < 0.5 * wide


def test_families_without_noise_scale_are_left_alone(tmp_path):
    recipe = get_recipe("ks/regression-smoke")
    assert calibrated(recipe, None, None) is recipe  # type: ignore[arg-type]
