"""Metrics, calibration and statistics of predictions: NumPy in, plain records out, no torch."""
