"""A trained model at work on its user's photographs and videos; `segbench segment` is its front."""
