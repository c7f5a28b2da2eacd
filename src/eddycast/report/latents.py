"""Picture of a latent analysis: the embedding in the colours of each parameter, and distances between its values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cmocean
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from eddycast.report.canvas import GRID, INK, new_figure, plain, styled

if TYPE_CHECKING:
    from eddycast.evaluation.latent_space import LatentAnalysis, ParameterAnalysis

COLOURS = cmocean.cm.haline  # pyright: ignore[reportAttributeAccessIssue]  # even in lightness: readable without hue
WRITTEN = 6


def latent_picture(analysis: LatentAnalysis) -> Figure:
    """One column for each parameter: central tokens, the probe's activations, and distances between Gaussian fits of the values."""
    columns = len(analysis.parameters)
    with styled():
        figure = new_figure(3.4 * columns + 0.4, 8.6)
        axes = figure.subplots(3, columns, squeeze=False)
        for column, one in enumerate(analysis.parameters):
            values = analysis.sample_parameters[:, analysis.names.index(one.name)].numpy()
            norm = (LogNorm if one.logarithmic else Normalize)(values.min(), values.max())
            shares = [
                f"principal axis {n + 1} ({100 * share:.0f} %)" for n, share in enumerate(analysis.explained.tolist())
            ]
            titles = ("central tokens", f"seen by the probe (R² {one.r2:.2f})")
            for row, (title, points, labels) in enumerate(
                zip(titles, (analysis.embedding, analysis.separated), (shares, ["axis 1", "axis 2"]), strict=True)
            ):
                place = axes[row, column]
                dots = place.scatter(
                    *points.numpy().T, c=values, cmap=COLOURS, norm=norm, s=9, linewidths=0.3, edgecolors=GRID
                )
                place.set_title(title)
                place.set_xlabel(labels[0])
                place.set_ylabel(labels[1])
                figure.colorbar(dots, ax=place, label=plain(one.name), shrink=0.85)
            _distances(figure, axes[2, column], one)
    return figure


def _distances(figure: Figure, axes: Axes, one: ParameterAnalysis) -> None:
    """Matrix of Bures-Wasserstein distances; numbers are written into a small one."""
    matrix = one.bures_wasserstein.numpy()
    image = axes.imshow(matrix, cmap=COLOURS, vmin=0)
    ticks = [f"{value:.3g}" for value in one.values.tolist()]
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_xlabel(plain(one.name))
    axes.set_title("Bures-Wasserstein distance")
    if len(ticks) <= WRITTEN:
        middle = np.nanmax(matrix) / 2
        for (row, column), value in np.ndenumerate(matrix):
            if np.isfinite(value):
                axes.text(
                    column, row, f"{value:.2f}", ha="center", va="center", fontsize=7.5,
                    color=INK if value > middle else "white",
                )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.85)
