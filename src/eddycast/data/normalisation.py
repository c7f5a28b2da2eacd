"""Physical states <-> numbers of order one, with statistics from the training split only.

The mean may be a number per field, a map per field, or a map that follows the calendar (a climatology of a few annual
harmonics):

    x = (state - mean(phase)) / std,    for log fields (log(state + offset) - mean(phase)) / std
    mean(phase) = sum_h coefficient_h basis_h(phase),   basis = 1, cos 2 pi k phase, sin 2 pi k phase for k = 1, 2, ...

One pass over the data in float64 gathers, per point, the sums that the least-squares fit needs (of values and of
one-step differences), so memory does not depend on the number of frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from eddycast.conditions import Conditions
from eddycast.data.dataset import Dataset, Segment
from eddycast.data.logarithms import LogSource, exponentials, log_offsets, logarithms
from eddycast.errors import InputError

MeanKind = Literal["auto", "field", "pixel", "cycle"]
StdKind = Literal["field", "pixel"]
VectorKind = Literal["separate", "shared"]
CHUNK_BYTES = 2**26
SMALLEST_RATIO = 1e-3
"""A std per point is at least this share of the field's, so that a nearly constant point cannot explode."""
NO_VARIANCE = 1e-6  # of the rms: below, float32 storage cannot tell a variation from rounding


