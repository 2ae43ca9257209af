"""Ratios measured side by side in one run; never part of a timed test."""
