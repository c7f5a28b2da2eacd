"""A small network that reads parameters off vectors: what it predicts of trajectories that it has not seen is in the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

HIDDEN = 32
STEPS = 200
PERMUTATIONS = 8
HELD_OUT = 0.3


@dataclass(frozen=True, eq=False)
class Probe:
    """What a probe found.

    Args:
        r2: Share of the variance of each target that is explained in held-out trajectories, (P,); 1 is best, below 0 worse than their mean.
        baseline: The same where the targets are dealt out to trajectories at random before training, (permutation, P).
        predictions: Of the held-out samples, averaged over each trajectory, (held-out trajectory, P).
        held_out: Numbers of these trajectories.
        activations: Of the last hidden layer at all samples, (sample, hidden).
    """

    r2: Tensor
    baseline: Tensor
    predictions: Tensor
    held_out: Tensor
    activations: Tensor


def probe(vectors: Tensor, trajectory: Tensor, targets: Tensor, *, generator: torch.Generator) -> Probe:
    """Train a perceptron with two hidden layers to predict targets from vectors, and test it on other trajectories.

    Training and test share no trajectory: states of one resemble each other, and a probe that has seen one of them knows the others. The
    prediction for a trajectory is the mean over its samples. The baseline trains the same probe on targets that were permuted among the
    trajectories: what chance and a few trajectories give. All are trained at once, by AdamW on all samples.

    Args:
        vectors: (sample, channel); standardised by those in training.
        trajectory: Number of the trajectory of each sample, (sample,), 0 ... N - 1, all of which occur.
        targets: Of each trajectory, (N, P), not constant; standardised likewise.
        generator: Of the split, the initial weights and the permutations. Nothing else is random.

    Returns: see `Probe`; float64 scores.
    Raises: ValueError for fewer than 6 trajectories, of which 2 are held out.
    Bias: R^2 over few held-out trajectories is rough: compare it with the baseline.
    """
    number = len(targets)
    if number < 6:
        raise ValueError(f"A probe needs at least 6 trajectories, to hold some out; got {number}.")
    device = vectors.device

    def shuffled() -> Tensor:
        return torch.randperm(number, generator=generator, device=generator.device).to(device)

    order = shuffled()
    tested = order[: max(2, round(HELD_OUT * number))].sort().values
    seen = torch.ones(number, dtype=torch.bool, device=device)
    seen[tested] = False
    orders = torch.stack([torch.arange(number, device=device), *(shuffled() for _ in range(PERMUTATIONS))])
    dealt = targets.to(torch.float32)[orders]  # (1 + permutation, N, P)
    mean = dealt[:, seen].mean(dim=1, keepdim=True)
    std = dealt[:, seen].std(dim=1, keepdim=True).clamp_min(1e-12)
    training = seen[trajectory]
    x = vectors.to(torch.float32)
    x = (x - x[training].mean(dim=0)) / x[training].std(dim=0).clamp_min(1e-12)
    weights = _initial(len(orders), (x.shape[1], HIDDEN, HIDDEN, targets.shape[1]), generator, device)
    goal = ((dealt - mean) / std)[:, trajectory]
    _train(weights, x[training], goal[:, training])
    with torch.no_grad():
        answers, activations = _forward(weights, x)
    answers = answers.detach() * std + mean
    sums = torch.zeros_like(dealt).index_add(1, trajectory, answers)
    counts = torch.zeros(number, device=device).index_add(
        0, trajectory, torch.ones_like(trajectory, dtype=torch.float32)
    )
    averaged = sums / counts[:, None]
    truth = dealt[:, tested].double()
    rest = (averaged[:, tested].double() - truth).square().sum(dim=1)
    total = (truth - truth.mean(dim=1, keepdim=True)).square().sum(dim=1)
    scores = torch.where(total > 0, 1 - rest / total.clamp_min(1e-300), torch.nan)
    return Probe(scores[0], scores[1:], averaged[0, tested], tested, activations[0])


def _initial(
    probes: int, sizes: tuple[int, ...], generator: torch.Generator, device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """Weights (probe, in, out) and biases (probe, 1, out) of each layer: the same for every probe, so that targets alone differ."""
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        drawn = torch.randn(fan_in, fan_out, generator=generator, device=generator.device) * (1 / fan_in) ** 0.5
        weight = drawn.to(device).expand(probes, -1, -1).clone().requires_grad_()
        layers.append((weight, torch.zeros(probes, 1, fan_out, device=device, requires_grad=True)))
    return layers


def _forward(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
    """Answers (probe, sample, P) and the last hidden layer (probe, sample, hidden)."""
    hidden = x.expand(len(layers[0][0]), -1, -1)
    for weight, bias in layers[:-1]:
        hidden = torch.nn.functional.silu(torch.baddbmm(bias, hidden, weight))
    weight, bias = layers[-1]
    return torch.baddbmm(bias, hidden, weight), hidden


@torch.enable_grad()
def _train(layers: list[tuple[Tensor, Tensor]], x: Tensor, goal: Tensor) -> None:
    """Probes share no weight, and the optimiser treats each number by itself: training them together changes none."""
    optimiser = torch.optim.AdamW([one for layer in layers for one in layer], lr=1e-2, weight_decay=0.1)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / STEPS)
        optimiser.zero_grad()
        answers, _ = _forward(layers, x)
        (answers - goal).square().mean(dim=(1, 2)).sum().backward()
        optimiser.step()
