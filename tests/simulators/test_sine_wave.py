"""The sine wave: exact shifts, two branches of equal weight that one state cannot tell apart, and the score of who knows that."""

import itertools
import math

import pytest
import torch

from eddycast.errors import InputError
from eddycast.metrics import crps
from eddycast.noise import MemberNoise
from eddycast.simulators import SineWave, get_system, integrate, simulate, with_initial
from eddycast.simulators.sine_wave import branches, two_branch_crps

WAVE = get_system("sine-wave")


def wave(angle, points=32, amplitude=1.0):
    """A sin(x + angle) for angles (*batch): (*batch, 1, points)."""
    place = 2 * math.pi * torch.arange(points, dtype=torch.float64) / points
    return amplitude * torch.sin(place + torch.as_tensor(angle, dtype=torch.float64)[..., None, None])


@pytest.mark.parametrize("points", [32, 4, 15])
@pytest.mark.parametrize("frequency, leftward", [(1.0, 0), (1.0, 1), (2.7, 0), (0.0, 1)])
def test_the_wave_runs_with_its_frequency_in_its_direction(points, frequency, leftward):
    parameters = torch.tensor([frequency, leftward], dtype=torch.float64)
    times = [0.1, 1.0, 77.3]
    states = integrate(WAVE, wave(0.4, points, 1.7), parameters, WAVE.grid((points,)), times)
    for time, state in zip(times, states, strict=True):
        exact = wave(0.4 + (2 * leftward - 1) * frequency * time, points, 1.7)
        assert (state - exact).abs().max() < 1e-12
    period = 2 * math.pi / (frequency or 1)
    back = integrate(WAVE, wave(0.4, points), parameters, WAVE.grid((points,)), [period])
    assert (back[0] - wave(0.4, points)).abs().max() < 1e-12


def test_a_crest_moves_to_larger_x_unless_leftward():
    start = wave(0.0)
    right, left = (
        integrate(WAVE, start, torch.tensor([1.0, sign]), WAVE.grid(), [math.pi / 4])[0, 0] for sign in (0.0, 1.0)
    )
    assert start.argmax() == 8 and right.argmax() == 12 and left.argmax() == 4


def test_directions_are_drawn_with_equal_odds_and_kept():
    run = simulate(WAVE, trajectories=400, steps=4, dtype=torch.float64)
    leftward = run.parameters[:, 1]
    assert set(leftward.tolist()) == {0.0, 1.0}
    assert abs(leftward.mean().item() - 0.5) < 4 * 0.5 / math.sqrt(400)
    futures = branches(run.states[:, 0], 1.0, 0.1 * torch.arange(1, 4, dtype=torch.float64))
    own = torch.where(leftward[:, None, None, None] == 1, futures[1], futures[0])
    assert (run.states[:, 1:] - own).abs().max() < 1e-12
    assert (futures[0] - futures[1]).abs().amax(dim=(1, 2, 3)).min() > 0.1
    chosen = simulate(WAVE, trajectories=20, steps=1, parameters={"leftward": 1.0})
    assert (chosen.parameters[:, 1] == 1).all()


def test_a_state_says_nothing_about_the_direction():
    """The initial law does not read the parameter, and the phase is uniform whatever it is, at all times."""
    numbers = torch.arange(800)
    noise, leftward = MemberNoise(3, numbers, 0 * numbers), (numbers % 2).double()
    parameters = torch.stack([torch.ones_like(leftward), leftward], dim=-1)
    start = WAVE.initial(parameters, WAVE.grid(), noise, dtype=torch.float64)
    assert torch.equal(start, WAVE.initial(1 - parameters, WAVE.grid(), noise, dtype=torch.float64))
    later = integrate(WAVE, start, parameters, WAVE.grid(), [0.9])[:, 0]
    for states in (start, later):
        phase = torch.fft.rfft(states[:, 0])[:, 1].angle() / (2 * math.pi) + 0.5
        for group in (phase[leftward == 0], phase[leftward == 1]):
            level = (torch.arange(400) + 0.5) / 400
            assert (group.sort().values - level).abs().max() < 1.95 / math.sqrt(400)  # Kolmogorov-Smirnov, 1 in 1000


def test_amplitudes_are_uniform_between_the_two_settings():
    assert (simulate(WAVE, trajectories=5, steps=1).states.abs().amax(dim=(1, 2, 3)) <= 1).all()
    run = simulate(
        WAVE, trajectories=400, steps=2, initial={"least_amplitude": 0.5, "largest_amplitude": 2.0}, dtype=torch.float64
    )
    amplitude = torch.fft.rfft(run.states[:, :, 0])[..., 1].abs() / 16
    assert (amplitude[:, 0] - amplitude[:, 1]).abs().max() < 1e-13
    share = (amplitude[:, 0] - 0.5) / 1.5
    assert share.min() >= 0 and share.max() <= 1
    level = (torch.arange(400) + 0.5) / 400
    assert (share.sort().values - level).abs().max() < 1.95 / math.sqrt(400)
    assert run.attributes["initial_law"] == "least_amplitude=0.5, largest_amplitude=2"


