"""Say where a quantized model parts from its float form, why, and what mends it.

Runs the two on the same samples; may import the ranges, the repairs' simulation and the readers of
both file formats. It changes no model, and knows no command line and no page.
"""

from edgekit_converters.diagnosis.diagnose import QuantizationDiagnosis, diagnose
from edgekit_converters.diagnosis.subject import Subject

__all__ = ["QuantizationDiagnosis", "Subject", "diagnose"]
