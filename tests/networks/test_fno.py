"""The Fourier neural operator: its multipliers against a sum over waves, and the same function at every resolution."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from eddycast.errors import InputError
from eddycast.networks import FNOConfig, build_network
from eddycast.networks.fno import SpectralMixing


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(config: FNOConfig, periodic: tuple[bool, ...]) -> torch.nn.Module:
    net = build_network(
        config, in_frames=2, out_frames=1, in_channels=2, out_channels=2, num_scalars=1, periodic=periodic
    ).double()
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(max(weight[0].numel(), 4)))
    return net


def waves(space: tuple[int, ...], highest: int, channels: int = 4, seed: int = 0) -> torch.Tensor:
    """Random series of |k_a| <= highest at the points j / n of each axis: (2, channels, *space)."""
    angles = [2 * math.pi * torch.arange(size, dtype=torch.float64) / size for size in space]
    mesh = torch.meshgrid(*angles, indexing="ij")
    field = torch.zeros(2, channels, *space, dtype=torch.float64)
    for number, k in enumerate(itertools.product(range(-highest, highest + 1), repeat=len(space))):
        phase = sum(wave * axis for wave, axis in zip(k, mesh, strict=True))
        amplitude = normal(2, channels, 2, seed=seed + number)[(...,) + (None,) * len(space)]
        field += (amplitude[:, :, 0] * phase.cos() + amplitude[:, :, 1] * phase.sin()) / (1 + sum(map(abs, k))) ** 2
    return field


@pytest.mark.parametrize("space, modes", [((16,), (3,)), ((9,), (3,)), ((8, 7), (2, 3)), ((5, 6, 8), (2, 1, 3))])
def test_multiplier_acts_on_each_wave(space, modes):
    """exp(i k x) e_in -> R_k e_in exp(i k x) for |k| <= modes; the wave just beyond gives 0. Real fields: the real part."""
    mixing = SpectralMixing(3, modes).double()
    with torch.no_grad():
        mixing.weight.copy_(normal(*mixing.weight.shape))
    angles = torch.meshgrid(*(2 * math.pi * torch.arange(n, dtype=torch.float64) / n for n in space), indexing="ij")
    weight = torch.view_as_complex(mixing.weight.detach())
    lattice = itertools.product(*(range(-top, top + 1) for top in modes[:-1]), range(1, modes[-1] + 1))
    for k in lattice:
        wave = torch.exp(1j * sum(number * angle for number, angle in zip(k, angles, strict=True)))
        for channel in range(3):
            v = torch.zeros(1, 3, *space, dtype=torch.float64)
            v[0, channel] = wave.real
            factor = weight[(slice(None), channel, *k)]
            exact = (factor[(...,) + (None,) * len(space)] * wave).real
            with torch.no_grad():
                assert torch.allclose(mixing(v)[0], exact, atol=1e-10), k
    if modes[-1] + 1 < space[-1] / 2:
        with torch.no_grad():
            beyond = torch.cos((modes[-1] + 1) * angles[-1]).expand(1, 3, *space)
            assert mixing(beyond).abs().max() < 1e-12


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
def test_grids_too_coarse_for_the_modes_use_those_they_have(size):
    """Below half the points: the wave of alternating signs on an even grid is left out."""
    mixing = SpectralMixing(2, (9,)).double()
    index = torch.arange(size, dtype=torch.float64)
    with torch.no_grad():
        for k in range(size // 2 + 1):
            found = mixing(torch.cos(2 * math.pi * k * index / size).expand(1, 2, size)).abs().max()
            assert (found > 1e-3) == (k <= (size - 1) // 2)


@pytest.mark.parametrize("coarse, fine", [((32,), (64,)), ((45,), (90,)), ((20, 24), (40, 48))])
def test_same_function_at_every_resolution(coarse, fine):
    """Band-limited inputs; what is left is aliasing of the pointwise maps, which falls when the coarse grid is refined."""
    net = build(FNOConfig(modes=4, width=6, blocks=2, embedding=8), (True,) * len(coarse))
    scalars = normal(2, 1, seed=1)
    errors = []
    for factor in (1, 2):
        grids = [tuple(factor * n for n in grid) for grid in (coarse, fine)]
        with torch.no_grad():
            low, high = (net(waves(grid, 2).unflatten(1, (2, 2)), scalars) for grid in grids)
        shared = high[(...,) + tuple(slice(None, None, 2) for _ in coarse)]
        errors.append(((shared - low).abs().max() / high.abs().max()).item())
    assert errors[0] < 1e-2 and errors[1] < 1e-1 * errors[0] + 1e-12, errors


def test_bounded_axis_is_extended_and_cropped():
    """Zeros are put behind the last point and taken off again; the coordinate is one more channel."""
    net = {}
    for periodic in (True, False):
        net[periodic] = build(FNOConfig(modes=6, width=6, blocks=1, embedding=8, padding=1.0), (periodic,))
    assert net[False].stem.weight.shape[1] == net[True].stem.weight.shape[1] + 1
    assert net[False](normal(1, 2, 2, 13), normal(1, 1)).shape == (1, 1, 2, 13)
    lengths = []
    net[False].blocks[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[2:]))
    net[False](normal(1, 2, 2, 13), normal(1, 1))
    assert lengths == [(26,)]


def test_settings_that_make_no_operator_are_refused():
    for wrong in ({"modes": -1}, {"modes": ()}, {"width": 0}, {"padding": -0.1}, {"blocks": 0}):
        with pytest.raises(ValueError, match="Fourier neural operator"):
            FNOConfig(**wrong)
    with pytest.raises(InputError, match=r"modes \[3, 3\] have 2 entries, but the data have 1 space axes"):
        build(FNOConfig(modes=(3, 3)), (True,))


def test_config_sets_the_size():
    def count(**changes) -> int:
        config = FNOConfig(**{"modes": 3, "width": 8, "blocks": 1, "embedding": 4, **changes})
        with torch.device("meta"):
            net = build_network(
                config, in_frames=2, out_frames=1, in_channels=3, out_channels=2, num_scalars=1, periodic=(True, False)
            )
        return sum(weight.numel() for weight in net.parameters())

    base = count()
    block = 64 * 7 * 4 * 2 + (64 + 8) + (64 + 8) + (4 * 16 + 16)
    embedding = (33 * 4 + 4) + (4 * 4 + 4)
    assert base == embedding + (7 * 8 + 8) + block + (8 * 16 + 16) + (16 * 2 + 2)
    assert count(blocks=3) == base + 2 * block
    assert count(modes=(1, 3)) == base - 64 * 4 * 4 * 2
    assert count(padding=0.0) == base
