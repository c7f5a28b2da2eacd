"""Energy scores of whole fields: exact, and through a random sketch for ensembles of many large members."""

from __future__ import annotations

import torch
from torch import Tensor

from eddycast.metrics.chunks import WORKSPACE, spans
from eddycast.metrics.ensemble import check_members

SKETCH = 4096
"""Entries of a sketch: one squared distance is then off by 2.2 per cent (standard deviation), a distance by 1.1."""


def energy_score(ensemble: Tensor, truth: Tensor, weights: Tensor, *, fair: bool = True) -> Tensor:
    """CRPS of whole fields: absolute values become root mean squares over space; sees correlations between points.

        ES = mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1)),  |x|^2 = <x^2> weighted over space

    Distances come from inner products of deviations from the ensemble mean, in float64: members closer than about 1e-8
    of their distance from that mean count as equal.

    Args:
        ensemble: (member, *batch, *space).
        truth: (*batch, *space).
        weights: (*space); points of weight zero may hold anything.
        fair: As in `crps`.

    Returns: (*batch), units of the field. Times the root of the number of points it is the Euclidean form. NaN where a
        counted value is not finite.
    Raises: ValueError for too few members, shapes that disagree, or weights that are all zero.
    Source: Gneiting & Raftery (2007), doi:10.1198/016214506000001437, eq. 22. Cost O(M^2 N) for N points, as a product
        of matrices; memory besides contiguous inputs: `chunks.WORKSPACE`, and M^2 numbers for each case.
    """
    ensemble, truth, root, batch = _flat(ensemble, truth, weights, fair)
    rows, (cases, points) = len(ensemble) + 1, truth.shape
    length = max(1, min(points, WORKSPACE // (32 * rows)))
    scores = []
    for case in spans(cases, 32 * rows * (length + rows)):
        gram = torch.zeros((), dtype=torch.float64, device=truth.device)
        for first in range(0, points, length):
            place = slice(first, first + length)
            fields = torch.cat([ensemble[:, case, place], truth[None, case, place]])
            fields = _scaled(fields, root[place])
            fields = (fields - fields[:-1].mean(dim=0)).movedim(0, 1)
            gram = gram + fields @ fields.mT
        scores.append(_score(gram, fair))
    return torch.cat(scores).reshape(batch).to(truth.dtype)


def sketched_energy_score(
    ensemble: Tensor,
    truth: Tensor,
    weights: Tensor,
    *,
    generator: torch.Generator,
    size: int = SKETCH,
    fair: bool = True,
) -> Tensor:
    """Energy score with distances between sketches of the fields: O(M N + M^2 size) instead of O(M^2 N).

    A sketch (`field_sketch`) is `size` random linear functionals, the same for all members, the truth and every case. For
    given functionals the result is itself a proper score (of their joint law), and its fair form is unbiased in M. It
    estimates the exact score with a relative error of about 1 / sqrt(2 size) in each distance, and is too low by about
    1 / (4 size), because a root is concave. Compare forecasts under one sketch: its error is then largely common to them.

    Args:
        ensemble, truth, weights, fair: As in `energy_score`.
        generator: Draws the sketch, on the CPU; the same state gives the same score.
        size: Entries of a sketch. A field of no more points is scored exactly, and nothing is drawn.

    Returns: (*batch), units of the field.
    Raises: ValueError as `energy_score`, and for a size below 1.
    """
    if size < 1:
        raise ValueError(f"A sketch needs at least one entry, got size {size}.")
    if weights.numel() <= size:
        return energy_score(ensemble, truth, weights, fair=fair)
    ensemble, truth, root, batch = _flat(ensemble, truth, weights, fair)
    sketches = torch.cat(_sketches((ensemble, truth[None]), root, size, generator))
    sketches = (sketches - sketches[:-1].mean(dim=0)).movedim(0, 1)
    scores = []
    for case in spans(len(sketches), 32 * (len(ensemble) + 1) ** 2):
        scores.append(_score(sketches[case] @ sketches[case].mT, fair))
    return torch.cat(scores).reshape(batch).to(truth.dtype)


def field_sketch(fields: Tensor, weights: Tensor, *, size: int, generator: torch.Generator) -> Tensor:
    """A short vector for each field; its squared length is, on average over sketches, the mean square of the field.

        S x = sum over points a of sign(a) sqrt(w_a) x_a e_bucket(a),  E |S x|^2 = <x^2>,  Var |S x|^2 <= (2 / s) <x^2>^2

    Signs are random. Point a = row s + column goes to bucket (column + shift(row)) mod s with a random shift for each row,
    so that two points share a bucket with probability 1 / s at most. One pass over the field, no transform.

    Args:
        fields: (*batch, *space).
        weights: (*space), divided by their sum here; points of weight zero may hold anything.
        size: Entries s of the sketch.
        generator: Draws signs and shifts, on the CPU.

    Returns: (*batch, size), float64. Linear: differences of sketches are sketches of differences.
    Raises: ValueError for shapes that disagree, a size below 1, or weights that are all zero.
    Source: count sketch, Charikar, Chen & Farach-Colton (2002), doi:10.1007/3-540-45465-9_59, with structured buckets.
    """
    if size < 1:
        raise ValueError(f"A sketch needs at least one entry, got size {size}.")
    _check_space(fields, weights, "fields")
    batch = fields.shape[: fields.ndim - weights.ndim]
    flat = fields.reshape(1, -1, weights.numel())
    return _sketches((flat,), _root(weights, fields), size, generator)[0].reshape(*batch, size)


def _sketches(groups: tuple[Tensor, ...], root: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """One sketch of all fields, for each group (row, case, point) -> (row, case, size)."""
    points = len(root)
    sketches = [torch.zeros(*fields.shape[:2], size, dtype=torch.float64, device=root.device) for fields in groups]
    for first in range(0, points, size):
        place = slice(first, first + size)
        shift = int(torch.randint(size, (), generator=generator))
        sign = 2 * torch.randint(2, (min(size, points - first),), generator=generator) - 1
        signed = root[place] * sign.to(root)
        cut = min(size - shift, len(signed))  # columns before the wrap
        for fields, sketch in zip(groups, sketches, strict=True):
            for case in spans(fields.shape[1], 32 * len(fields) * size):
                values = _scaled(fields[:, case, place], signed)
                sketch[:, case, shift : shift + cut] += values[..., :cut]
                sketch[:, case, : len(signed) - cut] += values[..., cut:]
    return sketches


def _flat(ensemble: Tensor, truth: Tensor, weights: Tensor, fair: bool) -> tuple[Tensor, Tensor, Tensor, torch.Size]:
    """Ensemble (member, case, point), truth (case, point), root of the weights (point), and the shape of the cases."""
    members = check_members(ensemble, truth, 2 if fair else 1, "The fair energy score", "draw more, or pass fair=False")
    _check_space(truth, weights, "truth")
    points, batch = weights.numel(), truth.shape[: truth.ndim - weights.ndim]
    return ensemble.reshape(members, -1, points), truth.reshape(-1, points), _root(weights, truth), batch


def _check_space(fields: Tensor, weights: Tensor, what: str) -> None:
    if fields.shape[fields.ndim - weights.ndim :] != weights.shape:
        raise ValueError(f"{what} {tuple(fields.shape)} must end in the shape of weights {tuple(weights.shape)}.")


def _root(weights: Tensor, like: Tensor) -> Tensor:
    """sqrt(w / sum w) at each point, so that sums of squares are means."""
    scale = weights.to(device=like.device, dtype=torch.float64).flatten()
    if not scale.sum() > 0:
        raise ValueError("The weights are all zero: no point to average over.")
    return (scale / scale.sum()).sqrt()


def _scaled(fields: Tensor, root: Tensor) -> Tensor:
    return torch.where(root != 0, fields.to(torch.float64) * root, 0.0)


def _score(gram: Tensor, fair: bool) -> Tensor:
    """Energy scores from inner products of members and, last, truth: (case, member + 1, member + 1) -> (case)."""
    members = gram.shape[-1] - 1
    first, second = torch.triu_indices(members + 1, members + 1, 1, device=gram.device)
    square = gram.diagonal(dim1=-2, dim2=-1)
    distance = (square[:, first] + square[:, second] - 2 * gram[:, first, second]).clamp(min=0).sqrt()
    to_truth = second == members
    pairs = distance[:, ~to_truth].sum(dim=-1)
    return distance[:, to_truth].mean(dim=-1) - pairs / (members * max(members - 1 if fair else members, 1))
