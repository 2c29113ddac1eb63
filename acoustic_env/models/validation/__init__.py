"""What a classifier is worth: out-of-fold predictions, calibration, thresholds, metrics."""
