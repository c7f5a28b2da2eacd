"""Ensembles of a regression: masks and perturbed starts have the spread that theory says, at addresses that nothing else moves."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from exact_models import SeasonalNetwork, addresses, autoregressive, conditions, normal, ring, seasonal_states
from torch import Tensor, nn

from eddycast.api.settings import configured
from eddycast.emulators import (
    Emulator,
    IdentitySpace,
    ModelShape,
    Regression,
    RegressionConfig,
    TrainingBatch,
    count_passes,
    regression,
)
from eddycast.errors import InputError
from eddycast.networks import MemberMasks, UNetConfig
from eddycast.networks.dropout import Dropout, TrainingMasks, masks_from, number_sites

TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)
MASKED = replace(TINY, dropout=0.3)
POINTWISE = UNetConfig(channels=(16,), blocks=1, kernel=1, embedding=8)
SHAPE = ModelShape(1, (True,))


class MaskedSum(nn.Module):
    """F = sum_k w_k drop(x_k), over the channels of the last frame, at each point: one linear layer with dropout before it."""

    def __init__(self, weights: Tensor, rate: float) -> None:
        super().__init__()
        self.weights, self.dropout = weights, Dropout(rate)
        number_sites(self)

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        kept = self.dropout(inputs[:, -1])
        return (self.weights[:, None] * kept).sum(dim=1, keepdim=True).expand_as(kept)[:, None]


def masked_sum(**changes) -> Regression:
    """Two channels, both of which are 0.5 x_0 - 1.5 x_1 of the last state, with a tenth of the inputs dropped."""
    settings = {"variable": "state", "ensemble": "dropout", "horizon": 3, "network": MASKED} | changes
    model = Regression(RegressionConfig(**settings), ModelShape(2, (True,))).double()
    model.network = MaskedSum(torch.tensor([0.5, -1.5], dtype=torch.float64), 0.1)
    return model


def perturbed(model: Regression) -> Regression:
    """All weights set, so that masks matter."""
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.add_(0.2 * normal(*weight.shape, seed=number).to(weight))
    return model


def forecast(model: Regression, steps: int = 6, *, members: int = 4, cases: int = 3, chunk: int = 256) -> Tensor:
    x = normal(cases, model.context, 2, 8, seed=4).to(model.scales)
    emulator = Emulator(model, IdentitySpace(), chunk=chunk)
    return emulator.forecast(x, conditions(cases), torch.arange(1, steps + 1), members=members, seed=0)


def test_without_an_ensemble_members_are_the_same():
    """Layers of dropout or not: nobody opens masks. To rounding, which depends on the place in a batch."""
    for network in (TINY, MASKED):
        model = Regression(RegressionConfig(horizon=3, network=network), ModelShape(2, (True,)))
        states = forecast(perturbed(model).double())
        assert (states - states[:1]).abs().max() < 1e-12 and states.std() > 0.1


# Dropout


def test_variance_of_a_layer_with_dropout_is_the_closed_form():
    """Mean sum_k w_k x_k, variance p / (1 - p) sum_k w_k^2 x_k^2 at each point: 5 standard errors of 4000 members."""
    model, members, rate = masked_sum(horizon=1), 4000, 0.1
    x = normal(1, 1, 2, 8, seed=4)
    ensemble = Emulator(model, IdentitySpace(), chunk=4000).forecast(
        x, conditions(1), torch.tensor([1.0]), members=members, seed=0
    )[:, 0, 0, 0]
    weighted = torch.tensor([[0.5], [-1.5]]) * x[0, 0]
    variance = rate / (1 - rate) * weighted.square().sum(dim=0)
    error = ensemble.mean(dim=0) - weighted.sum(dim=0)
    assert (error.abs() < 5 * (variance / members).sqrt()).all()
    # one of ten is dropped: the fourth moment is that of two Bernoulli variables, of kurtosis up to (1 - 6 p (1 - p)) / (p (1 - p)) + 3
    kurtosis = (1 - 6 * rate * (1 - rate)) / (rate * (1 - rate)) + 3
    assert ((ensemble.var(dim=0) / variance - 1).abs() < 5 * math.sqrt(kurtosis / members)).all()


def test_masks_have_the_address_of_their_member_lead_and_window():
    """Alone or among others, in any chunk, whatever other leads are asked for; and no two of them are the same."""
    model = masked_sum()
    states = forecast(model)
    assert torch.equal(forecast(model, chunk=5), states), "chunks cut members and cases"
    assert torch.equal(forecast(model, members=2), states[:2]), "more members leave the first as they are"
    x = normal(3, 1, 2, 8, seed=4)
    emulator = Emulator(model, IdentitySpace())
    few = emulator.forecast(x, conditions(3), torch.tensor([2.0, 2.5, 6.0]), members=4, seed=0)
    assert torch.equal(few[:, :, [0, 2]], states[:, :, [1, 5]])
    assert not torch.equal(few[:, :, 1], few[:, :, 0])
    kept = [
        tuple((states[member, 0, lead] / states[0, 0, 0]).flatten().tolist())
        for member in range(4)
        for lead in range(3)
    ]
    assert len(set(kept)) == 12


@pytest.mark.parametrize("sharing", ["independent", "window", "rollout"])
def test_sharing_says_which_passes_have_one_mask(sharing):
    """A network blind to the lead: with shared masks all leads of a window are one state, and with those of a rollout all windows drop the
    same inputs."""
    model = masked_sum(sharing=sharing)
    states = forecast(model)
    for window in (states[:, :, :3], states[:, :, 3:]):
        assert torch.equal(window, window[:, :, :1].expand_as(window)) == (sharing != "independent")
    noise = addresses(5)
    first, second = (
        model.advance(normal(5, 4, 2, 8), torch.arange(4) < 1, conditions(5), torch.arange(4.0), noise=noise, window=w)
        for w in (0, 1)
    )
    assert torch.equal(first, second) == (sharing == "rollout")


def test_masks_are_those_of_one_pass_for_each_lead():
    """Several leads in a pass give what one pass for each gives, with its masks opened by hand."""
    model = perturbed(Regression(RegressionConfig(horizon=3, ensemble="dropout", network=MASKED), SHAPE)).double()
    x, here, leads = normal(4, 4, 1, 8), conditions(4), torch.arange(4.0, dtype=torch.float64)
    together = model.advance(x, leads < 1, here, leads, noise=addresses(4), window=2)
    for lead in (1, 2, 3):
        with masks_from(MemberMasks(addresses(4), 2, lead * 2**16, "regression")):
            alone = model.predict(x[:, :1], here, torch.tensor([float(lead)]))
        assert torch.allclose(together[:, lead], alone[:, 0], atol=1e-12)
    assert (together[:, 1:] - model.predict(x[:, :1], here, leads[1:])).abs().max() > 1e-3, "masks matter"


def test_dropout_that_drops_nothing_is_refused_in_one_line():
    """When it is built, before it is trained; and when a trained one is asked for it."""
    with pytest.raises(InputError, match=r"network\.dropout above 0") as caught:
        Regression(RegressionConfig(ensemble="dropout", network=TINY), SHAPE)
    assert "\n" not in str(caught.value)
    emulator = Emulator(Regression(RegressionConfig(network=TINY), SHAPE), IdentitySpace())
    with pytest.raises(InputError, match=r"network\.dropout above 0"):
        configured(emulator, {"ensemble": "dropout"}).forecast(
            torch.zeros(1, 1, 1, 8), conditions(1), torch.tensor([1.0]), members=2, seed=0
        )


# Perturbed starts


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_identity_keeps_the_law_of_the_perturbation(sigma):
    """An untrained network persists: each member is x + sigma eps at all leads and windows, eps standard normal and its own."""
    config = RegressionConfig(horizon=3, ensemble="perturbation", perturbation=sigma, network=TINY)
    x, members = normal(2, 1, 1, 8, seed=4).float(), 600
    emulator = Emulator(Regression(config, SHAPE), IdentitySpace())
    states = emulator.forecast(x, conditions(2), torch.arange(1, 8), members=members, seed=0)
    assert torch.equal(states, states[:, :, :1].expand_as(states)), "one eps for all leads; none is added later"
    eps = ((states[:, :, 0] - x[:, 0]) / sigma).double()
    count = eps.numel()
    assert abs(eps.mean().item()) < 5 / math.sqrt(count)
    assert abs(eps.square().mean().item() - 1) < 5 * math.sqrt(2 / count)
    assert abs(eps.pow(4).mean().item() - 3) < 5 * math.sqrt(96 / count)
    fewer = Emulator(emulator.model, IdentitySpace(), chunk=3).forecast(
        x, conditions(2), torch.arange(1, 8), members=5, seed=0
    )
    assert torch.equal(fewer, states[:5])


class Watched(nn.Module):
    """Says 0 and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        self.shown.append(inputs)
        return torch.zeros_like(inputs[:, -1:])


