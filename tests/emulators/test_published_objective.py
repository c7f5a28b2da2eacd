"""What the published settings change: which frames the loss counts, where known states start, what windows of a series are told."""

from __future__ import annotations

import pytest
import torch
from exact_models import addresses, conditions, normal
from torch import Tensor, nn

from eddycast.diffusion import SCHEDULES, denoising_loss
from eddycast.emulators import AmortisedConfig, JointConfig, ModelShape, TrainingBatch, WindowDiffusion
from eddycast.networks import UNetConfig

TINY = UNetConfig(channels=(8,), blocks=1, kernel=3, embedding=8)
MODEL = {"network": TINY, "parametrisation": "noise", "sampler": "ddim", "num_steps": 4}


class Witness(nn.Module):
    """Says `answer` times the first channel of each frame, and keeps what it was shown."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer, self.shown, self.times = answer, [], []

    def forward(self, inputs: Tensor, conditions, scalars: Tensor) -> Tensor:
        self.shown.append(inputs)
        self.times.append(conditions.time)
        return self.answer * inputs[:, :, :1]


def watched(config, answer: float = 0.0) -> tuple[WindowDiffusion, Witness]:
    model = WindowDiffusion(config, ModelShape(1, (True,))).double()
    model.network = Witness(answer)
    return model, model.network


@pytest.mark.parametrize("loss_on, expected", [("all", 1 + 100 * 2 / 5), ("unknown", 1.0)])
def test_the_published_loss_counts_known_frames_too(loss_on, expected):
    """A network that says 0 where it should say noise, and 10 at the two known of five frames (its first channel is their mask)."""
    config = AmortisedConfig(
        **MODEL, context=2, overlap=2, variable="state", layout="beside", loss_on=loss_on, schedule="cosine-pdediff"
    )
    model, _ = watched(config, 10.0)
    batch = TrainingBatch(normal(512, 5, 1, 8), conditions(512), torch.Generator().manual_seed(0))
    assert model.stages()[0].objective(batch).item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("schedule", ["cosine-pdediff", "cosine-sda", "linear"])
def test_the_loss_of_data_is_that_of_noise(schedule):
    """The same denoiser, D = 0: F = 0 as data and x_t / sigma as noise."""
    law, x, noise = SCHEDULES[schedule](), normal(6, 3, 1, 8), normal(6, 3, 1, 8, seed=1)
    time = torch.linspace(0.1, 1, 6, dtype=torch.float64)
    sigma = law(time)[1].reshape(-1, 1, 1, 1)
    of_data = denoising_loss(lambda x_in, _: 0 * x_in, law, x, noise, time, parametrisation="data")
    of_noise = denoising_loss(lambda x_in, _: x_in / sigma, law, x, noise, time, parametrisation="noise")
    torch.testing.assert_close(of_data, of_noise)


def test_replaced_states_start_with_what_the_schedule_leaves_of_them():
    """alpha(1) = 0.081 on the linear schedule, so a known 10 starts near 0.81."""
    config = JointConfig(**MODEL, frames=3, context=2, overlap=2, conditioning="replacement", schedule="linear")
    model, network = watched(config)
    mask, known = torch.tensor([True, True, False]), torch.full((400, 3, 1, 8), 10.0, dtype=torch.float64)
    model.advance(known, mask, conditions(400), torch.arange(3.0), noise=addresses(400))
    for frame, mean in ((0, 0.81), (1, 0.81), (2, 0.0)):
        assert network.shown[0][:, frame].mean().item() == pytest.approx(mean, abs=5 / 3200**0.5)


def test_a_series_shorter_than_the_window_is_its_beginning():
    model, _ = watched(JointConfig(**MODEL, rollout="all-at-once"))
    known = normal(2, 3, 1, 8)
    states = model.advance(
        known, torch.tensor([True, False, False]), conditions(2), torch.arange(3.0), noise=addresses(2)
    )
    assert states.shape == known.shape and torch.equal(states[:, 0], known[:, 0])


def test_windows_of_a_series_are_told_their_own_times():
    """Seven frames from lead -1 on, windows of five: their first frames are at -1, 0 and 1."""
    model, network = watched(JointConfig(**MODEL, context=2, overlap=2, rollout="all-at-once"))
    here, mask = conditions(2), torch.arange(7) < 2
    model.advance(normal(2, 7, 1, 8), mask, here, torch.arange(-1.0, 6.0), noise=addresses(2))
    wanted = here.shifted(-1.0).time[:, None] + (here.shifted(1.0).time - here.time)[:, None] * torch.arange(3.0)
    torch.testing.assert_close(network.times[0], wanted.flatten().to(network.times[0]))


@pytest.mark.parametrize("conditioning", ["guidance", "replacement"])
def test_points_that_are_not_valid_hold_nothing_but_the_noise_of_the_moment(conditioning):
    """As in training, where the data are 0 there; otherwise the first draw would be carried along."""
    valid = torch.arange(8) < 6
    model, network = watched(JointConfig(**MODEL, conditioning=conditioning, schedule="cosine-pdediff"))
    mask = torch.arange(5) < 1
    known = torch.where(valid, normal(50, 5, 1, 8), 0.0)
    states = model.advance(known, mask, conditions(50, valid=valid), torch.arange(5.0), noise=addresses(50))
    assert (states[..., ~valid] == 0).all()
    sigma = SCHEDULES["cosine-pdediff"]()(torch.tensor(0.25, dtype=torch.float64))[1]  # the last of four steps
    assert network.shown[-1][..., ~valid].detach().std().item() == pytest.approx(sigma.item(), rel=0.2)
