"""Helpers that any package of segbench may import, and that import none of them."""