def test_perturbed_states_stay_what_they_were_in_later_windows():
    """Two known states, one new one a window: the second window still sees the last known state, with the same eps."""
    config = RegressionConfig(context=2, ensemble="perturbation", perturbation=0.5, network=TINY)
    model = Regression(config, SHAPE).double()
    model.network = Watched()
    x, valid = normal(3, 2, 1, 8), torch.arange(8) < 6
    emulator = Emulator(model, IdentitySpace())
    states = emulator.forecast(x, conditions(3, valid=valid), torch.arange(1, 4), members=1, seed=0)[0]
    first, second, third = model.network.shown
    eps = (first - x) / 0.5
    assert (eps[..., ~valid] == 0).all(), "land has no noise"
    assert 0.5 < eps[..., valid].std() < 1.5 and not torch.allclose(eps[:, 0], eps[:, 1])
    assert torch.equal(second[:, 0], first[:, 1]) and torch.equal(second[:, 1], states[:, 0])
    assert torch.equal(third, states[:, :2]), "forecast states get none"
    known = torch.cat([x, x[:, :1]], dim=1)
    filled = model.advance(known, torch.arange(3) < 2, conditions(3), torch.arange(-1.0, 2.0), noise=addresses(3))
    assert torch.equal(filled[:, :2], x), "known states come back as they are"


