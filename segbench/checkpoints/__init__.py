"""Checkpoints: read safely, checked against trusted packages, rebuilt."""