@pytest.mark.parametrize("frequency", [1.0, 2.3])
def test_each_point_is_an_oscillator_of_unknown_direction(frequency):
    """The two values at a point are u cos(w t) +- sqrt(A^2 - u^2) sin(w t), from its own value alone."""
    amplitude = 1.3
    start = wave([0.2, 4.0], points=24, amplitude=amplitude)
    times = torch.tensor([0.1, 0.8, 1.6, 3.0, 5.5])
    found = branches(start, frequency, times).sort(dim=0).values
    assert found.shape == (2, 2, 5, 1, 24)
    turned = frequency * times.double()[:, None, None]
    middle = start[:, None] * turned.cos()
    reach = ((amplitude**2 - start[:, None] ** 2).clamp(min=0).sqrt() * turned.sin()).abs()
    assert (
        found - torch.stack([middle - reach, middle + reach])
    ).abs().max() < 1e-7  # a root of rounding at the crests


def test_frequencies_may_differ_between_cases_and_any_state_is_shifted():
    state = torch.randn(3, 1, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    frequency, times = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.7, 2 * math.pi])
    both = branches(state, frequency, times)
    for case in range(3):
        alone = branches(state[case], frequency[case].item(), times)
        assert (both[:, case] - alone).abs().max() < 1e-14
    assert (both[:, 1:, 1] - state[1:]).abs().max() < 1e-5  # whole periods (to the single precision of the time)
    back = branches(both[0, :, :1].squeeze(1), frequency, times[:1])[1, :, 0]
    assert (back - state).abs().max() < 1e-13
    assert branches(state.float(), 1.0, times).dtype == torch.float32


@pytest.mark.parametrize("members", [2, 3, 4])
def test_expected_score_is_that_over_all_ensembles(members):
    """Every ensemble of members on either branch and every outcome, all with equal weight, scored by the package's own CRPS."""
    a, b = torch.tensor(-0.4, dtype=torch.float64), torch.tensor(1.1, dtype=torch.float64)
    for fair in (True, False):
        scores = [
            crps(torch.stack(drawn), truth, fair=fair)
            for drawn in itertools.product((a, b), repeat=members)
            for truth in (a, b)
        ]
        expected = two_branch_crps(a, b, members=None if fair else members)
        assert torch.stack(scores).mean().item() == pytest.approx(expected.item(), rel=1e-12)
    assert two_branch_crps(a, b).item() == pytest.approx(1.5 / 4)


def test_no_other_weight_of_the_branches_scores_better():
    """E CRPS = E|X - y| - E|X - X'| / 2 with weight p on one: |a - b| (1/2 - p (1 - p)), least at 1/2; the same for their mean alone."""
    gap = torch.tensor(1.5)
    least = two_branch_crps(torch.zeros(()), gap).item()
    weights = torch.linspace(0, 1, 21)
    scores = gap * (0.5 - weights * (1 - weights))
    assert scores.min().item() == pytest.approx(least) and scores.argmin() == 10
    assert gap.item() / 2 > least  # the mean of both


def test_mean_score_over_the_circle():
    """A |sin(w t)| / pi, at a quarter of a period A / pi; from simulated truths and drawn members the same within the sampling error."""
    times = torch.tensor([0.3, 1.0, math.pi / 2, 2.6])
    first, second = branches(wave(0.3, points=4096, amplitude=2.0), 1.0, times)
    score = two_branch_crps(first, second).mean(dim=(-2, -1))
    assert (score - 2.0 * times.double().sin().abs() / math.pi).abs().max() < 1e-6
    run = simulate(WAVE, trajectories=300, steps=17, dtype=torch.float64)
    futures = branches(run.states[:, 0], 1.0, torch.tensor([1.6]))[:, :, 0]
    which = torch.randint(2, (8, 300, 1, 1), generator=torch.Generator().manual_seed(1))
    ensemble = torch.where(which == 0, futures[0], futures[1])
    scores = crps(ensemble, run.states[:, 16]).mean(dim=(-2, -1))
    error = scores.std().item() / math.sqrt(300)
    assert scores.mean().item() == pytest.approx(math.sin(1.6) / math.pi, abs=4 * error) and error < 0.02


def test_what_cannot_be_is_refused():
    for shape in ((3,), (8, 8)):
        with pytest.raises(InputError, match="at least 4 points"):
            WAVE.grid(shape)
    assert WAVE.grid().shape == (32,) and WAVE.grid().axes[0].period == pytest.approx(2 * math.pi)
    for law in ({"least_amplitude": 2.0}, {"largest_amplitude": 0.5}):
        with pytest.raises(InputError, match="least_amplitude <= largest_amplitude"):
            with_initial(WAVE, law)
    with pytest.raises(InputError, match="got 0 and 1"):
        SineWave(least_amplitude=0.0)
    with pytest.raises(InputError, match="whole numbers"):
        simulate(WAVE, trajectories=1, steps=1, parameters={"leftward": 0.5})
    with pytest.raises(ValueError, match="at least 1 member"):
        two_branch_crps(torch.zeros(()), torch.ones(()), members=0)
