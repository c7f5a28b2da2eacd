"""What the two stages minimise: written out by hand, differentiated by differences, and learned where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from dyffusion_models import KINDS, build, interpolator, one_line
from exact_models import addresses, autoregressive, conditions, fit, gaussian_conditioning, initialised, normal
from torch import nn

from eddycast.emulators import DYffusion, DYffusionConfig, InterpolatorConfig, ModelShape, TrainingBatch
from eddycast.emulators.dyffusion.interpolator import Draws, gaussian_crps
from eddycast.errors import InputError
from eddycast.metrics import crps
from eddycast.networks import TrainingMasks, UNetConfig, masks_from


def windows(model, size: int = 12, *, seed: int = 3) -> torch.Tensor:
    return normal(size, model.window, model.interpolator.channels, 5, seed=seed)


def batch(x: torch.Tensor, seed: int = 5) -> TrainingBatch:
    return TrainingBatch(x, conditions(len(x)), torch.Generator().manual_seed(seed))


def forecasts(model):
    """What the forecaster is asked and says: (state, time, start, answer)."""
    said, ask = [], model.forecast

    def forecast(state, time, start, noise, conditions):
        answer = ask(state, time, start, noise, conditions)
        said.append((state, time, start, answer))
        return answer

    model.forecast = forecast
    return said


# The loss of the forecaster


@pytest.mark.parametrize("variable", ["departure", "state"])
@pytest.mark.parametrize("criterion", ["absolute", "squared"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_loss_of_the_forecaster_is_that_of_the_sheet(weight, criterion, variable):
    """(1 - w) |F(z_n, i_n) - x_h| + w |F(I(x_0, F(z_n, i_n), i_n+1), i_n+1) - x_h|: the second for n < N - 1, as a mean over those."""
    times = (0.0, 0.4, 1.0, 2.5)
    model = one_line("dropout", times=times, lookahead=weight, loss=criterion, variable=variable)
    x, here, said = windows(model, 200), conditions(200), forecasts(model)
    loss = model.stages()[1].objective(batch(x)).item()
    state, time, start, answer = said[0]
    number = [times.index(round(float(each), 6)) for each in time]
    assert sorted(set(number)) == [0, 1, 2, 3] and torch.equal(start, x[:, 0])
    firsts, seconds = [], []
    for row, n in enumerate(number):
        one = slice(row, row + 1)
        x_0, x_h, told = x[one, 0], x[one, 4], here.select(one)

        def inside(end, at, x_0=x_0, told=told):
            return model.interpolator.state(x_0, end, torch.tensor([at], dtype=torch.float64), told, None)

        z = x_0 if n == 0 else inside(x_h, times[n])
        assert torch.allclose(state[one], z, atol=1e-12)
        if n == 0:
            assert torch.equal(state[one], x_0), "the start itself, not what the interpolator says of it"

        def error(said, at, x_h=x_h, x_0=x_0):
            left = 1 if variable == "state" else 0.3 * math.sqrt(4 - at) if at % 1 == 0 else None
            if left is None:
                low = math.floor(4 - at)
                left = 0.3 * (math.sqrt(low) + (4 - at - low) * (math.sqrt(low + 1) - math.sqrt(low)))
            gap = (said - x_h) / left
            return (gap.abs() if criterion == "absolute" else gap.square()).mean().item()

        firsts.append(error(answer[one], times[n]))
        if n < 3 and weight:
            ahead = inside(answer[one], times[n + 1])
            assert torch.allclose(said[1][0][one], ahead, atol=1e-12)
            seconds.append(error(said[1][3][one], times[n + 1]))
    # the mean over all of 4 / 3 of those that count: that over those which do, in expectation
    second = sum(seconds) / len(x) * 4 / 3
    assert loss == pytest.approx((1 - weight) * sum(firsts) / len(x) + weight * second, rel=1e-10)
    assert len(said) == (2 if weight else 1), "no second pass for nothing"


def test_members_of_the_forecaster_are_scored_together():
    """With noise of its own: three members from the same interpolated state, then each from its own; the fair CRPS of both."""
    model = one_line("noise", loss="crps", members=3, fairness=1.0, lookahead=0.4, variable="state")
    x, said = windows(model, 50), forecasts(model)
    loss = model.stages()[1].objective(batch(x)).item()
    (state, time, start, answer), (later, _, _, again) = said
    states = state.unflatten(0, (3, 50))
    assert torch.equal(states[0], states[1]) and torch.equal(start.unflatten(0, (3, 50))[2], x[:, 0])
    assert not torch.equal(*later.unflatten(0, (3, 50))[:2])
    first, second = (crps(each.unflatten(0, (3, 50)), x[:, 4]).mean(dim=(1, 2)) for each in (answer, again))
    counted = torch.where(time[:50] < 3, second * 4 / 3, 0.0)
    assert loss == pytest.approx((0.6 * first + 0.4 * counted).mean().item(), rel=1e-10)


def test_the_last_step_has_no_second_term():
    model = one_line("dropout", lookahead=1.0)
    x = windows(model, 40)
    said = forecasts(model)
    generator = torch.Generator().manual_seed(5)
    loss = model.stages()[1].objective(TrainingBatch(x, conditions(40), generator))
    last = said[0][1] == 3
    gradient = torch.autograd.grad(loss, said[0][3])[0].abs().flatten(1).sum(dim=1)
    assert 0 < last.sum() < 40
    assert (gradient[last] == 0).all() and (gradient[~last] > 0).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_steps_are_drawn_from_their_law(share):
    """Uniform, and a share more of the first; the second term counts those that have a next step, as a mean over these."""
    model = one_line("dropout", start_share=share, lookahead=1.0, ahead="any")
    x, said = windows(model, 4000), forecasts(model)
    model.stages()[1].objective(batch(x))
    found = torch.stack([(said[0][1] == n).double().mean() for n in range(4)])
    exact = torch.tensor([share + (1 - share) / 4, *[(1 - share) / 4] * 3], dtype=torch.float64)
    assert torch.allclose(found, exact, atol=5 * 0.5 / 4000**0.5)
    early = said[0][1] < 3
    now, then = said[0][1][early], said[1][1][early]
    assert (then > now).all() and (then <= 3).all()
    again = [(then[now == 0] == n).double().mean().item() for n in (1, 2, 3)]
    assert again == pytest.approx([1 / 3] * 3, abs=5 * 0.5 / (now == 0).sum().item() ** 0.5)


@pytest.mark.parametrize(("criterion", "checkpoint"), [("squared", False), ("squared", True), ("crps", False)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_of_the_forecaster_goes_through_the_interpolator(kind, criterion, checkpoint):
    """Along one direction of its weights against the difference quotient, masks open; without that path it would be another."""
    network = UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=6, dropout=0.2, checkpoint=checkpoint)
    settings = InterpolatorConfig(noise=kind, network=network)
    model = build(kind, interpolator=settings, network=network, lookahead=0.7, loss=criterion)
    x, (_, stage) = windows(model, 8), model.stages()
    weights = list(stage.module.parameters())
    direction = [normal(*weight.shape, seed=90 + number) for number, weight in enumerate(weights)]

    def loss() -> torch.Tensor:
        with masks_from(TrainingMasks(1, 0, 8, 8)):
            return stage.objective(batch(x))

    @torch.no_grad()
    def shifted(size: float) -> float:
        for weight, way in zip(weights, direction, strict=True):
            weight.add_(size * way)
        return loss().item()

    def slope() -> float:
        for weight in weights:
            weight.grad = None
        loss().backward()
        pairs = zip(weights, direction, strict=True)
        return sum((weight.grad * way).sum().item() for weight, way in pairs if weight.grad is not None)

    exact = slope()
    quotient = (shifted(1e-6) - shifted(-2e-6)) / 2e-6
    shifted(1e-6)
    assert exact == pytest.approx(quotient, rel=1e-5)
    assert all(weight.grad is None for weight in model.interpolator.parameters())
    inside = model.interpolator.drawn

    def cut(start, end, *given):
        return inside(start, end.detach(), *given)

    model.interpolator.drawn = cut  # type: ignore[method-assign]
    assert abs(slope() - quotient) > 1e-3 * abs(quotient)


def test_the_condition_is_drowned_by_the_step():
    """tau x_0 + (1 - tau) noise, tau = n / (N - 1): nothing of the start at n = 0, nothing else at the last step."""
    model, seen = build("noise", conditioning="data+noise", told="index", times=(0.0, 0.5, 2.0)), []
    model.forecaster.backbone.register_forward_pre_hook(lambda _, given: seen.append(given))
    start, noise, here = normal(3, 1, 5), normal(3, 1, 5, seed=1), conditions(3)
    model.forecast(normal(3, 1, 5, seed=2), torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64), start, noise, here)
    frames, scalars = seen[0]
    assert torch.equal(frames[0, 0], noise[0]) and torch.equal(frames[2, 0], start[2])
    assert torch.allclose(frames[1, 0], (noise[1] + start[1]) / 2, atol=1e-14)
    assert torch.equal(frames[:, 1], normal(3, 1, 5, seed=2))
    assert torch.allclose(scalars[:, 0], torch.tensor([0, 1 / 3, 2 / 3], dtype=torch.float64))


# The loss of the interpolator


@pytest.mark.parametrize("criterion", ["absolute", "squared"])
def test_loss_of_the_published_interpolator(criterion):
    model = one_line("dropout", interpolator=interpolator("dropout", loss=criterion))
    x, here = windows(model, 300), conditions(300)
    told = []
    state = model.interpolator.state
    model.interpolator.state = lambda *given: told.append((given[2], state(*given))) or told[-1][1]  # type: ignore[method-assign]
    loss = model.stages()[0].objective(TrainingBatch(x, here, torch.Generator().manual_seed(2)))
    time, said = told[0]
    assert sorted(time.unique().tolist()) == [1, 2, 3]
    at = time.long()
    gap = (said - x[torch.arange(300), at]) / model.interpolator.scales[at - 1][:, :, None]
    assert loss.item() == pytest.approx(
        (gap.abs() if criterion == "absolute" else gap.square()).mean().item(), rel=1e-12
    )


def test_departures_of_a_brownian_path_have_the_scale_of_its_bridge():
    """sqrt(i (h - i) / h) times the step, and 0 at the end; on channels of their own."""
    steps = torch.tensor([0.3, 2.0], dtype=torch.float64)[:, None]
    model = build("noise", channels=2, horizon=5)
    model.prepare((normal(500, 11, 2, 6) * steps).cumsum(dim=1))
    i = torch.arange(1.0, 6.0, dtype=torch.float64)
    exact = (i * (5 - i) / 5).sqrt()[:, None] * steps[:, 0]
    assert torch.allclose(model.interpolator.scales, exact, rtol=0.05)
    assert (model.interpolator.scales[-1] == 0).all()


def test_crps_of_a_gaussian_is_that_of_the_referee(referee):
    rules = referee("scoringrules")
    mean, deviation, truth = normal(200), normal(200, seed=1).exp(), 3 * normal(200, seed=2)
    ours = gaussian_crps(mean, deviation, truth)
    theirs = torch.as_tensor(rules.crps_normal(truth.numpy(), mean.numpy(), deviation.numpy()))
    assert torch.allclose(ours, theirs, atol=1e-12)
    many = mean + deviation * normal(20_000, 200, seed=3)
    assert torch.allclose(ours, crps(many, truth), rtol=0.05, atol=0.02)


def test_crps_of_a_gaussian_is_least_for_the_right_law():
    """Its gradient vanishes, on average, at the mean and deviation that the truth has."""
    truth = 0.7 + 1.6 * normal(400_000)
    mean = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    deviation = torch.tensor(1.6, dtype=torch.float64, requires_grad=True)
    gaussian_crps(mean, deviation, truth).mean().backward()
    assert mean.grad is not None and deviation.grad is not None
    assert abs(mean.grad.item()) < 5e-3 and abs(deviation.grad.item()) < 5e-3


def test_a_bridge_has_no_noise_at_its_ends():
    model = build("bridge")
    start, end = normal(1, 1, 5), normal(1, 1, 5, seed=1)

    def deviation(time: float) -> float:
        at = torch.tensor([time], dtype=torch.float64)
        mean, found = model.interpolator.gaussian(start, end, at, conditions(1))
        if time in (0, 4):
            assert torch.allclose(mean, start if time == 0 else end, atol=1e-12)
        return found.abs().max().item()

    assert deviation(0.0) == 0 and deviation(4.0) == 0
    assert min(deviation(time) for time in (0.01, 1.0, 2.0, 3.99)) > 0
    assert deviation(0.01) < 0.01 * deviation(2.0) and deviation(3.99) < 0.01 * deviation(2.0)


def test_masks_without_a_layer_that_drops_are_refused():
    plain = UNetConfig(channels=(4,))
    for settings in ({}, {"interpolator": InterpolatorConfig(network=plain)}):
        with pytest.raises(InputError, match=r"emulator.interpolator.network.dropout .* noise or bridge\.$"):
            DYffusion(DYffusionConfig(**settings), ModelShape(1, (True,)))
    for wrong in ({"members": 1}, {"noise_channels": 0}):
        with pytest.raises(ValueError, match="members >= 2 and noise_channels >= 1"):
            InterpolatorConfig("noise", **wrong)
        with pytest.raises(ValueError, match="members >= 2 and noise_channels >= 1"):
            DYffusionConfig(loss="crps", **wrong)


# Learning


HORIZON, PHI = 3, 0.8
SMALL = UNetConfig(channels=(16,), blocks=1, kernel=1, embedding=8, normalise=False)


def learned(kind: str, stage: int, steps: int) -> DYffusion:
    def draw(step: int, frames: int):
        return autoregressive(64, frames, 8, PHI, seed=step).float(), conditions(64)

    config = DYffusionConfig(
        horizon=HORIZON, interpolator=InterpolatorConfig(kind, network=SMALL, fairness=1.0), network=SMALL,
        lookahead=0.0, loss="squared", conditioning="none",
    )  # fmt: skip
    model = initialised(DYffusion(config, ModelShape(1, (True,))))
    assert isinstance(model, DYffusion)
    model.prepare(draw(99_999, HORIZON + 1)[0])
    fit(model, draw, steps, stage=stage)
    return model.eval()


@pytest.mark.parametrize("kind", ["noise", "bridge"])
def test_interpolator_learns_the_bridge_of_an_autoregressive_process(kind):
    """Mean and standard deviation of x_i given both ends are known, and so is the least CRPS, s / sqrt(pi) on average."""
    model = learned(kind, 0, 250)
    x = autoregressive(200, HORIZON + 1, 8, PHI, seed=77).float()
    gain, cov = gaussian_conditioning(PHI, torch.tensor([True, False, False, True]))
    members, here = 20, conditions(200)
    noise = addresses(200 * members)
    with torch.no_grad():
        for i in (1, 2):
            start, end = (x[:, t].repeat(members, 1, 1) for t in (0, HORIZON))
            time = torch.full((200 * members,), float(i))
            told = model.interpolator(start, end, time, here.expand(members).flatten(), Draws(noise, 0, (i,)))
            states = told.unflatten(0, (members, 200)).double()
            exact = torch.einsum("k,nkcx->ncx", gain[i - 1], x[:, [0, HORIZON]].double())
            deviation = cov[i - 1, i - 1].sqrt().item()
            assert states.std(dim=0).mean().item() == pytest.approx(deviation, rel=0.08)
            bias = (states.mean(dim=0) - exact).square().mean() - deviation**2 / members
            assert bias.item() < (0.15 * deviation) ** 2
            least = deviation / math.sqrt(math.pi)
            score = crps(states, x[:, i].double()).mean().item()
            assert score == pytest.approx(least, rel=0.06), "1600 points: about 2 % by chance"


def test_forecaster_learns_the_mean_of_what_is_left():
    """E[x_h | x_i] = phi^(h - i) x_i for the true states; from the exact bridge z_i it is the same."""

    class Bridge(nn.Module):
        """The exact interpolator of the process."""

        def forward(self, x, conditions, scalars):
            return torch.zeros_like(x[:, :1]).repeat_interleave(2, dim=2)

    def draw(step: int, frames: int):
        return autoregressive(64, frames, 8, PHI, seed=step).float(), conditions(64)

    config = DYffusionConfig(
        horizon=HORIZON, interpolator=InterpolatorConfig("bridge", network=SMALL), network=SMALL,
        lookahead=0.0, loss="squared", conditioning="none",
    )  # fmt: skip
    model = initialised(DYffusion(config, ModelShape(1, (True,))))
    assert isinstance(model, DYffusion)
    model.prepare(draw(99_999, HORIZON + 1)[0])
    gain, cov = gaussian_conditioning(PHI, torch.tensor([True, False, False, True]))

    def state(start, end, time, conditions, fields):
        at = time.long().clamp(1, 2) - 1
        weights, deviation = gain.float()[at], cov.diagonal().sqrt().float()[at]
        return weights[:, :1, None] * start + weights[:, 1:, None] * end + deviation[:, None, None] * fields

    model.interpolator.state = state  # type: ignore[method-assign]
    fit(model, draw, 200, stage=1)
    x = autoregressive(400, 1, 8, PHI, seed=78).float()[:, 0]
    with torch.no_grad():
        for i in range(HORIZON):
            said = model.forecast(x, torch.full((400,), float(i)), x, None, conditions(400))
            slope = (said * x).mean() / x.square().mean()
            assert slope.item() == pytest.approx(PHI ** (HORIZON - i), abs=0.06), i


def test_members_of_the_forecaster_have_noise_of_their_own_and_the_same_state():
    model = build("noise", loss="crps")
    given, ask = [], model.forecast

    def forecast(state, time, start, noise, conditions):
        given.append((state, noise))
        return ask(state, time, start, noise, conditions)

    model.forecast = forecast
    x = windows(model)
    model.stages()[1].objective(batch(x))
    state, noise = (each.unflatten(0, (model.config.members, len(x))) for each in given[0])
    assert torch.equal(state[0], state[1])
    assert (noise[0] != noise[1]).all()
    assert len(given) == 2
    assert (given[0][1] != given[1][1]).all()
