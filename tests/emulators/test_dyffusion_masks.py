"""Masks and noise fields: whose they are, who shares them, and what they do to a mean and a variance."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from dyffusion_models import KINDS, Spy, build, interpolator, one_line
from exact_models import addresses, conditions, normal
from torch import nn

from eddycast.emulators import Emulator, IdentitySpace, TrainingBatch, rollout
from eddycast.emulators.dyffusion import model as dyffusion_model
from eddycast.emulators.dyffusion.interpolator import Draws
from eddycast.networks import MemberMasks, TrainingMasks, masks_from
from eddycast.networks.dropout import Dropout, repeatable
from eddycast.noise import MemberNoise

SHARINGS = ("independent", "step", "window", "rollout")

# Members


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize(("kind", "criterion"), [*((kind, "absolute") for kind in KINDS), ("bridge", "crps")])
def test_a_member_is_the_same_in_any_batch_order_and_chunk(kind, criterion, sharing):
    """Bit by bit: these networks treat each number alone, so that only its noise could tell."""
    model = one_line(kind, sharing=sharing, loss=criterion)
    context, here, leads = normal(1, 1, 1, 3), conditions(1), torch.tensor([0.5, 1, 2, 4, 5.25, 9])

    def forecast(members: list[int], chunk: int = 256) -> torch.Tensor:
        numbers = torch.tensor(members)
        noise = MemberNoise.grid(3, torch.tensor([7]), numbers)
        emulator = Emulator(model, IdentitySpace(), chunk=chunk)
        return emulator.advance(
            context.expand(len(members), *context.shape), here.expand(len(members)), leads, noise=noise
        )

    base = forecast([0, 1, 2, 3, 4])
    assert base.std(dim=0).max() > 1e-3
    assert torch.equal(forecast([4, 2, 0]), base[[4, 2, 0]])
    for chunk in (1, 2, 3):
        assert torch.equal(forecast([0, 1, 2, 3, 4], chunk), base)


@pytest.mark.parametrize("kind", KINDS)
def test_with_real_networks_a_member_is_the_same_to_rounding_and_bitwise_when_repeated(kind):
    emulator, here = Emulator(build(kind, sampler="cold"), IdentitySpace()), conditions(2)
    context, leads = normal(2, 1, 1, 6), torch.arange(1, 6)
    base = emulator.forecast(context, here, leads, members=3, seed=1)
    assert torch.equal(emulator.forecast(context, here, leads, members=3, seed=1), base)
    split = dataclasses.replace(emulator, chunk=1).forecast(context, here, leads, members=3, seed=1)
    assert torch.allclose(split, base, atol=1e-10)
    assert (emulator.forecast(context, here, leads, members=3, seed=2) - base).abs().max() > 1e-2


# Sharing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("sharing", "draws"),
    [
        ("independent", 3 * (2 * 5 - 3 + 4)),  # of cold steps each its own, and each refined lead
        ("step", 3 * (4 + 4)),
        ("window", 3),
        ("rollout", 1),
    ],
)
def test_sharing_is_counted_in_distinct_draws(sharing, draws, kind):
    """Three windows of five steps; the noise does not know which windows had been before."""
    model = one_line(kind, horizon=5, sharing=sharing)
    spy = Spy.of(addresses(2))
    list(rollout(model, normal(2, 1, 1, 3), conditions(2), torch.arange(1, 16), noise=spy))
    assert len(set(spy.keys)) == draws
    assert all(site.startswith("interpolator") for _, _, site in spy.keys)


@pytest.mark.parametrize("settings", [{"conditioning": "data+noise"}, {"loss": "crps"}])
@pytest.mark.parametrize(("sharing", "draws"), [("independent", 2 * 5), ("step", 2 * 5), ("window", 2), ("rollout", 1)])
def test_noise_of_the_forecaster_is_shared_likewise(sharing, draws, settings):
    model = one_line("dropout", horizon=5, sharing=sharing, **settings)
    spy = Spy.of(addresses(2))
    list(rollout(model, normal(2, 1, 1, 3), conditions(2), torch.arange(1, 11), noise=spy))
    assert len({key for key in spy.keys if key[2] == "forecaster"}) == draws


class Masked(nn.Module):
    """Ones, dropped: what comes out is the mask."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = Dropout(0.5)
        self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x, scalars):
        return self.dropout(torch.ones_like(x[:, :1]))


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize(("sharing", "masks"), [("independent", 4), ("window", 1)])
def test_naive_states_of_one_window_have_one_mask(sharing, masks, refine):
    model = one_line(horizon=5, sharing=sharing, sampler="naive", variable="state", refine=refine)
    model.interpolator.network.backbone = Masked()
    (filled,) = rollout(model, normal(2, 1, 1, 40), conditions(2), torch.arange(1, 6), noise=addresses(2))
    inside = filled[1][:, :4]
    assert set(inside.unique().tolist()) == {0.0, 2.0}
    for member in inside:
        assert len(member.unique(dim=0)) == masks
    assert (inside[0] != inside[1]).any(), "members have their own"


