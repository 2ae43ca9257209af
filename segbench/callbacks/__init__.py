"""What a run leaves in its folder: pictures, scores, ledger, checkpoints."""
