"""Latents as a model space: piece by piece as in one, differentiable, bounded; and what networks are told beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from exact_models import Conditions, normal
from torch import Tensor, nn

from eddycast.autoencoders import Autoencoder, AutoencoderConfig
from eddycast.autoencoders.layers import ResidualScale
from eddycast.data import Normalisation
from eddycast.emulators import (
    Autoencoding,
    AutoencodingConfig,
    Emulator,
    IdentitySpace,
    LatentSpace,
    ModelShape,
    Persistence,
    TrainingBatch,
    latent,
)
from eddycast.emulators.network import ConditionedNetwork
from eddycast.errors import InputError
from eddycast.grid import Axis, Grid, periodic_axis
from eddycast.networks import UNetConfig
from eddycast.noise import MemberNoise

WALLS = Axis("y", tuple(float(j) for j in range(4)), ("wall", "open"))
GRID = Grid((periodic_axis("x", 8, 1.0), WALLS))
LEADS = torch.arange(3, dtype=torch.float64)
LOGS = Normalisation(
    torch.tensor([0.3, -1.0]).reshape(1, 2, 1, 1), torch.tensor([0.5, 2.0]).reshape(2, 1, 1), torch.ones(2), ("a", "b"), (), (0.5, None)
)  # fmt: skip


def here(*batch: int, grid: Grid = GRID, **more) -> Conditions:
    return Conditions(grid, 1.0, torch.zeros((*batch, 0)), torch.zeros(batch), **more)


@pytest.fixture
def space() -> LatentSpace:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return LatentSpace(LOGS, Autoencoder(AutoencoderConfig((4, 8), 1, 3), 2, GRID.periodic).double())


def states(*batch: int) -> Tensor:
    return torch.stack([normal(*batch, 8, 4).exp(), normal(*batch, 8, 4, seed=1)], dim=-3)


def test_encode_and_decode_are_the_network_between_normalisations(space):
    x = states(2, 3)
    z = space.encode(x, here(2), LEADS)
    direct = torch.stack([(torch.log(x[:, :, 0] + 0.5) - 0.3) / 0.5, (x[:, :, 1] + 1) / 2], dim=2)
    exact = space.autoencoder.encode(direct.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(z, exact)
    assert z.shape == (2, 3, 3, 4, 2) and z.abs().max() < 5
    y = space.autoencoder.decode(z.flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(
        space.decode(z, here(2), LEADS),
        torch.stack([torch.exp(y[:, :, 0] * 0.5 + 0.3) - 0.5, 2 * y[:, :, 1] - 1], dim=2),
    )


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)], ids=str)
def test_any_batch_axes(space, batch):
    x = states(*batch, 3)
    z = space.encode(x, here(*batch), LEADS)
    assert z.shape == (*batch, 3, 3, 4, 2)
    torch.testing.assert_close(z.flatten(0, -4), space.encode(x.reshape(1, -1, 2, 8, 4), here(1), LEADS)[0])
    assert space.decode(z, here(*batch), LEADS).shape == x.shape


@pytest.mark.parametrize("frames", [1, 2, 4, 100])
def test_pieces_of_any_size_agree(space, frames):
    x = states(2, 3)
    whole, pieces = space.encode(x, here(2), LEADS), replace(space, frames=frames)
    torch.testing.assert_close(pieces.encode(x, here(2), LEADS), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        pieces.decode(whole, here(2), LEADS), space.decode(whole, here(2), LEADS), rtol=1e-12, atol=1e-12
    )
    assert torch.equal(pieces.encode(x, here(2), LEADS), pieces.encode(x, here(2), LEADS))


def test_memory_is_bounded_by_pieces(space, monkeypatch):
    """As many frames in a pass as the widest level allows, and one at least."""
    seen: list[int] = []
    decode = Autoencoder.decode
    monkeypatch.setattr(Autoencoder, "decode", lambda self, z: (seen.append(len(z)), decode(self, z))[1])
    z = normal(2, 3, 3, 4, 2)
    for numbers, pieces in ((4 * 32 * 4, [4, 2]), (1, [1] * 6), (2**22, [6])):
        monkeypatch.setattr(latent, "NUMBERS_PER_PASS", numbers)
        seen.clear()
        space.decode(z, here(2), LEADS)
        assert seen == pieces


@pytest.mark.parametrize("frames", [None, 1])
def test_gradients_pass_through(space, frames):
    space = replace(space, frames=frames)
    x = states(1, 2)[..., :4, :2].contiguous().requires_grad_()
    grid = Grid((periodic_axis("x", 4, 1.0), replace(WALLS, coordinates=(0.0, 1.0))))
    leads = LEADS[:2]

    def both(value: Tensor) -> Tensor:
        return space.decode(space.encode(value, here(1, grid=grid), leads), here(1, grid=grid), leads)

    assert torch.autograd.gradcheck(both, (x,), atol=1e-5)


def test_no_frames_at_all(space):
    z = space.encode(states(2, 3)[:, :0], here(2), LEADS[:0])
    assert z.shape == (2, 0, 3, 4, 2)
    assert space.decode(z, here(2), LEADS[:0]).shape == (2, 0, 2, 8, 4)


def test_a_grid_that_does_not_divide_is_refused(space):
    grid = Grid((periodic_axis("x", 7, 1.0), WALLS))
    with pytest.raises(InputError, match="7 x 4 points is not divisible by 2"):
        space.encode(states(1, 1)[..., :7, :], here(1, grid=grid), LEADS[:1])
    with pytest.raises(InputError, match="Expected 2 fields"):
        space.encode(states(1, 1)[..., :1, :, :], here(1), LEADS[:1])


def test_a_forecast_runs_in_latents_and_ends_in_physical_units(space):
    """Persistence of latents is the reconstruction of the last state, at every lead and in any chunk."""
    emulator = Emulator(Persistence(), space)
    x = states(2, 1)
    found = emulator.forecast(x, here(2), torch.arange(1.0, 4.0), members=2, seed=0)
    once = space.decode(space.encode(x, here(2), LEADS[:1]), here(2), LEADS[:1])
    torch.testing.assert_close(found, once.expand(2, 2, 3, 2, 8, 4))


def test_dressed_states_have_the_learned_spread(space):
    """D(z) + scale(D(z)) noise in normalised units: mean and deviation of each point of a field that is no logarithm."""
    with pytest.raises(ValueError, match="not learned"):
        space.dressed(normal(1, 1, 3, 4, 2), here(1), LEADS[:1], normal(1, 1, 2, 8, 4))
    scale = ResidualScale(2, 4, GRID.periodic).double()
    dressed = replace(space, residual=scale)
    z = normal(1, 1, 3, 4, 2)
    y = space.autoencoder.decode(z[0])
    noise = normal(4000, 1, 2, 8, 4, seed=4)
    found = dressed.dressed(z.expand(4000, -1, -1, -1, -1), here(4000), LEADS[:1], noise)[:, 0, 1]
    torch.testing.assert_close(found.std(dim=0), 2 * scale(y)[0, 1], rtol=0.1, atol=0)
    torch.testing.assert_close(found.mean(dim=0), 2 * y[0, 1] - 1, rtol=0, atol=0.03)
    emulator = Emulator(Persistence(), dressed, dress=True)
    options = {"noise": MemberNoise.grid(0, 2, 3)}
    x, conditions = states(2, 1).expand(3, 2, 1, 2, 8, 4), here(2).expand(3)
    whole = emulator.advance(x, conditions, torch.arange(1.0, 3.0), **options)
    pieces = replace(emulator, chunk=1).advance(x, conditions, torch.arange(1.0, 3.0), **options)
    torch.testing.assert_close(whole, pieces)
    assert (whole[0] != whole[1]).all()


# Training of the autoencoder.


def autoencoding(**changes) -> Autoencoding:
    config = AutoencodingConfig(**({"channels": (4, 8), "blocks": 1, "latent_channels": 3} | changes))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Autoencoding(config, ModelShape(2, (True, False), vector_axes=(None, 1), vectors=(None, "v"))).double()


def test_the_loss_is_that_of_the_view_that_was_drawn():
    model = autoencoding(augment=("flip", "roll"), loss="mae")
    x = normal(4, 1, 2, 8, 4)
    losses = [
        model.stages()[0].objective(TrainingBatch(x, here(4), torch.Generator().manual_seed(seed))).item()
        for seed in range(6)
    ]
    assert len(set(losses)) > 3
    again = model.stages()[0].objective(TrainingBatch(x, here(4), torch.Generator().manual_seed(0))).item()
    assert again == losses[0]
    plain = autoencoding(loss="mae").stages()[0].objective(TrainingBatch(x, here(4), torch.Generator()))
    direct = (model.network(x[:, 0])[0] - x[:, 0]).abs().mean()
    torch.testing.assert_close(plain, direct)


@pytest.mark.parametrize("stage", [0, 1])
def test_dropout_draws_from_the_generator_of_the_step_alone(stage):
    """The same step gives the same loss, whatever the default generator has been used for; the second stage has no dropout."""
    model = autoencoding(dropout=0.5, residual_width=4)
    objective, x = model.stages()[stage].objective, normal(4, 1, 2, 8, 4)

    def loss(seed: int) -> float:
        model.train()
        torch.rand(3)  # what another user of the default generator would do
        return objective(TrainingBatch(x, here(4), torch.Generator().manual_seed(seed))).item()

    with torch.random.fork_rng(devices=[]):
        assert loss(1) == loss(1)
        assert (loss(1) != loss(2)) == (stage == 0)
        state = torch.get_rng_state()
        loss(1)
        torch.set_rng_state(state)
        after = torch.rand(3 + 1)
        torch.set_rng_state(state)
        torch.rand(3)
        assert torch.equal(after[3:], torch.rand(1))


def test_the_residual_stage_learns_the_size_of_what_is_missed():
    """Its likelihood is least at scale = |error|: constant errors of 0.5 are found to a few per cent."""
    model = autoencoding(residual_width=4)
    model.network.forward = lambda x: (x - 0.5, x)  # type: ignore[method-assign]
    objective = model.stages()[1].objective
    optimiser = torch.optim.Adam(model.stages()[1].module.parameters(), 0.03)
    for step in range(150):
        optimiser.zero_grad()
        objective(TrainingBatch(normal(4, 1, 2, 8, 4, seed=step), here(4), torch.Generator())).backward()
        optimiser.step()
    assert model.residual is not None
    assert model.residual(normal(4, 2, 8, 4) - 0.5).mean().item() == pytest.approx(0.5, rel=0.1)


def test_an_autoencoding_stage_owns_all_its_parameters():
    """Each stage trains one module, whose every parameter its loss reaches."""
    model = autoencoding(residual_width=4)
    first, second = model.stages()
    owned = [parameter for stage in (first, second) for parameter in stage.module.parameters()]
    assert len(owned) == len(list(model.parameters()))
    for stage in (first, second):
        model.zero_grad()
        stage.objective(TrainingBatch(normal(2, 1, 2, 8, 4), here(2), torch.Generator())).backward()
        assert all(parameter.grad is not None for parameter in stage.module.parameters())


# What networks are told.


class Ear(nn.Module):
    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        self.frames, self.told = x, scalars
        return x[:, :, :1]


def network(**shape) -> ConditionedNetwork:
    made = ConditionedNetwork(
        UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=4),
        ModelShape(1, (True, False), **shape),
        in_frames=2, out_frames=2, in_channels=1, out_channels=1, num_scalars=1,
    )  # fmt: skip
    made(
        torch.zeros(3, 2, 1, 8, 4), told(3), torch.zeros(3, 1)
    )  # the network takes as many scalars and channels as there are
    made.backbone = Ear()
    return made


def told(batch: int, **more) -> Conditions:
    return Conditions(GRID, 1.0, torch.full((batch, 1), 7.0), torch.zeros(batch), **more)


def test_codes_of_the_boundaries_are_scalars():
    """After the caller's scalars and the standardised parameters: wall 0, open 1, periodic 2, of the grid or of each case."""
    made = network(boundaries=True, parameter_mean=(5.0,), parameter_std=(4.0,))
    x = torch.zeros(3, 2, 1, 8, 4)
    made(x, told(3), torch.full((3, 1), 9.0))
    assert torch.equal(made.backbone.told, torch.tensor([9.0, 0.5, 2, 2, 0, 1]).expand(3, 6))
    own = torch.tensor([[[2.0, 2], [1, 0]], [[2, 2], [0, 0]], [[2, 2], [1, 1]]])
    made(x, told(3, boundary=own), torch.full((3, 1), 9.0))
    assert torch.equal(made.backbone.told[:, 2:], own.flatten(1))
    members = told(3, boundary=own).expand(2).flatten()
    made(x.repeat(2, 1, 1, 1, 1), members, torch.zeros(6, 1))
    assert torch.equal(made.backbone.told[:, 2:], own.flatten(1).repeat(2, 1))
    chosen = told(3, boundary=own).select(slice(1, 2))
    made(x[:1], chosen, torch.zeros(1, 1))
    assert torch.equal(made.backbone.told[:, 2:], own[1:2].flatten(1))
    silent = network(parameter_mean=(5.0,), parameter_std=(4.0,))
    silent(x, told(3, boundary=own), torch.zeros(3, 1))
    assert silent.backbone.told.shape == (3, 2)


