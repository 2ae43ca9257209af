"""Data modules: files on disk in, uint8 `Batch`es out."""
