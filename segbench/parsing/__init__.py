"""Command lines and configurations, and what is said where they are wrong."""