def test_default_sharing_is_the_published_one_where_that_is_published():
    for sampler, kind, exact in [
        ("cold", "dropout", "independent"),
        ("naive", "dropout", "independent"),
        ("heun", "dropout", "window"),
        ("cold", "noise", "window"),
        ("naive", "bridge", "window"),
    ]:
        assert build(kind, sampler=sampler).config.shared == exact


@pytest.mark.parametrize("kind", ["dropout", "noise", "bridge"])
def test_a_forecaster_with_noise_shares_none_between_steps(kind):
    """One draw for a whole window gave up to 1.5 times the right spread."""
    shared = {name: build(kind, loss="crps", sampler=name).config.shared for name in ("naive", "cold", "heun")}
    assert shared == {"naive": "independent", "cold": "step", "heun": "step"}


# Refinement


@pytest.mark.parametrize("sharing", ["independent", "step", "window"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lead_does_not_know_which_others_are_asked_for(kind, sharing, monkeypatch):
    """Nor how many states go through the network at once; the last lead is the forecaster's whatever is refined."""
    model, here, noise = one_line(kind, sharing=sharing), conditions(2), addresses(2)
    x = normal(2, 1, 1, 3)

    def forecast(*leads: float) -> torch.Tensor:
        (filled,) = rollout(model, x, here, torch.tensor(leads, dtype=torch.float64), noise=noise)
        return filled[1]

    base = forecast(0.25, 1, 2.5, 3, 4)
    assert torch.equal(forecast(1, 4), base[:, [1, 4]])
    assert torch.equal(forecast(2.5), base[:, [2]])
    for at_once in (1, 2, 3, 5):
        monkeypatch.setattr(dyffusion_model, "AT_ONCE", at_once)
        assert torch.equal(forecast(0.25, 1, 2.5, 3, 4), base)


@pytest.mark.parametrize("sampler", ["naive", "cold", "multistep", "heun"])
@pytest.mark.parametrize("kind", KINDS)
def test_refinement_leaves_the_end_untouched(kind, sampler):
    x, here = normal(2, 1, 1, 6), conditions(2)
    states = []
    for refine in (True, False):
        model = build(kind, sampler=sampler, refine=refine)
        (filled,) = rollout(model, x, here, torch.arange(1, 5), noise=addresses(2))
        states.append(filled[1])
    assert torch.equal(states[0][:, 3], states[1][:, 3])
    assert sampler == "naive" or (states[0][:, 1] - states[1][:, 1]).abs().max() > 1e-3


# The laws of a mask


def test_variance_of_a_dropped_line_is_the_closed_one():
    """y = sum w x m / (1 - p): mean sum w x, variance p / (1 - p) sum w^2 x^2, over members; within 5 standard errors."""
    rate, members = 0.3, 20_000
    weight, x = normal(6), normal(6, seed=1)
    layer, noise = Dropout(rate), MemberNoise.grid(0, 1, members).flatten()
    with masks_from(MemberMasks(noise, 0, 0, "line")):
        y = (layer(x.expand(members, 6)) * weight).sum(dim=1)
    variance = rate / (1 - rate) * (weight * x).square().sum()
    error = (variance / members).sqrt().item()
    assert y.mean().item() == pytest.approx((weight * x).sum().item(), abs=5 * error)
    spread = (y - y.mean()).square()
    assert spread.mean().item() == pytest.approx(variance.item(), abs=5 * (spread.std() / members**0.5).item())


def test_copies_beside_each_other_share_where_their_steps_are_equal():
    like = torch.zeros(2 * 4, 3)
    drawn = MemberMasks(addresses(2), 0, (5, 6, 5, 7), "some").uniform(like, 0, 0).reshape(2, 4, 3)
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    alone = MemberMasks(addresses(2), 0, 6, "some").uniform(like[:2], 0, 0)
    assert torch.equal(drawn[:, 1], alone), "a copy has the mask that it would have alone"
    others = torch.stack([drawn[0, 0], drawn[0, 1], drawn[0, 3], drawn[1, 0], drawn[1, 1]])
    assert len(others.unique(dim=0)) == 5
    for changed in (
        MemberMasks(addresses(2), 1, 6, "some"),
        MemberMasks(addresses(2), 0, 6, "other"),
        MemberMasks(addresses(2, seed=1), 0, 6, "some"),
    ):
        assert not torch.equal(changed.uniform(like[:2], 0, 0), alone)
    source = MemberMasks(addresses(2), 0, 6, "some")
    assert not torch.equal(source.uniform(like[:2], 1, 0), alone), "another layer"
    assert not torch.equal(source.uniform(like[:2], 0, 1), alone), "another pass"


# Training


def batch(model, size: int = 6, *, first: int = 0, count: int | None = None, seed: int = 4) -> TrainingBatch:
    x = normal(size, model.window, 1, 6, seed=8)
    part = slice(first, size if count is None else first + count)
    generator = torch.Generator().manual_seed(seed)
    return TrainingBatch(x[part], conditions(size).select(part), generator, first, size)


@dataclasses.dataclass
class Listening(TrainingMasks):
    """Remembers what it gave."""

    given: list[tuple[int, int, torch.Tensor]] = dataclasses.field(default_factory=list)

    def uniform(self, like, site, call):
        drawn = super().uniform(like, site, call)
        self.given.append((site, call, drawn))
        return drawn


def loss(model, stage: int, part: TrainingBatch, seed: int = 11) -> tuple[torch.Tensor, Listening]:
    masks = Listening(seed, part.first, part.size, len(part.x))
    with masks_from(masks):
        return model.stages()[stage].objective(part), masks


def test_all_passes_of_one_objective_have_masks_of_their_own():
    """Interpolator, forecaster, interpolator, forecaster: four passes through two networks, no mask twice."""
    model = build("dropout", network=interpolator("dropout").network)
    _, masks = loss(model, 1, batch(model))
    assert sorted({(site, call) for site, call, _ in masks.given}) == [(0, call) for call in range(4)]
    drawn = torch.stack([numbers.flatten() for _, _, numbers in masks.given])
    assert len(drawn) == 4 and (drawn[:, None] != drawn).any(dim=2).sum() == 12
    agree = (drawn[0] < 0.3).double().dot((drawn[1] < 0.3).double()) / len(drawn[0])
    assert agree.item() == pytest.approx(0.09, abs=0.08)
    _, again = loss(model, 1, batch(model))
    assert all(torch.equal(one[2], other[2]) for one, other in zip(masks.given, again.given, strict=True))
    _, later = loss(model, 1, batch(model), seed=12)
    assert not any(torch.equal(one[2], other[2]) for one, other in zip(masks.given, later.given, strict=True))


@pytest.mark.parametrize(("stage", "criterion"), [(0, "absolute"), (1, "absolute"), (1, "crps")])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_have_the_loss_of_the_whole(kind, stage, criterion):
    """Masks, steps, noise fields and coins included; every part sees its own rows of what one pass would see."""
    settings = {"conditioning": "data+noise", "start_share": 0.2, "ahead": "any", "loss": criterion}
    model = build(kind, network=interpolator("dropout").network, **settings)
    whole, masks = loss(model, stage, batch(model))
    parts = [loss(model, stage, batch(model, first=first, count=count)) for first, count in ((0, 1), (1, 3), (4, 2))]
    joined = sum(count / 6 * part[0] for count, part in zip((1, 3, 2), parts, strict=True))
    assert torch.allclose(joined, whole, rtol=1e-12)
    for number, (_, _, drawn) in enumerate(masks.given):
        copies = len(drawn) // 6
        rows = drawn.unflatten(0, (copies, 6))[:, 1:4].flatten(0, 1)
        assert torch.equal(parts[1][1].given[number][2], rows)


@pytest.mark.parametrize("stage", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_have_the_same_masks_and_gradients(kind, stage):
    gradients = []
    for checkpoint in (False, True):
        network = dataclasses.replace(interpolator("dropout").network, channels=(4, 4), checkpoint=checkpoint)
        settings = interpolator(kind, network=network)
        model = build(kind, interpolator=settings, network=network)
        value, masks = loss(model, stage, batch(model))
        value.backward()
        gradients.append([weight.grad for weight in model.stages()[stage].module.parameters()])
        passes = {call for _, call, _ in masks.given}
        again = len(masks.given) - len({(site, call) for site, call, _ in masks.given})
        assert (again > 0) == checkpoint and len(passes) == (1 if stage == 0 else 4 if kind == "dropout" else 2)
    assert all(torch.allclose(one, other, rtol=1e-10, atol=1e-14) for one, other in zip(*gradients, strict=True))


def test_noise_fields_stand_alone():
    """An interpolator with noise fields drops nothing in a forecast; so it drops nothing while the forecaster learns."""
    settings = interpolator("noise", network=interpolator("dropout").network)
    model = build("noise", interpolator=settings)
    _, own = loss(model, 0, batch(model))
    _, frozen = loss(model, 1, batch(model))
    assert own.given and not frozen.given


def test_recomputation_keeps_its_masks_whatever_is_open_and_the_count_goes_on():
    layer, x = Dropout(0.5), torch.ones(2, 50)
    masks, other = TrainingMasks(0, 0, 2, 2), TrainingMasks(9, 0, 2, 2)
    silent = repeatable(layer)
    with masks_from(masks):
        first = repeatable(layer)
        one, two = first(x), layer(x)
    with masks_from(other):
        assert torch.equal(first(x), one) and torch.equal(silent(x), x)
    assert masks.calls == {0: 2} and other.calls == {}
    with masks_from(masks):
        three = layer(x)
    assert len(torch.stack([one, two, three]).unique(dim=0)) == 3


def test_rows_that_are_no_copies_of_the_windows_are_refused():
    with pytest.raises(ValueError, match="no whole number of copies"):
        TrainingMasks(0, 0, 4, 4).uniform(torch.zeros(6, 2), 0, 0)


def test_draws_of_a_call_are_those_of_its_member():
    """Fields of a bridge: standard normal, addressed by window, draw and member."""
    fields = Draws(addresses(3), 2, (0, 1, 0)).fields((4, 5), normal(1))
    assert fields.shape == (9, 4, 5) and fields.dtype == torch.float64
    assert torch.equal(fields[0], fields[2]) and not torch.equal(fields[0], fields[1])
    alone = Draws(addresses(3).select(slice(1, 2)), 2, (1,)).fields((4, 5), normal(1))
    assert torch.equal(alone[0], fields[4])
