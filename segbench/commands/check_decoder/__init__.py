"""Conformance: whether any decoder, a user's own included, keeps the contract."""
