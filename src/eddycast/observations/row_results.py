"""What an ensemble says at each row of a table: the table beside an analysis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from eddycast.noise import MemberNoise
from eddycast.observations.observation_table import ObservationTable, frames_of
from eddycast.observations.rows import REASONS, USED

if TYPE_CHECKING:
    import pandas as pd


def rows_of(table: ObservationTable, ensemble: Tensor, *, seed: int = 0) -> pd.DataFrame:
    """One row for each row of a table, in the order of the user's, with what an ensemble has there.

        mean = mean_i H x_i,  spread^2 = sum_i (H x_i - mean)^2 / (M - 1),  innovation = value - mean
        rank = how many of the H x_i + std e_i lie below the value, 0 to M,  e_i ~ N(0, 1)

    The ranks of a reliable ensemble are uniform. Errors that go together within a platform are drawn as independent ones: each row by
    itself is ranked rightly.

    Args:
        table: Withheld and rejected rows included; those whose position is not known have no mean.
        ensemble: Physical states (member, case, time, channel, *space) of the frames of the table; fewer frames leave later rows
            without a mean.
        seed: Of the errors e, addressed by (seed, trajectory, member).

    Returns: a pandas data frame.
    """
    import pandas as pd

    rows = table.rows
    first, last, _ = frames_of(rows.time, table.in_time)
    stop = min(ensemble.shape[2], table.num_times)
    seen = np.flatnonzero(rows.placed & (first >= 0) & (last < stop))
    mean, spread, rank = (np.full(len(rows), np.nan) for _ in range(3))
    if len(seen):
        chosen = rows.take(seen)
        measured = table.measurement(chosen, 0, stop)
        number = torch.from_numpy(np.arange(len(chosen)) - np.searchsorted(chosen.case, chosen.case))
        case = torch.from_numpy(chosen.case)
        with torch.no_grad():  # member by member: a stencil of a million rows takes room
            predicted = torch.stack(
                [measured.operator(member[:, :stop])[case, number].double().cpu() for member in ensemble]
            )
        mean[seen] = predicted.mean(dim=0).numpy()
        if len(ensemble) > 1:
            spread[seen] = predicted.std(dim=0).numpy()
        noise = MemberNoise.grid(seed, table.trajectories, len(ensemble))
        errors = noise.draw((measured.values.shape[1],), key=(0, 0, "row rank"), dtype=torch.float64)[:, case, number]
        ranked = np.isfinite(chosen.value) & np.isfinite(chosen.std)
        value, std = torch.from_numpy(chosen.value), torch.from_numpy(chosen.std)
        below = (predicted + std * errors < value).sum(dim=0).numpy().astype(np.float64)
        rank[seen] = np.where(ranked, below, np.nan)
    columns: dict[str, np.ndarray] = {
        "row": rows.number + 1,
        "trajectory": table.trajectories.numpy()[rows.case],
        "start_frame": table.frames.numpy()[rows.case],
        "time": rows.time * table.dt,
    }
    for i, axis in enumerate(table.grid.names):
        columns[axis] = np.where(rows.part > 0, np.nan, (rows.lower[:, i] + rows.upper[:, i]) / 2)
    columns |= {
        "variable": np.array(table.variables, dtype=object)[rows.variable],
        "platform": np.array([*table.platforms, ""], dtype=object)[rows.platform],
        "value": rows.value,
        "error": rows.std,
        "mean": mean,
        "spread": spread,
        "innovation": rows.value - mean,
        "rank": rank,
        "used": rows.reason == USED,
        "reason": np.array(REASONS, dtype=object)[rows.reason],
    }
    return pd.DataFrame(columns).iloc[np.lexsort([rows.variable, rows.number])].reset_index(drop=True)
