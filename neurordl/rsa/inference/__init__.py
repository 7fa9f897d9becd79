"""Inference: resampling schemes, variances, tests and cross-validation."""
