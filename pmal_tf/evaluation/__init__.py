"""Scores, metrics and thresholds. Larger scores mean more likely unknown, always."""