@dataclass(frozen=True, eq=False)
class Normalisation:
    """A `Space`: shift and scale per field.

    Args:
        coefficients: Mean and, with a cycle, its harmonics: (1 + 2 K, channel, *space), space sizes 1 where one number
            serves a field.
        std: (channel, *space) or with sizes 1, positive.
        increment_std: Standard deviation of one-step differences of normalised states, (channel,), positive.
        names: Field names, to refuse other data.
        notes: What was unusual, one sentence each.
        offsets: Of log fields, per channel; None for the others, and the tuple empty where there are none.
    """

    coefficients: Tensor
    std: Tensor
    increment_std: Tensor
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    offsets: tuple[float | None, ...] = ()

    @property
    def mean(self) -> Tensor:
        """Mean over the cycle, (channel, *space or ones)."""
        return self.coefficients[0]

    @property
    def harmonics(self) -> int:
        """Annual harmonics of the climatology; 0 without a cycle."""
        return (len(self.coefficients) - 1) // 2

    def climatology(self, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Physical mean at each lead time: (channel, *space) without a cycle, else (*batch, time, channel, *space)."""
        coefficients = self.coefficients
        if self.harmonics == 0:
            return coefficients[0]
        phase = conditions.phase(lead_times.to(conditions.time.device))
        if phase is None:
            raise InputError(
                "The emulator knows an annual cycle, but these data have no calendar; give data with dates."
            )
        basis = _basis(phase.double(), self.harmonics).to(coefficients)
        return torch.einsum("...h,hcs->...cs", basis, coefficients.flatten(2)).unflatten(-1, coefficients.shape[2:])

    def encode(self, state: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Physical (*batch, time, channel, *space) to normalised; 0 at points that are not valid."""
        self._check(state)
        state = logarithms(state, self.offsets, -1 - len(conditions.grid.axes))
        x = (state - self._like(self.climatology(conditions, lead_times), state)) / self._like(self.std, state)
        if conditions.valid is None:
            return x
        return torch.where(conditions.valid.to(state.device), x, torch.zeros((), dtype=x.dtype, device=x.device))

    def decode(self, x: Tensor, conditions: Conditions, lead_times: Tensor) -> Tensor:
        """Inverse of `encode` (points that are not valid get whatever x holds there, on top of the mean)."""
        self._check(x)
        state = x * self._like(self.std, x) + self._like(self.climatology(conditions, lead_times), x)
        return exponentials(state, self.offsets, -1 - len(conditions.grid.axes))

    def _check(self, state: Tensor) -> None:
        channel = state.shape[1 - self.coefficients.ndim]
        if channel != len(self.names):
            raise InputError(f"Expected {len(self.names)} fields ({', '.join(self.names)}), the data have {channel}.")
        points = self.coefficients.shape[2:]
        if math.prod(points) > 1 and tuple(state.shape[-len(points) :]) != tuple(points):
            raise InputError(
                f"The statistics belong to a grid of {tuple(points)} points, the data have "
                f"{tuple(state.shape[-len(points) :])}; "
                "use the same grid, or train with a mean per field."
            )

    @staticmethod
    def _like(value: Tensor, state: Tensor) -> Tensor:
        return value.to(device=state.device, dtype=state.dtype)

    def to(self, device: torch.device | str) -> Normalisation:
        return replace(
            self,
            coefficients=self.coefficients.to(device),
            std=self.std.to(device),
            increment_std=self.increment_std.to(device),
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """What safetensors needs; `summary` holds the rest."""
        return {"coefficients": self.coefficients, "std": self.std, "increment_std": self.increment_std}

    def summary(self) -> dict[str, Any]:
        """Names, notes and field means of the statistics, ready for JSON."""
        return {
            "names": list(self.names),
            "harmonics": self.harmonics,
            "mean": self.mean.flatten(1).mean(1).tolist(),
            "std": self.std.flatten(1).mean(1).tolist(),
            "increment_std": self.increment_std.tolist(),
            "notes": list(self.notes),
            "offsets": list(self.offsets),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], summary: dict[str, Any]) -> Normalisation:
        """Inverse of `to_tensors` and `summary`."""
        return cls(
            tensors["coefficients"],
            tensors["std"],
            tensors["increment_std"],
            tuple(summary["names"]),
            tuple(summary.get("notes", ())),
            tuple(summary.get("offsets", ())),
        )


def _shared(scale: Tensor, square: Tensor, vectors: Sequence[str]) -> Tensor:
    """Scales (channel, ones) with one, the rms `square` (channel,) about 0, for the components of each vector.

    Flips and exchanges of axes are then those of the state.
    """
    scale = scale.clone()
    for channels in _components(vectors):
        together = square[channels].mean().sqrt()
        scale[channels] = torch.where(together > 0, together, torch.ones_like(together))
    return scale


def _components(vectors: Sequence[str]) -> list[list[int]]:
    """Channels of each vector."""
    names = dict.fromkeys(name for name in vectors if name)
    return [[channel for channel, own in enumerate(vectors) if own == name] for name in names]


def _basis(phase: Tensor, harmonics: int) -> Tensor:
    """1, cos 2 pi k phase, sin 2 pi k phase for k = 1 ... harmonics: (*shape, 1 + 2 K)."""
    order = torch.arange(1, harmonics + 1, dtype=phase.dtype, device=phase.device)
    angle = 2 * math.pi * phase[..., None] * order
    return torch.cat([torch.ones_like(phase)[..., None], torch.cos(angle), torch.sin(angle)], -1)


@dataclass
class _Sums:
    """Sums for a least-squares fit of y on a basis: of basis basis^T, basis y and y^2, the latter two per point."""

    gram: Tensor
    cross: Tensor
    square: Tensor

    @classmethod
    def zeros(cls, terms: int, shape: tuple[int, ...]) -> _Sums:
        double = torch.float64
        return cls(
            torch.zeros(terms, terms, dtype=double),
            torch.zeros(terms, *shape, dtype=double),
            torch.zeros(shape, dtype=double),
        )

    def add(self, basis: Tensor, y: Tensor) -> None:
        """basis (time, terms), y (time, *shape)."""
        self.gram += basis.T @ basis
        self.cross += torch.einsum("th,tp->hp", basis, y.flatten(1)).reshape(self.cross.shape)
        self.square += (y * y).sum(0)

    def residual(self, coefficients: Tensor) -> Tensor:
        """Sum over time of (y - coefficients . basis)^2, per point."""
        flat = coefficients.flatten(1)
        fit = (flat * (self.gram @ flat)).sum(0) - 2 * (flat * self.cross.flatten(1)).sum(0)
        return (self.square + fit.reshape(self.square.shape)).clamp(min=0)


def _chunks(segment: Segment, stride: int, bytes_per_frame: int) -> Iterator[tuple[int, int, int]]:
    """Ranges (start, own stop, stop): frames before `own stop` count, those before `stop` close differences."""
    size = max(CHUNK_BYTES // bytes_per_frame, 1)
    for start in range(segment.start, segment.stop, size):
        yield start, min(start + size, segment.stop), min(start + size + stride, segment.stop)


def _gather(dataset: Dataset, split: str, stride: int, harmonics: int, shift: Tensor) -> tuple[_Sums, _Sums, int, int]:
    shape = dataset.state_shape
    values, changes = (_Sums.zeros(1 + 2 * harmonics, shape) for _ in range(2))
    # a constant map is subtracted first, so that squares of 300 K do not eat the digits of 0.1 K
    count, pairs = 0, 0
    for segment in dataset.segments(split):
        for start, own_stop, stop in _chunks(segment, stride, 8 * math.prod(shape)):
            own = own_stop - start
            states = (dataset.read(segment.trajectory, start, stop).double() - shift).nan_to_num(0.0)
            steps = torch.tensor(
                [dataset.clock.step(segment.trajectory, frame) for frame in range(start, stop)], dtype=torch.float64
            )
            phase = torch.zeros_like(steps) if dataset.cycle is None else torch.remainder(steps / dataset.cycle, 1.0)
            basis = _basis(phase, harmonics)
            values.add(basis[:own], states[:own])
            count += own
            if stop - start > stride:
                changes.add(basis[stride:] - basis[:-stride], states[stride:] - states[:-stride])
                pairs += stop - start - stride
    return values, changes, count, pairs


def _covered_harmonics(dataset: Dataset, split: str, harmonics: int) -> int:
    """How many harmonics a split can carry: two frames or more per coefficient, spread over a whole cycle."""
    cycle = dataset.cycle or 1.0
    phases = {
        math.floor(dataset.clock.step(segment.trajectory, frame) % cycle / cycle * 12 + 1e-6) % 12
        for segment in dataset.segments(split)
        for frame in range(segment.start, segment.stop)
    }
    frames = sum(map(len, dataset.segments(split)))
    slots = 12 if cycle >= 12 else math.floor(cycle + 1e-6)
    if len(phases) < slots:
        return 0
    # a cycle of n steps resolves harmonics below n / 2
    return max(0, min(harmonics, (frames // 2 - 1) // 2, math.ceil(cycle / 2 - 1e-6) - 1))


def statistics(
    dataset: Dataset,
    split: str = "train",
    *,
    mean: MeanKind = "auto",
    std: StdKind = "field",
    stride: int = 1,
    harmonics: int = 3,
    weighted: bool = True,
    log: Mapping[str, float] | None = None,
    vectors: VectorKind = "separate",
) -> Normalisation:
    """Statistics of one split.

    Args:
        dataset: Opened data; only `split` is read.
        split: "train" for anything that is trained.
        mean: "field" one number per field, "pixel" a map, "cycle" a map with annual harmonics; "auto" takes "cycle"
            where the data have a cycle, else "pixel" where they have dates (maps of the real world), else "field".
        std: One number per field, or a map (population standard deviation of the residual from the mean).
        stride: Frames per step, for the differences.
        harmonics: Annual harmonics at most; fewer where the data do not cover a year or are too few.
        weighted: Use the quadrature weights of the grid in means over space; The Well's own statistics do not.
        log: Fields that are normalised as log(value + offset), with their offsets.
        vectors: `shared`: components of one vector have mean 0 and one standard deviation, so that symmetries of space are symmetries of
            normalised states too. Needs mean and std per field.

    Raises: InputError for missing values (see `Dataset.read`) or an unknown split.
    """
    segments = dataset.segments(split)
    if mean == "auto":
        mean = "cycle" if dataset.cycle is not None else "pixel" if dataset.clock.calendar is not None else "field"
    if vectors == "shared" and (mean, std) != ("field", "field"):
        raise InputError(f"space.vectors=shared needs space.mean=field and space.std=field, got {mean} and {std}.")
    offsets = log_offsets(dataset, log or {})
    if vectors == "shared" and (
        turned := [item.name for item in dataset.fields if item.vector and item.name in (log or {})]
    ):
        raise InputError(
            f"space.log names {turned[0]!r}, a component of a vector, which has a sign: leave it out, or set space.vectors=separate."
        )
    dataset = replace(dataset, source=LogSource(dataset.source, offsets, dataset.field_names)) if offsets else dataset
    notes: list[str] = []
    if mean == "cycle" and dataset.cycle is None:
        raise InputError("A climatology needs dates with several steps per year; choose mean='pixel' or 'field'.")
    used = _covered_harmonics(dataset, split, harmonics) if mean == "cycle" else 0
    if mean == "cycle" and used < harmonics:
        notes.append(f"The {split} split carries {used} of {harmonics} annual harmonics.")
    first = dataset.read(segments[0].trajectory, segments[0].start, segments[0].start + 1)[0]
    valid = torch.ones(dataset.grid.shape, dtype=torch.bool) if dataset.valid is None else dataset.valid
    weights = (dataset.grid.weights() if weighted else torch.ones(dataset.grid.shape, dtype=torch.float64)) * valid
    weights = weights / weights.sum()

    def average(value: Tensor) -> Tensor:
        """Weighted mean over space of (*shape, channel, *space): (*shape, channel)."""
        return (value * weights).flatten(-weights.ndim).sum(-1)

    ones = (1,) * weights.ndim
    shift = first.double().nan_to_num(0.0)
    if mean == "field":
        shift = average(shift).reshape(-1, *ones).expand(shift.shape)
    values, changes, count, pairs = _gather(dataset, split, stride, used, shift)
    coefficients = torch.linalg.solve(values.gram, values.cross.flatten(1)).reshape(values.cross.shape)
    if mean == "field":
        coefficients = average(coefficients).reshape(len(coefficients), -1, *ones).expand(values.cross.shape)
    variance = values.residual(coefficients) / count
    change = changes.residual(coefficients) / max(pairs, 1)
    change_mean = (
        (changes.cross[0] * 0) if pairs == 0 else _mean_change(dataset, split, stride, coefficients, used, pairs)
    )
    field_std = average(variance).sqrt()
    rms = average((coefficients[0] + shift) ** 2 + variance).sqrt()
    constant = field_std <= NO_VARIANCE * rms
    for name in (name for name, flat in zip(dataset.field_names, constant.tolist(), strict=True) if flat):
        notes.append(f"Field {name!r} does not vary in the {split} split; its standard deviation is set to 1.")
    field_std = torch.where(constant, torch.ones_like(field_std), field_std)
    scale = field_std.reshape(-1, *ones)
    if std == "pixel":
        scale = torch.maximum(variance.sqrt(), SMALLEST_RATIO * scale)
        scale = torch.where(constant.reshape(-1, *ones), torch.ones_like(scale), scale)
    whose = [item.vector for item in dataset.fields] if vectors == "shared" else []
    if whose:
        scale = _shared(scale, average(variance) + average(coefficients[0] + shift) ** 2, whose)
    increment = average(change / scale**2) - average(change_mean / scale) ** 2
    increment_std = increment.clamp(min=0).sqrt()
    still = increment_std <= NO_VARIANCE
    if bool(still.any()) and pairs > 0 and not bool(constant[still].all()):
        notes.append("Some field does not change from step to step; the scale of its increments is set to 1.")
    increment_std = torch.where(still, torch.ones_like(increment_std), increment_std)
    total = coefficients.clone()
    total[0] += shift
    if mean == "field":
        total = total[(..., *(slice(0, 1),) * weights.ndim)]
    if mean != "field":
        # land gets the field's mean: any finite number would do, this one keeps averages readable
        total = torch.where(valid, total, average(total).reshape(*total.shape[:2], *ones))
    scale = torch.where(valid, scale, torch.ones_like(scale)) if std == "pixel" else scale
    for channels in _components(whose):
        total[:, channels] = 0
    return Normalisation(
        total.float().contiguous(), scale.float(), increment_std.float(), dataset.field_names, tuple(notes), offsets
    )


def _mean_change(dataset: Dataset, split: str, stride: int, coefficients: Tensor, harmonics: int, pairs: int) -> Tensor:
    """Mean one-step difference of the residual, (channel, *space); it telescopes: only ends of segments are read."""
    total = torch.zeros(dataset.state_shape, dtype=torch.float64)
    for segment in dataset.segments(split):
        for lane in range(min(stride, len(segment) - stride)):
            first = segment.start + lane
            last = first + (len(segment) - 1 - lane) // stride * stride
            for frame, sign in ((first, -1.0), (last, 1.0)):
                state = dataset.read(segment.trajectory, frame, frame + 1)[0].double().nan_to_num(0.0)
                step = torch.tensor(dataset.clock.step(segment.trajectory, frame), dtype=torch.float64)
                phase = torch.remainder(step / (dataset.cycle or 1.0), 1.0)
                fit = torch.einsum("h,hp->p", _basis(phase, harmonics), coefficients.flatten(1)).reshape(state.shape)
                total += sign * (state - fit)
    return total / max(pairs, 1)
