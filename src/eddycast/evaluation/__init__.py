"""Forecasts and analyses against the truth: numbers with intervals, tables, and a diagnosis in words."""

from eddycast.evaluation.evaluate import evaluate
from eddycast.evaluation.event_kinds import JetEvent, ThresholdEvent
from eddycast.evaluation.event_study import EventStudy, event_study
from eddycast.evaluation.evidence import Signature
from eddycast.evaluation.gather import JetSettings
from eddycast.evaluation.latent_space import LatentAnalysis, analyse_latents
from eddycast.evaluation.scores import Scores
from eddycast.evaluation.statistics import Statistics, statistics
from eddycast.evaluation.table import compare_table
from eddycast.evaluation.through import passed_through

__all__ = [
    "EventStudy",
    "JetEvent",
    "JetSettings",
    "LatentAnalysis",
    "Scores",
    "Signature",
    "Statistics",
    "ThresholdEvent",
    "analyse_latents",
    "compare_table",
    "evaluate",
    "event_study",
    "passed_through",
    "statistics",
]
