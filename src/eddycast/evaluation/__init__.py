"""Forecasts and analyses against the truth: numbers with intervals, tables, and a diagnosis in words."""

from eddycast.evaluation.evaluate import evaluate
from eddycast.evaluation.evidence import Signature
from eddycast.evaluation.latent_space import LatentAnalysis, analyse_latents
from eddycast.evaluation.scores import Scores
from eddycast.evaluation.table import compare_table
from eddycast.evaluation.through import passed_through

__all__ = [
    "LatentAnalysis",
    "Scores",
    "Signature",
    "analyse_latents",
    "compare_table",
    "evaluate",
    "passed_through",
]
