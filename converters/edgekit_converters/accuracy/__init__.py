"""How right a model is, and what a smaller form of it loses: metrics, paired figures and budgets.

Pure functions of answers and labels; may import the runtime's errors, and opens no model.
"""

from edgekit_converters.accuracy.budget import AccuracyBudget
from edgekit_converters.accuracy.metric import Metric, metric_named
from edgekit_converters.accuracy.paired import PairedAccuracy, compare_answers

__all__ = ["AccuracyBudget", "Metric", "PairedAccuracy", "compare_answers", "metric_named"]
