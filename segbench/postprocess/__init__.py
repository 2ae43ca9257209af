"""Probabilities and boundaries → labels, region by region."""
