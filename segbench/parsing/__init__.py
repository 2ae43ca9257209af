"""Parsing of command lines and configurations, with one-line messages for mistakes."""
