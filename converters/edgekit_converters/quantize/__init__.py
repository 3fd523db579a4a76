"""Float models in fewer bits: the plan that both formats share, and a writer for each.

Imports neither calibration data nor what judges and repairs; those come here.
"""
