"""Scores as torchmetrics `Metric`s, so that they synchronise between processes."""
