"""`segbench synth`: a synthetic twin of a dataset, written in the real layout."""
