"""Datasets: files on disk become uint8 batches."""

import os

# Importing albumentations otherwise asks a server for its newest version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
