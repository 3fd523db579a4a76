"""Calibration data: whatever a user has, read in a stream, checked, and doubted where it is odd.

May import `samples` and the runtime's files, errors and preprocessing; knows no model format.
"""

from edgekit_converters.calibration.calibration_set import CalibrationSet
from edgekit_converters.calibration.open_source import require_data

__all__ = ["CalibrationSet", "require_data"]
