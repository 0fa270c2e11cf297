"""Prepared TensorFlow Datasets: made, verified, read."""
