"""Fit a student to labels and to a teacher's representational geometry."""
