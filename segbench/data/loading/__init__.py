"""From a dataset to batches: items, order, workers."""
