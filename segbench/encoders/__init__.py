"""Encoders: photographs in, `Features` out."""
