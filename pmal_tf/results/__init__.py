"""Scores, metrics and thresholds, and what people see of them."""
