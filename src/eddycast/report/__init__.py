"""Pictures, movies and the HTML report."""

from eddycast.report.animation import animate
from eddycast.report.collect import report_from
from eddycast.report.html import Finding, KeyFigure, Picture, ReportContent, Section, Table, write_report
from eddycast.report.latents import latent_picture
from eddycast.report.plots import plot, write_figure
from eddycast.report.statistics import event_picture, statistics_picture
from eddycast.report.story import comparison, story_report
from eddycast.report.truth import states_of, truth_for

__all__ = [
    "Finding",
    "KeyFigure",
    "Picture",
    "ReportContent",
    "Section",
    "Table",
    "animate",
    "comparison",
    "event_picture",
    "latent_picture",
    "plot",
    "report_from",
    "states_of",
    "statistics_picture",
    "story_report",
    "truth_for",
    "write_figure",
    "write_report",
]
