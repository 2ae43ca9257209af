"""Fused operations, each beside the plain reference it is held to."""
