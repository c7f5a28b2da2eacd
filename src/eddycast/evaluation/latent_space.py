"""What a latent space knows of the parameters of a system: distances between their values, a probe, an embedding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from eddycast.errors import InputError
from eddycast.evaluation.probe import Probe, probe
from eddycast.metrics.bures import bures_wasserstein, fit_gaussian

MOST_GROUPS = 8
MOST_SAMPLES = 2000
MOST_TOKENS, MOST_TIMES = 64, 16
LOG_RANGE = 30.0


@dataclass(frozen=True, eq=False)
class ParameterAnalysis:
    """The latent space along one parameter; trajectories are grouped by its value, whatever the other parameters.

    Args:
        name: Of the parameter.
        logarithmic: Whether its logarithm is used: where all values are positive and the largest is more than 30 times the smallest.
        values: Of the groups, ascending, (G,); the medians of up to 8 groups of equal size where there are more values than that.
        trajectories: Number in each group, (G,).
        token_distance: Mean Euclidean distance between tokens of two different trajectories at the same time and place, (G, G); on the
            diagonal within a group, NaN where that is one trajectory.
        bures_wasserstein: Between Gaussian fits of the central tokens of the groups, (G, G).
        floor: The same between two halves of the trajectories of a group, (G,): what chance makes of no difference; NaN for one trajectory.
        order: Correlation of that distance with the difference of the parameter, over pairs of groups; near 1 where the space is ordered
            along the parameter. NaN for fewer than three groups.
        r2: Share of its variance that a probe explains from central tokens of trajectories not seen.
        r2_permuted: The same with parameters dealt to trajectories at random, (permutation,).
        accuracy: Share of held-out trajectories whose value the probe is closest to, where groups are single values; else NaN.
        chance: Share of the most frequent value among them.
    """

    name: str
    logarithmic: bool
    values: Tensor
    trajectories: Tensor
    token_distance: Tensor
    bures_wasserstein: Tensor
    floor: Tensor
    order: float
    r2: float
    r2_permuted: Tensor
    accuracy: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass(frozen=True, eq=False)
class LatentAnalysis:
    """See `analyse_latents`.

    Args:
        parameters: One entry for each parameter that is not the same everywhere.
        names: Of all parameters.
        held_out: Numbers of the trajectories that the probe has not seen.
        embedding: Central tokens on their two leading principal axes, (sample, 2).
        explained: Share of their variance on each, (2,).
        separated: The same of the activations of the probe's last hidden layer, (sample, 2).
        sample_parameters: Parameters of these samples, (sample, P).
        sample_trajectory: Numbers of their trajectories, (sample,).
    """

    parameters: tuple[ParameterAnalysis, ...]
    names: tuple[str, ...]
    held_out: Tensor
    embedding: Tensor
    explained: Tensor
    separated: Tensor
    sample_parameters: Tensor
    sample_trajectory: Tensor

    def to_dict(self) -> dict[str, Any]:
        """Plain values, None for NaN."""
        own = {name: _plain(value) for name, value in vars(self).items() if name != "parameters"}
        return {"parameters": [one.to_dict() for one in self.parameters]} | own


def analyse_latents(
    z: Tensor, parameters: Tensor, names: tuple[str, ...], *, generator: torch.Generator
) -> LatentAnalysis:
    """Distances between parameter values, a probe that predicts them from the central token, and an embedding of it in two dimensions.

    The central token is the channels at the point size // 2 of each axis. Deterministic given the generator's state.

    Args:
        z: Latents, (trajectory, time, channel, *grid).
        parameters: Of the trajectories, (trajectory, P), physical.
        names: Of the parameters.
        generator: Of the held-out trajectories, the probe and, beyond 2000 states, which are used for embedding and probe.

    Raises: InputError for numbers that are not finite, fewer than 6 trajectories or no parameter that varies; ValueError for shapes that
        disagree.
    Source: arXiv:2507.02608, appendix D (there t-SNE of the probe's activations, here principal components of tokens and activations).
    """
    if z.ndim < 4 or parameters.shape != (len(z), len(names)):
        raise ValueError(
            f"z (trajectory, time, channel, *grid) and parameters (trajectory, {len(names)}) are needed, got {tuple(z.shape)} and "
            f"{tuple(parameters.shape)}."
        )
    if not bool(z.isfinite().all()) or not bool(parameters.isfinite().all()):
        raise InputError("The latents or their parameters are not finite: encode the data again, and inspect them.")
    if len(z) < 6:
        raise InputError(
            f"A latent analysis needs at least 6 trajectories, to hold some out; got {len(z)}: simulate more."
        )
    varied = [index for index in range(len(names)) if bool((parameters[:, index] != parameters[0, index]).any())]
    if not varied:
        told = ", ".join(names) or "none"
        raise InputError(
            f"No parameter varies among the trajectories (there are: {told}): give data with several values."
        )
    tokens = _central(z)  # (trajectory, time, channel)
    scaled = [_scaled(parameters[:, index]) for index in varied]
    targets = torch.stack([values for values, _ in scaled], dim=1).to(z.device)
    which = torch.arange(len(z), device=z.device).repeat_interleave(z.shape[1])
    samples = tokens.flatten(0, 1)
    if len(samples) > MOST_SAMPLES:
        keep = _thinned(len(z), z.shape[1], generator).to(z.device)
        samples, which = samples[keep], which[keep]
    found = probe(samples, which, targets, generator=generator)
    embedding, explained = principal_axes(samples)
    analysed = tuple(
        _along(names[index], parameters[:, index].double().cpu(), scaled[place], z, tokens, found, place, generator)
        for place, index in enumerate(varied)
    )
    return LatentAnalysis(
        analysed,
        tuple(names),
        found.held_out.cpu(),
        embedding.cpu(),
        explained.cpu(),
        principal_axes(found.activations)[0].cpu(),
        parameters.cpu()[which.cpu()],
        which.cpu(),
    )


def principal_axes(x: Tensor, number: int = 2) -> tuple[Tensor, Tensor]:
    """Samples (sample, d) on their leading principal axes, (sample, number), and the share of variance on each; float64.

    The largest entry of each axis is positive, so that the sign does not depend on the machine; beyond d axes all is 0.
    """
    centred = x.double() - x.double().mean(dim=0)
    _, singular, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:number]
    sign = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()
    shares = singular.square() / singular.square().sum().clamp_min(1e-300)
    on_axes = centred @ (axes * torch.where(sign == 0, 1.0, sign)).T
    missing = number - on_axes.shape[1]
    return torch.nn.functional.pad(on_axes, (0, missing)), torch.nn.functional.pad(shares[:number], (0, missing))


def group(values: Tensor) -> tuple[Tensor, Tensor]:
    """Number of the group of each trajectory (trajectory,) and the value of each group (G,), for values (trajectory,) in float64.

    One group for each value, or, beyond 8 values, 8 groups of equal size in their order (equal values stay together).
    """
    distinct, label = values.unique(return_inverse=True)
    if len(distinct) <= MOST_GROUPS:
        return label, distinct
    edges = values.quantile(torch.linspace(0, 1, MOST_GROUPS + 1, dtype=values.dtype)[1:-1])
    label = torch.searchsorted(edges, values, right=True)
    present, label = label.unique(return_inverse=True)
    return label, torch.stack([values[label == number].median() for number in range(len(present))])


def _along(
    name: str,
    values: Tensor,
    scaled: tuple[Tensor, bool],
    z: Tensor,
    tokens: Tensor,
    found: Probe,
    place: int,
    generator: torch.Generator,
) -> ParameterAnalysis:
    label, centres = group(values)
    size = len(centres)
    members = [(label == number).nonzero()[:, 0].to(z.device) for number in range(size)]
    fits = [fit_gaussian(tokens[one].flatten(0, 1)) if tokens[one].shape[:2].numel() > 1 else None for one in members]
    bures = torch.full((size, size), torch.nan, dtype=torch.float64)
    for a in range(size):
        bures[a, a] = 0.0
    for a, b in combinations(range(size), 2):
        first, second = fits[a], fits[b]
        if first is not None and second is not None:
            bures[a, b] = bures[b, a] = bures_wasserstein(first, second).cpu()
    floor = torch.full((size,), torch.nan, dtype=torch.float64)
    for number, one in enumerate(members):
        mixed = one[torch.randperm(len(one), generator=generator, device=generator.device).to(one.device)]
        halves = [tokens[part].flatten(0, 1) for part in mixed.tensor_split(2)]
        if all(len(half) > 1 for half in halves):
            floor[number] = bures_wasserstein(*map(fit_gaussian, halves)).cpu()
    single = len(values.unique()) == size
    answers = found.predictions[:, place].double().cpu()
    right = label[found.held_out.cpu()]
    positions = scaled[0].double().cpu()
    group_positions = torch.stack([positions[label == number].median() for number in range(size)])
    nearest = (answers[:, None] - group_positions).abs().argmin(dim=1)
    return ParameterAnalysis(
        name,
        scaled[1],
        centres,
        torch.bincount(label, minlength=size),
        _token_distances(z, label.to(z.device), size).cpu(),
        bures,
        floor,
        _order(bures, group_positions),
        float(found.r2[place]),
        found.baseline[:, place].cpu(),
        (nearest == right).double().mean().item() if single else math.nan,
        torch.bincount(right).max().item() / len(right) if single else math.nan,
    )


def _token_distances(z: Tensor, label: Tensor, size: int) -> Tensor:
    """Mean distance of tokens at the same time and place between trajectories of each two groups, (G, G); at evenly spread ones."""
    flat = z.flatten(3)
    times, places = _spread(z.shape[1], MOST_TIMES), _spread(flat.shape[3], MOST_TOKENS)
    number = len(z)
    total = torch.zeros(number, number, dtype=torch.float64, device=z.device)
    for time in times:
        here = flat[:, time][:, :, places].permute(2, 0, 1).double()  # (place, trajectory, channel)
        total += torch.cdist(here, here, compute_mode="donot_use_mm_for_euclid_dist").mean(dim=0)
    total /= len(times)
    belongs = torch.nn.functional.one_hot(label, size).double()
    sums = belongs.T @ total @ belongs
    counts = belongs.sum(dim=0)
    pairs = counts[:, None] * counts - torch.diag(counts)  # a trajectory is no pair with itself
    return torch.where(pairs > 0, sums / pairs.clamp_min(1), torch.nan)


def _order(distance: Tensor, positions: Tensor) -> float:
    """Correlation of distances with differences of positions over pairs."""
    first, second = torch.triu_indices(len(positions), len(positions), 1)
    pairs = torch.stack([distance[first, second], (positions[first] - positions[second]).abs()])
    if pairs.shape[1] < 3 or not bool(pairs.isfinite().all()):
        return math.nan
    return torch.corrcoef(pairs)[0, 1].item()


def _central(z: Tensor) -> Tensor:
    """Channels at the middle of the grid, (trajectory, time, channel)."""
    for size in reversed(z.shape[3:]):
        z = z[..., size // 2]
    return z


def _scaled(values: Tensor) -> tuple[Tensor, bool]:
    """What the probe predicts: values, or their logarithm to base 10; and which it is."""
    values = values.double()
    if bool((values > 0).all()) and float(values.max() / values.min()) > LOG_RANGE:
        return values.log10(), True
    return values, False


def _thinned(trajectories: int, times: int, generator: torch.Generator) -> Tensor:
    """About `MOST_SAMPLES` of (trajectory, time) pairs, as many times of each trajectory, drawn anew for each."""
    each = max(1, MOST_SAMPLES // trajectories)
    order = torch.rand(trajectories, times, generator=generator, device=generator.device).argsort(dim=1)[:, :each]
    rows = torch.arange(trajectories, device=order.device)[:, None] * times
    return (rows + order.sort(dim=1).values).flatten()


def _spread(size: int, most: int) -> Tensor:
    """Up to `most` indices, evenly spread over 0 ... size - 1."""
    return torch.linspace(0, size - 1, min(size, most), dtype=torch.float64).round().long()


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
