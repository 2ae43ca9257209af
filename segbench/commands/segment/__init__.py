"""A trained model at work on its user's images and videos; `segbench segment` is its front."""
