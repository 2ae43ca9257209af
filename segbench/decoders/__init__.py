"""Decoders: `Features` in, `Prediction` out."""
