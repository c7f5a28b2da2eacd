"""Vorticity, projection and invariants against closed forms and their laws; changes of resolution; kept modes."""

import math

import pytest
import torch

from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import (
    divergence,
    energy,
    enstrophy,
    helicity,
    leray_projection,
    random_velocity,
    velocity_from_vorticity,
    vorticity,
)
from eddycast.numerics.spectral import derivative
from eddycast.numerics.truncated import from_kept, kept_modes, narrowed, resample, to_kept, widened

BOXES = [((16, 20), (2 * math.pi, 3.0)), ((15, 12), (1.0, 2.0)), ((12, 10, 14), (2 * math.pi, 4.0, 1.5))]


def positions(shape, lengths):
    axes = [torch.arange(n, dtype=torch.float64) * (length / n) for n, length in zip(shape, lengths, strict=True)]
    return torch.meshgrid(*axes, indexing="ij")


def noise_field(shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def without_nyquist(field, lengths):
    """Even axes to the modes that have a partner."""
    dims = len(lengths)
    return resample(resample(field, [n - 1 + n % 2 for n in field.shape[-dims:]]), field.shape[-dims:])


def members(count, seed=0):
    number = torch.arange(count)
    return MemberNoise(seed, number, 0 * number)


def test_anticlockwise_rotation_is_positive():
    """u = -sin y, v = sin x turns anticlockwise about the origin: vorticity cos x + cos y."""
    lengths = (2 * math.pi, 2 * math.pi)
    x, y = positions((16, 12), lengths)
    velocity = torch.stack([-y.sin(), x.sin()])
    assert (vorticity(velocity, lengths)[0] - x.cos() - y.cos()).abs().max() < 1e-13
    assert divergence(velocity, lengths).abs().max() < 1e-13


def test_curl_of_a_beltrami_flow_is_itself():
    lengths = (2 * math.pi,) * 3
    x, y, z = positions((12, 14, 16), lengths)
    flow = torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()])
    assert (vorticity(flow, lengths) - flow).abs().max() < 1e-13
    assert energy(flow, 3).item() == pytest.approx(1.5)
    assert enstrophy(flow, lengths).item() == pytest.approx(1.5)
    assert helicity(flow, lengths).item() == pytest.approx(3.0)
    assert helicity(flow.flip((-1, -2, -3)).roll((1, 1, 1), (-1, -2, -3)).neg(), lengths).item() == pytest.approx(-3.0)


@pytest.mark.parametrize("shape, lengths", BOXES)
def test_projection_keeps_the_solenoidal_part_and_removes_gradients(shape, lengths):
    dims = len(shape)
    velocity = noise_field((3, dims, *shape))
    projected = leray_projection(velocity, lengths)
    assert divergence(projected, lengths).abs().max() < 1e-11 * velocity.abs().max()
    assert (leray_projection(projected, lengths) - projected).abs().max() < 1e-13
    potential = noise_field((3, *shape), seed=1)
    gradient = torch.stack([derivative(potential, lengths, [int(a == b) for b in range(dims)]) for a in range(dims)], 1)
    assert leray_projection(gradient, lengths).abs().max() < 1e-11
    rest = without_nyquist(velocity, lengths) - projected  # orthogonal, so the energies add
    assert energy(projected, dims) + energy(rest, dims) == pytest.approx(
        energy(without_nyquist(velocity, lengths), dims), rel=1e-12
    )
    mean = tuple(range(-dims, 0))
    assert torch.allclose(projected.mean(dim=mean), velocity.mean(dim=mean))


@pytest.mark.parametrize("shape, lengths", BOXES)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_velocity_and_vorticity_are_inverse(shape, lengths, dtype, tolerance):
    dims = len(shape)
    velocity = leray_projection(noise_field((2, dims, *shape)), lengths)
    velocity = (velocity - velocity.mean(dim=tuple(range(-dims, 0)), keepdim=True)).to(dtype)
    back = velocity_from_vorticity(vorticity(velocity, lengths), lengths)
    assert back.dtype == dtype
    assert (back - velocity).abs().max() < tolerance * velocity.abs().max()


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="velocity in 2-D"):
        vorticity(torch.zeros(3, 8, 8), (1.0, 1.0))
    with pytest.raises(ValueError, match="has 1 components"):
        velocity_from_vorticity(torch.zeros(2, 8, 8), (1.0, 1.0))
    with pytest.raises(ValueError, match="3-D"):
        helicity(torch.zeros(2, 8, 8), (1.0, 1.0))
    with pytest.raises(ValueError, match="more than 8 points"):
        random_velocity(members(1), (8, 16), max_mode=4)


