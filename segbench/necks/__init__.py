"""Necks: `Features` in, `Features` out; any number in a row."""
