"""Pictures, movies and the HTML report."""

from eddycast.report.animation import animate
from eddycast.report.html import Finding, KeyFigure, Picture, ReportContent, Section, Table, write_report
from eddycast.report.plots import plot
from eddycast.report.truth import truth_for

__all__ = [
    "Finding",
    "KeyFigure",
    "Picture",
    "ReportContent",
    "Section",
    "Table",
    "animate",
    "plot",
    "truth_for",
    "write_report",
]