def test_a_perturbation_of_nothing_is_refused():
    for settings in ({"ensemble": "perturbation"}, {"perturbation": -0.1}, {"perturbation": math.inf}):
        with pytest.raises(ValueError, match="standard deviation"):
            RegressionConfig(**settings)


def test_one_training_serves_all_three():
    """Switched where it is used; the run keeps its own settings."""
    model = perturbed(Regression(RegressionConfig(horizon=2, network=MASKED), SHAPE))
    emulator, x = Emulator(model, IdentitySpace()), normal(2, 1, 1, 8).float()

    def spread(given: dict) -> float:
        states = configured(emulator, given).forecast(x, conditions(2), torch.arange(1, 4), members=8, seed=0)
        return states.std(dim=0).mean().item()

    assert spread({}) < 1e-7
    assert spread({"ensemble": "dropout"}) > 1e-3
    assert spread({"ensemble": "dropout", "sharing": "rollout"}) != spread({"ensemble": "dropout"})
    small, large = (spread({"ensemble": "perturbation", "perturbation": sigma}) for sigma in (0.01, 0.1))
    assert 0 < small < large
    assert model.config.ensemble == "none"
    with pytest.raises(InputError, match="horizon"):
        configured(emulator, {"horizon": 3})


# Passes


@pytest.mark.parametrize("ensemble", ["none", "dropout", "perturbation"])
def test_passes_are_one_for_each_lead_of_each_window_and_member(ensemble):
    config = RegressionConfig(horizon=4, ensemble=ensemble, perturbation=0.1, network=MASKED)
    emulator, x = Emulator(Regression(config, SHAPE), IdentitySpace()), normal(2, 1, 1, 8).float()
    with count_passes() as passes:
        emulator.forecast(x, conditions(2), torch.arange(1, 13), members=5, seed=0)
    assert passes.forward == 4 * 3 * 2 * 5


def test_leads_share_a_pass_as_far_as_memory_goes(monkeypatch):
    """The same states from one pass, several and one for each lead."""
    model = perturbed(Regression(RegressionConfig(horizon=5, ensemble="dropout", network=MASKED), SHAPE)).double()
    x, leads = normal(3, 6, 1, 8), torch.arange(6.0)
    sizes: list[int] = []
    model.network.register_forward_hook(lambda module, given, out: sizes.append(len(out)))
    results = []
    for points, expected in ((2**16, [15]), (2 * 3 * 8, [6, 6, 3]), (1, [3] * 5)):
        monkeypatch.setattr(regression, "POINTS_AT_ONCE", points)
        results.append(model.advance(x, leads < 1, conditions(3), leads, noise=addresses(3)))
        assert sizes == expected
        sizes.clear()
    for other in results[1:]:
        assert torch.allclose(other, results[0], rtol=0, atol=1e-12)


