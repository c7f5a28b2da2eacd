"""Noise inside the backbone: who gives it, at which addresses, and that members and passes never share it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from exact_models import channel_grid, conditions, normal, ring
from torch import Tensor, nn

from eddycast.emulators import (
    Emulator,
    IdentitySpace,
    ModelShape,
    NeuralSolverConfig,
    RegressionConfig,
    ScoringConfig,
    ScoringRule,
    TrainingBatch,
    UniversalConfig,
    build_model,
)
from eddycast.emulators.network import spacings
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.networks import NETWORKS, UNetConfig

UNET = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)


@dataclass(frozen=True)
class DrivenConfig:
    """A backbone whose output is its noise."""

    kind: str = "driven"
    noise: str = "latent"
    checkpoint: bool = False


class Driven(nn.Module):
    """Increments: the sum of two noise fields times a weight, plus the scalar; what it was given is kept."""

    def __init__(self, config: DrivenConfig, **sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[tuple[Tensor, Tensor | None, object]] = []

    def noise_shape(self, space: tuple[int, ...]) -> tuple[int, ...] | None:
        return None if self.config.noise == "none" else (2, *space)

    def forward(self, x: Tensor, scalars: Tensor, *, noise: Tensor | None = None, spacing=None) -> Tensor:
        self.seen.append((x, noise, spacing))
        assert noise is not None
        return (self.weight * noise.sum(dim=1, keepdim=True)[:, None]).expand(
            -1, 1, self.sizes["out_channels"], *x.shape[3:]
        )


@pytest.fixture(autouse=True)
def driven(monkeypatch):
    monkeypatch.setitem(NETWORKS, "driven", Driven)


LINE = ModelShape(1, (True,))


def model(shape: ModelShape = LINE, **settings) -> ScoringRule:
    config = ScoringConfig(noise="network", **{"network": DrivenConfig()} | settings)  # type: ignore[arg-type]
    return ScoringRule(config, shape).double()


def test_members_are_their_own_draws_in_any_batch_and_chunk_and_windows_have_draws_of_their_own():
    found, x = model(context=2, horizon=2), normal(3, 2, 1, 8)
    leads = torch.arange(1, 7)

    def forecast(members: int, chunk: int = 256) -> Tensor:
        emulator = Emulator(found, IdentitySpace(), chunk=chunk)
        return emulator.forecast(x, conditions(3), leads, members=members, seed=4)

    states = forecast(5)
    assert torch.equal(forecast(2), states[:2]) and torch.equal(forecast(5, chunk=4), states)
    increments = (
        states[:, :, ::2, 0] - torch.cat([x[:, -1:].expand(5, 3, 1, 1, 8), states[:, :, 1:-1:2]], dim=2)[:, :, :, 0]
    )
    flat = increments.flatten(0, 2)
    assert torch.cdist(flat, flat).add(10 * torch.eye(len(flat))).min() > 0.5, "no two alike"
    law = increments.flatten() / 2**0.5
    assert abs(law.mean()) < 0.3 and abs(law.std() - 1) < 0.2


def test_all_leads_of_a_window_share_their_noise():
    states = Emulator(model(horizon=3), IdentitySpace()).forecast(
        normal(2, 1, 1, 8), conditions(2), torch.arange(1, 4), members=2, seed=0
    )
    assert torch.allclose(states[:, :, 0], states[:, :, 2])


def test_the_scale_of_the_noise_is_that_of_the_spread_and_none_at_zero():
    found, x = model(), normal(2, 1, 1, 8)
    spreads = {}
    for scale in (0.0, 1.0, 1.7):
        found.config = replace(found.config, noise_scale=scale)
        states = Emulator(found, IdentitySpace()).forecast(x, conditions(2), torch.tensor([1.0]), members=6, seed=0)
        spreads[scale] = states.std(dim=0)
    assert spreads[0.0].max() < 1e-12
    assert torch.allclose(spreads[1.7], 1.7 * spreads[1.0])


def test_training_draws_for_each_member_window_and_step_and_the_first_stage_is_silent():
    found = model(members=3, unroll=2, context=2)
    pretrain, ensemble, unroll = found.stages()
    for stage in (pretrain, ensemble, unroll):
        batch = TrainingBatch(normal(4, stage.frames, 1, 8), conditions(4), torch.Generator().manual_seed(1))
        stage.objective(batch).backward()
    silent, once, first, second = (noise for _, noise, _ in found.network.backbone.seen)
    assert silent.shape == (4, 2, 8) and not silent.any()
    for drawn in (once, first, second):
        assert drawn.shape == (12, 2, 8)
    flat = torch.cat([first, second]).flatten(1)
    assert torch.cdist(flat, flat).add(10 * torch.eye(24)).min() > 1.0, "neither members nor windows nor steps share"
    assert "gain" not in dict(found.named_parameters())


def test_parts_of_a_batch_see_the_noise_of_the_whole():
    found, x = model(pretrain=0.0), normal(6, 2, 1, 8)
    objective = found.stages()[0].objective
    objective(TrainingBatch(x, conditions(6), torch.Generator().manual_seed(1)))
    for part in (slice(0, 2), slice(2, 6)):
        here = conditions(6).select(part)
        objective(TrainingBatch(x[part], here, torch.Generator().manual_seed(1), part.start, 6))
    whole, *parts = (noise.unflatten(0, (2, -1)) for _, noise, _ in found.network.backbone.seen)
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_the_backbone_is_told_the_distance_of_points_and_others_are_not():
    grid = Grid((periodic_axis("x", 8, 22.0), Axis("y", (0.0, -1.0, -2.0, -3.0, -4.0, -5.0), ("wall", "wall"))))
    assert spacings(grid, (8, 6)) == pytest.approx((2.75, 1.0))
    assert spacings(grid, (4, 2)) == pytest.approx((5.5, 3.0)), "a latent point stands for several"
    assert spacings(Grid((Axis("z", (3.0,), ("wall", "wall")),)), (1,)) == (1.0,)
    found = model(ModelShape(2, (True, False)))
    Emulator(found, IdentitySpace()).forecast(
        normal(1, 1, 2, 8, 6), conditions(1, grid), torch.tensor([1.0]), members=1, seed=0
    )
    x, noise, told = found.network.backbone.seen[0]
    assert told == pytest.approx((2.75, 1.0)) and noise.shape == (1, 2, 8, 6)
    assert x.shape[2] == 2, "no noise beside the states"
    plain = build_model(RegressionConfig(network=UNET), ModelShape(2, (True, False)))
    seen = []
    plain.network.backbone.register_forward_pre_hook(lambda _, given, named: seen.append(named), with_kwargs=True)
    Emulator(plain, IdentitySpace()).forecast(
        normal(1, 1, 2, 8, 6).float(), conditions(1, channel_grid()), torch.tensor([1.0]), members=1, seed=0
    )
    assert seen == [{}]


def test_parameters_are_told_standardised_and_some_as_logarithms():
    """Mean and deviation are those of what is told: of the logarithm where that is told."""
    shape = ModelShape(1, (True,), parameter_mean=(1.0, 2.0), parameter_std=(0.5, 4.0), parameter_log=(True, False))
    plain = build_model(RegressionConfig(network=UNET), shape)
    seen = []
    plain.network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[1]))
    known = replace(conditions(1, ring(8)), parameters=torch.tensor([[2.0, 6.0]]))
    Emulator(plain, IdentitySpace()).forecast(normal(1, 1, 1, 8).float(), known, torch.tensor([1.0]), members=1, seed=0)
    assert seen[0][0, 1:].tolist() == pytest.approx([(0.6931472 - 1.0) / 0.5, 1.0])


@pytest.mark.parametrize(
    "config",
    [
        ScoringConfig(noise="network", network=UNET),
        ScoringConfig(noise="network", network=DrivenConfig(noise="none")),  # type: ignore[arg-type]
    ],
)
def test_noise_in_a_network_without_is_refused_with_what_to_set(config):
    with pytest.raises(
        InputError, match=r"emulator.network.kind to transformer-local and emulator.network.noise to latent or global"
    ):
        build_model(config, LINE)


@pytest.mark.parametrize(
    "config",
    [ScoringConfig(), RegressionConfig(), UniversalConfig(), NeuralSolverConfig()],
    ids=lambda config: config.kind,
)
def test_a_network_with_noise_that_nobody_gives_is_refused(config):
    with pytest.raises(InputError, match=r"wants noise that nobody gives it: set emulator.noise to network"):
        build_model(replace(config, network=DrivenConfig()), LINE)
    quiet = replace(config, network=DrivenConfig(noise="none"))
    assert build_model(quiet, LINE) is not None


# The backbone that ships


@pytest.mark.parametrize("noise", ["latent", "global"])
def test_the_local_transformer_learns_a_spread_and_its_members_follow_their_addresses(noise):
    """Increments N(0, 1) of the whole domain (`global`) or of each point (`latent`): the fair score brings a narrow ensemble to them."""
    from eddycast.networks import LocalTransformerConfig

    network = LocalTransformerConfig(window=3, width=8, heads=2, blocks=1, embedding=8, noise=noise, noise_start=0.05)
    config = ScoringConfig(noise="network", score="energy", fairness=1.0, pretrain=0.2, network=network)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found = ScoringRule(config, ModelShape(1, (True,), parameter_mean=(0.0,), parameter_std=(1.0,)))
    assert [name for name, _ in found.named_parameters() if name == "gain"] == []
    here, generator = conditions(32, ring(8), parameters=1), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(found.parameters(), lr=1e-2)
    ratios = []
    for stage, steps in zip(found.stages(), (20, 110), strict=True):
        for step in range(steps):
            kick = normal(32, 1, 1, 8 if noise == "latent" else 1, seed=step).float().expand(32, 1, 1, 8)
            batch = TrainingBatch(torch.cat([torch.zeros(32, 1, 1, 8), kick], dim=1), here, generator)
            loss = stage.objective(batch)
            optimiser.zero_grad()
            loss.backward()
            for name, weight in found.named_parameters():
                assert weight.grad is not None and weight.grad.isfinite().all(), name
            optimiser.step()
            if batch.told:
                ratios.append(float((batch.told["spread"] / batch.told["error"]).sqrt()))
    assert ratios[0] < 0.2 and sum(ratios[-20:]) / 20 > 0.7, (ratios[0], ratios[-20:])
    x = normal(3, 1, 1, 8).float()

    def forecast(members: int) -> Tensor:
        emulator = Emulator(found, IdentitySpace())
        return emulator.forecast(x, conditions(3, ring(8), parameters=1), torch.arange(1, 4), members=members, seed=0)

    states = forecast(4)
    assert torch.allclose(forecast(2), states[:2], atol=1e-5)
    assert states.std(dim=0).mean() > 0.3
