"""Losses: a `Prediction` and labels in, one scalar out."""