def test_batched_leads_see_the_conditions_of_their_own_entry():
    """Parameters and times differ between entries: the exact network is exact at every lead of every one."""
    model = Regression(RegressionConfig(horizon=4, variable="departure", network=TINY), ModelShape(2, (True,))).double()
    model.network = SeasonalNetwork(model)
    here = conditions(5, ring(), parameters=1, cycle=12.0)
    x = seasonal_states(here, normal(5, 2, 8, seed=3), 5)
    model.prepare(x)
    leads = torch.arange(5.0, dtype=torch.float64)
    known = torch.where((leads < 1)[:, None, None], x, 0.0)
    assert torch.allclose(model.advance(known, leads < 1, here, leads, noise=addresses(5)), x, atol=1e-12)


# Training


def fit(model: Regression, phi: float, steps: int, *, rate: float = 1e-2, masks: bool = False) -> float:
    """Adam with a cosine decay on an autoregressive process; mean loss of the last fifth."""
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            if weight.ndim > 1 and weight.abs().max() > 0:
                weight.copy_(normal(*weight.shape, seed=number) / math.sqrt(weight[0].numel()))
    stage, generator = model.stages()[0], torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    losses = []
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        x = autoregressive(64, stage.frames, 8, phi, seed=step).float()
        with masks_from(TrainingMasks(step, 0, 64, 64) if masks else None):
            loss = stage.objective(TrainingBatch(x, conditions(64), generator))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return sum(losses[-steps // 5 :]) / len(losses[-steps // 5 :])


@pytest.mark.parametrize("loss", ["squared", "absolute"])
@pytest.mark.parametrize("variable", ["state", "departure"])
def test_all_leads_are_learned_to_their_known_error(variable, loss):
    """x(t + l) = phi^l x + N(0, 1 - phi^(2 l)): slope phi^l, and the least loss, in units of the state or of the increment."""
    phi, horizon = 0.7, 3
    config = RegressionConfig(horizon=horizon, variable=variable, loss=loss, network=POINTWISE)
    model = Regression(config, SHAPE)
    model.prepare(autoregressive(500, 9, 8, phi, seed=9).float())
    last = fit(model, phi, 300)
    lags = torch.arange(1.0, horizon + 1)
    left = torch.sqrt(1 - phi ** (2 * lags))
    if variable == "departure":
        left = left / torch.sqrt(2 * (1 - phi**lags))
    least = (left.square() if loss == "squared" else left * math.sqrt(2 / math.pi)).mean().item()
    assert last == pytest.approx(least, rel=0.05)
    x = torch.linspace(-1.5, 1.5, 8).expand(1, 1, 1, 8)
    states = Emulator(model, IdentitySpace()).forecast(x, conditions(1), lags, members=1, seed=0)[0, 0, :, 0]
    slope = (states * x[0, 0, 0]).sum(dim=1) / x.square().sum()
    assert torch.allclose(slope, phi**lags, atol=0.08), slope.tolist()


def test_a_network_trained_with_masks_spreads_and_stays_right_on_average():
    """Monte-Carlo dropout on the same process: the mean of members is the conditional mean, their spread is not that of the future."""
    phi = 0.7
    config = RegressionConfig(horizon=2, ensemble="dropout", network=replace(POINTWISE, channels=(32,), dropout=0.1))
    model = Regression(config, SHAPE)
    model.prepare(autoregressive(500, 9, 8, phi, seed=9).float())
    fit(model, phi, 300, masks=True)
    x = torch.linspace(-1.5, 1.5, 8).expand(1, 1, 1, 8)
    states = Emulator(model, IdentitySpace()).forecast(x, conditions(1), torch.arange(1, 3), members=400, seed=0)[
        :, 0, :, 0
    ]
    slope = (states.mean(dim=0) * x[0, 0, 0]).sum(dim=1) / x.square().sum()
    assert torch.allclose(slope, torch.tensor([phi, phi**2]), atol=0.1), slope.tolist()
    future = torch.sqrt(1 - phi ** (2 * torch.arange(1.0, 3)))
    spread = states.std(dim=0).mean(dim=1)
    assert (spread > 0.01).all() and (spread < 0.5 * future).all(), spread.tolist()
