"""Laws of initial states: their moments and spectra, the same fields on every grid, clear refusals."""

import math

import pytest
import torch

from eddycast.errors import InputError
from eddycast.metrics import power_spectrum, shells
from eddycast.noise import MemberNoise
from eddycast.numerics.incompressible import divergence, energy
from eddycast.numerics.truncated import resample
from eddycast.simulators import SYSTEMS, get_system, simulate, with_initial

KS, BURGERS, FLOW = (get_system(name) for name in ("kuramoto-sivashinsky", "burgers", "kolmogorov-flow"))


def drawn(system, count, shape=None, seed=0):
    numbers = torch.arange(count)
    parameters = system.info.default_parameters().expand(count, -1)
    noise = MemberNoise(seed, numbers, 0 * numbers)
    return system.initial(parameters, system.grid(shape), noise, dtype=torch.float64)


def test_published_law_of_ks_is_ten_sines_of_two_modes():
    """Variance N / 24 in all, equal in both modes, nothing elsewhere; phases uniform: both parts have the same share."""
    state = drawn(with_initial(KS, {"sines": 10, "modes": 2}), 4000)
    modes = 2 * torch.fft.rfft(state[:, 0]) / 64
    assert modes[:, 3:].abs().max() < 1e-14 and modes[:, 0].abs().max() < 1e-14
    power = torch.stack([modes[:, 1:3].real, modes[:, 1:3].imag]).square()
    expected = 10 * (1 / 12) / 2 / 2  # N E[A^2] / (modes) / 2 parts
    error = power.std(dim=1) / math.sqrt(4000)
    assert ((power.mean(dim=1) - expected).abs() < 4 * error).all()
    assert state.var().item() == pytest.approx(10 / 24, rel=0.05)


def test_ks_laws_do_not_depend_on_the_grid_and_drop_what_it_cannot_hold():
    for values in ({"sines": 5, "modes": 12}, {"modes": 12}):
        law = with_initial(KS, values)
        fine, coarse = drawn(law, 3, (128,)), drawn(law, 3, (64,))
        assert (fine[..., ::2] - coarse).abs().max() < 1e-13
    crowded = with_initial(KS, {"sines": 400, "modes": 40})
    assert torch.fft.rfft(drawn(crowded, 2)[:, 0])[:, 22:].abs().max() < 1e-10


@pytest.mark.parametrize("length, deviation", [(0.2, 0.6), (0.05, 0.214336), (0.5, 0.1)])
def test_burgers_law_has_its_length_and_deviation(length, deviation):
    """Power of mode m falls as ((2 pi m)^2 + l^-2)^-4, measured between two modes; the variance is the square of the deviation."""
    law = with_initial(BURGERS, {"length_scale": length, "deviation": deviation})
    shape = (512,) if deviation > 0.3 else (256,)
    state = drawn(law, 4000, shape)
    power = torch.fft.rfft(state[:, 0]).abs().square().mean(dim=0)
    ratio = (((4 * math.pi) ** 2 + length**-2) / ((6 * math.pi) ** 2 + length**-2)) ** 4
    assert (power[3] / power[2]).item() == pytest.approx(ratio, rel=4 * math.sqrt(2 / 4000))
    assert state.square().mean().sqrt().item() == pytest.approx(deviation, rel=0.05)


def test_burgers_usual_law_is_the_one_of_the_settings_defaults():
    explicit = with_initial(BURGERS, {"length_scale": 0.2, "deviation": 0.214336 * (1 + 1e-9)})
    assert torch.allclose(drawn(explicit, 3), drawn(BURGERS, 3), rtol=1e-5)
    with pytest.raises(InputError, match="take at least 128"):
        with_initial(BURGERS, {"deviation": 2 * 0.214336}).grid((64,))


@pytest.mark.parametrize("peak, speed", [(4.0, 3.0), (6.5, 1.0)])
def test_filtered_velocity_has_its_peak_speed_and_no_divergence(peak, speed):
    law = with_initial(FLOW, {"peak_wavenumber": peak, "max_velocity": speed})
    state = drawn(law, 60, (128, 128))
    assert divergence(state, [2 * math.pi] * 2).abs().max() < 1e-10
    fastest = resample(state, (256, 256)).norm(dim=1).amax(dim=(1, 2))
    assert (fastest - speed).abs().max() < 0.01 * speed  # found among other points
    # Without the scaling the power of a mode is its amplitude squared: take ratios of the shells 3 and 10 within each field.
    rings = shells(FLOW.grid((128, 128)))
    power = power_spectrum(state, rings).sum(dim=1)
    number = torch.bincount(rings.index, weights=rings.multiplicity)
    k = rings.wavenumber

    def amplitude(wave):
        return torch.exp(-2 * (math.log(peak) + 0.25 - wave.log()) ** 2) / wave**2

    measured = (power[:, 3] / number[3]).mean() / (power[:, 10] / number[10]).mean()
    assert measured.item() == pytest.approx(((amplitude(k[3]) / amplitude(k[10])) ** 2).item(), rel=0.25)
    assert abs(k[power.mean(dim=0).argmax()].item() - 0.88 * peak) < 1.2


def test_flow_laws_do_not_depend_on_the_grid():
    for values in ({"peak_wavenumber": 2.0}, {"max_velocity": 3.0}, {"peak_wavenumber": 2.0, "max_velocity": 3.0}):
        law = with_initial(FLOW, values)
        fine, coarse = drawn(law, 2, (80, 80)), drawn(law, 2, (40, 40))
        assert (fine[..., ::2, ::2] - coarse).abs().max() < 1e-12
    assert torch.allclose(energy(drawn(with_initial(FLOW, {"peak_wavenumber": 2.0}), 3), 2), torch.tensor(0.5).double())
    assert torch.equal(drawn(with_initial(FLOW, {}), 2), drawn(FLOW, 2))


def test_the_law_is_no_parameter_and_is_recorded():
    run = simulate(FLOW, trajectories=1, steps=1, spin_up=0.0, initial={"peak_wavenumber": 6, "max_velocity": 2})
    assert run.attributes["initial_law"] == "peak_wavenumber=6, max_velocity=2"
    assert run.parameter_names == FLOW.info.parameter_names


@pytest.mark.parametrize(
    "name, values, match",
    [
        ("kuramoto-sivashinsky", {"peak": 2.0}, "no setting 'peak': it has modes, sines"),
        ("kuramoto-sivashinsky", {"modes": 2.5}, "whole numbers"),
        ("kuramoto-sivashinsky", {"sines": 0.0}, "within 1 to"),
        ("kolmogorov-flow", {"peak_wavenumber": float("nan")}, "within 1 to 16"),
        ("lorenz-63", {"modes": 2.0}, "it has none"),
    ],
)
def test_bad_settings_end_in_one_line(name, values, match):
    with pytest.raises(InputError, match=match) as error:
        with_initial(SYSTEMS[name], values)
    assert "\n" not in str(error.value)
