"""Latent analysis on latents that were made so that the answers are known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.latent_space import analyse_latents, group, principal_axes
from eddycast.evaluation.probe import probe
from eddycast.report.canvas import encode
from eddycast.report.latents import latent_picture

TIMES, CHANNELS, GRID = 8, 6, (5, 4)
CENTRE = (2, 2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(trajectories: int, seed: int = 0) -> Tensor:
    return torch.randn(trajectories, TIMES, CHANNELS, *GRID, generator=generator(seed))


def put(z: Tensor, channel: int, values: Tensor, place: tuple[int, int] = CENTRE) -> Tensor:
    """Add values (trajectory,) to one channel of one token, at all times."""
    z = z.clone()
    z[:, :, channel, place[0], place[1]] += values[:, None].to(z)
    return z


FIVE = torch.tensor([1.2, 1.3, 1.4, 1.5, 1.6]).repeat(8)  # a heat capacity in 40 trajectories


def test_a_parameter_in_the_central_token_is_found():
    """Its mean moves by 10 sigma from the first value to the last; the distances of the fits are those of the means."""
    z = put(0.5 * noise(40), 1, 20 * FIVE)
    found = analyse_latents(z, FIVE[:, None], ("gamma",), generator=generator())
    (one,) = found.parameters
    assert one.values.tolist() == pytest.approx([1.2, 1.3, 1.4, 1.5, 1.6]) and one.trajectories.tolist() == [8] * 5
    expected = 20 * (one.values[:, None] - one.values).abs()
    assert (one.bures_wasserstein - expected).abs().max() < 0.35  # fits to 64 samples of six numbers
    assert one.order > 0.99 and (one.floor < 0.8).all() and (one.floor > 0).all()
    assert one.r2 > 0.9 and one.accuracy == 1.0 and one.chance < 0.5
    assert one.r2_permuted.max() < 0.5 and len(found.held_out) == 12
    assert not one.logarithmic


def test_distances_of_tokens_are_those_within_and_between_values():
    """All tokens moved by theta along one channel, without noise; a little of it makes the distance within."""
    still = torch.zeros(40, TIMES, CHANNELS, *GRID)
    still[:, :, 2] += FIVE[:, None, None, None]
    (one,) = analyse_latents(still, FIVE[:, None], ("gamma",), generator=generator()).parameters
    expected = (one.values[:, None] - one.values).abs()
    torch.testing.assert_close(one.token_distance, expected, atol=1e-6, rtol=0)
    (noisy,) = analyse_latents(still + 0.01 * noise(40), FIVE[:, None], ("gamma",), generator=generator()).parameters
    # |x - y| of two vectors of six independent numbers: 0.01 sqrt(2) times the mean of chi with six degrees of freedom
    chi = math.sqrt(2) * math.gamma(3.5) / math.gamma(3)
    assert noisy.token_distance.diagonal().mean().item() == pytest.approx(0.01 * math.sqrt(2) * chi, rel=0.02)


def test_a_parameter_that_is_nowhere_is_not_found_and_elsewhere_neither():
    """Pure noise, and a parameter in the corner token: the probe reads the central one alone."""
    for z in (noise(40), put(noise(40), 1, 50 * FIVE, (0, 0))):
        (one,) = analyse_latents(z, FIVE[:, None], ("gamma",), generator=generator()).parameters
        assert one.r2 < 0.35 and one.accuracy < 0.6
        assert one.r2 < one.r2_permuted.max() + 0.3
        off = ~torch.eye(5, dtype=torch.bool)
        assert one.bures_wasserstein[off].mean() < 1.3 * one.floor.mean()  # no more than halves of one value differ


def test_states_of_one_trajectory_do_not_leak_into_the_test():
    """Every trajectory has a signature of its own, which says nothing of the parameter: a split of states would explain all."""
    signature = 5 * torch.randn(40, CHANNELS, generator=generator(3))
    vectors = signature.repeat_interleave(TIMES, dim=0) + 0.01 * torch.randn(
        40 * TIMES, CHANNELS, generator=generator(4)
    )
    targets = torch.randn(40, 1, generator=generator(5))
    found = probe(vectors, torch.arange(40).repeat_interleave(TIMES), targets, generator=generator())
    assert found.r2.item() < 0.2
    assert len(found.held_out) == 12 and found.predictions.shape == (12, 1)


def test_the_probe_bends():
    """The parameter is the length of a vector, of which every linear function has mean zero."""
    length = 0.5 + 2.5 * torch.rand(60, 1, generator=generator(1))
    angle = 2 * math.pi * torch.rand(60, 30, generator=generator(2))
    vectors = length[:, :, None] * torch.stack([angle.cos(), angle.sin()], dim=2)
    found = probe(vectors.flatten(0, 1), torch.arange(60).repeat_interleave(30), length, generator=generator())
    assert found.r2.item() > 0.9
    assert found.baseline.mean().item() < 0.1
    targets = length[found.held_out]
    exact = 1 - (found.predictions - targets).square().sum() / (targets - targets.mean()).square().sum()
    assert found.r2.item() == pytest.approx(exact.item(), rel=1e-4)


def test_two_parameters_over_decades_are_told_apart():
    """Rayleigh numbers in one channel, Prandtl numbers in another, by their logarithms."""
    rayleigh = 10 ** torch.tensor([6.0, 7.0, 8.0, 9.0, 10.0]).repeat_interleave(12)
    prandtl = torch.tensor([0.1, 1.0, 10.0]).repeat(20)
    z = put(put(0.3 * noise(60), 0, rayleigh.log10()), 3, 4 * prandtl.log10())
    parameters = torch.stack([rayleigh, torch.full((60,), 7.0), prandtl], dim=1)
    found = analyse_latents(z, parameters, ("rayleigh", "depth", "prandtl"), generator=generator())
    assert [one.name for one in found.parameters] == ["rayleigh", "prandtl"]  # the depth is always the same
    for one in found.parameters:
        assert one.logarithmic and one.r2 > 0.9 and one.accuracy > 0.9 and one.order > 0.99
    assert found.parameters[1].bures_wasserstein[0, 2].item() == pytest.approx(8, rel=0.05)
    assert found.sample_parameters.shape == (60 * TIMES, 3)


def test_the_embedding_is_on_the_principal_axes():
    z = put(0.1 * noise(40), 4, 10 * FIVE)
    found = analyse_latents(z, FIVE[:, None], ("gamma",), generator=generator())
    centred = (10 * (FIVE - FIVE.mean())).repeat_interleave(TIMES).double()
    assert (found.embedding[:, 0] - centred).abs().max() < 0.6
    assert found.explained[0] > 0.97
    exact = torch.linalg.eigvalsh(torch.cov(z[:, :, :, 2, 2].flatten(0, 1).double().T)).flip(0)
    torch.testing.assert_close(found.explained, exact[:2] / exact.sum(), rtol=1e-6, atol=0)
    points, shares = principal_axes(torch.arange(4.0)[:, None])
    assert points[:, 0].tolist() == [-1.5, -0.5, 0.5, 1.5] and not points[:, 1].any() and shares.tolist() == [1, 0]


def test_many_values_are_grouped_by_rank():
    values = torch.randperm(100, generator=generator()).double()
    label, centres = group(values)
    assert torch.bincount(label).tolist() == pytest.approx([12.5] * 8, abs=0.5)
    assert (centres.diff() > 0).all()
    assert all(values[label == k].max() < values[label == k + 1].min() for k in range(7))
    z = put(0.5 * noise(100), 1, values / 5)
    (one,) = analyse_latents(z, values[:, None], ("x",), generator=generator()).parameters
    assert one.r2 > 0.95 and math.isnan(one.accuracy) and one.order > 0.99


def test_the_same_generator_gives_the_same_analysis_and_no_other_is_touched():
    z, before = put(noise(40), 1, 3 * FIVE), torch.random.get_rng_state()
    first, second, third = (
        analyse_latents(z, FIVE[:, None], ("gamma",), generator=generator(seed)).to_dict() for seed in (1, 1, 2)
    )
    assert first == second and first != third
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.no_grad():
        assert analyse_latents(z, FIVE[:, None], ("gamma",), generator=generator(1)).to_dict() == first


def test_single_trajectories_leave_gaps_and_all_of_it_is_plain_values():
    theta = torch.arange(7.0)
    found = analyse_latents(put(noise(7), 1, theta), theta[:, None], ("x",), generator=generator())
    (one,) = found.parameters
    assert one.token_distance.diagonal().isnan().all() and one.floor.isnan().all()
    assert one.token_distance[0, 1].isfinite() and one.bures_wasserstein.isfinite().all()
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert told["parameters"][0]["floor"] == [None] * 7 and told["names"] == ["x"]


def test_long_trajectories_are_thinned_alike():
    z = torch.randn(10, 500, 3, 2, generator=generator())
    theta = torch.arange(10.0)
    found = analyse_latents(z, theta[:, None], ("x",), generator=generator())
    assert torch.bincount(found.sample_trajectory).tolist() == [200] * 10
    assert found.embedding.shape == (2000, 2) and found.separated.shape == (2000, 2)


@pytest.mark.parametrize(
    ("z", "parameters", "names", "error", "words"),
    [
        (noise(5), torch.arange(5.0)[:, None], ("x",), InputError, "at least 6 trajectories, .* got 5"),
        (noise(8), torch.ones(8, 1), ("x",), InputError, r"No parameter varies .*\(there are: x\)"),
        (noise(8), torch.ones(8, 0), (), InputError, "there are: none"),
        (noise(8) * torch.nan, torch.arange(8.0)[:, None], ("x",), InputError, "not finite"),
        (noise(8), torch.arange(8.0)[:, None], ("x", "y"), ValueError, "are needed, got"),
        (noise(8)[:, 0, :, 0, 0], torch.arange(8.0)[:, None], ("x",), ValueError, "are needed, got"),
    ],
)
def test_what_cannot_be_analysed_is_told_in_one_line(z, parameters, names, error, words):
    with pytest.raises(error, match=words) as caught:
        analyse_latents(z, parameters, names, generator=generator())
    assert "\n" not in str(caught.value)


def test_the_picture_shows_the_analysis():
    rayleigh = 10 ** torch.tensor([6.0, 7.0, 8.0, 9.0, 10.0]).repeat(8)
    parameters = torch.stack([rayleigh, FIVE], dim=1)
    z = put(put(noise(40), 0, 5 * rayleigh.log10()), 1, 20 * FIVE)
    found = analyse_latents(z, parameters, ("rayleigh", "gamma $"), generator=generator())
    figure = latent_picture(found)
    scatters = [(axes, dots) for axes in figure.axes for dots in axes.collections if isinstance(dots, PathCollection)]
    assert len(scatters) == 4
    for column, (one, logarithmic) in enumerate(((found.parameters[0], True), (found.parameters[1], False))):
        tokens, activations = scatters[column], scatters[2 + column]
        np.testing.assert_allclose(tokens[1].get_offsets(), found.embedding.numpy())
        np.testing.assert_allclose(activations[1].get_offsets(), found.separated.numpy())
        np.testing.assert_allclose(tokens[1].get_array(), found.sample_parameters[:, column].numpy())
        assert isinstance(tokens[1].norm, LogNorm) == logarithmic
        assert f"R² {one.r2:.2f}" in activations[0].get_title(loc="left") + activations[0].get_title()
    images = [axes.images[0] for axes in figure.axes if axes.images]
    np.testing.assert_allclose(images[0].get_array(), found.parameters[0].bures_wasserstein.numpy())
    drawn = encode(figure, ".png", 60)
    assert drawn[:4] == b"\x89PNG" and drawn == encode(latent_picture(found), ".png", 60)