@pytest.mark.parametrize("shapes", [((16, 16), (48, 32)), ((9, 9, 10), (18, 24, 20))])
def test_random_velocities_are_solenoidal_and_the_same_on_every_grid(shapes):
    coarse, fine = (random_velocity(members(5), shape, max_mode=4) for shape in shapes)
    dims = len(shapes[0])
    lengths = (2 * math.pi,) * dims
    assert (resample(fine, shapes[0]) - coarse).abs().max() < 1e-13
    assert divergence(fine, lengths).abs().max() < 1e-12
    assert energy(fine, dims) == pytest.approx(torch.full((5,), 0.5, dtype=torch.float64), rel=1e-12)
    assert fine.mean(dim=tuple(range(-dims, 0))).abs().max() < 1e-14
    assert (fine[0] - fine[1]).abs().max() > 0.5
    assert fine.abs().max() < 4


def test_random_velocities_are_isotropic():
    """Each component has half of the energy, within 5 standard errors over 400 fields."""
    fields = random_velocity(members(400), (16, 16), max_mode=4)
    share = (fields**2).mean(dim=(-2, -1))[:, 0]
    assert share.mean().item() == pytest.approx(0.5, abs=5 * share.std().item() / 20)


@pytest.mark.parametrize("shape", [(16, 24), (15, 18), (12, 9, 10)])
def test_kept_modes_round_trip_and_count(shape):
    """Transforms are inverse on fields that the cut leaves alone; the layout of the real FFT comes back."""
    modes, mask = kept_modes(shape)
    assert mask.sum() == math.prod(2 * -(-n // 3) - 1 for n in shape[:-1]) * -(-shape[-1] // 3)
    field = noise_field((2, *shape))
    kept = to_kept(field, len(shape)) * mask
    smooth = from_kept(kept, shape)
    assert (to_kept(smooth, len(shape)) - kept).abs().max() < 1e-14
    dims = tuple(range(-len(shape), 0))
    spectrum = torch.fft.rfftn(smooth, dim=dims, norm="forward")
    assert (widened(kept, shape) - spectrum).abs().max() < 1e-14
    assert torch.equal(narrowed(widened(kept, shape), shape), kept)
    for axis in range(len(shape)):  # the mode numbers are those of a derivative
        slope = from_kept(1j * modes[axis] * kept, shape)
        exact = derivative(smooth, (2 * math.pi,) * len(shape), [int(axis == other) for other in range(len(shape))])
        assert (slope - exact).abs().max() < 1e-12


@pytest.mark.parametrize("old, new", [((12,), (20,)), ((12, 15), (9, 30)), ((8, 9, 10), (12, 9, 7))])
def test_resampling_is_exact_for_what_both_grids_hold(old, new):
    """A sum of waves up to mode 3, evaluated on either grid."""

    def waves(shape):
        total = 0.5
        for number, x in enumerate(positions(shape, (2 * math.pi,) * len(shape))):
            total = total + torch.sin(3 * x + number) + torch.cos(2 * x)
        return total

    assert (resample(waves(old), new) - waves(new)).abs().max() < 1e-13


def test_coarsening_truncates_and_does_not_alias():
    """Mode 7 vanishes on 8 points; taking every second point would make it mode 1."""
    x = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    assert resample(torch.sin(7 * x), (8,)).abs().max() < 1e-14
    field = noise_field((3, 16, 16))
    assert torch.equal(resample(field, (16, 16)), field)
    back = resample(resample(field, (32, 32)), (16, 16))
    assert (back - without_nyquist(field, (1.0, 1.0))).abs().max() < 1e-13
