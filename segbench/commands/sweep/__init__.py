"""Sweeps in W&B's format, run without W&B."""
