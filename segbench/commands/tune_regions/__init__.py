"""`segbench tune-regions`: parameters of the region post-processing, searched on validation."""
