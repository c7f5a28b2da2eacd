"""Noise on the input of training teaches what the data cannot: to damp a mode that they show only as a function of others."""

import pytest
import torch

from eddycast.emulators import RegressionConfig
from eddycast.emulators.protocols import TrainingBatch
from eddycast.emulators.regression import Regression


class Known(torch.nn.Module):
    """Just what `_known` looks at."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.config, self.context = RegressionConfig(input_noise=noise), 1


def known(x, noise, **part):
    batch = TrainingBatch(x, None, torch.Generator().manual_seed(3), **part)  # type: ignore[arg-type]
    return Regression._known(Known(noise), batch)  # type: ignore[arg-type]


def test_noise_has_its_deviation_and_parts_of_a_batch_see_that_of_the_whole():
    x = torch.zeros(64, 2, 1, 200)
    whole = known(x, 0.02)
    assert whole.shape == (64, 1, 1, 200)
    assert float(whole.std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(known(x[16:48], 0.02, first=16, whole=64), whole[16:48])
    assert torch.equal(known(x + 1, 0.0), x[:, :1] + 1)
    with pytest.raises(ValueError, match="input_noise is a standard deviation"):
        RegressionConfig(input_noise=-1.0)


def test_a_slaved_mode_is_damped_by_noise_alone():
    """y = x in all data, x' = 0.9 x: every map x' = a x + (0.9 - a) y fits, some let x - y grow; noise chooses a stable one."""
    x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).expand(-1, 2)
    apart = torch.tensor([1.0, -1.0], dtype=torch.float64)
    growing = 0.45 + 2.55 * torch.outer(apart, apart)
    torch.testing.assert_close(
        x @ growing.T, 0.9 * x, rtol=1e-12, atol=1e-12
    )  # fits the data, and x - y grows by 5.1 in each step
    assert float(apart @ growing @ apart / 2) == pytest.approx(5.1)
    for noise in (0.0, 0.05):
        shown = known(x[:, None, None], noise)[:, 0, 0]
        for weights in (growing, torch.full((2, 2), 0.45, dtype=torch.float64)):
            # what training sees of a map that fits the data is the noise that it lets through
            loss = float((shown @ weights.T - 0.9 * x).square().mean())
            assert loss == pytest.approx(noise**2 * float(weights.square().sum() / 2), rel=0.05, abs=1e-20)
