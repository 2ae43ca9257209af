"""Tables and plots of run folders. Nothing here imports torch."""
