"""Blocks that two rooms or more are built of."""