def test_static_fields_are_averaged_over_the_points_of_a_latent():
    made = ConditionedNetwork(
        UNetConfig(channels=(4,), blocks=1, kernel=3, embedding=4),
        ModelShape(1, (True, False), static=2),
        in_frames=2, out_frames=2, in_channels=1, out_channels=1, num_scalars=1,
    )  # fmt: skip
    static = torch.arange(64.0).reshape(2, 8, 4)
    assert made(torch.zeros(3, 2, 1, 4, 2), told(3, static=static), torch.zeros(3, 1)).shape == (3, 2, 1, 4, 2)
    made.backbone = Ear()
    made(torch.zeros(3, 2, 1, 4, 2), told(3, static=static), torch.zeros(3, 1))
    pooled = static.unflatten(2, (2, 2)).unflatten(1, (4, 2)).mean(dim=(2, 4))
    assert torch.equal(made.backbone.frames[:, :, 1:], pooled.expand(3, 2, 2, 4, 2))
    made(torch.zeros(3, 2, 1, 8, 4), told(3, static=static), torch.zeros(3, 1))
    assert torch.equal(made.backbone.frames[:, :, 1:], static.expand(3, 2, 2, 8, 4))


def test_an_identity_space_keeps_its_states():
    x = states(2, 3)
    assert torch.equal(IdentitySpace().decode(IdentitySpace().encode(x, here(2), LEADS), here(2), LEADS), x)
